//! Moves between registers and memory, extensions, conditional moves, LEA.

use super::{attempt, instructions, pick, pick_condition};
use crate::cpu::Cpu;
use crate::flags;
use crate::interp::alu::Form;
use crate::uop::{Cursor, Flow, Handler, SCRATCH};
use crate::word::Word;

fn reg_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    W::read(&cpu.gpr, uop.r1).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn reg_imm<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    W::from(uop.imm).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn reg_mem<W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    match cpu.peek::<W>(cpu.address::<FULL>(uop)) {
        Some(value) => {
            value.write(&mut cpu.gpr, uop.r0);
            at.next(cpu)
        }
        None => load_slow::<W, W, false>(cpu, at, cpu.address::<FULL>(uop)),
    }
}

/// What is left of a load where memory is not plain.
#[cold]
#[inline(never)]
fn load_slow<S: Word, D: Word, const SIGN: bool>(cpu: &mut Cpu, at: Cursor, address: u64) -> Flow {
    let value = attempt!(cpu, at, cpu.load::<S>(address));
    extend::<S, D, SIGN>(value).write(&mut cpu.gpr, at.uop().r0);
    at.next(cpu)
}

#[inline(always)]
fn to_mem<W: Word>(cpu: &mut Cpu, at: Cursor, address: u64, value: W) -> Flow {
    if cpu.poke(address, value) {
        return at.next(cpu);
    }
    to_mem_slow(cpu, at, address, value)
}

#[cold]
#[inline(never)]
fn to_mem_slow<W: Word>(cpu: &mut Cpu, at: Cursor, address: u64, value: W) -> Flow {
    attempt!(cpu, at, cpu.store(address, value));
    at.next(cpu)
}

fn mem_reg<W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    to_mem(cpu, at, cpu.address::<FULL>(uop), W::read(&cpu.gpr, uop.r1))
}

fn mem_imm<W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    to_mem(cpu, at, cpu.address::<FULL>(uop), W::from(uop.imm))
}

/// The handler of MOV.
pub fn mov(size: usize, form: Form) -> Handler {
    match form {
        Form::RegReg => pick!(size; reg_reg[]),
        Form::RegImm => pick!(size; reg_imm[]),
        Form::RegMem { full } => pick!(size, full; reg_mem[]),
        Form::MemReg { full } => pick!(size, full; mem_reg[]),
        Form::MemImm { full } => pick!(size, full; mem_imm[]),
    }
}

#[inline(always)]
fn extend<S: Word, D: Word, const SIGN: bool>(value: S) -> D {
    D::from(if SIGN { value.sign() } else { value.zero() })
}

fn extend_reg<S: Word, D: Word, const SIGN: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    extend::<S, D, SIGN>(S::read(&cpu.gpr, uop.r1)).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn extend_mem<S: Word, D: Word, const SIGN: bool, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    match cpu.peek::<S>(cpu.address::<FULL>(uop)) {
        Some(value) => {
            extend::<S, D, SIGN>(value).write(&mut cpu.gpr, uop.r0);
            at.next(cpu)
        }
        None => load_slow::<S, D, SIGN>(cpu, at, cpu.address::<FULL>(uop)),
    }
}

fn extend_sized<S: Word, D: Word>(sign: bool, memory: Option<bool>) -> Handler {
    match (sign, memory) {
        (false, None) => extend_reg::<S, D, false>,
        (true, None) => extend_reg::<S, D, true>,
        (false, Some(false)) => extend_mem::<S, D, false, false>,
        (false, Some(true)) => extend_mem::<S, D, false, true>,
        (true, Some(false)) => extend_mem::<S, D, true, false>,
        (true, Some(true)) => extend_mem::<S, D, true, true>,
    }
}

/// The handler of MOVZX, MOVSX and MOVSXD from `source` to `destination` bytes.
pub fn movx(source: usize, destination: usize, sign: bool, memory: Option<bool>) -> Handler {
    match (source, destination) {
        (1, 2) => extend_sized::<u8, u16>(sign, memory),
        (1, 4) => extend_sized::<u8, u32>(sign, memory),
        (1, _) => extend_sized::<u8, u64>(sign, memory),
        (2, 2) => extend_sized::<u16, u16>(sign, memory),
        (2, 4) => extend_sized::<u16, u32>(sign, memory),
        (2, _) => extend_sized::<u16, u64>(sign, memory),
        // MOVSXD with a 16-bit operand size moves 16 bits.
        (_, 2) => extend_sized::<u16, u16>(sign, memory),
        (_, 4) => extend_sized::<u32, u32>(sign, memory),
        (_, _) => extend_sized::<u32, u64>(sign, memory),
    }
}

fn load_address<W: Word, const FULL: bool>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    W::from(cpu.address::<FULL>(uop)).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

/// The handler of LEA (its operand has no segment base).
pub fn lea(size: usize, full: bool) -> Handler {
    pick!(size, full; load_address[])
}

/// Works out an address of 32 bits for the instruction behind it, which uses SCRATCH as base.
/// `imm` is added before, the segment base after the address is cut.
pub fn address32(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let base = cpu.gpr[uop.base as usize & 31].wrapping_add(uop.imm);
    let index = cpu.gpr[uop.index as usize & 31] << (uop.scale & 3);
    cpu.gpr[SCRATCH as usize] = base.wrapping_add(index) as u32 as u64;
    at.next(cpu)
}

/// Works out an address whose displacement needs more than 32 bits.
pub fn address64(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    cpu.gpr[SCRATCH as usize] = cpu.gpr[uop.base as usize & 31].wrapping_add(uop.imm);
    at.next(cpu)
}

fn cmov_reg<W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    // A 32-bit move clears the upper half even if the condition is false.
    let source = if cpu.flags.condition::<CC>() { uop.r1 } else { uop.r0 };
    W::read(&cpu.gpr, source).write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn cmov_mem<W: Word, const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    // Memory is read, and may fault, whatever the condition.
    let value = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(uop)));
    let value = if cpu.flags.condition::<CC>() { value } else { W::read(&cpu.gpr, uop.r0) };
    value.write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

/// The handler of CMOVcc.
pub fn cmov(size: usize, condition: u8, memory: bool) -> Handler {
    match (size, memory) {
        (2, false) => pick_condition!(condition; cmov_reg[u16,]),
        (4, false) => pick_condition!(condition; cmov_reg[u32,]),
        (_, false) => pick_condition!(condition; cmov_reg[u64,]),
        (2, true) => pick_condition!(condition; cmov_mem[u16,]),
        (4, true) => pick_condition!(condition; cmov_mem[u32,]),
        (_, true) => pick_condition!(condition; cmov_mem[u64,]),
    }
}

fn set_reg<const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    (cpu.flags.condition::<CC>() as u8).write(&mut cpu.gpr, at.uop().r0);
    at.next(cpu)
}

fn set_mem<const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let value = cpu.flags.condition::<CC>() as u8;
    attempt!(cpu, at, cpu.store(cpu.address::<true>(at.uop()), value));
    at.next(cpu)
}

/// The handler of SETcc.
pub fn set(condition: u8, memory: bool) -> Handler {
    if memory { pick_condition!(condition; set_mem[]) } else { pick_condition!(condition; set_reg[]) }
}

instructions! {
    /// CBW, CWDE, CDQE: `extra` is the destination's size.
    next fn sign_extend_rax(cpu, uop) {
        let rax = cpu.gpr[0];
        match uop.extra {
            2 => (rax as u8 as i8 as u16).write(&mut cpu.gpr, 0),
            4 => (rax as u16 as i16 as u32).write(&mut cpu.gpr, 0),
            _ => (rax as u32 as i32 as u64).write(&mut cpu.gpr, 0),
        }
    }

    /// CWD, CDQ, CQO: `extra` is the operand size.
    next fn sign_extend_to_rdx(cpu, uop) {
        let rax = cpu.gpr[0];
        match uop.extra {
            2 => ((rax as i16 >> 15) as u16).write(&mut cpu.gpr, 2),
            4 => ((rax as i32 >> 31) as u32).write(&mut cpu.gpr, 2),
            _ => ((rax as i64 >> 63) as u64).write(&mut cpu.gpr, 2),
        }
    }

    /// BSWAP; the result of a 16-bit one is undefined (zero, as on Intel).
    next fn bswap(cpu, uop) {
        match uop.extra {
            2 => 0u16.write(&mut cpu.gpr, uop.r0),
            4 => u32::read(&cpu.gpr, uop.r0).swap_bytes().write(&mut cpu.gpr, uop.r0),
            _ => u64::read(&cpu.gpr, uop.r0).swap_bytes().write(&mut cpu.gpr, uop.r0),
        }
    }

    next fn lahf(cpu, _uop) {
        // AH is byte register 32; the low byte of RFLAGS has bit 1 set.
        ((cpu.flags.arithmetic() | flags::ONE) as u8).write(&mut cpu.gpr, 32);
    }

    next fn sahf(cpu, _uop) {
        let ah = u8::read(&cpu.gpr, 32) as u64;
        let kept = cpu.flags.arithmetic() & flags::OF;
        cpu.flags.set_arithmetic(ah & (flags::ARITHMETIC & !flags::OF) | kept);
    }

    /// XLAT: the memory operand is RBX plus AL plus the segment (`imm` masks the address).
    next fn xlat(cpu, uop) {
        let offset = cpu.gpr[3].wrapping_add(cpu.gpr[0] & 0xff) & uop.imm;
        let address = offset.wrapping_add(cpu.gpr[uop.segment as usize & 31]);
        cpu.load::<u8>(address)?.write(&mut cpu.gpr, 0);
    }

    next fn cmc(cpu, _uop) {
        let carry = cpu.flags.cf();
        cpu.flags.set_cf(!carry);
    }

    next fn clc(cpu, _uop) {
        cpu.flags.set_cf(false);
    }

    next fn stc(cpu, _uop) {
        cpu.flags.set_cf(true);
    }

    next fn cld(cpu, _uop) {
        cpu.flags.system &= !flags::DF;
    }

    next fn std(cpu, _uop) {
        cpu.flags.system |= flags::DF;
    }
}

/// NOP, PAUSE, prefetches, fences, ENDBR.
pub fn nop(cpu: &mut Cpu, at: Cursor) -> Flow {
    at.next(cpu)
}
