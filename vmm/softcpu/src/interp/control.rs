//! Near jumps, calls and returns, and what ends a block without an instruction.
//!
//! Targets in `imm` and fall-through addresses are offsets from the block's page.

use super::{attempt, pick_condition};
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::interp::stack::RSP;
use crate::paging::is_canonical;
use crate::uop::{Cursor, Flow, Handler, PAGE_BASE};
use crate::word::Word;

/// Leaves the block through link `SIDE` to an offset from its page: 0 where it falls through, 1
/// where it jumps.
#[inline(always)]
fn leave<const SIDE: usize>(cpu: &mut Cpu, offset: u64) -> Flow {
    cpu.rip = cpu.gpr[PAGE_BASE as usize].wrapping_add(offset);
    if SIDE == 0 { Flow::Link0 } else { Flow::Link1 }
}

/// The block goes on in another one, because it is full or its page is.
pub fn fall_through(cpu: &mut Cpu, at: Cursor) -> Flow {
    leave::<0>(cpu, at.uop().imm)
}

/// JMP to a fixed place.
pub fn jmp(cpu: &mut Cpu, at: Cursor) -> Flow {
    leave::<1>(cpu, at.uop().imm)
}

/// The conditional jump at `at`.
#[inline(always)]
pub fn jump_if<const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    if cpu.flags.condition::<CC>() { leave::<1>(cpu, uop.imm) } else { leave::<0>(cpu, uop.next_offset()) }
}

fn jcc_condition<const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    jump_if::<CC>(cpu, at)
}

/// The handler of a conditional jump.
pub fn jcc(condition: u8) -> Handler {
    pick_condition!(condition; jcc_condition[])
}

/// CALL of a fixed place.
pub fn call(cpu: &mut Cpu, at: Cursor) -> Flow {
    let back = cpu.next_rip(at);
    let rsp = cpu.gpr[RSP].wrapping_sub(8);
    if cpu.poke(rsp, back) {
        cpu.gpr[RSP] = rsp;
        return leave::<1>(cpu, at.uop().imm);
    }
    call_slow(cpu, at)
}

#[cold]
#[inline(never)]
fn call_slow(cpu: &mut Cpu, at: Cursor) -> Flow {
    let back = cpu.next_rip(at);
    attempt!(cpu, at, cpu.push(back));
    leave::<1>(cpu, at.uop().imm)
}

/// Jumps to an address that only now is known.
#[inline(always)]
fn jump_to(cpu: &mut Cpu, at: Cursor, target: u64) -> Flow {
    if !is_canonical(target) {
        return cpu.fault(at, Exception::GeneralProtection(0));
    }
    cpu.rip = target;
    Flow::Jump
}

pub fn jmp_reg(cpu: &mut Cpu, at: Cursor) -> Flow {
    let target = cpu.gpr[at.uop().r1 as usize & 31];
    jump_to(cpu, at, target)
}

pub fn jmp_mem(cpu: &mut Cpu, at: Cursor) -> Flow {
    let target = attempt!(cpu, at, cpu.load::<u64>(cpu.address::<true>(at.uop())));
    jump_to(cpu, at, target)
}

#[inline(always)]
fn call_to(cpu: &mut Cpu, at: Cursor, target: u64) -> Flow {
    if !is_canonical(target) {
        return cpu.fault(at, Exception::GeneralProtection(0));
    }
    let back = cpu.next_rip(at);
    attempt!(cpu, at, cpu.push(back));
    cpu.rip = target;
    Flow::Jump
}

pub fn call_reg(cpu: &mut Cpu, at: Cursor) -> Flow {
    let target = cpu.gpr[at.uop().r1 as usize & 31];
    call_to(cpu, at, target)
}

pub fn call_mem(cpu: &mut Cpu, at: Cursor) -> Flow {
    let target = attempt!(cpu, at, cpu.load::<u64>(cpu.address::<true>(at.uop())));
    call_to(cpu, at, target)
}

/// RET, which drops `imm` more bytes.
pub fn ret(cpu: &mut Cpu, at: Cursor) -> Flow {
    match cpu.peek::<u64>(cpu.gpr[RSP]) {
        Some(target) if is_canonical(target) => return_to(cpu, at, target),
        _ => ret_slow(cpu, at),
    }
}

#[cold]
#[inline(never)]
fn ret_slow(cpu: &mut Cpu, at: Cursor) -> Flow {
    let target = attempt!(cpu, at, cpu.load::<u64>(cpu.gpr[RSP]));
    if !is_canonical(target) {
        return cpu.fault(at, Exception::GeneralProtection(0));
    }
    return_to(cpu, at, target)
}

#[inline(always)]
fn return_to(cpu: &mut Cpu, at: Cursor, target: u64) -> Flow {
    cpu.gpr[RSP] = cpu.gpr[RSP].wrapping_add(8).wrapping_add(at.uop().imm);
    cpu.rip = target;
    Flow::Jump
}

/// LOOP, LOOPE, LOOPNE: `r0` is 0, 1, 2; `disp` masks the counter's size.
pub fn loop_(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    if loops(cpu, at) { leave::<1>(cpu, uop.imm) } else { leave::<0>(cpu, uop.next_offset()) }
}

/// Counts, and says whether LOOP jumps.
pub fn loops(cpu: &mut Cpu, at: Cursor) -> bool {
    let uop = at.uop();
    let count = counter(cpu, at).wrapping_sub(1);
    match uop.disp {
        2 => (count as u16).write(&mut cpu.gpr, 1),
        4 => (count as u32).write(&mut cpu.gpr, 1),
        _ => cpu.gpr[1] = count,
    }
    let more = counter(cpu, at) != 0;
    match uop.r0 {
        0 => more,
        1 => more && cpu.flags.zf(),
        _ => more && !cpu.flags.zf(),
    }
}

/// JRCXZ and JECXZ.
pub fn jcxz(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    if counter(cpu, at) == 0 { leave::<1>(cpu, uop.imm) } else { leave::<0>(cpu, uop.next_offset()) }
}

/// The low `disp` bytes of RCX.
pub fn counter(cpu: &Cpu, at: Cursor) -> u64 {
    match at.uop().disp {
        2 => cpu.gpr[1] & 0xffff,
        4 => cpu.gpr[1] & 0xffff_ffff,
        _ => cpu.gpr[1],
    }
}

/// Ends a block behind an instruction that called a device.
pub fn resume(cpu: &mut Cpu, at: Cursor) -> Flow {
    cpu.rip = cpu.next_rip(at);
    Flow::Sync
}

/// All that is left of a block that was dropped. No valid link leads here.
pub fn dropped(_: &mut Cpu, _: Cursor) -> Flow {
    Flow::Sync
}

/// The instruction does not exist, or not here.
pub fn invalid(cpu: &mut Cpu, at: Cursor) -> Flow {
    cpu.fault(at, Exception::InvalidOpcode)
}

/// An instruction this CPU lacks: #UD, and counted. `imm` is iced's number of the mnemonic.
pub fn unknown(cpu: &mut Cpu, at: Cursor) -> Flow {
    *cpu.unknown.entry(at.uop().imm as u16).or_default() += 1;
    cpu.fault(at, Exception::InvalidOpcode)
}

/// An instruction longer than 15 bytes.
pub fn too_long(cpu: &mut Cpu, at: Cursor) -> Flow {
    cpu.fault(at, Exception::GeneralProtection(0))
}
