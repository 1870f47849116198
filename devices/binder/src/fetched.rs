//! The sender's memory that NEEDS brought, found by address in logarithmic time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};
use crate::memory::PAGE;
use crate::message::{Range, RangeData};

/// Ranges by address. None lies within another one, so their ends ascend as their addresses do,
/// and the last one that starts at or before a byte is the one that says the most about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fetched(BTreeMap<u64, Range>);

impl Fetched {
    pub(crate) const fn new() -> Fetched {
        Fetched(BTreeMap::new())
    }

    /// Takes a range; false if it says nothing new.
    pub(crate) fn insert(&mut self, mut range: Range) -> bool {
        // What is claimed and not carried would be missing for ever, and hide what comes later.
        range.readable = range.readable.min(carried(&range));
        let (start, end) = (range.address, end(&range));
        if start == end || self.at(start).is_some_and(|known| end <= self::end(known)) {
            return false;
        }
        while let Some((&inner, known)) = self.0.range(start..).next()
            && self::end(known) <= end
        {
            self.0.remove(&inner);
        }
        self.0.insert(start, range);
        true
    }

    /// The range that may have the byte at `address`.
    pub(crate) fn at(&self, address: u64) -> Option<&Range> {
        if self.0.is_empty() { None } else { self.find(address) }
    }

    fn find(&self, address: u64) -> Option<&Range> {
        self.0.range(..=address).next_back().map(|(_, range)| range)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is what its own ranges make.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        let mut again = Fetched::default();
        let grew = self.0.iter().all(|(start, range)| *start == range.address && again.insert(range.clone()));
        holds(grew && again == *self, "fetched memory overlaps itself")
    }

    /// Bytes of host memory that it takes.
    pub(crate) fn weight(&self) -> u64 {
        self.0.values().map(Range::weight).sum()
    }
}

/// Bytes that the data of a range has, from its start.
fn carried(range: &Range) -> u64 {
    match &range.data {
        RangeData::None => 0,
        RangeData::Inline(bytes) => bytes.len() as u64,
        RangeData::Pages(pfns) => (pfns.len() as u64 * PAGE).saturating_sub(range.address % PAGE),
    }
}

/// Where what a range tells ends: a fault tells of all that is named after it.
fn end(range: &Range) -> u64 {
    let told = if range.fault { range.length.max(range.readable.saturating_add(1)) } else { range.readable };
    range.address.saturating_add(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(address: u64, length: usize) -> Range {
        let data = RangeData::Inline(vec![0; length]);
        Range { address, length: length as u64, readable: length as u64, fault: false, data }
    }

    #[test]
    fn no_range_lies_within_another() {
        let mut fetched = Fetched::default();
        assert!(fetched.insert(bytes(200, 10)));
        assert!(fetched.insert(bytes(220, 10)));
        assert!(fetched.insert(bytes(225, 10)));
        assert!(!fetched.insert(bytes(222, 5)), "known");
        assert!(fetched.insert(bytes(199, 32)), "swallows two");
        assert_eq!(fetched.0.keys().copied().collect::<Vec<_>>(), [199, 225]);
        assert_eq!(fetched.at(224).unwrap().address, 199);
        assert_eq!(fetched.at(234).unwrap().address, 225);
        assert!(fetched.at(198).is_none());
    }

    #[test]
    fn what_is_not_carried_is_not_known() {
        let mut fetched = Fetched::default();
        let pages = RangeData::Pages(vec![crate::ids::Pfn(1)]);
        assert!(fetched.insert(Range { data: pages, ..bytes(PAGE + 4000, 4000) }));
        assert!(fetched.insert(bytes(PAGE + 4096, 1)), "the second page did not come");
        assert!(!fetched.insert(Range { data: RangeData::None, ..bytes(0, 8) }));
        let fault = Range { data: RangeData::None, readable: 0, fault: true, ..bytes(0, 8) };
        assert!(fetched.insert(fault.clone()));
        assert!(!fetched.insert(Range { address: 3, length: 5, ..fault }));
    }
}
