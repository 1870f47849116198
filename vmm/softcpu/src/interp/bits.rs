//! Bit tests and bit scans.

use super::{attempt, pick};
use crate::cpu::Cpu;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::Word;

/// What a bit test does to the bit it tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitOp {
    Test,
    Set,
    Reset,
    Complement,
}

const TEST: u8 = BitOp::Test as u8;
const SET: u8 = BitOp::Set as u8;
const RESET: u8 = BitOp::Reset as u8;

#[inline(always)]
fn apply<W: Word, const OP: u8>(cpu: &mut Cpu, value: W, bit: u64) -> W {
    let mask = 1u64 << (bit & (W::BITS as u64 - 1));
    let value = value.zero();
    cpu.flags.set_cf(value & mask != 0);
    W::from(match OP {
        TEST => value,
        SET => value | mask,
        RESET => value & !mask,
        _ => value ^ mask,
    })
}

fn reg<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    // `r1` is the register with the bit number, or ZERO with the number in `imm`.
    let bit = cpu.gpr[uop.r1 as usize & 31] | uop.imm;
    let value = W::read(&cpu.gpr, uop.r0);
    let result = apply::<W, OP>(cpu, value, bit);
    if OP != TEST {
        result.write(&mut cpu.gpr, uop.r0);
    }
    at.next(cpu)
}

#[inline(always)]
fn memory<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor, address: u64, bit: u64) -> Flow {
    if OP == TEST {
        let value = attempt!(cpu, at, cpu.load::<W>(address));
        apply::<W, OP>(cpu, value, bit);
    } else {
        attempt!(cpu, at, cpu.modify::<W>(address, |cpu, value| apply::<W, OP>(cpu, value, bit)));
    }
    at.next(cpu)
}

fn mem_imm<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    memory::<W, OP>(cpu, at, cpu.address::<true>(uop), uop.imm)
}

/// The bit number in a register is signed and reaches beyond the operand.
fn mem_reg<W: Word, const OP: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let bit = W::read(&cpu.gpr, uop.r1).sign() as i64;
    let words = bit >> W::BITS.trailing_zeros();
    let address = cpu.address::<true>(uop).wrapping_add((words * W::BYTES as i64) as u64);
    memory::<W, OP>(cpu, at, address, bit as u64)
}

fn of_op<const OP: u8>(size: usize, memory: bool, immediate: bool) -> Handler {
    match (memory, immediate, size) {
        (false, _, 2) => reg::<u16, OP>,
        (false, _, 4) => reg::<u32, OP>,
        (false, _, _) => reg::<u64, OP>,
        (true, true, 2) => mem_imm::<u16, OP>,
        (true, true, 4) => mem_imm::<u32, OP>,
        (true, true, _) => mem_imm::<u64, OP>,
        (true, false, 2) => mem_reg::<u16, OP>,
        (true, false, 4) => mem_reg::<u32, OP>,
        (true, false, _) => mem_reg::<u64, OP>,
    }
}

/// The handler of BT, BTS, BTR or BTC.
pub fn bit_test(op: BitOp, size: usize, memory: bool, immediate: bool) -> Handler {
    match op {
        BitOp::Test => of_op::<TEST>(size, memory, immediate),
        BitOp::Set => of_op::<SET>(size, memory, immediate),
        BitOp::Reset => of_op::<RESET>(size, memory, immediate),
        BitOp::Complement => of_op::<{ BitOp::Complement as u8 }>(size, memory, immediate),
    }
}

/// BSF or, with `REVERSE`, BSR. Where the source is zero the destination keeps its value, also
/// its upper half, as on real CPUs.
#[inline(always)]
fn scan<W: Word, const REVERSE: bool>(cpu: &mut Cpu, at: Cursor, source: W) -> Flow {
    let value = source.zero();
    cpu.flags.set_result((value != 0) as u64, false, false);
    if value != 0 {
        let bit = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
        W::from(bit as u64).write(&mut cpu.gpr, at.uop().r0);
    }
    at.next(cpu)
}

fn scan_reg<const REVERSE: bool, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let source = W::read(&cpu.gpr, at.uop().r1);
    scan::<W, REVERSE>(cpu, at, source)
}

fn scan_mem<const REVERSE: bool, W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let source = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(at.uop())));
    scan::<W, REVERSE>(cpu, at, source)
}

/// The handler of BSF or BSR.
pub fn bit_scan(reverse: bool, size: usize, memory: bool) -> Handler {
    match (reverse, memory) {
        (false, false) => pick!(size; scan_reg[false,]),
        (false, true) => pick!(size; scan_mem[false,]),
        (true, false) => pick!(size; scan_reg[true,]),
        (true, true) => pick!(size; scan_mem[true,]),
    }
}
