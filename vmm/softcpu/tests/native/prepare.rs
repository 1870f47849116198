//! States in which an instruction does not fault, and what of its result is not compared.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::forms::is_string_form;
use super::random::Random;
use super::state::{State, window};

const RCX: usize = 1;
const RBX: usize = 3;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// Makes the state one in which the instruction does not fault; false if there is none.
pub fn prepare(instruction: &Instruction, state: &mut State, random: &mut Random) -> bool {
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
        // The frames before this one.
        Enter | Leave => state.gpr[RBP] = window::STACK - random.below(0x40) as u64,
        Movsb | Movsw | Movsd | Movsq | Cmpsb | Cmpsw | Cmpsd | Cmpsq | Stosb | Stosw | Stosd | Stosq
        | Scasb | Scasw | Scasd | Scasq | Lodsb | Lodsw | Lodsd | Lodsq
            if is_string_form(instruction) =>
        {
            state.gpr[RDI] = window::CENTRE + random.below(0x40) as u64;
            state.gpr[RSI] = window::CENTRE + random.below(0x40) as u64;
            state.gpr[RCX] = random.choose(&[0, 1, 2, 5, 11, 30, 63]);
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
    // A 32-bit base wraps around where a 64-bit one would not.
    ((address as u32).wrapping_sub(window::SCRATCH as u32)) as usize
}

/// Bytes of a stored image that depend on the CPU model: pointers to the last instruction and
/// operand, reserved fields, and MXCSR_MASK.
pub fn ignored(instruction: &Instruction, state: &State) -> Vec<Range<usize>> {
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
