//! What other threads may do to a running CPU: raise interrupt lines and stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Interrupt lines of the I/O APIC (global system interrupts 0..24).
pub const LINES: u32 = 24;

/// A handle that raises interrupts in a [`Vm`](crate::Vm) and stops it, from any thread or from
/// inside a [`Bus`](crate::Bus) callback.
///
/// It only sets atomics; the run loop looks at them between two blocks.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Something below changed.
    attention: AtomicBool,
    kicked: AtomicBool,
    /// Lines that saw an edge since the last look.
    pulses: AtomicU64,
    /// The present level of each line.
    levels: AtomicU64,
    /// Guest time in nanoseconds, as published last.
    now: AtomicU64,
}

impl Remote {
    /// One edge on interrupt line `gsi`. Lines that do not exist are ignored.
    pub fn pulse(&self, gsi: u32) {
        if gsi < LINES {
            self.shared.pulses.fetch_or(1 << gsi, Ordering::SeqCst);
            self.shared.attention.store(true, Ordering::SeqCst);
        }
    }

    /// Sets the level of interrupt line `gsi`. Lines that do not exist are ignored.
    pub fn set_level(&self, gsi: u32, high: bool) {
        if gsi < LINES {
            if high {
                self.shared.levels.fetch_or(1 << gsi, Ordering::SeqCst);
            } else {
                self.shared.levels.fetch_and(!(1 << gsi), Ordering::SeqCst);
            }
            self.shared.attention.store(true, Ordering::SeqCst);
        }
    }

    /// Makes [`Vm::run`](crate::Vm::run) return [`Exit::Stopped`](crate::Exit::Stopped) soon, or
    /// at once when it is called next.
    pub fn kick(&self) {
        self.shared.kicked.store(true, Ordering::SeqCst);
        self.shared.attention.store(true, Ordering::SeqCst);
    }

    /// Guest time since power-on: exact inside a [`Bus`](crate::Bus) callback and while the CPU does
    /// not run, else that of the last callback or return.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.shared.now.load(Ordering::Relaxed))
    }

    /// The lines that saw an edge since the last [`take`](Self::take), one bit for each.
    pub(crate) fn pulses(&self) -> u64 {
        self.shared.pulses.load(Ordering::SeqCst)
    }

    /// Publishes guest time.
    pub(crate) fn publish(&self, now: Duration) {
        self.shared.now.store(now.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Makes the run loop look at its interrupts before the next block.
    pub(crate) fn request_attention(&self) {
        self.shared.attention.store(true, Ordering::Relaxed);
    }

    /// True when another thread changed something since [`take`](Self::take).
    #[inline(always)]
    pub(crate) fn attention(&self) -> bool {
        self.shared.attention.load(Ordering::Relaxed)
    }

    /// Takes what changed.
    pub(crate) fn take(&self) -> Requests {
        self.shared.attention.store(false, Ordering::SeqCst);
        Requests {
            kicked: self.shared.kicked.swap(false, Ordering::SeqCst),
            pulses: self.shared.pulses.swap(0, Ordering::SeqCst),
            levels: self.shared.levels.load(Ordering::SeqCst),
        }
    }
}

/// What [`Remote`] was asked since the last look; the sets have one bit for each line.
pub(crate) struct Requests {
    pub kicked: bool,
    pub pulses: u64,
    pub levels: u64,
}
