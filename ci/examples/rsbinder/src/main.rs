//! A service and its client, in Rust: `rsbinder-echo serve NAME` and `rsbinder-echo call NAME`.
//!
//! Registered with AOSP 14's servicemanager, whose first methods are declared here: rsbinder has them for
//! Android targets only, and speaks Android 16's elsewhere.

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rsbinder::{BinderResult, FromIBinder, Interface, ProcessState, SIBinder, Strong, interface};

/// AOSP 14's android/os/IServiceManager.aidl as far as it is used: codes count from the first method.
#[interface(descriptor = "android.os.IServiceManager")]
pub trait IServiceManager {
    fn get_service(&self, name: &str) -> BinderResult<Option<SIBinder>>;
    fn check_service(&self, name: &str) -> BinderResult<Option<SIBinder>>;
    fn add_service(
        &self,
        name: &str,
        service: &SIBinder,
        allow_isolated: bool,
        dump_priority: i32,
    ) -> BinderResult<()>;
}

#[interface(descriptor = "bindervm.example.IEcho")]
pub trait IEcho {
    fn echo(&self, text: &str) -> BinderResult<String>;
    fn sum(&self, numbers: &[i32]) -> BinderResult<i32>;
    /// Calls back before it returns.
    fn tell(&self, listener: &Strong<dyn IListener>) -> BinderResult<()>;
    #[oneway]
    fn note(&self, number: i32) -> BinderResult<()>;
    /// What `note` was given, in order.
    fn noted(&self) -> BinderResult<Vec<i32>>;
}

#[interface(descriptor = "bindervm.example.IListener")]
pub trait IListener {
    fn heard(&self, text: &str) -> BinderResult<()>;
}

#[derive(Default)]
struct Echo {
    noted: Mutex<Vec<i32>>,
}

impl Interface for Echo {}

impl IEcho for Echo {
    fn echo(&self, text: &str) -> BinderResult<String> {
        Ok(text.to_owned())
    }

    fn sum(&self, numbers: &[i32]) -> BinderResult<i32> {
        Ok(numbers.iter().sum())
    }

    fn tell(&self, listener: &Strong<dyn IListener>) -> BinderResult<()> {
        listener.heard("from the service")
    }

    fn note(&self, number: i32) -> BinderResult<()> {
        self.noted.lock().expect("nobody panics").push(number);
        Ok(())
    }

    fn noted(&self) -> BinderResult<Vec<i32>> {
        Ok(self.noted.lock().expect("nobody panics").clone())
    }
}

#[derive(Default)]
struct Listener {
    heard: std::sync::Arc<Mutex<Vec<String>>>,
}

impl Interface for Listener {}

impl IListener for Listener {
    fn heard(&self, text: &str) -> BinderResult<()> {
        self.heard.lock().expect("nobody panics").push(text.to_owned());
        Ok(())
    }
}

type Failure = Box<dyn std::error::Error>;

fn manager() -> Result<Strong<dyn IServiceManager>, Failure> {
    let context = ProcessState::as_self().context_object()?;
    Ok(<dyn IServiceManager as FromIBinder>::try_from(context)?)
}

fn serve(name: &str) -> Result<(), Failure> {
    let service = BnEcho::new_binder(Echo::default());
    manager()?.add_service(name, &service.as_binder(), false, 8)?;
    println!("serving {name}");
    Ok(ProcessState::join_thread_pool()?)
}

fn call(name: &str) -> Result<(), Failure> {
    let manager = manager()?;
    let found = (0..100).find_map(|_| {
        let found = manager.check_service(name).transpose();
        found.is_none().then(|| thread::sleep(Duration::from_millis(20)));
        found
    });
    let echo = <dyn IEcho as FromIBinder>::try_from(found.ok_or("there is no such service")??)?;
    let long = "x".repeat(20_000);
    assert_eq!(echo.echo("grüße")?, "grüße");
    assert_eq!(echo.echo(&long)?, long);
    assert_eq!(echo.sum(&[1, 2, 39])?, 42);
    let listener = Listener::default();
    let heard = listener.heard.clone();
    echo.tell(&BnListener::new_binder(listener))?;
    assert_eq!(*heard.lock().expect("nobody panics"), ["from the service"]);
    for number in 0..100 {
        echo.note(number)?;
    }
    while echo.noted()?.len() < 100 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(echo.noted()?, (0..100).collect::<Vec<_>>(), "oneways come in order");
    println!("all answers are right");
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let started = ProcessState::init("/dev/binder", 3).map(|_| ProcessState::start_thread_pool());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match (started, &words[..]) {
        (Err(error), _) => Err(error),
        (Ok(()), ["serve", name]) => serve(name),
        (Ok(()), ["call", name]) => call(name),
        _ => Err("usage: rsbinder-echo serve NAME | call NAME".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rsbinder-echo: {error}");
            ExitCode::FAILURE
        }
    }
}
