//! Machine states, where they lie in memory, and how two of them are compared.

use std::ops::Range;

use iced_x86::{Instruction, RflagsBits};

use super::forms::is_x87;
use super::random::Random;

/// Where everything lies, on the host as in the guest: below 2 GiB, so that any register may be
/// clobbered while memory is still reachable by its plain address.
pub mod window {
    /// Start; code first.
    pub const BASE: u64 = 0x1000_0000;
    /// Length in bytes.
    pub const LENGTH: usize = 0x1_0000;
    /// The state that the code loads.
    pub const INPUT: u64 = BASE + 0x2000;
    /// The state that it stores.
    pub const OUTPUT: u64 = BASE + 0x3000;
    /// Saved host stack pointer.
    pub const HOST_STACK: u64 = BASE + 0x3800;
    /// Where the code jumps when it is done.
    pub const EXIT: u64 = BASE + 0x3808;
    /// What a fault found: registers, flags, vector, as Linux saves them.
    pub const FAULT: u64 = BASE + 0x3900;
    /// The selectors of DS, ES, FS and GS then.
    pub const SELECTORS: u64 = BASE + 0x3a00;
    /// The base of FS that this process needs.
    pub const FS_BASE: u64 = BASE + 0x3a08;
    /// The code that it goes on with then.
    pub const EXIT_CODE: u64 = BASE + 0x1800;
    /// The host's signal handler.
    pub const HANDLER: u64 = BASE + 0x1900;
    /// Memory that the instructions under test work on, laid so that a page ends just behind
    /// `CENTRE`.
    pub const SCRATCH: u64 = BASE + 0x4dc0;
    /// Length of it.
    pub const SCRATCH_LENGTH: usize = 0x800;
    /// A place in it where base registers point, with room on both sides.
    pub const CENTRE: u64 = SCRATCH + 0x200;
    /// The stack of the instructions under test, with the bytes around it that are compared.
    pub const STACK: u64 = SCRATCH + 0x780;
    /// A stack for the code around them.
    pub const OUTER_STACK: u64 = BASE + 0xf000;
}

/// Size of an FXSAVE area.
pub const FXSAVE: usize = 512;
/// Size of a state in memory: FXSAVE area, 16 general registers, RFLAGS.
pub const STATE: usize = FXSAVE + 16 * 8 + 8;
/// The flags that are compared: the arithmetic ones and DF.
const FLAGS: u64 = 0xcd5;

/// Registers and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub fxsave: [u8; FXSAVE],
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub scratch: Vec<u8>,
}

/// What to run and from where.
#[derive(Clone, Debug)]
pub struct Case {
    pub instructions: Vec<Instruction>,
    pub code: Vec<u8>,
    pub before: State,
    /// Bytes of the scratch memory that the two may leave different.
    pub ignored: Vec<Range<usize>>,
    /// Flags (iced's bits) that the instructions leave undefined.
    pub undefined_flags: u32,
}

/// Why a case came to no end.
pub struct Fault(pub String);

impl State {
    /// A random state with every exception masked.
    pub fn random(random: &mut Random) -> Self {
        let mut fxsave = [0; FXSAVE];
        // Half of the cases at default settings, where most programs are.
        let plain = random.one_in(2);
        // Extended or double precision; all rounding modes.
        let control = if plain {
            0x037f
        } else {
            0x007f | (random.choose(&[0u16, 2, 3, 3]) << 8) | (random.below(4) as u16 * 0x400)
        };
        let top = random.below(8) as u16;
        let conditions = if plain { 0 } else { random.next() as u16 & 0x473f };
        let valid = match random.below(4) {
            0 => random.next() as u8,
            _ => 0xff << random.below(3),
        };
        fxsave[0..2].copy_from_slice(&control.to_le_bytes());
        fxsave[2..4].copy_from_slice(&(top << 11 | conditions).to_le_bytes());
        fxsave[4] = if random.one_in(6) { 0 } else { u8::rotate_left(valid, top.into()) };
        let mxcsr = 0x1f80 | if plain { 0 } else { random.next() as u32 & 0xe07f };
        fxsave[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for register in fxsave[32..160].chunks_exact_mut(16) {
            let (significand, sign_exponent) = random.extended();
            register[..8].copy_from_slice(&significand.to_le_bytes());
            register[8..10].copy_from_slice(&sign_exponent.to_le_bytes());
        }
        for register in fxsave[160..416].chunks_exact_mut(16) {
            register.copy_from_slice(&random.vector().to_le_bytes());
        }
        let mut scratch = Vec::with_capacity(window::SCRATCH_LENGTH);
        while scratch.len() < window::SCRATCH_LENGTH {
            match random.below(4) {
                0 => {
                    let (significand, sign_exponent) = random.extended();
                    scratch.extend(significand.to_le_bytes());
                    scratch.extend(u64::from(sign_exponent).to_le_bytes());
                }
                1 => scratch.extend([random.integer(), random.integer()].map(u64::to_le_bytes).concat()),
                _ => scratch.extend(random.vector().to_le_bytes()),
            }
        }
        let mut gpr = std::array::from_fn(|_| random.integer());
        gpr[4] = window::STACK;
        Self { fxsave, gpr, rflags: 2 | random.next() & 0x8d5, scratch }
    }

    /// Unmasks x87 exceptions, except those that are flagged already.
    pub fn unmask(&mut self, exceptions: u16) {
        let control = self.u16(0) & !(exceptions & !self.u16(2));
        self.fxsave[..2].copy_from_slice(&control.to_le_bytes());
    }

    /// The bytes that the code around the instructions loads.
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.fxsave.to_vec();
        image.extend(self.gpr.iter().flat_map(|register| register.to_le_bytes()));
        image.extend(self.rflags.to_le_bytes());
        image
    }

    /// From the bytes that it stores.
    pub fn from_image(image: &[u8; STATE], scratch: Vec<u8>) -> Self {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&image[FXSAVE + 8 * index..][..8]);
            u64::from_le_bytes(bytes)
        };
        let mut fxsave = [0; FXSAVE];
        fxsave.copy_from_slice(&image[..FXSAVE]);
        Self { fxsave, gpr: std::array::from_fn(word), rflags: word(16), scratch }
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.fxsave[offset], self.fxsave[offset + 1]])
    }
}

impl Case {
    /// Where two results differ in anything that the architecture defines.
    pub fn differences(&self, native: &State, soft: &State) -> Vec<String> {
        self.listed("host", &self.defined(native), "soft", &self.defined(soft))
    }

    /// Where two results differ in anything at all.
    pub fn exact_differences(&self, interpreted: &State, compiled: &State) -> Vec<String> {
        self.listed("interpreted", interpreted, "compiled", compiled)
    }

    fn listed(&self, first: &str, a: &State, second: &str, b: &State) -> Vec<String> {
        if a == b {
            return Vec::new();
        }
        let before = &self.before;
        let mut found = Vec::new();
        let mut note = |what: String, show: &dyn Fn(&State) -> String| {
            let (a, b) = (show(a), show(b));
            if a != b {
                found.push(format!("{what}: {first} {a}, {second} {b}, before {}", show(before)));
            }
        };
        let names = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        for (i, name) in names.iter().enumerate() {
            note((*name).into(), &|state| format!("{:#x}", state.gpr[i]));
        }
        note("rflags".into(), &|state| format!("{:#x}", state.rflags));
        note("mxcsr".into(), &|state| hex(&state.fxsave[24..28]));
        note("fcw".into(), &|state| hex(&state.fxsave[..2]));
        note("fsw".into(), &|state| hex(&state.fxsave[2..4]));
        note("tags".into(), &|state| hex(&state.fxsave[4..5]));
        for i in 0..8 {
            note(format!("st{i}"), &|state| hex(&state.fxsave[32 + 16 * i..][..10]));
        }
        for i in 0..16 {
            note(format!("xmm{i}"), &|state| hex(&state.fxsave[160 + 16 * i..][..16]));
        }
        for at in (0..window::SCRATCH_LENGTH).step_by(16) {
            note(format!("memory+{at:#x}"), &|state| hex(&state.scratch[at..][..16]));
        }
        found
    }

    /// The result without what the architecture, or this comparison, leaves open.
    fn defined(&self, result: &State) -> State {
        let mut defined = result.clone();
        defined.rflags &= FLAGS & !self.undefined_flags();
        let status = result.u16(2) & !self.undefined_codes();
        defined.fxsave[2..4].copy_from_slice(&status.to_le_bytes());
        // Last instruction and operand, MXCSR_MASK, and what FXSAVE does not write.
        for range in [5..24, 28..32, 416..FXSAVE] {
            defined.fxsave[range].fill(0);
        }
        for range in &self.ignored {
            defined.scratch[range.clone()].fill(0);
        }
        defined
    }

    /// The undefined flags where RFLAGS has them.
    pub fn undefined_flags(&self) -> u64 {
        let undefined = self.undefined_flags;
        let bit = |flag: u32, position: u32| u64::from(undefined & flag != 0) << position;
        bit(RflagsBits::CF, 0)
            | bit(RflagsBits::PF, 2)
            | bit(RflagsBits::AF, 4)
            | bit(RflagsBits::ZF, 6)
            | bit(RflagsBits::SF, 7)
            | bit(RflagsBits::OF, 11)
    }

    /// Condition codes of the x87 status word that are undefined: C0, C2 and C3 after anything
    /// but a comparison, a remainder or a trigonometric function. FFREE leaves all undefined, and
    /// makers disagree about C1 after FCOMI.
    pub fn undefined_codes(&self) -> u16 {
        use iced_x86::Mnemonic::*;
        let mut undefined = 0;
        let mut skipped = false;
        for instruction in &self.instructions {
            let jumped_over = std::mem::replace(&mut skipped, instruction.is_jcc_short_or_near());
            match instruction.mnemonic() {
                Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Ftst | Fxam | Fprem
                | Fprem1 | Fninit | Fldenv | Frstor | Fxrstor | Fxrstor64 | Fnsave => {
                    // What is jumped over may not have run.
                    undefined = if jumped_over { undefined } else { 0 };
                }
                Ffree | Ffreep | Fcomi | Fcomip | Fucomi | Fucomip => undefined |= 0x4700,
                _ if is_x87(instruction.code()) => undefined |= 0x4500,
                _ => {}
            }
        }
        undefined
    }
}

/// Most significant byte first.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}
