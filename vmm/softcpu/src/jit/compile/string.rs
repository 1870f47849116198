//! REP MOVS and REP STOS: short copies and fills, which lie in one page each and go forwards. They are what a
//! kernel copies its users' words with. All others are the interpreter's (`interp::string`), which says how much
//! time they take, too.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context, SCRATCH2};
use super::super::insn::Insn;
use super::Compiler;
use crate::flags;
use crate::interp::string::BYTES_PER_TICK;
use crate::memory::PAGE;

/// Guest registers, and [`frame::home`] of each: the host's instruction uses the same.
const RSI_GUEST: u8 = 6;
const RDI_GUEST: u8 = 7;

impl Compiler<'_, '_> {
    pub(super) fn move_string(&mut self, insn: &Insn) {
        let kept = frame::context(offset_of!(Context, kept));
        self.few_elements_forwards(insn.size);
        self.run_in_page(RDI, insn.size, true);
        self.e.store(CPU, kept, RAX);
        self.run_in_page(RSI, insn.size, false);
        // Nothing is in the way now. What the guest's registers will be waits in memory.
        self.bytes_of_run(insn.size);
        self.e.op(8, Opcode::one(0x87), RAX, Rm::Reg(RSI));
        self.moved_on(RAX, RSI_GUEST);
        self.e.mov(RAX, RDI);
        self.moved_on(RAX, RDI_GUEST);
        self.e.load(RDI, CPU, kept);
        self.take_time();
        self.repeated(insn, 0xa5);
        self.e.load(RSI, CPU, frame::slot(RSI_GUEST));
        self.e.load(RDI, CPU, frame::slot(RDI_GUEST));
    }

    pub(super) fn fill_string(&mut self, insn: &Insn) {
        self.few_elements_forwards(insn.size);
        self.run_in_page(RDI, insn.size, true);
        self.bytes_of_run(insn.size);
        self.e.op(8, Opcode::one(0x87), RAX, Rm::Reg(RDI));
        self.moved_on(RAX, RDI_GUEST);
        self.take_time();
        let value = self.read(0, RAX);
        self.e.mov(RAX, value);
        self.repeated(insn, 0xab);
        self.e.load(RDI, CPU, frame::slot(RDI_GUEST));
    }

    /// Leaves runs of 0 and 1, of more than a page, backwards ones, and those behind which an event may be due to the
    /// interpreter.
    fn few_elements_forwards(&mut self, size: u8) {
        let remaining = self.remaining();
        self.e.arithmetic(8, 7, remaining, (PAGE / BYTES_PER_TICK) as i32);
        self.host = false;
        self.interpret_if(0xc);
        self.e.lea(RAX, RCX, -2);
        self.e.arithmetic(8, 7, Rm::Reg(RAX), (PAGE / size as u64) as i32 - 2);
        self.interpret_if(7);
        self.e.group(4, Opcode::one(0xf7), 0, Rm::Mem(CPU, frame::system_flags()));
        self.e.i32(flags::DF as i32);
        self.interpret_if(5);
    }

    /// The host address in RAX of a run that begins at the address in `at`, if all of it is in one page.
    fn run_in_page(&mut self, at: Reg, size: u8, write: bool) {
        self.e.op(4, MOV_LOAD, RAX, Rm::Reg(at));
        self.e.arithmetic(4, 4, Rm::Reg(RAX), PAGE as i32 - 1);
        self.e.op(8, LEA, RAX, Rm::Indexed(RAX, RCX, size.trailing_zeros() as u8, 0));
        self.e.arithmetic(8, 7, Rm::Reg(RAX), PAGE as i32);
        self.interpret_if(7);
        self.e.mov(RAX, at);
        self.translate(1, write);
    }

    /// The run's length in R14.
    fn bytes_of_run(&mut self, size: u8) {
        self.e.op(8, LEA, SCRATCH2, Rm::Scaled(RCX, size.trailing_zeros() as u8, 0));
    }

    /// Puts a guest register's value behind the run into memory; `host` has that before it.
    fn moved_on(&mut self, host: Reg, guest: u8) {
        self.e.op(8, ADD_LOAD, host, Rm::Reg(SCRATCH2));
        self.e.store(CPU, frame::slot(guest), host);
    }

    /// Counts the run of R14 bytes as the interpreter does.
    fn take_time(&mut self) {
        self.e.group(4, Opcode::one(0xc1), 5, Rm::Reg(SCRATCH2));
        self.e.byte(BYTES_PER_TICK.trailing_zeros() as u8);
        let remaining = self.remaining();
        self.e.op(8, SUB_STORE, SCRATCH2, remaining);
    }

    /// The instruction itself. RCX is 0 behind it, as the guest's is to be.
    fn repeated(&mut self, insn: &Insn, opcode: u8) {
        match insn.size {
            1 => self.e.bytes.extend([0xf3, opcode & !1]),
            2 => self.e.bytes.extend([0x66, 0xf3, opcode]),
            4 => self.e.bytes.extend([0xf3, opcode]),
            _ => self.e.bytes.extend([0xf3, 0x48, opcode]),
        }
    }
}
