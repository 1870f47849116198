//! Instructions that move lanes about: pack, unpack, shuffle, blend, widen, and those that work
//! across lanes.

mnemonics! {
    /// An instruction whose result lanes come from other places of its operands.
    pub(super) enum Shuffle {
        Punpcklbw, Punpcklwd, Punpckldq, Punpcklqdq, Punpckhbw, Punpckhwd, Punpckhdq, Punpckhqdq,
        Packsswb, Packssdw, Packuswb, Packusdw,
        Pshufb, Pshufw, Pshufd, Pshuflw, Pshufhw, Shufps, Shufpd, Palignr,
        Phaddw, Phaddd, Phaddsw, Phsubw, Phsubd, Phsubsw,
        Blendps, Blendpd, Pblendw,
        Movddup, Movsldup, Movshdup,
        Pmovsxbw, Pmovsxbd, Pmovsxbq, Pmovsxwd, Pmovsxwq, Pmovsxdq,
        Pmovzxbw, Pmovzxbd, Pmovzxbq, Pmovzxwd, Pmovzxwq, Pmovzxdq,
        Mpsadbw, Phminposuw,
    }
}

/// Lane `index`, of `width` bytes, of `register`.
#[inline(always)]
fn lane<const N: usize>(register: &[u8; N], width: usize, index: usize) -> &[u8] {
    &register[index * width..][..width]
}

/// A register whose lane `i`, of `width` bytes, is `pick(i)`.
#[inline(always)]
fn gather<'a, const N: usize>(width: usize, pick: impl Fn(usize) -> &'a [u8]) -> [u8; N] {
    let mut out = [0; N];
    for i in 0..N / width {
        out[i * width..][..width].copy_from_slice(pick(i));
    }
    out
}

/// Interleaves the lower (`first` = 0) or upper (1) halves of `a` and `b`.
#[inline(always)]
fn unpack<const N: usize>(width: usize, first: usize, a: &[u8; N], b: &[u8; N]) -> [u8; N] {
    let pairs = N / width / 2;
    let mut out = [0; N];
    for i in 0..pairs {
        out[2 * i * width..][..width].copy_from_slice(lane(a, width, first * pairs + i));
        out[(2 * i + 1) * width..][..width].copy_from_slice(lane(b, width, first * pairs + i));
    }
    out
}

/// Two bits of an immediate select each of four lanes.
fn selector(immediate: u8, index: usize) -> usize {
    usize::from(immediate >> (2 * (index % 4)) & 3)
}

fn i16_at(register: &[u8], index: usize) -> i16 {
    i16::from_le_bytes([register[2 * index], register[2 * index + 1]])
}

fn i32_at(register: &[u8], index: usize) -> i32 {
    let lane = &register[4 * index..][..4];
    i32::from_le_bytes([lane[0], lane[1], lane[2], lane[3]])
}

/// 16-bit lanes computed from neighbours: those of `a` fill the lower half, those of `b` the upper.
#[inline(always)]
fn horizontal16<const N: usize>(a: &[u8; N], b: &[u8; N], f: impl Fn(i16, i16) -> i16) -> [u8; N] {
    let mut out = [0; N];
    for (i, out) in out.chunks_exact_mut(2).enumerate() {
        let (from, pair) = if i < N / 4 { (a, i) } else { (b, i - N / 4) };
        out.copy_from_slice(&f(i16_at(from, 2 * pair), i16_at(from, 2 * pair + 1)).to_le_bytes());
    }
    out
}

/// 32-bit lanes computed from neighbours.
#[inline(always)]
fn horizontal32<const N: usize>(a: &[u8; N], b: &[u8; N], f: impl Fn(i32, i32) -> i32) -> [u8; N] {
    let mut out = [0; N];
    for (i, out) in out.chunks_exact_mut(4).enumerate() {
        let (from, pair) = if i < N / 8 { (a, i) } else { (b, i - N / 8) };
        out.copy_from_slice(&f(i32_at(from, 2 * pair), i32_at(from, 2 * pair + 1)).to_le_bytes());
    }
    out
}

/// Narrows 16-bit lanes to bytes, those of `a` below those of `b`.
#[inline(always)]
fn pack16<const N: usize>(a: &[u8; N], b: &[u8; N], narrow: impl Fn(i16) -> u8) -> [u8; N] {
    let half = N / 2;
    std::array::from_fn(|i| narrow(if i < half { i16_at(a, i) } else { i16_at(b, i - half) }))
}

/// Narrows 32-bit lanes to 16-bit ones.
#[inline(always)]
fn pack32<const N: usize>(a: &[u8; N], b: &[u8; N], narrow: impl Fn(i32) -> u16) -> [u8; N] {
    let half = N / 4;
    let mut out = [0; N];
    for (i, out) in out.chunks_exact_mut(2).enumerate() {
        let value = if i < half { i32_at(a, i) } else { i32_at(b, i - half) };
        out.copy_from_slice(&narrow(value).to_le_bytes());
    }
    out
}

/// Widens the low lanes of `b` from `from` to `to` bytes.
#[inline(always)]
fn widen<const N: usize>(b: &[u8; N], from: usize, to: usize, signed: bool) -> [u8; N] {
    let mut out = [0; N];
    for (i, out) in out.chunks_exact_mut(to).enumerate() {
        let narrow = lane(b, from, i);
        if signed && narrow[from - 1] & 0x80 != 0 {
            out.fill(0xff);
        }
        out[..from].copy_from_slice(narrow);
    }
    out
}

/// MPSADBW: eight sums of absolute differences of a 4-byte block of `b` with `a`.
fn sliding_differences<const N: usize>(a: &[u8; N], b: &[u8; N], immediate: u8) -> [u8; N] {
    let block = lane(b, 4, usize::from(immediate & 3));
    let start = usize::from(immediate >> 2 & 1) * 4;
    let mut out = [0; N];
    for (i, out) in out.chunks_exact_mut(2).enumerate() {
        let window = &a[start + i..][..4];
        let sum: u16 = window.iter().zip(block).map(|(x, y)| u16::from(x.abs_diff(*y))).sum();
        out.copy_from_slice(&sum.to_le_bytes());
    }
    out
}

/// PHMINPOSUW: the smallest unsigned word and the first place where it stands.
fn minimum_position<const N: usize>(b: &[u8; N]) -> [u8; N] {
    let words = b.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word));
    let mut out = [0; N];
    if let Some((index, word)) = words.enumerate().min_by_key(|&(index, word)| (word, index)) {
        out[..2].copy_from_slice(&word.to_le_bytes());
        out[2] = index as u8;
    }
    out
}

impl Shuffle {
    /// Computes `op(a, b, immediate)`; `a` is the destination operand. `SHUFPS` and its like need
    /// 16-byte registers; the decoder offers nothing else.
    #[inline(always)]
    pub(super) fn apply<const N: usize>(self, a: &[u8; N], b: &[u8; N], immediate: u8) -> [u8; N] {
        use Shuffle::*;
        match self {
            Punpcklbw => unpack(1, 0, a, b),
            Punpcklwd => unpack(2, 0, a, b),
            Punpckldq => unpack(4, 0, a, b),
            Punpcklqdq => unpack(8, 0, a, b),
            Punpckhbw => unpack(1, 1, a, b),
            Punpckhwd => unpack(2, 1, a, b),
            Punpckhdq => unpack(4, 1, a, b),
            Punpckhqdq => unpack(8, 1, a, b),
            Packsswb => pack16(a, b, |x| x.clamp(-128, 127) as u8),
            Packuswb => pack16(a, b, |x| x.clamp(0, 255) as u8),
            Packssdw => pack32(a, b, |x| x.clamp(-0x8000, 0x7fff) as u16),
            Packusdw => pack32(a, b, |x| x.clamp(0, 0xffff) as u16),
            Pshufb => std::array::from_fn(|i| match b[i] {
                0x80.. => 0,
                index => a[usize::from(index) % N],
            }),
            Pshufw => gather(2, |i| lane(b, 2, selector(immediate, i))),
            Pshufd => gather(4, |i| lane(b, 4, selector(immediate, i))),
            Pshuflw => gather(2, |i| lane(b, 2, if i < 4 { selector(immediate, i) } else { i })),
            Pshufhw => gather(2, |i| lane(b, 2, if i < 4 { i } else { 4 + selector(immediate, i) })),
            Shufps => gather(4, |i| lane(if i < 2 { a } else { b }, 4, selector(immediate, i))),
            Shufpd => gather(8, |i| {
                let index = usize::from(immediate >> i & 1);
                lane(if i == 0 { a } else { b }, 8, index)
            }),
            Palignr => {
                // Zeros come in above the pair.
                let mut pair = [0; 48];
                pair[..N].copy_from_slice(b);
                pair[N..2 * N].copy_from_slice(a);
                let mut out = [0; N];
                out.copy_from_slice(&pair[usize::from(immediate).min(2 * N)..][..N]);
                out
            }
            Phaddw => horizontal16(a, b, i16::wrapping_add),
            Phaddd => horizontal32(a, b, i32::wrapping_add),
            Phaddsw => horizontal16(a, b, i16::saturating_add),
            Phsubw => horizontal16(a, b, i16::wrapping_sub),
            Phsubd => horizontal32(a, b, i32::wrapping_sub),
            Phsubsw => horizontal16(a, b, i16::saturating_sub),
            Blendps => blend(4, a, b, immediate),
            Blendpd => blend(8, a, b, immediate),
            Pblendw => blend(2, a, b, immediate),
            Movddup => gather(8, |_| lane(b, 8, 0)),
            Movsldup => gather(4, |i| lane(b, 4, i & !1)),
            Movshdup => gather(4, |i| lane(b, 4, i | 1)),
            Pmovsxbw => widen(b, 1, 2, true),
            Pmovsxbd => widen(b, 1, 4, true),
            Pmovsxbq => widen(b, 1, 8, true),
            Pmovsxwd => widen(b, 2, 4, true),
            Pmovsxwq => widen(b, 2, 8, true),
            Pmovsxdq => widen(b, 4, 8, true),
            Pmovzxbw => widen(b, 1, 2, false),
            Pmovzxbd => widen(b, 1, 4, false),
            Pmovzxbq => widen(b, 1, 8, false),
            Pmovzxwd => widen(b, 2, 4, false),
            Pmovzxwq => widen(b, 2, 8, false),
            Pmovzxdq => widen(b, 4, 8, false),
            Mpsadbw => sliding_differences(a, b, immediate),
            Phminposuw => minimum_position(b),
        }
    }
}

/// Lanes of `b` where the immediate has a bit, of `a` elsewhere.
#[inline(always)]
fn blend<const N: usize>(width: usize, a: &[u8; N], b: &[u8; N], immediate: u8) -> [u8; N] {
    gather(width, |i| lane(if immediate >> i & 1 == 0 { a } else { b }, width, i))
}

/// Lanes of `b` where the sign bit of the lane of `mask` is set, of `a` elsewhere.
pub(super) fn blend_variable(width: usize, a: &[u8; 16], b: &[u8; 16], mask: &[u8; 16]) -> [u8; 16] {
    gather(width, |i| lane(if mask[(i + 1) * width - 1] & 0x80 == 0 { a } else { b }, width, i))
}

/// The sign bits of the lanes of `register`, each `width` bytes.
pub(super) fn sign_mask(width: usize, register: u128) -> u64 {
    let halves = [register as u64, (register >> 64) as u64];
    let [low, high] = halves.map(|half| match width {
        // The multiplication brings bit 8*i + 7 to bit 56 + i.
        1 => ((half & 0x8080_8080_8080_8080) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56,
        4 => half >> 31 & 1 | half >> 63 << 1,
        _ => half >> 63,
    });
    low | high << (8 / width)
}

/// INSERTPS: `value` goes to the lane of bits 4..5, then the lanes of bits 0..3 become zero.
pub(super) fn insert_single(a: u128, value: u32, immediate: u8) -> u128 {
    let at = usize::from(immediate >> 4 & 3);
    let mut out = a.to_le_bytes();
    out[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
    for (i, lane) in out.chunks_exact_mut(4).enumerate() {
        if immediate >> i & 1 != 0 {
            lane.fill(0);
        }
    }
    u128::from_le_bytes(out)
}
