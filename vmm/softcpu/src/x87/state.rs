//! The x87 registers.

/// An 80-bit extended-precision number as its bits. (SDM volume 1, 4.2.2.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct F80 {
    /// The significand with its explicit integer bit; an MMX register is exactly this.
    pub significand: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
}

/// The x87 register file and its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87State {
    /// Physical registers R0..R7 (ST(i) is `(TOP + i) % 8`; MM*i* aliases R*i*).
    pub registers: [F80; 8],
    /// The control word.
    pub control: u16,
    /// The status word, with TOP in bits 11..13.
    pub status: u16,
    /// One bit a physical register, set when it holds a value (the abridged tag of FXSAVE).
    pub valid: u8,
    /// Opcode of the last instruction that raised an unmasked exception (11 bits).
    pub last_opcode: u16,
    /// Address of that instruction.
    pub last_instruction: u64,
    /// Address of its memory operand.
    pub last_operand: u64,
}

impl X87State {
    /// The control word after FNINIT: every exception masked, 64-bit precision, to nearest.
    pub const INITIAL_CONTROL: u16 = 0x037f;
}

impl Default for X87State {
    /// The state FNINIT leaves (not the one of RESET, which differs in the control word only).
    fn default() -> Self {
        Self {
            registers: [F80::default(); 8],
            control: Self::INITIAL_CONTROL,
            status: 0,
            valid: 0,
            last_opcode: 0,
            last_instruction: 0,
            last_operand: 0,
        }
    }
}
