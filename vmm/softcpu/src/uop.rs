//! Micro-operations: what instructions are decoded into.
//!
//! A [`Uop`] names the function that executes it. The function ends by calling the next one's
//! (a call in tail position, which the optimiser makes a jump), so there is no dispatch loop
//! inside a block; where it is not made a jump, the depth is bounded by the block's length.

use std::ptr::NonNull;

use crate::cpu::Cpu;

/// How a block was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// RIP is where link 0 of the block leads (the fall-through side).
    Link0,
    /// RIP is where link 1 of the block leads (the taken side).
    Link1,
    /// RIP is new and known only now.
    Jump,
    /// RIP is new and the CPU's mode, interrupt state or address space may be, too.
    Sync,
    /// The instruction at RIP did not happen; [`Cpu::abort`] says why.
    Abort,
    /// `hlt` was executed; RIP is after it.
    Halt,
}

/// Executes one micro-operation and those behind it.
pub type Handler = fn(&mut Cpu, Cursor) -> Flow;

/// Pseudo-register that is always zero.
pub const ZERO: u8 = 16;
/// Pseudo-register: linear address of the page in which the block lies.
pub const PAGE_BASE: u8 = 17;
/// Pseudo-register: base of FS.
pub const FS_BASE: u8 = 18;
/// Pseudo-register: base of GS.
pub const GS_BASE: u8 = 19;
/// Pseudo-register: an address worked out by a micro-operation of its own.
pub const SCRATCH: u8 = 20;
/// Pseudo-registers: the bases of ES, CS, SS and DS, kept outside 64-bit mode only.
pub const ES_BASE: u8 = 21;
pub const CS_BASE: u8 = 22;
pub const SS_BASE: u8 = 23;
pub const DS_BASE: u8 = 24;

/// One micro-operation. What `imm`, `r0`, `r1` and `extra` mean is up to the handler.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Uop {
    pub handler: Handler,
    pub imm: u64,
    /// Memory operand: `base + (index << scale) + disp + segment`, all but the scale and the
    /// displacement register numbers.
    pub disp: i32,
    pub base: u8,
    pub index: u8,
    pub scale: u8,
    pub segment: u8,
    pub r0: u8,
    pub r1: u8,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// Instructions before this one in the block.
    pub ordinal: u8,
    /// Address of the instruction, as an offset in the block's page.
    pub offset: u16,
    pub extra: u16,
}

impl Uop {
    /// A micro-operation without operands.
    pub fn new(handler: Handler) -> Uop {
        Uop {
            handler,
            imm: 0,
            disp: 0,
            base: ZERO,
            index: ZERO,
            scale: 0,
            segment: ZERO,
            r0: ZERO,
            r1: ZERO,
            len: 0,
            ordinal: 0,
            offset: 0,
            extra: 0,
        }
    }

    /// Offset of the next instruction from the start of the block's page.
    #[inline(always)]
    pub fn next_offset(&self) -> u64 {
        self.offset as u64 + self.len as u64
    }
}

/// A position in a block's micro-operations.
#[derive(Clone, Copy)]
pub struct Cursor(NonNull<Uop>);

impl Cursor {
    /// The start of `uops`.
    ///
    /// # Safety
    /// The last of `uops` must never call [`Cursor::next`] or [`Cursor::following`], and the
    /// slice must live until the handler of the first one has returned.
    #[inline(always)]
    pub unsafe fn start(uops: *const Uop) -> Cursor {
        // SAFETY: not null, as it comes from a slice.
        Cursor(unsafe { NonNull::new_unchecked(uops.cast_mut()) })
    }

    /// The micro-operation here.
    #[inline(always)]
    pub fn uop<'a>(self) -> &'a Uop {
        // SAFETY: inside the slice of `start`, which outlives the handlers that hold cursors.
        unsafe { self.0.as_ref() }
    }

    /// The position behind this one.
    #[inline(always)]
    pub fn following(self) -> Cursor {
        // SAFETY: only the last micro-operation of a block ends it, so there is one behind.
        Cursor(unsafe { self.0.add(1) })
    }

    /// Executes the rest of the block.
    #[inline(always)]
    pub fn next(self, cpu: &mut Cpu) -> Flow {
        let next = self.following();
        (next.uop().handler)(cpu, next)
    }
}
