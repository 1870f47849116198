//! The memory images of FXSAVE (SDM volume 1, 10.5), FNSTENV and FNSAVE (8.1.10).

use super::state::status::EXCEPTIONS;
use super::state::{F80, X87State};
use crate::exception::Exception;
use crate::simd::context::Context;
use crate::simd::state::VectorState;

/// Size of the FXSAVE area.
const AREA: usize = 512;

/// FXSAVE and FXSAVE64 (`wide`) of so many XMM registers.
pub(crate) fn fxsave<C: Context>(wide: bool, registers: usize, cx: &mut C) -> Result<(), Exception> {
    check_alignment(cx)?;
    // Read first: the bytes that FXSAVE leaves alone must stay, and the area is one store.
    let mut area: [u8; AREA] = cx.load(0)?;
    encode_x87(cx.x87(), wide, &mut area);
    encode_vector(cx.vector(), registers, &mut area);
    cx.store(0, area)
}

/// FXRSTOR and FXRSTOR64 (`wide`) of so many XMM registers. A reserved MXCSR bit is #GP(0) and changes nothing.
pub(crate) fn fxrstor<C: Context>(wide: bool, registers: usize, cx: &mut C) -> Result<(), Exception> {
    check_alignment(cx)?;
    let area: [u8; AREA] = cx.load(0)?;
    let mxcsr = u32::from_le_bytes(field(&area, 24));
    if mxcsr & !VectorState::MXCSR_MASK != 0 {
        return Err(Exception::GeneralProtection(0));
    }
    decode_x87(&area, wide, cx.x87());
    let vector = cx.vector();
    vector.mxcsr = mxcsr;
    for (i, register) in vector.xmm.iter_mut().take(registers).enumerate() {
        *register = u128::from_le_bytes(field(&area, 160 + 16 * i));
    }
    Ok(())
}

fn check_alignment<C: Context>(cx: &C) -> Result<(), Exception> {
    if cx.operand_address().is_multiple_of(16) { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
}

/// `N` bytes of an image at `offset`.
pub(super) fn field<const N: usize>(image: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&image[offset..][..N]);
    bytes
}

/// Writes bytes into an image at `offset`.
pub(super) fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..][..bytes.len()].copy_from_slice(bytes);
}

fn encode_x87(x87: &X87State, wide: bool, area: &mut [u8; AREA]) {
    area[..32].fill(0);
    put(area, 0, &x87.control.to_le_bytes());
    put(area, 2, &x87.status.to_le_bytes());
    area[4] = x87.valid;
    put(area, 6, &x87.last_opcode.to_le_bytes());
    // Without REX.W: 32-bit offsets and selectors, which have been zero since they are deprecated.
    let pointer = if wide { 8 } else { 4 };
    put(area, 8, &x87.last_instruction.to_le_bytes()[..pointer]);
    put(area, 16, &x87.last_operand.to_le_bytes()[..pointer]);
    for i in 0..8 {
        let at = 32 + 16 * usize::from(i);
        area[at..at + 16].fill(0);
        put(area, at, &x87.register(i).to_bytes());
    }
}

fn encode_vector(vector: &VectorState, registers: usize, area: &mut [u8; AREA]) {
    put(area, 24, &vector.mxcsr.to_le_bytes());
    put(area, 28, &VectorState::MXCSR_MASK.to_le_bytes());
    for (i, register) in vector.xmm.iter().take(registers).enumerate() {
        put(area, 160 + 16 * i, &register.to_le_bytes());
    }
}

fn decode_x87(area: &[u8; AREA], wide: bool, x87: &mut X87State) {
    x87.set_control(u16::from_le_bytes(field(area, 0)));
    x87.set_status(u16::from_le_bytes(field(area, 2)));
    x87.valid = area[4];
    x87.last_opcode = u16::from_le_bytes(field(area, 6)) & 0x7ff;
    let pointer = |offset| {
        let value = u64::from_le_bytes(field(area, offset));
        if wide { value } else { u64::from(value as u32) }
    };
    x87.last_instruction = pointer(8);
    x87.last_operand = pointer(16);
    for i in 0..8 {
        *x87.register_mut(i) = F80::from_bytes(field(area, 32 + 16 * usize::from(i)));
    }
}

/// Size of the environment, and of the same behind a 16-bit operand size.
const ENVIRONMENT: usize = 28;
const SHORT_ENVIRONMENT: usize = 14;

/// FLDENV.
pub(super) fn load_environment<C: Context>(short: bool, cx: &mut C) -> Result<(), Exception> {
    if short {
        let image: [u8; SHORT_ENVIRONMENT] = cx.load(0)?;
        decode_environment(&image, short, cx.x87());
    } else {
        let image: [u8; ENVIRONMENT] = cx.load(0)?;
        decode_environment(&image, short, cx.x87());
    }
    Ok(())
}

/// FNSTENV, which masks every exception afterwards.
pub(super) fn store_environment<C: Context>(short: bool, cx: &mut C) -> Result<(), Exception> {
    if short {
        let mut image = [0; SHORT_ENVIRONMENT];
        encode_environment(cx.x87(), short, &mut image);
        cx.store(0, image)?;
    } else {
        let mut image = [0; ENVIRONMENT];
        encode_environment(cx.x87(), short, &mut image);
        cx.store(0, image)?;
    }
    let x87 = cx.x87();
    x87.set_control(x87.control | EXCEPTIONS);
    Ok(())
}

/// FRSTOR.
pub(super) fn restore<C: Context>(short: bool, cx: &mut C) -> Result<(), Exception> {
    if short {
        let image: [u8; SHORT_ENVIRONMENT + 80] = cx.load(0)?;
        decode_environment(&image, short, cx.x87());
        decode_registers(&image[SHORT_ENVIRONMENT..], cx.x87());
    } else {
        let image: [u8; ENVIRONMENT + 80] = cx.load(0)?;
        decode_environment(&image, short, cx.x87());
        decode_registers(&image[ENVIRONMENT..], cx.x87());
    }
    Ok(())
}

/// FNSAVE, which initializes the unit afterwards.
pub(super) fn save<C: Context>(short: bool, cx: &mut C) -> Result<(), Exception> {
    if short {
        let mut image = [0; SHORT_ENVIRONMENT + 80];
        encode_environment(cx.x87(), short, &mut image);
        encode_registers(cx.x87(), &mut image[SHORT_ENVIRONMENT..]);
        cx.store(0, image)?;
    } else {
        let mut image = [0; ENVIRONMENT + 80];
        encode_environment(cx.x87(), short, &mut image);
        encode_registers(cx.x87(), &mut image[ENVIRONMENT..]);
        cx.store(0, image)?;
    }
    cx.x87().initialize();
    Ok(())
}

fn encode_environment(x87: &X87State, short: bool, image: &mut [u8]) {
    if short {
        put(image, 0, &x87.control.to_le_bytes());
        put(image, 2, &x87.status.to_le_bytes());
        put(image, 4, &x87.tag_word().to_le_bytes());
        put(image, 6, &(x87.last_instruction as u16).to_le_bytes());
        put(image, 10, &(x87.last_operand as u16).to_le_bytes());
    } else {
        // The upper halves of the first three fields are reserved and read as ones.
        put(image, 0, &(0xffff_0000 | u32::from(x87.control)).to_le_bytes());
        put(image, 4, &(0xffff_0000 | u32::from(x87.status)).to_le_bytes());
        put(image, 8, &(0xffff_0000 | u32::from(x87.tag_word())).to_le_bytes());
        put(image, 12, &(x87.last_instruction as u32).to_le_bytes());
        put(image, 16, &(u32::from(x87.last_opcode) << 16).to_le_bytes());
        put(image, 20, &(x87.last_operand as u32).to_le_bytes());
        put(image, 24, &0xffff_0000u32.to_le_bytes());
    }
}

fn decode_environment(image: &[u8], short: bool, x87: &mut X87State) {
    let word = |index: usize| u16::from_le_bytes(field(image, if short { 2 } else { 4 } * index));
    // The status last: its summary bits follow from the control word.
    x87.set_control(word(0));
    x87.set_status(word(1));
    x87.set_tag_word(word(2));
    if short {
        x87.last_instruction = word(3).into();
        x87.last_operand = word(5).into();
    } else {
        x87.last_instruction = u32::from_le_bytes(field(image, 12)).into();
        x87.last_opcode = u16::from_le_bytes(field(image, 18)) & 0x7ff;
        x87.last_operand = u32::from_le_bytes(field(image, 20)).into();
    }
}

fn encode_registers(x87: &X87State, image: &mut [u8]) {
    for i in 0..8 {
        put(image, 10 * usize::from(i), &x87.register(i).to_bytes());
    }
}

fn decode_registers(image: &[u8], x87: &mut X87State) {
    for i in 0..8 {
        *x87.register_mut(i) = F80::from_bytes(field(image, 10 * usize::from(i)));
    }
}
