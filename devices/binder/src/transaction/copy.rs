//! Moving a payload into the receiver's pages: gaps page to page, objects translated, the rest zeros.
//!
//! Nothing untranslated is ever in a target page (B171, B206).

use crate::buffer::{Mapping, align8};
use crate::ids::GuestId;
use crate::memory::{NotRam, Pages, UserMemory};
use crate::transaction::objects::{Plan, What};

/// Writes one payload.
pub(crate) struct Copier<'a> {
    pub pages: &'a dyn Pages,
    pub memory: UserMemory<'a>,
    pub sender: GuestId,
    pub mapping: &'a Mapping,
    /// Of the buffer in the mapping.
    pub start: u64,
    /// User address of the data.
    pub data: u64,
    pub data_size: u64,
}

impl Copier<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), NotRam> {
        self.mapping.write(self.pages, self.start + offset, bytes)
    }

    fn zero(&self, from: u64, to: u64) -> Result<(), NotRam> {
        self.mapping.zero(self.pages, self.start + from, to.saturating_sub(from))
    }

    fn user(&self, mut address: u64, mut offset: u64, mut length: u64) -> Result<(), NotRam> {
        while length > 0 {
            let piece = self.memory.piece(address, length).map_err(|_| NotRam)?;
            self.mapping.copy(self.pages, self.sender, &piece, self.start + offset)?;
            address = address.wrapping_add(piece.len());
            offset += piece.len();
            length -= piece.len();
        }
        Ok(())
    }

    /// Data: the gaps between the objects, and the objects.
    pub(crate) fn data(&self, plan: &Plan, translated: &[Vec<u8>]) -> Result<(), NotRam> {
        let mut done = 0;
        for (object, bytes) in plan.objects.iter().zip(translated) {
            self.user(self.data.wrapping_add(done), done, object.offset - done)?;
            self.write(object.offset, bytes)?;
            done = object.offset + bytes.len() as u64;
        }
        self.user(self.data.wrapping_add(done), done, self.data_size - done)?;
        self.zero(self.data_size, align8(self.data_size))
    }

    /// The offsets array as it was sent.
    pub(crate) fn offsets(&self, offsets: &[u64]) -> Result<(), NotRam> {
        if offsets.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        self.write(align8(self.data_size), &bytes)
    }

    /// The memory of the PTRs around the words that are replaced, and zeros after it up to `end`.
    pub(crate) fn pointers(&self, plan: &Plan, extra_start: u64, end: u64) -> Result<(), NotRam> {
        if plan.objects.is_empty() {
            return self.zero(extra_start, end);
        }
        let patches = self.patches(plan);
        let mut used = extra_start;
        for object in &plan.objects {
            let What::Ptr(ptr) = &object.what else { continue };
            let mut done = 0;
            let first = patches.partition_point(|(place, _)| *place < ptr.place);
            for (place, bytes) in &patches[first..] {
                if *place >= ptr.place + ptr.length {
                    break;
                }
                let at = place - ptr.place;
                self.user(ptr.source.wrapping_add(done), ptr.place + done, at.saturating_sub(done))?;
                self.write(*place, bytes)?;
                done = at + bytes.len() as u64;
            }
            self.user(ptr.source.wrapping_add(done), ptr.place + done, ptr.length.saturating_sub(done))?;
            used = ptr.place + align8(ptr.length);
            self.zero(ptr.place + ptr.length, used)?;
        }
        self.zero(used, end)
    }

    /// Words inside PTR memory that the receiver must not see as they were sent: addresses of
    /// children, and zeros where descriptors will stand. The order rule makes them ascend.
    fn patches(&self, plan: &Plan) -> Vec<(u64, Vec<u8>)> {
        let base = self.mapping.address.wrapping_add(self.start);
        let mut patches: Vec<(u64, Vec<u8>)> = Vec::new();
        for object in &plan.objects {
            match &object.what {
                What::Ptr(ptr) => {
                    if let Some(patch) = ptr.patch {
                        patches.push((patch, base.wrapping_add(ptr.place).to_le_bytes().to_vec()));
                    }
                }
                What::Fda { count, place, .. } if *count > 0 => {
                    patches.push((*place, vec![0; *count as usize * 4]));
                }
                _ => {}
            }
        }
        patches.sort_by_key(|(place, _)| *place);
        patches
    }
}
