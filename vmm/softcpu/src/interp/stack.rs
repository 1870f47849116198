//! PUSH, POP, ENTER, LEAVE, PUSHF, POPF.

use super::{attempt, instructions};
use crate::cpu::{Abort, Cpu};
use crate::exception::Exception;
use crate::flags;
use crate::segment::Segment;
use crate::uop::{Cursor, Flow, Handler, Uop};
use crate::word::Word;

/// RSP's number.
pub const RSP: usize = 4;
const RBP: usize = 5;

impl Cpu {
    /// Pushes a word.
    #[inline(always)]
    pub fn push<W: Word>(&mut self, value: W) -> Result<(), Abort> {
        let rsp = self.gpr[RSP].wrapping_sub(W::BYTES);
        self.store(rsp, value)?;
        self.gpr[RSP] = rsp;
        Ok(())
    }

    /// Pops a word.
    #[inline(always)]
    pub fn pop<W: Word>(&mut self) -> Result<W, Abort> {
        let value = self.load(self.gpr[RSP])?;
        self.gpr[RSP] = self.gpr[RSP].wrapping_add(W::BYTES);
        Ok(value)
    }
}

#[inline(always)]
fn push_value<W: Word>(cpu: &mut Cpu, at: Cursor, value: W) -> Flow {
    let rsp = cpu.gpr[RSP].wrapping_sub(W::BYTES);
    if cpu.poke(rsp, value) {
        cpu.gpr[RSP] = rsp;
        return at.next(cpu);
    }
    push_slow(cpu, at, value)
}

#[cold]
#[inline(never)]
fn push_slow<W: Word>(cpu: &mut Cpu, at: Cursor, value: W) -> Flow {
    attempt!(cpu, at, cpu.push(value));
    at.next(cpu)
}

fn push_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let value = W::read(&cpu.gpr, at.uop().r1);
    push_value(cpu, at, value)
}

fn push_imm<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    push_value(cpu, at, W::from(at.uop().imm))
}

fn push_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let value = attempt!(cpu, at, cpu.load::<W>(cpu.address::<true>(at.uop())));
    attempt!(cpu, at, cpu.push(value));
    at.next(cpu)
}

fn pop_reg<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let rsp = cpu.gpr[RSP];
    match cpu.peek::<W>(rsp) {
        Some(value) => {
            cpu.gpr[RSP] = rsp.wrapping_add(W::BYTES);
            // After the stack pointer has moved, for POP RSP.
            value.write(&mut cpu.gpr, at.uop().r0);
            at.next(cpu)
        }
        None => pop_slow::<W>(cpu, at),
    }
}

#[cold]
#[inline(never)]
fn pop_slow<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let value = attempt!(cpu, at, cpu.pop::<W>());
    value.write(&mut cpu.gpr, at.uop().r0);
    at.next(cpu)
}

fn pop_mem<W: Word>(cpu: &mut Cpu, at: Cursor) -> Flow {
    let rsp = cpu.gpr[RSP];
    let value = attempt!(cpu, at, cpu.pop::<W>());
    // An address based on RSP is worked out after the stack pointer has moved.
    let address = cpu.address::<true>(at.uop());
    if let Err(Abort) = cpu.store(address, value) {
        cpu.gpr[RSP] = rsp;
        return cpu.give_up(at);
    }
    at.next(cpu)
}

/// What PUSH and POP work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Register,
    Memory,
    Immediate,
}

/// The handler of PUSH of 2 or 8 bytes.
pub fn push(size: usize, operand: Operand) -> Handler {
    match (size, operand) {
        (2, Operand::Register) => push_reg::<u16>,
        (2, Operand::Memory) => push_mem::<u16>,
        (2, Operand::Immediate) => push_imm::<u16>,
        (_, Operand::Register) => push_reg::<u64>,
        (_, Operand::Memory) => push_mem::<u64>,
        (_, Operand::Immediate) => push_imm::<u64>,
    }
}

/// The handler of POP of 2 or 8 bytes.
pub fn pop(size: usize, memory: bool) -> Handler {
    match (size, memory) {
        (2, false) => pop_reg::<u16>,
        (2, true) => pop_mem::<u16>,
        (_, false) => pop_reg::<u64>,
        (_, true) => pop_mem::<u64>,
    }
}

/// LEAVE of 8 bytes.
pub fn leave(cpu: &mut Cpu, at: Cursor) -> Flow {
    let frame = cpu.gpr[RBP];
    let value = attempt!(cpu, at, cpu.load::<u64>(frame));
    cpu.gpr[RSP] = frame.wrapping_add(8);
    cpu.gpr[RBP] = value;
    at.next(cpu)
}

/// ENTER: `imm` is the frame's size, `extra` the nesting level.
fn enter_frame<W: Word>(cpu: &mut Cpu, uop: &Uop) -> Result<(), Abort> {
    let (rsp, rbp) = (cpu.gpr[RSP], cpu.gpr[RBP]);
    let level = uop.extra as u64 & 31;
    let frame = rsp.wrapping_sub(W::BYTES);
    let pushed = W::BYTES * (level + 1);
    let top = rsp.wrapping_sub(pushed).wrapping_sub(uop.imm);
    // It faults where a store at the new top would. (SDM volume 2, ENTER.)
    cpu.probe_store::<W>(top)?;
    cpu.probe_write(rsp.wrapping_sub(pushed), pushed)?;
    cpu.store(frame, W::from(rbp))?;
    for i in 1..level {
        let pointer = cpu.load::<W>(rbp.wrapping_sub(W::BYTES * i))?;
        cpu.store(frame.wrapping_sub(W::BYTES * i), pointer)?;
    }
    if level > 0 {
        cpu.store(frame.wrapping_sub(W::BYTES * level), W::from(frame))?;
    }
    W::from(frame).write(&mut cpu.gpr, RBP as u8);
    cpu.gpr[RSP] = top;
    Ok(())
}

instructions! {
    /// LEAVE of 2 bytes.
    next fn leave16(cpu, _uop) {
        let frame = cpu.gpr[RBP];
        let value = cpu.load::<u16>(frame)?;
        cpu.gpr[RSP] = frame.wrapping_add(2);
        value.write(&mut cpu.gpr, RBP as u8);
    }

    next fn enter(cpu, uop) {
        enter_frame::<u64>(cpu, uop)?;
    }

    next fn enter16(cpu, uop) {
        enter_frame::<u16>(cpu, uop)?;
    }

    next fn pushf(cpu, uop) {
        let bits = cpu.flags.bits() & !(flags::RF | flags::VM);
        if uop.extra == 2 {
            cpu.push(bits as u16)?;
        } else {
            cpu.push(bits)?;
        }
    }

    /// POP FS and POP GS: `r0` is the segment register.
    ends fn pop_segment(cpu, uop) {
        let rsp = cpu.gpr[RSP];
        let selector = if uop.extra == 2 { cpu.pop::<u16>()? } else { cpu.pop::<u64>()? as u16 };
        if let Err(abort) = cpu.load_segment(Segment::ALL[uop.r0 as usize & 7], selector) {
            cpu.gpr[RSP] = rsp;
            return Err(abort);
        }
    }

    next fn push_segment(cpu, uop) {
        let selector = cpu.segments[Segment::ALL[uop.r1 as usize & 7]].selector;
        if uop.extra == 2 {
            cpu.push(selector)?;
        } else {
            cpu.push(selector as u64)?;
        }
    }
}

/// POPF. It ends the block only where interrupts, single steps or alignment checks may come of it.
pub fn popf(cpu: &mut Cpu, at: Cursor) -> Flow {
    let uop = at.uop();
    let bits = if uop.extra == 2 {
        attempt!(cpu, at, cpu.pop::<u16>()) as u64
    } else {
        attempt!(cpu, at, cpu.pop::<u64>())
    };
    cpu.set_popped_flags(bits, uop.extra);
    let enabled = cpu.flags.interrupts() && cpu.interrupt_pending;
    if enabled || cpu.flags.system & flags::TF != 0 || cpu.wants_alignment() != cpu.aligned {
        return cpu.leave_behind(at);
    }
    at.next(cpu)
}

impl Cpu {
    /// The system flags that POPF and IRET may change at the current privilege.
    pub fn writable_system_flags(&self) -> u64 {
        let iopl = (self.flags.system & flags::IOPL) >> 12;
        let cpl = self.cpl() as u64;
        let mut writable = 0;
        if cpl <= iopl {
            writable |= flags::IF;
        }
        if cpl == 0 {
            writable |= flags::IOPL;
        }
        writable
    }

    /// Sets the flags that POPF of `size` bytes may change.
    pub fn set_popped_flags(&mut self, bits: u64, size: u16) {
        let mut writable = if size == 2 { 0xffff } else { u64::MAX };
        writable &= flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
        writable |= self.writable_system_flags();
        let was = self.flags.bits();
        self.flags.set_bits(was & !writable & !flags::RF | bits & writable);
    }

    /// #GP(0) unless the program may change IF and use ports freely.
    pub fn require_io_privilege(&mut self) -> Result<(), Abort> {
        let iopl = (self.flags.system & flags::IOPL) >> 12;
        if self.cpl() as u64 > iopl {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        Ok(())
    }

    /// #GP(0) outside privilege level 0.
    pub fn require_supervisor(&mut self) -> Result<(), Abort> {
        if self.cpl() != 0 {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        Ok(())
    }
}
