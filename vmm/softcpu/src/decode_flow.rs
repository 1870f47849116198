//! Decoding of jumps, calls, returns and string instructions.

use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind};

use crate::decode::{Builder, number};
use crate::interp::alu::Form;
use crate::interp::branch::{self, Comparison};
use crate::interp::string::{self, StringOp};
use crate::interp::{control, legacy, stack};
use crate::uop::{ES_BASE, Handler, Uop, ZERO};

impl Builder<'_> {
    /// False if the instruction is none of these.
    pub fn branch(&mut self, insn: &Instruction, comparison: Option<(Comparison, usize, Form)>) -> bool {
        let mut uop = Uop { base: stack::RSP as u8, ..self.uop(control::jmp) };
        match insn.flow_control() {
            FlowControl::ConditionalBranch => {
                uop.imm = branch_target(insn);
                let resized = self.resizes(insn);
                if resized {
                    uop.extra = if insn.op0_kind() == OpKind::NearBranch16 { 2 } else { 4 };
                }
                uop.handler = match insn.mnemonic() {
                    Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
                        uop.r0 = match insn.mnemonic() {
                            Mnemonic::Loop => 0,
                            Mnemonic::Loope => 1,
                            _ => 2,
                        };
                        if resized { legacy::loop_ } else { control::loop_ }
                    }
                    Mnemonic::Jrcxz | Mnemonic::Jecxz | Mnemonic::Jcxz if resized => legacy::jcxz,
                    Mnemonic::Jrcxz | Mnemonic::Jecxz | Mnemonic::Jcxz => control::jcxz,
                    _ if insn.condition_code() != ConditionCode::None && resized => {
                        legacy::jump_if(insn.condition_code() as u8 - 1)
                    }
                    _ if insn.condition_code() != ConditionCode::None => {
                        let condition = insn.condition_code() as u8 - 1;
                        if let Some((comparison, size, form)) = comparison
                            && let Some(joined) = branch::joined(comparison, size, form, condition)
                            && let Some(last) = self.last()
                        {
                            last.handler = joined;
                        }
                        control::jcc(condition)
                    }
                    _ => return false,
                };
                // The address size picks the counter.
                uop.disp = self.counter_size(insn);
            }
            FlowControl::UnconditionalBranch if insn.is_jmp_short_or_near() => {
                uop.imm = branch_target(insn);
            }
            FlowControl::Call if insn.is_call_near() => {
                uop.imm = branch_target(insn);
                uop.handler = control::call;
            }
            FlowControl::IndirectBranch if insn.is_jmp_near_indirect() => {
                self.indirect(insn, &mut uop, control::jmp_reg, control::jmp_mem);
            }
            FlowControl::IndirectCall if insn.is_call_near_indirect() => {
                self.indirect(insn, &mut uop, control::call_reg, control::call_mem);
            }
            FlowControl::Return if insn.mnemonic() == Mnemonic::Ret => {
                uop.handler = control::ret;
                if insn.op0_kind() == OpKind::Immediate16 {
                    uop.imm = insn.immediate16() as u64;
                }
            }
            _ => return false,
        }
        self.end(uop);
        true
    }

    /// The size of the counter of LOOP and JCXZ.
    fn counter_size(&self, insn: &Instruction) -> i32 {
        use Code::*;
        match insn.code() {
            Jcxz_rel8_16 | Jcxz_rel8_32 | Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX
            | Loope_rel8_32_CX | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 2,
            Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 | Loop_rel8_16_ECX | Loop_rel8_32_ECX
            | Loop_rel8_64_ECX | Loope_rel8_16_ECX | Loope_rel8_32_ECX | Loope_rel8_64_ECX
            | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 4,
            _ => 8,
        }
    }

    fn indirect(&mut self, insn: &Instruction, uop: &mut Uop, register: Handler, memory: Handler) {
        if insn.op0_kind() == OpKind::Memory {
            uop.handler = memory;
            self.memory(insn, uop);
        } else {
            uop.handler = register;
            uop.r1 = number(insn.op0_register());
        }
    }

    pub fn string(&mut self, insn: &Instruction) {
        use Mnemonic::*;
        let size = insn.memory_size().size();
        let mut uop = self.uop(control::invalid);
        uop.handler = match insn.mnemonic() {
            Movsb | Movsw | Movsd | Movsq => string::handler(StringOp::Movs, size),
            Stosb | Stosw | Stosd | Stosq => string::handler(StringOp::Stos, size),
            Lodsb | Lodsw | Lodsd | Lodsq => string::handler(StringOp::Lods, size),
            Scasb | Scasw | Scasd | Scasq => string::handler(StringOp::Scas, size),
            Cmpsb | Cmpsw | Cmpsd | Cmpsq => string::handler(StringOp::Cmps, size),
            Insb | Insw | Insd => string::ins,
            Outsb | Outsw | Outsd => string::outs,
            _ => return self.end(uop),
        };
        uop.r0 = size as u8;
        uop.extra = if insn.has_repne_prefix() {
            string::REPEAT_UNEQUAL
        } else if insn.has_rep_prefix() {
            string::REPEAT
        } else {
            string::ONCE
        };
        let kinds = || (0..insn.op_count()).map(|i| insn.op_kind(i));
        uop.imm = if kinds().any(|kind| matches!(kind, OpKind::MemorySegSI | OpKind::MemoryESDI)) {
            0xffff
        } else if kinds().any(|kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI)) {
            u32::MAX as u64
        } else {
            u64::MAX
        };
        uop.segment = self.source_base(insn);
        // The destination's segment.
        uop.base = if self.is_long() { ZERO } else { ES_BASE };
        self.emit(uop);
        if matches!(insn.mnemonic(), Insb | Insw | Insd | Outsb | Outsw | Outsd) {
            self.end(self.uop(control::resume));
        }
    }
}

/// The target of a near branch as an offset from the page at zero; outside 64-bit mode RIP is cut to
/// its size when the target is looked up.
pub fn branch_target(insn: &Instruction) -> u64 {
    match insn.op0_kind() {
        OpKind::NearBranch16 => insn.near_branch16() as i16 as i64 as u64,
        OpKind::NearBranch32 => insn.near_branch32() as i32 as i64 as u64,
        _ => insn.near_branch64(),
    }
}
