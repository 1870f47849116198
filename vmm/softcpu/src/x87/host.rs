//! One arithmetic instruction on the host's own x87.
//!
//! The guest's control word is in force while it runs, unmasked exceptions included: an x87
//! exception is only reported by a *later waiting* instruction, and the block clears it before
//! there is one. So the value, the rounding, the condition codes and whether the instruction
//! completed are the hardware's.

use std::arch::asm;

use super::state::F80;
use crate::simd::mnemonics;

/// Operands and results of one instruction.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Frame {
    /// ST(0) before and after.
    pub(super) st0: F80,
    /// ST(1) before and after.
    pub(super) st1: F80,
    /// The memory operand.
    pub(super) memory: [u8; 16],
    /// The guest's control word.
    pub(super) control: u16,
    /// The status word that the instruction leaves.
    pub(super) status: u16,
}

/// TOP when the instruction starts: ST(0), ST(1) and a filler that it may pop down to.
const TOP_BEFORE: u16 = 5;

impl Frame {
    pub(super) fn new(control: u16) -> Self {
        Self { st0: F80::default(), st1: F80::default(), memory: [0; 16], control, status: 0 }
    }

    /// Whether the instruction has popped the stack, which a `P` form does only on completion.
    pub(super) fn popped(&self) -> bool {
        self.status >> 11 & 7 == TOP_BEFORE + 1
    }

    /// Whether the instruction has pushed a value.
    pub(super) fn pushed(&self) -> bool {
        self.status >> 11 & 7 == TOP_BEFORE - 1
    }
}

/// Runs `$instruction` between loading the frame and storing it. `{f}` is the frame, `{f} + 32`
/// its memory operand.
macro_rules! framed {
    ($frame:expr, $instruction:expr) => {
        // SAFETY: the block touches the frame and the x87 registers only; it starts with the
        // empty stack the ABI guarantees and ends with FNINIT, which is that state. No waiting
        // instruction runs between the guest's and FNCLEX, so nothing traps on the host.
        unsafe {
            asm!(
                "fldz",
                "fld tbyte ptr [{f} + 16]",
                "fld tbyte ptr [{f}]",
                "fldcw word ptr [{f} + 48]",
                $instruction,
                "fnstsw word ptr [{f} + 50]",
                "fnclex",
                "fstp tbyte ptr [{f}]",
                "fstp tbyte ptr [{f} + 16]",
                "fninit",
                f = in(reg) &raw mut *$frame,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            )
        }
    };
}

/// Defines an enum of instructions without explicit operands, and how each runs.
macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($variant:ident: $instruction:literal,)* }) => {
        mnemonics! {
            $(#[$doc])*
            pub(super) enum $name { $($variant,)* }
        }

        impl $name {
            pub(super) fn run(self, frame: &mut Frame) {
                match self {
                    $(Self::$variant => framed!(frame, $instruction),)*
                }
            }
        }
    };
}

plain! {
    /// ST(0) = op(ST(0)), or op(ST(0), ST(1)).
    Function {
        Fsqrt: "fsqrt", Frndint: "frndint", F2xm1: "f2xm1", Fsin: "fsin", Fcos: "fcos",
        Fscale: "fscale", Fprem: "fprem", Fprem1: "fprem1",
    }
}

plain! {
    /// ST(1) = op(ST(0), ST(1)), then a pop.
    Reduction { Fpatan: "fpatan", Fyl2x: "fyl2x", Fyl2xp1: "fyl2xp1", }
}

plain! {
    /// ST(0) becomes two values.
    Expansion { Fptan: "fptan", Fsincos: "fsincos", Fxtract: "fxtract", }
}

plain! {
    /// Pushes a constant.
    Constant {
        Fld1: "fld1", Fldl2t: "fldl2t", Fldl2e: "fldl2e", Fldpi: "fldpi", Fldlg2: "fldlg2",
        Fldln2: "fldln2", Fldz: "fldz",
    }
}

/// The type of an operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Single,
    Double,
    Extended,
    Int16,
    Int32,
    Int64,
    Decimal,
}

/// The six arithmetic operations: destination = destination op source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    SubtractReverse,
    Multiply,
    Divide,
    DivideReverse,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// A quiet NaN is invalid.
    Ordered,
    /// It is not.
    Unordered,
}

/// `$op` with ST(1) or the memory operand of `$width` as source.
macro_rules! with_source {
    ($frame:expr, $width:expr, $op:literal) => {
        match $width {
            Some(Width::Single) => framed!($frame, concat!("f", $op, " dword ptr [{f} + 32]")),
            Some(Width::Double) => framed!($frame, concat!("f", $op, " qword ptr [{f} + 32]")),
            Some(Width::Int16) => framed!($frame, concat!("fi", $op, " word ptr [{f} + 32]")),
            Some(Width::Int32) => framed!($frame, concat!("fi", $op, " dword ptr [{f} + 32]")),
            // No instruction has the other widths.
            _ => framed!($frame, concat!("f", $op, " st(0), st(1)")),
        }
    };
}

impl Arithmetic {
    /// ST(0) = ST(0) op source; `None` is ST(1).
    pub(super) fn run(self, source: Option<Width>, frame: &mut Frame) {
        match self {
            Self::Add => with_source!(frame, source, "add"),
            Self::Subtract => with_source!(frame, source, "sub"),
            Self::SubtractReverse => with_source!(frame, source, "subr"),
            Self::Multiply => with_source!(frame, source, "mul"),
            Self::Divide => with_source!(frame, source, "div"),
            Self::DivideReverse => with_source!(frame, source, "divr"),
        }
    }
}

impl Comparison {
    /// Compares ST(0) with the source; `None` is ST(1).
    pub(super) fn run(self, source: Option<Width>, frame: &mut Frame) {
        match (self, source) {
            (Self::Unordered, _) => framed!(frame, "fucom st(1)"),
            (_, Some(Width::Single)) => framed!(frame, "fcom dword ptr [{f} + 32]"),
            (_, Some(Width::Double)) => framed!(frame, "fcom qword ptr [{f} + 32]"),
            (_, Some(Width::Int16)) => framed!(frame, "ficom word ptr [{f} + 32]"),
            (_, Some(Width::Int32)) => framed!(frame, "ficom dword ptr [{f} + 32]"),
            _ => framed!(frame, "fcom st(1)"),
        }
    }
}

/// Pushes the memory operand.
pub(super) fn load(width: Width, frame: &mut Frame) {
    match width {
        Width::Single => framed!(frame, "fld dword ptr [{f} + 32]"),
        Width::Double => framed!(frame, "fld qword ptr [{f} + 32]"),
        Width::Extended => framed!(frame, "fld tbyte ptr [{f} + 32]"),
        Width::Int16 => framed!(frame, "fild word ptr [{f} + 32]"),
        Width::Int32 => framed!(frame, "fild dword ptr [{f} + 32]"),
        Width::Int64 => framed!(frame, "fild qword ptr [{f} + 32]"),
        Width::Decimal => framed!(frame, "fbld tbyte ptr [{f} + 32]"),
    }
}

/// Pops ST(0) into the memory operand; `truncate` is FISTTP.
pub(super) fn store(width: Width, truncate: bool, frame: &mut Frame) {
    match (width, truncate) {
        (Width::Single, _) => framed!(frame, "fstp dword ptr [{f} + 32]"),
        (Width::Double, _) => framed!(frame, "fstp qword ptr [{f} + 32]"),
        (Width::Extended, _) => framed!(frame, "fstp tbyte ptr [{f} + 32]"),
        (Width::Int16, false) => framed!(frame, "fistp word ptr [{f} + 32]"),
        (Width::Int32, false) => framed!(frame, "fistp dword ptr [{f} + 32]"),
        (Width::Int64, false) => framed!(frame, "fistp qword ptr [{f} + 32]"),
        (Width::Int16, true) => framed!(frame, "fisttp word ptr [{f} + 32]"),
        (Width::Int32, true) => framed!(frame, "fisttp dword ptr [{f} + 32]"),
        (Width::Int64, true) => framed!(frame, "fisttp qword ptr [{f} + 32]"),
        (Width::Decimal, _) => framed!(frame, "fbstp tbyte ptr [{f} + 32]"),
    }
}
