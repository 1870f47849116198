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
//! could still see them; `Flags` says where they are good. Flags that the architecture leaves
//! undefined are as the interpreter defines them: AF is cleared behind shifts, multiplications and
//! bit scans set what their result says. (OF behind shifts by more than one and the flags that BT
//! does not define are alike on Intel's and AMD's CPUs, and the interpreter's are theirs.)

use std::mem::offset_of;

use super::emit::*;
use super::frame::{self, CPU, Context, REMAINING, SCRATCH2, TARGETS, Target, home};
use super::guest::{Base, Count, Form, Insn, Kind, Memory, Operand, Writes};
use crate::tlb::{Entry, Mode};
use crate::uop::PAGE_BASE;

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
    for &(len, _) in source.instructions {
        let insn = Insn::decode(&source.bytes[at..at + len as usize]).filter(has_template);
        let Some(insn) = insn else { break };
        at += len as usize;
        insns.push(insn);
    }
    if insns.is_empty() {
        return None;
    }
    let live = live_flags(&insns);
    let mut compiler = Compiler {
        e: Emitter { bytes: Vec::with_capacity(64 * insns.len() + 64) },
        source,
        place,
        host: false,
        parked: true,
        auxiliary: true,
        uop: 0,
        next: 0,
        interpret: Vec::new(),
        exits: Vec::new(),
    };
    compiler.block(&insns, &live)
}

/// False for the rare forms that would need one more register.
fn has_template(insn: &Insn) -> bool {
    match insn.kind {
        Kind::Cmpxchg => insn.rm.is_memory(),
        // Which of the two results is written last matters only where both are one register.
        Kind::Xadd => insn.rm != Operand::Register(insn.reg) || home(insn.reg).is_some(),
        _ => true,
    }
}

/// For each instruction, whether the flags before it may be seen; and once more for the end.
fn live_flags(insns: &[Insn]) -> Vec<bool> {
    let mut live = vec![true; insns.len() + 1];
    for (i, insn) in insns.iter().enumerate().rev() {
        let after = live[i + 1];
        live[i] = insn.shows_flags() || insn.reads_flags() || after && insn.writes_flags() != Writes::All;
    }
    live
}

const PARK_HIGH: usize = 1;

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
    /// The present instruction's first micro-operation.
    uop: u32,
    /// Offset of the next instruction from the start of the page.
    next: i32,
    /// Jumps to the interpreter, by micro-operation.
    interpret: Vec<(u32, Fixup)>,
    exits: Vec<(Fixup, Option<Fixup>, i32)>,
}

impl Compiler<'_, '_> {
    fn block(&mut self, insns: &[Insn], live: &[bool]) -> Option<Compiled> {
        let count = self.source.instructions.len() as i32;
        self.e.arithmetic(8, 5, Rm::Reg(REMAINING), count);
        let exhausted = self.e.jump_if(8);
        self.next = self.source.offset as i32;
        for (i, insn) in insns.iter().enumerate() {
            let (len, uop) = self.source.instructions[i];
            self.uop = uop;
            self.next += len as i32;
            if insn.shows_flags() {
                self.park();
            }
            self.instruction(insn, live[i + 1])?;
        }
        if insns.len() < self.source.instructions.len() {
            self.park();
            self.uop = self.source.instructions[insns.len()].1;
            let away = self.e.jump();
            self.interpret.push((self.uop, away));
        } else if self.source.falls_through {
            self.park();
            self.link(self.next)?;
        }
        self.stubs(exhausted, count)
    }

    /// The code behind the block that is rarely reached.
    fn stubs(&mut self, exhausted: Fixup, count: i32) -> Option<Compiled> {
        let place = &*self.place;
        let by_link = place.leave_by_link as i64 - place.at as i64;
        let to_interpreter = place.leave_to_interpreter as i64 - place.at as i64;
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
            self.e.constant(RAX, place.first_exit as u64 + i as u64);
            let away = self.e.jump();
            self.e.patch(away, by_link);
            exits.push(Exit { jump: jump.map(|jump| self.e.place(jump)), miss });
        }

        let interpret = std::mem::take(&mut self.interpret);
        let mut last = None;
        for (uop, fixup) in interpret {
            match last {
                Some((same, at)) if same == uop => self.e.patch(fixup, at),
                _ => {
                    last = Some((uop, self.e.len() as i64));
                    self.e.land(fixup);
                    self.e.constant(RAX, uop as u64);
                    self.e.constant(SCRATCH2, self.source.block as u64);
                    let away = self.e.jump();
                    self.e.patch(away, to_interpreter);
                }
            }
        }
        Some(Compiled { bytes: std::mem::take(&mut self.e.bytes), exits })
    }

    // Flags.

    fn parked_field(&self) -> Rm {
        Rm::Mem(CPU, frame::context(offset_of!(Context, parked)))
    }

    /// Puts the flags where they survive. Clobbers RAX.
    fn park(&mut self) {
        if self.parked {
            return;
        }
        debug_assert!(self.host, "flags that are seen are somewhere");
        // LAHF; SETO AL.
        self.e.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
        if !self.auxiliary {
            self.e.arithmetic(4, 4, Rm::Reg(RAX), !0x1000);
            self.host = false;
        }
        self.store_parked();
    }

    /// Parks AX.
    fn store_parked(&mut self) {
        let parked = self.parked_field();
        self.e.op(2, MOV_STORE, RAX, parked);
        self.parked = true;
    }

    /// Brings the flags back into the host's. Clobbers RAX.
    fn unpark(&mut self) {
        if self.host {
            return;
        }
        let parked = self.parked_field();
        // As many bytes as were stored, or the host could not forward them.
        self.e.op(4, Opcode::two(0xb7), RAX, parked);
        // ADD AL, 127; SAHF.
        self.e.bytes.extend([0x04, 0x7f, 0x9e]);
        self.host = true;
        self.auxiliary = true;
    }

    /// Brings back CF alone. The host's other flags are anything.
    fn unpark_carry(&mut self) {
        if !self.host {
            let parked = self.parked_field();
            self.e.group(2, Opcode::two(0xba), 4, parked);
            self.e.byte(8);
        }
    }

    /// The host's flags became the guest's.
    fn flags_set(&mut self) {
        (self.host, self.parked, self.auxiliary) = (true, false, true);
    }

    /// The guest's flags are nowhere, for nothing will see them.
    fn flags_gone(&mut self) {
        (self.host, self.parked) = (false, false);
    }

    // Memory.

    /// Leaves to the interpreter on a condition.
    fn interpret_if(&mut self, condition: u8) {
        let fixup = self.e.jump_if(condition);
        self.interpret.push((self.uop, fixup));
    }

    /// The guest register in a host register: its home, or `scratch`.
    fn read(&mut self, guest: u8, scratch: Reg) -> Reg {
        match home(guest) {
            Some(home) => home,
            None => {
                self.e.load(scratch, CPU, frame::slot(guest));
                scratch
            }
        }
    }

    /// The linear address of a memory operand in RAX, less its segment. Clobbers R14, no flags.
    fn effective(&mut self, memory: &Memory) {
        let base = match memory.base {
            Base::None => None,
            Base::Next => {
                self.e.load(RAX, CPU, frame::slot(PAGE_BASE));
                Some(RAX)
            }
            Base::Register(base) => Some(self.read(base, RAX)),
        };
        let disp = match memory.base {
            Base::Next => memory.disp.wrapping_add(self.next),
            _ => memory.disp,
        };
        let index = memory.index.map(|(index, scale)| (self.read(index, SCRATCH2), scale));
        match (base, index) {
            (None, None) => self.e.constant(RAX, disp as i64 as u64),
            (Some(base), None) => self.e.lea(RAX, base, disp),
            (Some(base), Some((index, scale))) => {
                self.e.op(8, LEA, RAX, Rm::Indexed(base, index, scale, disp))
            }
            (None, Some((index, scale))) => self.e.op(8, LEA, RAX, Rm::Scaled(index, scale, disp)),
        }
    }

    /// The host address of a memory operand in RAX. Clobbers R14 and the host's flags.
    fn address(&mut self, memory: &Memory, size: u8, write: bool) {
        self.effective(memory);
        if let Some(segment) = memory.segment {
            self.e.op(8, ADD_LOAD, RAX, Rm::Mem(CPU, frame::slot(segment)));
        }
        self.translate(size, write);
    }

    /// Turns the linear address in RAX into a host address, or leaves to the interpreter.
    fn translate(&mut self, size: u8, write: bool) {
        let entry = size_of::<Entry>() as u32;
        let shift = 12 - entry.trailing_zeros() as u8;
        self.e.op(4, MOV_LOAD, SCRATCH2, Rm::Reg(RAX));
        self.e.group(4, Opcode::one(0xc1), 5, Rm::Reg(SCRATCH2));
        self.e.byte(shift);
        self.e.arithmetic(4, 4, Rm::Reg(SCRATCH2), ((crate::tlb::ENTRIES as u32 - 1) * entry) as i32);
        let tag = if write { offset_of!(Entry, write) } else { offset_of!(Entry, read) };
        let mode = self.source.mode;
        let at = |field| Rm::Indexed(CPU, SCRATCH2, 0, frame::tlb(mode, field));
        self.e.op(8, XOR_LOAD, RAX, at(tag));
        self.e.arithmetic(8, 7, Rm::Reg(RAX), 4096 - size as i32);
        self.interpret_if(7);
        self.e.op(8, ADD_LOAD, RAX, at(offset_of!(Entry, host)));
        self.host = false;
    }

    /// The operand that may be in memory: [`Rm`] of its value. Where it is a register without a
    /// home, that is its slot, which is good for reading, and for writing 8 bytes or fewer than 4.
    fn operand(&mut self, insn: &Insn, size: u8, write: bool) -> Rm {
        match insn.rm {
            Operand::Memory(memory) => {
                self.address(&memory, size, write);
                Rm::Mem(RAX, 0)
            }
            Operand::Register(register) => match home(register) {
                Some(home) => Rm::Reg(home),
                None => Rm::Mem(CPU, frame::slot(register)),
            },
        }
    }

    /// The register to compute a result for guest register `guest` in: its home, or R14, which then
    /// holds its value. To be followed by [`Self::written`].
    fn result(&mut self, guest: u8) -> Reg {
        self.read(guest, SCRATCH2)
    }

    fn written(&mut self, guest: u8, register: Reg) {
        if home(guest).is_none() {
            self.e.store(CPU, frame::slot(guest), register);
        }
    }

    // Instructions.

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

    fn bytes(&self, insn: &Insn, opcode: u8) -> Opcode {
        let byte = insn.size == 1;
        Opcode { byte_reg: byte, byte_rm: byte, ..Opcode::one(opcode & !1 | !byte as u8) }
    }

    fn immediate(&mut self, size: u8, imm: i64) {
        match size {
            1 => self.e.byte(imm as u8),
            2 => self.e.bytes.extend_from_slice(&(imm as i16).to_le_bytes()),
            _ => self.e.i32(imm as i32),
        }
    }

    fn binary(&mut self, insn: &Insn, op: u8, form: Form) {
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
            None if size == 1 => {
                self.e.group(1, Opcode { byte_rm: true, ..Opcode::one(0x80) }, op, rm);
                self.e.byte(insn.imm as u8);
            }
            None => self.e.arithmetic(size, op, rm, insn.imm as i32),
        }
        self.write_back(back);
        self.flags_set();
    }

    /// Moves an operand that is a guest register without a home to RAX if it is written. Returns it, for
    /// [`Self::write_back`].
    fn in_register(&mut self, insn: &Insn, rm: &mut Rm, writes: bool) -> Option<u8> {
        match insn.rm {
            Operand::Register(register) if writes && home(register).is_none() => {
                self.e.load(RAX, CPU, frame::slot(register));
                *rm = Rm::Reg(RAX);
                Some(register)
            }
            _ => None,
        }
    }

    fn write_back(&mut self, register: Option<u8>) {
        if let Some(register) = register {
            self.e.store(CPU, frame::slot(register), RAX);
        }
    }

    fn test(&mut self, insn: &Insn, form: Form) {
        let rm = self.operand(insn, insn.size, false);
        if form == Form::RmReg {
            let source = self.read(insn.reg, SCRATCH2);
            let opcode = self.bytes(insn, 0x85);
            self.e.op(insn.size, opcode, source, rm);
        } else {
            let opcode = self.bytes(insn, 0xf7);
            self.e.group(insn.size, opcode, 0, rm);
            self.immediate(insn.size, insn.imm);
        }
        self.flags_set();
    }

    fn mov(&mut self, insn: &Insn, form: Form) {
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
                let rm = match home(register) {
                    Some(home) => Rm::Reg(home),
                    None => Rm::Mem(CPU, frame::slot(register)),
                };
                let opcode = self.bytes(insn, 0xc7);
                self.e.group(size, opcode, 0, rm);
                self.immediate(size, insn.imm);
            }
            (Form::RmImm, Operand::Register(register)) => {
                let value = if size == 4 { insn.imm as u32 as u64 } else { insn.imm as u64 };
                let result = home(register).unwrap_or(SCRATCH2);
                self.e.constant(result, value);
                self.written(register, result);
            }
        }
    }

    /// Guest register `to` takes the value at `rm`.
    fn move_to(&mut self, insn: &Insn, to: u8, rm: Rm) {
        let size = insn.size;
        let opcode = self.bytes(insn, 0x8b);
        match (home(to), rm) {
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

    fn lea(&mut self, insn: &Insn) {
        let Operand::Memory(memory) = insn.rm else { return };
        self.effective(&memory);
        match home(insn.reg) {
            Some(home) => self.e.op(insn.size, MOV_LOAD, home, Rm::Reg(RAX)),
            None => {
                if insn.size == 4 {
                    self.e.op(4, MOV_LOAD, RAX, Rm::Reg(RAX));
                }
                self.e.store(CPU, frame::slot(insn.reg), RAX);
            }
        }
    }

    fn extend(&mut self, insn: &Insn, from: u8, sign: bool) {
        let rm = self.operand(insn, from, false);
        let opcode = match (from, sign) {
            (4, _) => Opcode::one(0x63),
            (1, false) => Opcode { byte_rm: true, ..Opcode::two(0xb6) },
            (1, true) => Opcode { byte_rm: true, ..Opcode::two(0xbe) },
            (_, false) => Opcode::two(0xb7),
            (_, true) => Opcode::two(0xbf),
        };
        let result = if insn.size == 2 { self.result(insn.reg) } else { home(insn.reg).unwrap_or(SCRATCH2) };
        self.e.op(insn.size, opcode, result, rm);
        self.written(insn.reg, result);
    }

    fn cmov(&mut self, insn: &Insn, condition: u8) {
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

    fn set(&mut self, insn: &Insn, condition: u8) {
        self.unpark();
        let opcode = Opcode { byte_rm: true, ..Opcode::two(0x90 | condition) };
        match insn.rm {
            Operand::Register(register) => {
                let rm = home(register).map_or(Rm::Mem(CPU, frame::slot(register)), Rm::Reg);
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

    fn imul(&mut self, insn: &Insn, live: bool) {
        let rm = self.operand(insn, insn.size, false);
        let result;
        if insn.kind == Kind::Imul {
            result = self.result(insn.reg);
            self.e.op(insn.size, Opcode::two(0xaf), result, rm);
        } else {
            result = home(insn.reg).unwrap_or(SCRATCH2);
            self.e.op(insn.size, Opcode::one(0x69), result, rm);
            self.e.i32(insn.imm as i32);
        }
        self.written(insn.reg, result);
        self.product_flags(insn.size, result, live);
    }

    fn multiply(&mut self, insn: &Insn, signed: bool, live: bool) {
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
    fn product_flags(&mut self, size: u8, result: Reg, live: bool) {
        self.flags_gone();
        if live {
            // SETO AL; TEST result, result; LAHF; OR AH, AL.
            self.e.bytes.extend([0x0f, 0x90, 0xc0]);
            self.e.op(size, Opcode::one(0x85), result, Rm::Reg(result));
            self.e.bytes.extend([0x9f, 0x08, 0xc4]);
            self.store_parked();
        }
    }

    /// An operation on the one operand, in place.
    fn unary(&mut self, insn: &Insn, opcode: Opcode, extension: u8) {
        let mut rm = self.operand(insn, insn.size, true);
        let back = self.in_register(insn, &mut rm, true);
        let opcode = self.bytes(insn, opcode.byte);
        self.e.group(insn.size, opcode, extension, rm);
        self.write_back(back);
    }

    fn increment(&mut self, insn: &Insn, live: bool) {
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

    fn shift(&mut self, insn: &Insn, op: u8, count: u8, live: bool) {
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

    fn shift_by_cl(&mut self, insn: &Insn, op: u8, live: bool) {
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
            Operand::Register(register) if home(register).is_none() => {
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

    /// The host address of a new top of the stack, 8 bytes down, in RAX.
    fn push_address(&mut self) {
        self.e.lea(RAX, R11, -8);
        self.translate(8, true);
    }

    /// Pushes the address of the next instruction.
    fn push_next(&mut self) {
        self.push_address();
        self.e.load(SCRATCH2, CPU, frame::slot(PAGE_BASE));
        self.e.lea(SCRATCH2, SCRATCH2, self.next);
        self.e.store(RAX, 0, SCRATCH2);
        self.e.lea(R11, R11, -8);
    }

    fn push(&mut self, insn: &Insn) {
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

    fn pop(&mut self, insn: &Insn) {
        let Operand::Register(register) = insn.rm else { return };
        self.e.mov(RAX, R11);
        self.translate(8, false);
        // The stack pointer moves first, for POP RSP.
        self.e.lea(R11, R11, 8);
        let result = home(register).unwrap_or(SCRATCH2);
        self.e.load(result, RAX, 0);
        self.written(register, result);
    }

    fn leave(&mut self) {
        self.e.mov(RAX, R12);
        self.translate(8, false);
        self.e.lea(R11, R12, 8);
        self.e.load(R12, RAX, 0);
    }

    fn bit_test(&mut self, insn: &Insn, op: u8, immediate: bool, live: bool) {
        let size = insn.size;
        let writes = op != 4;
        let memory = insn.rm.is_memory();
        if live && !memory {
            self.unpark();
        }
        let mut rm = self.operand(insn, size, writes);
        let back = match insn.rm {
            Operand::Register(register) if home(register).is_none() => {
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

    fn scan(&mut self, insn: &Insn, reverse: bool, live: bool) {
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

    fn xchg(&mut self, insn: &Insn) {
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
                match home(insn.reg) {
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

    fn xadd(&mut self, insn: &Insn) {
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

    fn cmpxchg(&mut self, insn: &Insn) {
        let Operand::Memory(memory) = insn.rm else { return };
        let size = insn.size;
        let byte = size == 1;
        self.address(&memory, size, true);
        let opcode = Opcode { byte_reg: byte, byte_rm: byte, ..Opcode::two(0xb0 | !byte as u8) };
        let rax = self.read(0, RAX);
        self.e.mov(SCRATCH2, RAX);
        self.e.mov(RAX, rax);
        match home(insn.reg) {
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

    // Ways out.

    /// Goes on at an offset from the page.
    fn link(&mut self, target: i32) -> Option<()> {
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

    /// The target of an indirect jump or call in RAX.
    fn jump_target(&mut self, insn: &Insn) {
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
    fn find_target(&mut self) {
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

    fn jump_to_target(&mut self) {
        self.e.op(8, MOV_LOAD, RAX, target(offset_of!(Target, page)));
        self.e.store(CPU, frame::slot(PAGE_BASE), RAX);
        self.e.group(8, Opcode::one(0xff), 4, target(offset_of!(Target, code)));
    }
}

/// A field of the known target at distance R14.
fn target(field: usize) -> Rm {
    Rm::Indexed(CPU, SCRATCH2, 0, frame::context(offset_of!(Context, targets) + field))
}
