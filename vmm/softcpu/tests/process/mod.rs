//! Programs at privilege 3 that may fault: on the host's CPU, where Linux tells faults by signals, and on the
//! software one, in a machine whose descriptor tables are as Linux has them.
//!
//! A program ends with the exception that it meets (`UD2`, where it is to meet no other), and what is
//! compared is the whole state that the exception finds.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use softcpu::{Config, Execution, Exit, Registers};
use vm_memory::{Bytes, GuestAddress};

use crate::board::{self, Board};
use crate::native::host::Host;
use crate::native::program::{self, USER_CODE, USER_DATA};
use crate::native::state::{FXSAVE, State, window};

/// Linux's selector of 32-bit code. (arch/x86/include/asm/segment.h.)
pub const USER_CODE_32: u16 = 0x23;
/// The descriptor that tells the CPU's number by its limit.
pub const CPU_NUMBER: u16 = 0x7b;
/// Selector of entry `index` of the local descriptor table, with privilege 3.
pub const fn local(index: u16) -> u16 {
    index << 3 | 7
}

/// Linux's global descriptors from the one at 8, and that of the local table where there is one.
/// (arch/x86/kernel/cpu/common.c, `gdt_page`; the descriptor at 0x78 has the CPU's number as limit.)
const GLOBAL: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0x0000_8b00_0000_0067 | (board::TSS & 0xff_ffff) << 16,
    0,
    0x0000_8200_0000_0000 | LOCAL_TABLE << 16,
    0,
    0,
    0,
    0,
    0x0040_f500_0000_0000,
];

/// Where they are in the guest, and the local table.
const GLOBAL_TABLE: u64 = 0xe000;
const LOCAL_TABLE: u64 = 0xe800;
/// The window's page table.
const WINDOW_PAGES: u64 = 0xf000;
/// Where the window is in the guest's RAM.
const PHYSICAL_WINDOW: u64 = 0x20_0000;
/// What looks at the registers that an exception does not save.
const COLLECTOR: u64 = board::CODE + 0x1000;

const RSP: usize = 4;
const PAGE_FAULT: u64 = 14;

/// What an exception found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub vector: u64,
    /// The error code, without the bit of a page fault that says whether the page was there: which pages are
    /// is not the CPU's matter.
    pub code: u64,
    pub rip: u64,
    pub rflags: u64,
    pub gpr: [u64; 16],
    pub cs: u16,
    pub ss: u16,
    /// DS, ES, FS and GS.
    pub data_segments: [u16; 4],
    pub fxsave: [u8; FXSAVE],
    pub scratch: Vec<u8>,
}

impl Outcome {
    /// What differs, by name.
    pub fn differences(&self, other: &Outcome) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |name: &str, a: u64, b: u64| {
            if a != b {
                found.push(format!("{name} {a:#x} / {b:#x}"));
            }
        };
        note("vector", self.vector, other.vector);
        note("error code", self.code, other.code);
        note("rip", self.rip, other.rip);
        note("rflags", self.rflags, other.rflags);
        note("cs", self.cs.into(), other.cs.into());
        note("ss", self.ss.into(), other.ss.into());
        for (i, name) in ["ds", "es", "fs", "gs"].into_iter().enumerate() {
            note(name, self.data_segments[i].into(), other.data_segments[i].into());
        }
        for i in 0..16 {
            note(&format!("register {i}"), self.gpr[i], other.gpr[i]);
        }
        let pairs = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
        if let Some(at) = pairs(&self.scratch, &other.scratch) {
            found.push(format!("memory+{at:#x} {:#x} / {:#x}", self.scratch[at], other.scratch[at]));
        }
        if let Some(at) = pairs(&self.fxsave, &other.fxsave) {
            found.push(format!("fxsave+{at:#x} {:#x} / {:#x}", self.fxsave[at], other.fxsave[at]));
        }
        found
    }
}

/// The host.
pub struct Native(Host);

impl Native {
    pub fn new() -> Native {
        let host = Host::new();
        host.put(window::HANDLER, &program::host_handler());
        host.put(window::EXIT_CODE, &program::host_exit_behind_fault());
        // SAFETY: it writes one word to where it is told.
        let got = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, window::FS_BASE) };
        assert_eq!(got, 0, "the base of FS can be asked for");
        let stack = vec![0u8; 256 << 10].leak();
        // SAFETY: all zeros is a valid `sigaction` and `stack_t`; the stack lives for ever, and the handler as
        // long as the window, beyond which no program runs.
        unsafe {
            let mut alternative: libc::stack_t = std::mem::zeroed();
            (alternative.ss_sp, alternative.ss_size) = (stack.as_mut_ptr().cast(), stack.len());
            assert_eq!(libc::sigaltstack(&alternative, std::ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = window::HANDLER as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
        }
        Native(host)
    }

    /// Runs a program to its exception.
    pub fn run(&mut self, code: &[u8], before: &State) -> Outcome {
        self.0.put(window::FAULT, &[0xff; 8 * program::SAVED_WORDS]);
        self.0.start(code, before);
        let word = |index: usize| {
            let mut bytes = [0; 8];
            self.0.get(window::FAULT + 8 * index as u64, &mut bytes);
            u64::from_le_bytes(bytes)
        };
        // RAX to RDI are saved in an order of their own. (arch/x86/include/uapi/asm/sigcontext.h.)
        let gpr = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7].map(word);
        let [rip, rflags, selectors, code, vector] = [16, 17, 18, 19, 20].map(word);
        let mut data_segments = [0; 8];
        self.0.get(window::SELECTORS, &mut data_segments);
        let mut fxsave = [0; FXSAVE];
        self.0.get(window::OUTPUT, &mut fxsave);
        clear_open(&mut fxsave);
        let mut scratch = vec![0; window::SCRATCH_LENGTH];
        self.0.get(window::SCRATCH, &mut scratch);
        Outcome {
            vector,
            code: comparable_code(vector, code),
            rip,
            rflags,
            gpr,
            cs: selectors as u16,
            ss: (selectors >> 48) as u16,
            data_segments: words(&data_segments),
            fxsave,
            scratch,
        }
    }
}

/// A machine with a process in it.
pub struct Soft(Board);

impl Soft {
    /// With these local descriptors.
    pub fn new(execution: Execution, local: &[u64]) -> Soft {
        use iced_x86::code_asm::*;
        let mut board = Board::exactly(Config { execution, ..Config::default() });
        let all = board::PRESENT | board::WRITABLE | board::USER;
        board.put(0x3000 + 8 * (window::BASE >> 21), WINDOW_PAGES | all);
        for page in 0..window::LENGTH as u64 >> 12 {
            board.put(WINDOW_PAGES + 8 * page, (PHYSICAL_WINDOW + (page << 12)) | all);
        }
        // A process has nothing below 2 MiB.
        board.put(0x3000, board::PAGE_TABLE | board::PRESENT | board::WRITABLE);
        for (i, &descriptor) in GLOBAL.iter().enumerate() {
            board.put(GLOBAL_TABLE + 8 * i as u64, descriptor);
        }
        for (i, &descriptor) in local.iter().enumerate() {
            board.put(LOCAL_TABLE + 8 * i as u64, descriptor);
        }
        if let Some(limit) = (8 * local.len() as u64).checked_sub(1) {
            board.put(GLOBAL_TABLE + 0x50, GLOBAL[10] | limit);
        }
        // INT3 and INTO are the program's to use.
        for vector in [3, 4] {
            board.gate(vector, board::stub(vector), 0, 3);
        }
        let pointer = 0xb010u64;
        board.put(pointer, (8 * GLOBAL.len() as u64 - 1) | GLOBAL_TABLE << 16);
        board.put(pointer + 8, 0);
        let exit = board.run(|a| {
            (|| {
                program::switch_on(a)?;
                // EFER.NXE, so that a page fault says that it was met fetching, and EFER.SCE.
                a.mov(ecx, 0xc000_0080u32)?;
                a.rdmsr()?;
                a.or(eax, 0x801)?;
                a.wrmsr()?;
                a.lgdt(ptr(pointer))?;
                a.mov(eax, if local.is_empty() { 0 } else { 0x50 })?;
                a.lldt(ax)?;
                a.hlt()
            })()
            .expect("a program");
        });
        assert_eq!(exit, Exit::DeadHalt);
        board.assemble(board::CODE, |a| {
            (|| {
                a.xor(eax, eax)?;
                for segment in [ds, es, fs, gs] {
                    a.mov(segment, eax)?;
                }
                for value in
                    [USER_DATA as u64, window::OUTER_STACK - 0x100, 0x202, USER_CODE as u64, window::BASE]
                {
                    a.mov(rax, value)?;
                    a.push(rax)?;
                }
                a.iretq()
            })()
            .expect("a program");
        });
        board.assemble(COLLECTOR, |a| {
            (|| {
                a.fxsave64(ptr(window::OUTPUT))?;
                // Linux returns to the program before it looks at its selectors, which is not without effect.
                for value in [USER_DATA as u64, window::OUTER_STACK, 2, USER_CODE as u64, window::EXIT_CODE] {
                    a.mov(rax, value)?;
                    a.push(rax)?;
                }
                a.iretq()
            })()
            .expect("a program");
        });
        let soft = Soft(board);
        let mut a = CodeAssembler::new(64).expect("64 is a bitness");
        program::store_selectors(&mut a).and_then(|()| a.int3()).expect("a program");
        soft.put(window::EXIT_CODE, &a.assemble(0).expect("a program"));
        soft
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.0.ram.write_slice(bytes, physical(address)).expect("the window is RAM");
    }

    fn get(&self, address: u64, bytes: &mut [u8]) {
        self.0.ram.read_slice(bytes, physical(address)).expect("the window is RAM");
    }

    /// Runs a program to its exception.
    pub fn run(&mut self, code: &[u8], before: &State) -> Outcome {
        self.put(window::BASE, code);
        self.put(window::INPUT, &before.image());
        self.put(window::SCRATCH, &before.scratch);
        self.0.begin();
        assert_eq!(self.0.go_on(), Exit::DeadHalt);
        let mut gpr = self.0.vm.registers().gpr;
        let frame = self.0.frame();
        gpr[RSP] = frame.rsp;
        let mut scratch = vec![0; window::SCRATCH_LENGTH];
        self.get(window::SCRATCH, &mut scratch);
        let mut inner = Registers { rip: COLLECTOR, gpr: [0; 16], rflags: 2 };
        inner.gpr[RSP] = board::STACK;
        self.0.vm.set_registers(&inner);
        assert_eq!(self.0.go_on(), Exit::DeadHalt);
        let mut data_segments = [0; 8];
        self.get(window::SELECTORS, &mut data_segments);
        let mut fxsave = [0; FXSAVE];
        self.get(window::OUTPUT, &mut fxsave);
        clear_open(&mut fxsave);
        Outcome {
            vector: frame.vector,
            code: comparable_code(frame.vector, frame.code.unwrap_or_default()),
            rip: frame.rip,
            rflags: frame.rflags,
            gpr,
            cs: frame.cs as u16,
            ss: frame.ss as u16,
            data_segments: words(&data_segments),
            fxsave,
            scratch,
        }
    }
}

fn physical(address: u64) -> GuestAddress {
    GuestAddress(PHYSICAL_WINDOW + address - window::BASE)
}

fn comparable_code(vector: u64, code: u64) -> u64 {
    match vector {
        PAGE_FAULT => code & !1,
        _ => code,
    }
}

/// Last instruction and operand, MXCSR_MASK, and what FXSAVE does not write.
fn clear_open(fxsave: &mut [u8; FXSAVE]) {
    for range in [5..24, 28..32, 416..FXSAVE] {
        fxsave[range].fill(0);
    }
}

fn words(bytes: &[u8; 8]) -> [u16; 4] {
    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

const ARCH_GET_FS: libc::c_long = 0x1003;

/// A segment that a process asks Linux for.
#[derive(Clone, Copy, Debug)]
pub struct LocalSegment {
    pub base: u64,
    /// In bytes, or in pages of 4 KiB.
    pub limit: u32,
    pub in_pages: bool,
    pub big: bool,
    pub kind: Kind,
    /// A data segment cannot be written, a code segment not be read.
    pub restricted: bool,
    pub present: bool,
}

/// Linux's `contents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    ExpandDown,
    Code,
    Conforming,
}

/// Makes these this process's local descriptors; gives them as the CPU finds them.
pub fn set_local_segments(segments: &[Option<LocalSegment>]) -> std::io::Result<Vec<u64>> {
    const WRITE: libc::c_long = 0x11;
    const READ: libc::c_long = 0;
    for (i, segment) in segments.iter().enumerate() {
        let Some(segment) = segment else { continue };
        let flags = segment.big as u32
            | (segment.kind as u32) << 1
            | (segment.restricted as u32) << 3
            | (segment.in_pages as u32) << 4
            | (!segment.present as u32) << 5
            | (i as u32 & 1) << 6;
        let user_desc = [i as u32, segment.base as u32, segment.limit, flags];
        // SAFETY: it reads a `user_desc` of 16 bytes.
        let set = unsafe {
            libc::syscall(libc::SYS_modify_ldt, WRITE, user_desc.as_ptr(), std::mem::size_of_val(&user_desc))
        };
        if set != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let mut table = vec![0u64; segments.len()];
    // SAFETY: it writes at most that many bytes.
    let read = unsafe { libc::syscall(libc::SYS_modify_ldt, READ, table.as_mut_ptr(), 8 * table.len()) };
    assert_eq!(read as usize, 8 * table.len(), "the table is as long as it was made");
    Ok(table)
}
