//! RFLAGS, with the six arithmetic flags in a form that is cheap to write.
//!
//! An arithmetic instruction stores its result and a vector of carries; the flags are worked
//! out from the two only where something reads them. Unlike schemes that remember the kind of
//! the last operation, reading needs no dispatch: every producer writes the same form.

/// Carry flag.
pub const CF: u64 = 1;
/// The bit that is always one.
pub const ONE: u64 = 1 << 1;
/// Parity flag.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
pub const AF: u64 = 1 << 4;
/// Zero flag.
pub const ZF: u64 = 1 << 6;
/// Sign flag.
pub const SF: u64 = 1 << 7;
/// Trap flag.
pub const TF: u64 = 1 << 8;
/// Interrupt enable flag.
pub const IF: u64 = 1 << 9;
/// Direction flag.
pub const DF: u64 = 1 << 10;
/// Overflow flag.
pub const OF: u64 = 1 << 11;
/// I/O privilege level (two bits).
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume flag.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check.
pub const AC: u64 = 1 << 18;
/// CPUID is there.
pub const ID: u64 = 1 << 21;

/// The six flags that arithmetic writes.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

const CARRY: u64 = 1 << 63;

/// RFLAGS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The last result, sign-extended to 64 bits: ZF is `result == 0`, PF the parity of its low
    /// byte, SF its top bit; the latter two are inverted by [`Flags::carries`].
    pub result: u64,
    /// Bit 63 is CF, bit 62 the carry into the sign bit (OF is the two's exclusive or), bit 3 is
    /// AF, bit 0 inverts SF, the parity of bits 8..=15 inverts PF.
    pub carries: u64,
    /// All other flags in their architectural places, without bit 1 (always one).
    pub system: u64,
}

/// [`Flags::result`] and [`Flags::carries`] for the low byte of RFLAGS, with OF clear: compiled code is left dozens of
/// times in a system call.
static FORMS: [(u64, u64); 256] = {
    let mut forms = [(0, 0); 256];
    let mut bits = 0;
    while bits < 256 {
        let low = bits as u64;
        let cf = low & CF;
        // Result 0 has even parity and result 1 odd: PF is inverted where it differs.
        let invert_parity = (low & PF != 0) != (low & ZF != 0);
        let af = if low & AF != 0 { 8 } else { 0 };
        let carries = cf << 63 | cf << 62 | (invert_parity as u64) << 8 | af | (low & SF != 0) as u64;
        forms[bits] = ((low & ZF == 0) as u64, carries);
        bits += 1;
    }
    forms
};

impl Default for Flags {
    fn default() -> Self {
        Flags { result: 1, carries: 0, system: 0 }
    }
}

impl Flags {
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.carries >> 63 != 0
    }

    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.carries ^ (self.carries << 1)) >> 63 != 0
    }

    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }

    #[inline(always)]
    pub fn sf(&self) -> bool {
        (self.result >> 63) ^ (self.carries & 1) != 0
    }

    #[inline(always)]
    pub fn pf(&self) -> bool {
        let byte = (self.result ^ (self.carries >> 8)) as u8;
        // Bit n says that n has an even number of ones; a host without POPCNT counts for longer.
        0x9669 >> ((byte ^ byte >> 4) & 15) & 1 != 0
    }

    #[inline(always)]
    pub fn af(&self) -> bool {
        self.carries & 8 != 0
    }

    /// Condition `CC` as conditional jumps encode it. (SDM volume 1, appendix B.)
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        let positive = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        positive != (CC & 1 != 0)
    }

    /// Replaces CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        // OF is the exclusive or of bits 63 and 62, so both turn over together.
        let change = (self.carries ^ ((cf as u64) << 63)) & CARRY;
        self.carries ^= change | (change >> 1);
    }

    /// Stores a result (sign-extended) with CF and OF; AF becomes 0.
    #[inline(always)]
    pub fn set_result(&mut self, result: u64, cf: bool, of: bool) {
        self.result = result;
        self.carries = ((cf as u64) << 63) | (((cf ^ of) as u64) << 62);
    }

    /// Replaces ZF alone.
    #[inline(always)]
    pub fn set_zf(&mut self, zf: bool) {
        let bits = self.arithmetic();
        self.set_arithmetic(if zf { bits | ZF } else { bits & !ZF });
    }

    /// The six arithmetic flags in their architectural places.
    pub fn arithmetic(&self) -> u64 {
        (self.cf() as u64)
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Replaces the six arithmetic flags.
    pub fn set_arithmetic(&mut self, bits: u64) {
        let (result, carries) = FORMS[(bits & 0xff) as usize];
        self.result = result;
        self.carries = carries ^ (bits & OF) << (62 - OF.trailing_zeros());
    }

    /// All of RFLAGS.
    pub fn bits(&self) -> u64 {
        self.arithmetic() | self.system | ONE
    }

    /// Replaces all of RFLAGS.
    pub fn set_bits(&mut self, bits: u64) {
        self.set_arithmetic(bits);
        self.system = bits & !(ARITHMETIC | ONE);
    }

    #[inline(always)]
    pub fn interrupts(&self) -> bool {
        self.system & IF != 0
    }

    #[inline(always)]
    pub fn backwards(&self) -> bool {
        self.system & DF != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_arithmetic_flags_is_kept() {
        for value in 0..64u64 {
            let places = [0, 2, 4, 6, 7, 11];
            let bits = places.iter().enumerate().fold(0, |bits, (i, at)| bits | ((value >> i) & 1) << at);
            let mut flags = Flags::default();
            flags.set_arithmetic(bits);
            assert_eq!(flags.arithmetic(), bits);
            for cf in [false, true] {
                let mut flags = flags;
                flags.set_cf(cf);
                assert_eq!(flags.arithmetic(), bits & !CF | cf as u64);
            }
        }
    }
}
