//! What a guest that goes on from a snapshot is told: it is one of many, and time has passed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_protocol::{AgentLink, SEED};
use devices::virtio::rng::{Entropy, SeededEntropy};
use machine::ClockMode;

use crate::exit::{Code, Failure};

/// Entropy of a restored guest: other bytes than the ones that the same seed gave it while it booted.
pub fn entropy(seed: u64) -> SeededEntropy {
    SeededEntropy::new(!seed.rotate_left(32))
}

/// The news for the guest.
pub struct Resume {
    seed: [u8; SEED],
    /// Since 1970; zero: the clock goes on where it was.
    time: Duration,
}

impl Resume {
    /// Random numbers from `entropy`. A virtual clock stood still while the guest was saved, the host's
    /// did not.
    pub fn new(entropy: &mut dyn Entropy, clock: ClockMode) -> Result<Resume, Failure> {
        let mut seed = [0; SEED];
        let filled = entropy.fill(&mut seed);
        filled.map_err(|e| Failure::because(Code::Internal, "cannot read the host's entropy", e))?;
        let time = match clock {
            ClockMode::Virtual => Duration::ZERO,
            ClockMode::Host => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        Ok(Resume { seed, time })
    }

    /// Tells the agent, before anything else is asked of it.
    pub fn tell(self, link: &AgentLink) -> Result<(), Failure> {
        let told = link.resume(self.seed, self.time);
        told.map_err(|e| Failure::because(Code::Internal, "cannot tell the guest that it goes on", e))
    }
}
