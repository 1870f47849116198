//! The software TLB: linear page to host memory.
//!
//! One direct-mapped table for supervisor and one for user accesses, so that a system call
//! flushes nothing. An entry holds a tag for reads and one for writes; a page that must not be
//! written on the fast path (read-only, not yet dirty, or holding decoded code) has no write tag.
//! A second, smaller table translates instruction fetches.

use crate::memory::{HostPage, PAGE};

/// Entries of one data table.
pub const ENTRIES: usize = 1024;
const FETCH_ENTRIES: usize = 256;

/// The most 1 GiB regions with large pages that are told apart.
const LARGE_REGIONS: usize = 64;

/// A translation for data accesses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entry {
    /// Linear page address, if reads may go straight to memory.
    pub read: u64,
    /// Linear page address, if writes may go straight to memory.
    pub write: u64,
    /// Host address of the page: an access whose address differs from a tag by an offset in the page
    /// goes to `host` plus that offset.
    pub host: u64,
    /// Guest-physical page address; bit 0 is set while the entry is a writable page whose write
    /// tag is withheld because it holds decoded code.
    pub physical: u64,
}

impl Entry {
    /// The page now holds decoded code.
    fn withhold_write(&mut self, slot: usize) {
        self.write = unmatchable(slot % ENTRIES);
        self.physical |= 1;
    }
}

/// A translation for instruction fetches.
#[derive(Clone, Copy)]
pub struct Fetch {
    tag: u64,
    /// Guest-physical page address.
    pub physical: u64,
    /// The page, or `None` where the translation leads to no RAM.
    pub host: HostPage,
}

/// Which table: the privilege of the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Supervisor = 0,
    User = ENTRIES as isize,
}

/// The table of fetch translations.
struct FetchTable(Box<[Option<Fetch>; 2 * FETCH_ENTRIES]>);

impl Default for FetchTable {
    fn default() -> FetchTable {
        let fetch = vec![None; 2 * FETCH_ENTRIES];
        FetchTable(fetch.into_boxed_slice().try_into().ok().expect("length is 2 * FETCH_ENTRIES"))
    }
}

/// What the TLB of a CPU holds that waits for its turn.
#[derive(Default)]
pub struct ParkedTlb {
    /// Slots and their entries.
    data: Vec<(u16, Entry)>,
    fetch: FetchTable,
    large: Vec<u64>,
    code_pages: u64,
}

/// The tables.
pub struct Tlb {
    data: [Entry; 2 * ENTRIES],
    fetch: FetchTable,
    /// Slots of `data` filled since the last flush, some of them twice.
    filled: Vec<u16>,
    /// 1 GiB regions in which an entry came from a large page. Where there are [`LARGE_REGIONS`]
    /// of them, any address may be in one more.
    large: Vec<u64>,
    pub fills: u64,
    pub flushes: u64,
}

/// A tag no access can match in `slot`: the page it names belongs in another slot.
const fn unmatchable(slot: usize) -> u64 {
    ((slot ^ 1) as u64) << 12
}

const fn empty(slot: usize) -> Entry {
    Entry { read: unmatchable(slot), write: unmatchable(slot), host: 0, physical: 2 }
}

impl Tlb {
    /// Where the data tables are, for compiled code.
    pub const DATA_OFFSET: usize = std::mem::offset_of!(Tlb, data);

    pub fn new() -> Tlb {
        Tlb {
            data: std::array::from_fn(|slot| empty(slot % ENTRIES)),
            fetch: FetchTable::default(),
            filled: Vec::new(),
            large: Vec::new(),
            fills: 0,
            flushes: 0,
        }
    }

    #[inline(always)]
    fn slot(mode: Mode, address: u64) -> usize {
        ((address >> 12) as usize & (ENTRIES - 1)) | mode as usize
    }

    /// The entry that would translate `address`.
    #[inline(always)]
    pub fn entry(&self, mode: Mode, address: u64) -> &Entry {
        &self.data[Self::slot(mode, address)]
    }

    /// Puts a translation in. `write` and `code` as for [`Entry`].
    pub fn fill(&mut self, mode: Mode, address: u64, physical: u64, host: HostPage, write: bool, code: bool) {
        let slot = Self::slot(mode, address);
        let page = address & !(PAGE - 1);
        self.fills += 1;
        self.filled.push(slot as u16);
        self.data[slot] = Entry {
            read: page,
            write: if write && !code { page } else { unmatchable(slot % ENTRIES) },
            host: host.address(),
            physical: physical & !(PAGE - 1) | (write && code) as u64,
        };
        if self.filled.len() >= 8 * ENTRIES {
            self.filled.sort_unstable();
            self.filled.dedup();
        }
    }

    /// Notes that `address` was translated by a page of more than 4 KiB.
    pub fn note_large(&mut self, address: u64) {
        let region = address >> 30;
        if self.large.last() != Some(&region)
            && self.large.len() < LARGE_REGIONS
            && !self.large.contains(&region)
        {
            self.large.push(region);
        }
    }

    /// The fetch translation for `address`, if known.
    #[inline(always)]
    pub fn fetch(&self, mode: Mode, address: u64) -> Option<&Fetch> {
        self.fetch.0[Self::fetch_slot(mode, address)].as_ref().filter(|f| f.tag == address & !(PAGE - 1))
    }

    #[inline(always)]
    fn fetch_slot(mode: Mode, address: u64) -> usize {
        let user = mode == Mode::User;
        ((address >> 12) as usize & (FETCH_ENTRIES - 1)) | if user { FETCH_ENTRIES } else { 0 }
    }

    /// Puts a fetch translation in.
    pub fn fill_fetch(&mut self, mode: Mode, address: u64, physical: u64, host: HostPage) {
        self.fills += 1;
        self.fetch.0[Self::fetch_slot(mode, address)] =
            Some(Fetch { tag: address & !(PAGE - 1), physical: physical & !(PAGE - 1), host });
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        self.flushes += 1;
        for slot in self.filled.drain(..) {
            self.data[slot as usize] = empty(slot as usize % ENTRIES);
        }
        self.large.clear();
        self.fetch.0.fill(None);
    }

    /// Exchanges everything for what another CPU holds, whose turn it is. `code_pages` changes whenever
    /// a page without decoded code becomes one with; `holds_code` tells such pages.
    pub fn exchange(&mut self, other: &mut ParkedTlb, code_pages: u64, holds_code: impl Fn(u64) -> bool) {
        self.filled.sort_unstable();
        self.filled.dedup();
        let mine = self.filled.iter().map(|slot| (*slot, self.data[*slot as usize])).collect();
        for slot in self.filled.drain(..) {
            self.data[slot as usize] = empty(slot as usize % ENTRIES);
        }
        for (slot, mut entry) in std::mem::replace(&mut other.data, mine) {
            if code_pages != other.code_pages && entry.write == entry.read && holds_code(entry.physical) {
                entry.withhold_write(slot as usize);
            }
            self.data[slot as usize] = entry;
            self.filled.push(slot);
        }
        std::mem::swap(&mut self.fetch, &mut other.fetch);
        std::mem::swap(&mut self.large, &mut other.large);
        other.code_pages = code_pages;
    }

    /// Drops the translations of one linear page, or everything where the page may be part of a
    /// large one.
    pub fn invalidate(&mut self, address: u64) {
        if self.large.len() == LARGE_REGIONS || self.large.contains(&(address >> 30)) {
            return self.flush();
        }
        for mode in [Mode::Supervisor, Mode::User] {
            let slot = Self::slot(mode, address);
            self.data[slot] = empty(slot % ENTRIES);
            self.fetch.0[Self::fetch_slot(mode, address)] = None;
        }
    }

    /// The guest-physical page now holds decoded code: writes to it leave the fast path.
    pub fn protect(&mut self, physical: u64) {
        for slot in &self.filled {
            let entry = &mut self.data[*slot as usize];
            if entry.physical == physical && entry.write == entry.read {
                entry.withhold_write(*slot as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_many_large_pages_one_page_flushes_all() {
        let mut tlb = Tlb::new();
        for region in 0..LARGE_REGIONS as u64 - 1 {
            tlb.note_large(region << 30);
            tlb.note_large(region << 30);
        }
        tlb.invalidate(1 << 46);
        assert_eq!(tlb.flushes, 0);
        tlb.note_large(1 << 45);
        tlb.note_large(1 << 46);
        assert_eq!(tlb.large.len(), LARGE_REGIONS);
        tlb.invalidate(1 << 46);
        assert_eq!((tlb.flushes, tlb.large.len()), (1, 0));
    }
}
