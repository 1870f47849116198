//! Ways from a block to the next.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, REMAINING, SCRATCH2, TARGETS, Target};
use super::super::insn::{Insn, Operand};
use super::Compiler;
use crate::uop::PAGE_BASE;

impl Compiler<'_, '_> {
    /// Goes on at an offset from the page.
    pub(super) fn link(&mut self, target: i32) -> Option<()> {
        if self.jumps_to_itself && target == self.source.offset as i32 {
            self.repeat();
            return Some(());
        }
        self.move_out();
        if (0..4096).contains(&target) {
            let jump = self.e.jump();
            self.exits.push((jump, Some(jump), target));
            return Some(());
        }
        let slot = (self.place.slots)()?;
        self.e.constant(RAX, slot);
        self.e.load(SCRATCH2, CPU, frame::tag());
        self.e.op(8, CMP_STORE, SCRATCH2, Rm::Mem(RAX, 0));
        let missed = self.e.jump_if(5);
        let pages = target & !4095;
        self.e.arithmetic(8, 0, Rm::Mem(CPU, frame::slot(PAGE_BASE)), pages);
        self.e.group(8, Opcode::one(0xff), 4, Rm::Mem(RAX, 8));
        self.exits.push((missed, None, target));
        Some(())
    }

    /// Where the instructions are counted that are left before the next event.
    pub(super) fn remaining(&self) -> Rm {
        match self.homes.counts_in_register {
            true => Rm::Reg(REMAINING),
            false => Rm::Mem(CPU, frame::remaining()),
        }
    }

    /// Executes the block again, whose registers are in place, unless the instructions run out.
    fn repeat(&mut self) {
        let count = self.source.instructions.len() as i32;
        let remaining = self.remaining();
        self.e.arithmetic(8, 5, remaining, count);
        let again = self.e.jump_if(9);
        let body = self.body as i64;
        self.e.patch(again, body);
        self.exhausted = Some(self.e.jump());
    }

    /// The target of an indirect jump or call in RAX.
    pub(super) fn jump_target(&mut self, insn: &Insn) {
        match insn.rm {
            Operand::Register(register) => {
                let target = self.read(register, RAX);
                self.e.mov(RAX, target);
            }
            Operand::Memory(memory) => {
                self.address(&memory, 8, false);
                self.e.load(RAX, RAX, 0);
            }
        }
    }

    /// Looks for the address in RAX among the known targets, and leaves its distance from the first in
    /// R14. Where it is none of them, the interpreter executes the instruction.
    pub(super) fn find_target(&mut self) {
        let entry = size_of::<Target>() as u32;
        self.e.mov(SCRATCH2, RAX);
        self.e.group(8, Opcode::one(0xc1), 5, Rm::Reg(SCRATCH2));
        self.e.byte(12);
        self.e.op(4, XOR_LOAD, SCRATCH2, Rm::Reg(RAX));
        self.e.arithmetic(4, 4, Rm::Reg(SCRATCH2), TARGETS as i32 - 1);
        self.e.group(4, Opcode::one(0xc1), 4, Rm::Reg(SCRATCH2));
        self.e.byte(entry.trailing_zeros() as u8);
        self.e.op(8, CMP_STORE, RAX, target(offset_of!(Target, rip)));
        self.interpret_if(5);
        self.e.load(RAX, CPU, frame::tag());
        self.e.op(8, CMP_STORE, RAX, target(offset_of!(Target, tag)));
        self.interpret_if(5);
    }

    pub(super) fn jump_to_target(&mut self) {
        self.move_out();
        self.e.op(8, MOV_LOAD, RAX, target(offset_of!(Target, page)));
        self.e.store(CPU, frame::slot(PAGE_BASE), RAX);
        self.e.group(8, Opcode::one(0xff), 4, target(offset_of!(Target, code)));
    }
}

/// A field of the known target at distance R14.
pub(super) fn target(field: usize) -> Rm {
    Rm::Indexed(CPU, SCRATCH2, 0, frame::context(offset_of!(Context, targets) + field))
}
