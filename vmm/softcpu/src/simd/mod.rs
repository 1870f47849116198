//! MMX and SSE up to SSE4.2, with POPCNT and CRC32 (the x86-64-v2 level).
//!
//! [`lower`] turns a decoded instruction into an [`Op`] once; [`execute`] runs it as often as
//! the block does. Both are pure functions of what they are given: all they see of the CPU is
//! a [`Context`].

pub mod context;
pub mod state;

use context::Context;

use crate::exception::Exception;

/// A lowered instruction: at most 16 bytes, no references.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {}

impl Op {
    /// Whether CR0.TS makes this instruction raise #NM (and CR0.EM #UD). POPCNT, CRC32 and
    /// MOVNTI use no register of the FPU and are exempt. (SDM volume 3, 2.5.)
    pub(crate) fn needs_fpu(self) -> bool {
        match self {}
    }
}

/// Lowers `insn`, or `None` if it is not an instruction of this unit.
pub(crate) fn lower(insn: &iced_x86::Instruction) -> Option<Op> {
    let _ = insn;
    None
}

/// Executes `op`. On an exception nothing but the sticky MXCSR or x87 flags has changed.
pub(crate) fn execute<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    let _ = cx;
    match op {}
}
