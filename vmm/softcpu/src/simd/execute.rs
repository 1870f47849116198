//! Execution of lowered MMX and SSE instructions.

use super::context::{ArithFlags, Context};
use super::float::Environment;
use super::op::{Kind, Op, Place};
use super::state::VectorState;
use super::{scalar, shuffle, text};
use crate::exception::Exception;
use crate::x87::image;

const LOW_HALF: u128 = u64::MAX as u128;

/// Executes `op`. After an exception nothing but the sticky MXCSR flags has changed.
pub(crate) fn execute<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    if !op.mmx {
        return perform(op, cx);
    }
    if cx.x87().pending() && cx.numeric_error() {
        return Err(Exception::X87FloatingPoint);
    }
    perform(op, cx)?;
    cx.x87().enter_mmx();
    if op.kind == Kind::EmptyMmx {
        cx.x87().valid = 0;
    }
    Ok(())
}

fn perform<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    match op.kind {
        Kind::Move if op.bytes == 16 => {
            let value = op.vector_source(cx)?;
            match op.vector(cx) {
                Some(register) => {
                    *register = u128::from_le_bytes(value);
                    Ok(())
                }
                None => op.write(cx, u128::from_le_bytes(value)),
            }
        }
        Kind::Move => {
            let value = op.read(op.src, cx)?;
            op.write(cx, op.truncate(value))
        }
        Kind::Merge => {
            let (old, value) = operands(op, cx)?;
            op.write(cx, old & !op.low_mask() | op.truncate(value))
        }
        Kind::MoveHalf { dst_high, src_high } => move_half(op, dst_high, src_high, cx),
        Kind::Integer(integer) => {
            let b = op.vector_source(cx)?;
            match op.vector(cx) {
                Some(a) => {
                    *a = u128::from_le_bytes(integer.apply(a.to_le_bytes(), b));
                    Ok(())
                }
                None => {
                    let a = op.read(op.dst, cx)?;
                    op.write(cx, wide(integer.apply(narrow(a.to_le_bytes()), narrow(b))))
                }
            }
        }
        Kind::Shuffle(shuffle) => {
            let b = op.vector_source(cx)?;
            match op.vector(cx) {
                Some(a) => {
                    *a = u128::from_le_bytes(shuffle.apply(&a.to_le_bytes(), &b, op.immediate));
                    Ok(())
                }
                None => {
                    let a = op.read(op.dst, cx)?;
                    op.write(cx, wide(shuffle.apply(&narrow(a.to_le_bytes()), &narrow(b), op.immediate)))
                }
            }
        }
        Kind::Blend(width) => {
            let (a, b) = operands(op, cx)?;
            let mask = cx.vector().xmm[0].to_le_bytes();
            let result = shuffle::blend_variable(width.into(), &a.to_le_bytes(), &b.to_le_bytes(), &mask);
            op.write(cx, u128::from_le_bytes(result))
        }
        Kind::Insert => {
            let (a, value) = operands(op, cx)?;
            let bits = 8 * u32::from(op.bytes);
            let shift = lane(op, op.dst) * bits;
            op.write(cx, a & !(op.low_mask() << shift) | op.truncate(value) << shift)
        }
        Kind::InsertSingle => {
            let (a, b) = operands(op, cx)?;
            let from = if op.src == Place::Memory { 0 } else { op.immediate >> 6 };
            op.write(cx, shuffle::insert_single(a, (b >> (32 * from)) as u32, op.immediate))
        }
        Kind::Extract => {
            let value = op.read(op.src, cx)? >> (lane(op, op.src) * 8 * u32::from(op.bytes));
            op.write(cx, op.truncate(value))
        }
        Kind::SignMask(width) => {
            let value = op.read(op.src, cx)?;
            op.write(cx, shuffle::sign_mask(width.into(), value).into())
        }
        Kind::MaskedStore => op.masked_store(cx),
        Kind::Float(host) => {
            let b = u128::from_le_bytes(op.vector_source(cx)?);
            match op.vector(cx) {
                Some(&mut a) => {
                    let result = environment(cx).binary(host, a, b)?;
                    op.write(cx, result)
                }
                None => {
                    let a = op.read(op.dst, cx)?;
                    let result = environment(cx).binary(host, a, b)?;
                    op.write(cx, result)
                }
            }
        }
        Kind::LowHalf(host) => {
            let (a, b) = operands(op, cx)?;
            let result = environment(cx).binary(host, 0, b & LOW_HALF)?;
            op.write(cx, a & !LOW_HALF | result & LOW_HALF)
        }
        Kind::Round(host) => {
            let (a, b) = operands(op, cx)?;
            let result = environment(cx).round(host, a, b, op.immediate)?;
            op.write(cx, result)
        }
        Kind::DotProduct(host) => {
            let (a, b) = operands(op, cx)?;
            let result = environment(cx).dot_product(host, a, b, op.immediate)?;
            op.write(cx, result)
        }
        Kind::Compare(format) => {
            let (a, b) = operands(op, cx)?;
            let result = environment(cx).compare(format, op.immediate, a, b)?;
            op.write(cx, result)
        }
        Kind::OrderFlags { signaling, format } => {
            let (a, b) = operands(op, cx)?;
            let flags = environment(cx).order(format, signaling, a, b)?;
            cx.set_flags(ArithFlags {
                cf: flags & 0x01 != 0,
                pf: flags & 0x04 != 0,
                zf: flags & 0x40 != 0,
                ..ArithFlags::default()
            });
            Ok(())
        }
        Kind::FromGpr { format, wide } => {
            let (a, value) = operands(op, cx)?;
            let result = environment(cx).convert_integer(format, wide, a, value as u64)?;
            op.write(cx, result)
        }
        Kind::ToGpr { format, truncate, wide } => {
            let b = op.read(op.src, cx)?;
            let result = environment(cx).convert_to_integer(format, truncate, wide, b)?;
            op.write(cx, result.into())
        }
        Kind::Test => {
            let (a, b) = operands(op, cx)?;
            cx.set_flags(ArithFlags { zf: a & b == 0, cf: !a & b == 0, ..ArithFlags::default() });
            Ok(())
        }
        Kind::Text { explicit, wide, mask } => {
            let (a, b) = operands(op, cx)?;
            let length = |register: u64| {
                explicit.then_some(if wide { register as i64 } else { i64::from(register as i32) })
            };
            let (rax, rdx) = (cx.gpr(0), cx.gpr(2));
            let found = text::compare(a, length(rax), b, length(rdx), op.immediate);
            if mask {
                cx.vector().xmm[0] = found.mask();
            } else {
                cx.set_gpr(1, found.index());
            }
            cx.set_flags(found.flags);
            Ok(())
        }
        Kind::PopulationCount => population_count(op, cx),
        Kind::Crc32 => {
            let (crc, data) = operands(op, cx)?;
            let data = &data.to_le_bytes()[..usize::from(op.bytes.min(8))];
            op.write(cx, scalar::crc32(crc as u32, data).into())
        }
        Kind::LoadMxcsr => {
            let value = u32::from_le_bytes(cx.load(0)?);
            if value & !VectorState::MXCSR_MASK != 0 {
                return Err(Exception::GeneralProtection(0));
            }
            cx.vector().mxcsr = value;
            Ok(())
        }
        Kind::StoreMxcsr => {
            let value = cx.vector().mxcsr;
            cx.store(0, value.to_le_bytes())
        }
        // `execute` has the rest of it.
        Kind::EmptyMmx => Ok(()),
        Kind::Fxsave { wide, registers } => image::fxsave(wide, registers.into(), cx),
        Kind::Fxrstor { wide, registers } => image::fxrstor(wide, registers.into(), cx),
    }
}

/// The destination's old value and the source.
fn operands<C: Context>(op: Op, cx: &mut C) -> Result<(u128, u128), Exception> {
    let b = op.read(op.src, cx)?;
    Ok((op.read(op.dst, cx)?, b))
}

fn environment<C: Context>(cx: &mut C) -> Environment<'_> {
    Environment::new(&mut cx.vector().mxcsr)
}

/// The lane that the immediate names, modulo the number of lanes of the register at `place`.
fn lane(op: Op, place: Place) -> u32 {
    let lanes = if matches!(place, Place::Mm(_)) { 8 } else { 16 } / u32::from(op.bytes.clamp(1, 8));
    u32::from(op.immediate) & (lanes - 1)
}

/// The bytes that are in an MMX register.
fn narrow([b0, b1, b2, b3, b4, b5, b6, b7, ..]: [u8; 16]) -> [u8; 8] {
    [b0, b1, b2, b3, b4, b5, b6, b7]
}

fn wide(bytes: [u8; 8]) -> u128 {
    u64::from_le_bytes(bytes).into()
}

/// MOVLPS, MOVHPS, MOVHLPS, MOVLHPS and their double forms.
fn move_half<C: Context>(op: Op, dst_high: bool, src_high: bool, cx: &mut C) -> Result<(), Exception> {
    let value = op.read(op.src, cx)?;
    let half = if src_high && op.src != Place::Memory { value >> 64 } else { value & LOW_HALF };
    let result = match op.dst {
        Place::Memory => half,
        _ if dst_high => op.read(op.dst, cx)? & LOW_HALF | half << 64,
        _ => op.read(op.dst, cx)? & !LOW_HALF | half,
    };
    op.write(cx, result)
}

/// POPCNT; a 16-bit result leaves the upper bits of its register.
fn population_count<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    let (old, value) = operands(op, cx)?;
    let value = op.truncate(value) as u64;
    let kept = if op.bytes == 2 { old & !0xffff } else { 0 };
    op.write(cx, kept | u128::from(value.count_ones()))?;
    cx.set_flags(ArithFlags { zf: value == 0, ..ArithFlags::default() });
    Ok(())
}
