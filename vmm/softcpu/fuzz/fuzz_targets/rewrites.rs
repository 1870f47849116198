//! A program that rewrites and remaps code while it runs it, its own included: through other mappings, by
//! strings, by devices, across pages, with stacks on code, with and without INVLPG. Interpreted and compiled
//! it is the same program.
//!
//! Where the architecture leaves open what a CPU sees (a mapping that was replaced and not forgotten), the two
//! may part; such a program has only to leave the host alone.

#![no_main]

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use libfuzzer_sys::fuzz_target;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

#[path = "../../../../devices/binder/fuzz/fuzz_targets/generated.rs"]
mod generated;
mod pair;

use pair::board::{
    Board, CODE, DATA, NO_EXECUTE, PAGE_TABLE, PRESENT, SPARE_STACK, STACK, TSS, USER, WRITABLE,
};

/// Page-table entry bit: the page is that of all address spaces.
const GLOBAL: u64 = 1 << 8;

const INSTRUCTIONS: u64 = 10_000;
const STEPS: usize = 30;

/// Frames of code, and where each of them is always mapped.
const FRAMES: u64 = 8;
const WINDOW: u64 = 0x10_0000;
/// Pages that show now this frame, now that: at first the one of the same number. The second half of them is
/// global.
const PAGES: u64 = 0x11_0000;
/// The page table, where it can be written. (Where it lies, it cannot: a stray store is not to change it.)
const TABLE: u64 = 0x1f_f000;
/// What comes behind every fault.
const ON_FAULT: u64 = 0x3_0000;
const ON_PAGE_FAULT: u64 = ON_FAULT + 0x100;
/// The program's variables.
const RESUME: u64 = DATA;
const COUNT: u64 = DATA + 8;
const FAULTS: u64 = DATA + 16;
const SUM: u64 = DATA + 24;
const ROUNDS: u64 = DATA + 32;
/// Code to be put somewhere, `PIECE` bytes for each step.
const PIECES: u64 = DATA + 0x1000;
const PIECE: u64 = 128;
/// A port behind which a device writes code: one for each step.
const PORT: u16 = 0x1000;

/// A place in one of the pages.
#[derive(Clone, Copy, Debug)]
struct Place {
    page: u64,
    offset: u64,
}

impl Place {
    /// Where it is now, if the page is there.
    fn moving(self) -> u64 {
        PAGES + self.page * 0x1000 + self.offset
    }

    /// In the frame of that number.
    fn fixed(self) -> u64 {
        WINDOW + self.page * 0x1000 + self.offset
    }
}

/// What a piece of code does.
#[derive(Clone, Copy, Debug)]
enum Work {
    Add(u32),
    Count,
    Skip(u32),
    Load(Place),
    Store(Place, u32),
    Forget(u64),
    Reload,
    Nop(u8),
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Return,
    Jump(Place),
    Relative(Place),
    Falls,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Words,
    String,
    Bytes,
    Device,
    Locked,
}

/// How what a page showed before is forgotten.
#[derive(Clone, Copy, Debug)]
enum Forget {
    Invlpg,
    /// A new CR3, where the page is not global.
    AddressSpace,
    /// CR4.PGE off and on.
    All,
}

#[derive(Clone, Debug)]
enum Step {
    /// Puts code into a frame.
    Put {
        at: Place,
        work: Vec<Work>,
        end: End,
        how: How,
        moving: bool,
    },
    /// Writes into code.
    Poke {
        at: Place,
        value: u32,
        wide: bool,
        moving: bool,
    },
    Call {
        at: Place,
        times: u8,
    },
    /// Calls with a stack that lies on code.
    CallOn {
        at: Place,
        stack: Place,
    },
    Map {
        page: u64,
        frame: u64,
        writable: bool,
        executable: bool,
        forget: Forget,
    },
    /// The page is gone until it is touched; then it is there, and nothing was forgotten.
    Take {
        page: u64,
    },
    /// More is allowed than before, and nothing is forgotten.
    Allow {
        page: u64,
    },
    /// Another frame, and nothing is forgotten.
    Careless {
        page: u64,
        frame: u64,
    },
    /// Changes the next instruction.
    Own {
        by: u32,
    },
    /// Copies a whole frame.
    Copy {
        from: u64,
        to: u64,
    },
    Fill {
        at: Place,
        length: u16,
        byte: u8,
    },
}

fn place() -> impl Strategy<Value = Place> {
    let offset = prop_oneof![6 => (0..64u64).prop_map(|n| n * 64), 2 => 0xff0..0x1000u64, 1 => 0..0x1000u64];
    (0..FRAMES, offset).prop_map(|(page, offset)| Place { page, offset })
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        4 => any::<u32>().prop_map(Work::Add),
        2 => Just(Work::Count),
        1 => (0..3u32).prop_map(Work::Skip),
        1 => place().prop_map(Work::Load),
        1 => (place(), any::<u32>()).prop_map(|(at, value)| Work::Store(at, value)),
        1 => (0..FRAMES).prop_map(Work::Forget),
        1 => Just(Work::Reload),
        1 => (1..9u8).prop_map(Work::Nop),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        4 => Just(End::Return),
        2 => place().prop_map(End::Jump),
        1 => place().prop_map(End::Relative),
        1 => Just(End::Falls),
    ];
    let how = prop_oneof![
        3 => Just(How::Words),
        2 => Just(How::String),
        1 => Just(How::Bytes),
        1 => Just(How::Device),
        1 => Just(How::Locked),
    ];
    let forget = prop_oneof![Just(Forget::Invlpg), Just(Forget::AddressSpace), Just(Forget::All)];
    let byte = prop_oneof![Just(0x90u8), Just(0xc3), Just(0xcc), Just(0xf4), any::<u8>()];
    prop_oneof![
        8 => (place(), prop::collection::vec(work(), 0..6), end, how, any::<bool>())
            .prop_map(|(at, work, end, how, moving)| Step::Put { at, work, end, how, moving }),
        4 => (place(), any::<u32>(), any::<bool>(), any::<bool>())
            .prop_map(|(at, value, wide, moving)| Step::Poke { at, value, wide, moving }),
        10 => (place(), 1..20u8).prop_map(|(at, times)| Step::Call { at, times }),
        1 => (place(), place()).prop_map(|(at, stack)| Step::CallOn { at, stack }),
        6 => (0..FRAMES, 0..FRAMES, any::<bool>(), prop::bool::weighted(0.8), forget).prop_map(
            |(page, frame, writable, executable, forget)| Step::Map { page, frame, writable, executable, forget }
        ),
        2 => (0..FRAMES).prop_map(|page| Step::Take { page }),
        2 => (0..FRAMES).prop_map(|page| Step::Allow { page }),
        1 => (0..FRAMES, 0..FRAMES).prop_map(|(page, frame)| Step::Careless { page, frame }),
        2 => any::<u32>().prop_map(|by| Step::Own { by }),
        1 => (0..FRAMES, 0..FRAMES).prop_map(|(from, to)| Step::Copy { from, to }),
        1 => (place(), 0..5000u16, byte).prop_map(|(at, length, byte)| Step::Fill { at, length, byte }),
    ]
}

/// What a page's entry says of that: nothing or global.
fn scope(page: u64) -> u64 {
    if page < FRAMES / 2 { 0 } else { GLOBAL }
}

/// The page-table entry of a page, where it can be written.
fn entry(page: u64) -> u64 {
    TABLE + 8 * ((PAGES >> 12) + page)
}

fn piece(at: Place, work: &[Work], end: End) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    for &work in work {
        match work {
            Work::Add(value) => a.add(dword_ptr(SUM), value as i32)?,
            Work::Count => a.inc(rbx)?,
            Work::Skip(instructions) => {
                let mut behind = a.create_label();
                a.test(bl, 1)?;
                a.jne(behind)?;
                for _ in 0..instructions {
                    a.add(rdx, 3)?;
                }
                a.set_label(&mut behind)?;
                a.zero_bytes()?;
            }
            Work::Load(at) => a.add(edx, dword_ptr(at.moving()))?,
            Work::Store(at, value) => a.mov(dword_ptr(at.moving()), value)?,
            Work::Forget(page) => a.invlpg(ptr(PAGES + page * 0x1000))?,
            Work::Reload => {
                a.mov(rcx, cr3)?;
                a.mov(cr3, rcx)?;
            }
            Work::Nop(length) => a.nops_with_size(length.into())?,
        }
    }
    match end {
        End::Return => a.ret()?,
        End::Jump(to) => {
            a.mov(rax, to.moving())?;
            a.jmp(rax)?;
        }
        End::Relative(to) => a.jmp(to.moving())?,
        End::Falls => a.nop()?,
    }
    let mut bytes = a.assemble(at.moving())?;
    bytes.truncate(PIECE as usize);
    Ok(bytes)
}

/// A step, which ends at a label that a fault in it leads to.
fn perform(a: &mut CodeAssembler, number: u64, step: &Step, length: usize) -> Result<(), IcedError> {
    let mut behind = a.create_label();
    a.lea(rax, ptr(behind))?;
    a.mov(qword_ptr(RESUME), rax)?;
    let map = |a: &mut CodeAssembler, page: u64, value: u64| {
        a.mov(rax, value)?;
        a.mov(qword_ptr(entry(page)), rax)
    };
    match *step {
        Step::Put { at, how, moving, .. } => {
            let from = PIECES + number * PIECE;
            let to = if moving { at.moving() } else { at.fixed() };
            a.mov(rsi, from)?;
            a.mov(rdi, to)?;
            match how {
                How::Words | How::Locked => {
                    for word in 0..length.div_ceil(4) as i32 {
                        a.mov(eax, dword_ptr(rsi + 4 * word))?;
                        if let How::Locked = how {
                            a.xchg(dword_ptr(rdi + 4 * word), eax)?;
                        } else {
                            a.mov(dword_ptr(rdi + 4 * word), eax)?;
                        }
                    }
                }
                How::String => {
                    a.mov(ecx, length as u32)?;
                    a.rep().movsb()?;
                }
                How::Bytes => {
                    a.mov(ecx, length as u32)?;
                    let mut again = a.create_label();
                    a.set_label(&mut again)?;
                    a.movsb()?;
                    a.dec(ecx)?;
                    a.jne(again)?;
                }
                How::Device => {
                    a.mov(edx, u32::from(PORT) + number as u32)?;
                    a.out(dx, al)?;
                }
            }
        }
        Step::Poke { at, value, wide, moving } => {
            a.mov(rdi, if moving { at.moving() } else { at.fixed() })?;
            a.mov(rax, u64::from(value) * 0x1_0001)?;
            if wide { a.mov(qword_ptr(rdi), rax)? } else { a.mov(byte_ptr(rdi), al)? }
        }
        Step::Call { at, times } => {
            let mut again = a.create_label();
            a.mov(dword_ptr(COUNT), u32::from(times))?;
            a.set_label(&mut again)?;
            a.mov(rax, at.moving())?;
            a.call(rax)?;
            a.dec(dword_ptr(COUNT))?;
            a.jne(again)?;
        }
        Step::CallOn { at, stack } => {
            a.mov(rsp, stack.moving())?;
            a.push(0x1234_5678)?;
            a.mov(rax, at.moving())?;
            a.call(rax)?;
        }
        Step::Map { page, frame, writable, executable, forget } => {
            let rights = PRESENT
                | scope(page)
                | if writable { WRITABLE } else { 0 }
                | if executable { 0 } else { NO_EXECUTE };
            map(a, page, WINDOW + frame * 0x1000 | rights)?;
            match forget {
                Forget::Invlpg => a.invlpg(ptr(PAGES + page * 0x1000))?,
                Forget::AddressSpace if scope(page) == 0 => reload(a)?,
                Forget::AddressSpace | Forget::All => {
                    toggle_global(a)?;
                    toggle_global(a)?;
                }
            }
        }
        Step::Take { page } => {
            a.btr(qword_ptr(entry(page)), 0)?;
            a.invlpg(ptr(PAGES + page * 0x1000))?;
        }
        Step::Allow { page } => {
            a.or(qword_ptr(entry(page)), (PRESENT | WRITABLE) as i32)?;
            a.btr(qword_ptr(entry(page)), 63)?;
        }
        Step::Careless { page, frame } => {
            map(a, page, WINDOW + frame * 0x1000 | PRESENT | WRITABLE | scope(page))?;
        }
        Step::Own { by } => {
            let mut here = a.create_label();
            a.mov(eax, dword_ptr(SUM))?;
            a.add(eax, by as i32)?;
            // Opcode, then the immediate.
            a.lea(rdi, ptr(here))?;
            a.mov(dword_ptr(rdi + 1), eax)?;
            a.set_label(&mut here)?;
            a.mov(ecx, 0x1111_1111)?;
            a.add(dword_ptr(SUM), ecx)?;
        }
        Step::Copy { from, to } => {
            a.mov(rsi, WINDOW + from * 0x1000)?;
            a.mov(rdi, WINDOW + to * 0x1000)?;
            a.mov(ecx, 512)?;
            a.rep().movsq()?;
        }
        Step::Fill { at, length, byte } => {
            a.mov(rdi, at.fixed())?;
            a.mov(ecx, u32::from(length))?;
            a.mov(eax, u32::from(byte))?;
            a.rep().stosb()?;
        }
    }
    a.set_label(&mut behind)?;
    a.mov(rsp, STACK)
}

fn reload(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, cr3)?;
    a.mov(cr3, rax)
}

/// CR4.PGE.
fn toggle_global(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, cr4)?;
    a.btc(eax, 7)?;
    a.mov(cr4, rax)
}

fn program(a: &mut CodeAssembler, steps: &[Step], pieces: &[Vec<u8>]) -> Result<(), IcedError> {
    // EFER.NXE.
    a.mov(ecx, 0xc000_0080u32)?;
    a.rdmsr()?;
    a.bts(eax, 11)?;
    a.wrmsr()?;
    reload(a)?;
    toggle_global(a)?;
    a.mov(dword_ptr(ROUNDS), 3)?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    for (number, (step, piece)) in steps.iter().zip(pieces).enumerate() {
        perform(a, number as u64, step, piece.len())?;
    }
    a.dec(dword_ptr(ROUNDS))?;
    a.jne(again)?;
    a.hlt()
}

/// Goes on behind the step.
fn on_fault(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.inc(dword_ptr(FAULTS))?;
    a.push(2)?;
    a.popfq()?;
    a.mov(rsp, STACK)?;
    a.jmp(qword_ptr(RESUME))
}

/// A page that was taken is there again.
fn on_page_fault(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut other = a.create_label();
    a.push(rax)?;
    a.mov(rax, cr2)?;
    a.sub(rax, PAGES as i32)?;
    a.cmp(rax, (FRAMES << 12) as i32)?;
    a.jae(other)?;
    a.shr(rax, 12)?;
    a.bts(qword_ptr(rax * 8 + entry(0)), 0)?;
    a.jb(other)?;
    a.pop(rax)?;
    a.add(rsp, 8)?;
    a.iretq()?;
    a.set_label(&mut other)?;
    a.jmp(ON_FAULT)
}

fn prepare(board: &mut Board, steps: &[Step], pieces: &[Vec<u8>]) {
    for vector in 0..32 {
        let handler = if vector == 14 { ON_PAGE_FAULT } else { ON_FAULT };
        board.gate(vector, handler, 1, 0);
    }
    board.put(TSS + 0x24, SPARE_STACK);
    board.assemble(ON_FAULT, |a| on_fault(a).expect("a handler"));
    board.assemble(ON_PAGE_FAULT, |a| on_page_fault(a).expect("a handler"));
    for frame in 0..FRAMES {
        let fixed = WINDOW + frame * 0x1000;
        board.ram.write_slice(&[0xc3; 0x1000], GuestAddress(fixed)).expect("RAM");
        board.put(Board::entry(PAGES + frame * 0x1000), fixed | PRESENT | WRITABLE | scope(frame));
    }
    // The program itself, like a kernel, so that its links outlive a new CR3.
    for page in (CODE..=ON_FAULT).step_by(0x1000) {
        board.put(Board::entry(page), page | PRESENT | WRITABLE | GLOBAL);
    }
    board.put(Board::entry(TABLE), PAGE_TABLE | PRESENT | WRITABLE);
    for page in (0x1000..0xe000).step_by(0x1000) {
        board.put(Board::entry(page), page | PRESENT | USER);
    }
    for (number, piece) in pieces.iter().enumerate() {
        board.ram.write_slice(piece, GuestAddress(PIECES + number as u64 * PIECE)).expect("RAM");
    }
    let ram = board.ram.clone();
    let writes: Vec<_> =
        steps.iter().zip(pieces).map(|(step, piece)| (step.clone(), piece.clone())).collect();
    board.bus.on_port = Some(Box::new(move |port| {
        if let Some((Step::Put { at, .. }, piece)) = writes.get(usize::from(port.wrapping_sub(PORT))) {
            ram.write_slice(piece, GuestAddress(at.fixed())).expect("RAM");
        }
    }));
    board.prepare(|a| program(a, steps, pieces).expect("a program"));
}

fuzz_target!(|input: &[u8]| {
    let steps = generated::list(step(), input, STEPS);
    let pieces: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Put { at, work, end, .. } => piece(*at, work, *end).expect("a piece"),
            _ => Vec::new(),
        })
        .collect();
    let careless = steps.iter().any(|step| matches!(step, Step::Careless { .. }));
    if careless {
        pair::survive(|board| prepare(board, &steps, &pieces), INSTRUCTIONS);
    } else {
        pair::compare(|board| prepare(board, &steps, &pieces), INSTRUCTIONS);
    }
});
