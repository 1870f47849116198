//! The state of the CPU and its way to memory.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use vm_memory::GuestAddress;

use crate::apic::Ticks;
use crate::board::Board;
use crate::clock::Clock;
use crate::code::{self, BlockId, CodeCache};
use crate::exception::Exception;
use crate::flags::Flags;
use crate::memory::{self, HostPage, PAGE, Ram};
use crate::msr::Msrs;
use crate::paging::{self, Access, Rules};
use crate::random::Random;
use crate::segment::{FLAT_CODE, FLAT_DATA, Loaded, Segment, Segments, Table};
use crate::simd::state::VectorState;
use crate::tlb::{Mode, Tlb};
use crate::uop::{Cursor, FS_BASE, Flow, GS_BASE, PAGE_BASE, Uop};
use crate::vm::{Bus, Config, EntryState};
use crate::word::Word;
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
}

/// One CPU, with everything its instructions reach directly.
#[repr(C)]
pub struct Cpu {
    /// General registers 0..=15; see `uop` for the pseudo-registers behind them.
    pub gpr: [u64; 32],
    pub flags: Flags,
    /// The next instruction, while no block is being executed.
    pub rip: u64,
    /// Instructions until the next event; the whole block is subtracted on its entry.
    pub remaining: i64,
    /// The block being executed, or `code::NONE`.
    pub block: BlockId,
    /// Its instructions.
    pub block_instructions: u32,
    /// Privilege of data accesses and fetches.
    pub mode: Mode,
    pub tlb: Tlb,

    pub abort: Cause,
    /// An interrupt waits in the local APIC.
    pub interrupt_pending: bool,
    /// Interrupts stay off for one instruction, after STI or a load of SS.
    pub shadow: bool,
    /// The next instruction overwrites its own block.
    pub alone: bool,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr: [u64; 8],
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
    pub fn new(ram: Ram, config: &Config) -> Cpu {
        Cpu {
            gpr: [0; 32],
            flags: Flags::default(),
            rip: 0,
            remaining: 0,
            mode: Mode::Supervisor,
            tlb: Tlb::new(),
            block: code::NONE,
            block_instructions: 0,
            abort: Cause::Alone,
            interrupt_pending: false,
            shadow: false,
            alone: false,
            cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
            cr2: 0,
            cr3: 0,
            cr4: CR4_PAE,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            segments: Segments::default(),
            msr: Msrs::new(),
            vector: VectorState::default(),
            x87: X87State::default(),
            random: Random::new(config.seed),
            unknown: BTreeMap::new(),
            code: CodeCache::new(&ram),
            ram,
            board: Board::new(),
            clock: Clock::new(config),
            bus: None,
        }
    }

    /// The state of the 64-bit boot protocol: paging on, flat segments, interrupts off.
    pub fn enter_long_mode(&mut self, entry: &EntryState) {
        self.gpr = [0; 32];
        self.gpr[4] = entry.rsp;
        self.gpr[6] = entry.rsi;
        self.rip = entry.rip;
        self.flags = Flags::default();
        self.cr3 = entry.cr3.0;
        self.segments.gdt = Table { base: entry.gdt.0, limit: entry.gdt_limit };
        let flat = Loaded { selector: 0x18, base: 0, limit: u32::MAX, rights: FLAT_DATA };
        for segment in [Segment::Es, Segment::Ss, Segment::Ds, Segment::Fs, Segment::Gs] {
            self.set_segment(segment, flat);
        }
        self.set_segment(Segment::Cs, Loaded { selector: 0x10, rights: FLAT_CODE, ..flat });
        self.privilege_changed();
        self.flush_tlb();
    }

    /// The effective address of the micro-operation's memory operand. `FULL` allows an index and
    /// a segment.
    #[inline(always)]
    pub fn address<const FULL: bool>(&self, uop: &Uop) -> u64 {
        let base = self.gpr[uop.base as usize & 31].wrapping_add(uop.disp as i64 as u64);
        if !FULL {
            return base;
        }
        let index = self.gpr[uop.index as usize & 31] << (uop.scale & 3);
        base.wrapping_add(index).wrapping_add(self.gpr[uop.segment as usize & 31])
    }

    /// Reads a word at a linear address if the TLB knows it to be plain RAM.
    ///
    /// Handlers that must be fast try this, and leave what else may be the matter to a function of
    /// their own, so that they need no stack frame.
    #[inline(always)]
    pub fn peek<W: Word>(&self, address: u64) -> Option<W> {
        let entry = self.tlb.entry(self.mode, address);
        // SAFETY: the tag matches, so the page is RAM at `addend`, and the word is inside.
        (address ^ entry.read <= PAGE - W::BYTES)
            .then(|| unsafe { memory::read_host(address.wrapping_add(entry.addend)) })
    }

    /// Writes a word at a linear address if the TLB knows it to be plain RAM, and says so.
    #[inline(always)]
    pub fn poke<W: Word>(&mut self, address: u64, value: W) -> bool {
        let entry = self.tlb.entry(self.mode, address);
        let plain = address ^ entry.write <= PAGE - W::BYTES;
        if plain {
            // SAFETY: as in `peek`.
            unsafe { memory::write_host(address.wrapping_add(entry.addend), value) };
        }
        plain
    }

    /// Replaces a word by what `f` makes of it if the TLB knows it to be plain RAM, and says so.
    #[inline(always)]
    pub fn modify_plain<W: Word>(&mut self, address: u64, f: impl FnOnce(&mut Cpu, W) -> W) -> bool {
        let entry = self.tlb.entry(self.mode, address);
        let plain = address ^ entry.write <= PAGE - W::BYTES;
        if plain {
            let host = address.wrapping_add(entry.addend);
            // SAFETY: as in `peek`.
            let value = f(self, unsafe { memory::read_host(host) });
            // SAFETY: as in `peek`; `f` has no way to unmap guest RAM.
            unsafe { memory::write_host(host, value) };
        }
        plain
    }

    /// Reads a word at a linear address with the privilege of the running program.
    #[inline(always)]
    pub fn load<W: Word>(&mut self, address: u64) -> Result<W, Abort> {
        match self.peek(address) {
            Some(value) => Ok(value),
            None => self.load_slow(self.mode, address),
        }
    }

    /// Writes a word at a linear address with the privilege of the running program.
    #[inline(always)]
    pub fn store<W: Word>(&mut self, address: u64, value: W) -> Result<(), Abort> {
        if self.poke(address, value) { Ok(()) } else { self.store_slow(self.mode, address, value) }
    }

    /// Writes a word with the given privilege.
    #[inline(always)]
    pub fn store_as<W: Word>(&mut self, mode: Mode, address: u64, value: W) -> Result<(), Abort> {
        let entry = self.tlb.entry(mode, address);
        if address ^ entry.write <= PAGE - W::BYTES {
            // SAFETY: as in `load`.
            unsafe { memory::write_host(address.wrapping_add(entry.addend), value) };
            return Ok(());
        }
        self.store_slow(mode, address, value)
    }

    /// Replaces a word in memory by what `f` makes of it.
    #[inline(always)]
    pub fn modify<W: Word>(
        &mut self,
        address: u64,
        mut f: impl FnMut(&mut Cpu, W) -> W,
    ) -> Result<(), Abort> {
        if self.modify_plain(address, &mut f) {
            return Ok(());
        }
        self.probe_write(address, W::BYTES)?;
        let old = self.load(address)?;
        let value = f(self, old);
        self.store(address, value)
    }

    /// Makes sure that a store of `len` bytes (within two pages) will not abort.
    #[inline(never)]
    pub fn probe_write(&mut self, address: u64, len: u64) -> Result<(), Abort> {
        let first = self.translate(self.mode, address, Access::Write)?;
        let in_page = (PAGE - address % PAGE).min(len);
        self.check_alone(first, in_page)?;
        if in_page < len {
            let second = self.translate(self.mode, address.wrapping_add(in_page), Access::Write)?;
            self.check_alone(second, len - in_page)?;
        }
        Ok(())
    }

    /// Reads with the supervisor's privilege, as the CPU itself does with descriptor tables.
    pub fn load_system<W: Word>(&mut self, address: u64) -> Result<W, Abort> {
        let entry = self.tlb.entry(Mode::Supervisor, address);
        if address ^ entry.read <= PAGE - W::BYTES {
            // SAFETY: as in `load`.
            return Ok(unsafe { memory::read_host(address.wrapping_add(entry.addend)) });
        }
        self.load_slow(Mode::Supervisor, address)
    }

    /// Writes with the supervisor's privilege.
    pub fn store_system<W: Word>(&mut self, address: u64, value: W) -> Result<(), Abort> {
        self.store_as(Mode::Supervisor, address, value)
    }

    /// Reads `N` bytes.
    #[inline(always)]
    pub fn load_bytes<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Abort> {
        let entry = self.tlb.entry(self.mode, address);
        if address ^ entry.read <= PAGE - N as u64 {
            // SAFETY: as in `load`; any bytes are an array of bytes.
            return Ok(unsafe { memory::read_host(address.wrapping_add(entry.addend)) });
        }
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = self.load_slow(self.mode, address.wrapping_add(i as u64))?;
        }
        Ok(bytes)
    }

    /// Writes `N` bytes, or none if a part of them aborts.
    #[inline(always)]
    pub fn store_bytes<const N: usize>(&mut self, address: u64, bytes: [u8; N]) -> Result<(), Abort> {
        let entry = self.tlb.entry(self.mode, address);
        if address ^ entry.write <= PAGE - N as u64 {
            // SAFETY: as in `load`.
            unsafe { memory::write_host(address.wrapping_add(entry.addend), bytes) };
            return Ok(());
        }
        self.probe_write(address, N as u64)?;
        for (i, byte) in bytes.into_iter().enumerate() {
            self.store_slow(self.mode, address.wrapping_add(i as u64), byte)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    pub fn load_slow<W: Word>(&mut self, mode: Mode, address: u64) -> Result<W, Abort> {
        let in_page = PAGE - address % PAGE;
        if in_page >= W::BYTES {
            let physical = self.translate(mode, address, Access::Read)?;
            return Ok(match self.ram.page(physical) {
                Some(page) => page.read(physical % PAGE),
                None => W::from(self.mmio_read(physical, W::BYTES)?),
            });
        }
        // Both halves are translated before either is read: MMIO reads have side effects.
        let low = self.translate(mode, address, Access::Read)?;
        let high = self.translate(mode, address.wrapping_add(in_page), Access::Read)?;
        let low = self.physical_read(low, in_page)?;
        let high = self.physical_read(high, W::BYTES - in_page)?;
        Ok(W::from(low | high << (8 * in_page)))
    }

    fn physical_read(&mut self, physical: u64, len: u64) -> Result<u64, Abort> {
        let mut value = 0;
        for i in 0..len {
            let byte = match self.ram.page(physical + i) {
                Some(page) => page.read::<u8>((physical + i) % PAGE) as u64,
                None => self.mmio_read(physical + i, 1)?,
            };
            value |= byte << (8 * i);
        }
        Ok(value)
    }

    #[cold]
    #[inline(never)]
    pub fn store_slow<W: Word>(&mut self, mode: Mode, address: u64, value: W) -> Result<(), Abort> {
        let in_page = PAGE - address % PAGE;
        if in_page >= W::BYTES {
            let physical = self.translate(mode, address, Access::Write)?;
            match self.ram.page(physical) {
                Some(page) => {
                    self.before_write(physical, W::BYTES)?;
                    page.write(physical % PAGE, value);
                }
                None => self.mmio_write(physical, W::BYTES, value.zero())?,
            }
            return Ok(());
        }
        let low = self.translate(mode, address, Access::Write)?;
        let high = self.translate(mode, address.wrapping_add(in_page), Access::Write)?;
        self.check_alone(low, in_page)?;
        self.check_alone(high, W::BYTES - in_page)?;
        self.physical_write(low, in_page, value.zero())?;
        self.physical_write(high, W::BYTES - in_page, value.zero() >> (8 * in_page))
    }

    fn physical_write(&mut self, physical: u64, len: u64, value: u64) -> Result<(), Abort> {
        for i in 0..len {
            let byte = (value >> (8 * i)) as u8;
            match self.ram.page(physical + i) {
                Some(page) => {
                    self.before_write(physical + i, 1)?;
                    page.write(physical % PAGE + i, byte);
                }
                None => self.mmio_write(physical + i, 1, byte as u64)?,
            }
        }
        Ok(())
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
                        && entry.physical & 1 != 0
                        && self.code.holds_code(&self.ram, entry.physical)
            }
        };
        if known {
            return Ok(entry.physical & !(PAGE - 1) | (address % PAGE));
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
        let found = match paging::walk(&self.ram, self.paging_rules(), address, access, user) {
            Ok(found) => found,
            Err(code) => {
                self.abort = Cause::Exception(Exception::PageFault { address, code });
                return Err(Abort);
            }
        };
        if found.large {
            self.tlb.note_large(address);
        }
        if let Some(host) = self.ram.page(found.physical) {
            let code = self.code.holds_code(&self.ram, found.physical);
            if found.writable && !code {
                self.ram.mark_dirty(found.physical);
            }
            self.tlb.fill(mode, address, found.physical, host, found.writable, code);
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
        match paging::walk(&self.ram, self.paging_rules(), address, Access::Fetch, user) {
            Ok(found) => {
                if found.large {
                    self.tlb.note_large(address);
                }
                // Executing a device's registers is not supported.
                let Some(host) = self.ram.page(found.physical) else {
                    return Err(self.raise(Exception::GeneralProtection(0)));
                };
                self.tlb.fill_fetch(self.mode, address, found.physical, host);
                Ok((found.physical, host))
            }
            Err(code) => Err(self.raise(Exception::PageFault { address, code })),
        }
    }

    fn paging_rules(&self) -> Rules {
        Rules {
            root: self.cr3,
            write_protect: self.cr0 & CR0_WP != 0,
            no_execute: self.msr.efer & EFER_NXE != 0,
        }
    }

    /// Must be called before the CPU writes to RAM off the fast path: drops decoded code that is
    /// about to change.
    #[inline]
    pub fn before_write(&mut self, physical: u64, len: u64) -> Result<(), Abort> {
        if self.code.holds_code(&self.ram, physical) {
            self.check_not_own_code(physical, len)?;
            self.code.invalidate(&self.ram, physical, len);
        } else {
            self.ram.mark_dirty(physical);
        }
        Ok(())
    }

    fn check_not_own_code(&mut self, physical: u64, len: u64) -> Result<(), Abort> {
        if self.block != code::NONE && self.code.overlaps(self.block, physical, len) {
            self.abort = Cause::Alone;
            return Err(Abort);
        }
        Ok(())
    }

    /// Devices are reached from blocks of one instruction only.
    fn check_outside_blocks(&mut self) -> Result<(), Abort> {
        if self.block != code::NONE {
            self.abort = Cause::Alone;
            return Err(Abort);
        }
        Ok(())
    }

    /// Gives the instruction up if a store to `physical` would have to be done alone.
    fn check_alone(&mut self, physical: u64, len: u64) -> Result<(), Abort> {
        if self.ram.page(physical).is_none() {
            return self.check_outside_blocks();
        }
        self.check_not_own_code(physical, len)
    }

    fn mmio_read(&mut self, physical: u64, len: u64) -> Result<u64, Abort> {
        self.check_outside_blocks()?;
        let now = self.now();
        if let Some(value) = self.board.read(physical, now) {
            return Ok(value as u64);
        }
        let mut data = [0; 8];
        self.with_bus(|bus| bus.mmio_read(GuestAddress(physical), &mut data[..len as usize]));
        Ok(u64::from_le_bytes(data))
    }

    fn mmio_write(&mut self, physical: u64, len: u64, value: u64) -> Result<(), Abort> {
        self.check_outside_blocks()?;
        let now = self.now();
        if self.board.write(physical, value as u32, now) {
            self.interrupts_changed();
            self.reschedule();
            return Ok(());
        }
        let data = value.to_le_bytes();
        self.with_bus(|bus| bus.mmio_write(GuestAddress(physical), &data[..len as usize]));
        Ok(())
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

    /// The address behind the instruction at `at`.
    #[inline(always)]
    pub fn next_rip(&self, at: Cursor) -> u64 {
        self.gpr[PAGE_BASE as usize].wrapping_add(at.uop().next_offset())
    }

    /// The current privilege level.
    pub fn cpl(&self) -> u8 {
        self.segments[Segment::Cs].selector as u8 & 3
    }

    /// The code segment changed: data accesses and fetches follow its privilege.
    pub fn privilege_changed(&mut self) {
        self.mode = if self.cpl() == 3 { Mode::User } else { Mode::Supervisor };
        self.code.set_mode(self.mode);
    }

    /// Translations are no longer valid.
    pub fn flush_tlb(&mut self) {
        self.tlb.flush();
        self.code.translations_changed();
    }

    /// The local APIC may have something to deliver or no longer have.
    pub fn interrupts_changed(&mut self) {
        self.interrupt_pending = self.board.pending();
        if self.interrupt_pending {
            self.board.remote.request_attention();
        }
    }

    /// The time of the next event may have changed.
    pub fn reschedule(&mut self) {
        let now = self.now();
        let next = self.board.apic.next_timer(now);
        self.clock.schedule(&mut self.remaining, next);
    }
}
