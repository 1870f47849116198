//! The software TLB: linear page to host memory.
//!
//! One direct-mapped table for supervisor and one for user accesses, so that a system call
//! flushes nothing. An entry holds a tag for reads and one for writes; a page that must not be
//! written on the fast path (read-only, not yet dirty, or holding decoded code) has no write tag.
//! A second, smaller table translates instruction fetches.
//!
//! A new CR3 drops what is not from a global page: the kernel's own translations stay when it
//! switches between processes. (SDM volume 3, 4.10.2.4.)

use crate::memory::{HostPage, PAGE};
use crate::paging::Translation;
use crate::table_cache::TableCache;

/// Entries of one data table. With 1024, two pages that a kernel uses in turn were often in one slot: a binder
/// call had 40 misses more or not, as its buffers happened to lie.
pub const ENTRIES: usize = 4096;
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
    /// Guest-physical page address; [`WITHHELD`] and [`GLOBAL`] may be set.
    pub physical: u64,
}

/// In [`Entry::physical`]: a writable page whose write tag is withheld because it holds decoded code.
const WITHHELD: u64 = 1;
/// In [`Entry::physical`]: the page is global.
const GLOBAL: u64 = 2;

impl Entry {
    /// True if only decoded code keeps writes from going straight to memory.
    pub fn is_withheld(&self) -> bool {
        self.physical & WITHHELD != 0
    }

    /// Guest-physical address of the page.
    pub fn page(&self) -> u64 {
        self.physical & !(PAGE - 1)
    }

    fn is_global(&self) -> bool {
        self.physical & GLOBAL != 0
    }

    /// The page now holds decoded code.
    fn withhold_write(&mut self, slot: usize) {
        self.write = unmatchable(slot % ENTRIES);
        self.physical |= WITHHELD;
    }
}

/// A translation for instruction fetches.
#[derive(Clone, Copy)]
pub struct Fetch {
    tag: u64,
    global: bool,
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

/// A page of device registers: what the TLB remembers of addresses where no RAM is.
#[derive(Clone, Copy)]
struct DevicePage {
    mode: Mode,
    /// Linear page address.
    page: u64,
    /// Guest-physical page address.
    physical: u64,
    writable: bool,
}

/// What the TLB of a CPU holds that waits for its turn.
#[derive(Default)]
pub struct ParkedTlb {
    /// Slots and their entries.
    data: Vec<(u16, Entry)>,
    fetch: FetchTable,
    large: Vec<LargeRegion>,
    private_code: bool,
    code_pages: u64,
}

/// A region of 1 GiB in which a translation came from a large page.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LargeRegion {
    /// Linear address divided by 1 GiB.
    number: u64,
    global: bool,
}

/// The tables.
pub struct Tlb {
    data: [Entry; 2 * ENTRIES],
    fetch: FetchTable,
    /// Slots of `data` filled since the last flush, some of them twice: those of global pages apart.
    filled: [Vec<u16>; 2],
    /// Where there are [`LARGE_REGIONS`] of them, any address may be in one more.
    large: Vec<LargeRegion>,
    /// A supervisor's instruction was fetched from a page that is not global.
    private_code: bool,
    /// For the walks behind a miss; flushed with everything else, and by every invalidation.
    pub tables: TableCache,
    /// The last page of device registers: a driver's doorbells are all in one.
    device: Option<DevicePage>,
    pub fills: u64,
    pub flushes: u64,
}

/// A tag no access can match in `slot`: the page it names belongs in another slot.
const fn unmatchable(slot: usize) -> u64 {
    ((slot ^ 1) as u64) << 12
}

const fn empty(slot: usize) -> Entry {
    Entry { read: unmatchable(slot), write: unmatchable(slot), host: 0, physical: u64::MAX }
}

/// Both tables without entries. Static, for they are too large to be made on every thread's stack and moved from there.
static EMPTY: [Entry; 2 * ENTRIES] = {
    let mut entries = [empty(0); 2 * ENTRIES];
    let mut slot = 0;
    while slot < 2 * ENTRIES {
        entries[slot] = empty(slot % ENTRIES);
        slot += 1;
    }
    entries
};

impl Tlb {
    /// Where the data tables are, for compiled code.
    pub const DATA_OFFSET: usize = std::mem::offset_of!(Tlb, data);

    pub fn new() -> Tlb {
        Tlb {
            data: EMPTY,
            fetch: FetchTable::default(),
            filled: Default::default(),
            large: Vec::new(),
            private_code: false,
            tables: TableCache::default(),
            device: None,
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

    /// Puts a translation in, to the page at `host`. `code`: that holds decoded code.
    pub fn fill(&mut self, mode: Mode, address: u64, found: &Translation, host: HostPage, code: bool) {
        let Translation { physical, writable, global, .. } = *found;
        let slot = Self::slot(mode, address);
        let page = address & !(PAGE - 1);
        self.fills += 1;
        self.data[slot] = Entry {
            read: page,
            write: if writable && !code { page } else { unmatchable(slot % ENTRIES) },
            host: host.address(),
            physical: physical & !(PAGE - 1)
                | if writable && code { WITHHELD } else { 0 }
                | if global { GLOBAL } else { 0 },
        };
        let filled = &mut self.filled[global as usize];
        filled.push(slot as u16);
        if filled.len() >= 4 * ENTRIES {
            filled.sort_unstable();
            filled.dedup();
        }
    }

    /// Notes that `address` was translated by a page of more than 4 KiB.
    pub fn note_large(&mut self, address: u64, global: bool) {
        let region = LargeRegion { number: address >> 30, global };
        if self.large.last() != Some(&region)
            && self.large.len() < LARGE_REGIONS
            && !self.large.contains(&region)
        {
            self.large.push(region);
        }
    }

    /// Puts in that `address` leads to a device.
    pub fn fill_device(&mut self, mode: Mode, address: u64, found: &Translation) {
        let (page, physical) = (address & !(PAGE - 1), found.physical & !(PAGE - 1));
        self.device = Some(DevicePage { mode, page, physical, writable: found.writable });
    }

    /// The guest-physical page of `address`, if that is known to lead to a device and may be accessed so.
    pub fn device(&self, mode: Mode, address: u64, write: bool) -> Option<u64> {
        let known = |device: &DevicePage| {
            device.mode == mode && device.page == address & !(PAGE - 1) && (device.writable || !write)
        };
        self.device.filter(known).map(|device| device.physical)
    }

    /// What may be wrong after any invalidation.
    fn flush_walks(&mut self) {
        self.tables.flush();
        self.device = None;
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
    pub fn fill_fetch(&mut self, mode: Mode, address: u64, found: &Translation, host: HostPage) {
        let Translation { physical, global, .. } = *found;
        self.fills += 1;
        self.private_code |= mode == Mode::Supervisor && !global;
        self.fetch.0[Self::fetch_slot(mode, address)] =
            Some(Fetch { tag: address & !(PAGE - 1), global, physical: physical & !(PAGE - 1), host });
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        self.flushes += 1;
        self.flush_walks();
        for slot in self.filled.iter_mut().flat_map(|filled| filled.drain(..)) {
            self.data[slot as usize] = empty(slot as usize % ENTRIES);
        }
        self.large.clear();
        self.fetch.0.fill(None);
        self.private_code = false;
    }

    /// Drops what is not global. True if a supervisor's code was among it.
    pub fn flush_private(&mut self) -> bool {
        self.flushes += 1;
        self.flush_walks();
        for slot in self.filled[false as usize].drain(..) {
            let entry = &mut self.data[slot as usize];
            if !entry.is_global() {
                *entry = empty(slot as usize % ENTRIES);
            }
        }
        self.large.retain(|region| region.global);
        let (supervisor, user) = self.fetch.0.split_at_mut(FETCH_ENTRIES);
        // Programs have hardly a global page.
        user.fill(None);
        let private_code = std::mem::take(&mut self.private_code);
        if private_code {
            for fetch in supervisor.iter_mut().filter(|fetch| fetch.is_some_and(|fetch| !fetch.global)) {
                *fetch = None;
            }
        }
        private_code
    }

    /// Exchanges everything for what another CPU holds, whose turn it is. `code_pages` changes whenever
    /// a page without decoded code becomes one with; `holds_code` tells such pages.
    pub fn exchange(&mut self, other: &mut ParkedTlb, code_pages: u64, holds_code: impl Fn(u64) -> bool) {
        self.flush_walks();
        let mut mine = Vec::new();
        for slot in self.filled.iter_mut().flat_map(|filled| filled.drain(..)) {
            let entry = std::mem::replace(&mut self.data[slot as usize], empty(slot as usize % ENTRIES));
            if entry.host != 0 {
                mine.push((slot, entry));
            }
        }
        for (slot, mut entry) in std::mem::replace(&mut other.data, mine) {
            if code_pages != other.code_pages && entry.write == entry.read && holds_code(entry.page()) {
                entry.withhold_write(slot as usize);
            }
            self.data[slot as usize] = entry;
            self.filled[entry.is_global() as usize].push(slot);
        }
        std::mem::swap(&mut self.fetch, &mut other.fetch);
        std::mem::swap(&mut self.large, &mut other.large);
        std::mem::swap(&mut self.private_code, &mut other.private_code);
        other.code_pages = code_pages;
    }

    /// Drops the translations of one linear page, or everything where the page may be part of a
    /// large one.
    pub fn invalidate(&mut self, address: u64) {
        let is_large = |region: &LargeRegion| region.number == address >> 30;
        if self.large.len() == LARGE_REGIONS || self.large.iter().any(is_large) {
            return self.flush();
        }
        self.flush_walks();
        for mode in [Mode::Supervisor, Mode::User] {
            let slot = Self::slot(mode, address);
            self.data[slot] = empty(slot % ENTRIES);
            self.fetch.0[Self::fetch_slot(mode, address)] = None;
        }
    }

    /// The guest-physical page now holds decoded code: writes to it leave the fast path.
    pub fn protect(&mut self, physical: u64) {
        for slot in self.filled.iter().flatten() {
            let entry = &mut self.data[*slot as usize];
            if entry.page() == physical && entry.write == entry.read {
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
            tlb.note_large(region << 30, false);
            tlb.note_large(region << 30, false);
        }
        tlb.invalidate(1 << 46);
        assert_eq!(tlb.flushes, 0);
        tlb.note_large(1 << 45, false);
        tlb.note_large(1 << 46, false);
        assert_eq!(tlb.large.len(), LARGE_REGIONS);
        tlb.invalidate(1 << 46);
        assert_eq!((tlb.flushes, tlb.large.len()), (1, 0));
    }
}
