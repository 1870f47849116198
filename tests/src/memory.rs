//! How much memory a process has while it runs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that looks at a process twice a second.
pub struct Watch {
    over: Sender<()>,
    samples: JoinHandle<Vec<u64>>,
}

impl Watch {
    /// Begins.
    pub fn of(pid: u32) -> Watch {
        let (over, until) = channel();
        let samples = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while until.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
                samples.extend(resident(pid));
            }
            samples
        });
        Watch { over, samples }
    }

    /// What was seen, in KiB.
    pub fn end(self) -> Vec<u64> {
        drop(self.over);
        self.samples.join().expect("the watch does not panic")
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
