//! Operands: guest registers, immediates, and memory behind the TLB's check.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, SCRATCH2};
use super::super::insn::{Base, Insn, Memory, Operand};
use super::{Compiler, Interpret};
use crate::tlb::Entry;
use crate::uop::PAGE_BASE;

impl Compiler<'_, '_> {
    /// Leaves to the interpreter on a condition.
    pub(super) fn interpret_if(&mut self, condition: u8) {
        let jump = self.e.jump_if(condition);
        self.interpret.push(Interpret { uop: self.uop, jump, deferred: self.deferred.clone() });
    }

    /// The guest register in a host register: its home, or `scratch`.
    pub(super) fn read(&mut self, guest: u8, scratch: Reg) -> Reg {
        match self.home(guest) {
            Some(home) => home,
            None => {
                self.e.load(scratch, CPU, frame::slot(guest));
                scratch
            }
        }
    }

    /// The linear address of a memory operand in RAX, less its segment. Clobbers R14, no flags.
    pub(super) fn effective(&mut self, memory: &Memory) {
        let base = match memory.base {
            Base::None => None,
            Base::Next => {
                self.e.load(RAX, CPU, frame::slot(PAGE_BASE));
                Some(RAX)
            }
            Base::Register(base) => Some(self.read(base, RAX)),
        };
        let disp = match memory.base {
            Base::Next => memory.disp.wrapping_add(self.next),
            _ => memory.disp,
        };
        let index = memory.index.map(|(index, scale)| (self.read(index, SCRATCH2), scale));
        match (base, index) {
            (None, None) => self.e.constant(RAX, disp as i64 as u64),
            (Some(base), None) => self.e.lea(RAX, base, disp),
            (Some(base), Some((index, scale))) => {
                self.e.op(8, LEA, RAX, Rm::Indexed(base, index, scale, disp))
            }
            (None, Some((index, scale))) => self.e.op(8, LEA, RAX, Rm::Scaled(index, scale, disp)),
        }
    }

    /// The linear address of a memory operand in RAX. Clobbers R14 and the host's flags.
    pub(super) fn linear(&mut self, memory: &Memory) {
        self.effective(memory);
        if let Some(segment) = memory.segment {
            self.e.op(8, ADD_LOAD, RAX, Rm::Mem(CPU, frame::slot(segment)));
        }
    }

    /// The host address of a memory operand in RAX. Clobbers R14 and the host's flags.
    pub(super) fn address(&mut self, memory: &Memory, size: u8, write: bool) {
        self.linear(memory);
        self.translate(size, write);
    }

    /// Turns the linear address in RAX into a host address, or leaves to the interpreter.
    pub(super) fn translate(&mut self, size: u8, write: bool) {
        let entry = size_of::<Entry>() as u32;
        let shift = 12 - entry.trailing_zeros() as u8;
        if self.source.rorx {
            self.e.rotated(SCRATCH2, RAX, shift);
        } else {
            self.e.op(4, MOV_LOAD, SCRATCH2, Rm::Reg(RAX));
            self.e.group(4, Opcode::one(0xc1), 5, Rm::Reg(SCRATCH2));
            self.e.byte(shift);
        }
        self.e.arithmetic(4, 4, Rm::Reg(SCRATCH2), ((crate::tlb::ENTRIES as u32 - 1) * entry) as i32);
        let tag = if write { offset_of!(Entry, write) } else { offset_of!(Entry, read) };
        let mode = self.source.mode;
        let at = |field| Rm::Indexed(CPU, SCRATCH2, 0, frame::tlb(mode, field));
        self.e.op(8, XOR_LOAD, RAX, at(tag));
        self.e.arithmetic(8, 7, Rm::Reg(RAX), 4096 - size as i32);
        self.interpret_if(7);
        self.e.op(8, ADD_LOAD, RAX, at(offset_of!(Entry, host)));
        self.host = false;
    }

    /// The operand that may be in memory: [`Rm`] of its value. Where it is a register without a
    /// home, that is its slot, which is good for reading, and for writing 8 bytes or fewer than 4.
    pub(super) fn operand(&mut self, insn: &Insn, size: u8, write: bool) -> Rm {
        match insn.rm {
            Operand::Memory(memory) => {
                self.address(&memory, size, write);
                Rm::Mem(RAX, 0)
            }
            Operand::Register(register) => match self.home(register) {
                Some(home) => Rm::Reg(home),
                None => Rm::Mem(CPU, frame::slot(register)),
            },
        }
    }

    /// The register to compute a result for guest register `guest` in: its home, or R14, which then
    /// holds its value. To be followed by [`Self::written`].
    pub(super) fn result(&mut self, guest: u8) -> Reg {
        self.read(guest, SCRATCH2)
    }

    pub(super) fn written(&mut self, guest: u8, register: Reg) {
        if self.home(guest).is_none() {
            self.e.store(CPU, frame::slot(guest), register);
        }
    }

    /// Moves an operand that is a guest register without a home to RAX if it is written. Returns it, for
    /// [`Self::write_back`].
    pub(super) fn in_register(&mut self, insn: &Insn, rm: &mut Rm, writes: bool) -> Option<u8> {
        match insn.rm {
            Operand::Register(register) if writes && self.home(register).is_none() => {
                self.e.load(RAX, CPU, frame::slot(register));
                *rm = Rm::Reg(RAX);
                Some(register)
            }
            _ => None,
        }
    }

    pub(super) fn write_back(&mut self, register: Option<u8>) {
        if let Some(register) = register {
            self.e.store(CPU, frame::slot(register), RAX);
        }
    }

    pub(super) fn bytes(&self, insn: &Insn, opcode: u8) -> Opcode {
        let byte = insn.size == 1;
        Opcode { byte_reg: byte, byte_rm: byte, ..Opcode::one(opcode & !1 | !byte as u8) }
    }

    pub(super) fn immediate(&mut self, size: u8, imm: i64) {
        match size {
            1 => self.e.byte(imm as u8),
            2 => self.e.bytes.extend_from_slice(&(imm as i16).to_le_bytes()),
            _ => self.e.i32(imm as i32),
        }
    }
}
