//! Guest pages, and the sender's memory as the messages carry it.
//!
//! Every page is looked up in the RAM of the guest that named it, for every access. Bytes move
//! through volatile slices only (memmove semantics: source and destination may be one page).

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileSlice};

use crate::domain::GuestRams;
use crate::fetched::Fetched;
use crate::ids::{GuestId, Pfn};
use crate::message::{Range, RangeData};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Where a byte is: page and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageByte {
    /// Whose page.
    pub guest: GuestId,
    /// Which page.
    pub pfn: Pfn,
    /// Below 4096.
    pub offset: u64,
}

/// A page that is not RAM of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam;

/// Access to guest pages: all that the core ever sees of a guest's memory. A run of bytes never
/// leaves its page.
pub trait Pages {
    /// Whether all of a page is RAM.
    fn is_ram(&self, guest: GuestId, pfn: Pfn) -> bool;
    /// Copies bytes out of a page.
    fn read(&self, at: PageByte, to: &mut [u8]) -> Result<(), NotRam>;
    /// Copies bytes into a page.
    fn write(&self, at: PageByte, from: &[u8]) -> Result<(), NotRam>;
    /// Copies bytes from page to page (memmove).
    fn copy(&self, from: PageByte, to: PageByte, length: u64) -> Result<(), NotRam>;
    /// What is read is kept for a replay, which traces: whatever a trace event needs is to be read, though none is made.
    fn keeps_reads(&self) -> bool {
        false
    }
}

/// [`Pages`] of the guests of a domain.
pub struct GuestPages<'a, R>(pub &'a R);

impl<R: GuestRams> GuestPages<'_, R> {
    fn slice(
        &self,
        at: PageByte,
        length: u64,
    ) -> Result<VolatileSlice<'_, vm_memory::bitmap::MS<'_, R::Ram>>, NotRam> {
        if at.offset.checked_add(length).is_none_or(|end| end > PAGE) {
            return Err(NotRam);
        }
        let address =
            at.pfn.0.checked_mul(PAGE).and_then(|page| page.checked_add(at.offset)).ok_or(NotRam)?;
        let ram = self.0.ram(at.guest).ok_or(NotRam)?;
        ram.get_slice(GuestAddress(address), length as usize).map_err(|_| NotRam)
    }
}

impl<R: GuestRams> Pages for GuestPages<'_, R> {
    fn is_ram(&self, guest: GuestId, pfn: Pfn) -> bool {
        self.slice(PageByte { guest, pfn, offset: 0 }, PAGE).is_ok()
    }

    fn read(&self, at: PageByte, to: &mut [u8]) -> Result<(), NotRam> {
        self.slice(at, to.len() as u64)?.copy_to(to);
        Ok(())
    }

    fn write(&self, at: PageByte, from: &[u8]) -> Result<(), NotRam> {
        self.slice(at, from.len() as u64)?.copy_from(from);
        Ok(())
    }

    fn copy(&self, from: PageByte, to: PageByte, length: u64) -> Result<(), NotRam> {
        let source = self.slice(from, length)?;
        let target = self.slice(to, length)?;
        source.copy_to_volatile_slice(target.as_volatile_slice());
        Ok(())
    }
}

/// No memory at all: for a reset, which drops all addresses.
pub(crate) struct NoPages;

impl Pages for NoPages {
    fn is_ram(&self, _guest: GuestId, _pfn: Pfn) -> bool {
        false
    }

    fn read(&self, _at: PageByte, _to: &mut [u8]) -> Result<(), NotRam> {
        Err(NotRam)
    }

    fn write(&self, _at: PageByte, _from: &[u8]) -> Result<(), NotRam> {
        Err(NotRam)
    }

    fn copy(&self, _from: PageByte, _to: PageByte, _length: u64) -> Result<(), NotRam> {
        Err(NotRam)
    }
}

/// Why bytes of the sender cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// No message carried the byte at this address yet.
    Missing(u64),
    /// The sender cannot read it either.
    Fault,
}

/// A piece of sender's memory in one place.
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    Page { pfn: Pfn, offset: u64, length: u64 },
}

impl Piece<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Page { length, .. } => *length,
        }
    }
}

/// The sender's memory: what the chunk brought and what NEEDS brought.
#[derive(Clone, Copy)]
pub(crate) struct UserMemory<'a> {
    pub guest: GuestId,
    pub chunk: &'a [Range],
    pub fetched: &'a Fetched,
}

impl<'a> UserMemory<'a> {
    /// The longest piece that starts at `address`, at most `length` bytes long.
    pub(crate) fn piece(&self, address: u64, length: u64) -> Result<Piece<'a>, Absent> {
        let look = |range: &'a Range| piece_of(range, address.checked_sub(range.address)?, length);
        let fetched = self.fetched.at(address);
        let piece = fetched.and_then(look).or_else(|| self.chunk.iter().find_map(look));
        piece.ok_or_else(|| self.absent(address, fetched))
    }

    /// Why there is no piece at `address`, which `fetched` may tell of.
    #[cold]
    fn absent(&self, address: u64, fetched: Option<&Range>) -> Absent {
        // A later byte of a range that faults earlier is only reached through the fault.
        let faults = |range: &Range| {
            let end = range.length.max(range.readable.saturating_add(1));
            let skip = address.checked_sub(range.address);
            range.fault && skip.is_some_and(|skip| skip >= range.readable && skip < end)
        };
        match fetched.into_iter().chain(self.chunk).any(faults) {
            true => Absent::Fault,
            false => Absent::Missing(address),
        }
    }

    /// Whether all of `address..address + length` is carried.
    pub(crate) fn covers(&self, address: u64, length: u64) -> Result<(), Absent> {
        let end = address.checked_add(length).ok_or(Absent::Fault)?;
        let mut at = address;
        while at < end {
            at += self.piece(at, end - at)?.len();
        }
        Ok(())
    }

    /// Whether any of it may have to be read from a guest's page.
    pub(crate) fn is_in_pages(&self, address: u64, length: u64) -> bool {
        length > 0
            && !matches!(self.piece(address, length), Ok(Piece::Bytes(bytes)) if bytes.len() as u64 == length)
    }

    /// Copies bytes into the core.
    pub(crate) fn read(&self, pages: &dyn Pages, address: u64, to: &mut [u8]) -> Result<(), Absent> {
        let mut done = 0;
        while done < to.len() {
            let at = address.checked_add(done as u64).ok_or(Absent::Fault)?;
            let piece = self.piece(at, (to.len() - done) as u64)?;
            let part = &mut to[done..done + piece.len() as usize];
            match piece {
                Piece::Bytes(bytes) => part.copy_from_slice(bytes),
                Piece::Page { pfn, offset, .. } => {
                    pages
                        .read(PageByte { guest: self.guest, pfn, offset }, part)
                        .map_err(|_| Absent::Fault)?;
                }
            }
            done += piece.len() as usize;
        }
        Ok(())
    }
}

fn piece_of(range: &Range, skip: u64, length: u64) -> Option<Piece<'_>> {
    let length = range.readable.checked_sub(skip)?.min(length);
    if length == 0 {
        return None;
    }
    match &range.data {
        RangeData::None => None,
        RangeData::Inline(bytes) => {
            let rest = bytes.get(usize::try_from(skip).ok()?..)?;
            let part = &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
            (!part.is_empty()).then_some(Piece::Bytes(part))
        }
        RangeData::Pages(pfns) => {
            let at = (range.address % PAGE).checked_add(skip)?;
            let pfn = *pfns.get(usize::try_from(at / PAGE).ok()?)?;
            let offset = at % PAGE;
            Some(Piece::Page { pfn, offset, length: length.min(PAGE - offset) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inline(address: u64, bytes: &[u8], fault: bool) -> Range {
        Range {
            address,
            length: bytes.len() as u64 + u64::from(fault) * 8,
            readable: bytes.len() as u64,
            fault,
            data: RangeData::Inline(bytes.to_vec()),
        }
    }

    #[test]
    fn bytes_are_found_across_ranges_and_the_gap_is_named() {
        let ranges = [inline(100, b"abcd", false), inline(104, b"ef", true)];
        let memory = UserMemory { guest: GuestId(0), chunk: &ranges, fetched: &Fetched::default() };
        let mut bytes = [0; 5];
        memory.read(&NoPages, 101, &mut bytes).unwrap();
        assert_eq!(&bytes, b"bcdef");
        assert_eq!(memory.covers(100, 7), Err(Absent::Fault));
        assert_eq!(memory.covers(98, 4), Err(Absent::Missing(98)));
        assert_eq!(memory.covers(u64::MAX, 2), Err(Absent::Fault));
    }

    #[test]
    fn a_page_list_shorter_than_its_range_is_not_believed() {
        let data = RangeData::Pages(vec![Pfn(7)]);
        let range = Range { address: 4096 * 3 + 4090, length: 100, readable: 100, fault: false, data };
        let memory = UserMemory { guest: GuestId(0), chunk: &[range], fetched: &Fetched::default() };
        assert_eq!(memory.covers(4096 * 3 + 4090, 6), Ok(()));
        assert_eq!(memory.covers(4096 * 3 + 4090, 7), Err(Absent::Missing(4096 * 4)));
    }
}
