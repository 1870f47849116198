//! The receiver's mapping: where buffers go (best fit), which pages they need, what oneways may use.
//!
//! BINDER.md 8. Buffers are packed without headers; offsets count from the start of the mapping.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::arena::{BufferId, NodeId, RefId, TransactionId};
use crate::buffer_table::BufferTable;
use crate::check::{Inconsistent, holds};
use crate::errno::Errno;
use crate::ids::{DebugId, GuestId, Pfn, Pid, ProcId};
use crate::memory::{NotRam, PAGE, PageByte, Pages, Piece};

/// Bytes of a mapping that count (B007).
pub(crate) const MAX_MAPPING: u64 = 4 << 20;

/// A count on a node or ref that lives as long as a buffer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Held {
    /// A local count on a node of the receiver.
    Node { node: NodeId, strong: bool },
    /// A count on a ref of the receiver.
    Ref { id: RefId, strong: bool },
}

/// One buffer: the payload of one transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Buffer {
    pub debug_id: DebugId,
    pub proc: ProcId,
    pub offset: u64,
    /// All bytes, alignment included.
    pub size: u64,
    pub data_size: u64,
    pub offsets_size: u64,
    /// Bytes behind the offsets: PTR buffers and the security context.
    pub extra_size: u64,
    pub is_async: bool,
    /// Sender of an async buffer, for spam detection.
    pub sender: Pid,
    pub spam_suspect: bool,
    pub clear_on_free: bool,
    /// It was delivered: the user may free it, once.
    pub user_free: bool,
    pub transaction: Option<TransactionId>,
    /// Holds a local strong count.
    pub target_node: Option<NodeId>,
    pub held: Vec<Held>,
    /// Descriptors that freeing closes (B220).
    pub close: Vec<u32>,
}

impl Buffer {
    /// How many objects there may be in it, by its offsets.
    pub(crate) fn objects(&self) -> u64 {
        self.offsets_size / 8
    }
}

/// The sender of a oneway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AsyncSender {
    pub pid: Pid,
    /// The buffer that is placed counts among its own when it is suspected of spam (B153).
    pub counts_itself: bool,
}

/// Sizes of a buffer that is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub data: u64,
    pub offsets: u64,
    pub extra: u64,
}

pub(crate) fn align8(size: u64) -> u64 {
    size.wrapping_add(7) & !7
}

impl Sizes {
    /// All bytes, at least 8 (B344), or `EINVAL` where the sum overflows (B170).
    pub(crate) fn total(self) -> Result<u64, Errno> {
        let sum = |a: u64, b: u64| {
            let sum = a.wrapping_add(align8(b));
            if sum < a || sum < b { Err(Errno::EINVAL) } else { Ok(sum) }
        };
        Ok(sum(sum(sum(0, self.data)?, self.offsets)?, self.extra)?.max(8))
    }
}

/// Async buffers of one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct AsyncUse {
    buffers: u64,
    bytes: u64,
}

/// A process's mapping and the allocator in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mapping {
    pub guest: GuestId,
    pub address: u64,
    pub length: u64,
    /// A part was unmapped: nothing is placed any more (B014).
    pub unmapped: bool,
    slots: Vec<Slot>,
    /// Buffers by offset.
    pub buffers: BufferTable,
    /// Where the last hole starts, which reaches to the end of the mapping. It is in neither table: a mapping
    /// that is not fragmented has no other one.
    tail: u64,
    /// The other holes: sizes by offset.
    holes: BTreeMap<u64, u64>,
    holes_by_size: BTreeSet<(u64, u64)>,
    pub async_free: u64,
    async_use: BTreeMap<Pid, AsyncUse>,
    spam_reported: bool,
    /// The most pages that were ever in reach of buffers, from the start.
    pub pages_high: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Slot {
    page: Option<Pfn>,
    /// Buffers that touch it.
    users: u32,
}

/// Where a new buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub offset: u64,
    pub size: u64,
    pub spam_suspect: bool,
    /// Pages that were idle and are used now.
    pub pages_taken: u32,
    /// No page is missing.
    pub pages_there: bool,
}

impl Mapping {
    /// `None` where it has no whole page, or none that begins and ends where pages do.
    pub(crate) fn new(guest: GuestId, address: u64, length: u64) -> Option<Mapping> {
        let length = length.min(MAX_MAPPING) & !(PAGE - 1);
        if length == 0 || !address.is_multiple_of(PAGE) || address.checked_add(length).is_none() {
            return None;
        }
        Some(Mapping {
            guest,
            address,
            length,
            unmapped: false,
            slots: vec![Slot::default(); (length / PAGE) as usize],
            buffers: BufferTable::default(),
            tail: 0,
            holes: BTreeMap::new(),
            holes_by_size: BTreeSet::new(),
            async_free: length / 2,
            async_use: BTreeMap::new(),
            spam_reported: false,
            pages_high: 0,
        })
    }

    fn add_hole(&mut self, offset: u64, size: u64) {
        if size > 0 {
            self.holes.insert(offset, size);
            self.holes_by_size.insert((size, offset));
        }
    }

    fn take_hole(&mut self, offset: u64) -> Option<u64> {
        let size = self.holes.remove(&offset)?;
        self.holes_by_size.remove(&(size, offset));
        Some(size)
    }

    /// Takes bytes from the smallest hole that has them; of two of one size, from the lower one.
    fn take_place(&mut self, size: u64) -> Option<u64> {
        let tail = self.length - self.tail;
        match self.holes_by_size.range((size, 0)..).next() {
            Some(&(hole, offset)) if hole <= tail || tail < size => {
                self.take_hole(offset);
                self.add_hole(offset + size, hole - size);
                Some(offset)
            }
            _ if tail >= size => {
                let offset = self.tail;
                self.tail += size;
                Some(offset)
            }
            _ => None,
        }
    }

    /// Gives bytes back; adjacent holes join (B347).
    fn give_place(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &size)) = self.holes.range(..start).next_back()
            && before + size == start
        {
            self.take_hole(before);
            start = before;
        }
        if end == self.tail {
            self.tail = start;
            return;
        }
        if let Some(size) = self.take_hole(end) {
            end += size;
        }
        self.add_hole(start, end - start);
    }

    /// Finds a place: the low end of the smallest hole that is large enough (B346).
    pub(crate) fn place(&mut self, sizes: Sizes, sender: Option<AsyncSender>) -> Result<Placed, Errno> {
        if self.unmapped {
            return Err(Errno::ESRCH);
        }
        let size = sizes.total()?;
        if sender.is_some() && self.async_free < size {
            return Err(Errno::ENOSPC);
        }
        let offset = self.take_place(size).ok_or(Errno::ENOSPC)?;
        let spam_suspect = sender.is_some_and(|sender| self.charge(sender, size));
        let (mut pages_taken, mut pages_there) = (0, true);
        let slots = self.slots_of(offset, size);
        self.pages_high = self.pages_high.max(u64::from(*slots.end()) + 1);
        for slot in &mut self.slots[*slots.start() as usize..=*slots.end() as usize] {
            pages_taken += u32::from(slot.users == 0 && slot.page.is_some());
            pages_there &= slot.page.is_some();
            slot.users += 1;
        }
        Ok(Placed { offset, size, spam_suspect, pages_taken, pages_there })
    }

    /// Bytes of the largest hole.
    pub(crate) fn largest_hole(&self) -> Option<u64> {
        let tail = self.length - self.tail;
        let largest = self.holes_by_size.last().map_or(tail, |(size, _)| tail.max(*size));
        (largest > 0).then_some(largest)
    }

    /// Takes from the async budget; true: the sender is suspect (B151, B152, B153).
    fn charge(&mut self, sender: AsyncSender, size: u64) -> bool {
        self.async_free -= size;
        let usage = self.async_use.entry(sender.pid).or_default();
        let before = *usage;
        usage.buffers += 1;
        usage.bytes += size;
        let after = *usage;
        if self.async_free >= self.length / 10 {
            self.spam_reported = false;
            return false;
        }
        let owned = if sender.counts_itself { after } else { before };
        let heavy = owned.buffers > 50 || owned.bytes > self.length / 4;
        let report = heavy && !self.spam_reported;
        self.spam_reported |= report;
        report
    }

    /// Gives a place back. Returns how many pages became idle.
    pub(crate) fn vacate(&mut self, buffer: &Buffer) -> u32 {
        self.buffers.remove(buffer.offset);
        if buffer.is_async {
            self.async_free += buffer.size;
            if let Some(usage) = self.async_use.get_mut(&buffer.sender) {
                usage.buffers = usage.buffers.saturating_sub(1);
                usage.bytes = usage.bytes.saturating_sub(buffer.size);
                if usage.buffers == 0 {
                    self.async_use.remove(&buffer.sender);
                }
            }
        }
        self.give_place(buffer.offset, buffer.offset + buffer.size);
        let mut idle = 0;
        let slots = self.slots_of(buffer.offset, buffer.size);
        for slot in &mut self.slots[*slots.start() as usize..=*slots.end() as usize] {
            slot.users = slot.users.saturating_sub(1);
            idle += u32::from(slot.users == 0 && slot.page.is_some());
        }
        idle
    }

    fn slots_of(&self, offset: u64, size: u64) -> std::ops::RangeInclusive<u32> {
        let last = (offset + size - 1).min(self.length - 1);
        (offset / PAGE) as u32..=(last / PAGE) as u32
    }

    /// Slots that a buffer touches and that have no page.
    pub(crate) fn missing(&self, offset: u64, size: u64, max: usize) -> Vec<u32> {
        let empty = |slot: &u32| self.slots[*slot as usize].page.is_none();
        self.slots_of(offset, size).filter(empty).take(max).collect()
    }

    /// Fills a slot that is in use.
    pub(crate) fn supply(&mut self, slot: u32, page: Pfn) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.page = Some(page);
        }
    }

    /// Fills a slot that may not be in use. True: its page is idle now, and was not before.
    pub(crate) fn fill(&mut self, slot: u32, page: Pfn) -> bool {
        let Some(slot) = self.slots.get_mut(slot as usize) else { return false };
        slot.page.replace(page).is_none() && slot.users == 0
    }

    /// Takes the pages of at most `max` slots that no buffer touches, the highest first: buffers are placed
    /// low, so these will be missed last.
    pub(crate) fn trim(&mut self, max: usize) -> Vec<u32> {
        let mut slots = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if slots.len() == max {
                break;
            }
            if slot.users == 0 && slot.page.take().is_some() {
                slots.push(index as u32);
            }
        }
        slots
    }

    /// Slots whose pages are in use, whose pages are idle, and that have none (B428).
    pub(crate) fn pages(&self) -> (usize, usize, usize) {
        let filled = self.slots.iter().filter(|slot| slot.page.is_some()).count();
        let idle = self.idle() as usize;
        (filled - idle, idle, self.slots.len() - filled)
    }

    /// Filled slots that no buffer touches.
    pub(crate) fn idle(&self) -> u32 {
        self.slots.iter().filter(|slot| slot.users == 0 && slot.page.is_some()).count() as u32
    }

    /// Whether holes and buffers share the mapping out without a gap, and every count follows from them.
    /// `find` gives a buffer of this mapping's process.
    pub(crate) fn check<'a>(
        &self,
        find: impl Fn(BufferId) -> Option<&'a Buffer>,
    ) -> Result<(), Inconsistent> {
        let fits = (1..=MAX_MAPPING).contains(&self.length) && self.length.is_multiple_of(PAGE);
        holds(fits && self.address.is_multiple_of(PAGE), "a mapping is not of whole pages")?;
        holds(self.address.checked_add(self.length).is_some(), "a mapping ends beyond the last address")?;
        holds(self.slots.len() as u64 == self.length / PAGE, "a mapping has another number of slots")?;

        let mut pieces: BTreeMap<u64, u64> = self.holes.clone();
        holds(self.tail <= self.length, "the last hole starts beyond the end of its mapping")?;
        let mut users = vec![0; self.slots.len()];
        let mut async_bytes = 0;
        let mut async_use: BTreeMap<Pid, AsyncUse> = BTreeMap::new();
        for (offset, id) in self.buffers.iter() {
            let buffer = find(id).ok_or(Inconsistent("a mapping has a buffer that is not there"))?;
            holds(buffer.offset == offset, "a buffer is not where its mapping has it")?;
            let end = buffer.offset.checked_add(buffer.size);
            let inside = buffer.size > 0 && end.is_some_and(|end| end <= self.length);
            holds(inside, "a buffer reaches out of its mapping")?;
            holds(pieces.insert(offset, buffer.size).is_none(), "a buffer is in a hole")?;
            for slot in self.slots_of(buffer.offset, buffer.size) {
                users[slot as usize] += 1;
            }
            if buffer.is_async {
                async_bytes += buffer.size;
                let usage = async_use.entry(buffer.sender).or_default();
                usage.buffers += 1;
                usage.bytes += buffer.size;
            }
        }
        let mut end = 0;
        for (offset, size) in pieces {
            holds(offset == end && size > 0 && size <= self.length - end, "buffers and holes overlap")?;
            end += size;
        }
        holds(end == self.tail, "a part of a mapping is lost")?;
        let last_hole = self.holes.last_key_value().map(|(offset, size)| offset + size);
        holds(last_hole != Some(self.tail), "the last two holes of a mapping did not join")?;
        let by_size: BTreeSet<(u64, u64)> =
            self.holes.iter().map(|(offset, size)| (*size, *offset)).collect();
        holds(by_size == self.holes_by_size, "the holes are in two tables that differ")?;
        let counted = self.slots.iter().map(|slot| slot.users).eq(users);
        holds(counted, "a page's users are counted wrong")?;
        let budget = self.async_free.checked_add(async_bytes) == Some(self.length / 2);
        holds(budget && async_use == self.async_use, "the oneway budget is counted wrong")
    }

    fn byte(&self, offset: u64) -> Result<PageByte, NotRam> {
        let slot = self.slots.get((offset / PAGE) as usize).ok_or(NotRam)?;
        Ok(PageByte { guest: self.guest, pfn: slot.page.ok_or(NotRam)?, offset: offset % PAGE })
    }

    /// Writes bytes at an offset of the mapping.
    pub(crate) fn write(&self, pages: &dyn Pages, mut offset: u64, mut bytes: &[u8]) -> Result<(), NotRam> {
        while !bytes.is_empty() {
            let at = self.byte(offset)?;
            let (now, rest) = bytes.split_at(bytes.len().min((PAGE - at.offset) as usize));
            pages.write(at, now)?;
            offset += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Writes zeros.
    pub(crate) fn zero(&self, pages: &dyn Pages, mut offset: u64, mut length: u64) -> Result<(), NotRam> {
        const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        while length > 0 {
            let now = length.min(PAGE - offset % PAGE);
            self.write(pages, offset, &ZEROS[..now as usize])?;
            offset += now;
            length -= now;
        }
        Ok(())
    }

    /// Copies a piece of the sender's memory to an offset of the mapping.
    pub(crate) fn copy(
        &self,
        pages: &dyn Pages,
        sender: GuestId,
        piece: &Piece<'_>,
        mut to: u64,
    ) -> Result<(), NotRam> {
        match *piece {
            Piece::Bytes(bytes) => self.write(pages, to, bytes),
            Piece::Page { pfn, mut offset, mut length } => {
                while length > 0 {
                    let at = self.byte(to)?;
                    let now = length.min(PAGE - at.offset);
                    pages.copy(PageByte { guest: sender, pfn, offset }, at, now)?;
                    to += now;
                    offset += now;
                    length -= now;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: AsyncSender = AsyncSender { pid: Pid(1), counts_itself: false };

    fn mapping() -> Mapping {
        Mapping::new(GuestId(0), 0x10000, 16 * PAGE).unwrap()
    }

    fn data(data: u64) -> Sizes {
        Sizes { data, ..Sizes::default() }
    }

    fn buffer(placed: Placed, sender: Option<Pid>) -> Buffer {
        Buffer {
            debug_id: DebugId(1),
            proc: ProcId(1),
            offset: placed.offset,
            size: placed.size,
            data_size: placed.size,
            offsets_size: 0,
            extra_size: 0,
            is_async: sender.is_some(),
            sender: sender.unwrap_or_default(),
            spam_suspect: placed.spam_suspect,
            clear_on_free: false,
            user_free: true,
            transaction: None,
            target_node: None,
            held: Vec::new(),
            close: Vec::new(),
        }
    }

    /// covers: B344, B170
    #[test]
    fn sizes_are_aligned_and_overflow_is_einval() {
        assert_eq!(data(0).total(), Ok(8));
        assert_eq!(Sizes { data: 1, offsets: 8, extra: 9 }.total(), Ok(32));
        assert_eq!(data(u64::MAX).total(), Err(Errno::EINVAL));
        assert_eq!(Sizes { data: 16, offsets: 0, extra: u64::MAX - 7 }.total(), Err(Errno::EINVAL));
    }

    /// covers: B345, B346
    #[test]
    fn the_smallest_hole_that_fits_is_taken_from_its_low_end() {
        let mut map = mapping();
        let a = map.place(data(0x70), None).unwrap();
        let b = map.place(data(5000), None).unwrap();
        let _c = map.place(data(8), None).unwrap();
        assert_eq!((a.offset, b.offset), (0, 0x70));
        map.vacate(&buffer(b, None));
        assert_eq!(map.place(data(4992), None).unwrap().offset, 0x70);
    }

    /// covers: B347, B366
    #[test]
    fn freed_neighbours_join() {
        let mut map = mapping();
        let parts: Vec<Placed> = (0..4).map(|_| map.place(data(4 * PAGE), None).unwrap()).collect();
        assert_eq!(map.place(data(1), None).unwrap_err(), Errno::ENOSPC);
        for index in [0, 2, 1, 3] {
            map.vacate(&buffer(parts[index], None));
        }
        assert_eq!(map.place(data(16 * PAGE), None).unwrap().offset, 0);
        assert_eq!(mapping().place(data(16 * PAGE + 1), None).unwrap_err(), Errno::ENOSPC);
    }

    proptest::proptest! {
        /// A list of free bytes is the model: covers B346, B347.
        #[test]
        fn places_are_those_of_a_plain_list_of_holes(
            steps in proptest::collection::vec((proptest::bool::weighted(0.6), 0u64..3 * PAGE), 1..200)
        ) {
            let mut map = mapping();
            let (mut used, mut live): (Vec<bool>, Vec<Placed>) = (vec![false; 2 * PAGE as usize], Vec::new());
            for (place, number) in steps {
                if place {
                    // Sizes of a few kinds, so that holes of one size occur.
                    let size = align8(if number % 3 == 0 { number } else { number % 7 * 256 }).max(8);
                    let holes = used.chunk_by(|one, other| one == other).scan(0, |end, run| {
                        let start = *end;
                        *end += run.len() as u64 * 8;
                        Some((run.len() as u64 * 8, start, run[0]))
                    });
                    let fits = holes.filter(|(length, _, used)| !used && *length >= size);
                    let expected = fits.map(|(length, start, _)| (length, start)).min();
                    let placed = map.place(data(size), None);
                    proptest::prop_assert_eq!(placed.ok().map(|it| it.offset), expected.map(|(_, start)| start));
                    live.extend(placed.ok());
                    placed.iter().for_each(|it| used[(it.offset / 8) as usize..][..(it.size / 8) as usize].fill(true));
                } else if !live.is_empty() {
                    let placed = live.swap_remove(number as usize % live.len());
                    map.vacate(&buffer(placed, None));
                    used[(placed.offset / 8) as usize..][..(placed.size / 8) as usize].fill(false);
                }
            }
            live.into_iter().for_each(|placed| { map.vacate(&buffer(placed, None)); });
            proptest::prop_assert!(map.check(|_| None).is_ok());
            proptest::prop_assert_eq!((map.tail, map.holes.len()), (0, 0));
        }
    }

    /// covers: B349, B350, B351
    #[test]
    fn oneways_may_use_half_exactly() {
        let mut map = mapping();
        let half = map.place(data(8 * PAGE), Some(SENDER)).unwrap();
        assert_eq!(map.place(data(0), Some(SENDER)).unwrap_err(), Errno::ENOSPC);
        assert!(map.place(data(8 * PAGE), None).is_ok());
        map.vacate(&buffer(half, Some(SENDER.pid)));
        assert_eq!(map.async_free, 8 * PAGE);
    }

    /// covers: B154
    #[test]
    fn spam_is_suspected_once_an_episode() {
        let mut map = mapping();
        let suspects: Vec<bool> =
            (0..16).map(|_| map.place(data(2048), Some(SENDER)).unwrap().spam_suspect).collect();
        let expected: Vec<bool> = (1..=16).map(|number| number == 13).collect();
        assert_eq!(suspects, expected);
    }

    /// covers: B355, B358
    #[test]
    fn pages_are_idle_when_no_buffer_touches_them() {
        let mut map = mapping();
        let first = map.place(data(PAGE + 8), None).unwrap();
        let second = map.place(data(8), None).unwrap();
        assert_eq!(map.missing(first.offset, first.size, 9), [0, 1]);
        map.supply(0, Pfn(5));
        map.supply(1, Pfn(6));
        assert!(map.missing(first.offset, first.size, 9).is_empty());
        assert_eq!(map.vacate(&buffer(first, None)), 1);
        assert_eq!((map.idle(), map.trim(9)), (1, vec![0]));
        assert_eq!(map.vacate(&buffer(second, None)), 1);
        assert_eq!((map.trim(0), map.trim(9), map.idle()), (vec![], vec![1], 0));
    }
}
