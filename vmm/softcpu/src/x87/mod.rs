//! The x87 floating-point unit.
//!
//! The register stack, its tags and its faults are kept here; the arithmetic itself runs on the
//! host's own x87 with the guest's control word, so that precision, rounding and exceptions are
//! exact.
//!
//! | file | what |
//! |---|---|
//! | `state` | the registers and the rules of the stack |
//! | `op` | lowering |
//! | `execute` | one arm a kind, and what a stack fault does |
//! | `compare` | comparisons and FXAM |
//! | `host` | one instruction on the host |
//! | `image` | FXSAVE, FNSAVE and FNSTENV images |

mod compare;
mod execute;
mod host;
pub(crate) mod image;
mod op;
pub mod state;
#[cfg(test)]
mod tests;

pub(crate) use execute::execute;
pub(crate) use op::{Op, lower};
