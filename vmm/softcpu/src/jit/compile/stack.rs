//! The stack.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::super::insn::{Insn, Kind, Operand};
use super::Compiler;
use crate::uop::PAGE_BASE;

impl Compiler<'_, '_> {
    /// The host address of a new top of the stack, 8 bytes down, in RAX.
    pub(super) fn push_address(&mut self) {
        self.e.lea(RAX, R11, -8);
        self.translate(8, true);
    }

    /// Pushes the address of the next instruction.
    pub(super) fn push_next(&mut self) {
        self.push_address();
        self.e.load(SCRATCH2, CPU, frame::slot(PAGE_BASE));
        self.e.lea(SCRATCH2, SCRATCH2, self.next);
        self.e.store(RAX, 0, SCRATCH2);
        self.e.lea(R11, R11, -8);
    }

    pub(super) fn push(&mut self, insn: &Insn) {
        if let (Kind::Push, Operand::Memory(memory)) = (insn.kind, insn.rm) {
            let kept = frame::context(offset_of!(Context, kept));
            self.address(&memory, 8, false);
            self.e.load(RAX, RAX, 0);
            self.e.store(CPU, kept, RAX);
            self.push_address();
            self.e.load(SCRATCH2, CPU, kept);
            self.e.store(RAX, 0, SCRATCH2);
        } else {
            self.push_address();
            match (insn.kind, insn.rm) {
                (Kind::Push, Operand::Register(register)) => {
                    let value = self.read(register, SCRATCH2);
                    self.e.store(RAX, 0, value);
                }
                _ => {
                    self.e.group(8, Opcode::one(0xc7), 0, Rm::Mem(RAX, 0));
                    self.e.i32(insn.imm as i32);
                }
            }
        }
        self.e.lea(R11, R11, -8);
    }

    pub(super) fn pop(&mut self, insn: &Insn) {
        let Operand::Register(register) = insn.rm else { return };
        self.e.mov(RAX, R11);
        self.translate(8, false);
        // The stack pointer moves first, for POP RSP.
        self.e.lea(R11, R11, 8);
        let result = self.home(register).unwrap_or(SCRATCH2);
        self.e.load(result, RAX, 0);
        self.written(register, result);
    }

    pub(super) fn leave(&mut self) {
        self.e.mov(RAX, R12);
        self.translate(8, false);
        self.e.lea(R11, R12, 8);
        self.e.load(R12, RAX, 0);
    }
}
