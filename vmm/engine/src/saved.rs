//! Engines as plain data, for snapshots. A snapshot belongs to the engine that it was taken on.

use serde::{Deserialize, Serialize};

/// CPUs, interrupt controllers and clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EngineState {
    /// Of the software CPU.
    Soft(softcpu::VmState),
}

/// KVM guests cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a guest on KVM cannot be saved; run it with --engine soft")]
pub struct NotSaved;

/// A state that this engine cannot take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// It was saved by the other engine.
    #[error("it was taken on the other engine")]
    Engine,
    /// No machine was saved as that.
    #[error(transparent)]
    State(#[from] softcpu::BadState),
}
