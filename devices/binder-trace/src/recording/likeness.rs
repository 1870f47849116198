//! Blocks are much like earlier ones: a loop of calls has the same messages again, but for numbers and times. In a file a
//! block can be told by the words in which it differs from one before it.
//!
//! ```text
//! slot       u8     0: the entries follow as they are; else which block it is like, and whose place it takes
//! length     u16    of the entries, little endian
//! groups     u32    little endian: one bit for each 64 bytes of the entries, the lowest first: they differ
//! masks      a byte for each group that does: one bit for each 8 bytes of it, the lowest first: they differ
//! words      of each that differs: u8, in its lower half how many of its first bytes do not, in its upper half how many
//!            bytes follow; then these, exclusive-or what was there
//! ```
//!
//! At the start the block in each slot is all zeros. Behind the last of its entries a block has zeros up to 64 bytes.

/// Memory that stays for the next block.
const KEPT: usize = 64 << 10;

/// Blocks that are remembered.
const SLOTS: usize = 64;

/// Longer ones are told whole, and not remembered.
const LONGEST: usize = 2048;

const WORD: usize = 8;

/// Bytes that one byte of a mask is about. Most are as they were, which is seen at once.
pub(super) const GROUP: usize = 8 * WORD;

/// As many as there are bits for.
const GROUPS: usize = LONGEST / GROUP;

/// Slot, length and groups.
const TOP: usize = 1 + 2 + 4;

/// Longest head that a block is given.
const HEAD_ROOM: usize = 16;

/// Room for all that can be told of a block by its differences, and for what is written behind the last word.
const ROOM: usize = HEAD_ROOM + TOP + GROUPS + (1 + WORD) * (LONGEST / WORD) + WORD;

/// The blocks that a writer and its readers remember.
pub(super) struct Likeness {
    slots: Vec<[[u8; GROUP]; GROUPS]>,
    /// What was told last, and room.
    told: Box<[u8]>,
    /// What was told last as it is.
    whole: Vec<u8>,
}

impl Default for Likeness {
    fn default() -> Self {
        Likeness { slots: vec![[[0; GROUP]; GROUPS]; SLOTS], told: vec![0; ROOM].into(), whole: Vec::new() }
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
        const { assert!(HEAD <= HEAD_ROOM && GROUPS <= u32::BITS as usize) };
        let Some(like) = like.filter(|_| length <= LONGEST) else {
            self.whole.clear();
            self.whole.shrink_to(KEPT);
            self.whole.extend_from_slice(&[0; HEAD]);
            self.whole.push(0);
            self.whole.extend_from_slice(&padded[..length]);
            return &mut self.whole;
        };
        let slot = slot_of(like, length);
        let before = &mut self.slots[slot];
        let (now, _) = padded.as_chunks::<GROUP>();
        let now = &now[..length.div_ceil(GROUP)];
        let differ = now.iter().zip(&*before).enumerate();
        let differ =
            differ.fold(0u32, |all, (group, (now, before))| all | u32::from(differs(now, before)) << group);
        let (head, rest) = self.told.split_at_mut(HEAD + TOP);
        head[HEAD] = slot as u8;
        head[HEAD + 1..][..2].copy_from_slice(&(length as u16).to_le_bytes());
        head[HEAD + 3..].copy_from_slice(&differ.to_le_bytes());
        let (masks, words) = rest.split_at_mut(differ.count_ones() as usize);
        let mut told = 0;
        for (group, mask) in bits(differ).zip(masks.iter_mut()) {
            let (now, before) = (&now[group], &mut before[group]);
            let ((new, _), (old, _)) = (now.as_chunks::<WORD>(), before.as_chunks::<WORD>());
            *mask = (0..8).fold(0, |mask, word| mask | u8::from(new[word] != old[word]) << word);
            for word in bits((*mask).into()) {
                told += tell(differing(new[word], old[word]), &mut words[told..]);
            }
            *before = *now;
        }
        let length = HEAD + TOP + masks.len() + told;
        &mut self.told[..length]
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
        let (differ, rest) = rest.split_first_chunk().ok_or(WRONG)?;
        let differ = u32::from_le_bytes(*differ);
        let (masks, mut words) = rest.split_at_checked(differ.count_ones() as usize).ok_or(WRONG)?;
        let groups = before.iter_mut().enumerate().filter(|(group, _)| differ >> group & 1 == 1);
        for ((_, group), mask) in groups.zip(masks) {
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

/// Whether groups differ: all words at once, which is less than a look at each.
#[inline]
fn differs(now: &[u8; GROUP], before: &[u8; GROUP]) -> bool {
    let ((now, _), (before, _)) = (now.as_chunks::<WORD>(), before.as_chunks::<WORD>());
    (0..8).fold(0, |any, word| any | differing(now[word], before[word])) != 0
}

/// The places of the bits that are set, the lowest first.
#[inline]
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        let some = set != 0;
        set &= set.wrapping_sub(1);
        some.then_some(lowest)
    })
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
        // Slot, length, groups; four masks and 26 words, then one of each: as many bytes as lie between those that differ.
        assert_eq!(lengths, [7 + 4 + 26 + 203, 8 + 2, 8 + 2, 8 + 8, 8 + 2]);
    }

    proptest! {
        #[test]
        fn what_was_told_is_read(
            blocks in prop::collection::vec((prop::option::of(0..3u32), 0..3usize, any::<(u16, u8)>()), 1..40)
        ) {
            let (mut writer, mut reader) = (Likeness::default(), Likeness::default());
            let mut bodies = [vec![1; 9], vec![2; LONGEST], vec![3; LONGEST + 1]];
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
