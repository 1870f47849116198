//! Children that ended: those we started, and orphans, whose parent is PID 1.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use agent_protocol::ExitStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, wait};

/// The end of the pipe that the signal handler writes to.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();

/// Turns SIGCHLD into a readable file descriptor. There can be one in a process.
pub struct Reaper {
    woken: OwnedFd,
}

/// A process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub pid: u32,
    pub status: ExitStatus,
}

impl Reaper {
    /// Installs the signal handler.
    pub fn new() -> io::Result<Self> {
        let (woken, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        WAKE.set(wake).map_err(|_| io::Error::other("SIGCHLD is taken already"))?;
        // SAFETY: zeros are a valid `sigaction`: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_child as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        // SAFETY: the handler does nothing but a raw `write`, which is async-signal-safe and leaves errno alone.
        if unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Reaper { woken })
    }

    /// Takes every process that has ended.
    pub fn reap(&self) -> Vec<Ended> {
        // Emptied first: a child that ends after the loop below fills it again.
        while rustix::io::read(&self.woken, &mut [0; 64]).is_ok_and(|length| length > 0) {}
        let mut ended = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code as u8),
                (None, Some(signal)) => ExitStatus::Signal(signal as u8),
                // Stopped or continued: not asked for.
                (None, None) => continue,
            };
            ended.push(Ended { pid: pid.as_raw_nonzero().get() as u32, status: exit });
        }
        ended
    }

    /// Waits until a child ends or `deadline` has come, and reaps.
    pub fn reap_until(&self, deadline: Instant) -> Vec<Ended> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A signal that interrupts the wait is the one waited for.
        let _ = poll(&mut [PollFd::new(&self.woken, PollFlags::IN)], Some(&timespec(left)));
        self.reap()
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

/// A duration as `poll` takes it, rounded up so that a wait is never cut short and repeated.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

extern "C" fn on_child(_signal: libc::c_int) {
    if let Some(wake) = WAKE.get() {
        // A full pipe is as good as one more byte in it.
        let _ = rustix::io::write(wake, &[0]);
    }
}
