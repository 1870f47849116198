//! Blocks are much like earlier ones: a loop of calls has the same messages again, but for numbers and times. In a file a
//! block can be told by the words in which it differs from one before it.
//!
//! ```text
//! slot       u8     0: the entries follow as they are; else which block it is like, and whose place it takes
//! length     u16    of the entries, little endian
//! mask       one bit for each 8 bytes of the entries, the lowest first: they differ
//! words      those that differ, 8 bytes each; the last one of the entries has zeros behind its bytes
//! ```
//!
//! At the start the block in each slot is all zeros, and so is what lies behind the end of each.

use std::array;

/// Blocks that are remembered.
const SLOTS: usize = 64;

/// Longer ones are told whole, and not remembered.
const LONGEST: usize = 1024;

const WORD: usize = 8;

const WORDS: usize = LONGEST / WORD;

/// A block as words.
type Words = [[u8; WORD]; WORDS];

/// The blocks that a writer and its readers remember.
pub(super) struct Likeness {
    slots: Vec<Words>,
}

impl Default for Likeness {
    fn default() -> Self {
        Likeness { slots: vec![[[0; WORD]; WORDS]; SLOTS] }
    }
}

impl Likeness {
    /// Appends `entries` to `to` as a file has them: by the words in which they differ from a block that had this
    /// `like` and the same length, if there was one.
    pub(super) fn encode(&mut self, entries: &[u8], like: Option<u32>, to: &mut Vec<u8>) {
        let Some(like) = like.filter(|_| entries.len() <= LONGEST) else {
            to.push(0);
            to.extend(entries);
            return;
        };
        let slot = slot_of(like, entries.len());
        let count = entries.len().div_ceil(WORD);
        let head = 3 + count.div_ceil(8);
        let start = to.len();
        to.resize(start + head + count * WORD, 0);
        let (fixed, words) = to[start..].split_at_mut(head);
        fixed[0] = slot as u8;
        fixed[1..3].copy_from_slice(&(entries.len() as u16).to_le_bytes());
        let (whole, rest) = entries.as_chunks::<WORD>();
        let last = array::from_fn(|at| rest.get(at).copied().unwrap_or(0));
        let mut differing = 0;
        let now = whole.iter().chain((!rest.is_empty()).then_some(&last));
        for (index, (word, before)) in now.zip(&mut self.slots[slot]).enumerate() {
            let differs = word != before;
            fixed[3 + index / 8] |= u8::from(differs) << (index % 8);
            // Written in any case: the next one takes its place, unless it differs.
            words[differing * WORD..][..WORD].copy_from_slice(word);
            differing += usize::from(differs);
            *before = *word;
        }
        to.truncate(start + head + differing * WORD);
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
        let count = length.div_ceil(WORD);
        let (mask, mut words) = rest.split_at_checked(count.div_ceil(8)).ok_or(WRONG)?;
        for (index, before) in before[..count].iter_mut().enumerate() {
            if mask[index / 8] >> (index % 8) & 1 == 1 {
                (*before, words) =
                    words.split_first_chunk().map(|(word, rest)| (*word, rest)).ok_or(WRONG)?;
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

/// Where a block like this is looked for.
fn slot_of(like: u32, length: usize) -> usize {
    let mixed = (like ^ (length as u32) << 16).wrapping_mul(0x9e37_79b1);
    1 + (mixed >> 16) as usize % (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        for changed in [0, 0, 80, 202] {
            entries[changed] ^= 0x80;
            let mut stored = Vec::new();
            writer.encode(&entries, Some(17), &mut stored);
            assert_eq!(decoded(&mut reader, &stored), entries);
            lengths.push(stored.len());
        }
        // Slot, length, a mask of 26 bits; then 26 words, and one each time.
        assert_eq!(lengths, [7 + 26 * 8, 7 + 8, 7 + 8, 7 + 8]);
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
                let mut stored = vec![9];
                writer.encode(body, like, &mut stored);
                prop_assert_eq!(&decoded(&mut reader, &stored[1..]), body);
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
