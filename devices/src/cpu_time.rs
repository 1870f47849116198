//! CPU time of the host that a run takes: what handling a guest costs is measured in it. No guest sees it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Of the calling thread.
pub fn thread() -> Duration {
    since_start(ClockId::ThreadCPUTime)
}

/// Of the whole process.
pub fn process() -> Duration {
    since_start(ClockId::ProcessCPUTime)
}

fn since_start(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
