//! Loads and stores of the running program, fast where memory is plain.

use vm_memory::GuestAddress;

use crate::code;
use crate::cpu::{Abort, Cause, Cpu};
use crate::exception::Exception;
use crate::memory::{self, HostPage, PAGE};
use crate::paging::Access;
use crate::tlb::Mode;
use crate::uop::Uop;
use crate::word::Word;

impl Cpu {
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
        let offset = address ^ entry.read;
        // SAFETY: the tag matches, so the page is RAM at `host`, and the word is inside.
        (offset <= PAGE - W::BYTES).then(|| unsafe { memory::read_host(entry.host + offset) })
    }

    /// Writes a word at a linear address if the TLB knows it to be plain RAM, and says so.
    #[inline(always)]
    pub fn poke<W: Word>(&mut self, address: u64, value: W) -> bool {
        let entry = self.tlb.entry(self.mode, address);
        let offset = address ^ entry.write;
        let plain = offset <= PAGE - W::BYTES;
        if plain {
            // SAFETY: as in `peek`.
            unsafe { memory::write_host(entry.host + offset, value) };
        }
        plain
    }

    /// Replaces a word by what `f` makes of it if the TLB knows it to be plain RAM, and says so.
    #[inline(always)]
    pub fn modify_plain<W: Word>(&mut self, address: u64, f: impl FnOnce(&mut Cpu, W) -> W) -> bool {
        let entry = self.tlb.entry(self.mode, address);
        let offset = address ^ entry.write;
        let plain = offset <= PAGE - W::BYTES;
        if plain {
            let host = entry.host + offset;
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
        let offset = address ^ entry.write;
        if offset <= PAGE - W::BYTES {
            // SAFETY: as in `load`.
            unsafe { memory::write_host(entry.host + offset, value) };
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
        let offset = address ^ entry.read;
        if offset <= PAGE - W::BYTES {
            // SAFETY: as in `load`.
            return Ok(unsafe { memory::read_host(entry.host + offset) });
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
        let offset = address ^ entry.read;
        if offset <= PAGE - N as u64 {
            // SAFETY: as in `load`; any bytes are an array of bytes.
            return Ok(unsafe { memory::read_host(entry.host + offset) });
        }
        self.load_bytes_slow(address)
    }

    /// One byte of a page the long way, then the rest of the page if that turned out to be plain RAM: what a
    /// context switch saves (FXSAVE, 512 bytes) may lie across two pages for good.
    #[cold]
    #[inline(never)]
    fn load_bytes_slow<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Abort> {
        self.require_aligned(self.mode, address, N as u64)?;
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = address.wrapping_add(done as u64);
            let Some(page) = self.plain_page(at, false) else {
                bytes[done] = self.load_slow(self.mode, at)?;
                done += 1;
                continue;
            };
            let length = ((PAGE - at % PAGE) as usize).min(N - done);
            page.copy_to(at % PAGE, &mut bytes[done..done + length]);
            done += length;
        }
        Ok(bytes)
    }

    /// The page of a linear address, if the TLB knows it to be plain RAM.
    fn plain_page(&self, address: u64, write: bool) -> Option<HostPage> {
        let entry = self.tlb.entry(self.mode, address);
        let tag = if write { entry.write } else { entry.read };
        if address ^ tag < PAGE { self.ram.page(entry.page()) } else { None }
    }

    /// Writes `N` bytes, or none if a part of them aborts.
    #[inline(always)]
    pub fn store_bytes<const N: usize>(&mut self, address: u64, bytes: [u8; N]) -> Result<(), Abort> {
        let entry = self.tlb.entry(self.mode, address);
        let offset = address ^ entry.write;
        if offset <= PAGE - N as u64 {
            // SAFETY: as in `load`.
            unsafe { memory::write_host(entry.host + offset, bytes) };
            return Ok(());
        }
        self.store_bytes_slow(address, bytes)
    }

    /// As [`load_bytes_slow`](Self::load_bytes_slow).
    #[cold]
    #[inline(never)]
    fn store_bytes_slow<const N: usize>(&mut self, address: u64, bytes: [u8; N]) -> Result<(), Abort> {
        self.require_aligned(self.mode, address, N as u64)?;
        self.probe_write(address, N as u64)?;
        let mut done = 0;
        while done < N {
            let at = address.wrapping_add(done as u64);
            let Some(page) = self.plain_page(at, true) else {
                self.store_slow(self.mode, at, bytes[done])?;
                done += 1;
                continue;
            };
            let length = ((PAGE - at % PAGE) as usize).min(N - done);
            page.copy_from(at % PAGE, &bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }

    /// #AC for a program's access that is not at a multiple of what its size asks for, where that is checked.
    #[inline(always)]
    fn require_aligned(&mut self, mode: Mode, address: u64, len: u64) -> Result<(), Abort> {
        if self.aligned && mode == Mode::User && !address.is_multiple_of(alignment(len)) {
            return Err(self.raise(Exception::AlignmentCheck));
        }
        Ok(())
    }

    /// Makes sure that a store of a word will not abort.
    pub fn probe_store<W: Word>(&mut self, address: u64) -> Result<(), Abort> {
        self.require_aligned(self.mode, address, W::BYTES)?;
        self.probe_write(address, W::BYTES)
    }

    /// Every access is to be made by itself: the TLB says nothing of whether it is allowed.
    pub fn checks_accesses(&self) -> bool {
        self.watching || self.aligned && self.mode == Mode::User
    }

    #[cold]
    #[inline(never)]
    pub fn load_slow<W: Word>(&mut self, mode: Mode, address: u64) -> Result<W, Abort> {
        self.require_aligned(mode, address, W::BYTES)?;
        self.note_access(address, W::BYTES, false);
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
        self.require_aligned(mode, address, W::BYTES)?;
        self.note_access(address, W::BYTES, true);
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
}

/// What the address of so many bytes has to be a multiple of where alignment is checked. (SDM volume 3, 6.15,
/// interrupt 17; what is left to the implementation there is as AMD's CPUs have it.)
const fn alignment(len: u64) -> u64 {
    match len {
        // 16: a vector of an instruction that else takes it from anywhere.
        2 | 4 | 8 | 16 => len,
        // An extended or decimal number.
        10 => 8,
        // The x87 environment and state, with fields of 16 or 32 bits.
        14 | 94 => 2,
        28 | 108 => 4,
        _ => 1,
    }
}
