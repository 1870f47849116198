//! Guest time, for those who cannot reach the engine while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Reads guest time, from any thread or from inside a [`Bus`](crate::Bus) callback.
#[derive(Clone, Debug)]
pub struct GuestClock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Nanoseconds, as the software CPU published them last.
    Soft(Arc<AtomicU64>),
    /// KVM guests run on the host's clock since power-on.
    Kvm(Instant),
}

impl GuestClock {
    pub(crate) fn soft(nanoseconds: Arc<AtomicU64>) -> GuestClock {
        GuestClock(Source::Soft(nanoseconds))
    }

    pub(crate) fn kvm(power_on: Instant) -> GuestClock {
        GuestClock(Source::Kvm(power_on))
    }

    /// Guest time since power-on.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Soft(nanoseconds) => Duration::from_nanos(nanoseconds.load(Ordering::Relaxed)),
            Source::Kvm(power_on) => power_on.elapsed(),
        }
    }
}
