//! A comparison and the conditional jump behind it, as one micro-operation.
//!
//! Most conditional jumps follow a CMP or TEST. The comparison's handler is then replaced by one
//! that also decides the jump, whose own micro-operation stays behind it and is read, not called.
//! Where memory is not plain, the ordinary handlers take over.

use super::alu::{self, Binary, Cmp, Form, Test};
use super::{control, pick_condition};
use crate::cpu::Cpu;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::Word;

/// A comparison that a conditional jump may be joined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Cmp,
    Test,
}

fn reg_reg<O: Binary, W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    O::apply(&mut cpu.flags, a, b);
    control::jump_if::<CC>(cpu, at.following())
}

fn reg_imm<O: Binary, W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r0);
    O::apply(&mut cpu.flags, a, W::from(uop.imm));
    control::jump_if::<CC>(cpu, at.following())
}

fn reg_mem<O: Binary, W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let Some(b) = cpu.peek::<W>(cpu.address::<false>(uop)) else {
        return alu::reg_mem_slow::<O, W, false>(cpu, at);
    };
    let a = W::read(&cpu.gpr, uop.r0);
    O::apply(&mut cpu.flags, a, b);
    control::jump_if::<CC>(cpu, at.following())
}

fn mem_imm<O: Binary, W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (address, b) = (cpu.address::<false>(uop), W::from(uop.imm));
    let Some(a) = cpu.peek::<W>(address) else {
        return alu::to_mem_slow::<O, W>(cpu, at, address, b);
    };
    O::apply(&mut cpu.flags, a, b);
    control::jump_if::<CC>(cpu, at.following())
}

fn sized<O: Binary, W: Word>(form: Form, condition: u8) -> Option<Handler> {
    Some(match form {
        Form::RegReg => pick_condition!(condition; reg_reg[O, W,]),
        Form::RegImm => pick_condition!(condition; reg_imm[O, W,]),
        Form::RegMem { full: false } => pick_condition!(condition; reg_mem[O, W,]),
        Form::MemImm { full: false } => pick_condition!(condition; mem_imm[O, W,]),
        // Rarer forms stay two.
        Form::RegMem { full: true } | Form::MemReg { .. } | Form::MemImm { full: true } => return None,
    })
}

fn of<O: Binary>(size: usize, form: Form, condition: u8) -> Option<Handler> {
    match size {
        1 => sized::<O, u8>(form, condition),
        2 => sized::<O, u16>(form, condition),
        4 => sized::<O, u32>(form, condition),
        _ => sized::<O, u64>(form, condition),
    }
}

/// The handler of a comparison of `size` bytes and a jump on `condition`, if the form is a
/// frequent one.
pub fn joined(comparison: Comparison, size: usize, form: Form, condition: u8) -> Option<Handler> {
    match comparison {
        Comparison::Cmp => of::<Cmp>(size, form, condition),
        Comparison::Test => of::<Test>(size, form, condition),
    }
}
