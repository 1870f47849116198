//! Multiplication and division.

use super::{attempt, pick};
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::Word;

/// The truncated product of two signed numbers, with CF and OF if it does not fit.
#[inline(always)]
fn signed_product<W: Word>(cpu: &mut Cpu, a: W, b: W) -> W {
    let product = (a.sign() as i64 as i128) * (b.sign() as i64 as i128);
    let result = W::from(product as u64);
    let lost = result.sign() as i64 as i128 != product;
    cpu.flags.set_result(result.sign(), lost, lost);
    result
}

fn imul_reg_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    signed_product(cpu, a, b).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn imul_reg_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let b = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(uop)));
    let a = W::read(&cpu.gpr, uop.r0);
    signed_product(cpu, a, b).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn imul_reg_reg_imm<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r1);
    signed_product(cpu, a, W::from(uop.imm)).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn imul_reg_mem_imm<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(uop)));
    signed_product(cpu, a, W::from(uop.imm)).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

/// The handler of IMUL with two or three operands.
pub fn imul(size: usize, memory: bool, immediate: bool) -> Handler {
    match (memory, immediate) {
        (false, false) => pick!(size; imul_reg_reg[]),
        (true, false) => pick!(size; imul_reg_mem[]),
        (false, true) => pick!(size; imul_reg_reg_imm[]),
        (true, true) => pick!(size; imul_reg_mem_imm[]),
    }
}

/// Writes a double-width number to AX, DX:AX, EDX:EAX or RDX:RAX.
#[inline(always)]
fn write_double<W: Word>(cpu: &mut Cpu, value: u128) {
    if W::BITS == 8 {
        (value as u16).write(&mut cpu.gpr, 0);
    } else {
        W::from(value as u64).write(&mut cpu.gpr, 0);
        W::from((value >> W::BITS) as u64).write(&mut cpu.gpr, 2);
    }
}

/// Reads what [`write_double`] writes.
#[inline(always)]
fn read_double<W: Word>(cpu: &Cpu) -> u128 {
    if W::BITS == 8 {
        cpu.gpr[0] as u16 as u128
    } else {
        (W::read(&cpu.gpr, 2).zero() as u128) << W::BITS | W::read(&cpu.gpr, 0).zero() as u128
    }
}

/// An instruction on the accumulator and one operand.
trait Accumulate {
    fn apply<W: Word>(cpu: &mut Cpu, operand: W) -> Result<(), Exception>;
}

pub struct Mul;
pub struct Imul;
pub struct Div;
pub struct Idiv;

impl Accumulate for Mul {
    #[inline(always)]
    fn apply<W: Word>(cpu: &mut Cpu, operand: W) -> Result<(), Exception> {
        let product = W::read(&cpu.gpr, 0).zero() as u128 * operand.zero() as u128;
        let low = W::from(product as u64);
        let lost = low.zero() as u128 != product;
        cpu.flags.set_result(low.sign(), lost, lost);
        write_double::<W>(cpu, product);
        Ok(())
    }
}

impl Accumulate for Imul {
    #[inline(always)]
    fn apply<W: Word>(cpu: &mut Cpu, operand: W) -> Result<(), Exception> {
        let product = W::read(&cpu.gpr, 0).sign() as i64 as i128 * operand.sign() as i64 as i128;
        let low = W::from(product as u64);
        let lost = low.sign() as i64 as i128 != product;
        cpu.flags.set_result(low.sign(), lost, lost);
        write_double::<W>(cpu, product as u128);
        Ok(())
    }
}

/// Writes quotient and remainder: AL and AH for bytes, else the accumulator and (R/E)DX.
#[inline(always)]
fn write_quotient<W: Word>(cpu: &mut Cpu, quotient: u64, remainder: u64) {
    W::from(quotient).write(&mut cpu.gpr, 0);
    W::from(remainder).write(&mut cpu.gpr, if W::BITS == 8 { 32 } else { 2 });
}

impl Accumulate for Div {
    #[inline(always)]
    fn apply<W: Word>(cpu: &mut Cpu, operand: W) -> Result<(), Exception> {
        let divisor = operand.zero();
        let dividend = read_double::<W>(cpu);
        if divisor == 0 || dividend >> W::BITS >= divisor as u128 {
            return Err(Exception::DivideError);
        }
        // A 128-bit division is slow on the host and rarely needed.
        let (quotient, remainder) = match u64::try_from(dividend) {
            Ok(small) => (small / divisor, small % divisor),
            Err(_) => ((dividend / divisor as u128) as u64, (dividend % divisor as u128) as u64),
        };
        write_quotient::<W>(cpu, quotient, remainder);
        Ok(())
    }
}

impl Accumulate for Idiv {
    #[inline(always)]
    fn apply<W: Word>(cpu: &mut Cpu, operand: W) -> Result<(), Exception> {
        let divisor = operand.sign() as i64 as i128;
        let unused = if W::BITS == 8 { 112 } else { 128 - 2 * W::BITS };
        let dividend = (read_double::<W>(cpu) << unused) as i128 >> unused;
        let (Some(quotient), Some(remainder)) =
            (dividend.checked_div(divisor), dividend.checked_rem(divisor))
        else {
            return Err(Exception::DivideError);
        };
        if W::from(quotient as u64).sign() as i64 as i128 != quotient {
            return Err(Exception::DivideError);
        }
        write_quotient::<W>(cpu, quotient as u64, remainder as u64);
        Ok(())
    }
}

fn accumulate_reg<O: Accumulate, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let operand = W::read(&cpu.gpr, at.uop().r0);
    match O::apply(cpu, operand) {
        Ok(()) => at.next(cpu),
        Err(exception) => cpu.fault(at, exception),
    }
}

fn accumulate_mem<O: Accumulate, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let operand = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(at.uop())));
    match O::apply(cpu, operand) {
        Ok(()) => at.next(cpu),
        Err(exception) => cpu.fault(at, exception),
    }
}

fn accumulate<O: Accumulate>(size: usize, memory: bool) -> Handler {
    if memory { pick!(size; accumulate_mem[O,]) } else { pick!(size; accumulate_reg[O,]) }
}

/// The handler of MUL.
pub fn mul(size: usize, memory: bool) -> Handler {
    accumulate::<Mul>(size, memory)
}

/// The handler of IMUL with one operand.
pub fn imul_accumulator(size: usize, memory: bool) -> Handler {
    accumulate::<Imul>(size, memory)
}

/// The handler of DIV.
pub fn div(size: usize, memory: bool) -> Handler {
    accumulate::<Div>(size, memory)
}

/// The handler of IDIV.
pub fn idiv(size: usize, memory: bool) -> Handler {
    accumulate::<Idiv>(size, memory)
}
