//! The four operand sizes as one trait, so that an instruction is written once.

use crate::flags::Flags;

/// An operand of 8, 16, 32 or 64 bits.
pub trait Word: Copy + Eq + Ord + Default + 'static {
    const BITS: u32;
    const BYTES: u64 = Self::BITS as u64 / 8;

    /// The low bits of `value`.
    fn from(value: u64) -> Self;
    /// Zero-extended.
    fn zero(self) -> u64;
    /// Sign-extended.
    fn sign(self) -> u64;

    /// Writes general register `register` the way a result of this size does: 32 bits clear the
    /// upper half, 8 and 16 bits keep the rest. Byte registers 32..=35 are AH, CH, DH, BH.
    fn write(self, gpr: &mut [u64; 32], register: u8);

    /// Reads general register `register`.
    #[inline(always)]
    fn read(gpr: &[u64; 32], register: u8) -> Self {
        Self::from(gpr[register as usize & 31])
    }
}

macro_rules! word {
    ($type:ty, $signed:ty) => {
        const BITS: u32 = <$type>::BITS;
        #[inline(always)]
        fn from(value: u64) -> Self {
            value as $type
        }
        #[inline(always)]
        fn zero(self) -> u64 {
            self as u64
        }
        #[inline(always)]
        fn sign(self) -> u64 {
            self as $signed as i64 as u64
        }
    };
}

impl Word for u8 {
    word!(u8, i8);
    #[inline(always)]
    fn read(gpr: &[u64; 32], register: u8) -> Self {
        (gpr[register as usize & 31] >> ((register & 32) >> 2)) as u8
    }
    #[inline(always)]
    fn write(self, gpr: &mut [u64; 32], register: u8) {
        let shift = (register & 32) >> 2;
        let whole = &mut gpr[register as usize & 31];
        *whole = *whole & !(0xff << shift) | (self as u64) << shift;
    }
}

impl Word for u16 {
    word!(u16, i16);
    #[inline(always)]
    fn write(self, gpr: &mut [u64; 32], register: u8) {
        let whole = &mut gpr[register as usize & 31];
        *whole = *whole & !0xffff | self as u64;
    }
}

impl Word for u32 {
    word!(u32, i32);
    #[inline(always)]
    fn write(self, gpr: &mut [u64; 32], register: u8) {
        gpr[register as usize & 31] = self as u64;
    }
}

impl Word for u64 {
    word!(u64, i64);
    #[inline(always)]
    fn write(self, gpr: &mut [u64; 32], register: u8) {
        gpr[register as usize & 31] = self;
    }
}

/// Bits of the carry vector that the flags need: carry out and carry into the sign bit at the
/// top, and the auxiliary carry.
#[inline(always)]
fn carries<W: Word>(vector: u64) -> u64 {
    (vector << (64 - W::BITS)) & (3 << 62) | vector & 8
}

/// `a + b + carry` and its flags.
#[inline(always)]
pub fn add<W: Word>(flags: &mut Flags, a: W, b: W, carry: bool) -> W {
    let result = W::from(a.zero().wrapping_add(b.zero()).wrapping_add(carry as u64));
    let (a, b, r) = (a.zero(), b.zero(), result.zero());
    flags.result = result.sign();
    flags.carries = carries::<W>((a & b) | ((a | b) & !r));
    result
}

/// `a - b - borrow` and its flags.
#[inline(always)]
pub fn sub<W: Word>(flags: &mut Flags, a: W, b: W, borrow: bool) -> W {
    let result = W::from(a.zero().wrapping_sub(b.zero()).wrapping_sub(borrow as u64));
    let (a, b, r) = (a.zero(), b.zero(), result.zero());
    flags.result = result.sign();
    flags.carries = carries::<W>((!a & b) | (!(a ^ b) & r));
    result
}

/// The flags of a bitwise operation.
#[inline(always)]
pub fn logic<W: Word>(flags: &mut Flags, result: W) -> W {
    flags.result = result.sign();
    flags.carries = 0;
    result
}
