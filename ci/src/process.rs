//! The process that runs a guest, or the guests of a test that share one.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long it may take to write what it recorded.
pub const EXIT: Duration = Duration::from_secs(10);

/// How long is waited between two looks at a guest that is not the only one of its process.
const SLICE: Duration = Duration::from_millis(20);

/// A process of this same program. Dropping it ends it.
pub struct Process {
    pid: Pid,
    child: Mutex<Child>,
    log: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `bindervm` with what `command` says. It ends when the calling thread does, at the latest. `log`
    /// gets what it says, on a thread of its own.
    pub fn start(
        mut command: Command,
        log: impl FnOnce(ChildStderr) + Send + 'static,
    ) -> io::Result<Process> {
        command.arg("--die-with").arg(std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let log = child.stderr.take().map(|stderr| thread::spawn(move || log(stderr)));
        Ok(Process { pid: Pid::from_child(&child), child: Mutex::new(child), log })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// How it exited, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Waits until something is so, or it has exited, or the time is over.
    pub fn wait_until(&self, limit: Duration, is_so: impl Fn() -> bool) {
        let until = Instant::now() + limit;
        while !is_so() && self.exited().is_none() && Instant::now() < until {
            let slice = until.saturating_duration_since(Instant::now()).min(SLICE);
            match pidfd_open(self.pid, PidfdFlags::empty()) {
                Ok(fd) => {
                    let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
                    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&slice));
                }
                Err(_) => thread::sleep(slice),
            }
        }
    }

    /// Waits until what it said is written down, once it has exited. Others may hold its stderr open, and are not
    /// waited for longer than `limit`.
    pub fn wait_log(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while self.log.as_ref().is_some_and(|log| !log.is_finished()) && Instant::now() < until {
            thread::sleep(SLICE);
        }
    }

    /// Asks it to end; all of its guests are asked.
    pub fn terminate(&self) -> bool {
        self.exited().is_none() && kill_process(self.pid, Signal::TERM).is_ok()
    }

    /// Ends it, whatever it does.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}
