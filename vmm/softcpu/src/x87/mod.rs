//! The x87 floating-point unit.
//!
//! The register stack, its tags and its faults are kept here; the arithmetic itself runs on the
//! host's own x87 with the guest's control word, so that precision, rounding and exceptions are
//! exact.

pub mod state;

use crate::exception::Exception;
use crate::simd::context::Context;

/// A lowered instruction: at most 16 bytes, no references.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {}

/// Lowers `insn`, or `None` if it is not an x87 instruction.
pub(crate) fn lower(insn: &iced_x86::Instruction) -> Option<Op> {
    let _ = insn;
    None
}

/// Executes `op`.
pub(crate) fn execute<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    let _ = cx;
    match op {}
}
