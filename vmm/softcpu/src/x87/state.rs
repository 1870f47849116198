//! The x87 registers and the rules of their stack.

use serde::{Deserialize, Serialize};

/// An 80-bit extended-precision number as its bits. (SDM volume 1, 4.2.2.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct F80 {
    /// The significand with its explicit integer bit; an MMX register is exactly this.
    pub significand: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
}

impl F80 {
    /// The quiet NaN that stands for "no result".
    pub const INDEFINITE: Self = Self { significand: 0xc000_0000_0000_0000, sign_exponent: 0xffff };

    /// Whether it is a NaN.
    pub fn is_nan(self) -> bool {
        self.sign_exponent & 0x7fff == 0x7fff && self.significand << 1 != 0
    }

    /// The ten bytes of its memory form.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// From its ten bytes.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, e0, e1] = bytes;
        Self {
            significand: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sign_exponent: u16::from_le_bytes([e0, e1]),
        }
    }
}

/// The x87 register file and its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Bits of the status word.
pub(crate) mod status {
    pub const INVALID: u16 = 1 << 0;
    pub const STACK_FAULT: u16 = 1 << 6;
    /// ES, and B which mirrors it.
    pub const SUMMARY: u16 = 1 << 7 | 1 << 15;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    pub const TOP: u16 = 7 << 11;
    /// The six exceptions, at the bits that mask them in the control word.
    pub const EXCEPTIONS: u16 = 0x3f;
}

impl X87State {
    /// The control word after FNINIT: every exception masked, 64-bit precision, to nearest.
    pub const INITIAL_CONTROL: u16 = 0x037f;
    /// Control bits that can be set; bit 6 always is.
    const CONTROL_BITS: u16 = 0x1f3f;

    /// Loads the control word. Unmasking a flagged exception makes it pending.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & Self::CONTROL_BITS | 0x40;
        self.summarize();
    }

    /// Loads the status word; the summary bits follow from the flags.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
        self.summarize();
    }

    /// Whether an unmasked exception waits to be reported by the next waiting instruction.
    pub fn pending(&self) -> bool {
        self.status & status::SUMMARY != 0
    }

    /// Recomputes ES and B.
    pub(crate) fn summarize(&mut self) {
        self.status &= !status::SUMMARY;
        if self.status & !self.control & status::EXCEPTIONS != 0 {
            self.status |= status::SUMMARY;
        }
    }

    /// TOP.
    pub fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }

    /// Sets TOP, modulo 8.
    pub(crate) fn set_top(&mut self, top: u8) {
        self.status = self.status & !status::TOP | u16::from(top & 7) << 11;
    }

    /// The physical register that is ST(`index`).
    pub(crate) fn physical(&self, index: u8) -> u8 {
        (self.top() + index) & 7
    }

    /// ST(`index`), whether or not it is tagged empty.
    pub fn register(&self, index: u8) -> F80 {
        self.registers[usize::from(self.physical(index))]
    }

    pub(crate) fn register_mut(&mut self, index: u8) -> &mut F80 {
        let physical = self.physical(index);
        &mut self.registers[usize::from(physical)]
    }

    /// Whether ST(`index`) is tagged empty.
    pub fn is_empty(&self, index: u8) -> bool {
        self.valid >> self.physical(index) & 1 == 0
    }

    /// Writes ST(`index`) and tags it valid.
    pub(crate) fn set(&mut self, index: u8, value: F80) {
        self.valid |= 1 << self.physical(index);
        *self.register_mut(index) = value;
    }

    /// Tags ST(`index`) empty.
    pub(crate) fn free(&mut self, index: u8) {
        self.valid &= !(1 << self.physical(index));
    }

    /// Pushes a value; the caller has looked for overflow.
    pub(crate) fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.set(0, value);
    }

    /// Pops the stack, whatever is on it.
    pub(crate) fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top() + 1);
    }

    /// What every MMX instruction but EMMS does: TOP to 0, all registers in use.
    /// (SDM volume 1, 9.6.2.)
    pub(crate) fn enter_mmx(&mut self) {
        self.set_top(0);
        self.valid = 0xff;
    }

    /// The full tag word of FNSTENV: per physical register 0 valid, 1 zero, 2 special, 3 empty.
    pub fn tag_word(&self) -> u16 {
        (0..8).rev().fold(0, |word, i| {
            let register = self.registers[i];
            let tag = if self.valid >> i & 1 == 0 {
                3
            } else {
                match (register.sign_exponent & 0x7fff, register.significand) {
                    (0, 0) => 1,
                    (0 | 0x7fff, _) => 2,
                    (_, significand) if significand >> 63 == 0 => 2,
                    _ => 0,
                }
            };
            word << 2 | tag
        })
    }

    /// Loads a full tag word; only "empty or not" is kept.
    pub fn set_tag_word(&mut self, word: u16) {
        self.valid = (0..8).filter(|i| word >> (2 * i) & 3 != 3).fold(0, |valid, i| valid | 1 << i);
    }
}

impl Default for X87State {
    /// The state FNINIT leaves, with cleared registers.
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
