//! Reproducible randomness: the SplitMix64 generator.

/// Where RDRAND's numbers come from.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed))
    }

    /// What the numbers to come depend on.
    pub fn state(&self) -> u64 {
        self.0
    }

    /// Numbers that depend on a saved state and on the seed of this run: of many machines restored
    /// from one state, those with different seeds get different numbers.
    pub fn reseeded(state: u64, seed: u64) -> Random {
        Random(mix(state ^ mix(seed)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// Scrambles 64 bits.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
