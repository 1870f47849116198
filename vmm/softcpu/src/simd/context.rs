//! What an SSE, MMX or x87 instruction may see of the CPU.
//!
//! The vector and floating-point units are written against this trait alone, so they know
//! nothing of paging, segments or blocks and can be tested with plain arrays. The interpreter
//! implements it for the instruction it is at: memory methods speak of *the* memory operand of
//! that instruction, whose effective address it has worked out before.

use crate::exception::Exception;
use crate::simd::state::VectorState;
use crate::x87::state::X87State;

/// The arithmetic flags an instruction such as `comisd`, `ptest` or `fcomi` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArithFlags {
    /// Carry.
    pub cf: bool,
    /// Parity.
    pub pf: bool,
    /// Auxiliary carry.
    pub af: bool,
    /// Zero.
    pub zf: bool,
    /// Sign.
    pub sf: bool,
    /// Overflow.
    pub of: bool,
}

/// The CPU as one vector or floating-point instruction sees it.
pub trait Context {
    /// XMM registers and MXCSR.
    fn vector(&mut self) -> &mut VectorState;
    /// The x87 stack and its control words (MMX registers alias it).
    fn x87(&mut self) -> &mut X87State;
    /// General register `index` (0 = RAX .. 15 = R15), all 64 bits.
    fn gpr(&self, index: u8) -> u64;
    /// Writes all 64 bits of a general register (a 32-bit result is zero-extended by the caller).
    fn set_gpr(&mut self, index: u8, value: u64);
    /// The arithmetic flags as they are.
    fn flags(&self) -> ArithFlags;
    /// Replaces all six arithmetic flags.
    fn set_flags(&mut self, flags: ArithFlags);
    /// CR0.TS or CR0.EM decide #NM and #UD; the interpreter checks before it calls, so this is
    /// CR0.NE only: false means x87 errors are ignored (no FERR# pin here).
    fn numeric_error(&self) -> bool;
    /// Reads `N` bytes (at most 16, or 10, 28, 94, 108, 512 for the x87 and FXSAVE images) at
    /// `offset` bytes behind the instruction's memory operand.
    fn load<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Exception>;
    /// Writes `N` bytes at `offset` bytes behind the instruction's memory operand. Nothing is
    /// written when any byte of it faults.
    fn store<const N: usize>(&mut self, offset: u64, bytes: [u8; N]) -> Result<(), Exception>;
    /// The linear address of the memory operand (for the 16-byte alignment rule of legacy SSE).
    fn operand_address(&self) -> u64;
    /// The address of the instruction being executed (it goes to the x87 FIP register when the
    /// instruction raises an unmasked exception).
    fn instruction_pointer(&self) -> u64;
    /// The linear address DS:RDI (MASKMOVDQU): the following `load`/`store` calls use it as the
    /// memory operand.
    fn use_rdi_operand(&mut self);
}
