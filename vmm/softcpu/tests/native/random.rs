//! Seeded random numbers that prefer the values where arithmetic has corners.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A general register's value.
    pub fn integer(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next() & 0x7f,
            1 => (self.next() & 0xff).wrapping_neg(),
            2 => 1u64 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }

    /// The bits of a single.
    pub fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7f80_0000,
            2 => 0x7fc0_0000 | self.next() as u32 & 0x3f_ffff,
            // Signalling.
            3 => 0x7f80_0000 | (self.next() as u32 & 0x3f_ffff).max(1),
            // Denormal.
            4 => self.next() as u32 & 0x7f_ffff,
            5 => 1,
            6 => 0x7f7f_ffff,
            7 => ((self.below(2000) as f32) / 2.0).to_bits(),
            8 => (0x4f00_0000 - 64) + self.below(128) as u32,
            9 => 0x0080_0000 | self.next() as u32 & 0x7f_ffff,
            10 => 0x3f80_0000 | self.next() as u32 & 0x7f_ffff,
            _ => self.next() as u32 & 0x7fff_ffff,
        }
    }

    /// The bits of a double.
    pub fn double(&mut self) -> u64 {
        let sign = self.next() & (1 << 63);
        let fraction = self.next() & 0x000f_ffff_ffff_ffff;
        sign | match self.below(13) {
            0 => 0,
            1 => 0x7ff0 << 48,
            2 => 0x7ff8 << 48 | fraction >> 1,
            // Signalling.
            3 => 0x7ff0 << 48 | (fraction >> 1).max(1),
            // Denormal.
            4 => fraction,
            5 => 1,
            6 => 0x7fef_ffff_ffff_ffff,
            7 => ((self.below(2000) as f64) / 2.0).to_bits(),
            8 => (2147483648.0f64).to_bits() - 64 + self.below(128) as u64,
            9 => (9223372036854775808.0f64).to_bits() - 64 + self.below(128) as u64,
            // The range of a single's denormals and overflow.
            10 => (1023 - 150 + self.below(30) as u64) << 52 | fraction,
            11 => (1023 + 120 + self.below(10) as u64) << 52 | fraction,
            _ => self.next() >> 1,
        }
    }

    /// The bits of an 80-bit extended number: significand, sign and exponent.
    pub fn extended(&mut self) -> (u64, u16) {
        let sign = (self.next() as u16) & 0x8000;
        let fraction = self.next() >> 1;
        let integer_bit = 1 << 63;
        let (significand, exponent) = match self.below(16) {
            0 => (0, 0),
            1 => (integer_bit, 0x7fff),
            2 => (0xc000 << 48 | fraction >> 1, 0x7fff),
            // Signalling.
            3 => (integer_bit | (fraction >> 1).max(1), 0x7fff),
            // Denormal, pseudo-denormal, unnormal.
            4 => (fraction, 0),
            5 => (integer_bit | fraction, 0),
            6 => (fraction, 1 + self.below(0x7fff) as u16),
            7 | 8 => {
                let value = (self.below(2000) as u64).max(1);
                let shift = value.leading_zeros();
                (value << shift, 16383 + 63 - shift as u16)
            }
            9 => (integer_bit | fraction, 16383 + 50 + self.below(20) as u16),
            10 => (integer_bit | fraction, 16383 - 8 + self.below(16) as u16),
            // What overflows or underflows as a double, or here.
            11 => (integer_bit | fraction, 16383 + 1015 + self.below(20) as u16),
            12 => (integer_bit | fraction, 16383 - 1080 + self.below(70) as u16),
            13 => (integer_bit | fraction, 1 + self.below(70) as u16),
            14 => (integer_bit | fraction, 0x7ffe - self.below(70) as u16),
            _ => (integer_bit | fraction, 1 + (self.next() as u16) % 0x7ffe),
        };
        (significand, sign | exponent)
    }

    /// An XMM register's value.
    pub fn vector(&mut self) -> u128 {
        let mut bytes = [0; 16];
        match self.below(4) {
            0 => bytes.chunks_exact_mut(8).for_each(|b| b.copy_from_slice(&self.next().to_le_bytes())),
            1 => bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&self.single().to_le_bytes())),
            2 => bytes.chunks_exact_mut(8).for_each(|b| b.copy_from_slice(&self.double().to_le_bytes())),
            // Small bytes, often equal, sometimes zero: text.
            _ => bytes.iter_mut().for_each(|b| *b = b"\0abcab\x80\xff"[self.below(8)]),
        }
        u128::from_le_bytes(bytes)
    }
}
