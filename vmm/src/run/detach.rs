//! `--detach`: the run goes on in a process of its own, in the background.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::{Client, ClientError, place};

use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// How often the process in the background is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Starts the run in the background and waits until its guest takes commands.
pub fn run(args: &RunArgs) -> u8 {
    match start(args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("bindervm: {}", failure.chain());
            failure.code as u8
        }
    }
}

fn start(args: &RunArgs) -> Result<u8, Failure> {
    let internal = |what: &str, error: io::Error| Failure::because(Code::Internal, what.to_owned(), error);
    let path = match &args.control {
        Some(path) => path.clone(),
        None => place::socket(&args.guest_name())
            .map_err(|error| Failure::because(Code::Usage, "cannot make the control socket", error))?,
    };
    // Looked at again by the process in the background, which makes it.
    if Client::connect_path(&path).is_ok() {
        let message = format!("a guest listens at {} already", path.display());
        return Err(Failure::new(Code::Usage, message));
    }
    let log_path = path.with_extension("log");
    let log = File::create(&log_path).map_err(|error| internal("cannot make the log", error))?;
    let program = std::env::current_exe().map_err(|error| internal("cannot find bindervm", error))?;
    let arguments = std::env::args_os().skip(1).flat_map(|argument| match argument.to_str() {
        Some("--detach") => vec!["--serve".into(), "--detached".into()],
        _ => vec![argument],
    });
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| internal("cannot start the run in the background", error))?;

    let until = Instant::now() + args.boot_timeout + Duration::from_secs(10);
    loop {
        if let Some(code) = ended(&mut child)? {
            // What it said is all there is to say.
            let said = std::fs::read(&log_path).unwrap_or_default();
            let _ = io::stderr().write_all(&said);
            return Ok(code);
        }
        let ready = Client::connect_path(&path).and_then(|client| client.wait_ready(LOOK));
        match ready {
            Ok(()) => {
                eprintln!(
                    "bindervm: {} takes commands (process {}, log {})",
                    args.guest_name(),
                    child.id(),
                    log_path.display()
                );
                return Ok(0);
            }
            Err(ClientError::TimedOut(_)) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
        if Instant::now() > until {
            let _ = child.kill();
            return Err(Failure::new(Code::BootFailed, "the guest was not ready in time"));
        }
    }
}

/// The exit status of the process in the background, if it has ended: it should not have.
fn ended(child: &mut Child) -> Result<Option<u8>, Failure> {
    let status =
        child.try_wait().map_err(|error| Failure::because(Code::Internal, "cannot watch the run", error))?;
    Ok(status.map(|status| status.code().map_or(Code::Internal as u8, |code| code as u8)))
}

/// Leaves the terminal's session, so that its end does not end the run.
pub fn leave_session() {
    // It fails only for the leader of a process group, which has no session to fear.
    let _ = rustix::process::setsid();
}
