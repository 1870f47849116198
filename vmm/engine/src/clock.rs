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
    /// The host's clock since then: KVM guests run on it.
    Host(Instant),
}

impl GuestClock {
    pub(crate) fn soft(remote: Remote) -> GuestClock {
        GuestClock(Source::Soft(remote))
    }

    /// The host's clock since `began`.
    pub fn host(began: Instant) -> GuestClock {
        GuestClock(Source::Host(began))
    }

    /// Guest time since power-on.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Soft(remote) => remote.now(),
            Source::Host(began) => began.elapsed(),
        }
    }
}
