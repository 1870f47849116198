//! Addition and its like, and multiplication.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::super::insn::{Form, Insn, Kind, Operand};
use super::Compiler;

impl Compiler<'_, '_> {
    pub(super) fn binary(&mut self, insn: &Insn, op: u8, form: Form) {
        let size = insn.size;
        let writes = op != 7;
        let carry = op == 2 || op == 3;
        if form == Form::RegRm {
            let rm = self.operand(insn, size, false);
            let result = self.result(insn.reg);
            if carry {
                self.unpark_carry();
            }
            let opcode = self.bytes(insn, op << 3 | 3);
            self.e.op(size, opcode, result, rm);
            if writes {
                self.written(insn.reg, result);
            }
            return self.flags_set();
        }
        let mut rm = self.operand(insn, size, writes);
        let back = self.in_register(insn, &mut rm, writes);
        let source = (form == Form::RmReg).then(|| self.read(insn.reg, SCRATCH2));
        if carry {
            self.unpark_carry();
        }
        match source {
            Some(source) => {
                let opcode = self.bytes(insn, op << 3 | 1);
                self.e.op(size, opcode, source, rm);
            }
            None => self.binary_immediate(insn, op, rm),
        }
        self.write_back(back);
        self.flags_set();
    }

    pub(super) fn test(&mut self, insn: &Insn, form: Form) {
        let rm = self.operand(insn, insn.size, false);
        if form == Form::RmReg {
            let source = self.read(insn.reg, SCRATCH2);
            let opcode = self.bytes(insn, 0x85);
            self.e.op(insn.size, opcode, source, rm);
        } else {
            self.test_immediate(insn, rm);
        }
        self.flags_set();
    }

    /// An operation on the second byte of a register and an immediate.
    pub(super) fn high_byte(&mut self, insn: &Insn, op: u8) {
        let Operand::Register(register) = insn.rm else { return };
        let writes = !matches!(op, 7 | 8);
        let apply = |compiler: &mut Self, rm| {
            match op {
                8 => compiler.e.group(1, Opcode::one(0xf6), 0, rm),
                _ => compiler.e.group(1, Opcode::one(0x80), op, rm),
            }
            compiler.e.byte(insn.imm as u8);
        };
        match self.home(register) {
            Some(home) => {
                // What puts the byte back must leave the flags alone: a way through memory does.
                let kept = frame::context(offset_of!(Context, kept));
                if writes {
                    self.e.store(CPU, kept, home);
                }
                self.e.op(4, MOV_LOAD, RAX, Rm::Reg(home));
                self.e.group(4, Opcode::one(0xc1), 5, Rm::Reg(RAX));
                self.e.byte(8);
                apply(self, Rm::Reg(RAX));
                if writes {
                    let byte = Opcode { byte_reg: true, ..Opcode::one(0x88) };
                    self.e.op(1, byte, RAX, Rm::Mem(CPU, kept + 1));
                    self.e.load(home, CPU, kept);
                }
            }
            None => apply(self, Rm::Mem(CPU, frame::slot(register) + 1)),
        }
        self.flags_set();
    }

    /// The operation alone, on the instruction's immediate.
    pub(super) fn binary_immediate(&mut self, insn: &Insn, op: u8, rm: Rm) {
        if insn.size == 1 {
            self.e.group(1, Opcode { byte_rm: true, ..Opcode::one(0x80) }, op, rm);
            self.e.byte(insn.imm as u8);
        } else {
            self.e.arithmetic(insn.size, op, rm, insn.imm as i32);
        }
    }

    pub(super) fn test_immediate(&mut self, insn: &Insn, rm: Rm) {
        let opcode = self.bytes(insn, 0xf7);
        self.e.group(insn.size, opcode, 0, rm);
        self.immediate(insn.size, insn.imm);
    }

    /// An operation on the one operand, in place.
    pub(super) fn unary(&mut self, insn: &Insn, opcode: Opcode, extension: u8) {
        let mut rm = self.operand(insn, insn.size, true);
        let back = self.in_register(insn, &mut rm, true);
        let opcode = self.bytes(insn, opcode.byte);
        self.e.group(insn.size, opcode, extension, rm);
        self.write_back(back);
    }

    pub(super) fn increment(&mut self, insn: &Insn, live: bool) {
        let mut rm = self.operand(insn, insn.size, true);
        let back = self.in_register(insn, &mut rm, true);
        if live {
            self.unpark_carry();
        }
        let opcode = self.bytes(insn, 0xff);
        self.e.group(insn.size, opcode, (insn.kind == Kind::Dec) as u8, rm);
        self.write_back(back);
        if live { self.flags_set() } else { self.flags_gone() }
    }

    pub(super) fn imul(&mut self, insn: &Insn, live: bool) {
        let rm = self.operand(insn, insn.size, false);
        let result;
        if insn.kind == Kind::Imul {
            result = self.result(insn.reg);
            self.e.op(insn.size, Opcode::two(0xaf), result, rm);
        } else {
            result = self.home(insn.reg).unwrap_or(SCRATCH2);
            self.e.op(insn.size, Opcode::one(0x69), result, rm);
            self.e.i32(insn.imm as i32);
        }
        self.written(insn.reg, result);
        self.product_flags(insn.size, result, live);
    }

    pub(super) fn multiply(&mut self, insn: &Insn, signed: bool, live: bool) {
        let mut rm = self.operand(insn, insn.size, false);
        if insn.rm.is_memory() {
            self.e.op(insn.size, MOV_LOAD, SCRATCH2, rm);
            rm = Rm::Reg(SCRATCH2);
        }
        let rax = self.read(0, RAX);
        self.e.mov(RAX, rax);
        self.e.group(insn.size, Opcode::one(0xf7), if signed { 5 } else { 4 }, rm);
        self.e.mov(rax, RAX);
        self.product_flags(insn.size, rax, live);
    }

    /// The flags behind a multiplication: CF and OF are the host's, the others those of the result.
    pub(super) fn product_flags(&mut self, size: u8, result: Reg, live: bool) {
        self.flags_gone();
        if live {
            // SETO AL; TEST result, result; LAHF; OR AH, AL.
            self.e.bytes.extend([0x0f, 0x90, 0xc0]);
            self.e.op(size, Opcode::one(0x85), result, Rm::Reg(result));
            self.e.bytes.extend([0x9f, 0x08, 0xc4]);
            self.store_parked();
        }
    }
}
