//! Guest RAM as the CPU sees it: host pointers to whole pages.
//!
//! Every raw access to guest memory of this crate is in this file.

use std::sync::Arc;

use guest_ram::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::word::Word;

/// Bytes in the smallest page.
pub const PAGE: u64 = 4096;

/// The start of a page of guest RAM in host memory.
///
/// Only [`Ram::page`] makes one, so it always points to 4096 readable and writable bytes that live
/// as long as the [`Ram`]. Guest RAM is shared with devices, which other threads may run, so it is
/// never borrowed as a slice; what is read is judged as untrusted bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPage(*mut u8);

// SAFETY: a page of the mapping that `Ram` keeps alive; it is used through raw accesses only.
unsafe impl Send for HostPage {}

impl HostPage {
    /// The page's address as a number, from which TLB entries compute.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Reads a word; `offset + W::BYTES` must be within the page.
    #[inline(always)]
    pub fn read<W: Word>(self, offset: u64) -> W {
        assert!(offset + W::BYTES <= PAGE);
        // SAFETY: in the page by the assertion; any bytes are a valid integer.
        unsafe { self.0.add(offset as usize).cast::<W>().read_unaligned() }
    }

    /// Writes a word; `offset + W::BYTES` must be within the page.
    #[inline(always)]
    pub fn write<W: Word>(self, offset: u64, value: W) {
        assert!(offset + W::BYTES <= PAGE);
        // SAFETY: in the page by the assertion.
        unsafe { self.0.add(offset as usize).cast::<W>().write_unaligned(value) }
    }

    /// Copies bytes out of the page.
    pub fn copy_to(self, offset: u64, bytes: &mut [u8]) {
        assert!(offset + bytes.len() as u64 <= PAGE);
        // SAFETY: in the page by the assertion; `bytes` is host memory outside guest RAM.
        unsafe { self.0.add(offset as usize).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies bytes into the page.
    pub fn copy_from(self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= PAGE);
        // SAFETY: as in `copy_to`.
        unsafe { self.0.add(offset as usize).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// `rep movs` of `len` bytes within one page each, ascending, element after element: where the
    /// destination lies a little behind the source, what was written is read again.
    pub fn move_forward<W: Word>(self, offset: u64, source: HostPage, source_offset: u64, len: u64) {
        assert!(offset + len <= PAGE && source_offset + len <= PAGE);
        let (to, from) = (self.0 as usize + offset as usize, source.0 as usize + source_offset as usize);
        let (distance, element, len) = (to.wrapping_sub(from), W::BYTES as usize, len as usize);
        // Elements that do not reach what the ones before them wrote may move together.
        let chunk = if distance < len { (distance / element * element).max(element) } else { len };
        let mut done = 0;
        while done < len {
            let n = chunk.min(len - done);
            // SAFETY: both ranges are in their pages by the assertion; `copy` allows overlap.
            unsafe { std::ptr::copy((from + done) as *const u8, (to + done) as *mut u8, n) }
            done += n;
        }
    }

    /// `rep stos` within the page: `count` copies of `value`.
    pub fn fill<W: Word>(self, offset: u64, value: W, count: u64) {
        assert!(offset + count * W::BYTES <= PAGE);
        let bytes = value.zero().to_le_bytes();
        let bytes = &bytes[..W::BYTES as usize];
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            // SAFETY: in the page by the assertion.
            unsafe { self.0.add(offset as usize).write_bytes(bytes[0], (count * W::BYTES) as usize) }
        } else {
            for i in 0..count {
                self.write(offset + i * W::BYTES, value);
            }
        }
    }
}

/// Reads a value at a host address that a TLB entry produced.
///
/// # Safety
/// All bytes of the value must lie in one page of guest RAM, and any bytes must be a valid `T`.
#[inline(always)]
pub unsafe fn read_host<T: Copy>(address: u64) -> T {
    // SAFETY: by the caller.
    unsafe { (address as *const T).read_unaligned() }
}

/// Writes a value at a host address that a TLB entry produced.
///
/// # Safety
/// All bytes of the value must lie in one page of guest RAM.
#[inline(always)]
pub unsafe fn write_host<T: Copy>(address: u64, value: T) {
    // SAFETY: by the caller.
    unsafe { (address as *mut T).write_unaligned(value) }
}

/// One contiguous range of guest RAM.
struct Region {
    start: u64,
    end: u64,
    host: *mut u8,
    /// Number of the region's first page, counting the pages of all regions.
    first_page: usize,
}

/// Guest RAM by physical address.
pub struct Ram {
    ram: Arc<GuestRam>,
    regions: Vec<Region>,
    pages: usize,
}

// SAFETY: the host pointers point into the mapping that `ram` owns, which is Send and Sync.
unsafe impl Send for Ram {}

impl Ram {
    pub fn new(ram: Arc<GuestRam>) -> Ram {
        let mut regions = Vec::new();
        let mut pages = 0;
        for region in ram.iter() {
            // A partial page at the end of a region is not used as RAM.
            let len = region.len() & !(PAGE - 1);
            let start = region.start_addr().0;
            if start % PAGE != 0 || len == 0 {
                continue;
            }
            let host = region.get_mmap().as_ptr();
            regions.push(Region { start, end: start + len, host, first_page: pages });
            pages += (len / PAGE) as usize;
        }
        Ram { ram, regions, pages }
    }

    /// Pages of RAM in all.
    pub fn pages(&self) -> usize {
        self.pages
    }

    #[inline]
    fn region(&self, physical: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.start <= physical && physical < region.end)
    }

    /// The host page behind a guest-physical address, or `None` where there is no RAM.
    #[inline]
    pub fn page(&self, physical: u64) -> Option<HostPage> {
        let region = self.region(physical)?;
        let offset = (physical - region.start) & !(PAGE - 1);
        // SAFETY: the offset is inside the region's mapping.
        Some(HostPage(unsafe { region.host.add(offset as usize) }))
    }

    /// Number of the page at a guest-physical address: 0..[`Ram::pages`].
    pub fn page_number(&self, physical: u64) -> Option<usize> {
        let region = self.region(physical)?;
        Some(region.first_page + ((physical - region.start) / PAGE) as usize)
    }

    /// Reads a naturally aligned 64-bit word; all ones where there is no RAM.
    pub fn read_u64(&self, physical: u64) -> u64 {
        self.page(physical).map_or(u64::MAX, |page| page.read((physical % PAGE) & !7))
    }

    /// Writes a naturally aligned 64-bit word; ignored where there is no RAM.
    pub fn write_u64(&self, physical: u64, value: u64) {
        if let Some(page) = self.page(physical) {
            page.write((physical % PAGE) & !7, value);
        }
    }

    /// Remembers that the page was written, and not by a device.
    pub fn mark_dirty(&self, physical: u64) {
        guest_ram::mark_written(&self.ram, GuestAddress(physical));
    }

    /// Asks to hear of device writes to the page. Marks it dirty too, because the CPU's own
    /// later stores to it must not look like a device's.
    pub fn set_code(&self, physical: u64) {
        self.mark_dirty(physical);
        guest_ram::set_code(&self.ram, GuestAddress(physical));
    }

    /// Ends [`Ram::set_code`].
    pub fn clear_code(&self, physical: u64) {
        guest_ram::clear_code(&self.ram, GuestAddress(physical));
    }

    /// Calls `f` with each code page that a device wrote since the last call.
    pub fn drain_stale(&self, mut f: impl FnMut(u64)) {
        guest_ram::drain_stale(&self.ram, |page| f(page.0));
    }
}
