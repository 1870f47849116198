//! Integer arithmetic on packed lanes, for 8-byte (MMX) and 16-byte (SSE) registers alike.

mnemonics! {
    /// An instruction that computes each lane of its result from lanes of its two operands.
    pub(super) enum Integer {
        Pand, Pandn, Por, Pxor,
        Paddb, Paddw, Paddd, Paddq, Paddsb, Paddsw, Paddusb, Paddusw,
        Psubb, Psubw, Psubd, Psubq, Psubsb, Psubsw, Psubusb, Psubusw,
        Pavgb, Pavgw,
        Pmaxub, Pmaxuw, Pmaxud, Pmaxsb, Pmaxsw, Pmaxsd,
        Pminub, Pminuw, Pminud, Pminsb, Pminsw, Pminsd,
        Pcmpeqb, Pcmpeqw, Pcmpeqd, Pcmpeqq, Pcmpgtb, Pcmpgtw, Pcmpgtd, Pcmpgtq,
        Pabsb, Pabsw, Pabsd, Psignb, Psignw, Psignd,
        Pmullw, Pmulhw, Pmulhuw, Pmulhrsw, Pmulld, Pmuludq, Pmuldq,
        Pmaddwd, Pmaddubsw, Psadbw,
        Psllw, Pslld, Psllq, Psrlw, Psrld, Psrlq, Psraw, Psrad, Pslldq, Psrldq,
    }
}

/// Defines `$name`, which applies `f` to corresponding lanes of type `$lane`.
macro_rules! lanes {
    ($name:ident, $lane:ty) => {
        #[inline(always)]
        fn $name<const N: usize>(a: [u8; N], b: [u8; N], f: impl Fn($lane, $lane) -> $lane) -> [u8; N] {
            const WIDTH: usize = size_of::<$lane>();
            let mut out = [0; N];
            let lanes = a.as_chunks::<WIDTH>().0.iter().zip(b.as_chunks::<WIDTH>().0);
            for (out, (a, b)) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(lanes) {
                *out = f(<$lane>::from_le_bytes(*a), <$lane>::from_le_bytes(*b)).to_le_bytes();
            }
            out
        }
    };
}

lanes!(u16s, u16);
lanes!(u32s, u32);
lanes!(u64s, u64);
lanes!(i16s, i16);
lanes!(i32s, i32);
lanes!(i64s, i64);

#[inline(always)]
fn u8s<const N: usize>(a: [u8; N], b: [u8; N], f: impl Fn(u8, u8) -> u8) -> [u8; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn i8s<const N: usize>(a: [u8; N], b: [u8; N], f: impl Fn(i8, i8) -> i8) -> [u8; N] {
    std::array::from_fn(|i| f(a[i] as i8, b[i] as i8) as u8)
}

/// All ones or all zeros, the result of a comparison.
macro_rules! mask {
    ($lane:ty, $condition:expr) => {
        if $condition { !(0 as $lane) } else { 0 }
    };
}

/// Shifts every lane; a count of the lane's width or more shifts everything out.
macro_rules! shift {
    ($lanes:ident, $a:ident, $b:ident, $method:ident) => {{
        let count = count($b).min(255) as u32;
        $lanes($a, $a, |x, _| x.$method(count).unwrap_or(0))
    }};
}

/// The shift count is the low quadword of the second operand, whatever the lane size.
fn count<const N: usize>(b: [u8; N]) -> u64 {
    b.first_chunk::<8>().map_or(0, |low| u64::from_le_bytes(*low))
}

/// The signed 16-bit value nearest to `value`.
fn saturate(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// The low and high halves of a 32-bit lane, sign-extended.
fn halves(x: u32) -> (i32, i32) {
    (i32::from(x as i16), x as i32 >> 16)
}

impl Integer {
    /// Computes `op(a, b)`; `a` is the destination operand.
    #[inline(always)]
    pub(super) fn apply<const N: usize>(self, a: [u8; N], b: [u8; N]) -> [u8; N] {
        use Integer::*;
        match self {
            Pand => u64s(a, b, |x, y| x & y),
            Pandn => u64s(a, b, |x, y| !x & y),
            Por => u64s(a, b, |x, y| x | y),
            Pxor => u64s(a, b, |x, y| x ^ y),
            Paddb => u8s(a, b, u8::wrapping_add),
            Paddw => u16s(a, b, u16::wrapping_add),
            Paddd => u32s(a, b, u32::wrapping_add),
            Paddq => u64s(a, b, u64::wrapping_add),
            Paddsb => i8s(a, b, i8::saturating_add),
            Paddsw => i16s(a, b, i16::saturating_add),
            Paddusb => u8s(a, b, u8::saturating_add),
            Paddusw => u16s(a, b, u16::saturating_add),
            Psubb => u8s(a, b, u8::wrapping_sub),
            Psubw => u16s(a, b, u16::wrapping_sub),
            Psubd => u32s(a, b, u32::wrapping_sub),
            Psubq => u64s(a, b, u64::wrapping_sub),
            Psubsb => i8s(a, b, i8::saturating_sub),
            Psubsw => i16s(a, b, i16::saturating_sub),
            Psubusb => u8s(a, b, u8::saturating_sub),
            Psubusw => u16s(a, b, u16::saturating_sub),
            Pavgb => u8s(a, b, |x, y| (u16::from(x) + u16::from(y)).div_ceil(2) as u8),
            Pavgw => u16s(a, b, |x, y| (u32::from(x) + u32::from(y)).div_ceil(2) as u16),
            Pmaxub => u8s(a, b, u8::max),
            Pmaxuw => u16s(a, b, u16::max),
            Pmaxud => u32s(a, b, u32::max),
            Pmaxsb => i8s(a, b, i8::max),
            Pmaxsw => i16s(a, b, i16::max),
            Pmaxsd => i32s(a, b, i32::max),
            Pminub => u8s(a, b, u8::min),
            Pminuw => u16s(a, b, u16::min),
            Pminud => u32s(a, b, u32::min),
            Pminsb => i8s(a, b, i8::min),
            Pminsw => i16s(a, b, i16::min),
            Pminsd => i32s(a, b, i32::min),
            Pcmpeqb => u8s(a, b, |x, y| mask!(u8, x == y)),
            Pcmpeqw => u16s(a, b, |x, y| mask!(u16, x == y)),
            Pcmpeqd => u32s(a, b, |x, y| mask!(u32, x == y)),
            Pcmpeqq => u64s(a, b, |x, y| mask!(u64, x == y)),
            Pcmpgtb => i8s(a, b, |x, y| mask!(i8, x > y)),
            Pcmpgtw => i16s(a, b, |x, y| mask!(i16, x > y)),
            Pcmpgtd => i32s(a, b, |x, y| mask!(i32, x > y)),
            Pcmpgtq => i64s(a, b, |x, y| mask!(i64, x > y)),
            Pabsb => i8s(a, b, |_, y| y.wrapping_abs()),
            Pabsw => i16s(a, b, |_, y| y.wrapping_abs()),
            Pabsd => i32s(a, b, |_, y| y.wrapping_abs()),
            Psignb => i8s(a, b, |x, y| x.wrapping_mul(y.signum())),
            Psignw => i16s(a, b, |x, y| x.wrapping_mul(y.signum())),
            Psignd => i32s(a, b, |x, y| x.wrapping_mul(y.signum())),
            Pmullw => u16s(a, b, u16::wrapping_mul),
            Pmulhw => i16s(a, b, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16),
            Pmulhuw => u16s(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
            Pmulhrsw => i16s(a, b, |x, y| ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16),
            Pmulld => u32s(a, b, u32::wrapping_mul),
            Pmuludq => u64s(a, b, |x, y| (x & 0xffff_ffff) * (y & 0xffff_ffff)),
            Pmuldq => i64s(a, b, |x, y| i64::from(x as i32) * i64::from(y as i32)),
            Pmaddwd => u32s(a, b, |x, y| {
                let ((x0, x1), (y0, y1)) = (halves(x), halves(y));
                (x0 * y0).wrapping_add(x1 * y1) as u32
            }),
            // Unsigned bytes of the destination by signed bytes of the source.
            Pmaddubsw => i16s(a, b, |x, y| {
                let low = i32::from(x as u8) * i32::from(y as i8);
                let high = i32::from((x as u16 >> 8) as u8) * i32::from(y >> 8);
                saturate(low + high)
            }),
            Psadbw => u64s(a, b, |x, y| {
                x.to_le_bytes().iter().zip(y.to_le_bytes()).map(|(x, y)| u64::from(x.abs_diff(y))).sum()
            }),
            Psllw => shift!(u16s, a, b, checked_shl),
            Pslld => shift!(u32s, a, b, checked_shl),
            Psllq => shift!(u64s, a, b, checked_shl),
            Psrlw => shift!(u16s, a, b, checked_shr),
            Psrld => shift!(u32s, a, b, checked_shr),
            Psrlq => shift!(u64s, a, b, checked_shr),
            // An arithmetic shift by too much leaves the sign everywhere.
            Psraw => {
                let count = count(b).min(15);
                i16s(a, a, |x, _| x >> count)
            }
            Psrad => {
                let count = count(b).min(31);
                i32s(a, a, |x, _| x >> count)
            }
            Pslldq => {
                let shift = count(b).min(N as u64) as usize;
                let mut out = [0; N];
                out[shift..].copy_from_slice(&a[..N - shift]);
                out
            }
            Psrldq => {
                let shift = count(b).min(N as u64) as usize;
                let mut out = [0; N];
                out[..N - shift].copy_from_slice(&a[shift..]);
                out
            }
        }
    }
}
