//! The paging-structure cache: which page table translates 2 MiB of linear addresses.
//!
//! A walk that finds its page table here has one entry to read instead of four. What is cached obeys the rules of
//! SDM volume 3, 4.10.3: only tables reached through present entries whose accessed bits are set, and nothing of
//! it outlives a new CR3 or an INVLPG of any address, or is the reason of a page fault.

use crate::memory::HostPage;

/// 2 MiB regions of which a table is known.
const ENTRIES: usize = 64;

/// Bits of a linear address within a region.
const REGION_BITS: u32 = 21;

/// A page table, and what the entries on the way to it allow.
#[derive(Clone, Copy, Debug)]
pub struct PageTable {
    /// Its guest-physical address.
    pub physical: u64,
    pub host: HostPage,
    /// The bits of [`paging`](crate::paging) that all entries on the way have.
    pub rights: u64,
    pub no_execute: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    region: u64,
    /// Right only in the generation that it was made in.
    generation: u64,
    table: Option<PageTable>,
}

/// The cache.
pub struct TableCache {
    entries: [Entry; ENTRIES],
    generation: u64,
}

impl Default for TableCache {
    fn default() -> TableCache {
        let nothing = Entry { region: 0, generation: 0, table: None };
        TableCache { entries: [nothing; ENTRIES], generation: 1 }
    }
}

impl TableCache {
    fn slot(region: u64) -> usize {
        (region ^ region >> 9 ^ region >> 18) as usize % ENTRIES
    }

    /// The table that translates `address`, if known.
    #[inline]
    pub fn get(&self, address: u64) -> Option<PageTable> {
        let region = address >> REGION_BITS;
        let entry = &self.entries[Self::slot(region)];
        if entry.region == region && entry.generation == self.generation { entry.table } else { None }
    }

    /// Remembers the table that translates `address`.
    pub fn insert(&mut self, address: u64, table: PageTable) {
        let region = address >> REGION_BITS;
        self.entries[Self::slot(region)] = Entry { region, generation: self.generation, table: Some(table) };
    }

    /// Forgets all of it.
    #[inline]
    pub fn flush(&mut self) {
        self.generation += 1;
    }
}
