//! Guest time, for those who cannot reach the engine while it runs.

use std::time::{Duration, Instant};

use softcpu::Remote;

/// Reads guest time, from any thread or from inside a [`Bus`](crate::Bus) callback.
#[derive(Clone, Debug)]
pub struct GuestClock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The software CPU publishes its time.
    Soft(Remote),
    /// KVM guests run on the host's clock since power-on.
    Kvm(Instant),
}

impl GuestClock {
    pub(crate) fn soft(remote: Remote) -> GuestClock {
        GuestClock(Source::Soft(remote))
    }

    pub(crate) fn kvm(power_on: Instant) -> GuestClock {
        GuestClock(Source::Kvm(power_on))
    }

    /// Guest time since power-on.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Soft(remote) => remote.now(),
            Source::Kvm(power_on) => power_on.elapsed(),
        }
    }
}
