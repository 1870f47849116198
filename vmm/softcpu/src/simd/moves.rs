//! Operand access: registers, memory and what is wider or narrower than either.

use super::context::Context;
use super::op::{Op, Place};
use crate::exception::Exception;

impl Op {
    /// Reads an operand: a whole register, or `bytes` of memory.
    pub(super) fn read<C: Context>(&self, place: Place, cx: &mut C) -> Result<u128, Exception> {
        Ok(match place {
            Place::Xmm(register) => cx.vector().xmm[usize::from(register & 15)],
            Place::Mm(register) => u128::from(cx.x87().registers[usize::from(register & 7)].significand),
            Place::Gpr(register) => u128::from(cx.gpr(register)),
            Place::HighByte(register) => u128::from(cx.gpr(register) >> 8 & 0xff),
            Place::Immediate => u128::from(self.immediate),
            Place::Memory => match self.bytes {
                1 => u128::from(u8::from_le_bytes(cx.load(0)?)),
                2 => u128::from(u16::from_le_bytes(cx.load(0)?)),
                4 => u128::from(u32::from_le_bytes(cx.load(0)?)),
                8 => u128::from(u64::from_le_bytes(cx.load(0)?)),
                _ => {
                    self.check_alignment(cx)?;
                    u128::from_le_bytes(cx.load(0)?)
                }
            },
        })
    }

    /// Reads the source of an instruction whose destination is an XMM register. This and
    /// [`vector`](Self::vector) keep values in one piece: taking a register apart and putting it
    /// together again costs more than most instructions do.
    #[inline(always)]
    pub(super) fn vector_source<C: Context>(&self, cx: &mut C) -> Result<[u8; 16], Exception> {
        match self.src {
            Place::Xmm(register) => Ok(cx.vector().xmm[usize::from(register & 15)].to_le_bytes()),
            Place::Memory if self.bytes == 16 => {
                self.check_alignment(cx)?;
                cx.load(0)
            }
            place => Ok(self.read(place, cx)?.to_le_bytes()),
        }
    }

    /// The XMM register that is the destination, if it is one.
    #[inline(always)]
    pub(super) fn vector<'a, C: Context>(&self, cx: &'a mut C) -> Option<&'a mut u128> {
        match self.dst {
            Place::Xmm(register) => Some(&mut cx.vector().xmm[usize::from(register & 15)]),
            _ => None,
        }
    }

    /// Writes the destination: a whole register, or the low `bytes` in memory.
    pub(super) fn write<C: Context>(&self, cx: &mut C, value: u128) -> Result<(), Exception> {
        match self.dst {
            Place::Xmm(register) => cx.vector().xmm[usize::from(register & 15)] = value,
            Place::Mm(register) => {
                let register = &mut cx.x87().registers[usize::from(register & 7)];
                register.significand = value as u64;
                // An MMX write makes the number a NaN to x87 eyes. (SDM volume 1, 9.6.2.)
                register.sign_exponent = 0xffff;
            }
            Place::Gpr(register) => cx.set_gpr(register, value as u64),
            Place::HighByte(_) | Place::Immediate => {}
            Place::Memory => match self.bytes {
                1 => cx.store(0, (value as u8).to_le_bytes())?,
                2 => cx.store(0, (value as u16).to_le_bytes())?,
                4 => cx.store(0, (value as u32).to_le_bytes())?,
                8 => cx.store(0, (value as u64).to_le_bytes())?,
                _ => {
                    self.check_alignment(cx)?;
                    cx.store(0, value.to_le_bytes())?;
                }
            },
        }
        Ok(())
    }

    #[inline(always)]
    fn check_alignment<C: Context>(&self, cx: &C) -> Result<(), Exception> {
        if self.aligned && !cx.operand_address().is_multiple_of(16) {
            return Err(Exception::GeneralProtection(0));
        }
        Ok(())
    }

    /// The low `bytes` of `value`, the rest zero.
    pub(super) fn truncate(&self, value: u128) -> u128 {
        value & self.low_mask()
    }

    /// Ones in the low `bytes`.
    pub(super) fn low_mask(&self) -> u128 {
        u128::MAX >> (128 - 8 * u32::from(self.bytes.clamp(1, 16)))
    }

    /// MASKMOVDQU and MASKMOVQ. Bytes that are masked off are not touched and cannot fault.
    pub(super) fn masked_store<C: Context>(&self, cx: &mut C) -> Result<(), Exception> {
        let mask = self.read(self.dst, cx)?.to_le_bytes();
        let data = self.read(self.src, cx)?.to_le_bytes();
        cx.use_rdi_operand();
        let count = if self.mmx { 8 } else { 16 };
        for (i, byte) in data.iter().enumerate().take(count).filter(|&(i, _)| mask[i] & 0x80 != 0) {
            cx.store(i as u64, [*byte])?;
        }
        Ok(())
    }
}
