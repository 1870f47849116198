//! A backend that is slow and unsteady, on purpose.
//!
//! A device behind vhost-user answers when it gets round to it. This is the same from inside: a
//! doorbell only notes that there is work, and each later [`turn`](Late::turn) does a random part
//! of it. The order that the protocol promises is kept (messages in ring order); what it leaves
//! open is varied: how late, how many at a time, events before or after the answers.

use serde::{Deserialize, Serialize};

/// The plan of a late device. A seed gives the same plan every time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Late {
    random: u64,
    work: bool,
    skip: u8,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Messages to answer at most.
    pub messages: usize,
    /// Events to deliver at most.
    pub events: usize,
    /// Events go out before the answers.
    pub events_first: bool,
}

impl Late {
    /// Random delays from `seed`.
    pub(super) fn new(seed: u64) -> Late {
        // xorshift must not start at 0, and its first numbers are as small as its seed.
        Late { random: (seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), work: false, skip: 0 }
    }

    /// The doorbell rang.
    pub(super) fn ring(&mut self) {
        if !self.work {
            self.skip = (self.next() % 3) as u8;
        }
        self.work = true;
    }

    /// All that was asked for is done.
    pub(super) fn rest(&mut self) {
        self.work = false;
    }

    /// Whether a turn is wanted.
    pub(super) fn has_work(&self) -> bool {
        self.work
    }

    /// What to do at this opportunity; `None`: nothing yet.
    pub(super) fn turn(&mut self) -> Option<Turn> {
        if !self.work {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let bits = self.next();
        self.skip = (bits >> 8 & 1) as u8;
        Some(Turn {
            messages: 1 + (bits & 3) as usize,
            events: 1 + (bits >> 2 & 3) as usize,
            events_first: bits & 16 != 0,
        })
    }

    /// xorshift64: repeatable and good enough to vary a plan.
    fn next(&mut self) -> u64 {
        let state = &mut self.random;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_always_done_after_a_few_turns() {
        for seed in 0..200 {
            let mut late = Late::new(seed);
            assert_eq!(late.turn(), None);
            late.ring();
            let mut left = 10usize;
            let mut turns = 0;
            while left > 0 {
                turns += 1;
                assert!(turns < 100, "seed {seed} starves");
                left = left.saturating_sub(late.turn().map_or(0, |turn| turn.messages));
            }
            late.rest();
            assert_eq!(late.turn(), None);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let plan = |seed| {
            let mut late = Late::new(seed);
            late.ring();
            (0..50).map(|_| late.turn()).collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(9));
    }
}
