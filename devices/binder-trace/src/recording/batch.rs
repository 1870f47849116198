//! Blocks that wait to be written.
//!
//! Comparing a block with an earlier one and summing it up takes code and tables that a guest's own would have to make room
//! for in the caches, three times a call. So blocks are kept as they are, and many are written in one go.

use super::block::Plain;

/// Blocks, one after another.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each ends, and what it is like.
    blocks: Vec<(usize, Option<u32>)>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.blocks.len() * size_of::<(usize, Option<u32>)>()
    }

    pub(super) fn push(&mut self, block: Plain<'_>) {
        self.bytes.extend_from_slice(block.padded);
        self.blocks.push((self.bytes.len(), block.like));
    }

    /// Gives the blocks away, and keeps memory of `kept` bytes.
    pub(super) fn drain(&mut self, kept: usize, mut take: impl FnMut(Plain<'_>)) {
        let mut start = 0;
        for (end, like) in self.blocks.drain(..) {
            take(Plain { padded: &self.bytes[start..end], like });
            start = end;
        }
        self.bytes.clear();
        self.bytes.shrink_to(kept);
    }
}
