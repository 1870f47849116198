//! Decoding outside 64-bit mode, as far as it differs.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use crate::decode::{Builder, number, size};
use crate::interp::{control, legacy, transfer};
use crate::mode::{CodeSize, base_register};
use crate::segment::Segment;
use crate::uop::{Handler, SCRATCH, Uop, ZERO};

/// The segment that iced names.
pub fn segment(register: Register) -> Segment {
    match register {
        Register::ES => Segment::Es,
        Register::CS => Segment::Cs,
        Register::SS => Segment::Ss,
        Register::FS => Segment::Fs,
        Register::GS => Segment::Gs,
        _ => Segment::Ds,
    }
}

impl Builder<'_> {
    /// Emits the micro-operation that works out the memory operand's linear address, for `uop` to use.
    pub fn legacy_memory(&mut self, insn: &Instruction, uop: &mut Uop) {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let register = |register: Register| match register {
            Register::None => ZERO,
            register => register.number() as u8,
        };
        let short = base.size() == 2
            || index.size() == 2
            || base == Register::None && index == Register::None && insn.memory_displ_size() == 2;
        let mut address = self.uop(legacy::address);
        (address.base, address.index) = (register(base), register(index));
        address.scale = insn.memory_index_scale().trailing_zeros() as u8;
        address.disp = insn.memory_displacement64() as i32;
        address.imm = if short { 0xffff } else { 0xffff_ffff };
        let segment = segment(insn.memory_segment());
        address.r0 = segment as u8;
        address.extra = insn.memory_size().size().min(512) as u16;
        match insn.mnemonic() {
            Mnemonic::Lea => address.handler = legacy::effective,
            // Its address is worked out after the stack pointer has moved.
            Mnemonic::Pop if matches!(base, Register::ESP | Register::SP) => {
                address.disp = address.disp.wrapping_add(insn.stack_pointer_increment());
            }
            _ => {}
        }
        let writes = InstructionInfoFactory::new().info(insn).used_memory().iter().any(|memory| {
            matches!(
                memory.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            ) && memory.segment() == insn.memory_segment()
        });
        if writes && insn.op0_kind() == OpKind::Memory {
            address.extra |= legacy::WRITES;
        }
        self.emit(address);
        (uop.base, uop.index, uop.segment, uop.disp) = (SCRATCH, ZERO, ZERO, 0);
    }

    /// False if the instruction is decoded as in 64-bit mode.
    pub fn legacy(&mut self, insn: &Instruction) -> bool {
        use Mnemonic::*;
        let moved = insn.stack_pointer_increment().unsigned_abs() as u16;
        match insn.mnemonic() {
            Push => {
                let mut uop = Uop { extra: moved, ..self.uop(legacy::push_immediate) };
                match insn.op0_kind() {
                    OpKind::Register if insn.op0_register().is_segment_register() => {
                        uop.handler = legacy::push_segment;
                        uop.r1 = number(insn.op0_register());
                    }
                    OpKind::Register => {
                        uop.handler = legacy::push_register;
                        uop.r1 = number(insn.op0_register());
                    }
                    OpKind::Memory => {
                        uop.handler = legacy::push_memory;
                        self.legacy_memory(insn, &mut uop);
                    }
                    _ => uop.imm = insn.immediate(0),
                }
                self.emit(uop);
            }
            Pop => {
                let mut uop = Uop { extra: moved, ..self.uop(legacy::pop_memory) };
                if insn.op0_kind() == OpKind::Memory {
                    self.legacy_memory(insn, &mut uop);
                    self.emit(uop);
                } else if insn.op0_register().is_segment_register() {
                    (uop.handler, uop.r0) = (legacy::pop_segment, number(insn.op0_register()));
                    self.end(uop);
                } else {
                    (uop.handler, uop.r0) = (legacy::pop_register, number(insn.op0_register()));
                    self.emit(uop);
                }
            }
            Pushf => self.sized(legacy::pushf, 2),
            Pushfd => self.sized(legacy::pushf, 4),
            Popf => self.finish_sized(legacy::popf, 2),
            Popfd => self.finish_sized(legacy::popf, 4),
            Pusha => self.sized(legacy::pusha, 2),
            Pushad => self.sized(legacy::pusha, 4),
            Popa => self.sized(legacy::popa, 2),
            Popad => self.sized(legacy::popa, 4),
            Enter => {
                let mut uop = self.uop(legacy::enter);
                uop.extra = if insn.code() == iced_x86::Code::Enterw_imm16_imm8 { 2 } else { 4 };
                uop.imm = insn.immediate16() as u64;
                uop.r0 = insn.immediate8_2nd() & 31;
                self.emit(uop);
            }
            Leave => self.sized(legacy::leave, if insn.code() == iced_x86::Code::Leavew { 2 } else { 4 }),
            Call | Jmp => return self.legacy_transfer(insn),
            Ret => {
                let mut uop = self.uop(legacy::ret);
                if insn.op0_kind() == OpKind::Immediate16 {
                    uop.imm = insn.immediate16() as u64;
                }
                let word = matches!(insn.code(), iced_x86::Code::Retnw | iced_x86::Code::Retnw_imm16);
                uop.extra = if word { 2 } else { 4 };
                self.end(uop);
            }
            Les => self.far_pointer(insn, Segment::Es),
            Lds => self.far_pointer(insn, Segment::Ds),
            Into => self.finish(legacy::into),
            Bound => {
                let mut uop = self.uop(legacy::bound);
                uop.r0 = number(insn.op0_register());
                uop.extra = insn.op0_register().size() as u16;
                self.legacy_memory(insn, &mut uop);
                self.emit(uop);
            }
            Arpl => {
                let mut uop = Uop { r1: number(insn.op1_register()), ..self.uop(legacy::arpl) };
                if self.one_operand(insn, &mut uop).is_some() {
                    uop.extra = 1;
                }
                self.emit(uop);
            }
            Daa => self.plain(legacy::daa),
            Das => self.plain(legacy::das),
            Aaa => self.plain(legacy::aaa),
            Aas => self.plain(legacy::aas),
            Aam => self.with_immediate(insn, legacy::aam),
            Aad => self.with_immediate(insn, legacy::aad),
            Salc => self.plain(legacy::salc),
            Lgdt => self.table(insn, legacy::load_table, 0),
            Lidt => self.table(insn, legacy::load_table, 1),
            Sgdt => self.table(insn, legacy::store_table, 0),
            Sidt => self.table(insn, legacy::store_table, 1),
            // An Intel CPU has SYSCALL in 64-bit mode only.
            Syscall => self.finish(control::invalid),
            Iret => self.finish_sized(transfer::iret, 2),
            _ => return false,
        }
        true
    }

    /// LSS, LFS and LGS, which 64-bit mode has too, and those that it has not.
    pub fn far_pointer(&mut self, insn: &Instruction, to: Segment) {
        let mut uop = self.uop(legacy::load_far_pointer);
        (uop.r0, uop.r1) = (number(insn.op0_register()), to as u8);
        uop.extra = insn.op0_register().size() as u16;
        self.memory(insn, &mut uop);
        self.end(uop);
    }

    /// Whether a near branch has operands of a size that is not the code's, to which its target is cut.
    pub fn resizes(&self, insn: &Instruction) -> bool {
        match insn.op0_kind() {
            OpKind::NearBranch16 => self.code_size() == CodeSize::Bits32,
            OpKind::NearBranch32 => self.code_size() == CodeSize::Bits16,
            _ => false,
        }
    }

    fn legacy_transfer(&mut self, insn: &Instruction) -> bool {
        let call = insn.mnemonic() == Mnemonic::Call;
        let pick = |jump: Handler, of_call: Handler| if call { of_call } else { jump };
        let mut uop = self.uop(control::jmp);
        match insn.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 => {
                uop.imm = crate::decode_flow::branch_target(insn);
                uop.extra = if insn.op0_kind() == OpKind::NearBranch16 { 2 } else { 4 };
                uop.handler =
                    pick(if self.resizes(insn) { legacy::jump } else { control::jmp }, legacy::call);
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                uop.disp = insn.far_branch_selector() as i32;
                let long = insn.op0_kind() == OpKind::FarBranch32;
                uop.imm = if long { insn.far_branch32() as u64 } else { insn.far_branch16() as u64 };
                uop.extra = if long { 4 } else { 2 };
                uop.handler = pick(legacy::jump_far, legacy::call_far);
            }
            OpKind::Register => {
                uop.r1 = number(insn.op0_register());
                uop.extra = insn.op0_register().size() as u16;
                uop.handler = pick(legacy::jump_register, legacy::call_register);
            }
            _ if insn.is_jmp_far_indirect() || insn.is_call_far_indirect() => return false,
            _ => {
                uop.extra = size(insn) as u16;
                uop.handler = pick(legacy::jump_memory, legacy::call_memory);
                self.legacy_memory(insn, &mut uop);
            }
        }
        self.end(uop);
        true
    }

    fn with_immediate(&mut self, insn: &Instruction, handler: Handler) {
        let uop = Uop { imm: insn.immediate(0), ..self.uop(handler) };
        self.emit(uop);
    }

    fn table(&mut self, insn: &Instruction, handler: Handler, table: u8) {
        let mut uop = Uop { r0: table, ..self.uop(handler) };
        let code = insn.code();
        use iced_x86::Code::{Lgdt_m1632_16, Lidt_m1632_16};
        uop.extra = if matches!(code, Lgdt_m1632_16 | Lidt_m1632_16) { 2 } else { 4 };
        self.legacy_memory(insn, &mut uop);
        self.emit(uop);
    }

    /// The pseudo-register with the base of the segment that a string instruction or XLAT reads.
    pub fn source_base(&self, insn: &Instruction) -> u8 {
        let segment = segment(insn.memory_segment());
        match segment {
            Segment::Fs | Segment::Gs => base_register(segment),
            _ if self.is_long() => ZERO,
            _ => base_register(segment),
        }
    }
}
