//! Addition, subtraction, comparison, bitwise operations.

use super::{attempt, pick};
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::{self, Word};

/// An instruction with two operands, of which it replaces the first.
pub trait Binary: 'static {
    /// False for CMP and TEST.
    const WRITES: bool = true;
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W;
}

pub struct Add;
pub struct Or;
pub struct Adc;
pub struct Sbb;
pub struct And;
pub struct Sub;
pub struct Xor;
pub struct Cmp;
pub struct Test;

impl Binary for Add {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::add(flags, a, b, false)
    }
}

impl Binary for Adc {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        let carry = flags.cf();
        word::add(flags, a, b, carry)
    }
}

impl Binary for Sub {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::sub(flags, a, b, false)
    }
}

impl Binary for Sbb {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        let borrow = flags.cf();
        word::sub(flags, a, b, borrow)
    }
}

impl Binary for Cmp {
    const WRITES: bool = false;
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::sub(flags, a, b, false)
    }
}

impl Binary for Or {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::logic(flags, W::from(a.zero() | b.zero()))
    }
}

impl Binary for And {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::logic(flags, W::from(a.zero() & b.zero()))
    }
}

impl Binary for Xor {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::logic(flags, W::from(a.zero() ^ b.zero()))
    }
}

impl Binary for Test {
    const WRITES: bool = false;
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W, b: W) -> W {
        word::logic(flags, W::from(a.zero() & b.zero()))
    }
}

/// An instruction with one operand that it replaces.
pub trait Unary: 'static {
    fn apply<W: Word>(flags: &mut Flags, a: W) -> W;
}

pub struct Inc;
pub struct Dec;
pub struct Neg;
pub struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W) -> W {
        let carry = flags.cf();
        let result = word::add(flags, a, W::from(1), false);
        flags.set_cf(carry);
        result
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W) -> W {
        let carry = flags.cf();
        let result = word::sub(flags, a, W::from(1), false);
        flags.set_cf(carry);
        result
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn apply<W: Word>(flags: &mut Flags, a: W) -> W {
        word::sub(flags, W::default(), a, false)
    }
}

impl Unary for Not {
    #[inline(always)]
    fn apply<W: Word>(_: &mut Flags, a: W) -> W {
        W::from(!a.zero())
    }
}

/// Where the operands of a two-operand instruction are: destination, source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    RegReg,
    RegImm,
    RegMem { full: bool },
    MemReg { full: bool },
    MemImm { full: bool },
}

fn reg_reg<O: Binary, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    let result = O::apply(&mut cpu.flags, a, b);
    if O::WRITES {
        result.write(&mut cpu.gpr, uop.r0);
    }
    at.next(cpu)
}

fn reg_imm<O: Binary, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r0);
    let result = O::apply(&mut cpu.flags, a, W::from(uop.imm));
    if O::WRITES {
        result.write(&mut cpu.gpr, uop.r0);
    }
    at.next(cpu)
}

fn reg_mem<O: Binary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    match cpu.peek::<W>(cpu.address::<FULL>(at.uop())) {
        Some(b) => reg_with::<O, W>(cpu, at, b),
        None => reg_mem_slow::<O, W, FULL>(cpu, at),
    }
}

#[cold]
#[inline(never)]
pub fn reg_mem_slow<O: Binary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let b = attempt!(cpu, at, cpu.load::<W>(cpu.address::<FULL>(at.uop())));
    reg_with::<O, W>(cpu, at, b)
}

#[inline(always)]
fn reg_with<O: Binary, W: Word>(cpu: &mut Cpu, at: Cursor, b: W) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r0);
    let result = O::apply(&mut cpu.flags, a, b);
    if O::WRITES {
        result.write(&mut cpu.gpr, uop.r0);
    }
    at.next(cpu)
}

#[inline(always)]
fn to_mem<O: Binary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor, b: W) -> Flow {
    let address = cpu.address::<FULL>(at.uop());
    if O::WRITES {
        if cpu.modify_plain::<W>(address, |cpu, a| O::apply(&mut cpu.flags, a, b)) {
            return at.next(cpu);
        }
    } else if let Some(a) = cpu.peek::<W>(address) {
        O::apply(&mut cpu.flags, a, b);
        return at.next(cpu);
    }
    to_mem_slow::<O, W>(cpu, at, address, b)
}

#[cold]
#[inline(never)]
pub fn to_mem_slow<O: Binary, W: Word>(cpu: &mut Cpu, at: Cursor, address: u64, b: W) -> Flow {
    if O::WRITES {
        attempt!(cpu, at, cpu.modify::<W>(address, |cpu, a| O::apply(&mut cpu.flags, a, b)));
    } else {
        let a = attempt!(cpu, at, cpu.load::<W>(address));
        O::apply(&mut cpu.flags, a, b);
    }
    at.next(cpu)
}

fn mem_reg<O: Binary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let b = W::read(&cpu.gpr, at.uop().r1);
    to_mem::<O, W, FULL>(cpu, at, b)
}

fn mem_imm<O: Binary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let b = W::from(at.uop().imm);
    to_mem::<O, W, FULL>(cpu, at, b)
}

/// The handler of a two-operand instruction on operands of `size` bytes.
pub fn binary<O: Binary>(size: usize, form: Form) -> Handler {
    match form {
        Form::RegReg => pick!(size; reg_reg[O,]),
        Form::RegImm => pick!(size; reg_imm[O,]),
        Form::RegMem { full } => pick!(size, full; reg_mem[O,]),
        Form::MemReg { full } => pick!(size, full; mem_reg[O,]),
        Form::MemImm { full } => pick!(size, full; mem_imm[O,]),
    }
}

fn unary_reg<O: Unary, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r0);
    O::apply(&mut cpu.flags, a).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn unary_mem<O: Unary, W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let address = cpu.address::<FULL>(at.uop());
    if cpu.modify_plain::<W>(address, |cpu, a| O::apply(&mut cpu.flags, a)) {
        return at.next(cpu);
    }
    unary_mem_slow::<O, W>(cpu, at, address)
}

#[cold]
#[inline(never)]
fn unary_mem_slow<O: Unary, W: Word>(cpu: &mut Cpu, at: Cursor, address: u64) -> Flow {
    attempt!(cpu, at, cpu.modify::<W>(address, |cpu, a| O::apply(&mut cpu.flags, a)));
    at.next(cpu)
}

/// The handler of a one-operand instruction; `memory` is `Some(full)` for a memory operand.
pub fn unary<O: Unary>(size: usize, memory: Option<bool>) -> Handler {
    match memory {
        None => pick!(size; unary_reg[O,]),
        Some(full) => pick!(size, full; unary_mem[O,]),
    }
}
