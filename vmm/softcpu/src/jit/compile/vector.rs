//! Moves of whole vectors, which compilers use for copies and for zeros. Vector registers stay in memory.

use super::super::emit::*;
use super::super::frame::{self, CPU};
use super::super::insn::{Insn, Operand};
use super::Compiler;
use crate::cpu::{CR0_EM, CR0_TS};

/// XMM0 and XMM1 of the host.
const VALUE: Reg = Reg(0);
const OTHER: Reg = Reg(1);

/// MOVUPS.
const LOAD: Opcode = Opcode::two(0x10);
const STORE: Opcode = Opcode::two(0x11);
const XORPS: Opcode = Opcode::two(0x57);

/// Bytes of a vector.
const VECTOR: u8 = 16;

impl Compiler<'_, '_> {
    pub(super) fn vector_move(&mut self, insn: &Insn, store: bool, aligned: bool) {
        self.allow_vectors();
        let rm = match insn.rm {
            Operand::Register(register) => Rm::Mem(CPU, frame::xmm(register)),
            Operand::Memory(memory) => {
                self.linear(&memory);
                if aligned {
                    // TEST AL, 15.
                    self.e.bytes.extend([0xa8, VECTOR - 1]);
                    self.interpret_if(5);
                }
                self.translate(VECTOR, store);
                Rm::Mem(RAX, 0)
            }
        };
        let register = Rm::Mem(CPU, frame::xmm(insn.reg));
        let (from, to) = if store { (register, rm) } else { (rm, register) };
        self.e.op(4, LOAD, VALUE, from);
        self.e.op(4, STORE, VALUE, to);
    }

    pub(super) fn vector_xor(&mut self, insn: &Insn) {
        let Operand::Register(from) = insn.rm else { return };
        self.allow_vectors();
        let to = Rm::Mem(CPU, frame::xmm(insn.reg));
        if from == insn.reg {
            self.e.op(4, XORPS, VALUE, Rm::Reg(VALUE));
        } else {
            self.e.op(4, LOAD, VALUE, to);
            self.e.op(4, LOAD, OTHER, Rm::Mem(CPU, frame::xmm(from)));
            self.e.op(4, XORPS, VALUE, Rm::Reg(OTHER));
        }
        self.e.op(4, STORE, VALUE, to);
    }

    /// Leaves to the interpreter where vector instructions are forbidden.
    fn allow_vectors(&mut self) {
        if !std::mem::replace(&mut self.vectors_allowed, true) {
            self.e.group(1, Opcode::one(0xf6), 0, Rm::Mem(CPU, frame::cr0()));
            self.e.byte((CR0_EM | CR0_TS) as u8);
            self.host = false;
            self.interpret_if(5);
        }
    }
}
