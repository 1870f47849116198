//! Shifts, rotations, and instructions on single bits.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::super::insn::{Insn, Operand};
use super::Compiler;
use super::flags::PARK_HIGH;

impl Compiler<'_, '_> {
    pub(super) fn shift(&mut self, insn: &Insn, op: u8, count: u8, live: bool) {
        let mut rm = self.operand(insn, insn.size, true);
        if count == 0 {
            // A 32-bit result clears the upper half all the same.
            if let (Operand::Register(_), 4) = (insn.rm, insn.size) {
                match rm {
                    Rm::Reg(home) => self.e.op(4, MOV_LOAD, home, rm),
                    _ => {
                        let back = self.in_register(insn, &mut rm, true);
                        self.e.op(4, MOV_LOAD, RAX, Rm::Reg(RAX));
                        self.write_back(back);
                    }
                }
            }
            return;
        }
        let rotates = op < 4;
        if rotates && live && !self.host {
            // RAX may hold the operand's address.
            let kept = matches!(rm, Rm::Mem(RAX, _));
            if kept {
                self.e.mov(SCRATCH2, RAX);
                rm = Rm::Mem(SCRATCH2, 0);
            }
            self.unpark();
        }
        let back = self.in_register(insn, &mut rm, true);
        let opcode = self.bytes(insn, 0xc1);
        self.e.group(insn.size, opcode, op, rm);
        self.e.byte(count);
        self.write_back(back);
        if !live {
            self.flags_gone();
        } else if rotates {
            (self.host, self.parked) = (true, false);
        } else {
            self.flags_set();
            self.auxiliary = false;
        }
    }

    pub(super) fn shift_by_cl(&mut self, insn: &Insn, op: u8, live: bool) {
        let size = insn.size;
        if live {
            // Where the count is zero, the flags are what they were.
            self.park();
        }
        let mut rm = self.operand(insn, size, true);
        if matches!(rm, Rm::Mem(RAX, _)) {
            self.e.mov(SCRATCH2, RAX);
            rm = Rm::Mem(SCRATCH2, 0);
        }
        let back = match insn.rm {
            Operand::Register(register) if self.home(register).is_none() => {
                self.e.load(SCRATCH2, CPU, frame::slot(register));
                rm = Rm::Reg(SCRATCH2);
                Some(register)
            }
            _ => None,
        };
        let rotates = op < 4;
        let opcode = self.bytes(insn, 0xd3);
        if !live {
            self.e.group(size, opcode, op, rm);
            self.flags_gone();
        } else {
            self.host = false;
            if rotates {
                self.unpark();
                self.e.group(size, opcode, op, rm);
                self.flags_set();
            } else {
                // TEST CL, 31 or 63.
                self.e.bytes.extend([0xf6, 0xc1, if size == 8 { 63 } else { 31 }]);
                let none = self.e.jump_if(4);
                self.e.group(size, opcode, op, rm);
                // LAHF; SETO AL; clear AF.
                self.e.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
                self.e.arithmetic(4, 4, Rm::Reg(RAX), !0x1000);
                self.store_parked();
                self.e.land(none);
                if let (Rm::Reg(register), 4) = (rm, size) {
                    self.e.op(4, MOV_LOAD, register, Rm::Reg(register));
                }
                self.host = false;
            }
        }
        if let Some(register) = back {
            self.e.store(CPU, frame::slot(register), SCRATCH2);
        }
    }

    pub(super) fn bit_test(&mut self, insn: &Insn, op: u8, immediate: bool, live: bool) {
        let size = insn.size;
        let writes = op != 4;
        let memory = insn.rm.is_memory();
        if live && !memory {
            self.unpark();
        }
        let mut rm = self.operand(insn, size, writes);
        let back = match insn.rm {
            Operand::Register(register) if self.home(register).is_none() => {
                self.e.load(RAX, CPU, frame::slot(register));
                rm = Rm::Reg(RAX);
                writes.then_some(register)
            }
            _ => None,
        };
        if immediate {
            self.e.group(size, Opcode::two(0xba), op, rm);
            self.e.byte(insn.imm as u8);
        } else {
            let bit = self.read(insn.reg, SCRATCH2);
            self.e.op(size, Opcode::two(0xa3 | (op & 3) << 3), bit, rm);
        }
        self.write_back(back);
        if !live {
            self.flags_gone();
        } else if memory {
            // The others stay parked; CF takes its place among them.
            let high = Rm::Mem(CPU, frame::context(offset_of!(Context, parked) + PARK_HIGH));
            // SETC AL.
            self.e.bytes.extend([0x0f, 0x92, 0xc0]);
            self.e.group(1, Opcode::one(0x80), 4, high);
            self.e.byte(0xfe);
            self.e.op(1, Opcode::one(0x08), RAX, high);
            (self.host, self.parked) = (false, true);
        } else {
            (self.host, self.parked) = (true, false);
        }
    }

    pub(super) fn scan(&mut self, insn: &Insn, reverse: bool, live: bool) {
        let rm = self.operand(insn, insn.size, false);
        // Where the source is zero the destination keeps its value.
        let result = self.result(insn.reg);
        self.e.op(insn.size, Opcode::two(0xbc | reverse as u8), result, rm);
        self.written(insn.reg, result);
        self.flags_gone();
        if live {
            // SETZ AL; MOVZX EAX, AL; NEG EAX; then ZF and PF, and the bit that is always one.
            self.e.bytes.extend([0x0f, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, 0xf7, 0xd8]);
            self.e.arithmetic(4, 4, Rm::Reg(RAX), 0x4400);
            self.e.arithmetic(4, 1, Rm::Reg(RAX), 0x200);
            self.store_parked();
        }
    }
}
