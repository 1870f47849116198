//! Random instructions of every form that can run unprivileged and cannot fault.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind, OpKind,
    Register,
};

use super::forms::{is_comparison, is_safe_in_sequence, is_string, is_x87, undefined_after};
use super::prepare::{ignored, prepare};
use super::program;
use super::random::Random;
use super::state::{Case, State, window};

/// Makes cases.
pub struct Generator {
    /// Keep away from what a following instruction depends on.
    careful: bool,
    /// Let every operand in memory lie anywhere.
    unaligned: bool,
    /// Where the first instruction will lie.
    start: u64,
    /// What mode it is for: 64, 32 or 16.
    bits: u32,
}

/// The registers that memory operands use; other operands keep away from them.
#[derive(Clone, Copy)]
struct Pointers {
    /// Points to the middle of the scratch memory.
    base: usize,
    /// Holds a small multiple of 16.
    index: usize,
}

const RSP: usize = 4;

/// What every instruction of a sequence uses.
const SHARED: Pointers = Pointers { base: 15, index: 14 };

const GPR64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

impl Default for Generator {
    fn default() -> Self {
        Self {
            careful: false,
            unaligned: false,
            start: window::BASE + program::prologue().len() as u64,
            bits: 64,
        }
    }
}

impl Generator {
    /// Instructions that keep their hands off the registers that others use as addresses and that
    /// cannot make a later one fault.
    pub fn for_sequences() -> Self {
        Self { careful: true, ..Self::default() }
    }

    /// Instructions whose operands, the stack included, may lie anywhere, also where they fault by it.
    pub fn unaligned() -> Self {
        Self { unaligned: true, ..Self::default() }
    }

    /// Instructions of compatibility mode, of 32 or 16 bits, all with addresses of 32 bits.
    pub fn outside_64_bit_mode(bits: u32) -> Self {
        Self { bits, ..Self::default() }
    }

    fn is_long(&self) -> bool {
        self.bits == 64
    }

    /// One instruction of this form with everything around it; `None` if it has no encoding here.
    pub fn case(&self, code: Code, random: &mut Random) -> Option<Case> {
        let mut state = State::random(random);
        let pointers = self.pointers(code, random);
        self.aim(pointers, &mut state, random);
        let (instruction, bytes) = self.instruction(code, self.start, pointers, random)?;
        if !prepare(&instruction, &mut state, random) {
            return None;
        }
        if is_x87(code) && !self.unaligned && random.one_in(4) {
            // Nothing after it waits, so that what it raises stays pending on the host too. Makers
            // disagree about the result of a comparison that has an unmasked exception.
            let all = if is_comparison(code) { 0x3c } else { 0x3f };
            state.unmask(random.next() as u16 & all);
        }
        let ignored = ignored(&instruction, &state);
        let undefined_flags = undefined_after(&instruction, 0);
        Some(Case { instructions: vec![instruction], code: bytes, before: state, ignored, undefined_flags })
    }

    /// Several instructions of any of these forms, some of them jumped over.
    pub fn sequence(&self, codes: &[Code], length: usize, random: &mut Random) -> Case {
        let mut state = State::random(random);
        self.aim(SHARED, &mut state, random);
        let mut case = Case {
            instructions: Vec::new(),
            code: Vec::new(),
            before: state,
            ignored: Vec::new(),
            undefined_flags: 0,
        };
        let mut undefined = 0;
        while case.instructions.len() < length {
            let code = random.choose(codes);
            if !is_safe_in_sequence(code) {
                continue;
            }
            let address = self.start + case.code.len() as u64;
            let jump = random.one_in(6).then(|| jump_over(random.below(16) as u8));
            let after_jump = address + jump.map_or(0, |bytes| bytes.len() as u64);
            let Some((instruction, bytes)) = self.instruction(code, after_jump, SHARED, random) else {
                continue;
            };
            // What depends on an undefined flag may differ.
            if instruction.rflags_read() & undefined != 0 {
                continue;
            }
            let after = undefined_after(&instruction, undefined);
            if let Some(mut jump) = jump {
                jump[1] = bytes.len() as u8;
                let decoded = decode(self.bits, &jump, address);
                if decoded.rflags_read() & undefined != 0 {
                    continue;
                }
                case.instructions.push(decoded);
                case.code.extend(jump);
                undefined |= after;
            } else {
                undefined = after;
            }
            case.ignored.extend(ignored(&instruction, &case.before));
            case.instructions.push(instruction);
            case.code.extend(bytes);
        }
        case.undefined_flags = undefined;
        case
    }

    /// Chooses the pointers, among them those with an encoding of their own (RBP, R12, R13).
    fn pointers(&self, code: Code, random: &mut Random) -> Pointers {
        let implicit = matches!(code.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
        if !self.is_long() {
            let base = if implicit { 3 } else { random.choose(&[3, 5, 6]) };
            return Pointers { base, index: 7 };
        }
        if self.careful || implicit {
            return SHARED;
        }
        let base = random.choose(&[15, 3, 5, 6, 8, 12, 13]);
        let index = loop {
            let index = random.choose(&[14, 5, 9, 10, 12, 13]);
            if index != base {
                break index;
            }
        };
        Pointers { base, index }
    }

    /// Points the address registers into the scratch memory.
    fn aim(&self, pointers: Pointers, state: &mut State, random: &mut Random) {
        state.gpr[pointers.base] = window::CENTRE + 0x40;
        state.gpr[pointers.index] = random.choose(&[0, 16, 32]);
        if self.careful {
            state.fxsave[4] = 0xff;
        }
    }

    fn instruction(
        &self,
        code: Code,
        address: u64,
        pointers: Pointers,
        random: &mut Random,
    ) -> Option<(Instruction, Vec<u8>)> {
        let info = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let mut memory_used = false;
        // All 8-bit registers of one instruction come with REX or without.
        let legacy_bytes = self.is_long() && random.one_in(3);
        for (i, kind) in info.op_kinds().iter().enumerate() {
            let operand = self.operand(*kind, code, pointers, legacy_bytes, memory_used, random)?;
            match operand {
                Operand::Register(register) => {
                    instruction.set_op_kind(i as u32, OpKind::Register);
                    instruction.set_op_register(i as u32, register);
                }
                Operand::Memory(memory) => {
                    memory_used = true;
                    instruction.set_op_kind(i as u32, OpKind::Memory);
                    instruction.set_memory_base(memory.base);
                    instruction.set_memory_index(memory.index);
                    instruction.set_memory_index_scale(memory.scale);
                    instruction.set_memory_displacement64(memory.displacement as u64);
                    instruction.set_memory_displ_size(memory.displ_size);
                }
                Operand::Immediate(kind, value) => {
                    instruction.set_op_kind(i as u32, kind);
                    instruction.set_immediate_u64(i as u32, value);
                }
                Operand::Implicit(kind) => {
                    instruction.set_op_kind(i as u32, kind);
                    if !matches!(kind, OpKind::MemoryESRDI | OpKind::MemoryESEDI) {
                        instruction.set_memory_index_scale(1);
                    }
                }
            }
        }
        let memory_first = info.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        if info.can_use_lock_prefix() && memory_first && random.one_in(3) {
            instruction.set_has_lock_prefix(true);
        }
        if info.can_use_rep_prefix() && random.one_in(2) {
            instruction.set_has_rep_prefix(true);
        } else if info.can_use_repne_prefix() && is_string(code.mnemonic()) && random.one_in(2) {
            instruction.set_has_repne_prefix(true);
        }
        let mut encoder = Encoder::new(self.bits);
        encoder.encode(&instruction, address).ok()?;
        let bytes = encoder.take_buffer();
        // What the encoder was asked for is not always what the bytes mean (REX, prefixes).
        let decoded = decode(self.bits, &bytes, address);
        (decoded.code() == code && decoded.len() == bytes.len()).then_some((decoded, bytes))
    }

    fn operand(
        &self,
        kind: OpCodeOperandKind,
        code: Code,
        pointers: Pointers,
        legacy_bytes: bool,
        memory_used: bool,
        random: &mut Random,
    ) -> Option<Operand> {
        use OpCodeOperandKind::*;
        let memory = !memory_used && random.one_in(2);
        let number = loop {
            let number = random.below(if self.is_long() { 16 } else { 8 });
            if number != RSP && number != pointers.base && number != pointers.index {
                break number;
            }
        };
        let gpr = |size: usize| {
            Operand::Register(match size {
                // AL to BL and AH to BH.
                1 if !self.is_long() => Register::AL + number as u32,
                _ => sized(number, size, legacy_bytes),
            })
        };
        let vectors = if self.is_long() { 16 } else { 8 };
        let xmm = |random: &mut Random| Operand::Register(Register::XMM0 + random.below(vectors) as u32);
        let mm = |random: &mut Random| Operand::Register(Register::MM0 + random.below(8) as u32);
        Some(match kind {
            mem => Operand::Memory(self.memory(code, pointers, random)),
            r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem if memory => {
                Operand::Memory(self.memory(code, pointers, random))
            }
            r8_or_mem | r8_reg | r8_opcode => gpr(1),
            r16_or_mem | r16_reg | r16_rm | r16_opcode => gpr(2),
            r32_or_mem | r32_reg | r32_rm | r32_opcode => gpr(4),
            r64_or_mem | r64_reg | r64_rm | r64_opcode => gpr(8),
            mm_or_mem | mm_reg | mm_rm => mm(random),
            xmm_or_mem | xmm_reg | xmm_rm => xmm(random),
            al => Operand::Register(Register::AL),
            cl => Operand::Register(Register::CL),
            ax => Operand::Register(Register::AX),
            dx => Operand::Register(Register::DX),
            eax => Operand::Register(Register::EAX),
            rax => Operand::Register(Register::RAX),
            st0 => Operand::Register(Register::ST0),
            sti_opcode => Operand::Register(Register::ST0 + random.below(8) as u32),
            // ENTER's nesting level.
            imm8 if matches!(code.mnemonic(), Mnemonic::Enter) => {
                Operand::Immediate(OpKind::Immediate8_2nd, random.next() & 0xff)
            }
            imm8 => Operand::Immediate(OpKind::Immediate8, random.next() & 0xff),
            imm8_const_1 => Operand::Immediate(OpKind::Immediate8, 1),
            imm8sex16 => Operand::Immediate(OpKind::Immediate8to16, small(random) & 0xffff),
            imm8sex32 => Operand::Immediate(OpKind::Immediate8to32, small(random) & 0xffff_ffff),
            imm8sex64 => Operand::Immediate(OpKind::Immediate8to64, small(random)),
            // A frame that is inside the scratch memory.
            imm16 if matches!(code.mnemonic(), Mnemonic::Enter) => {
                Operand::Immediate(OpKind::Immediate16, random.below(0x100) as u64)
            }
            imm16 => Operand::Immediate(OpKind::Immediate16, random.integer() & 0xffff),
            imm32 => Operand::Immediate(OpKind::Immediate32, random.integer() & 0xffff_ffff),
            imm32sex64 => Operand::Immediate(OpKind::Immediate32to64, random.integer() as i32 as u64),
            imm64 => Operand::Immediate(OpKind::Immediate64, random.integer()),
            seg_rSI if !self.is_long() => Operand::Implicit(OpKind::MemorySegESI),
            es_rDI if !self.is_long() => Operand::Implicit(OpKind::MemoryESEDI),
            seg_rDI if !self.is_long() => Operand::Implicit(OpKind::MemorySegEDI),
            seg_rSI => Operand::Implicit(OpKind::MemorySegRSI),
            es_rDI => Operand::Implicit(OpKind::MemoryESRDI),
            seg_rDI => Operand::Implicit(OpKind::MemorySegRDI),
            seg_rBX_al => Operand::Memory(MemoryOperand::new(
                if self.is_long() { Register::RBX } else { Register::EBX },
                Register::AL,
                1,
                0,
                0,
                false,
                Register::None,
            )),
            mem_offs => Operand::Memory(MemoryOperand::new(
                Register::None,
                Register::None,
                1,
                (window::CENTRE + random.below(0x80) as u64) as i64,
                if self.is_long() { 8 } else { 4 },
                false,
                Register::None,
            )),
            _ => return Option::None,
        })
    }

    /// An address inside the scratch memory, in one of the ways to write it.
    fn memory(&self, code: Code, pointers: Pointers, random: &mut Random) -> MemoryOperand {
        // Wide operands stay aligned; whether they must be is a test of its own.
        let step = if !self.unaligned && code.op_code().memory_size().size() >= 16 { 16 } else { 1 };
        let offset = (random.below(0xb0 / step) * step) as i64;
        let relative = offset - 0x40;
        let small = if (-0x80..0x80).contains(&relative) { 1 } else { 4 };
        let base = GPR64[pointers.base];
        let plain = |base, displacement, size| {
            MemoryOperand::new(base, Register::None, 1, displacement, size, false, Register::None)
        };
        let absolute = window::CENTRE as i64 + offset;
        if !self.is_long() {
            let base = sized(pointers.base, 4, false);
            let index = sized(pointers.index, 4, false);
            let scale = random.choose(&[1, 2, 4, 8]);
            return match random.below(12) {
                0..3 => plain(base, relative, 4),
                3..6 => plain(base, relative, small),
                6 => plain(base, 0, if pointers.base == 5 { 1 } else { 0 }),
                7 | 8 => plain(Register::None, absolute, 4),
                _ => MemoryOperand::new(base, index, scale, relative, 4, false, Register::None),
            };
        }
        match random.below(7) {
            0 => plain(base, relative, 8),
            1 => plain(base, relative, small),
            2 => plain(base, 0, if matches!(pointers.base, 5 | 13) { 1 } else { 0 }),
            3 => plain(sized(pointers.base, 4, false), relative, 4),
            4 => plain(Register::None, absolute, 4),
            5 => plain(Register::RIP, absolute, 8),
            _ => MemoryOperand::new(
                base,
                GPR64[pointers.index],
                random.choose(&[1, 2, 4, 8]),
                relative,
                8,
                false,
                Register::None,
            ),
        }
    }
}

/// What goes into an operand.
enum Operand {
    Register(Register),
    Memory(MemoryOperand),
    Immediate(OpKind, u64),
    Implicit(OpKind),
}

fn decode(bits: u32, bytes: &[u8], address: u64) -> Instruction {
    Decoder::with_ip(bits, bytes, address, DecoderOptions::NONE).decode()
}

/// `Jcc` with this condition and an 8-bit distance still to be filled in.
fn jump_over(condition: u8) -> [u8; 2] {
    [0x70 | condition, 0]
}

fn small(random: &mut Random) -> u64 {
    random.next() as i8 as u64
}

fn sized(number: usize, size: usize, legacy: bool) -> Register {
    const GPR8: [Register; 4] = [Register::AH, Register::CH, Register::DH, Register::BH];
    let number32 = number as u32;
    match size {
        1 if legacy => {
            if number < 8 {
                GPR8[number % 4]
            } else {
                Register::AL + number32 % 4
            }
        }
        1 if number < 4 => Register::AL + number32,
        1 => Register::SPL + (number32 - 4),
        2 => Register::AX + number32,
        4 => Register::EAX + number32,
        _ => GPR64[number],
    }
}
