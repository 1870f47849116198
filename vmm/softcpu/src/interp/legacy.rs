//! Instructions outside 64-bit mode: those that it lacks, and those that work on the stack, which is
//! a segment of its own there.
//!
//! `extra` is the operand size in bytes throughout.

use super::{control, instructions, pick_condition};
use crate::cpu::{Abort, Cpu};
use crate::exception::Exception;
use crate::flags;
use crate::interrupt::Source;
use crate::mode::CodeSize;
use crate::segment::{Segment, Table};
use crate::uop::{Cursor, Flow, Handler, PAGE_BASE, SCRATCH, Uop};
use crate::word::Word;

use super::attempt;
use super::stack::RSP;

const RAX: usize = 0;
const RCX: usize = 1;
const RBP: usize = 5;

/// `extra` of [`address`]: the access writes. The other bits are its size.
pub const WRITES: u16 = 1 << 15;

/// Works out the linear address of the memory operand of the instruction behind it, which uses
/// SCRATCH as base. `imm` masks the offset, `r0` is the segment.
pub fn address(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let offset = offset(cpu, uop);
    let segment = Segment::ALL[uop.r0 as usize & 7];
    let (size, write) = ((uop.extra & !WRITES) as u64, uop.extra & WRITES != 0);
    cpu.gpr[SCRATCH as usize] = attempt!(cpu, at, cpu.segment_address(segment, offset, size, write));
    at.next(cpu)
}

/// LEA's operand: like [`address`], without a segment.
pub fn effective(cpu: &mut Cpu, at: Cursor) -> Flow {
    cpu.gpr[SCRATCH as usize] = offset(cpu, at.uop());
    at.next(cpu)
}

#[inline(always)]
fn offset(cpu: &Cpu, uop: &Uop) -> u64 {
    let base = cpu.gpr[uop.base as usize & 31].wrapping_add(uop.disp as i64 as u64);
    base.wrapping_add(cpu.gpr[uop.index as usize & 31] << (uop.scale & 3)) & uop.imm
}

impl Cpu {
    /// Linear address of `size` bytes on the stack, `distance` bytes above (or below) its top.
    fn stack_address(&mut self, distance: u64, size: u64, write: bool) -> Result<u64, Abort> {
        let offset = self.gpr[RSP].wrapping_add(distance) & self.stack_mask();
        if self.code_size == CodeSize::Long {
            return Ok(offset);
        }
        self.segment_address(Segment::Ss, offset, size, write)
    }

    /// Moves the stack pointer.
    pub fn move_stack(&mut self, by: u64) {
        let (rsp, mask) = (self.gpr[RSP], self.stack_mask());
        self.gpr[RSP] = rsp & !mask | rsp.wrapping_add(by) & mask;
    }

    /// Pushes `size` bytes.
    pub fn push_sized(&mut self, size: u64, value: u64) -> Result<(), Abort> {
        let address = self.stack_address(size.wrapping_neg(), size, true)?;
        self.store_sized(address, size, value)?;
        self.move_stack(size.wrapping_neg());
        Ok(())
    }

    /// The value `index` words above the top of the stack.
    pub fn stack_word(&mut self, index: u64, size: u64) -> Result<u64, Abort> {
        let address = self.stack_address(index * size, size, false)?;
        self.load_sized(address, size)
    }

    fn pop_sized(&mut self, size: u64) -> Result<u64, Abort> {
        let value = self.stack_word(0, size)?;
        self.move_stack(size);
        Ok(value)
    }

    /// ENTER. On `Err` the stack pointer has moved, and nothing else.
    fn enter_frame(&mut self, size: u64, level: u64, room: u64) -> Result<(), Abort> {
        let bottom = self.stack_address((size * (level + 1)).wrapping_neg(), size * (level + 1), true)?;
        self.probe_write(bottom, size * (level + 1))?;
        // It faults where a store at the new top would. (SDM volume 2, ENTER.)
        let top = self.stack_address((size * (level + 1)).wrapping_add(room).wrapping_neg(), size, true)?;
        self.probe_write(top, size)?;
        let (rsp, rbp) = (self.gpr[RSP], self.gpr[RBP]);
        let mask = self.stack_mask();
        let frame = rsp & !mask | rsp.wrapping_sub(size) & mask;
        self.push_sized(size, rbp)?;
        for i in 1..level {
            let from = rbp.wrapping_sub(size * i) & mask;
            let from = self.segment_address(Segment::Ss, from, size, false)?;
            let pointer = self.load_sized(from, size)?;
            self.push_sized(size, pointer)?;
        }
        if level > 0 {
            self.push_sized(size, frame)?;
        }
        self.write_register(RBP as u8, size, frame);
        self.move_stack(room.wrapping_neg());
        Ok(())
    }

    fn write_register(&mut self, register: u8, size: u64, value: u64) {
        match size {
            2 => (value as u16).write(&mut self.gpr, register),
            _ => (value as u32).write(&mut self.gpr, register),
        }
    }

    /// Sets SF, ZF and PF by AL; the other three are given.
    fn set_adjusted(&mut self, carry: bool, adjust: bool) {
        let al = self.gpr[RAX] as u8;
        let mut bits = self.flags.bits() & !flags::ARITHMETIC;
        bits |= if carry { flags::CF } else { 0 } | if adjust { flags::AF } else { 0 };
        bits |= if al == 0 { flags::ZF } else { 0 } | if al & 0x80 != 0 { flags::SF } else { 0 };
        bits |= if al.count_ones().is_multiple_of(2) { flags::PF } else { 0 };
        self.flags.set_bits(bits);
    }

    /// DAA and DAS. (SDM volume 2.)
    fn decimal_adjust(&mut self, subtract: bool) {
        let (al, carry) = (self.gpr[RAX] as u8, self.flags.cf());
        let adjust = al & 0xf > 9 || self.flags.bits() & flags::AF != 0;
        let high = al > 0x99 || carry;
        let by = if adjust { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let result = if subtract { al.wrapping_sub(by) } else { al.wrapping_add(by) };
        // DAS also borrows where the low digit's adjustment does.
        let borrow = subtract && adjust && al < 6;
        result.write(&mut self.gpr, 0);
        self.set_adjusted(high || borrow, adjust);
    }

    /// AAA and AAS.
    fn ascii_adjust(&mut self, subtract: bool) {
        let ax = self.gpr[RAX] as u16;
        let adjust = ax & 0xf > 9 || self.flags.bits() & flags::AF != 0;
        let ax = match (adjust, subtract) {
            (false, _) => ax,
            (true, false) => ax.wrapping_add(0x106),
            (true, true) => ax.wrapping_sub(0x106),
        };
        (ax & 0xff0f).write(&mut self.gpr, 0);
        self.set_adjusted(adjust, adjust);
    }
}

instructions! {
    next fn push_register(cpu, uop) {
        let value = cpu.gpr[uop.r1 as usize & 31];
        cpu.push_sized(uop.extra as u64, value)?;
    }

    next fn push_immediate(cpu, uop) {
        cpu.push_sized(uop.extra as u64, uop.imm)?;
    }

    next fn push_memory(cpu, uop) {
        let address = cpu.address::<true>(uop);
        let value = cpu.load_sized(address, uop.extra as u64)?;
        cpu.push_sized(uop.extra as u64, value)?;
    }

    next fn push_segment(cpu, uop) {
        let selector = cpu.segments[Segment::ALL[uop.r1 as usize & 7]].selector;
        cpu.push_sized(uop.extra as u64, selector as u64)?;
    }

    next fn pop_register(cpu, uop) {
        let value = cpu.pop_sized(uop.extra as u64)?;
        cpu.write_register(uop.r0, uop.extra as u64, value);
    }

    /// The operand's address was worked out as if the stack pointer had moved.
    next fn pop_memory(cpu, uop) {
        let address = cpu.address::<true>(uop);
        let value = cpu.stack_word(0, uop.extra as u64)?;
        cpu.store_sized(address, uop.extra as u64, value)?;
        cpu.move_stack(uop.extra as u64);
    }

    ends fn pop_segment(cpu, uop) {
        let selector = cpu.stack_word(0, uop.extra as u64)? as u16;
        let segment = Segment::ALL[uop.r0 as usize & 7];
        // The old stack segment's size decides how far the pointer moves.
        let mask = cpu.stack_mask();
        cpu.load_segment(segment, selector)?;
        let rsp = cpu.gpr[RSP];
        cpu.gpr[RSP] = rsp & !mask | rsp.wrapping_add(uop.extra as u64) & mask;
        cpu.shadow = segment == Segment::Ss;
    }

    next fn pushf(cpu, uop) {
        let bits = cpu.flags.bits() & !(flags::RF | flags::VM);
        cpu.push_sized(uop.extra as u64, bits)?;
    }

    ends fn popf(cpu, uop) {
        let bits = cpu.pop_sized(uop.extra as u64)?;
        cpu.set_popped_flags(bits, uop.extra);
    }

    next fn pusha(cpu, uop) {
        let size = uop.extra as u64;
        let bottom = cpu.stack_address((8 * size).wrapping_neg(), 8 * size, true)?;
        cpu.probe_write(bottom, 8 * size)?;
        for (i, register) in [7, 6, 5, 4, 3, 2, 1, 0].into_iter().enumerate() {
            // What is pushed for RSP is its value before.
            let value = cpu.gpr[register];
            cpu.store_sized(bottom + i as u64 * size, size, value)?;
        }
        cpu.move_stack((8 * size).wrapping_neg());
    }

    next fn popa(cpu, uop) {
        let size = uop.extra as u64;
        let mut values = [0; 8];
        for (i, value) in values.iter_mut().enumerate() {
            *value = cpu.stack_word(i as u64, size)?;
        }
        cpu.move_stack(8 * size);
        for (value, register) in values.into_iter().zip([7, 6, 5, 4, 3, 2, 1, 0]) {
            if register as usize != RSP {
                cpu.write_register(register, size, value);
            }
        }
    }

    /// ENTER: `imm` is the frame's size, `r0` the nesting level.
    next fn enter(cpu, uop) {
        let rsp = cpu.gpr[RSP];
        if let Err(abort) = cpu.enter_frame(uop.extra as u64, uop.r0 as u64 & 31, uop.imm) {
            cpu.gpr[RSP] = rsp;
            return Err(abort);
        }
    }

    next fn leave(cpu, uop) {
        let size = uop.extra as u64;
        let (frame, mask) = (cpu.gpr[RBP] & cpu.stack_mask(), cpu.stack_mask());
        let address = cpu.segment_address(Segment::Ss, frame, size, false)?;
        let value = cpu.load_sized(address, size)?;
        cpu.gpr[RSP] = cpu.gpr[RSP] & !mask | frame.wrapping_add(size) & mask;
        cpu.write_register(RBP as u8, size, value);
    }

    /// CALL of a fixed place: `imm` is its offset from the page.
    ends fn call(cpu, uop) {
        let target = cpu.relative_target(uop)?;
        cpu.call_near(uop, target)?;
    }

    ends fn call_register(cpu, uop) {
        let target = cpu.near_target(uop, cpu.gpr[uop.r1 as usize & 31])?;
        cpu.call_near(uop, target)?;
    }

    ends fn call_memory(cpu, uop) {
        let target = cpu.load_sized(cpu.address::<true>(uop), uop.extra as u64)?;
        let target = cpu.near_target(uop, target)?;
        cpu.call_near(uop, target)?;
    }

    /// JMP to a fixed place, with operands of a size that is not the code's.
    ends fn jump(cpu, uop) {
        let target = cpu.relative_target(uop)?;
        cpu.set_instruction_pointer(target);
    }

    ends fn jump_register(cpu, uop) {
        let target = cpu.near_target(uop, cpu.gpr[uop.r1 as usize & 31])?;
        cpu.set_instruction_pointer(target);
    }

    ends fn jump_memory(cpu, uop) {
        let target = cpu.load_sized(cpu.address::<true>(uop), uop.extra as u64)?;
        let target = cpu.near_target(uop, target)?;
        cpu.set_instruction_pointer(target);
    }

    /// RET, which drops `imm` more bytes.
    ends fn ret(cpu, uop) {
        let target = cpu.stack_word(0, uop.extra as u64)?;
        let target = cpu.near_target(uop, target)?;
        cpu.move_stack(uop.extra as u64 + uop.imm);
        cpu.set_instruction_pointer(target);
    }

    /// JMP to `imm` in segment `disp`.
    ends fn jump_far(cpu, uop) {
        cpu.far_transfer(uop.disp as u16, uop.imm, None)?;
    }

    ends fn call_far(cpu, uop) {
        cpu.far_transfer(uop.disp as u16, uop.imm, Some(uop.extra as u64))?;
    }

    /// LES, LDS, LSS, LFS, LGS: `r0` is the register, `r1` the segment.
    ends fn load_far_pointer(cpu, uop) {
        let (address, size) = (cpu.address::<true>(uop), uop.extra as u64);
        let offset = cpu.load_sized(address, size)?;
        let selector = cpu.load::<u16>(address.wrapping_add(size))?;
        cpu.load_segment(Segment::ALL[uop.r1 as usize & 7], selector)?;
        match size {
            2 => (offset as u16).write(&mut cpu.gpr, uop.r0),
            4 => (offset as u32).write(&mut cpu.gpr, uop.r0),
            _ => offset.write(&mut cpu.gpr, uop.r0),
        }
    }

    /// INTO.
    ends fn into(cpu, _uop) {
        if cpu.flags.of() {
            cpu.interrupt(4, None, Source::Software)?;
        }
    }

    next fn bound(cpu, uop) {
        let (address, size) = (cpu.address::<true>(uop), uop.extra as u64);
        let (low, high) = (cpu.load_sized(address, size)?, cpu.load_sized(address + size, size)?);
        let sign = |value: u64| if size == 2 { value as i16 as i64 } else { value as i32 as i64 };
        let index = sign(cpu.gpr[uop.r0 as usize & 31]);
        if index < sign(low) || index > sign(high) {
            return Err(cpu.raise(Exception::BoundRange));
        }
    }

    /// ARPL to register `r0`, or to memory where `extra` is 1.
    next fn arpl(cpu, uop) {
        if cpu.is_real_mode() {
            return Err(cpu.raise(Exception::InvalidOpcode));
        }
        let address = cpu.address::<true>(uop);
        let memory = uop.extra == 1;
        let selector = if memory { cpu.load::<u16>(address)? } else { cpu.gpr[uop.r0 as usize & 31] as u16 };
        let wanted = cpu.gpr[uop.r1 as usize & 31] as u16 & 3;
        let raised = selector & 3 < wanted;
        if raised {
            let selector = selector & !3 | wanted;
            if memory {
                cpu.store(address, selector)?;
            } else {
                selector.write(&mut cpu.gpr, uop.r0);
            }
        }
        cpu.flags.set_zf(raised);
    }

    next fn daa(cpu, _uop) {
        cpu.decimal_adjust(false);
    }

    next fn das(cpu, _uop) {
        cpu.decimal_adjust(true);
    }

    next fn aaa(cpu, _uop) {
        cpu.ascii_adjust(false);
    }

    next fn aas(cpu, _uop) {
        cpu.ascii_adjust(true);
    }

    next fn aam(cpu, uop) {
        let divisor = uop.imm as u8;
        if divisor == 0 {
            return Err(cpu.raise(Exception::DivideError));
        }
        let al = cpu.gpr[RAX] as u8;
        ((al / divisor) as u16 * 0x100 + (al % divisor) as u16).write(&mut cpu.gpr, 0);
        cpu.set_adjusted(false, false);
    }

    next fn aad(cpu, uop) {
        let [al, ah, ..] = cpu.gpr[RAX].to_le_bytes();
        (al.wrapping_add(ah.wrapping_mul(uop.imm as u8)) as u16).write(&mut cpu.gpr, 0);
        cpu.set_adjusted(false, false);
    }

    next fn salc(cpu, _uop) {
        let value: u8 = if cpu.flags.cf() { 0xff } else { 0 };
        value.write(&mut cpu.gpr, 0);
    }

    /// LGDT (`r0` 0) and LIDT (1) of a 32-bit base, of which 16-bit operands use 24 bits.
    next fn load_table(cpu, uop) {
        cpu.require_supervisor()?;
        let address = cpu.address::<true>(uop);
        let limit = cpu.load::<u16>(address)?;
        let base = cpu.load::<u32>(address.wrapping_add(2))? as u64;
        let table = Table { limit, base: if uop.extra == 2 { base & 0xff_ffff } else { base } };
        if uop.r0 == 0 {
            cpu.segments.gdt = table;
        } else {
            cpu.segments.idt = table;
        }
    }

    next fn store_table(cpu, uop) {
        let table = if uop.r0 == 0 { cpu.segments.gdt } else { cpu.segments.idt };
        let address = cpu.address::<true>(uop);
        cpu.probe_write(address, 6)?;
        cpu.store(address, table.limit)?;
        cpu.store(address.wrapping_add(2), table.base as u32)?;
    }
}

/// A conditional jump with operands of a size that is not the code's.
fn jump_where(cpu: &mut Cpu, at: Cursor, taken: bool) -> Flow {
    if taken {
        return jump(cpu, at);
    }
    cpu.rip = cpu.next_rip(at);
    Flow::Sync
}

fn jump_condition<const CC: u8>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let taken = cpu.flags.condition::<CC>();
    jump_where(cpu, at, taken)
}

/// LOOP of that kind.
pub fn loop_(cpu: &mut Cpu, at: Cursor) -> Flow {
    let before = cpu.gpr[RCX];
    let taken = control::loops(cpu, at);
    let flow = jump_where(cpu, at, taken);
    if flow == Flow::Abort {
        cpu.gpr[RCX] = before;
    }
    flow
}

/// JCXZ of that kind.
pub fn jcxz(cpu: &mut Cpu, at: Cursor) -> Flow {
    let taken = control::counter(cpu, at) == 0;
    jump_where(cpu, at, taken)
}

/// The handler of a conditional jump with operands of a size that is not the code's.
pub fn jump_if(condition: u8) -> Handler {
    pick_condition!(condition; jump_condition[])
}

impl Cpu {
    /// An instruction pointer of the operand's size: #GP beyond the segment's limit.
    fn near_target(&mut self, uop: &Uop, target: u64) -> Result<u64, Abort> {
        let target = if uop.extra == 2 { target & 0xffff } else { target & 0xffff_ffff };
        if target > self.segments[Segment::Cs].limit as u64 {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        Ok(target)
    }

    /// The same where `imm` is the place's offset from the page.
    fn relative_target(&mut self, uop: &Uop) -> Result<u64, Abort> {
        let base = self.rip.wrapping_sub(self.instruction_pointer());
        let target = self.gpr[PAGE_BASE as usize].wrapping_add(uop.imm).wrapping_sub(base);
        self.near_target(uop, target)
    }

    fn call_near(&mut self, uop: &Uop, target: u64) -> Result<(), Abort> {
        let back = self.instruction_pointer();
        self.push_sized(uop.extra as u64, back)?;
        self.set_instruction_pointer(target);
        Ok(())
    }
}
