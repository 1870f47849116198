//! Decoding of the instructions that operating systems consist of.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::decode::{Builder, number, size};
use crate::interp::{control, mov, port, stack, system, transfer};
use crate::segment::Segment;
use crate::uop::{Handler, Uop, ZERO};

impl Builder<'_> {
    /// False if the instruction is none of this kind.
    pub fn system(&mut self, insn: &Instruction) -> bool {
        use Mnemonic::*;
        match insn.mnemonic() {
            Mov => self.mov_special(insn),
            Push => {
                let mut uop = self.uop(stack::push_segment);
                uop.r1 = number(insn.op0_register());
                uop.extra = if matches!(insn.code(), Code::Pushw_FS | Code::Pushw_GS) { 2 } else { 8 };
                self.emit(uop);
            }
            Pop => {
                let mut uop = self.uop(stack::pop_segment);
                uop.r0 = number(insn.op0_register());
                uop.extra = if matches!(insn.code(), Code::Popw_FS | Code::Popw_GS) { 2 } else { 8 };
                self.end(uop);
            }
            Enter => {
                let short = insn.code() == Code::Enterw_imm16_imm8;
                let mut uop = self.uop(if short { stack::enter16 } else { stack::enter });
                uop.imm = insn.immediate16() as u64;
                uop.extra = insn.immediate8_2nd() as u16;
                self.emit(uop);
            }
            Pushf => self.sized(stack::pushf, 2),
            Pushfq => self.sized(stack::pushf, 8),
            Popf => self.sized_flags(2),
            Popfq => self.sized_flags(8),
            Cli => self.plain(system::cli),
            // Both may end the block, so both must be able to go on behind it.
            Sti => self.plain(system::sti),
            Hlt => self.finish(transfer::hlt),
            Int3 => self.finish(transfer::int3),
            Int1 => self.finish(transfer::int1),
            Int => {
                let mut uop = self.uop(transfer::int);
                uop.imm = insn.immediate8() as u64;
                self.end(uop);
            }
            Syscall => self.finish(transfer::syscall),
            Sysretq => self.finish(transfer::sysret),
            Iret => self.finish_sized(transfer::iret, 2),
            Iretd => self.finish_sized(transfer::iret, 4),
            Iretq => self.finish_sized(transfer::iret, 8),
            Retf => {
                let mut uop = self.uop(transfer::retf);
                uop.extra = match insn.code() {
                    Code::Retfw | Code::Retfw_imm16 => 2,
                    Code::Retfd | Code::Retfd_imm16 => 4,
                    _ => 8,
                };
                if insn.op_count() == 1 {
                    uop.imm = insn.immediate16() as u64;
                }
                self.end(uop);
            }
            Jmp => self.far(insn, transfer::jmp_far),
            Call => self.far(insn, transfer::call_far),
            Sysret => self.finish(transfer::sysret_compat),
            Sysenter => self.finish(transfer::sysenter),
            Sysexit => self.finish_sized(transfer::sysexit, 4),
            Sysexitq => self.finish_sized(transfer::sysexit, 8),
            Lss => self.far_pointer(insn, Segment::Ss),
            Lfs => self.far_pointer(insn, Segment::Fs),
            Lgs => self.far_pointer(insn, Segment::Gs),
            Swapgs => self.plain(transfer::swapgs),
            In => self.port(insn, size(insn), insn.op1_kind(), port::in_imm, port::in_dx),
            Out => {
                let size = insn.op1_register().size();
                self.port(insn, size, insn.op0_kind(), port::out_imm, port::out_dx);
            }
            Cpuid => self.plain(system::cpuid_),
            Rdtsc => self.finish(system::rdtsc),
            Rdtscp => self.finish(system::rdtscp),
            Rdmsr => self.finish(system::rdmsr),
            Wrmsr => self.finish(system::wrmsr),
            Rdpmc => self.finish(system::rdpmc),
            Clts => self.plain(system::clts),
            Invlpg => {
                self.memory_only(insn, system::invlpg);
                self.ended = true;
            }
            Wbinvd | Wbnoinvd | Invd => self.plain(system::write_back),
            Clflush => self.memory_only(insn, system::clflush),
            Lgdt => self.memory_only(insn, system::lgdt),
            Lidt => self.memory_only(insn, system::lidt),
            Sgdt => self.memory_only(insn, system::sgdt),
            Sidt => self.memory_only(insn, system::sidt),
            Lldt => self.selector_operand(insn, system::load_system_segment, Segment::Ldtr as u8),
            Ltr => self.selector_operand(insn, system::load_system_segment, Segment::Tr as u8),
            Sldt => self.store_segment(insn, Segment::Ldtr as u8),
            Str => self.store_segment(insn, Segment::Tr as u8),
            Smsw if insn.op0_kind() == OpKind::Memory => self.memory_only(insn, system::smsw_mem),
            Smsw => self.with_size(insn, system::smsw),
            Lmsw => {
                self.selector_operand(insn, system::lmsw, ZERO);
                self.ended = true;
            }
            Lar => self.descriptor_query(insn, system::lar),
            Lsl => self.descriptor_query(insn, system::lsl),
            Verr => self.selector_operand(insn, system::verify, ZERO),
            Verw => {
                let uop = Uop { imm: 1, ..self.selector(insn, 0, system::verify) };
                self.emit(uop);
            }
            Rdrand | Rdseed => self.with_size(insn, system::rdrand),
            Serialize => self.finish(system::serialize),
            Ud0 | Ud1 | Ud2 => self.finish(control::invalid),
            _ => return false,
        }
        true
    }

    pub fn finish(&mut self, handler: Handler) {
        let uop = self.uop(handler);
        self.end(uop);
    }

    pub fn finish_sized(&mut self, handler: Handler, extra: u16) {
        let uop = Uop { extra, ..self.uop(handler) };
        self.end(uop);
    }

    fn sized_flags(&mut self, extra: u16) {
        let uop = Uop { extra, base: stack::RSP as u8, ..self.uop(stack::popf) };
        self.emit(uop);
    }

    fn far(&mut self, insn: &Instruction, handler: Handler) {
        let mut uop = self.uop(handler);
        self.memory(insn, &mut uop);
        uop.extra = match insn.code() {
            Code::Jmp_m1616 | Code::Call_m1616 => 2,
            Code::Jmp_m1632 | Code::Call_m1632 => 4,
            _ => 8,
        };
        self.end(uop);
    }

    fn port(&mut self, insn: &Instruction, size: usize, kind: OpKind, immediate: Handler, dx: Handler) {
        let by_immediate = kind == OpKind::Immediate8;
        let mut uop = self.uop(if by_immediate { immediate } else { dx });
        uop.r0 = size as u8;
        if by_immediate {
            uop.imm = insn.immediate8() as u64;
        }
        self.end(uop);
    }

    /// A 16-bit operand `index`: memory with `extra` 1, or register `r1`.
    fn selector(&mut self, insn: &Instruction, index: u32, handler: Handler) -> Uop {
        let mut uop = self.uop(handler);
        if insn.op_kind(index) == OpKind::Memory {
            self.memory(insn, &mut uop);
            uop.extra = 1;
        } else {
            uop.r1 = number(insn.op_register(index));
        }
        uop
    }

    fn selector_operand(&mut self, insn: &Instruction, handler: Handler, r0: u8) {
        let uop = Uop { r0, ..self.selector(insn, 0, handler) };
        self.emit(uop);
    }

    fn descriptor_query(&mut self, insn: &Instruction, handler: Handler) {
        let mut uop = self.selector(insn, 1, handler);
        uop.r0 = number(insn.op0_register());
        uop.imm = insn.op0_register().size() as u64;
        self.emit(uop);
    }

    fn store_segment(&mut self, insn: &Instruction, segment: u8) {
        let mut uop = self.uop(system::store_segment);
        uop.r1 = segment;
        if self.one_operand(insn, &mut uop).is_none() {
            uop.handler = system::mov_from_segment;
            uop.extra = insn.op0_register().size() as u16;
        }
        self.emit(uop);
    }

    /// MOV from and to control, debug and segment registers.
    fn mov_special(&mut self, insn: &Instruction) {
        let (first, second) = (insn.op0_register(), insn.op1_register());
        if second.is_segment_register() {
            return self.store_segment(insn, number(second));
        }
        if first.is_segment_register() {
            let handler = if first == Register::CS { control::invalid } else { system::mov_to_segment };
            let uop = Uop { r0: number(first), ..self.selector(insn, 1, handler) };
            return self.end(uop);
        }
        let mut uop = self.uop(mov::nop);
        (uop.r0, uop.r1) = (number(first), number(second));
        if first.is_cr() || first.is_dr() {
            uop.handler = if first.is_cr() { system::mov_to_cr } else { system::mov_to_dr };
            return self.end(uop);
        }
        uop.handler = if second.is_dr() { system::mov_from_dr } else { system::mov_from_cr };
        self.emit(uop);
    }
}
