//! Programs of a few instructions at privilege 3, and how their ends are compared.
//!
//! | file | what they do |
//! |---|---|
//! | `flags` | PUSHF and POPF |
//! | `denied` | instructions that a program may not execute, or that make an exception of their own |
//! | `selectors` | move selectors, and ask about them |
//! | `far` | jump, call and return to other segments and modes |
//! | `forms` | are one instruction of any form, outside 64-bit mode |
//! | `near` | jump, loop, call and return within a segment |
//! | `limits` | reach to and beyond the ends of segments in compatibility mode |

pub mod denied;
pub mod far;
pub mod flags;
pub mod forms;
pub mod limits;
pub mod near;
pub mod selectors;

use std::collections::BTreeMap;
use std::ops::Range;

use softcpu::Execution;

use crate::native::program::{self, USER_CODE, USER_DATA};
use crate::native::state::{State, window};
use crate::process::{Kind, LocalSegment, Native, Outcome, Soft, USER_CODE_32, local, set_local_segments};

const INVALID_OPCODE: u64 = 6;
const GENERAL_PROTECTION: u64 = 13;

/// UD2, which ends every program in every mode.
pub const UD2: [u8; 2] = [0x0f, 0x0b];

/// One program and where it starts from.
pub struct Trial {
    /// What it is one of; a difference is reported once for each.
    pub name: String,
    /// What else was chosen, for the reader of a difference.
    pub about: String,
    /// 64-bit code.
    pub code: Vec<u8>,
    pub before: State,
    /// Bits of the registers that the architecture leaves open behind it.
    pub open: [u64; 16],
    /// The same where the instruction is refused in its middle.
    pub open_where_refused: [u64; 16],
    /// Bits of the flags.
    pub open_flags: u64,
    /// Of the x87's condition codes, where the status word has them.
    pub open_codes: u16,
    /// Of the memory.
    pub open_memory: Vec<Range<usize>>,
    /// It calls: what it would have pushed, where it is refused.
    pub calls: bool,
}

impl Trial {
    /// Code for this mode; 64-bit code changes to it first.
    pub fn new(name: impl Into<String>, mode: Mode, code: &[u8], before: State) -> Trial {
        let mut open = [0; 16];
        if mode != Mode::Long {
            // Their upper halves, once code of another size has run. (SDM volume 1, 3.4.1.1.)
            open[..8].fill(!0 << 32);
        }
        let code = [&mode.enter(), code, &UD2].concat();
        assert!(code.len() < 0x600, "the code ends before the landing place");
        Trial {
            name: name.into(),
            about: String::new(),
            code,
            before,
            open,
            open_where_refused: [0; 16],
            open_flags: 0,
            open_codes: 0,
            open_memory: Vec::new(),
            calls: false,
        }
    }

    /// A program that calls.
    pub fn calling(name: impl Into<String>, mode: Mode, code: &[u8], before: State) -> Trial {
        Trial { calls: true, ..Trial::new(name, mode, code, before) }
    }

    /// Says what else was chosen.
    pub fn about(mut self, about: String) -> Trial {
        self.about = about;
        self
    }
}

/// Which code a program consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Long,
    /// With DS, ES and SS flat.
    Bits32,
    /// The same, in a code segment that begins with the window.
    Bits16,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Long, Mode::Bits32, Mode::Bits16];

    /// 64-bit code that changes to the mode and goes on behind itself.
    fn enter(self) -> Vec<u8> {
        let (selector, base) = match self {
            Mode::Long => return Vec::new(),
            Mode::Bits32 => (USER_CODE_32, 0),
            Mode::Bits16 => (local(CODE_16), window::BASE),
        };
        let start = window::BASE + program::prologue().len() as u64;
        // mov ds, [rip + 12]; mov es, [rip + 6]; jmp far [rip + 2]
        let mut code = vec![0x8e, 0x1d, 0x0c, 0, 0, 0, 0x8e, 0x05, 0x06, 0, 0, 0, 0xff, 0x2d, 0x02, 0, 0, 0];
        code.extend(USER_DATA.to_le_bytes());
        let next = start + code.len() as u64 + 6;
        code.extend(((next - base) as u32).to_le_bytes());
        code.extend(selector.to_le_bytes());
        code
    }

    /// The prefix by which an instruction has operands of `size` bytes, 2 or 4, and addresses of 4.
    pub fn prefixes(self, size: u8) -> Vec<u8> {
        match (self, size) {
            (Mode::Bits16, 2) => vec![0x67],
            (Mode::Bits16, _) => vec![0x67, 0x66],
            (_, 2) => vec![0x66],
            _ => vec![],
        }
    }

    /// The prefix by which a stack operation has operands of `size` bytes; `None` if the mode has no such.
    pub fn stack_prefix(self, size: u8) -> Option<&'static [u8]> {
        match (self, size) {
            (Mode::Bits16, 2) | (Mode::Bits32, 4) | (Mode::Long, 8) => Some(&[]),
            (Mode::Bits16, 4) | (Mode::Bits32 | Mode::Long, 2) => Some(&[0x66]),
            _ => None,
        }
    }
}

/// What runs where a far transfer arrives: it is INC RCX in 64-bit code, DEC EAX and INC ECX in 32-bit code, and the
/// same with AX and CX in 16-bit code.
pub const LANDING: [u8; 5] = [0x48, 0xff, 0xc1, 0x0f, 0x0b];
/// Where it is.
pub const LANDING_AT: u64 = window::BASE + 0x1700;

/// Entries of the local descriptor table.
pub const FLAT_DATA: u16 = 0;
pub const READ_ONLY: u16 = 1;
pub const SMALL: u16 = 2;
pub const DOWN_32: u16 = 3;
pub const DOWN_16: u16 = 4;
pub const CODE_32: u16 = 5;
pub const EXECUTE_ONLY: u16 = 6;
pub const CODE_32_BASED: u16 = 7;
pub const CODE_16: u16 = 8;
pub const CODE_SHORT: u16 = 9;
pub const CONFORMING_ABSENT: u16 = 10;
pub const DATA_ABSENT: u16 = 11;
pub const CODE_ABSENT: u16 = 12;
pub const STACK_16: u16 = 13;
// 14 is left empty.
pub const ONE_PAGE: u16 = 15;
pub const DOWN_PAGES: u16 = 16;
/// The first that lies beyond the table.
pub const BEYOND: u16 = 17;

/// One of each kind.
pub fn local_segments() -> Vec<Option<LocalSegment>> {
    let data = LocalSegment {
        base: 0,
        limit: 0xf_ffff,
        in_pages: true,
        big: true,
        kind: Kind::Data,
        restricted: false,
        present: true,
    };
    let code = LocalSegment { kind: Kind::Code, ..data };
    let small = LocalSegment { base: window::SCRATCH, limit: 0x1ff, in_pages: false, ..data };
    let window_code = LocalSegment { base: window::BASE, limit: 0xffff, in_pages: false, ..code };
    let down = LocalSegment { kind: Kind::ExpandDown, limit: 0xff, ..small };
    let mut segments = vec![None; BEYOND as usize];
    let mut set = |index: u16, segment: LocalSegment| segments[index as usize] = Some(segment);
    set(FLAT_DATA, data);
    set(READ_ONLY, LocalSegment { limit: 0xff, restricted: true, ..small });
    set(SMALL, small);
    set(DOWN_32, down);
    set(DOWN_16, LocalSegment { big: false, ..down });
    set(CODE_32, code);
    set(EXECUTE_ONLY, LocalSegment { restricted: true, ..code });
    set(CODE_32_BASED, window_code);
    set(CODE_16, LocalSegment { big: false, ..window_code });
    set(CODE_SHORT, LocalSegment { limit: (LANDING_AT - window::BASE) as u32 - 1, ..window_code });
    set(CONFORMING_ABSENT, LocalSegment { kind: Kind::Conforming, present: false, ..code });
    set(DATA_ABSENT, LocalSegment { present: false, ..small });
    set(CODE_ABSENT, LocalSegment { present: false, ..code });
    set(STACK_16, LocalSegment { base: window::BASE, limit: 0xffff, in_pages: false, big: false, ..data });
    set(ONE_PAGE, LocalSegment { base: window::SCRATCH & !0xfff, limit: 0, ..data });
    set(DOWN_PAGES, LocalSegment { kind: Kind::ExpandDown, limit: 0x0_ffff, ..data });
    segments
}

/// The base of a code segment that a program may go to; what is none has 0.
pub fn base_of(selector: u16) -> u64 {
    match selector & !3 {
        0x3c | 0x44 | 0x4c => window::BASE,
        _ => 0,
    }
}

/// Selectors of all kinds, with every privilege.
pub fn selectors() -> impl Iterator<Item = u16> {
    // The table has 16 global descriptors; 0x90 and what is local from `BEYOND` on lie beyond.
    let global = (0..=18).map(|index| index << 3);
    let local = (0..BEYOND + 2).chain([0x1fff]).map(|index| index << 3 | 4);
    global.chain(local).flat_map(|selector| (0..4).map(move |privilege| selector | privilege))
}

/// Those that are worth trying where there is much else to vary.
pub fn few_selectors() -> Vec<u16> {
    let good = [
        USER_CODE,
        USER_CODE_32,
        USER_DATA,
        0,
        3,
        0x10,
        0x13,
        0x30,
        0x31,
        0x32,
        0x20,
        0x43,
        0x53,
        0x7b,
        0x93,
    ];
    good.into_iter()
        .chain((0..=BEYOND).map(local))
        .chain([local(CODE_32) & !1, local(CODE_16) & !3])
        .collect()
}

/// Seconds that a test may take; it takes some two.
const LONGEST: u32 = 300;

/// Both CPUs, and what they disagreed on.
pub struct Comparison {
    host: Native,
    /// One interprets, one compiles.
    guests: [Soft; 2],
    trials: usize,
    /// How often the host met each vector.
    met: BTreeMap<u64, usize>,
    /// First difference by name, and how many there were.
    differences: BTreeMap<String, (usize, String)>,
}

impl Comparison {
    /// `None`, with the reason printed, on a host that is no oracle.
    pub fn new() -> Option<Comparison> {
        // A program that does not come to its end ends the test.
        // SAFETY: it does nothing but set a timer.
        unsafe { libc::alarm(LONGEST) };
        let host = Native::new();
        let table = match set_local_segments(&local_segments()) {
            Ok(table) => table,
            Err(error) => {
                println!("skipped: this host gives programs no local descriptors: {error}");
                return None;
            }
        };
        let guests = [Execution::Interpret, Execution::Compile { after: 1 }]
            .map(|execution| Soft::new(execution, &table));
        Some(Comparison { host, guests, trials: 0, met: BTreeMap::new(), differences: BTreeMap::new() })
    }

    pub fn run(&mut self, trial: &Trial) {
        self.trials += 1;
        if std::env::var_os("SOFTCPU_NATIVE_TRACE").is_some() {
            eprintln!("{}: {}, code {:02x?}", trial.name, trial.about, trial.code);
        }
        let mut code = program::prologue();
        code.extend(&trial.code);
        code.resize((LANDING_AT - window::BASE) as usize, 0xcc);
        code.extend(LANDING);
        let native = self.host.run(&code, &trial.before);
        *self.met.entry(native.vector).or_default() += 1;
        let mut found = Vec::new();
        for (name, guest) in ["interpreted", "compiled"].into_iter().zip(&mut self.guests) {
            let soft = guest.run(&code, &trial.before);
            let different = defined(&native, trial).differences(&defined(&soft, trial));
            if !different.is_empty() {
                found.push(format!("{name}: {}", different.join(", ")));
            }
        }
        if !found.is_empty() {
            let entry = self.differences.entry(trial.name.clone()).or_insert_with(|| {
                (
                    0,
                    format!(
                        "{}, host / soft {}; to vector {} at {:x}:{:x}, stack {:x}; code {:02x?}",
                        trial.about,
                        found.join("; "),
                        native.vector,
                        native.cs,
                        native.rip,
                        native.ss,
                        trial.code
                    ),
                )
            });
            entry.0 += 1;
        }
    }

    pub fn finish(self) {
        println!("{} trials; vectors met on the host: {:?}", self.trials, self.met);
        let report: Vec<_> = self
            .differences
            .iter()
            .map(|(name, (count, text))| format!("{name}, {count} times: {text}"))
            .collect();
        assert!(report.is_empty(), "{} kinds of trial differ\n{}", report.len(), report.join("\n"));
        assert!(self.trials > 100 && self.met.contains_key(&INVALID_OPCODE), "the programs ran");
    }
}

/// The outcome without what the architecture leaves open.
fn defined(outcome: &Outcome, trial: &Trial) -> Outcome {
    let mut defined = outcome.clone();
    let refused = outcome.vector != INVALID_OPCODE;
    for i in 0..16 {
        defined.gpr[i] &= !trial.open[i];
        if refused {
            defined.gpr[i] &= !trial.open_where_refused[i];
        }
    }
    defined.rflags &= !trial.open_flags;
    let status = u16::from_le_bytes([defined.fxsave[2], defined.fxsave[3]]) & !trial.open_codes;
    defined.fxsave[2..4].copy_from_slice(&status.to_le_bytes());
    for range in &trial.open_memory {
        defined.scratch[range.clone()].fill(0);
    }
    if trial.calls && outcome.vector == GENERAL_PROTECTION {
        // AMD's CPUs push before they look at the segment's limit, Intel's do not.
        let top = (window::STACK - window::SCRATCH) as usize;
        defined.scratch[top - 16..top].fill(0);
    }
    defined
}
