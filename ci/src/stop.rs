//! When a run is to end before its tests do.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::verdict::exit;

/// Whether the run is to end, and why. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    signal: Arc<AtomicU8>,
    deadline: Arc<OnceLock<Instant>>,
}

/// Why a run ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This signal.
    Signal(u8),
    /// `run-timeout`.
    Deadline,
}

impl Stop {
    /// One that SIGINT, SIGTERM and SIGHUP set. The second of them ends the process on the spot, and
    /// its guests with it.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        let set = stop.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if set.signal.swap(signal as u8, Ordering::SeqCst) != 0 {
                    std::process::exit(i32::from(exit::INTERRUPTED));
                }
            }
        })?;
        Ok(stop)
    }

    /// Also at this time.
    pub fn at(&self, deadline: Instant) {
        let _ = self.deadline.set(deadline);
    }

    /// As if `signal` had come.
    pub fn set(&self, signal: u8) {
        self.signal.store(signal, Ordering::SeqCst);
    }

    /// Why, if it is to end.
    pub fn why(&self) -> Option<Why> {
        match self.signal.load(Ordering::SeqCst) {
            0 => self.deadline.get().filter(|deadline| Instant::now() >= **deadline).map(|_| Why::Deadline),
            signal => Some(Why::Signal(signal)),
        }
    }
}
