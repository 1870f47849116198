//! What an engine is made from, and why it may not come to be.

use std::io;

use softcpu::{ClockMode, Execution};

/// What an [`Engine`](crate::Engine) is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPUs of the guest: 1 to [`MAX_CPUS`](crate::MAX_CPUS).
    pub cpus: u8,
    /// How guest time passes on the soft engine. KVM always runs on the host's clock.
    pub clock: ClockMode,
    /// Seeds what is random in the soft engine; see [`softcpu::Config::seed`].
    pub seed: u64,
    /// How the soft engine executes instructions.
    pub execution: Execution,
}

impl Default for Config {
    fn default() -> Self {
        Config { cpus: 1, clock: ClockMode::Virtual, seed: 0, execution: Execution::default() }
    }
}

/// An engine could not be chosen, made or prepared.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `--engine kvm` where `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm (try the soft engine)")]
    OpenKvm(#[source] io::Error),
    /// KVM refused a step of making the machine.
    #[error("KVM refused to {step}")]
    Kvm {
        /// What was asked, as in "create a VM".
        step: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// The soft engine does not take this configuration.
    #[error(transparent)]
    Soft(#[from] softcpu::ConfigError),
    /// The number of CPUs is not supported.
    #[error("a guest has 1 to {max} CPUs, not {0}", max = softcpu::MAX_CPUS)]
    Cpus(u8),
}
