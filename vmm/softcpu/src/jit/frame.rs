//! What compiled code agrees on with the rest of the CPU: where guest registers live, and the
//! fields of [`Cpu`] that it uses.
//!
//! | host | while compiled code runs |
//! |---|---|
//! | rbp | the [`Cpu`], plus [`BIAS`] |
//! | r15 | [`Cpu::remaining`] |
//! | rax, r14, xmm0, xmm1 | scratch |
//! | rsp | the host's stack, untouched |
//! | the others | a guest register each, see [`home`]; the rest of them stay in [`Cpu::gpr`] |

use std::mem::offset_of;

use super::emit::*;
use crate::code::CodeCache;
use crate::cpu::Cpu;
use crate::flags;
use crate::segment::Segments;
use crate::simd::state::VectorState;
use crate::tlb::{Entry, Mode, Tlb};

/// Added to the pointer to the CPU, so that the general registers are in reach of a short
/// displacement.
pub const BIAS: i32 = 128;

pub const CPU: Reg = RBP;
pub const REMAINING: Reg = R15;
/// The second scratch register; the first is RAX.
pub const SCRATCH2: Reg = R14;

/// The host register that holds a guest register.
pub const fn home(guest: u8) -> Option<Reg> {
    match guest {
        // RAX is what LAHF and SETO need.
        0 => Some(R10),
        1 => Some(RCX),
        2 => Some(RDX),
        3 => Some(RBX),
        4 => Some(R11),
        5 => Some(R12),
        6 => Some(RSI),
        7 => Some(RDI),
        8 => Some(R8),
        9 => Some(R9),
        12 => Some(R13),
        _ => None,
    }
}

/// The memory behind a guest register or pseudo-register.
pub fn slot(guest: u8) -> i32 {
    field(offset_of!(Cpu, gpr)) + 8 * guest as i32
}

/// The displacement of a field of [`Cpu`].
pub const fn field(offset: usize) -> i32 {
    offset as i32 - BIAS
}

pub fn rip() -> i32 {
    field(offset_of!(Cpu, rip))
}

pub fn remaining() -> i32 {
    field(offset_of!(Cpu, remaining))
}

pub fn others_ready() -> i32 {
    field(offset_of!(Cpu, others_ready))
}

pub fn interrupt_pending() -> i32 {
    field(offset_of!(Cpu, interrupt_pending))
}

/// [`Flags::system`](flags::Flags::system).
pub fn system_flags() -> i32 {
    field(offset_of!(Cpu, flags) + offset_of!(flags::Flags, system))
}

/// The selector in CS, whose low two bits are the privilege level.
pub fn code_selector() -> i32 {
    field(offset_of!(Cpu, segments) + Segments::CODE_SELECTOR_OFFSET)
}

/// CR0.
pub fn cr0() -> i32 {
    field(offset_of!(Cpu, cr0))
}

/// The memory behind an XMM register.
pub fn xmm(register: u8) -> i32 {
    field(offset_of!(Cpu, vector) + offset_of!(VectorState, xmm)) + 16 * register as i32
}

/// [`CodeCache::tag`].
pub fn tag() -> i32 {
    field(offset_of!(Cpu, code) + CodeCache::TAG_OFFSET)
}

/// A field of the first TLB entry for `mode`.
pub fn tlb(mode: Mode, entry_field: usize) -> i32 {
    field(offset_of!(Cpu, tlb) + Tlb::DATA_OFFSET + mode as usize * size_of::<Entry>() + entry_field)
}

pub fn context(offset: usize) -> i32 {
    field(offset_of!(Cpu, jit) + offset)
}

/// Jump targets that [`Context`] remembers.
pub const TARGETS: usize = 8192;

/// Where a jump to `rip` leads, if `tag` is the present one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Target {
    pub rip: u64,
    pub tag: u64,
    /// Linear address of the page.
    pub page: u64,
    /// Host address of the block's code.
    pub code: u64,
}

/// What compiled code keeps in the CPU.
#[repr(C)]
pub struct Context {
    /// The arithmetic flags, in the form of [`park`].
    pub parked: u64,
    /// A value that survives an access to memory.
    pub kept: u64,
    /// Why the code was left; see `Leave`.
    pub site: u32,
    pub block: u32,
    pub targets: [Target; TARGETS],
}

impl Context {
    pub fn new() -> Context {
        let none = Target { rip: u64::MAX, tag: 0, page: 0, code: 0 };
        Context { parked: park(0), kept: 0, site: 0, block: 0, targets: [none; TARGETS] }
    }

    /// The slot for `rip`; compiled code computes the same.
    pub fn target(&mut self, rip: u64) -> &mut Target {
        &mut self.targets[(rip ^ rip >> 12) as usize & (TARGETS - 1)]
    }
}

/// Arithmetic flags as LAHF and SETO leave them in AX.
pub fn park(arithmetic: u64) -> u64 {
    let overflow = (arithmetic & flags::OF != 0) as u64;
    (arithmetic & (flags::ARITHMETIC & !flags::OF) | flags::ONE) << 8 | overflow
}

/// The opposite of [`park`].
pub fn unpark(parked: u64) -> u64 {
    let overflow = if parked & 1 != 0 { flags::OF } else { 0 };
    parked >> 8 & (flags::ARITHMETIC & !flags::OF) | overflow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_flags_come_back() {
        for bits in (0..=flags::ARITHMETIC).filter(|bits| bits & !flags::ARITHMETIC == 0) {
            assert_eq!(unpark(park(bits)), bits);
        }
    }
}
