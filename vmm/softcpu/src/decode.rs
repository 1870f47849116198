//! From machine code to micro-operations.
//!
//! iced-x86 decodes; this file picks handlers for the instructions that programs consist of, and
//! `decode_system` for the rest. Addresses are decoded as if the page lay at zero, so every
//! RIP-relative address and branch target is an offset from the page.

use iced_x86::{
    ConditionCode, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};

use crate::interp::alu::{self, Form};
use crate::interp::bits::{self, BitOp};
use crate::interp::branch::Comparison;
use crate::interp::shift::{self, Shift};
use crate::interp::stack::{self, Operand};
use crate::interp::{control, exchange, mov, muldiv, system, vector};
use crate::mode::CodeSize;
use crate::uop::{FS_BASE, GS_BASE, Handler, PAGE_BASE, SCRATCH, Uop, ZERO};
use crate::{simd, x87};

/// Most instructions in a block. `Uop::ordinal` has room for 255.
pub const MAX_INSTRUCTIONS: u32 = 64;

/// Most bytes of an instruction.
pub const MAX_LEN: usize = 15;

/// Lowered vector and floating-point instructions, which do not fit into a micro-operation.
pub struct Tables<'a> {
    pub vector: &'a mut Vec<simd::Op>,
    pub x87: &'a mut Vec<x87::Op>,
}

/// The micro-operations of a block.
pub struct Decoded {
    pub uops: Vec<Uop>,
    pub len: u16,
    pub instructions: u16,
}

/// Decodes up to `limit` instructions at `offset` in their page. `None` if `bytes` ends within
/// the first one.
pub fn decode(bytes: &[u8], offset: u16, limit: u32, size: CodeSize, tables: Tables) -> Option<Decoded> {
    let mut decoder = Decoder::with_ip(size.bits(), bytes, offset as u64, DecoderOptions::NONE);
    let mut builder = Builder::new(tables, size);
    let mut insn = Instruction::default();
    let mut instructions = 0;
    let mut len = 0;
    loop {
        if instructions == limit.min(MAX_INSTRUCTIONS) {
            builder.fall_through(offset + len, instructions);
            break;
        }
        decoder.decode_out(&mut insn);
        if decoder.last_error() == DecoderError::NoMoreBytes && (bytes.len() - len as usize) < MAX_LEN {
            if instructions == 0 {
                return None;
            }
            builder.fall_through(offset + len, instructions);
            break;
        }
        let at = Position { offset: offset + len, len: insn.len() as u8, ordinal: instructions as u8 };
        // All that it may have was read, and it was not enough.
        let too_long = insn.len() == MAX_LEN;
        builder.instruction(&insn, at, too_long);
        instructions += 1;
        len += insn.len() as u16;
        if builder.ended {
            break;
        }
    }
    Some(Decoded { uops: builder.uops, len, instructions: instructions as u16 })
}

/// Where an instruction is.
#[derive(Clone, Copy)]
pub struct Position {
    offset: u16,
    len: u8,
    ordinal: u8,
}

pub struct Builder<'a> {
    uops: Vec<Uop>,
    tables: Tables<'a>,
    size: CodeSize,
    at: Position,
    /// The last micro-operation is this comparison, of so many bytes.
    comparison: Option<(Comparison, usize, Form)>,
    /// The last micro-operation leaves the block.
    pub ended: bool,
}

impl<'a> Builder<'a> {
    fn new(tables: Tables<'a>, size: CodeSize) -> Self {
        let at = Position { offset: 0, len: 0, ordinal: 0 };
        Builder { uops: Vec::with_capacity(8), tables, size, at, comparison: None, ended: false }
    }

    /// What is decoded.
    pub fn code_size(&self) -> CodeSize {
        self.size
    }

    /// Whether 64-bit code is decoded.
    pub fn is_long(&self) -> bool {
        self.size == CodeSize::Long
    }

    fn fall_through(&mut self, offset: u16, ordinal: u32) {
        self.at = Position { offset, len: 0, ordinal: ordinal as u8 };
        let uop = Uop { imm: offset as u64, ..self.uop(control::fall_through) };
        self.uops.push(uop);
    }

    /// A micro-operation at the present position without operands.
    pub fn uop(&self, handler: Handler) -> Uop {
        let Position { offset, len, ordinal } = self.at;
        Uop { len, ordinal, offset, ..Uop::new(handler) }
    }

    pub fn emit(&mut self, uop: Uop) {
        self.uops.push(uop);
    }

    /// The micro-operation emitted last.
    pub fn last(&mut self) -> Option<&mut Uop> {
        self.uops.last_mut()
    }

    pub fn plain(&mut self, handler: Handler) {
        self.uops.push(self.uop(handler));
    }

    /// Emits the last micro-operation of the block.
    pub fn end(&mut self, uop: Uop) {
        self.uops.push(uop);
        self.ended = true;
    }

    /// Fills in the memory operand of `insn`, if it has one. True if the address needs an index
    /// or a segment.
    pub fn memory(&mut self, insn: &Instruction, uop: &mut Uop) -> bool {
        if !self.is_long() {
            if (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
                self.legacy_memory(insn, uop);
            }
            return false;
        }
        uop.segment = match insn.memory_segment() {
            Register::FS => FS_BASE,
            Register::GS => GS_BASE,
            _ => ZERO,
        };
        let displacement = insn.memory_displacement64();
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let base_number = match base {
            Register::None => ZERO,
            Register::RIP | Register::EIP => PAGE_BASE,
            base => base.number() as u8,
        };
        let index_number = if index == Register::None { ZERO } else { index.number() as u8 };
        let scale = insn.memory_index_scale().trailing_zeros() as u8;
        let short = base.size() == 4
            || index.size() == 4
            || base == Register::None && index == Register::None && insn.memory_displ_size() == 4;
        let narrow = i32::try_from(displacement as i64);
        if short && !(base == Register::None && index == Register::None && displacement >> 31 == 0) {
            let mut address = self.uop(mov::address32);
            (address.base, address.index, address.scale, address.imm) =
                (base_number, index_number, scale, displacement);
            self.uops.push(address);
            uop.base = SCRATCH;
        } else if let Ok(narrow) = narrow {
            (uop.base, uop.index, uop.scale, uop.disp) = (base_number, index_number, scale, narrow);
        } else {
            let mut address = self.uop(mov::address64);
            (address.base, address.imm) = (base_number, displacement);
            self.uops.push(address);
            (uop.base, uop.index, uop.scale) = (SCRATCH, index_number, scale);
        }
        uop.index != ZERO || uop.segment != ZERO
    }

    fn instruction(&mut self, insn: &Instruction, at: Position, too_long: bool) {
        self.at = at;
        let comparison = self.comparison.take();
        if insn.is_invalid() {
            let handler = if too_long { control::too_long } else { control::invalid };
            return self.end(self.uop(handler));
        }
        if insn.is_string_instruction() {
            return self.string(insn);
        }
        if !self.is_long() && self.legacy(insn) {
            return;
        }
        if self.branch(insn, comparison) || self.common(insn) || self.system(insn) {
            return;
        }
        if let Some(op) = simd::lower(insn) {
            let handler = if op.needs_fpu() { vector::vector } else { vector::vector_free };
            let mut uop = self.uop(handler);
            uop.imm = self.tables.vector.len() as u64;
            self.memory(insn, &mut uop);
            self.tables.vector.push(op);
            self.uops.push(uop);
        } else if let Some(op) = x87::lower(insn) {
            let mut uop = self.uop(vector::x87);
            uop.imm = self.tables.x87.len() as u64;
            uop.extra = (insn.mnemonic() == Mnemonic::Wait) as u16;
            self.memory(insn, &mut uop);
            self.tables.x87.push(op);
            self.uops.push(uop);
        } else {
            let mut uop = self.uop(control::unknown);
            uop.imm = insn.mnemonic() as u64;
            self.end(uop);
        }
    }

    /// Moves, arithmetic, shifts, stack. False if it is none of these.
    fn common(&mut self, insn: &Instruction) -> bool {
        use Mnemonic::*;
        let condition = insn.condition_code();
        // CMPccXADD, which this CPU lacks, has a condition and three operands.
        if condition != ConditionCode::None && insn.op_count() <= 2 {
            self.conditional(insn, condition as u8 - 1);
            return true;
        }
        match insn.mnemonic() {
            Mov => return self.mov(insn),
            Add => self.compute(insn, alu::binary::<alu::Add>),
            Or => self.compute(insn, alu::binary::<alu::Or>),
            Adc => self.compute(insn, alu::binary::<alu::Adc>),
            Sbb => self.compute(insn, alu::binary::<alu::Sbb>),
            And => self.compute(insn, alu::binary::<alu::And>),
            Sub => self.compute(insn, alu::binary::<alu::Sub>),
            Xor => self.compute(insn, alu::binary::<alu::Xor>),
            Cmp => {
                let form = self.binary(insn, alu::binary::<alu::Cmp>);
                self.comparison = Some((Comparison::Cmp, size(insn), form));
            }
            Test => {
                let form = self.binary(insn, alu::binary::<alu::Test>);
                self.comparison = Some((Comparison::Test, size(insn), form));
            }
            Inc => self.unary(insn, alu::unary::<alu::Inc>),
            Dec => self.unary(insn, alu::unary::<alu::Dec>),
            Neg => self.unary(insn, alu::unary::<alu::Neg>),
            Not => self.unary(insn, alu::unary::<alu::Not>),
            Mul => self.unary(insn, |size, memory| muldiv::mul(size, memory.is_some())),
            Div => self.unary(insn, |size, memory| muldiv::div(size, memory.is_some())),
            Idiv => self.unary(insn, |size, memory| muldiv::idiv(size, memory.is_some())),
            Imul => self.imul(insn),
            Movzx => self.movx(insn, false),
            Movsx | Movsxd => self.movx(insn, true),
            Lea => {
                let mut uop = self.uop(control::invalid);
                self.memory(insn, &mut uop);
                uop.segment = ZERO;
                uop.r0 = number(insn.op0_register());
                uop.handler = mov::lea(insn.op0_register().size(), uop.index != ZERO);
                self.uops.push(uop);
            }
            Push => return self.push(insn),
            Pop => return self.pop(insn),
            Leave if insn.code() == iced_x86::Code::Leavew => self.plain(stack::leave16),
            Leave => self.plain(stack::leave),
            Rol => self.shift(insn, Shift::Rol),
            Ror => self.shift(insn, Shift::Ror),
            Rcl => self.shift(insn, Shift::Rcl),
            Rcr => self.shift(insn, Shift::Rcr),
            Shl | Sal => self.shift(insn, Shift::Shl),
            Shr => self.shift(insn, Shift::Shr),
            Sar => self.shift(insn, Shift::Sar),
            Shld => self.double_shift(insn, true),
            Shrd => self.double_shift(insn, false),
            Bt => self.bit(insn, BitOp::Test),
            Bts => self.bit(insn, BitOp::Set),
            Btr => self.bit(insn, BitOp::Reset),
            Btc => self.bit(insn, BitOp::Complement),
            // Without BMI1 and ABM the REP prefix of TZCNT and LZCNT is ignored.
            Bsf | Tzcnt => self.scan(insn, false),
            Bsr | Lzcnt => self.scan(insn, true),
            Xchg => self.exchange(insn, exchange::xchg),
            Xadd => self.exchange(insn, exchange::xadd),
            Cmpxchg => self.exchange(insn, exchange::cmpxchg),
            Cmpxchg8b => self.memory_only(insn, exchange::cmpxchg8b),
            Cmpxchg16b => self.memory_only(insn, exchange::cmpxchg16b),
            Bswap => self.with_size(insn, mov::bswap),
            Cbw => self.sized(mov::sign_extend_rax, 2),
            Cwde => self.sized(mov::sign_extend_rax, 4),
            Cdqe => self.sized(mov::sign_extend_rax, 8),
            Cwd => self.sized(mov::sign_extend_to_rdx, 2),
            Cdq => self.sized(mov::sign_extend_to_rdx, 4),
            Cqo => self.sized(mov::sign_extend_to_rdx, 8),
            Lahf => self.plain(mov::lahf),
            Sahf => self.plain(mov::sahf),
            Cmc => self.plain(mov::cmc),
            Clc => self.plain(mov::clc),
            Stc => self.plain(mov::stc),
            Cld => self.plain(mov::cld),
            Std => self.plain(mov::std),
            Xlatb => {
                let mut uop = self.uop(mov::xlat);
                uop.imm = match insn.memory_base() {
                    Register::BX => 0xffff,
                    Register::EBX => u32::MAX as u64,
                    _ => u64::MAX,
                };
                uop.segment = self.source_base(insn);
                self.uops.push(uop);
            }
            Pause => self.plain(system::pause),
            Nop | Endbr64 | Endbr32 | Reservednop | Rdsspd | Rdsspq | Mfence | Lfence | Sfence
            | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetch | Prefetchw | Prefetchwt1 => {
                self.plain(mov::nop)
            }
            _ => return false,
        }
        true
    }

    /// Fills in the operands of a two-operand instruction.
    fn operands(&mut self, insn: &Instruction, uop: &mut Uop) -> Form {
        let memory = |kind| kind == OpKind::Memory;
        let (first, second) = (insn.op0_kind(), insn.op1_kind());
        if memory(first) {
            let full = self.memory(insn, uop);
            if second == OpKind::Register {
                uop.r1 = number(insn.op1_register());
                return Form::MemReg { full };
            }
            uop.imm = insn.immediate(1);
            return Form::MemImm { full };
        }
        uop.r0 = number(insn.op0_register());
        if memory(second) {
            let full = self.memory(insn, uop);
            return Form::RegMem { full };
        }
        if second == OpKind::Register {
            uop.r1 = number(insn.op1_register());
            return Form::RegReg;
        }
        uop.imm = insn.immediate(1);
        Form::RegImm
    }

    fn binary(&mut self, insn: &Instruction, handler: fn(usize, Form) -> Handler) -> Form {
        let mut uop = self.uop(control::invalid);
        let form = self.operands(insn, &mut uop);
        uop.handler = handler(size(insn), form);
        self.uops.push(uop);
        form
    }

    fn compute(&mut self, insn: &Instruction, handler: fn(usize, Form) -> Handler) {
        self.binary(insn, handler);
    }

    fn mov(&mut self, insn: &Instruction) -> bool {
        let special =
            |register: Register| register.is_cr() || register.is_dr() || register.is_segment_register();
        let has_special = insn.op0_kind() == OpKind::Register && special(insn.op0_register())
            || insn.op1_kind() == OpKind::Register && special(insn.op1_register());
        if !has_special {
            self.binary(insn, mov::mov);
        }
        !has_special
    }

    fn unary(&mut self, insn: &Instruction, handler: fn(usize, Option<bool>) -> Handler) {
        let mut uop = self.uop(control::invalid);
        let memory = self.one_operand(insn, &mut uop);
        uop.handler = handler(size(insn), memory);
        self.uops.push(uop);
    }

    /// Fills in operand 0: a register in `r0`, or memory (`Some(full)`).
    pub fn one_operand(&mut self, insn: &Instruction, uop: &mut Uop) -> Option<bool> {
        if insn.op0_kind() == OpKind::Memory {
            return Some(self.memory(insn, uop));
        }
        uop.r0 = number(insn.op0_register());
        None
    }

    fn imul(&mut self, insn: &Instruction) {
        if insn.op_count() == 1 {
            return self.unary(insn, |size, memory| muldiv::imul_accumulator(size, memory.is_some()));
        }
        let mut uop = self.uop(control::invalid);
        let form = self.operands(insn, &mut uop);
        let immediate = insn.op_count() == 3;
        if immediate {
            uop.imm = insn.immediate(2);
        }
        uop.handler = muldiv::imul(size(insn), matches!(form, Form::RegMem { .. }), immediate);
        self.uops.push(uop);
    }

    fn movx(&mut self, insn: &Instruction, sign: bool) {
        let mut uop = self.uop(control::invalid);
        let form = self.operands(insn, &mut uop);
        let (source, memory) = match form {
            Form::RegMem { full } => (insn.memory_size().size(), Some(full)),
            _ => (insn.op1_register().size(), None),
        };
        uop.handler = mov::movx(source, insn.op0_register().size(), sign, memory);
        self.uops.push(uop);
    }

    fn conditional(&mut self, insn: &Instruction, condition: u8) {
        let mut uop = self.uop(control::invalid);
        if insn.op_count() == 1 {
            let memory = self.one_operand(insn, &mut uop);
            uop.handler = mov::set(condition, memory.is_some());
        } else {
            let form = self.operands(insn, &mut uop);
            uop.handler = mov::cmov(size(insn), condition, matches!(form, Form::RegMem { .. }));
        }
        self.uops.push(uop);
    }

    fn push(&mut self, insn: &Instruction) -> bool {
        let mut uop = Uop { base: stack::RSP as u8, ..self.uop(control::invalid) };
        let (size, operand) = match insn.op0_kind() {
            OpKind::Memory => {
                uop.base = ZERO;
                self.memory(insn, &mut uop);
                (insn.memory_size().size(), Operand::Memory)
            }
            OpKind::Register if insn.op0_register().is_segment_register() => return false,
            OpKind::Register => {
                uop.r1 = number(insn.op0_register());
                (insn.op0_register().size(), Operand::Register)
            }
            kind => {
                uop.imm = insn.immediate(0);
                let short = matches!(kind, OpKind::Immediate16 | OpKind::Immediate8to16);
                (if short { 2 } else { 8 }, Operand::Immediate)
            }
        };
        uop.handler = stack::push(size, operand);
        self.uops.push(uop);
        true
    }

    fn pop(&mut self, insn: &Instruction) -> bool {
        let mut uop = Uop { base: stack::RSP as u8, ..self.uop(control::invalid) };
        if insn.op0_kind() == OpKind::Memory {
            uop.base = ZERO;
        } else if insn.op0_register().is_segment_register() {
            return false;
        }
        let memory = self.one_operand(insn, &mut uop);
        uop.handler = stack::pop(size(insn), memory.is_some());
        self.uops.push(uop);
        true
    }

    fn shift(&mut self, insn: &Instruction, op: Shift) {
        let mut uop = self.uop(control::invalid);
        let memory = self.one_operand(insn, &mut uop).is_some();
        let by_cl = insn.op1_kind() == OpKind::Register;
        if !by_cl {
            uop.imm = insn.immediate(1);
        }
        uop.handler = shift::handler(op, size(insn), memory, by_cl);
        self.uops.push(uop);
    }

    fn double_shift(&mut self, insn: &Instruction, left: bool) {
        let mut uop = self.uop(control::invalid);
        let memory = self.one_operand(insn, &mut uop).is_some();
        uop.r1 = number(insn.op1_register());
        uop.extra = (insn.op2_kind() == OpKind::Register) as u16;
        if uop.extra == 0 {
            uop.imm = insn.immediate(2);
        }
        uop.handler = shift::double_shift(left, size(insn), memory);
        self.uops.push(uop);
    }

    fn bit(&mut self, insn: &Instruction, op: BitOp) {
        let mut uop = self.uop(control::invalid);
        let form = self.operands(insn, &mut uop);
        let immediate = matches!(form, Form::RegImm | Form::MemImm { .. });
        let memory = matches!(form, Form::MemReg { .. } | Form::MemImm { .. });
        uop.handler = bits::bit_test(op, size(insn), memory, immediate);
        self.uops.push(uop);
    }

    fn scan(&mut self, insn: &Instruction, reverse: bool) {
        let mut uop = self.uop(control::invalid);
        let form = self.operands(insn, &mut uop);
        uop.handler = bits::bit_scan(reverse, size(insn), matches!(form, Form::RegMem { .. }));
        self.uops.push(uop);
    }

    fn exchange(&mut self, insn: &Instruction, handler: fn(usize, bool) -> Handler) {
        let mut uop = self.uop(control::invalid);
        let memory = match self.operands(insn, &mut uop) {
            // XCHG is symmetric; the memory operand may come second.
            Form::RegMem { .. } => {
                uop.r1 = uop.r0;
                true
            }
            form => form != Form::RegReg,
        };
        uop.handler = handler(size(insn), memory);
        self.uops.push(uop);
    }

    pub fn memory_only(&mut self, insn: &Instruction, handler: Handler) {
        let mut uop = self.uop(handler);
        self.memory(insn, &mut uop);
        self.uops.push(uop);
    }

    /// Register operand 0 in `r0` and its size in `extra`.
    pub fn with_size(&mut self, insn: &Instruction, handler: Handler) {
        let mut uop = self.uop(handler);
        uop.r0 = number(insn.op0_register());
        uop.extra = insn.op0_register().size() as u16;
        self.uops.push(uop);
    }

    pub fn sized(&mut self, handler: Handler, extra: u16) {
        let uop = Uop { extra, ..self.uop(handler) };
        self.uops.push(uop);
    }
}

/// The size of operand 0 in bytes.
pub fn size(insn: &Instruction) -> usize {
    match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size(),
        OpKind::Memory => insn.memory_size().size(),
        _ => 8,
    }
}

/// A general register's number as micro-operations hold it; 32..=35 are AH, CH, DH, BH.
pub fn number(register: Register) -> u8 {
    match register {
        Register::AH => 32,
        Register::CH => 33,
        Register::DH => 34,
        Register::BH => 35,
        // iced numbers the byte registers in its own way.
        register if register.is_gpr8() => register.full_register().number() as u8,
        register => register.number() as u8,
    }
}
