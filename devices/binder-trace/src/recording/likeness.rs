//! Blocks are much like earlier ones: a loop of calls has the same messages again, but for numbers and times. In a file a
//! block can be told by the words in which it differs from one before it.
//!
//! ```text
//! slot       u8     0: the entries follow as they are; else which block it is like, and whose place it takes
//! length     u16    of the entries, little endian
//! mask       a byte for each 64 bytes of the entries: one bit for each 8 of them, the lowest first: they differ
//! words      of each that differs: u8, in its lower half how many of its first bytes do not, in its upper half how many bytes
//!            follow; then these, exclusive-or what was there
//! ```
//!
//! At the start the block in each slot is all zeros. Behind the last of its entries a block has zeros up to 64 bytes.

/// Memory that stays for the next block.
const KEPT: usize = 64 << 10;

/// Blocks that are remembered.
const SLOTS: usize = 64;

/// Longer ones are told whole, and not remembered.
const LONGEST: usize = 1024;

const WORD: usize = 8;

/// Bytes that one byte of the mask is about. Most are as they were, which is seen at once.
pub(super) const GROUP: usize = 8 * WORD;

const GROUPS: usize = LONGEST / GROUP;

/// Slot and length.
const TOP: usize = 3;

/// Room for all that can be told of a block by its differences, and for what is written behind the last word.
const TOLD: usize = TOP + GROUPS + (1 + WORD) * (LONGEST / WORD) + WORD;

/// The blocks that a writer and its readers remember.
pub(super) struct Likeness {
    slots: Vec<[[u8; GROUP]; GROUPS]>,
    /// What was told last, and room.
    told: Vec<u8>,
}

impl Default for Likeness {
    fn default() -> Self {
        Likeness { slots: vec![[[0; GROUP]; GROUPS]; SLOTS], told: Vec::new() }
    }
}

impl Likeness {
    /// Entries as a file has them, behind room for a `head`: by the words in which they differ from a block that had this
    /// `like` and the same length, if there was one. They are the first `length` bytes of `padded`, behind which it has
    /// zeros up to a whole [`GROUP`].
    pub(super) fn encode<const HEAD: usize>(
        &mut self,
        padded: &[u8],
        length: usize,
        like: Option<u32>,
    ) -> &mut [u8] {
        let Some(like) = like.filter(|_| length <= LONGEST) else {
            self.told.clear();
            self.told.shrink_to(KEPT);
            self.told.extend([0; HEAD]);
            self.told.push(0);
            self.told.extend(&padded[..length]);
            return &mut self.told;
        };
        if self.told.len() < HEAD + TOLD {
            self.told.resize(HEAD + TOLD, 0);
        }
        let slot = slot_of(like, length);
        let [low, high] = (length as u16).to_le_bytes();
        let (groups, _) = padded.as_chunks::<GROUP>();
        let count = length.div_ceil(GROUP);
        let (top, rest) = self.told[HEAD..].split_at_mut(TOP);
        top.copy_from_slice(&[slot as u8, low, high]);
        let (masks, words) = rest.split_at_mut(count);
        let mut told = 0;
        for ((now, before), mask) in groups[..count].iter().zip(&mut self.slots[slot]).zip(masks) {
            *mask = 0;
            if now == before {
                continue;
            }
            let ((new, _), (old, _)) = (now.as_chunks::<WORD>(), before.as_chunks::<WORD>());
            *mask = (0..8).fold(0, |mask, bit| mask | u8::from(new[bit] != old[bit]) << bit);
            let mut left = *mask;
            while left != 0 {
                let at = left.trailing_zeros() as usize;
                told += tell(differing(new[at], old[at]), &mut words[told..]);
                left &= left - 1;
            }
            *before = *now;
        }
        &mut self.told[..HEAD + TOP + count + told]
    }

    /// The entries of what [`encode`](Self::encode) made, put into `to`; `None`: they are `stored` from its second byte on.
    pub(super) fn decode(&mut self, stored: &[u8], to: &mut Vec<u8>) -> Result<Option<()>, &'static str> {
        const WRONG: &str = "a block tells less than it says";
        let (slot, rest) = stored.split_first().ok_or(WRONG)?;
        if *slot == 0 {
            return Ok(None);
        }
        let before = self.slots.get_mut(usize::from(*slot)).ok_or("a block is like none")?;
        let (length, rest) = rest.split_first_chunk().ok_or(WRONG)?;
        let length = usize::from(u16::from_le_bytes(*length));
        if length > LONGEST {
            return Err("a block is longer than what it is like");
        }
        let (mask, mut words) = rest.split_at_checked(length.div_ceil(GROUP)).ok_or(WRONG)?;
        for (group, mask) in before.iter_mut().zip(mask) {
            for (bit, word) in group.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
                if mask >> bit & 1 == 1 {
                    words = hear(word, words).ok_or(WRONG)?;
                }
            }
        }
        if !words.is_empty() {
            return Err("a block tells more than it says");
        }
        to.clear();
        to.extend(&before.as_flattened()[..length]);
        Ok(Some(()))
    }
}

/// The bits in which two words differ, the first byte's lowest.
#[inline]
fn differing(now: [u8; WORD], before: [u8; WORD]) -> u64 {
    u64::from_le_bytes(now) ^ u64::from_le_bytes(before)
}

/// Writes how a word differs from what it was, and gives the number of bytes of that.
#[inline]
fn tell(differs: u64, to: &mut [u8]) -> usize {
    let same = differs.trailing_zeros() / 8;
    let differing = (differs >> (8 * same)).to_le_bytes();
    let count = WORD - (differs.leading_zeros() / 8 + same) as usize;
    to[0] = (count << 4) as u8 | same as u8;
    // All of them: the next word takes the place of those that say nothing.
    to[1..1 + WORD].copy_from_slice(&differing);
    1 + count
}

/// Makes of a word what was [told](tell) first in `from`, and gives the rest.
fn hear<'a>(word: &mut [u8; WORD], from: &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = from.split_first()?;
    let (differing, rest) = rest.split_at_checked(usize::from(head >> 4))?;
    let place = word.get_mut(usize::from(head & 0xf)..)?.get_mut(..differing.len())?;
    place.iter_mut().zip(differing).for_each(|(byte, differs)| *byte ^= differs);
    Some(rest)
}

/// Where a block like this is looked for.
fn slot_of(like: u32, length: usize) -> usize {
    let mixed = (like ^ (length as u32) << 16).wrapping_mul(0x9e37_79b1);
    1 + (mixed >> 16) as usize % (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(likeness: &mut Likeness, entries: &[u8], like: Option<u32>) -> Vec<u8> {
        let mut padded = entries.to_vec();
        padded.resize(entries.len().next_multiple_of(GROUP), 0);
        likeness.encode::<3>(&padded, entries.len(), like)[3..].to_vec()
    }

    fn decoded(likeness: &mut Likeness, stored: &[u8]) -> Vec<u8> {
        let mut to = vec![7; 3];
        match likeness.decode(stored, &mut to).unwrap() {
            Some(()) => to,
            None => stored[1..].to_vec(),
        }
    }

    #[test]
    fn a_block_like_the_one_before_costs_only_what_differs() {
        let (mut writer, mut reader) = (Likeness::default(), Likeness::default());
        let mut entries: Vec<u8> = (1..=203).collect();
        let mut lengths = Vec::new();
        for changed in [&[0][..], &[0], &[80], &[81, 87], &[202]] {
            changed.iter().for_each(|at| entries[*at] ^= 0x80);
            let stored = encode(&mut writer, &entries, Some(17));
            assert_eq!(decoded(&mut reader, &stored), entries);
            lengths.push(stored.len());
        }
        // Slot, length, a mask of 26 bits; then 26 words, and one each time: as many bytes as lie between those that differ.
        assert_eq!(lengths, [7 + 26 + 203, 7 + 2, 7 + 2, 7 + 8, 7 + 2]);
    }

    proptest! {
        #[test]
        fn what_was_told_is_read(
            blocks in prop::collection::vec((prop::option::of(0..3u32), 0..3usize, any::<(u16, u8)>()), 1..40)
        ) {
            let (mut writer, mut reader) = (Likeness::default(), Likeness::default());
            let mut bodies = [vec![1; 9], vec![2; 1024], vec![3; 1025]];
            for (like, which, (at, value)) in blocks {
                let body = &mut bodies[which];
                let at = usize::from(at) % body.len();
                body[at] = value;
                let stored = encode(&mut writer, body, like);
                prop_assert_eq!(&decoded(&mut reader, &stored), body);
            }
        }

        #[test]
        fn garbage_is_judged(stored in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut to = Vec::new();
            let _ = Likeness::default().decode(&stored, &mut to);
            prop_assert!(to.len() <= LONGEST);
        }
    }
}
