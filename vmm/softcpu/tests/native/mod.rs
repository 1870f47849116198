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
//! | `transfers` | jumps, calls and returns |
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
pub mod transfers;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use generate::Generator;
use guest::Guest;
use host::Host;
use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use random::Random;
use softcpu::Execution;
use state::{Case, Fault, State, window};
use transfers::Program;

/// How often each form runs, unless `SOFTCPU_NATIVE_ROUNDS` says otherwise. (A long search takes
/// another `SOFTCPU_NATIVE_SEED` as well; `SOFTCPU_NATIVE_TRACE` prints each case before it runs, to
/// find the one that ended the process.)
const ROUNDS: usize = 60;

/// Runs every code that `wanted` selects on both CPUs, single instructions, and panics with the
/// differences.
pub fn compare_forms(test: u64, wanted: impl Fn(Code) -> bool) {
    let rounds = rounds();
    let mut random = random(test);
    let generator = Generator::default();
    let Some(mut bench) = Bench::new() else { return };
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
pub fn compare_sequences(test: u64, length: usize, wanted: impl Fn(Code) -> bool) {
    let mut random = random(test);
    let generator = Generator::for_sequences();
    let codes: Vec<Code> = Code::values().filter(|&code| forms::is_eligible(code) && wanted(code)).collect();
    let Some(mut bench) = Bench::new() else { return };
    for _ in 0..rounds() * 40 {
        let case = generator.sequence(&codes, length, &mut random);
        bench.run(&case);
    }
    bench.finish(codes.len());
}

/// Runs programs from random states.
pub fn compare_programs(test: u64, programs: &[Program]) {
    let mut random = random(test);
    let Some(mut bench) = Bench::new() else { return };
    let start = window::BASE + program::prologue().len() as u64;
    for write in programs {
        let mut a = CodeAssembler::new(64).expect("64 is a bitness");
        write(&mut a).expect("a program");
        let code = a.assemble(start).expect("a program");
        let instructions: Vec<_> = Decoder::with_ip(64, &code, start, DecoderOptions::NONE).iter().collect();
        for _ in 0..rounds() {
            let before = State::random(&mut random);
            let (instructions, code) = (instructions.clone(), code.clone());
            bench.run(&Case { instructions, code, before, ignored: Vec::new(), undefined_flags: 0 });
        }
    }
    bench.finish(programs.len());
}

fn rounds() -> usize {
    setting("SOFTCPU_NATIVE_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize)
}

/// Numbers for the test with this number.
pub fn random(test: u64) -> Random {
    Random::new(setting("SOFTCPU_NATIVE_SEED").unwrap_or(0) << 8 | test)
}

/// A number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The two CPUs and what they disagreed on.
struct Bench {
    host: Host,
    /// One interprets, one compiles.
    guests: [Guest; 2],
    cases: usize,
    /// Print each case before it runs, to find the one that ends the process.
    trace: bool,
    /// First difference by code, and how many there were.
    differences: BTreeMap<String, (usize, String)>,
    skipped: Vec<Code>,
}

impl Bench {
    /// `None`, with the reason printed, on a host that is no oracle.
    fn new() -> Option<Self> {
        if !std::arch::is_x86_feature_detected!("sse4.2") || !std::arch::is_x86_feature_detected!("popcnt") {
            println!("skipped: this host's CPU has no SSE4.2");
            return None;
        }
        Some(Self {
            host: Host::new(),
            guests: [Execution::Interpret, Execution::Compile { after: 1 }].map(Guest::new),
            cases: 0,
            trace: std::env::var_os("SOFTCPU_NATIVE_TRACE").is_some(),
            differences: BTreeMap::new(),
            skipped: Vec::new(),
        })
    }

    fn run(&mut self, case: &Case) {
        self.cases += 1;
        if self.trace {
            eprintln!("{:?}", case.instructions);
        }
        let native = self.host.run(case);
        let [interpreted, compiled] = &mut self.guests;
        let difference = match (interpreted.run(case), compiled.run(case)) {
            (Ok(soft), Ok(compiled)) => {
                let mut difference = case.differences(&native, &soft);
                // These two agree in everything, also in what is undefined.
                difference.extend(case.exact_differences(&soft, &compiled));
                difference
            }
            (Err(Fault(reason)), _) => vec![format!("interpreted: {reason}")],
            (_, Err(Fault(reason))) => vec![format!("compiled: {reason}")],
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
