//! The end: everything is stopped, and the guest switches itself off.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::reaper::Reaper;

/// What SIGTERM gives the processes to end on their own.
const GRACE: Duration = Duration::from_millis(500);
/// What SIGKILL gives the kernel.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Ends all processes but this one. Only for PID 1.
pub fn stop_all(reaper: &Reaper) {
    for (signal, grace) in [(libc::SIGTERM, GRACE), (libc::SIGKILL, KILL_GRACE)] {
        // SAFETY: no memory is involved. -1 is every process but init, which is us.
        unsafe { libc::kill(-1, signal) };
        let deadline = Instant::now() + grace;
        while has_children() && Instant::now() < deadline {
            reaper.reap_until(deadline);
        }
    }
}

/// Switches the guest off. Returns if the kernel refuses.
pub fn switch_off() -> Errno {
    rustix::fs::sync();
    // Does not return when it succeeds.
    reboot(RebootCommand::PowerOff).err().unwrap_or(Errno::INVAL)
}

fn has_children() -> bool {
    wait(WaitOptions::NOHANG).is_ok()
}
