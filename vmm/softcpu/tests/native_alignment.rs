//! Which accesses a program is denied because of where they lie: the host's CPU and the software one agree, with
//! alignment checks switched on (RFLAGS.AC; Linux has CR0.AM set).

mod board;
mod native;
mod process;

use std::collections::BTreeMap;

use iced_x86::code_asm::*;
use iced_x86::{Code, Decoder, DecoderOptions, IcedError, Instruction};
use native::forms;
use native::generate::Generator;
use native::program;
use native::random::Random;
use native::state::{Case, State, window};
use process::{Native, Outcome, Soft};
use softcpu::Execution;

/// Cases for each form.
const ROUNDS: usize = 24;
const AC: u64 = 1 << 18;
const RSP: usize = 4;
const GENERAL_PROTECTION: u64 = 13;
const ALIGNMENT_CHECK: u64 = 17;
/// What ends a case that met no fault.
const INVALID_OPCODE: u64 = 6;
const UD2: [u8; 2] = [0x0f, 0x0b];

/// What the three were seen to do.
struct Comparison {
    host: Native,
    guests: [Soft; 2],
    cases: usize,
    /// How many cases met each vector.
    met: BTreeMap<Option<u64>, usize>,
    /// First difference by form.
    differences: BTreeMap<String, String>,
}

impl Comparison {
    fn new() -> Comparison {
        let guests = [Execution::Interpret, Execution::Compile { after: 1 }]
            .map(|execution| Soft::new(execution, &[]));
        let (met, differences) = (BTreeMap::new(), BTreeMap::new());
        Comparison { host: Native::new(), guests, cases: 0, met, differences }
    }

    fn run(&mut self, name: &str, case: &Case) {
        let code = [&program::prologue()[..], &case.code, &UD2].concat();
        // What ends the case is no fault of it.
        let fault = |outcome: Outcome| Some(outcome.vector).filter(|vector| *vector != INVALID_OPCODE);
        let native = fault(self.host.run(&code, &case.before));
        let [interpreted, compiled] =
            self.guests.each_mut().map(|guest| fault(guest.run(&code, &case.before)));
        self.cases += 1;
        *self.met.entry(native).or_default() += 1;
        let code = case.instructions[0].code();
        let same =
            |soft| native == soft || is_open(code) && native.is_some() && soft == Some(GENERAL_PROTECTION);
        if same(interpreted) && same(compiled) {
            return;
        }
        self.differences.entry(name.to_owned()).or_insert_with(|| {
            format!(
                "{:?}: host {native:?}, interpreted {interpreted:?}, compiled {compiled:?}; \
                 registers {:x?}",
                case.instructions.iter().map(Instruction::to_string).collect::<Vec<_>>(),
                case.before.gpr
            )
        });
    }

    fn finish(self, forms: usize) {
        println!("{forms} forms in {} cases; vectors met: {:?}", self.cases, self.met);
        let differences: Vec<_> =
            self.differences.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        assert!(differences.is_empty(), "{} forms differ\n{}", differences.len(), differences.join("\n"));
        let met = |vector| self.met.get(&vector).copied().unwrap_or_default();
        assert!([None, Some(ALIGNMENT_CHECK), Some(GENERAL_PROTECTION)].into_iter().all(|v| met(v) > 100));
    }
}

/// Whether the form is one that all makers treat alike, or this host's maker as the software CPU does.
fn is_compared(code: Code) -> bool {
    use iced_x86::Mnemonic::*;
    let free = matches!(
        code.mnemonic(),
        // Vectors that may lie anywhere: what is checked of their addresses, if anything, is left open
        // (SDM volume 3, 6.15, interrupt 17). Ours are checked as AMD's.
        Movups
            | Movupd
            | Movdqu
            | Lddqu
            | Pcmpestri
            | Pcmpestri64
            | Pcmpestrm
            | Pcmpestrm64
            | Pcmpistri
            | Pcmpistrm
    );
    // How many bytes a MOVSXD to 16 bits reads.
    let differs = code == Code::Movsxd_r16_rm16;
    forms::is_eligible(code) && !differs && (!free || is_amd())
}

fn is_amd() -> bool {
    // "AuthenticAMD" begins so.
    std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
}

/// Where the architecture leaves open by which vector an address is refused.
fn is_open(code: Code) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(code.mnemonic(), Fxsave | Fxsave64 | Fxrstor | Fxrstor64)
}

/// Writes a few instructions.
type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// What is not one instruction of a form that the generator makes: stack and control transfers. Each leaves
/// with RBP where the stack pointer was, or does not care.
fn transfers() -> Vec<(&'static str, Program)> {
    vec![
        ("call", |a| {
            let mut next = a.create_label();
            a.call(next)?;
            a.set_label(&mut next)?;
            a.nop()
        }),
        ("ret", |a| {
            let mut next = a.create_label();
            a.lea(rax, ptr(next))?;
            a.mov(rcx, rsp)?;
            a.and(rcx, -8)?;
            a.mov(qword_ptr(rcx), rax)?;
            a.and(rsp, -8)?;
            a.ret()?;
            a.set_label(&mut next)?;
            a.nop()
        }),
        ("leave", |a| {
            a.mov(rbp, rsp)?;
            a.leave()
        }),
        ("leave16", |a| {
            a.mov(rbp, rsp)?;
            a.db(&[0x66, 0xc9])
        }),
        ("enter", |a| a.enter(16, 0)),
        ("enter1", |a| a.enter(16, 1)),
        ("enter3", |a| {
            a.mov(rbp, rsp)?;
            a.enter(8, 3)
        }),
        ("pushfq", |a| a.pushfq()),
        ("pushf", |a| a.pushf()),
        ("push fs", |a| a.push(fs)),
        ("call through memory", |a| {
            let mut next = a.create_label();
            a.lea(rax, ptr(next))?;
            a.mov(rbp, rsp)?;
            a.and(rbp, -8)?;
            a.mov(qword_ptr(rbp), rax)?;
            a.call(qword_ptr(rbp))?;
            a.set_label(&mut next)?;
            a.nop()
        }),
        ("jump through memory", |a| {
            let mut next = a.create_label();
            a.lea(rax, ptr(next))?;
            a.and(rsp, -8)?;
            a.mov(qword_ptr(rsp), rax)?;
            a.jmp(qword_ptr(rsp))?;
            a.set_label(&mut next)?;
            a.nop()
        }),
        ("unaligned jump", |a| {
            a.or(rsp, 1)?;
            a.jmp(qword_ptr(rsp))
        }),
        ("unaligned call", |a| {
            a.or(rsp, 1)?;
            a.call(qword_ptr(rsp))
        }),
        ("unaligned ret", |a| {
            a.or(rsp, 1)?;
            a.ret()
        }),
        ("locked", |a| a.lock().add(dword_ptr(rsp), 1)),
        ("es", |a| a.mov(eax, dword_ptr(rsp).es())),
        ("gs", |a| a.mov(eax, dword_ptr(rsp).gs())),
    ]
}

#[test]
fn programs_are_denied_what_the_host_denies_them() {
    if !std::arch::is_x86_feature_detected!("sse4.2") || !std::arch::is_x86_feature_detected!("popcnt") {
        println!("skipped: this host's CPU has no SSE4.2");
        return;
    }
    let mut random = Random::new(8);
    let generator = Generator::unaligned();
    let mut comparison = Comparison::new();
    let mut covered = 0;
    for code in Code::values().filter(|&code| is_compared(code)) {
        let mut any = false;
        for _ in 0..ROUNDS {
            let Some(mut case) = generator.case(code, &mut random) else { continue };
            case.before.rflags |= AC;
            if random.one_in(2) {
                case.before.gpr[RSP] += random.below(8) as u64;
            }
            any = true;
            comparison.run(&format!("{code:?}"), &case);
        }
        covered += usize::from(any);
    }
    for (name, write) in transfers() {
        covered += 1;
        for offset in 0..16 {
            let mut before = State::random(&mut random);
            before.rflags |= AC;
            before.gpr[RSP] = window::CENTRE + offset;
            let start = window::BASE + program::prologue().len() as u64;
            let mut a = CodeAssembler::new(64).expect("64 is a bitness");
            write(&mut a).expect("a program");
            let code = a.assemble(start).expect("a program");
            let instructions = Decoder::with_ip(64, &code, start, DecoderOptions::NONE).iter().collect();
            let case = Case { instructions, code, before, ignored: Vec::new(), undefined_flags: 0 };
            comparison.run(name, &case);
        }
    }
    comparison.finish(covered);
}
