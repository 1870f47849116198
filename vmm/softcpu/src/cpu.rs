//! The state of the CPU and its way to memory.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use crate::apic::Ticks;
use crate::board::Board;
use crate::clock::Clock;
use crate::code::{self, BlockId, CodeCache};
use crate::debugger::Debugger;
use crate::exception::Exception;
use crate::flags::{self, Flags};
use crate::jit::{self, Jit};
use crate::memory::{HostPage, PAGE, Ram};
use crate::mode::CodeSize;
use crate::msr::Msrs;
use crate::paging::{self, Access, Rules};
use crate::random::Random;
use crate::segment::{FLAT_CODE, FLAT_DATA, Loaded, Segment, Segments, Table};
use crate::simd::state::VectorState;
use crate::tlb::{Mode, Tlb};
use crate::turns::Turns;
use crate::uop::{Cursor, FS_BASE, Flow, GS_BASE, PAGE_BASE};
use crate::vm::{Bus, Config, EntryState, Execution};
use crate::x87::state::X87State;

/// CR0 bits.
pub const CR0_PE: u64 = 1;
pub const CR0_MP: u64 = 1 << 1;
pub const CR0_EM: u64 = 1 << 2;
pub const CR0_TS: u64 = 1 << 3;
pub const CR0_ET: u64 = 1 << 4;
pub const CR0_NE: u64 = 1 << 5;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_AM: u64 = 1 << 18;
pub const CR0_PG: u64 = 1 << 31;
/// CR4 bits.
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_TSD: u64 = 1 << 2;
pub const CR4_PGE: u64 = 1 << 7;
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// EFER bits.
pub const EFER_SCE: u64 = 1;
pub const EFER_LME: u64 = 1 << 8;
pub const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;

/// The current instruction cannot go on; [`Cpu::abort`] holds the cause.
#[derive(Clone, Copy, Debug)]
pub struct Abort;

/// Why an instruction was given up. In every case nothing of it has happened, except for the
/// finished part of a repeated string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An exception to deliver.
    Exception(Exception),
    /// A non-canonical address: #SS where the stack segment is implied, else #GP.
    NonCanonical,
    /// The instruction overwrites the block it is in, or reaches a device: it has to be run in a
    /// block of its own, where time is exact and what the device does is seen right behind it.
    Alone,
    /// The debugger waits for it; see [`crate::debugger`].
    Debugger,
}

/// One CPU, with everything its instructions reach directly.
#[repr(C)]
pub struct Cpu {
    /// General registers 0..=15; see `uop` for the pseudo-registers behind them.
    pub gpr: [u64; 32],
    pub flags: Flags,
    /// Linear address of the next instruction, while no block is being executed.
    pub rip: u64,
    /// Instructions until the next event; the whole block is subtracted on its entry.
    pub remaining: i64,
    /// The block being executed, or `code::NONE`.
    pub block: BlockId,
    /// Its instructions.
    pub block_instructions: u32,
    /// Privilege of data accesses and fetches.
    pub mode: Mode,
    /// How code is decoded.
    pub code_size: CodeSize,
    pub tlb: Tlb,
    /// What compiled code works with.
    pub jit: jit::frame::Context,

    pub abort: Cause,
    /// An interrupt waits in the local APIC.
    pub interrupt_pending: bool,
    /// Interrupts stay off for one instruction, after STI or a load of SS.
    pub shadow: bool,
    /// The next instruction overwrites its own block.
    pub alone: bool,
    /// Another CPU could run: PAUSE ends the turn.
    pub others_ready: bool,
    /// PAUSE ended the turn.
    pub yielded: bool,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr: [u64; 8],
    /// DR7 enables breakpoints: instructions are executed one by one.
    pub watching: bool,
    /// Alignment is checked (CR0.AM, RFLAGS.AC): the TLB holds nothing for programs meanwhile.
    pub aligned: bool,
    /// Breakpoints on data that the instruction touched, as bits of DR6.
    pub data_hits: u64,
    pub debugger: Debugger,
    pub segments: Segments,
    pub msr: Msrs,
    pub vector: VectorState,
    pub x87: X87State,

    pub random: Random,
    /// How often each unknown mnemonic (iced's number) was met.
    pub unknown: BTreeMap<u16, u64>,

    pub ram: Ram,
    pub code: CodeCache,
    pub board: Board,
    pub clock: Clock,
    /// The devices, while [`crate::Vm::run`] runs.
    pub bus: Option<NonNull<dyn Bus>>,
}

// SAFETY: `bus` is the one field that is not Send by itself; it is set only for the duration of
// `Vm::run`, from that call's argument, and used on the thread that made the call.
unsafe impl Send for Cpu {}

impl Cpu {
    pub fn boxed(ram: Ram, config: &Config) -> Box<Cpu> {
        let jit = match config.execution {
            Execution::Interpret => None,
            Execution::Compile { after } => Jit::new(after),
        };
        Box::new(Cpu {
            gpr: [0; 32],
            flags: Flags::default(),
            rip: 0,
            remaining: 0,
            mode: Mode::Supervisor,
            code_size: CodeSize::Long,
            tlb: Tlb::new(),
            jit: jit::frame::Context::new(),
            block: code::NONE,
            block_instructions: 0,
            abort: Cause::Alone,
            interrupt_pending: false,
            shadow: false,
            alone: false,
            others_ready: false,
            yielded: false,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            watching: false,
            aligned: false,
            data_hits: 0,
            debugger: Debugger::default(),
            segments: Segments::default(),
            msr: Msrs::new(),
            vector: VectorState::default(),
            x87: X87State::default(),
            random: Random::new(config.seed),
            unknown: BTreeMap::new(),
            code: CodeCache::new(&ram, jit),
            ram,
            board: Board::new(config.cpus),
            clock: Clock::new(config),
            bus: None,
        })
    }

    /// The state of the 64-bit boot protocol: paging on, flat segments, interrupts off.
    pub fn enter_long_mode(&mut self, entry: &EntryState) {
        self.gpr = [0; 32];
        self.gpr[4] = entry.rsp;
        self.gpr[6] = entry.rsi;
        self.rip = entry.rip;
        self.flags = Flags::default();
        self.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
        self.cr4 = CR4_PAE;
        self.msr.efer = EFER_LME | EFER_LMA;
        self.cr3 = entry.cr3.0;
        self.segments.gdt = Table { base: entry.gdt.0, limit: entry.gdt_limit };
        let flat = Loaded { selector: 0x18, base: 0, limit: u32::MAX, rights: FLAT_DATA };
        for segment in [Segment::Es, Segment::Ss, Segment::Ds, Segment::Fs, Segment::Gs] {
            self.set_segment(segment, flat);
        }
        self.set_segment(Segment::Cs, Loaded { selector: 0x10, rights: FLAT_CODE, ..flat });
        self.mode_changed();
        self.flush_tlb();
    }

    /// Translates for a data access of the given privilege and keeps the translation in the TLB.
    pub fn translate(&mut self, mode: Mode, address: u64, access: Access) -> Result<u64, Abort> {
        let entry = self.tlb.entry(mode, address);
        let page = address & !(PAGE - 1);
        let known = match access {
            Access::Read => entry.read == page,
            _ => {
                entry.write == page
                    || entry.read == page
                        && entry.is_withheld()
                        && self.code.holds_code(&self.ram, entry.page())
            }
        };
        if known {
            return Ok(entry.page() | (address % PAGE));
        }
        if let Some(physical) = self.tlb.device(mode, address, access == Access::Write) {
            return Ok(physical | (address % PAGE));
        }
        self.translate_slow(mode, address, access)
    }

    #[inline(never)]
    fn translate_slow(&mut self, mode: Mode, address: u64, access: Access) -> Result<u64, Abort> {
        if !paging::is_canonical(address) {
            self.abort = Cause::NonCanonical;
            return Err(Abort);
        }
        let user = mode == Mode::User;
        let rules = self.paging_rules();
        let found = match paging::walk(&self.ram, &mut self.tlb.tables, rules, address, access, user) {
            Ok(found) => found,
            Err(code) => {
                self.abort = Cause::Exception(Exception::PageFault { address, code });
                return Err(Abort);
            }
        };
        if found.large {
            self.tlb.note_large(address, found.global);
        }
        if self.is_watched_page(address) || self.aligned && mode == Mode::User {
            return Ok(found.physical);
        }
        if let Some(host) = self.ram.page(found.physical) {
            let code = self.code.holds_code(&self.ram, found.physical);
            if found.writable && !code {
                self.ram.mark_dirty(found.physical);
            }
            self.tlb.fill(mode, address, &found, host, code);
        } else {
            self.tlb.fill_device(mode, address, &found);
        }
        Ok(found.physical)
    }

    /// Translates an instruction fetch at the current privilege.
    pub fn translate_fetch(&mut self, address: u64) -> Result<(u64, HostPage), Abort> {
        if let Some(known) = self.tlb.fetch(self.mode, address) {
            return Ok((known.physical | (address % PAGE), known.host));
        }
        if !paging::is_canonical(address) {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let user = self.mode == Mode::User;
        let rules = self.paging_rules();
        match paging::walk(&self.ram, &mut self.tlb.tables, rules, address, Access::Fetch, user) {
            Ok(found) => {
                if found.large {
                    self.tlb.note_large(address, found.global);
                }
                // Executing a device's registers is not supported.
                let Some(host) = self.ram.page(found.physical) else {
                    return Err(self.raise(Exception::GeneralProtection(0)));
                };
                self.tlb.fill_fetch(self.mode, address, &found, host);
                Ok((found.physical, host))
            }
            Err(code) => Err(self.raise(Exception::PageFault { address, code })),
        }
    }

    fn paging_rules(&self) -> Rules {
        Rules {
            enabled: self.cr0 & CR0_PG != 0,
            root: self.cr3,
            write_protect: self.cr0 & CR0_WP != 0,
            no_execute: self.msr.efer & EFER_NXE != 0,
            global: self.cr4 & CR4_PGE != 0,
        }
    }

    /// Calls the devices and drops the code they overwrote.
    pub fn with_bus(&mut self, f: impl FnOnce(&mut dyn Bus)) {
        let Some(mut bus) = self.bus else { return };
        self.publish_time();
        // SAFETY: `Vm::run` set it from the exclusive reference that it holds while it runs, and
        // no other reference is made from it while `f` runs, for `f` cannot reach the CPU.
        f(unsafe { bus.as_mut() });
        self.drain_stale();
    }

    /// Lets devices and other threads see what time it is.
    pub fn publish_time(&self) {
        self.board.remote.publish(self.clock.duration(self.now()));
    }

    /// Drops the decoded code of pages that devices overwrote.
    pub fn drain_stale(&mut self) {
        let Cpu { ram, code, .. } = self;
        ram.drain_stale(|page| code.invalidate(ram, page, PAGE));
    }

    /// The time in ticks: that of the end of the block being executed.
    pub fn now(&self) -> Ticks {
        self.clock.now(self.remaining)
    }

    /// The time-stamp counter.
    pub fn tsc(&self) -> u64 {
        self.now().0.wrapping_add(self.msr.tsc_adjust)
    }

    /// Remembers an exception as the reason to give the instruction up.
    #[cold]
    pub fn raise(&mut self, exception: Exception) -> Abort {
        self.abort = Cause::Exception(exception);
        Abort
    }

    /// Ends the block because the instruction at `at` was given up: RIP is its address, and the
    /// instructions not executed are not counted.
    #[cold]
    #[inline(never)]
    pub fn give_up(&mut self, at: Cursor) -> Flow {
        let uop = at.uop();
        self.rip = self.gpr[PAGE_BASE as usize].wrapping_add(uop.offset as u64);
        self.remaining += self.block_instructions as i64 - uop.ordinal as i64;
        if self.abort == Cause::NonCanonical {
            // RSP or RBP as base imply the stack segment.
            let stack = (uop.base == 4 || uop.base == 5) && uop.segment != FS_BASE && uop.segment != GS_BASE;
            let exception = if stack { Exception::StackFault(0) } else { Exception::GeneralProtection(0) };
            self.abort = Cause::Exception(exception);
        }
        Flow::Abort
    }

    /// Ends the block with an exception of the instruction at `at`.
    #[cold]
    #[inline(never)]
    pub fn fault(&mut self, at: Cursor, exception: Exception) -> Flow {
        self.abort = Cause::Exception(exception);
        self.give_up(at)
    }

    /// Leaves the block behind the instruction at `at`: what is left of it is not counted.
    pub fn leave_behind(&mut self, at: Cursor) -> Flow {
        self.rip = self.next_rip(at);
        self.remaining += self.block_instructions as i64 - at.uop().ordinal as i64 - 1;
        Flow::Sync
    }

    /// The address behind the instruction at `at`.
    #[inline(always)]
    pub fn next_rip(&self, at: Cursor) -> u64 {
        self.gpr[PAGE_BASE as usize].wrapping_add(at.uop().next_offset())
    }

    /// CR0 and RFLAGS ask for programs' accesses to be aligned.
    pub fn wants_alignment(&self) -> bool {
        self.flags.system & flags::AC != 0 && self.cr0 & CR0_AM != 0
    }

    /// Follows [`Self::wants_alignment`], between two blocks.
    pub fn check_alignment(&mut self) {
        if self.wants_alignment() != self.aligned {
            self.aligned = !self.aligned;
            self.flush_tlb();
        }
    }

    /// The current privilege level.
    pub fn cpl(&self) -> u8 {
        // In real mode a selector is an address.
        if self.is_real_mode() { 0 } else { self.segments[Segment::Cs].selector as u8 & 3 }
    }

    /// Translations are no longer valid.
    pub fn flush_tlb(&mut self) {
        self.tlb.flush();
        self.code.translations_changed();
    }

    /// MOV to CR3: translations of pages that are not global are no longer valid.
    pub fn set_address_space(&mut self, cr3: u64) {
        self.cr3 = cr3;
        if self.tlb.flush_private() {
            self.code.translations_changed();
        } else {
            self.code.program_changed();
        }
    }

    /// The local APIC may have something to deliver or no longer have.
    pub fn interrupts_changed(&mut self) {
        self.interrupt_pending = self.board.pending();
        self.others_ready = Turns::others_ready(&self.board);
        if self.interrupt_pending {
            self.board.remote.request_attention();
        }
    }

    /// The time of the next event may have changed.
    pub fn reschedule(&mut self) {
        let now = self.now();
        let next = self.board.next_timer(now);
        self.clock.schedule(&mut self.remaining, next);
    }
}
