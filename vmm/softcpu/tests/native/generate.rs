//! Random instructions of every form that can run unprivileged and cannot fault.

use std::ops::Range;

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction,
    MemoryOperand, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use super::program;
use super::random::Random;
use super::state::{Case, State, window};

/// Makes cases.
pub struct Generator {
    /// Keep away from what a following instruction depends on.
    careful: bool,
    /// Where the first instruction will lie.
    start: u64,
}

/// Registers that instructions may write: all but the stack pointer and the bases of memory
/// operands.
const WRITABLE: [usize; 12] = [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13];
/// The registers that memory operands use: two bases and an index.
const RSI: usize = 6;
const R14: usize = 14;
const R15: usize = 15;
const RDI: usize = 7;
const RCX: usize = 1;
const RBX: usize = 3;

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

/// Whether the form is one the software CPU has and a test may run.
pub fn is_eligible(code: Code) -> bool {
    use CpuidFeature::*;
    let info = code.op_code();
    let known = |feature: &CpuidFeature| {
        matches!(
            feature,
            INTEL8086
                | INTEL186
                | INTEL286
                | INTEL386
                | INTEL486
                | X64
                | CMOV
                | CMPXCHG16B
                | CX8
                | FPU
                | FPU287
                | FPU387
                | FXSR
                | MMX
                | POPCNT
                | SSE
                | SSE2
                | SSE3
                | SSSE3
                | SSE4_1
                | SSE4_2
                | MULTIBYTENOP
                | PAUSE
        )
    };
    info.is_instruction()
        && info.mode64()
        && code.encoding() == EncodingKind::Legacy
        && code.cpuid_features().iter().all(known)
        && code.flow_control() == FlowControl::Next
        && !code.is_privileged()
        && !info.is_input_output()
        && !is_excluded(code)
}

/// Whether it is an x87 instruction.
pub fn is_x87(code: Code) -> bool {
    use CpuidFeature::*;
    code.mnemonic() == Mnemonic::Fisttp
        || code.cpuid_features().iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387))
}

fn is_comparison(code: Code) -> bool {
    use Mnemonic::*;
    matches!(
        code.mnemonic(),
        Fcom | Fcomp
            | Fcompp
            | Ficom
            | Ficomp
            | Fucom
            | Fucomp
            | Fucompp
            | Ftst
            | Fcomi
            | Fcomip
            | Fucomi
            | Fucomip
    )
}

/// Whether it is an MMX or SSE instruction, or POPCNT or CRC32.
pub fn is_vector(code: Code) -> bool {
    use CpuidFeature::*;
    use Mnemonic::*;
    !is_x87(code)
        && code.cpuid_features().iter().any(|feature| {
            matches!(feature, FXSR | MMX | SSE | SSE2 | SSE3 | SSSE3 | SSE4_1 | SSE4_2 | POPCNT)
        })
        && !matches!(
            code.mnemonic(),
            Lfence | Mfence | Sfence | Pause | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Clflush
        )
}

/// Forms that would fault, leave the window, or see the host.
fn is_excluded(code: Code) -> bool {
    use Mnemonic::*;
    let segment = code.op_code().op_kinds().iter().any(|kind| {
        use OpCodeOperandKind::*;
        matches!(kind, seg_reg | fs | gs | es | cs | ss | ds | cr_reg | dr_reg | tr_reg)
    });
    segment
        || matches!(
            code.mnemonic(),
            // Segments, system state, and what is only reserved.
            Reservednop | Lar | Lsl | Verr | Verw | Sgdt | Sidt | Sldt | Str | Smsw | Lfs | Lgs | Lss | Cli | Sti
            // Frames.
            | Enter | Leave
            // IF, TF and AC are not the test's to choose.
            | Pushf | Pushfq | Popf | Popfq
            // No second form of these is decoded: WAIT and the rest are two instructions.
            | Fstcw | Fstsw | Fstenv | Fsave | Fclex | Finit | Feni | Fdisi | Fsetpm | Frstpm | Fstdw | Fstsg
            | Fnstdw | Fnstsg | Fneni | Fndisi | Fnsetpm
            // An undocumented FSTP whose faults differ between makers.
            | Fstpnce
        )
}

impl Default for Generator {
    fn default() -> Self {
        Self { careful: false, start: window::BASE + program::prologue().len() as u64 }
    }
}

impl Generator {
    /// Instructions that keep their hands off the registers that others use as addresses and that
    /// cannot make a later one fault.
    pub fn for_sequences() -> Self {
        Self { careful: true, ..Self::default() }
    }

    /// One instruction of this form with everything around it; `None` if it has no encoding here.
    pub fn case(&self, code: Code, random: &mut Random) -> Option<Case> {
        let mut state = State::random(random);
        self.aim(&mut state, random);
        let (instruction, bytes) = self.instruction(code, self.start, random)?;
        if !self.prepare(&instruction, &mut state, random) {
            return None;
        }
        if is_x87(code) && random.one_in(4) {
            // Nothing after it waits, so that what it raises stays pending on the host too. Makers
            // disagree about the result of a comparison that has an unmasked exception.
            let all = if is_comparison(code) { 0x3c } else { 0x3f };
            state.unmask(random.next() as u16 & all);
        }
        let ignored = ignored(&instruction, &state);
        Some(Case { instructions: vec![instruction], code: bytes, before: state, ignored })
    }

    /// Several instructions of any of these forms.
    pub fn sequence(&self, codes: &[Code], length: usize, random: &mut Random) -> Case {
        let mut state = State::random(random);
        self.aim(&mut state, random);
        let mut case =
            Case { instructions: Vec::new(), code: Vec::new(), before: state, ignored: Vec::new() };
        let mut undefined = 0;
        while case.instructions.len() < length {
            let code = random.choose(codes);
            if !is_safe_in_sequence(code) {
                continue;
            }
            let address = self.start + case.code.len() as u64;
            if let Some((instruction, bytes)) = self.instruction(code, address, random) {
                // What depends on an undefined flag may differ.
                if instruction.rflags_read() & undefined != 0 {
                    continue;
                }
                undefined = undefined_after(&instruction, undefined);
                case.instructions.push(instruction);
                case.code.extend(bytes);
            }
        }
        case
    }

    /// Points the address registers into the scratch memory.
    fn aim(&self, state: &mut State, random: &mut Random) {
        state.gpr[RSI] = window::CENTRE;
        state.gpr[R15] = window::CENTRE + 0x40;
        state.gpr[R14] = random.choose(&[0, 16, 32]);
        if self.careful {
            state.fxsave[4] = 0xff;
        }
    }

    fn instruction(&self, code: Code, address: u64, random: &mut Random) -> Option<(Instruction, Vec<u8>)> {
        let info = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let mut memory_used = false;
        // All 8-bit registers of one instruction come with REX or without.
        let legacy_bytes = random.one_in(3);
        for (i, kind) in info.op_kinds().iter().enumerate() {
            let operand = self.operand(*kind, code, legacy_bytes, memory_used, random)?;
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
                    if kind != OpKind::MemoryESRDI {
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
        let mut encoder = Encoder::new(64);
        encoder.encode(&instruction, address).ok()?;
        let bytes = encoder.take_buffer();
        // What the encoder was asked for is not always what the bytes mean (REX, prefixes).
        let mut decoder = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE);
        let decoded = decoder.decode();
        (decoded.code() == code && decoded.len() == bytes.len()).then_some((decoded, bytes))
    }

    fn operand(
        &self,
        kind: OpCodeOperandKind,
        code: Code,
        legacy_bytes: bool,
        memory_used: bool,
        random: &mut Random,
    ) -> Option<Operand> {
        use OpCodeOperandKind::*;
        let memory = !memory_used && random.one_in(2);
        let number = random.choose(&WRITABLE);
        let gpr = |random: &mut Random, size: usize| {
            let _ = random;
            Operand::Register(sized(number, size, legacy_bytes))
        };
        let xmm = |random: &mut Random| Operand::Register(Register::XMM0 + random.below(16) as u32);
        let mm = |random: &mut Random| Operand::Register(Register::MM0 + random.below(8) as u32);
        Some(match kind {
            mem => Operand::Memory(self.memory(code, random)),
            r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem if memory => {
                Operand::Memory(self.memory(code, random))
            }
            r8_or_mem | r8_reg | r8_opcode => gpr(random, 1),
            r16_or_mem | r16_reg | r16_rm | r16_opcode => gpr(random, 2),
            r32_or_mem | r32_reg | r32_rm | r32_opcode => gpr(random, 4),
            r64_or_mem | r64_reg | r64_rm | r64_opcode => gpr(random, 8),
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
            imm8 => Operand::Immediate(OpKind::Immediate8, random.next() & 0xff),
            imm8_const_1 => Operand::Immediate(OpKind::Immediate8, 1),
            imm8sex16 => Operand::Immediate(OpKind::Immediate8to16, small(random) & 0xffff),
            imm8sex32 => Operand::Immediate(OpKind::Immediate8to32, small(random) & 0xffff_ffff),
            imm8sex64 => Operand::Immediate(OpKind::Immediate8to64, small(random)),
            imm16 => Operand::Immediate(OpKind::Immediate16, random.integer() & 0xffff),
            imm32 => Operand::Immediate(OpKind::Immediate32, random.integer() & 0xffff_ffff),
            imm32sex64 => Operand::Immediate(OpKind::Immediate32to64, random.integer() as i32 as u64),
            imm64 => Operand::Immediate(OpKind::Immediate64, random.integer()),
            seg_rSI => Operand::Implicit(OpKind::MemorySegRSI),
            es_rDI => Operand::Implicit(OpKind::MemoryESRDI),
            seg_rDI => Operand::Implicit(OpKind::MemorySegRDI),
            seg_rBX_al => Operand::Memory(MemoryOperand::new(
                Register::RBX,
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
                8,
                false,
                Register::None,
            )),
            _ => return Option::None,
        })
    }

    /// An address inside the scratch memory, in one of the ways to write it.
    fn memory(&self, code: Code, random: &mut Random) -> MemoryOperand {
        // Wide operands stay aligned; whether they must be is tested elsewhere.
        let step = if code.op_code().memory_size().size() >= 16 { 16 } else { 1 };
        let offset = (random.below(0xb0 / step) * step) as i64;
        let plain = |base, displacement, size| {
            MemoryOperand::new(base, Register::None, 1, displacement, size, false, Register::None)
        };
        match random.below(6) {
            0 => plain(Register::RSI, offset, 4),
            1 => plain(Register::R15, offset - 0x40, 8),
            2 => plain(Register::ESI, offset, 4),
            3 => plain(Register::None, (window::CENTRE as i64) + offset, 4),
            4 => plain(Register::RIP, (window::CENTRE as i64) + offset, 8),
            _ => MemoryOperand::new(
                Register::R15,
                Register::R14,
                random.choose(&[1, 2, 4]),
                offset - 0x40,
                8,
                false,
                Register::None,
            ),
        }
    }

    /// Makes the state one in which the instruction does not fault; false if there is none.
    fn prepare(&self, instruction: &Instruction, state: &mut State, random: &mut Random) -> bool {
        use Mnemonic::*;
        match instruction.mnemonic() {
            Div | Idiv => return prepare_division(instruction, state, random),
            // A bit offset in a register reaches far from its memory operand.
            Bt | Btc | Btr | Bts if instruction.op1_kind() == OpKind::Register => {
                let number = instruction.op1_register().full_register().number();
                if instruction.op0_kind() == OpKind::Memory {
                    state.gpr[number] = (random.below(512) as u64).wrapping_sub(256);
                }
            }
            // Undefined for counts above 16.
            Shld | Shrd if instruction.op1_register().size() == 2 => match instruction.op_kind(2) {
                OpKind::Register => state.gpr[RCX] = random.below(17) as u64,
                _ => return instruction.immediate8() & 31 <= 16,
            },
            Xlatb => state.gpr[RBX] = window::CENTRE,
            Movsb | Movsw | Movsd | Movsq | Cmpsb | Cmpsw | Cmpsd | Cmpsq | Stosb | Stosw | Stosd | Stosq
            | Scasb | Scasw | Scasd | Scasq | Lodsb | Lodsw | Lodsd | Lodsq
                if is_string_form(instruction) =>
            {
                state.gpr[RDI] = window::CENTRE + random.below(0x40) as u64;
                state.gpr[RSI] = window::CENTRE + random.below(0x40) as u64;
                state.gpr[RCX] = random.below(12) as u64;
                state.rflags |= if random.one_in(3) { 0x400 } else { 0 };
            }
            Maskmovdqu | Maskmovq => state.gpr[RDI] = window::CENTRE,
            Ldmxcsr => {
                let value = (random.next() as u32 & 0xffff | 0x1f80).to_le_bytes();
                put(state, instruction, &value);
            }
            Fxrstor | Fxrstor64 => {
                let image = State::random(random).fxsave;
                put(state, instruction, &image);
            }
            _ => {}
        }
        true
    }
}

/// What goes into an operand.
enum Operand {
    Register(Register),
    Memory(MemoryOperand),
    Immediate(OpKind, u64),
    Implicit(OpKind),
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

fn is_string(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Movsb
            | Movsw
            | Movsd
            | Movsq
            | Cmpsb
            | Cmpsw
            | Cmpsd
            | Cmpsq
            | Stosb
            | Stosw
            | Stosd
            | Stosq
            | Scasb
            | Scasw
            | Scasd
            | Scasq
            | Lodsb
            | Lodsw
            | Lodsd
            | Lodsq
    )
}

/// MOVSD and CMPSD are also SSE instructions.
fn is_string_form(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|i| matches!(instruction.op_kind(i), OpKind::MemorySegRSI | OpKind::MemoryESRDI))
}

/// Whether it needs no state of its own and harms none that others need.
fn is_safe_in_sequence(code: Code) -> bool {
    use Mnemonic::*;
    let mnemonic = code.mnemonic();
    let string = code.op_code().op_kinds().iter().any(|kind| {
        use OpCodeOperandKind::*;
        matches!(kind, seg_rSI | es_rDI | seg_rDI | seg_rBX_al)
    });
    !string
        && !matches!(
            mnemonic,
            Div | Idiv | Bt | Btc | Btr | Bts | Shld | Shrd | Push | Pop | Ldmxcsr | Fxrstor | Fxrstor64 | Std
                // An exception that these unmask would trap on the host.
                | Fldcw | Fldenv | Frstor
                // What they store has undefined or model-dependent bits.
                | Fxsave | Fxsave64 | Fnstenv | Fnsave | Fnstsw
        )
}

/// Finds a divisor and a dividend whose quotient fits; false if there are none.
fn prepare_division(instruction: &Instruction, state: &mut State, random: &mut Random) -> bool {
    let signed = instruction.mnemonic() == Mnemonic::Idiv;
    let size = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    let bits = 8 * size as u32;
    let mask = u64::MAX >> (64 - bits);
    let extend = |value: u64| ((value << (64 - bits)) as i64 >> (64 - bits)) as i128;
    for _ in 0..64 {
        // RDX (or AH) is part of the dividend and may be the divisor: choose, then look.
        let (rax, rdx) = (state.gpr[0], state.gpr[2]);
        let (low, high) = if size == 1 { (rax & 0xff, rax >> 8 & 0xff) } else { (rax & mask, rdx & mask) };
        let divisor = match instruction.op0_kind() {
            OpKind::Register => read_register(instruction.op0_register(), state) & mask,
            _ => peek(state, instruction, size) & mask,
        };
        let fits = if signed {
            let dividend = extend(high) << bits | i128::from(low);
            let divisor = extend(divisor);
            let limit = 1i128 << (bits - 1);
            divisor != 0
                && dividend.checked_div(divisor).is_some_and(|quotient| (-limit..limit).contains(&quotient))
        } else {
            divisor != 0
                && (u128::from(high) << bits | u128::from(low)) / u128::from(divisor) <= u128::from(mask)
        };
        if fits {
            return true;
        }
        state.gpr[0] = random.integer();
        // Mostly a sign extension or zero.
        let sign = if signed && state.gpr[0] >> (bits - 1) & 1 != 0 { u64::MAX } else { 0 };
        if size == 1 {
            state.gpr[0] = state.gpr[0] & !0xff00 | sign & 0xff00;
        } else {
            state.gpr[2] = sign;
        }
        if let OpKind::Register = instruction.op0_kind() {
            let number = instruction.op0_register().full_register().number();
            if number != 0 && number != 2 {
                state.gpr[number] = random.integer() | 0x0101_0101_0101_0101;
            }
        } else {
            let value = (random.next() | 1).to_le_bytes();
            put(state, instruction, &value[..size]);
        }
    }
    // The upper half of the dividend as divisor: no quotient fits.
    false
}

fn read_register(register: Register, state: &State) -> u64 {
    let value = state.gpr[register.full_register().number()];
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => value >> 8 & 0xff,
        _ => value,
    }
}

/// Offset of the memory operand in the scratch memory.
fn offset(state: &State, instruction: &Instruction) -> usize {
    let register = |register: Register| match register {
        Register::None | Register::RIP => 0,
        _ => state.gpr[register.full_register().number()],
    };
    let mut address = instruction.memory_displacement64();
    if !instruction.is_ip_rel_memory_operand() {
        address = address.wrapping_add(register(instruction.memory_base())).wrapping_add(
            register(instruction.memory_index()).wrapping_mul(instruction.memory_index_scale().into()),
        );
    }
    (address - window::SCRATCH) as usize
}

/// The undefined flags (as iced's bits) after an instruction that finds some undefined.
pub fn undefined_after(instruction: &Instruction, before: u32) -> u32 {
    // A shift by CL may shift by nothing, and then defines nothing.
    let by_cl =
        instruction.op_count() > 1 && instruction.op_register(instruction.op_count() - 1) == Register::CL;
    let defined = match instruction.mnemonic() {
        Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Sal
        | Mnemonic::Sar
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Shld
        | Mnemonic::Shrd
            if by_cl =>
        {
            0
        }
        _ => instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set(),
    };
    before & !defined | instruction.rflags_undefined()
}

/// Bytes of a stored image that depend on the CPU model: pointers to the last instruction and
/// operand, reserved fields, and MXCSR_MASK.
fn ignored(instruction: &Instruction, state: &State) -> Vec<Range<usize>> {
    use Mnemonic::*;
    let ranges: &[(usize, usize)] = match (instruction.mnemonic(), instruction.memory_size().size()) {
        (Fxsave | Fxsave64, _) => &[(5, 24), (28, 32)],
        (Fnstenv | Fnsave, 14 | 94) => &[(6, 14)],
        (Fnstenv | Fnsave, _) => &[(2, 4), (6, 8), (10, 28)],
        _ => return Vec::new(),
    };
    let at = offset(state, instruction);
    ranges.iter().map(|(start, end)| at + start..at + end).collect()
}

fn put(state: &mut State, instruction: &Instruction, bytes: &[u8]) {
    let at = offset(state, instruction);
    state.scratch[at..][..bytes.len()].copy_from_slice(bytes);
}

fn peek(state: &State, instruction: &Instruction, size: usize) -> u64 {
    let at = offset(state, instruction);
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&state.scratch[at..][..size]);
    u64::from_le_bytes(bytes)
}
