//! XCHG, XADD and compare-and-exchange. With one CPU a LOCK prefix needs no more than this.

use super::{attempt, instructions, pick};
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::uop::{Cursor, Flow, Handler};
use crate::word::{self, Word};

fn xchg_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    a.write(&mut cpu.gpr, uop.r1);
    b.write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn xchg_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let new = W::read(&cpu.gpr, uop.r1);
    let mut old = W::default();
    let address = cpu.address::<true>(uop);
    attempt!(
        cpu,
        at,
        cpu.modify::<W>(address, |_, value| {
            old = value;
            new
        })
    );
    old.write(&mut cpu.gpr, uop.r1);
    at.next(cpu)
}

/// The handler of XCHG, its second operand a register.
pub fn xchg(size: usize, memory: bool) -> Handler {
    if memory { pick!(size; xchg_mem[]) } else { pick!(size; xchg_reg[]) }
}

fn xadd_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (a, b) = (W::read(&cpu.gpr, uop.r0), W::read(&cpu.gpr, uop.r1));
    let sum = word::add(&mut cpu.flags, a, b, false);
    a.write(&mut cpu.gpr, uop.r1);
    sum.write(&mut cpu.gpr, uop.r0);
    at.next(cpu)
}

fn xadd_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let b = W::read(&cpu.gpr, uop.r1);
    let mut old = W::default();
    let address = cpu.address::<true>(uop);
    attempt!(
        cpu,
        at,
        cpu.modify::<W>(address, |cpu, a| {
            old = a;
            word::add(&mut cpu.flags, a, b, false)
        })
    );
    old.write(&mut cpu.gpr, uop.r1);
    at.next(cpu)
}

/// The handler of XADD.
pub fn xadd(size: usize, memory: bool) -> Handler {
    if memory { pick!(size; xadd_mem[]) } else { pick!(size; xadd_reg[]) }
}

fn cmpxchg_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (expected, old) = (W::read(&cpu.gpr, 0), W::read(&cpu.gpr, uop.r0));
    word::sub(&mut cpu.flags, expected, old, false);
    if expected == old {
        W::read(&cpu.gpr, uop.r1).write(&mut cpu.gpr, uop.r0);
    } else {
        old.write(&mut cpu.gpr, 0);
    }
    at.next(cpu)
}

fn cmpxchg_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let (expected, new) = (W::read(&cpu.gpr, 0), W::read(&cpu.gpr, uop.r1));
    let mut old = W::default();
    let address = cpu.address::<true>(uop);
    // The destination is written in any case.
    attempt!(
        cpu,
        at,
        cpu.modify::<W>(address, |cpu, value| {
            old = value;
            word::sub(&mut cpu.flags, expected, value, false);
            if value == expected { new } else { value }
        })
    );
    if old != expected {
        old.write(&mut cpu.gpr, 0);
    }
    at.next(cpu)
}

/// The handler of CMPXCHG.
pub fn cmpxchg(size: usize, memory: bool) -> Handler {
    if memory { pick!(size; cmpxchg_mem[]) } else { pick!(size; cmpxchg_reg[]) }
}

instructions! {
    next fn cmpxchg8b(cpu, uop) {
        let (eax, ebx, ecx, edx) =
            (cpu.gpr[0] as u32, cpu.gpr[3] as u32, cpu.gpr[1] as u32, cpu.gpr[2] as u32);
        let expected = (edx as u64) << 32 | eax as u64;
        let new = (ecx as u64) << 32 | ebx as u64;
        let mut old = 0;
        let address = cpu.address::<true>(uop);
        cpu.modify::<u64>(address, |_, value| {
            old = value;
            if value == expected { new } else { value }
        })?;
        cpu.flags.set_zf(old == expected);
        if old != expected {
            cpu.gpr[0] = old as u32 as u64;
            cpu.gpr[2] = old >> 32;
        }
    }

    next fn cmpxchg16b(cpu, uop) {
        let address = cpu.address::<true>(uop);
        if !address.is_multiple_of(16) {
            return Err(cpu.raise(Exception::GeneralProtection(0)));
        }
        // Aligned to 16 bytes, so within one page.
        cpu.probe_write(address, 16)?;
        let (low, high) = (cpu.load::<u64>(address)?, cpu.load::<u64>(address + 8)?);
        let equal = low == cpu.gpr[0] && high == cpu.gpr[2];
        if equal {
            cpu.store(address, cpu.gpr[3])?;
            cpu.store(address + 8, cpu.gpr[1])?;
        } else {
            cpu.gpr[0] = low;
            cpu.gpr[2] = high;
        }
        cpu.flags.set_zf(equal);
    }
}
