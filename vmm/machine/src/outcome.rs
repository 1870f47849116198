//! How a run ended, and what it took.

use std::time::Duration;

use engine::Kind;

use crate::bus::AccessCounts;

/// Why a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest reset itself.
    Reset,
    /// The guest's kernel panicked, with this message.
    Panic(String),
    /// The guest crashed its CPU; the text says how.
    TripleFault(String),
    /// The guest halted its CPU for good.
    Halted,
    /// The wall time is over.
    Timeout,
    /// [`Handle::stop`](crate::Handle::stop) was called.
    Stopped,
    /// The engine could not go on; the text says why.
    EngineFailed(String),
    /// A device failed by a fault of bindervm's own; the text says how. The guest saw it fail.
    DeviceFailed(String),
    /// The log of the guest's input ([`Inputs`](crate::Inputs)) cannot be written or followed; the text says why.
    InputLog(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::PoweredOff => f.write_str("the guest switched itself off"),
            End::Reset => f.write_str("the guest reset itself"),
            End::Panic(message) => write!(f, "the guest's kernel panicked: {message}"),
            End::TripleFault(reason) => write!(f, "the guest crashed its CPU: {reason}"),
            End::Halted => f.write_str("the guest halted its CPU for good"),
            End::Timeout => f.write_str("the run's time is over"),
            End::Stopped => f.write_str("the run was stopped"),
            End::EngineFailed(reason) => write!(f, "the CPU engine cannot go on: {reason}"),
            End::DeviceFailed(reason) => {
                write!(f, "a device of the guest failed by a fault of bindervm, please report it: {reason}")
            }
            End::InputLog(reason) => write!(f, "the log of the guest's input: {reason}"),
        }
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it is over.
    pub end: End,
    /// The last lines of the guest's consoles, oldest first.
    pub console: Vec<String>,
    /// Devices that gave up on their driver, and why.
    pub device_failures: Vec<String>,
    /// What it took.
    pub stats: RunStats,
}

/// What a run took.
#[derive(Clone, Debug)]
pub struct RunStats {
    /// [`Kind::Soft`] or [`Kind::Kvm`].
    pub engine: Kind,
    /// Guest instructions, where the engine counts them.
    pub instructions: Option<u64>,
    /// Accesses that left CPU and RAM.
    pub accesses: AccessCounts,
    /// Returns of the engine.
    pub exits: ExitCounts,
    /// Guest time that passed.
    pub guest_time: Duration,
    /// Host CPU time of the thread that ran the guest.
    pub cpu_time: Duration,
    /// Wall time.
    pub wall_time: Duration,
    /// The software CPU's own counters.
    pub soft: Option<engine::Stats>,
}

/// How often the engine returned, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExitCounts {
    /// The CPU was halted.
    pub idle: u64,
    /// A slice of guest time was over.
    pub slice: u64,
    /// Somebody kicked.
    pub stopped: u64,
}
