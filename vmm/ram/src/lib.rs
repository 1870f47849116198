//! Guest RAM with the one hook that every device write passes.
//!
//! [`GuestRam`] is `vm-memory`'s mmap backend with [`PageMap`] as its bitmap. `vm-memory` calls
//! [`PageMap`] for every write that a device (or the binder core) makes, and the hook does two
//! things with it: it remembers the page as dirty (for who compares RAM: the lock-step tests do), and, where the software CPU holds
//! decoded code of that page, it puts the page on a *stale list* that the CPU empties before it
//! executes the next block. Without the second part a block decoded before a device overwrote
//! its bytes would run for ever (PROTOCOL.md 2.21).
//!
//! The software CPU's own stores do not pass through here: its TLB knows which pages hold code.
//! The KVM engine ignores the stale list; hardware keeps its own instruction cache coherent.

use std::fmt;
use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

/// Bytes in a page of guest memory.
pub const PAGE_SIZE: usize = 4096;

/// The RAM of one guest.
pub type GuestRam = vm_memory::GuestMemoryMmap<PageMap>;

/// One contiguous piece of [`GuestRam`].
pub type GuestRamRegion = vm_memory::GuestRegionMmap<PageMap>;

/// RAM could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes of guest memory: {source}")]
pub struct AllocateError {
    bytes: usize,
    source: FromRangesError,
}

/// Maps zeroed, anonymous RAM at the given (start, length in bytes) ranges.
pub fn allocate(ranges: &[(GuestAddress, usize)]) -> Result<GuestRam, AllocateError> {
    let bytes = ranges.iter().map(|(_, len)| len).sum();
    GuestRam::from_ranges(ranges).map_err(|source| AllocateError { bytes, source })
}

/// Maps RAM from a file at the given (start, length, offset in the file) ranges, copy on write: the file
/// does not change, and what is not written is shared with everybody else who maps it.
///
/// The file must not become shorter while the RAM is in use: reading a page that is gone kills the
/// process (SIGBUS).
pub fn map(file: &File, ranges: &[(GuestAddress, usize, u64)]) -> Result<GuestRam, AllocateError> {
    let bytes = ranges.iter().map(|(_, len, _)| len).sum();
    let failed = |source| AllocateError { bytes, source };
    let end = file.metadata().map_err(|error| failed(MmapRegionError::Mmap(error).into()))?.len();
    let mut regions = Vec::new();
    for &(start, len, offset) in ranges {
        if offset.checked_add(len as u64).is_none_or(|last| last > end) {
            return Err(failed(MmapRegionError::MappingPastEof.into()));
        }
        let file = file.try_clone().map_err(|error| failed(MmapRegionError::Mmap(error).into()))?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
        let mapping = MmapRegion::build(Some(FileOffset::new(file, offset)), len, protection, flags)
            .map_err(|error| failed(error.into()))?;
        regions.push(GuestRamRegion::new(mapping, start).ok_or(failed(FromRangesError::InvalidGuestRegion))?);
    }
    GuestRam::from_regions(regions).map_err(|error| failed(error.into()))
}

/// Marks `page` (a guest-physical page address) as holding decoded code. False where it is not RAM.
pub fn set_code(ram: &GuestRam, page: GuestAddress) -> bool {
    with_region(ram, page, |map, index| map.set_code(index)).is_some()
}

/// Forgets that `page` holds decoded code.
pub fn clear_code(ram: &GuestRam, page: GuestAddress) {
    with_region(ram, page, |map, index| map.clear_code(index));
}

/// Marks `page` as written by the CPU, on the thread that alone calls [`set_code`]: most pages are dirty already, and to
/// see that takes no locked instruction.
pub fn mark_written(ram: &GuestRam, page: GuestAddress) {
    with_region(ram, page, |map, index| map.mark_own_write(index));
}

/// Calls `drop_page` for every page with decoded code that a device wrote since the last call.
/// The page's code mark is cleared before the call.
pub fn drain_stale(ram: &GuestRam, mut drop_page: impl FnMut(GuestAddress)) {
    for region in ram.iter() {
        let mapping = region.get_mmap();
        let map = mapping.bitmap();
        if map.has_stale.load(Ordering::Relaxed) {
            map.drain(|index| {
                drop_page(GuestAddress(region.start_addr().0 + (index * PAGE_SIZE) as u64));
            });
        }
    }
}

fn with_region<R>(ram: &GuestRam, page: GuestAddress, f: impl FnOnce(&PageMap, usize) -> R) -> Option<R> {
    let (region, offset) = ram.to_region_addr(page)?;
    Some(f(region.get_mmap().bitmap(), offset.0 as usize / PAGE_SIZE))
}

const DIRTY: u8 = 1;
const CODE: u8 = 2;
const STALE: u8 = 4;

/// One byte of state for each page of a RAM region: dirty, holds decoded code, is on the stale list.
#[derive(Default)]
pub struct PageMap {
    pages: Box<[AtomicU8]>,
    has_stale: AtomicBool,
    stale: Mutex<Vec<usize>>,
}

impl PageMap {
    /// Marks the page as holding decoded code.
    pub fn set_code(&self, index: usize) {
        if let Some(page) = self.pages.get(index) {
            page.fetch_or(CODE, Ordering::SeqCst);
        }
    }

    /// Forgets that the page holds decoded code.
    pub fn clear_code(&self, index: usize) {
        if let Some(page) = self.pages.get(index) {
            page.fetch_and(!CODE, Ordering::SeqCst);
        }
    }

    /// Marks one page dirty and, where it holds decoded code, puts it on the stale list once.
    fn mark_page(&self, index: usize) {
        let Some(page) = self.pages.get(index) else { return };
        let before = page.fetch_or(DIRTY, Ordering::SeqCst);
        if before & CODE != 0 && page.fetch_or(STALE, Ordering::SeqCst) & STALE == 0 {
            self.stale_list().push(index);
            self.has_stale.store(true, Ordering::Release);
        }
    }

    /// [`mark_page`](Self::mark_page) where no other thread marks code meanwhile.
    fn mark_own_write(&self, index: usize) {
        if self.pages.get(index).is_some_and(|page| page.load(Ordering::Relaxed) & (DIRTY | CODE) != DIRTY) {
            self.mark_page(index);
        }
    }

    fn drain(&self, mut f: impl FnMut(usize)) {
        // Cleared before the list is taken: a page pushed after that sets the flag again.
        self.has_stale.store(false, Ordering::SeqCst);
        let taken = std::mem::take(&mut *self.stale_list());
        for index in taken {
            self.pages[index].fetch_and(!(STALE | CODE), Ordering::SeqCst);
            f(index);
        }
    }

    fn stale_list(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        // A list of page numbers is valid whatever panicked while it was held.
        self.stale.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for PageMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageMap").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

impl<'a> WithBitmapSlice<'a> for PageMap {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for PageMap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let first = offset / PAGE_SIZE;
        let last = offset.saturating_add(len - 1) / PAGE_SIZE;
        for index in first..=last.min(self.pages.len().saturating_sub(1)) {
            self.mark_page(index);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.pages.get(offset / PAGE_SIZE).is_some_and(|page| page.load(Ordering::Relaxed) & DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for PageMap {
    fn with_len(len: usize) -> Self {
        let pages = (0..len.div_ceil(PAGE_SIZE)).map(|_| AtomicU8::new(0)).collect();
        PageMap { pages, ..PageMap::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::Bytes;

    fn stale(ram: &GuestRam) -> Vec<u64> {
        let mut pages = Vec::new();
        drain_stale(ram, |page| pages.push(page.0));
        pages
    }

    #[test]
    fn the_cpus_own_writes_mark_pages_like_a_devices() {
        let ram = allocate(&[(GuestAddress(0), 4 * PAGE_SIZE)]).unwrap();
        let dirty = |page: usize| ram.iter().next().unwrap().get_mmap().bitmap().dirty_at(page * PAGE_SIZE);
        mark_written(&ram, GuestAddress(0x1000));
        mark_written(&ram, GuestAddress(0x1fff));
        assert_eq!([dirty(0), dirty(1), dirty(2)], [false, true, false]);
        assert!(set_code(&ram, GuestAddress(0x1000)));
        mark_written(&ram, GuestAddress(0x1000));
        assert_eq!(stale(&ram), [0x1000]);
    }

    #[test]
    fn a_device_write_to_a_code_page_makes_it_stale_once() {
        let ram = allocate(&[(GuestAddress(0), 4 * PAGE_SIZE), (GuestAddress(1 << 32), PAGE_SIZE)]).unwrap();
        assert!(set_code(&ram, GuestAddress(0x1000)));
        assert!(set_code(&ram, GuestAddress(1 << 32)));
        assert!(!set_code(&ram, GuestAddress(0x10_0000)));

        ram.write_obj(1u64, GuestAddress(0x2000)).unwrap();
        assert!(stale(&ram).is_empty());

        // Straddles a plain page and the code page.
        ram.write_slice(&[0; 16], GuestAddress(0xff8)).unwrap();
        ram.write_obj(1u64, GuestAddress(0x1800)).unwrap();
        ram.write_obj(1u8, GuestAddress(1 << 32)).unwrap();
        assert_eq!(stale(&ram), vec![0x1000u64, 1 << 32]);
        assert!(stale(&ram).is_empty());

        // The mark went with the drain: the CPU sets it again when it decodes the page again.
        ram.write_obj(1u64, GuestAddress(0x1800)).unwrap();
        assert!(stale(&ram).is_empty());
    }

    #[test]
    fn mapped_ram_shows_the_file_and_does_not_change_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * PAGE_SIZE]).unwrap();
        let start = GuestAddress(1 << 32);
        let ranges = [(GuestAddress(0), PAGE_SIZE, 0), (start, PAGE_SIZE, 2 * PAGE_SIZE as u64)];
        let (one, other) = (map(&file, &ranges).unwrap(), map(&file, &ranges).unwrap());
        one.write_obj(1u64, start).unwrap();
        assert_eq!(one.read_obj::<u64>(start).unwrap(), 1);
        assert_eq!(other.read_obj::<u8>(start).unwrap(), 7);
        assert_eq!(map(&file, &ranges).unwrap().read_obj::<u8>(start).unwrap(), 7);
        set_code(&one, start);
        one.write_obj(2u8, start).unwrap();
        assert_eq!(stale(&one), [1 << 32]);
        assert!(map(&file, &[(GuestAddress(0), PAGE_SIZE, 3 * PAGE_SIZE as u64)]).is_err(), "past its end");
    }

    #[test]
    fn writes_are_remembered_as_dirty() {
        let ram = allocate(&[(GuestAddress(0), 2 * PAGE_SIZE)]).unwrap();
        let region = ram.iter().next().unwrap();
        ram.write_obj(1u8, GuestAddress(0x1fff)).unwrap();
        let mapping = region.get_mmap();
        assert!(!mapping.bitmap().dirty_at(0));
        assert!(mapping.bitmap().dirty_at(0x1000));
    }
}
