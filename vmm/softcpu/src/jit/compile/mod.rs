//! From a block's instructions to host code.
//!
//! A guest instruction becomes the same host instruction with its operands renamed. Where it
//! reaches memory, the TLB's check comes before it, and sends what is not plain RAM to the
//! interpreter, as do instructions without a template; nothing of the instruction has happened
//! then. The code of a block is entered with `PAGE_BASE` set and leaves it so.
//!
//! # Flags
//!
//! The guest's arithmetic flags are in the host's until something would clobber them: a TLB
//! check, or the end of the block. Before that they are parked in memory (LAHF, SETO) if anything
//! could still see them; or, if nothing can but who leaves the block for the interpreter, left for
//! the code that does so to work out again (`deferred`). `Compiler` says where they are good. Flags that the architecture leaves
//! undefined are as the interpreter defines them: AF is cleared behind shifts, multiplications and
//! bit scans set what their result says. (OF behind shifts by more than one and the flags that BT
//! does not define are alike on Intel's and AMD's CPUs, and the interpreter's are theirs.)

mod arithmetic;
mod bits;
mod deferred;
mod flags;
mod flow;
mod homes;
mod moves;
mod operand;
mod stack;
mod string;
mod system;
mod vector;

use std::mem::offset_of;

use super::emit::*;
use super::frame::{self, CPU, Context, REMAINING, SCRATCH2, home};
use super::insn::{Count, Insn, Kind, Operand};
use crate::tlb::Mode;
use deferred::Deferred;
use flags::live_flags;
use homes::Homes;

/// The code of a block, to be put where it was made for.
pub struct Compiled {
    pub bytes: Vec<u8>,
    pub exits: Vec<Exit>,
}

/// A place where the code of a block leads to another.
pub struct Exit {
    /// A jump within the page: where its displacement is; else nothing.
    pub jump: Option<usize>,
    /// Where the code begins that leaves for want of a link.
    pub miss: usize,
}

/// What a block is compiled from.
pub struct Source<'a> {
    pub block: u32,
    /// Offset of the first instruction from the start of its page.
    pub offset: u16,
    /// The instructions: length in bytes, number of the first micro-operation.
    pub instructions: &'a [(u8, u32)],
    pub bytes: &'a [u8],
    pub mode: Mode,
    /// The block goes on in the next one behind its last instruction.
    pub falls_through: bool,
    /// The host has RORX.
    pub rorx: bool,
}

/// Where the code is to be put and what it refers to.
pub struct Place<'a> {
    pub at: u32,
    pub leave_by_link: u32,
    pub leave_to_interpreter: u32,
    /// Number of the block's first exit.
    pub first_exit: u32,
    /// Addresses of the slots that the exits to other pages take.
    pub slots: &'a mut dyn FnMut() -> Option<u64>,
}

/// Compiles a block. `None` where it would begin in the interpreter anyway, or there is no room.
pub fn compile(source: &Source, place: &mut Place) -> Option<Compiled> {
    let mut insns = Vec::with_capacity(source.instructions.len());
    let mut at = 0;
    for (i, &(len, _)) in source.instructions.iter().enumerate() {
        let is_last = i + 1 == source.instructions.len();
        let insn = Insn::decode(&source.bytes[at..at + len as usize]);
        let Some(insn) = insn.filter(|insn| has_template(insn, source.mode, is_last)) else { break };
        at += len as usize;
        insns.push(insn);
    }
    if insns.is_empty() {
        return None;
    }
    let live = live_flags(&insns);
    let jumps_to_itself = jumps_to_itself(source, &insns);
    let mut compiler = Compiler {
        e: Emitter { bytes: Vec::with_capacity(64 * insns.len() + 64) },
        source,
        place,
        host: false,
        parked: true,
        auxiliary: true,
        deferred: Deferred::default(),
        homes: Homes::new(&insns, jumps_to_itself),
        jumps_to_itself,
        vectors_allowed: false,
        uop: 0,
        next: 0,
        body: 0,
        exhausted: None,
        exhausted_flags: Deferred::default(),
        interpret: Vec::new(),
        exits: Vec::new(),
    };
    compiler.block(&insns, &live)
}

/// True if the last instruction is a jump to the first.
fn jumps_to_itself(source: &Source, insns: &[Insn]) -> bool {
    let Some(Insn { kind: Kind::Jump | Kind::JumpIf(_), imm, .. }) = insns.last() else { return false };
    insns.len() == source.instructions.len() && source.bytes.len() as i64 + imm == 0
}

/// False for the rare forms that would need one more register, and for what programs may not do.
fn has_template(insn: &Insn, mode: Mode, is_last: bool) -> bool {
    match insn.kind {
        Kind::Cmpxchg => insn.rm.is_memory(),
        // An event may be due behind the block, and must not be taken behind STI.
        Kind::Interrupts { on: true } if is_last => false,
        Kind::Interrupts { .. } => mode == Mode::Supervisor,
        // Which of the two results is written last matters only where both are one register.
        Kind::Xadd => insn.rm != Operand::Register(insn.reg) || home(insn.reg).is_some(),
        _ => true,
    }
}

struct Compiler<'a, 'b> {
    e: Emitter,
    source: &'a Source<'a>,
    place: &'a mut Place<'b>,
    /// The host's flags are the guest's.
    host: bool,
    /// The parked flags are the guest's.
    parked: bool,
    /// With `host`: so is AF; else it has to be 0.
    auxiliary: bool,
    /// What the code that leaves to the interpreter has to do for the flags.
    deferred: Deferred,
    homes: Homes,
    jumps_to_itself: bool,
    /// CR0 was found to allow vector instructions; nothing in a block changes it.
    vectors_allowed: bool,
    /// The present instruction's first micro-operation.
    uop: u32,
    /// Offset of the next instruction from the start of the page.
    next: i32,
    /// Where the instructions begin, with their registers in place.
    body: usize,
    /// The jump for want of instructions that finds the registers in place.
    exhausted: Option<Fixup>,
    /// What is to be done for the flags there.
    exhausted_flags: Deferred,
    /// Jumps to the interpreter.
    interpret: Vec<Interpret>,
    exits: Vec<(Fixup, Option<Fixup>, i32)>,
}

/// A jump to the interpreter.
struct Interpret {
    uop: u32,
    jump: Fixup,
    deferred: Deferred,
}

impl Compiler<'_, '_> {
    fn block(&mut self, insns: &[Insn], live: &[bool]) -> Option<Compiled> {
        let count = self.source.instructions.len() as i32;
        self.e.arithmetic(8, 5, Rm::Reg(REMAINING), count);
        let exhausted = self.e.jump_if(8);
        self.move_in();
        self.body = self.e.len();
        self.next = self.source.offset as i32;
        for (i, insn) in insns.iter().enumerate() {
            let (len, uop) = self.source.instructions[i];
            self.uop = uop;
            self.next += len as i32;
            if self.jumps_to_itself && i + 1 == insns.len() && !live[0] && self.host {
                self.exhausted_flags = Deferred::behind(&insns[..i]);
            }
            if insn.shows_flags() && self.exhausted_flags.is_empty() {
                self.show(insns, live, i);
            }
            self.instruction(insn, live[i + 1])?;
        }
        if insns.len() < self.source.instructions.len() {
            self.park();
            self.uop = self.source.instructions[insns.len()].1;
            let jump = self.e.jump();
            self.interpret.push(Interpret { uop: self.uop, jump, deferred: Deferred::default() });
        } else if self.source.falls_through {
            self.park();
            self.link(self.next)?;
        }
        self.stubs(exhausted, count)
    }

    /// The code behind the block that is rarely reached.
    fn stubs(&mut self, exhausted: Fixup, count: i32) -> Option<Compiled> {
        let place = &self.place;
        let first_exit = place.first_exit;
        let by_link = place.leave_by_link as i64 - place.at as i64;
        let to_interpreter = place.leave_to_interpreter as i64 - place.at as i64;
        if let Some(jump) = self.exhausted {
            self.e.land(jump);
            let flags = std::mem::take(&mut self.exhausted_flags);
            self.make_up(&flags);
            self.move_out();
        }
        self.e.land(exhausted);
        self.e.lea(REMAINING, REMAINING, count);
        self.e.constant(RAX, u32::MAX as u64);
        self.e.constant(SCRATCH2, self.source.offset as u64);
        let away = self.e.jump();
        self.e.patch(away, by_link);

        let mut exits = Vec::with_capacity(self.exits.len());
        for (i, &(missed, jump, target)) in self.exits.iter().enumerate() {
            let miss = self.e.len();
            self.e.land(missed);
            self.e.constant(SCRATCH2, target as i64 as u64);
            self.e.constant(RAX, first_exit as u64 + i as u64);
            let away = self.e.jump();
            self.e.patch(away, by_link);
            exits.push(Exit { jump: jump.map(|jump| self.e.place(jump)), miss });
        }

        let mut last = None;
        for Interpret { uop, jump, deferred } in std::mem::take(&mut self.interpret) {
            match last {
                Some((same, at)) if same == uop => self.e.patch(jump, at),
                _ => {
                    last = Some((uop, self.e.len() as i64));
                    self.e.land(jump);
                    self.make_up(&deferred);
                    self.move_out();
                    self.e.constant(RAX, uop as u64);
                    self.e.constant(SCRATCH2, self.source.block as u64);
                    let away = self.e.jump();
                    self.e.patch(away, to_interpreter);
                }
            }
        }
        Some(Compiled { bytes: std::mem::take(&mut self.e.bytes), exits })
    }

    fn instruction(&mut self, insn: &Insn, live: bool) -> Option<()> {
        let size = insn.size;
        match insn.kind {
            Kind::Nop => {}
            Kind::Pause => {
                self.e.group(1, Opcode::one(0x80), 7, Rm::Mem(CPU, frame::others_ready()));
                self.e.byte(0);
                self.host = false;
                self.interpret_if(5);
            }
            Kind::Binary(op, form) => self.binary(insn, op, form),
            Kind::Test(form) => self.test(insn, form),
            Kind::Mov(form) => self.mov(insn, form),
            Kind::Lea => self.lea(insn),
            Kind::Extend { from, sign } => self.extend(insn, from, sign),
            Kind::Cmov(condition) => self.cmov(insn, condition),
            Kind::Set(condition) => self.set(insn, condition),
            Kind::Imul | Kind::ImulImmediate => self.imul(insn, live),
            Kind::Multiply { signed } => self.multiply(insn, signed, live),
            Kind::Not => self.unary(insn, Opcode::one(0xf7), 2),
            Kind::Neg => {
                self.unary(insn, Opcode::one(0xf7), 3);
                self.flags_set();
            }
            Kind::Inc | Kind::Dec => self.increment(insn, live),
            Kind::Shift(op, Count::Immediate(count)) => self.shift(insn, op, count, live),
            Kind::Shift(op, Count::Cl) => self.shift_by_cl(insn, op, live),
            Kind::Push | Kind::PushImmediate => self.push(insn),
            Kind::Pop => self.pop(insn),
            Kind::Leave => self.leave(),
            Kind::ExtendRax => {
                let rax = self.read(0, RAX);
                match size {
                    8 => self.e.op(8, Opcode::one(0x63), rax, Rm::Reg(rax)),
                    4 => self.e.op(4, Opcode::two(0xbf), rax, Rm::Reg(rax)),
                    _ => self.e.op(2, Opcode { byte_rm: true, ..Opcode::two(0xbe) }, rax, Rm::Reg(rax)),
                }
            }
            Kind::ExtendToRdx => {
                let rax = self.read(0, RAX);
                self.e.mov(RAX, rax);
                match size {
                    8 => self.e.byte(0x48),
                    2 => self.e.byte(0x66),
                    _ => {}
                }
                self.e.byte(0x99);
            }
            Kind::BitTest { op, immediate } => self.bit_test(insn, op, immediate, live),
            Kind::Scan { reverse } => self.scan(insn, reverse, live),
            Kind::Bswap => {
                let Operand::Register(register) = insn.rm else { return None };
                let result = self.result(register);
                let rex = 0x40 | ((size == 8) as u8) << 3 | result.0 >> 3;
                self.e.bytes.extend([rex, 0x0f, 0xc8 | result.0 & 7]);
                self.written(register, result);
            }
            Kind::VectorMove { store, aligned } => self.vector_move(insn, store, aligned),
            Kind::VectorXor => self.vector_xor(insn),
            Kind::PushFlags => self.push_flags(),
            Kind::Interrupts { on } => self.set_interrupts(on),
            Kind::HighByte(op) => self.high_byte(insn, op),
            Kind::RepeatedMove => self.move_string(insn),
            Kind::RepeatedStore => self.fill_string(insn),
            Kind::Xchg => self.xchg(insn),
            Kind::Xadd => self.xadd(insn),
            Kind::Cmpxchg => self.cmpxchg(insn),
            Kind::Carry(opcode) => {
                self.unpark();
                self.e.byte(opcode);
                // AF stays what it was.
                (self.host, self.parked) = (true, false);
            }
            Kind::JumpIf(condition) => {
                if condition >> 1 == 1 {
                    self.unpark_carry();
                } else {
                    self.unpark();
                }
                let taken = self.e.jump_if(condition);
                self.park();
                self.link(self.next)?;
                self.e.land(taken);
                self.link(self.next.checked_add(insn.imm as i32)?)?;
            }
            Kind::Jump => self.link(self.next.checked_add(insn.imm as i32)?)?,
            Kind::Call => {
                self.push_next();
                self.link(self.next.checked_add(insn.imm as i32)?)?;
            }
            Kind::Return(more) => {
                self.e.mov(RAX, R11);
                self.translate(8, false);
                self.e.load(RAX, RAX, 0);
                self.find_target();
                self.e.lea(R11, R11, 8 + more as i32);
                self.jump_to_target();
            }
            Kind::JumpTo => {
                self.jump_target(insn);
                self.find_target();
                self.jump_to_target();
            }
            Kind::CallTo => {
                self.jump_target(insn);
                self.find_target();
                // All checks come before the store, which the call through memory might read.
                let kept = frame::context(offset_of!(Context, kept));
                self.e.store(CPU, kept, SCRATCH2);
                self.push_next();
                self.e.load(SCRATCH2, CPU, kept);
                self.jump_to_target();
            }
        }
        Some(())
    }
}
