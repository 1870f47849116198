//! Shifts and rotations.

use super::attempt;
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::Word;

/// One of the eight shifts, in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

const ROL: u8 = Shift::Rol as u8;
const ROR: u8 = Shift::Ror as u8;
const RCL: u8 = Shift::Rcl as u8;
const RCR: u8 = Shift::Rcr as u8;
const SHL: u8 = Shift::Shl as u8;
const SHR: u8 = Shift::Shr as u8;

/// Shifts `a` by `count`, of which five bits count, or six for a 64-bit operand. A count of
/// zero changes no flag. OF after counts above one is undefined; here it is what one more shift
/// by one would give, as on Intel CPUs. (SDM volume 2, SAL/SAR/SHL/SHR and RCL/RCR/ROL/ROR.)
#[inline(always)]
fn shift<W: Word, const OP: u8>(flags: &mut Flags, a: W, count: u8) -> W {
    let count = count as u32 & if W::BITS == 64 { 63 } else { 31 };
    if count == 0 {
        return a;
    }
    let bits = W::BITS;
    let value = a.zero();
    let top = |value: u64| value >> (bits - 1) & 1 != 0;
    match OP {
        SHL => {
            // A wide shift keeps the last bit shifted out.
            let wide = (value as u128) << count;
            let result = W::from(wide as u64);
            let carry = wide >> bits & 1 != 0;
            flags.set_result(result.sign(), carry, top(result.zero()) != carry);
            result
        }
        SHR => {
            let result = W::from(value.checked_shr(count).unwrap_or(0));
            let carry = value >> (count - 1) & 1 != 0;
            // The result's two top bits differ where the sign before the last shift was set.
            let of = top(result.zero()) != (result.zero() >> (bits - 2) & 1 != 0);
            flags.set_result(result.sign(), carry, of);
            result
        }
        ROL => {
            let by = count % bits;
            let result = W::from(value << by | value.checked_shr(bits - by).unwrap_or(0));
            let carry = result.zero() & 1 != 0;
            let of = top(result.zero()) != carry;
            set_carry_overflow(flags, carry, of);
            result
        }
        ROR => {
            let by = count % bits;
            let result = W::from(value >> by | value.checked_shl(bits - by).unwrap_or(0));
            let carry = top(result.zero());
            let of = carry != (result.zero() >> (bits - 2) & 1 != 0);
            set_carry_overflow(flags, carry, of);
            result
        }
        RCL | RCR => {
            // A rotation of bits + 1 bits, the carry on top.
            let width = bits + 1;
            let by = count % width;
            let wide = value as u128 | (flags.cf() as u128) << bits;
            let mask = (1u128 << width) - 1;
            let by = if OP == RCL { by } else { (width - by) % width };
            let rotated = (wide << by | wide >> (width - by)) & mask;
            let result = W::from(rotated as u64);
            let carry = rotated >> bits & 1 != 0;
            let of = if OP == RCL {
                top(result.zero()) != carry
            } else {
                top(result.zero()) != (result.zero() >> (bits - 2) & 1 != 0)
            };
            set_carry_overflow(flags, carry, of);
            result
        }
        _ => {
            let signed = a.sign() as i64;
            let result = W::from((signed >> count.min(63)) as u64);
            let carry = signed >> (count - 1).min(63) & 1 != 0;
            flags.set_result(result.sign(), carry, false);
            result
        }
    }
}

/// Replaces CF and OF alone.
#[inline(always)]
fn set_carry_overflow(flags: &mut Flags, carry: bool, overflow: bool) {
    flags.carries = flags.carries & !(3 << 62) | (carry as u64) << 63 | ((carry ^ overflow) as u64) << 62;
}

fn reg_imm<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let a = W::read(&cpu.gpr, uop.r0);
    shift::<W, OP>(&mut cpu.flags, a, uop.imm as u8).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn reg_cl<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, count) = (W::read(&cpu.gpr, uop.r0), cpu.gpr[1] as u8);
    shift::<W, OP>(&mut cpu.flags, a, count).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn mem_imm<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (address, count) = (cpu.address::<true>(uop), uop.imm as u8);
    attempt!(cpu, at, cpu.modify::<W>(address, |cpu, a| shift::<W, OP>(&mut cpu.flags, a, count)));
    at.next(cpu)
}

fn mem_cl<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let (address, count) = (cpu.address::<true>(at.uop()), cpu.gpr[1] as u8);
    attempt!(cpu, at, cpu.modify::<W>(address, |cpu, a| shift::<W, OP>(&mut cpu.flags, a, count)));
    at.next(cpu)
}

fn sized<W: Word, const OP: u8>(memory: bool, by_cl: bool) -> Handler {
    match (memory, by_cl) {
        (false, false) => reg_imm::<W, OP>,
        (false, true) => reg_cl::<W, OP>,
        (true, false) => mem_imm::<W, OP>,
        (true, true) => mem_cl::<W, OP>,
    }
}

fn of_size<const OP: u8>(size: usize, memory: bool, by_cl: bool) -> Handler {
    match size {
        1 => sized::<u8, OP>(memory, by_cl),
        2 => sized::<u16, OP>(memory, by_cl),
        4 => sized::<u32, OP>(memory, by_cl),
        _ => sized::<u64, OP>(memory, by_cl),
    }
}

/// The handler of a shift by an immediate or by CL.
pub fn handler(op: Shift, size: usize, memory: bool, by_cl: bool) -> Handler {
    match op {
        Shift::Rol => of_size::<ROL>(size, memory, by_cl),
        Shift::Ror => of_size::<ROR>(size, memory, by_cl),
        Shift::Rcl => of_size::<RCL>(size, memory, by_cl),
        Shift::Rcr => of_size::<RCR>(size, memory, by_cl),
        Shift::Shl => of_size::<SHL>(size, memory, by_cl),
        Shift::Shr => of_size::<SHR>(size, memory, by_cl),
        Shift::Sar => of_size::<{ Shift::Sar as u8 }>(size, memory, by_cl),
    }
}

/// SHLD (`LEFT`) or SHRD of `a` with bits from `b`.
#[inline(always)]
fn double<W: Word, const LEFT: bool>(flags: &mut Flags, a: W, b: W, count: u8) -> W {
    let count = count as u32 & if W::BITS == 64 { 63 } else { 31 };
    if count == 0 {
        return a;
    }
    let bits = W::BITS;
    let (result, carry) = if LEFT {
        // a:b, and for 16-bit operands a again behind it, as counts up to 31 are possible.
        let wide = (a.zero() as u128) << bits | b.zero() as u128;
        let shifted = if count <= bits {
            wide << count >> bits
        } else {
            let wide = wide << bits | a.zero() as u128;
            wide << count >> (2 * bits)
        };
        let carry =
            if count <= bits { a.zero() >> (bits - count) & 1 } else { b.zero() >> (2 * bits - count) & 1 };
        (W::from(shifted as u64), carry != 0)
    } else {
        let wide = (b.zero() as u128) << bits | a.zero() as u128;
        let shifted =
            if count <= bits { wide >> count } else { (wide | (a.zero() as u128) << (2 * bits)) >> count };
        (W::from(shifted as u64), wide >> (count - 1) & 1 != 0)
    };
    let of = (result.zero() ^ a.zero()) >> (bits - 1) & 1 != 0;
    flags.set_result(result.sign(), carry, of);
    result
}

/// `extra` is 1 for a count in CL.
fn double_reg<W: Word, const LEFT: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let count = if uop.extra == 1 { cpu.gpr[1] as u8 } else { uop.imm as u8 };
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    double::<W, LEFT>(&mut cpu.flags, a, b, count).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn double_mem<W: Word, const LEFT: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let count = if uop.extra == 1 { cpu.gpr[1] as u8 } else { uop.imm as u8 };
    let (address, b) = (cpu.address::<true>(uop), W::read(&cpu.gpr, uop.r1));
    attempt!(cpu, at, cpu.modify::<W>(address, |cpu, a| double::<W, LEFT>(&mut cpu.flags, a, b, count)));
    at.next(cpu)
}

/// The handler of SHLD or SHRD.
pub fn double_shift(left: bool, size: usize, memory: bool) -> Handler {
    match (size, left, memory) {
        (2, true, false) => double_reg::<u16, true>,
        (2, false, false) => double_reg::<u16, false>,
        (2, true, true) => double_mem::<u16, true>,
        (2, false, true) => double_mem::<u16, false>,
        (4, true, false) => double_reg::<u32, true>,
        (4, false, false) => double_reg::<u32, false>,
        (4, true, true) => double_mem::<u32, true>,
        (4, false, true) => double_mem::<u32, false>,
        (_, true, false) => double_reg::<u64, true>,
        (_, false, false) => double_reg::<u64, false>,
        (_, true, true) => double_mem::<u64, true>,
        (_, false, true) => double_mem::<u64, false>,
    }
}
