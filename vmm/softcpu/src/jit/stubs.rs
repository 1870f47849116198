//! The ways into and out of compiled code, which all blocks share.

use std::mem::offset_of;

use super::emit::*;
use super::frame::{self, BIAS, CPU, Context, REMAINING, SCRATCH2};
use super::memory::{CodeMemory, CodeOffset};
use crate::uop::PAGE_BASE;

/// Why compiled code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Leave {
    /// RIP is where the code leads. [`Context::site`] is the place that could lead there directly.
    Link = 0,
    /// The interpreter has to go on at micro-operation [`Context::site`] of [`Context::block`].
    Interpret = 1,
}

/// Where the stubs are.
#[derive(Clone, Copy)]
pub struct Stubs {
    /// `extern "sysv64" fn(*mut Cpu, code address) -> Leave as u32`.
    pub enter: CodeOffset,
    /// To be jumped to with the site in EAX and the target, as an offset from the page, in R14.
    pub leave_by_link: CodeOffset,
    /// To be jumped to with the micro-operation's number in EAX and the block's in R14D.
    pub leave_to_interpreter: CodeOffset,
    /// Where the space for blocks begins.
    pub end: CodeOffset,
}

const SAVED: [Reg; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Writes the stubs to the start of `memory`.
pub fn write(memory: &mut CodeMemory) -> Stubs {
    let mut e = Emitter::default();
    let enter = CodeOffset(0);
    for register in SAVED {
        push(&mut e, register);
    }
    e.lea(CPU, RDI, BIAS);
    e.mov(SCRATCH2, RSI);
    e.load(REMAINING, CPU, frame::remaining());
    for (guest, register) in homes() {
        e.load(register, CPU, frame::slot(guest));
    }
    e.group(8, Opcode::one(0xff), 4, Rm::Reg(SCRATCH2));

    let leave_by_link = CodeOffset(e.len() as u32);
    e.op(4, MOV_STORE, RAX, Rm::Mem(CPU, frame::context(offset_of!(Context, site))));
    e.op(8, ADD_LOAD, SCRATCH2, Rm::Mem(CPU, frame::slot(PAGE_BASE)));
    e.store(CPU, frame::rip(), SCRATCH2);
    e.constant(RAX, Leave::Link as u64);
    let leave = e.jump();

    let leave_to_interpreter = CodeOffset(e.len() as u32);
    e.op(4, MOV_STORE, RAX, Rm::Mem(CPU, frame::context(offset_of!(Context, site))));
    e.op(4, MOV_STORE, SCRATCH2, Rm::Mem(CPU, frame::context(offset_of!(Context, block))));
    e.constant(RAX, Leave::Interpret as u64);

    e.land(leave);
    for (guest, register) in homes() {
        e.store(CPU, frame::slot(guest), register);
    }
    e.store(CPU, frame::remaining(), REMAINING);
    for register in SAVED.into_iter().rev() {
        pop(&mut e, register);
    }
    e.byte(0xc3);

    memory.write(enter, &e.bytes);
    let end = CodeOffset(e.len().next_multiple_of(16) as u32);
    Stubs { enter, leave_by_link, leave_to_interpreter, end }
}

fn homes() -> impl Iterator<Item = (u8, Reg)> {
    (0..16).filter_map(|guest| Some((guest, frame::home(guest)?)))
}

fn push(e: &mut Emitter, register: Reg) {
    if register.0 >= 8 {
        e.byte(0x41);
    }
    e.byte(0x50 | register.0 & 7);
}

fn pop(e: &mut Emitter, register: Reg) {
    if register.0 >= 8 {
        e.byte(0x41);
    }
    e.byte(0x58 | register.0 & 7);
}
