//! Moves, conversions and exchanges.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::super::insn::{Form, Insn, Operand};
use super::Compiler;

impl Compiler<'_, '_> {
    pub(super) fn mov(&mut self, insn: &Insn, form: Form) {
        let size = insn.size;
        match (form, insn.rm) {
            (Form::RegRm, _) => {
                let rm = self.operand(insn, size, false);
                self.move_to(insn, insn.reg, rm);
            }
            (Form::RmReg, Operand::Register(register)) => {
                let source = self.read(insn.reg, SCRATCH2);
                self.move_to(insn, register, Rm::Reg(source));
            }
            (Form::RmReg, Operand::Memory(memory)) => {
                self.address(&memory, size, true);
                let source = self.read(insn.reg, SCRATCH2);
                let opcode = self.bytes(insn, 0x89);
                self.e.op(size, opcode, source, Rm::Mem(RAX, 0));
            }
            (Form::RmImm, Operand::Memory(memory)) => {
                self.address(&memory, size, true);
                let opcode = self.bytes(insn, 0xc7);
                self.e.group(size, opcode, 0, Rm::Mem(RAX, 0));
                self.immediate(size, insn.imm);
            }
            (Form::RmImm, Operand::Register(register)) if size < 4 => {
                let rm = match self.home(register) {
                    Some(home) => Rm::Reg(home),
                    None => Rm::Mem(CPU, frame::slot(register)),
                };
                let opcode = self.bytes(insn, 0xc7);
                self.e.group(size, opcode, 0, rm);
                self.immediate(size, insn.imm);
            }
            (Form::RmImm, Operand::Register(register)) => {
                let value = if size == 4 { insn.imm as u32 as u64 } else { insn.imm as u64 };
                let result = self.home(register).unwrap_or(SCRATCH2);
                self.e.constant(result, value);
                self.written(register, result);
            }
        }
    }

    /// Guest register `to` takes the value at `rm`.
    pub(super) fn move_to(&mut self, insn: &Insn, to: u8, rm: Rm) {
        let size = insn.size;
        let opcode = self.bytes(insn, 0x8b);
        match (self.home(to), rm) {
            (Some(home), _) => self.e.op(size, opcode, home, rm),
            (None, Rm::Reg(source)) if size != 4 => {
                let opcode = self.bytes(insn, 0x89);
                self.e.op(size, opcode, source, Rm::Mem(CPU, frame::slot(to)));
            }
            (None, _) => {
                self.e.op(size, opcode, SCRATCH2, rm);
                if size >= 4 {
                    self.e.store(CPU, frame::slot(to), SCRATCH2);
                } else {
                    let opcode = self.bytes(insn, 0x89);
                    self.e.op(size, opcode, SCRATCH2, Rm::Mem(CPU, frame::slot(to)));
                }
            }
        }
    }

    pub(super) fn lea(&mut self, insn: &Insn) {
        let Operand::Memory(memory) = insn.rm else { return };
        self.effective(&memory);
        match self.home(insn.reg) {
            Some(home) => self.e.op(insn.size, MOV_LOAD, home, Rm::Reg(RAX)),
            None => {
                if insn.size == 4 {
                    self.e.op(4, MOV_LOAD, RAX, Rm::Reg(RAX));
                }
                self.e.store(CPU, frame::slot(insn.reg), RAX);
            }
        }
    }

    pub(super) fn extend(&mut self, insn: &Insn, from: u8, sign: bool) {
        let rm = self.operand(insn, from, false);
        let opcode = match (from, sign) {
            (4, _) => Opcode::one(0x63),
            (1, false) => Opcode { byte_rm: true, ..Opcode::two(0xb6) },
            (1, true) => Opcode { byte_rm: true, ..Opcode::two(0xbe) },
            (_, false) => Opcode::two(0xb7),
            (_, true) => Opcode::two(0xbf),
        };
        let result =
            if insn.size == 2 { self.result(insn.reg) } else { self.home(insn.reg).unwrap_or(SCRATCH2) };
        self.e.op(insn.size, opcode, result, rm);
        self.written(insn.reg, result);
    }

    pub(super) fn cmov(&mut self, insn: &Insn, condition: u8) {
        let mut rm = self.operand(insn, insn.size, false);
        if insn.rm.is_memory() {
            // RAX is needed for the flags.
            self.e.op(insn.size, MOV_LOAD, SCRATCH2, rm);
            rm = Rm::Reg(SCRATCH2);
        }
        self.unpark();
        let result = self.read(insn.reg, RAX);
        self.e.op(insn.size, Opcode::two(0x40 | condition), result, rm);
        self.written(insn.reg, result);
    }

    pub(super) fn set(&mut self, insn: &Insn, condition: u8) {
        self.unpark();
        let opcode = Opcode { byte_rm: true, ..Opcode::two(0x90 | condition) };
        match insn.rm {
            Operand::Register(register) => {
                let rm = self.home(register).map_or(Rm::Mem(CPU, frame::slot(register)), Rm::Reg);
                self.e.group(1, opcode, 0, rm);
            }
            Operand::Memory(memory) => {
                let kept = Rm::Mem(CPU, frame::context(offset_of!(Context, kept)));
                self.e.group(1, opcode, 0, kept);
                self.address(&memory, 1, true);
                self.e.op(4, MOV_LOAD, SCRATCH2, kept);
                let store = Opcode { byte_reg: true, ..Opcode::one(0x88) };
                self.e.op(1, store, SCRATCH2, Rm::Mem(RAX, 0));
            }
        }
    }

    pub(super) fn xchg(&mut self, insn: &Insn) {
        let size = insn.size;
        match insn.rm {
            Operand::Register(register) => {
                // In full for two without homes; what is not exchanged is put together again.
                let a = self.read(register, RAX);
                let b = self.read(insn.reg, SCRATCH2);
                let opcode = self.bytes(insn, 0x87);
                self.e.op(size, opcode, b, Rm::Reg(a));
                self.written(register, a);
                self.written(insn.reg, b);
            }
            Operand::Memory(memory) => {
                self.address(&memory, size, true);
                // One CPU at a time: no need for the host's lock, which XCHG implies.
                let load = self.bytes(insn, 0x8b);
                let store = self.bytes(insn, 0x89);
                match self.home(insn.reg) {
                    Some(home) => {
                        self.e.op(size, load, SCRATCH2, Rm::Mem(RAX, 0));
                        self.e.op(size, store, home, Rm::Mem(RAX, 0));
                        self.e.op(size, load, home, Rm::Reg(SCRATCH2));
                    }
                    None => {
                        self.e.load(SCRATCH2, CPU, frame::slot(insn.reg));
                        let exchange = self.bytes(insn, 0x87);
                        self.e.op(size, exchange, SCRATCH2, Rm::Mem(RAX, 0));
                        self.e.store(CPU, frame::slot(insn.reg), SCRATCH2);
                    }
                }
            }
        }
    }

    pub(super) fn xadd(&mut self, insn: &Insn) {
        let mut rm = self.operand(insn, insn.size, true);
        let back = self.in_register(insn, &mut rm, true);
        let source = self.result(insn.reg);
        let byte = insn.size == 1;
        let opcode = Opcode { byte_reg: byte, byte_rm: byte, ..Opcode::two(0xc0 | !byte as u8) };
        self.e.op(insn.size, opcode, source, rm);
        self.written(insn.reg, source);
        self.write_back(back);
        self.flags_set();
    }

    pub(super) fn cmpxchg(&mut self, insn: &Insn) {
        let Operand::Memory(memory) = insn.rm else { return };
        let size = insn.size;
        let byte = size == 1;
        self.address(&memory, size, true);
        let opcode = Opcode { byte_reg: byte, byte_rm: byte, ..Opcode::two(0xb0 | !byte as u8) };
        let rax = self.read(0, RAX);
        self.e.mov(SCRATCH2, RAX);
        self.e.mov(RAX, rax);
        match self.home(insn.reg) {
            Some(new) => self.e.op(size, opcode, new, Rm::Mem(SCRATCH2, 0)),
            None => {
                // Borrow RDX.
                let kept = frame::context(offset_of!(Context, kept));
                self.e.store(CPU, kept, RDX);
                self.e.load(RDX, CPU, frame::slot(insn.reg));
                self.e.op(size, opcode, RDX, Rm::Mem(SCRATCH2, 0));
                self.e.load(RDX, CPU, kept);
            }
        }
        // On success RAX stays, also its upper half.
        self.e.op(8, Opcode::two(0x45), rax, Rm::Reg(RAX));
        self.flags_set();
    }
}
