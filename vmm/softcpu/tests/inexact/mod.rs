//! Runs one inexact instruction on the software CPU.

pub mod reference;

use std::ops::Range;

use softcpu::Execution;

use crate::native::guest::Guest;
use crate::native::random::Random;
use crate::native::state::{Case, Fault, State, window};

/// 1, as the 80 bits of an extended number.
pub const ONE: u128 = 16383 << 64 | 1 << 63;

/// A random number of this magnitude: exponents below -16382 are denormal.
pub fn extended(random: &mut Random, exponents: Range<i32>) -> u128 {
    positive(random, exponents) | u128::from(random.next() & 1) << 79
}

/// The same above zero.
pub fn positive(random: &mut Random, exponents: Range<i32>) -> u128 {
    let exponent = exponents.start + random.below(exponents.len()) as i32;
    // Half of them with few bits, where arithmetic has corners.
    let low = if random.one_in(2) { random.next() } else { random.integer().reverse_bits() };
    let significand = 1 << 63 | low >> 1;
    match exponent + 16383 {
        biased @ 1.. => (biased as u128) << 64 | u128::from(significand),
        denormal => u128::from(significand >> (1 - denormal).min(63)),
    }
}

/// An angle next to so many quarter turns, where little of a sine or cosine is left.
pub fn quarter_turns(random: &mut Random) -> u128 {
    // pi / 2 * 2^67
    let product = 0xc_90fd_aa22_168c_234c * u128::from(1 + (random.next() >> 24 >> random.below(40)));
    let unused = product.leading_zeros();
    let significand = ((product << unused >> 64) as u64).saturating_sub(random.below(3) as u64);
    u128::from(16383 + 127 - 67 - unused) << 64 | u128::from(significand | 1 << 63)
}

/// A number within the range of FYL2XP1.
pub fn within_logarithm(random: &mut Random, exponents: Range<i32>) -> u128 {
    // 1 - sqrt(1/2), rounded down, as an extended number.
    const HIGHEST: u128 = 0x3ffd << 64 | 0x95f6_1998_0c43_36f7;
    loop {
        let x = extended(random, exponents.clone());
        if x & !(1 << 79) <= HIGHEST {
            return x;
        }
    }
}

/// A guest, and the state that it last left.
pub struct Bench {
    guest: Guest,
    after: Option<State>,
}

impl Bench {
    pub fn new(execution: Execution) -> Bench {
        Bench { guest: Guest::new(execution), after: None }
    }

    fn run(&mut self, code: &[u8], before: State) -> &State {
        let case = Case {
            instructions: Vec::new(),
            code: code.to_vec(),
            before,
            ignored: Vec::new(),
            undefined_flags: 0,
        };
        match self.guest.run(&case) {
            Ok(state) => self.after.insert(state),
            Err(Fault(reason)) => panic!("{code:x?}: {reason}"),
        }
    }

    /// Executes an x87 instruction with these as ST(0) and ST(1), everything masked; gives ST(0) and ST(1) then.
    pub fn x87(&mut self, code: &[u8], operands: [u128; 2], rounding: u16) -> [u128; 2] {
        let mut before = State::random(&mut Random::new(0));
        let (control, status) = (0x037f | rounding << 10, 4u16 << 11);
        before.fxsave[0..2].copy_from_slice(&control.to_le_bytes());
        before.fxsave[2..4].copy_from_slice(&status.to_le_bytes());
        // Registers 4 and 5 are in use.
        before.fxsave[4] = 0x30;
        for (i, operand) in operands.into_iter().enumerate() {
            before.fxsave[32 + 16 * i..][..16].copy_from_slice(&operand.to_le_bytes());
        }
        let after = self.run(code, before);
        [0, 1].map(|i| {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&after.fxsave[32 + 16 * i..][..10]);
            u128::from_le_bytes(bytes)
        })
    }

    /// The x87 status word of the last run.
    pub fn status(&self) -> u16 {
        let after = self.after.as_ref().expect("something ran");
        u16::from_le_bytes([after.fxsave[2], after.fxsave[3]])
    }

    /// Executes RCPPS or RSQRTPS on single numbers, and gives each with its result.
    pub fn singles(
        &mut self,
        opcode: u8,
        all: impl Iterator<Item = u32>,
    ) -> impl Iterator<Item = (u32, u32)> {
        const AT_ONCE: usize = window::SCRATCH_LENGTH / 4;
        // movups xmm0, [rsi]; rcpps xmm0, xmm0; movups [rsi], xmm0; add rsi, 16; dec ecx; jnz
        let code = [
            0x0f, 0x10, 0x06, 0x0f, opcode, 0xc0, 0x0f, 0x11, 0x06, 0x48, 0x83, 0xc6, 0x10, 0xff, 0xc9, 0x75,
            0xef,
        ];
        let mut all = all.peekable();
        std::iter::from_fn(move || {
            all.peek()?;
            let mut numbers: Vec<u32> = all.by_ref().take(AT_ONCE).collect();
            let count = numbers.len();
            numbers.resize(AT_ONCE, 0);
            let mut before = State::random(&mut Random::new(0));
            before.scratch = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (before.gpr[1], before.gpr[6]) = (AT_ONCE as u64 / 4, window::SCRATCH);
            before.fxsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
            let results: Vec<u32> = self
                .run(&code, before)
                .scratch
                .chunks_exact(4)
                .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            Some(numbers.into_iter().zip(results).take(count))
        })
        .flatten()
    }
}
