//! Flags that are not arithmetic: PUSHF, CLI and STI.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::Compiler;
use super::flags::PARK_HIGH;
use crate::flags;

impl Compiler<'_, '_> {
    /// PUSHF: all flags but RF and VM.
    pub(super) fn push_flags(&mut self) {
        let parked = frame::context(offset_of!(Context, parked));
        let kept = frame::context(offset_of!(Context, kept));
        self.park();
        self.host = false;
        // OF, in its place.
        let byte = Opcode::two(0xb6);
        self.e.op(4, byte, SCRATCH2, Rm::Mem(CPU, parked));
        self.e.group(4, Opcode::one(0xc1), 4, Rm::Reg(SCRATCH2));
        self.e.byte(flags::OF.trailing_zeros() as u8);
        // The other arithmetic ones are, behind LAHF, with the one that is always set.
        self.e.op(4, byte, RAX, Rm::Mem(CPU, parked + PARK_HIGH as i32));
        self.e.op(4, OR_LOAD, RAX, Rm::Reg(SCRATCH2));
        self.e.op(8, MOV_LOAD, SCRATCH2, Rm::Mem(CPU, frame::system_flags()));
        self.e.arithmetic(8, 4, Rm::Reg(SCRATCH2), !(flags::RF | flags::VM) as i32);
        self.e.op(8, OR_LOAD, RAX, Rm::Reg(SCRATCH2));
        self.e.store(CPU, kept, RAX);
        self.push_address();
        self.e.load(SCRATCH2, CPU, kept);
        self.e.store(RAX, 0, SCRATCH2);
        self.e.lea(R11, R11, -8);
    }

    /// STI, unless an interrupt waits for it, and CLI. They are a supervisor's, but not at any privilege level:
    /// the interpreter judges all levels but 0.
    pub(super) fn set_interrupts(&mut self, on: bool) {
        let system = Rm::Mem(CPU, frame::system_flags());
        self.e.group(1, Opcode::one(0xf6), 0, Rm::Mem(CPU, frame::code_selector()));
        self.e.byte(3);
        self.host = false;
        self.interpret_if(5);
        if !on {
            return self.e.arithmetic(4, 4, system, !flags::IF as i32);
        }
        self.e.group(1, Opcode::one(0x80), 7, Rm::Mem(CPU, frame::interrupt_pending()));
        self.e.byte(0);
        self.interpret_if(5);
        self.e.arithmetic(4, 1, system, flags::IF as i32);
    }
}
