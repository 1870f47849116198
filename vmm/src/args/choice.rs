//! Options of `bindervm run` that choose one of several.

use clap::ValueEnum;

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// KVM where the hardware has it, else the built-in CPU.
    Auto,
    /// Hardware virtualization through /dev/kvm.
    Kvm,
    /// The CPU in software, built in.
    Soft,
}

/// `--clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockArg {
    /// Time is counted in executed instructions; a run repeats exactly.
    Virtual,
    /// Time is the host's.
    Host,
}

/// `--cpu-jit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JitArg {
    /// Compile what is executed often.
    On,
    /// Interpret everything.
    Off,
}

/// `--binder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BinderArg {
    /// The driver on the host, through the shim.
    Host,
    /// The guest kernel's own `binder_linux` module.
    Kernel,
}

/// `--lsm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LsmArg {
    /// Every time.
    Ask,
    /// Once for each pair of processes, until the policy changes.
    Cache,
    /// Never.
    Off,
}

/// `--binder-profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// The C driver of Linux 6.1.
    #[value(name = "linux-6.1")]
    Linux6_1,
    /// The C driver of Linux 6.12.
    #[value(name = "linux-6.12")]
    Linux6_12,
    /// The C driver of Linux 7.2.
    #[value(name = "linux-7.2")]
    Linux7_2,
    /// The C driver of the Android common kernels: real-time priorities, policies of nodes.
    Aosp,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxArg {
    /// Where the host's kernel allows it; else a line says so.
    Auto,
    /// Always; a run that cannot be confined does not begin.
    On,
    /// Never.
    Off,
}

/// `--binder-device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BinderDeviceArg {
    /// Answers inside the doorbell write.
    Inline,
    /// Answers later, from another thread, with interrupts.
    Late,
    /// Inline, with queues of four entries.
    Tight,
    /// Late, with queues of four entries.
    TightLate,
    /// Inline, and fails for good after 2000 messages.
    Failing,
}
