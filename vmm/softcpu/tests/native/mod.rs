//! The host CPU as oracle: the same machine code, from the same state, on the host's CPU and on
//! the software one.
//!
//! | file | what |
//! |---|---|
//! | `state` | what goes in and comes out, where it lies in memory, how it is compared |
//! | `program` | the code around the instructions under test |
//! | `forms` | which forms there are, and what of them is undefined |
//! | `generate` | a random instruction of any form |
//! | `prepare` | a state in which it cannot fault |
//! | `random` | numbers that like the corners |
//! | `host`, `guest` | the two that run it |

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod forms;
pub mod generate;
pub mod guest;
pub mod host;
pub mod prepare;
pub mod program;
pub mod random;
pub mod state;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use generate::Generator;
use guest::Guest;
use host::Host;
use iced_x86::{Code, Instruction};
use random::Random;
use state::{Case, Fault};

/// How often each form runs, unless `SOFTCPU_NATIVE_ROUNDS` says otherwise.
const ROUNDS: usize = 60;

/// Runs every code that `wanted` selects on both CPUs, single instructions, and panics with the
/// differences.
pub fn compare_forms(seed: u64, wanted: impl Fn(Code) -> bool) {
    let rounds = rounds();
    let mut random = Random::new(seed);
    let generator = Generator::default();
    let mut bench = Bench::new();
    let mut covered = 0;
    for code in Code::values().filter(|&code| forms::is_eligible(code) && wanted(code)) {
        let mut any = false;
        for _ in 0..rounds {
            let Some(case) = generator.case(code, &mut random) else { continue };
            any = true;
            bench.run(&case);
        }
        covered += usize::from(any);
        if !any {
            bench.skipped.push(code);
        }
    }
    bench.finish(covered);
}

/// Runs random sequences of the codes that `wanted` selects.
pub fn compare_sequences(seed: u64, length: usize, wanted: impl Fn(Code) -> bool) {
    let mut random = Random::new(seed);
    let generator = Generator::for_sequences();
    let codes: Vec<Code> = Code::values().filter(|&code| forms::is_eligible(code) && wanted(code)).collect();
    let mut bench = Bench::new();
    for _ in 0..rounds() * 40 {
        let case = generator.sequence(&codes, length, &mut random);
        bench.run(&case);
    }
    bench.finish(codes.len());
}

fn rounds() -> usize {
    std::env::var("SOFTCPU_NATIVE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

/// The two CPUs and what they disagreed on.
struct Bench {
    host: Host,
    guest: Guest,
    cases: usize,
    /// Print each case before it runs, to find the one that ends the process.
    trace: bool,
    /// First difference by code, and how many there were.
    differences: BTreeMap<String, (usize, String)>,
    skipped: Vec<Code>,
}

impl Bench {
    fn new() -> Self {
        Self {
            host: Host::new(),
            guest: Guest::new(),
            cases: 0,
            trace: std::env::var_os("SOFTCPU_NATIVE_TRACE").is_some(),
            differences: BTreeMap::new(),
            skipped: Vec::new(),
        }
    }

    fn run(&mut self, case: &Case) {
        self.cases += 1;
        if self.trace {
            eprintln!("{:?}", case.instructions);
        }
        let native = self.host.run(case);
        let difference = match self.guest.run(case) {
            Ok(soft) => case.differences(&native, &soft),
            Err(Fault(reason)) => vec![reason],
        };
        if difference.is_empty() {
            return;
        }
        let entry = self.differences.entry(name(&case.instructions)).or_insert_with(|| {
            let mut text = String::new();
            for instruction in &case.instructions {
                let _ = writeln!(text, "    {instruction}");
            }
            let [rcx, rsi, rdi] = [1, 6, 7].map(|i: usize| case.before.gpr[i]);
            let _ = writeln!(text, "    before: rcx {rcx:#x}, rsi {rsi:#x}, rdi {rdi:#x}");
            for line in &difference {
                let _ = writeln!(text, "        {line}");
            }
            (0, text)
        });
        entry.0 += 1;
    }

    fn finish(self, covered: usize) {
        println!("{covered} codes in {} cases; not generated: {:?}", self.cases, self.skipped);
        if self.differences.is_empty() {
            return;
        }
        let mut report = String::new();
        for (name, (count, text)) in &self.differences {
            let _ = write!(report, "{name}: {count} times, first\n{text}");
        }
        panic!("{} forms differ from the host CPU\n{report}", self.differences.len());
    }
}

fn name(instructions: &[Instruction]) -> String {
    match instructions {
        [one] => format!("{:?}", one.code()),
        _ => "sequence".into(),
    }
}
