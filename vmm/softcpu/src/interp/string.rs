//! String instructions.
//!
//! A repeated one executes at most one page's worth of elements at a time. Where more is left,
//! RIP stays and the run loop comes back, so interrupts are taken and a fault in the middle
//! leaves RCX, RSI and RDI as they are then.

use super::{attempt, pick};
use crate::cpu::{Abort, Cpu};
use crate::memory::{HostPage, PAGE};
use crate::mode::{CodeSize, base_register};
use crate::paging::Access;
use crate::segment::Segment;
use crate::uop::{Cursor, Flow, Handler, PAGE_BASE, Uop, ZERO};
use crate::word::{self, Word};

const RAX: u8 = 0;
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

/// A repeat prefix, as `Uop::extra` holds it.
pub const ONCE: u16 = 0;
/// REP or REPE.
pub const REPEAT: u16 = 1;
/// REPNE.
pub const REPEAT_UNEQUAL: u16 = 2;

/// Bytes a host copies in the time of one guest instruction; it is how long strings take.
pub const BYTES_PER_TICK: u64 = 64;

/// Adds to a counter or pointer register; `uop.imm` masks shorter addresses. A 32-bit register's upper
/// half becomes zero, what is above 16 bits stays.
#[inline(always)]
fn advance(cpu: &mut Cpu, uop: &Uop, register: usize, by: u64) {
    let old = cpu.gpr[register];
    let kept = if uop.imm == 0xffff { old & !0xffff } else { 0 };
    cpu.gpr[register] = old.wrapping_add(by) & uop.imm | kept;
}

/// The signed distance from one element to the next.
#[inline(always)]
fn step<W: Word>(cpu: &Cpu) -> u64 {
    if cpu.flags.backwards() { W::BYTES.wrapping_neg() } else { W::BYTES }
}

/// Address of the element of `size` bytes at RSI in the segment of the instruction.
#[inline(always)]
fn source(cpu: &mut Cpu, uop: &Uop, size: u64) -> Result<u64, Abort> {
    let offset = cpu.gpr[RSI] & uop.imm;
    if uop.segment == ZERO { Ok(offset) } else { in_segment(cpu, uop.segment, offset, size, false) }
}

/// Address of the element of `size` bytes at RDI.
#[inline(always)]
fn destination(cpu: &mut Cpu, uop: &Uop, size: u64, write: bool) -> Result<u64, Abort> {
    let offset = cpu.gpr[RDI] & uop.imm;
    if uop.base == ZERO { Ok(offset) } else { in_segment(cpu, uop.base, offset, size, write) }
}

#[cold]
fn in_segment(cpu: &mut Cpu, base: u8, offset: u64, size: u64, write: bool) -> Result<u64, Abort> {
    match segment_with(base) {
        Some(segment) if cpu.code_size != CodeSize::Long => cpu.segment_address(segment, offset, size, write),
        _ => Ok(offset.wrapping_add(cpu.gpr[base as usize & 31])),
    }
}

/// The segment whose base this pseudo-register is.
fn segment_with(base: u8) -> Option<Segment> {
    Segment::ALL.into_iter().find(|&segment| base_register(segment) == base)
}

/// Whether the segment allows all that an address of the instruction can name in one page, so that it need not be
/// asked for every element.
fn is_open(cpu: &Cpu, uop: &Uop, base: u8) -> bool {
    if cpu.code_size == CodeSize::Long {
        // Addresses of 32 bits begin anew behind 4 GiB, wherever that is in a page.
        return uop.imm == u64::MAX || cpu.gpr[base as usize & 31].is_multiple_of(PAGE);
    }
    segment_with(base).is_some_and(|segment| {
        let loaded = &cpu.segments[segment];
        uop.imm != 0xffff && loaded.is_flat_data() && loaded.base.is_multiple_of(PAGE)
    })
}

/// Whole elements from `address` to the end of its page.
fn elements_in_page<W: Word>(address: u64) -> u64 {
    (PAGE - address % PAGE) / W::BYTES
}

/// Goes on behind the string instruction at `at`, which is complete: in the block, unless its time was such that an
/// event is due before the block's end. Executed one by one, instructions would see it there.
fn complete(cpu: &mut Cpu, at: Cursor) -> Flow {
    if cpu.remaining < 0 { cpu.leave_behind(at) } else { at.next(cpu) }
}

/// Leaves the block to execute the instruction at `at` again.
fn again(cpu: &mut Cpu, at: Cursor) -> Flow {
    cpu.rip = cpu.gpr[PAGE_BASE as usize].wrapping_add(at.uop().offset as u64);
    cpu.remaining += cpu.block_instructions as i64 - at.uop().ordinal as i64 - 1;
    Flow::Jump
}

/// Runs `element` once, or RCX times. It returns false to stop a REPE or REPNE.
#[inline(always)]
fn repeat(cpu: &mut Cpu, at: Cursor, mut element: impl FnMut(&mut Cpu, &Uop) -> Result<bool, Abort>) -> Flow {
    let uop = at.uop();
    if uop.extra == ONCE {
        attempt!(cpu, at, element(cpu, uop));
        return at.next(cpu);
    }
    for _ in 0..256 {
        if cpu.gpr[RCX] & uop.imm == 0 {
            return complete(cpu, at);
        }
        let more = attempt!(cpu, at, element(cpu, uop));
        advance(cpu, uop, RCX, u64::MAX);
        cpu.remaining -= 1;
        if !more {
            return complete(cpu, at);
        }
    }
    if cpu.gpr[RCX] & uop.imm == 0 { complete(cpu, at) } else { again(cpu, at) }
}

/// The page a whole run of stores may go to, or `None` if each needs care: it is not RAM, or it
/// holds decoded code.
fn plain_destination(cpu: &mut Cpu, address: u64) -> Result<Option<HostPage>, Abort> {
    let physical = cpu.translate(cpu.mode, address, Access::Write)?;
    if cpu.code.holds_code(&cpu.ram, physical) {
        return Ok(None);
    }
    Ok(cpu.ram.page(physical))
}

/// MOVS, forwards, within one page each. Returns the number of elements moved.
fn move_run<W: Word>(cpu: &mut Cpu, from: u64, to: u64, count: u64) -> Result<u64, Abort> {
    let n = count.min(elements_in_page::<W>(from)).min(elements_in_page::<W>(to));
    if n == 0 || cpu.checks_accesses() {
        return Ok(0);
    }
    let physical = cpu.translate(cpu.mode, from, Access::Read)?;
    let Some(to_page) = plain_destination(cpu, to)? else { return Ok(0) };
    let Some(from_page) = cpu.ram.page(physical) else { return Ok(0) };
    to_page.move_forward::<W>(to % PAGE, from_page, from % PAGE, n * W::BYTES);
    Ok(n)
}

fn movs<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let count = cpu.gpr[RCX] & uop.imm;
    let open = is_open(cpu, uop, uop.segment) && is_open(cpu, uop, uop.base);
    if uop.extra != ONCE && count > 1 && open && !cpu.flags.backwards() {
        let from = attempt!(cpu, at, source(cpu, uop, W::BYTES));
        let to = attempt!(cpu, at, destination(cpu, uop, W::BYTES, true));
        let moved = attempt!(cpu, at, move_run::<W>(cpu, from, to, count));
        if moved > 0 {
            advance(cpu, uop, RSI, moved * W::BYTES);
            return finish_run(cpu, at, moved, W::BYTES);
        }
    }
    repeat(cpu, at, |cpu, uop| {
        let from = source(cpu, uop, W::BYTES)?;
        let to = destination(cpu, uop, W::BYTES, true)?;
        let value = cpu.load::<W>(from)?;
        cpu.store(to, value)?;
        let step = step::<W>(cpu);
        advance(cpu, uop, RSI, step);
        advance(cpu, uop, RDI, step);
        Ok(true)
    })
}

/// Accounts for `n` elements written at RDI.
fn finish_run(cpu: &mut Cpu, at: Cursor, n: u64, size: u64) -> Flow {
    let uop = at.uop();
    advance(cpu, uop, RDI, n * size);
    advance(cpu, uop, RCX, n.wrapping_neg());
    cpu.remaining -= (n * size / BYTES_PER_TICK) as i64;
    if cpu.gpr[RCX] & uop.imm == 0 { complete(cpu, at) } else { again(cpu, at) }
}

fn stos<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let count = cpu.gpr[RCX] & uop.imm;
    let value = W::read(&cpu.gpr, RAX);
    if uop.extra != ONCE && count > 1 && is_open(cpu, uop, uop.base) && !cpu.flags.backwards() {
        let to = attempt!(cpu, at, destination(cpu, uop, W::BYTES, true));
        let n = count.min(elements_in_page::<W>(to));
        if n > 0
            && !cpu.checks_accesses()
            && let Some(page) = attempt!(cpu, at, plain_destination(cpu, to))
        {
            page.fill(to % PAGE, value, n);
            return finish_run(cpu, at, n, W::BYTES);
        }
    }
    repeat(cpu, at, |cpu, uop| {
        let to = destination(cpu, uop, W::BYTES, true)?;
        cpu.store(to, value)?;
        let step = step::<W>(cpu);
        advance(cpu, uop, RDI, step);
        Ok(true)
    })
}

fn lods<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    repeat(cpu, at, |cpu, uop| {
        let from = source(cpu, uop, W::BYTES)?;
        cpu.load::<W>(from)?.write(&mut cpu.gpr, RAX);
        let step = step::<W>(cpu);
        advance(cpu, uop, RSI, step);
        Ok(true)
    })
}

/// Whether REPE or REPNE goes on after a comparison.
#[inline(always)]
fn goes_on(cpu: &Cpu, uop: &Uop) -> bool {
    cpu.flags.zf() == (uop.extra == REPEAT)
}

fn scas<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    repeat(cpu, at, |cpu, uop| {
        let at = destination(cpu, uop, W::BYTES, false)?;
        let value = cpu.load::<W>(at)?;
        let rax = W::read(&cpu.gpr, RAX);
        word::sub(&mut cpu.flags, rax, value, false);
        let step = step::<W>(cpu);
        advance(cpu, uop, RDI, step);
        Ok(goes_on(cpu, uop))
    })
}

fn cmps<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    repeat(cpu, at, |cpu, uop| {
        let from = source(cpu, uop, W::BYTES)?;
        let first = cpu.load::<W>(from)?;
        let with = destination(cpu, uop, W::BYTES, false)?;
        let second = cpu.load::<W>(with)?;
        word::sub(&mut cpu.flags, first, second, false);
        let step = step::<W>(cpu);
        advance(cpu, uop, RSI, step);
        advance(cpu, uop, RDI, step);
        Ok(goes_on(cpu, uop))
    })
}

/// One of the string instructions that work on memory and the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringOp {
    Movs,
    Stos,
    Lods,
    Scas,
    Cmps,
}

/// The handler of a string instruction.
pub fn handler(op: StringOp, size: usize) -> Handler {
    match op {
        StringOp::Movs => pick!(size; movs[]),
        StringOp::Stos => pick!(size; stos[]),
        StringOp::Lods => pick!(size; lods[]),
        StringOp::Scas => pick!(size; scas[]),
        StringOp::Cmps => pick!(size; cmps[]),
    }
}

/// INS of `uop.r0` bytes from port DX.
pub fn ins(cpu: &mut Cpu, at: Cursor) -> Flow {
    let size = at.uop().r0;
    repeat(cpu, at, |cpu, uop| {
        let port = cpu.gpr[2] as u16;
        cpu.require_port(port, size)?;
        let to = destination(cpu, uop, size as u64, true)?;
        cpu.probe_write(to, size as u64)?;
        let value = cpu.port_in(port, size)?;
        match size {
            1 => cpu.store(to, value as u8)?,
            2 => cpu.store(to, value as u16)?,
            _ => cpu.store(to, value)?,
        }
        let step = if cpu.flags.backwards() { (size as u64).wrapping_neg() } else { size as u64 };
        advance(cpu, uop, RDI, step);
        Ok(true)
    })
}

/// OUTS of `uop.r0` bytes to port DX.
pub fn outs(cpu: &mut Cpu, at: Cursor) -> Flow {
    let size = at.uop().r0;
    repeat(cpu, at, |cpu, uop| {
        let port = cpu.gpr[2] as u16;
        cpu.require_port(port, size)?;
        let from = source(cpu, uop, size as u64)?;
        let value = match size {
            1 => cpu.load::<u8>(from)? as u32,
            2 => cpu.load::<u16>(from)? as u32,
            _ => cpu.load::<u32>(from)?,
        };
        cpu.port_out(port, size, value)?;
        let step = if cpu.flags.backwards() { (size as u64).wrapping_neg() } else { size as u64 };
        advance(cpu, uop, RSI, step);
        Ok(true)
    })
}
