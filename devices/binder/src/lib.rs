//! The binder driver core: a deterministic state machine.

pub mod domain;
pub mod errno;
pub mod ids;
pub mod limits;
pub mod message;
pub mod protocol;
pub mod trace;

pub use domain::{Census, Domain, GuestRams};
pub use errno::Errno;
pub use ids::*;
pub use limits::{Limits, LsmMode, Profile};
pub use message::*;
pub use trace::{NoTrace, TraceEvent, TraceSink};
