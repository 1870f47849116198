//! The processes of one case, its transcript, and how it can end early.
//!
//! When a [`World`] is dropped every process is killed and waited for, so no case leaves work to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use crate::actor::Actor;
use crate::channel::{self, Channel};
use crate::commands;
use crate::stream::enter_looper;
use crate::transcript::{Area, Names};

/// How long a call may take before the case is given up. Generous: guests can be slow, and only a bug waits this long.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The mapping of an ordinary process.
pub const MAP_SIZE: u64 = 64 << 10;

/// Why a case ended early.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    /// TIMEOUT
    #[error("TIMEOUT")]
    Timeout,
    /// An actor's process died where it should not.
    #[error("DIED {0}")]
    Died(String),
    /// The driver did something after which the case makes no sense.
    #[error("STOPPED {0}")]
    Unexpected(String),
}

/// The result of a case or of one of its steps.
pub type Result<T = ()> = std::result::Result<T, Stop>;

/// Ends a case because of something unforeseen.
pub fn unexpected<T>(what: impl Into<String>) -> Result<T> {
    Err(Stop::Unexpected(what.into()))
}

/// How many commands and returns of each kind a process wrote and read.
pub type Counts = BTreeMap<&'static str, u64>;

/// A process of a case.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub pid: i32,
    alive: bool,
    pub channels: Vec<Option<Channel>>,
    pub areas: Vec<Area>,
    pub counts: Counts,
}

/// The processes of one case and its transcript.
#[derive(Debug)]
pub struct World {
    case: String,
    quiet: bool,
    /// The file through which bytes go to and from the processes' memory.
    pub memory: File,
    pub processes: RefCell<Vec<Process>>,
}

impl World {
    /// A world without processes, whose lines begin with the case's name.
    pub fn new(case: &str, quiet: bool) -> std::io::Result<Self> {
        Ok(Self {
            case: case.into(),
            quiet,
            memory: channel::memory_file()?.into(),
            processes: RefCell::default(),
        })
    }

    /// Prints a line of the transcript.
    pub fn line(&self, who: &str, what: &str) {
        if !self.quiet {
            println!("{} {who}: {what}", self.case);
        }
    }

    /// Prints a remark that explains the next lines.
    pub fn note(&self, text: &str) {
        self.line("-", text);
    }

    /// A new process that has done nothing with binder yet.
    pub fn spawn(&self, name: &str) -> Result<Actor<'_>> {
        let spawned = match channel::spawn(&self.memory) {
            Ok(spawned) => spawned,
            Err(error) => return unexpected(format!("fork: {error}")),
        };
        self.add(name, spawned.pid, spawned.channels.into_iter().map(Some).collect())
    }

    /// Takes in a process that exists.
    pub fn add(&self, name: &str, pid: i32, mut channels: Vec<Option<Channel>>) -> Result<Actor<'_>> {
        let channel = channels[0].take().expect("the first channel of a new process");
        let process = self.processes.borrow().len();
        let areas = Vec::new();
        let counts = Counts::new();
        self.processes.borrow_mut().push(Process {
            name: name.into(),
            pid,
            alive: true,
            channels,
            areas,
            counts,
        });
        Ok(Actor::new(self, process, name.into(), channel)?.leading(pid))
    }

    /// A process with an open and mapped /dev/binder, past its first ioctl.
    pub fn process(&self, name: &str) -> Result<Actor<'_>> {
        self.process_on(name, "binder", MAP_SIZE)
    }

    /// The same with a chosen device and mapping size.
    pub fn process_on(&self, name: &str, device: &str, size: u64) -> Result<Actor<'_>> {
        let actor = self.spawn(name)?;
        actor.use_device(device, size)?;
        Ok(actor)
    }

    /// A process whose first actor is a looper.
    pub fn server(&self, name: &str) -> Result<Actor<'_>> {
        let actor = self.process(name)?;
        actor.w(commands![enter_looper()])?;
        Ok(actor)
    }

    /// A process that is the context manager and a looper.
    pub fn manager(&self, name: &str) -> Result<Actor<'_>> {
        self.manager_on(name, "binder", MAP_SIZE)
    }

    /// The same with a chosen device and mapping size.
    pub fn manager_on(&self, name: &str, device: &str, size: u64) -> Result<Actor<'_>> {
        let actor = self.process_on(name, device, size)?;
        actor.become_manager()?;
        actor.w(commands![enter_looper()])?;
        Ok(actor)
    }

    /// Lets everything else in the guest run, for work that the kernel does in the background.
    pub fn settle(&self) {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// (pid, name, counts) of every process, in order of creation.
    pub fn counts(&self) -> Vec<(i32, String, Counts)> {
        self.processes.borrow().iter().map(|it| (it.pid, it.name.clone(), it.counts.clone())).collect()
    }

    /// The names for a line about this process.
    pub fn names(&self, process: usize) -> Names {
        let processes = self.processes.borrow();
        Names {
            pids: processes.iter().map(|it| (it.pid, it.name.clone())).collect(),
            areas: processes[process].areas.clone(),
        }
    }

    /// Waits for a process that is ending, and says how it ended.
    pub fn reap(&self, process: usize) -> String {
        let pid = {
            let mut processes = self.processes.borrow_mut();
            processes[process].alive = false;
            processes[process].pid
        };
        let deadline = Instant::now() + LIMIT;
        let mut status = 0;
        while Instant::now() < deadline {
            // SAFETY: a child of ours that has not been waited for.
            if unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid {
                return match libc::WIFSIGNALED(status) {
                    true if libc::WTERMSIG(status) == libc::SIGBUS => "SIGBUS".into(),
                    true if libc::WTERMSIG(status) == libc::SIGSEGV => "SIGSEGV".into(),
                    true => format!("signal {}", libc::WTERMSIG(status)),
                    false => format!("exit {}", libc::WEXITSTATUS(status)),
                };
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        "stuck".into()
    }

    /// Kills a process and waits for its end.
    pub fn end(&self, process: usize) {
        let (pid, alive) = {
            let processes = self.processes.borrow();
            (processes[process].pid, processes[process].alive)
        };
        if alive {
            // SAFETY: a process that this world forked and has not waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            self.reap(process);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let count = self.processes.borrow().len();
        for process in (0..count).rev() {
            self.end(process);
        }
        self.settle();
    }
}
