//! Which accesses a program is denied because of where they lie: the host's CPU and the software one agree, with
//! alignment checks switched on (RFLAGS.AC; Linux has CR0.AM set).

mod board;
mod native;

use std::collections::BTreeMap;

use board::{Board, CODE, USER_CODE, USER_DATA};
use iced_x86::code_asm::*;
use iced_x86::{Code, Decoder, DecoderOptions, IcedError, Instruction};
use native::forms;
use native::generate::Generator;
use native::host::Host;
use native::program;
use native::random::Random;
use native::state::{Case, State, window};
use softcpu::{Config, Execution, Exit};
use vm_memory::{Bytes, GuestAddress};

/// Cases for each form.
const ROUNDS: usize = 24;
const AC: u64 = 1 << 18;
const RSP: usize = 4;
/// Where the window is in the guest's RAM.
const PHYSICAL_WINDOW: u64 = 0x20_0000;
const GENERAL_PROTECTION: u64 = 13;
const ALIGNMENT_CHECK: u64 = 17;
/// The vector by which a program says that it met no fault.
const DONE: u64 = 0x80;

/// The host, which tells faults by signals.
struct Native(Host);

impl Native {
    fn new() -> Native {
        let host = Host::new();
        host.put(window::HANDLER, &program::host_handler());
        let stack = vec![0u8; 256 << 10].leak();
        // SAFETY: all zeros is a valid `sigaction` and `stack_t`; the stack lives for ever, and the handler as
        // long as the window, beyond which no case runs.
        unsafe {
            let mut alternative: libc::stack_t = std::mem::zeroed();
            (alternative.ss_sp, alternative.ss_size) = (stack.as_mut_ptr().cast(), stack.len());
            assert_eq!(libc::sigaltstack(&alternative, std::ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = window::HANDLER as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL] {
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
        }
        Native(host)
    }

    /// The vector of the fault that the case meets, if any.
    fn fault(&mut self, case: &Case) -> Option<u64> {
        self.0.put(window::FAULT, &window::NO_FAULT.to_le_bytes());
        self.0.run(case);
        let mut vector = [0; 8];
        self.0.get(window::FAULT, &mut vector);
        Some(u64::from_le_bytes(vector)).filter(|vector| *vector != window::NO_FAULT)
    }
}

/// A guest that runs cases as a program.
struct Soft {
    board: Board,
    prologue: Vec<u8>,
    epilogue: Vec<u8>,
}

impl Soft {
    fn new(execution: Execution) -> Soft {
        let mut board = Board::exactly(Config { execution, ..Config::default() });
        let all = board::PRESENT | board::WRITABLE | board::USER;
        board.put(0x3000 + 8 * (window::BASE >> 21), PHYSICAL_WINDOW | all | 0x80);
        board.gate(DONE, board::stub(DONE), 0, 3);
        let exit = board.run(|a| {
            program::switch_on(a).expect("a program");
            a.hlt().expect("a program");
        });
        assert_eq!(exit, Exit::DeadHalt);
        board.assemble(CODE, |a| {
            for value in [USER_DATA, window::OUTER_STACK - 0x100, 2, USER_CODE, window::BASE] {
                a.mov(rax, value).expect("a program");
                a.push(rax).expect("a program");
            }
            a.iretq().expect("a program");
        });
        let mut a = CodeAssembler::new(64).expect("64 is a bitness");
        a.int(DONE as i32).expect("a program");
        let soft = Soft { board, prologue: program::prologue(), epilogue: program::epilogue() };
        soft.put(window::EXIT_CODE, &a.assemble(0).expect("a program"));
        soft.put(window::EXIT, &window::EXIT_CODE.to_le_bytes());
        soft
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        let physical = GuestAddress(PHYSICAL_WINDOW + address - window::BASE);
        self.board.ram.write_slice(bytes, physical).expect("the window is RAM");
    }

    fn fault(&mut self, case: &Case) -> Option<u64> {
        let code = [&self.prologue[..], &case.code, &self.epilogue].concat();
        self.put(window::BASE, &code);
        self.put(window::INPUT, &case.before.image());
        self.put(window::SCRATCH, &case.before.scratch);
        self.board.begin();
        assert_eq!(self.board.go_on(), Exit::DeadHalt);
        Some(self.board.frame().vector).filter(|vector| *vector != DONE)
    }
}

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
        let guests = [Execution::Interpret, Execution::Compile { after: 1 }].map(Soft::new);
        let (met, differences) = (BTreeMap::new(), BTreeMap::new());
        Comparison { host: Native::new(), guests, cases: 0, met, differences }
    }

    fn run(&mut self, name: &str, case: &Case) {
        let native = self.host.fault(case);
        let [interpreted, compiled] = self.guests.each_mut().map(|guest| guest.fault(case));
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
