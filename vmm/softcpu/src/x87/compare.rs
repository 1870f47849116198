//! FCOM and its relatives, FTST, FXAM.

use super::host::Comparison;
use super::op::Operand;
use super::state::{X87State, status};
use crate::simd::context::{ArithFlags, Context};

/// The condition codes of a comparison: C0 is less, C3 equal, all three unordered.
const CODES: u16 = status::C0 | status::C2 | status::C3;

/// Compares ST(0) with the source, which `memory` holds if it is no register, then pops. After an
/// unmasked exception nothing is set or popped. (SDM volume 2, FCOM; AMD sets the codes.)
pub(super) fn compare<C: Context>(
    op: Comparison,
    source: Operand,
    memory: [u8; 16],
    pops: u8,
    eflags: bool,
    cx: &mut C,
) {
    let x87 = cx.x87();
    let (width, other) = match source {
        Operand::Register(index) => (None, index),
        Operand::Memory(width) => (Some(width), 0),
    };
    let (result, completed) = if x87.is_empty(0) || x87.is_empty(other) {
        (CODES, x87.stack_fault(false))
    } else {
        let mut frame = x87.frame();
        frame.st1 = x87.register(other);
        frame.memory = memory;
        op.run(width, &mut frame);
        (frame.status & CODES, x87.merge(&frame, status::C1))
    };
    if !completed {
        return;
    }
    for _ in 0..pops {
        x87.pop();
    }
    if eflags {
        cx.set_flags(ArithFlags {
            zf: result & status::C3 != 0,
            pf: result & status::C2 != 0,
            cf: result & status::C0 != 0,
            ..ArithFlags::default()
        });
    } else {
        x87.status = x87.status & !CODES | result;
    }
}

/// FXAM: the class of ST(0) in C3, C2, C0 and its sign in C1, empty or not.
pub(super) fn examine(x87: &mut X87State) {
    let value = x87.register(0);
    let class = match (value.sign_exponent & 0x7fff, value.significand) {
        _ if x87.is_empty(0) => status::C3 | status::C0,
        (0, 0) => status::C3,
        (0, _) => status::C3 | status::C2,
        // Without its integer bit it is none of the numbers the 387 knows.
        (_, significand) if significand >> 63 == 0 => 0,
        (0x7fff, 0x8000_0000_0000_0000) => status::C2 | status::C0,
        (0x7fff, _) => status::C0,
        _ => status::C2,
    };
    let sign = if value.sign_exponent >> 15 == 0 { 0 } else { status::C1 };
    x87.status = x87.status & !(CODES | status::C1) | class | sign;
}
