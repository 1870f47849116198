//! A queue whose items can be taken out from anywhere.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};

/// Items in the order they came. Each has a ticket that takes it out again; tickets ascend, and none is
/// given twice. What is taken from the middle leaves a gap behind, so that nothing moves; there is
/// never a gap at an end, and never more gaps than items.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tickets<T> {
    items: VecDeque<(u64, Option<T>)>,
    gaps: usize,
    next: u64,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Tickets { items: VecDeque::new(), gaps: 0, next: 0 }
    }
}

impl<T: Copy> Tickets<T> {
    /// Appends an item. Returns its ticket.
    pub(crate) fn push(&mut self, item: T) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.items.push_back((ticket, Some(item)));
        ticket
    }

    /// Takes the oldest item.
    pub(crate) fn pop_first(&mut self) -> Option<T> {
        let (_, item) = self.items.pop_front()?;
        self.close_gaps();
        item
    }

    /// Takes the latest item.
    pub(crate) fn pop_last(&mut self) -> Option<T> {
        let (_, item) = self.items.pop_back()?;
        self.close_gaps();
        item
    }

    /// The oldest item.
    pub(crate) fn first(&self) -> Option<T> {
        self.items.front().and_then(|(_, item)| *item)
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<T> {
        self.items[self.find(ticket)?].1
    }

    pub(crate) fn remove(&mut self, ticket: u64) -> Option<T> {
        let index = self.find(ticket)?;
        let item = self.items[index].1.take()?;
        self.gaps += 1;
        self.close_gaps();
        Some(item)
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        self.items.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()
    }

    #[inline(always)]
    fn close_gaps(&mut self) {
        if self.gaps > 0 {
            self.trim_gaps();
        }
        // What a flood took is given back.
        if self.items.capacity() > 64 && self.items.len() < self.items.capacity() / 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }

    #[cold]
    fn trim_gaps(&mut self) {
        while let Some((_, None)) = self.items.front() {
            self.items.pop_front();
            self.gaps -= 1;
        }
        while let Some((_, None)) = self.items.back() {
            self.items.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.items.len() / 2 {
            self.items.retain(|(_, item)| item.is_some());
            self.gaps = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.gaps
    }

    /// Items with their tickets, the oldest first.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = (u64, T)> {
        self.items.iter().filter_map(|(ticket, item)| Some((*ticket, (*item)?)))
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = T> {
        self.entries().map(|(_, item)| item)
    }

    /// Whether the next ticket is a new one, with room for all that may follow, and gaps are where they may be.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        let ascend = self.items.iter().is_sorted_by(|one, other| one.0 < other.0);
        let follows = self.items.back().is_none_or(|(last, _)| *last < self.next) && self.next < 1 << 62;
        holds(ascend && follows, "a queue gives tickets out twice")?;
        let gaps = self.items.iter().filter(|(_, item)| item.is_none()).count();
        let at_end =
            [self.items.front(), self.items.back()].into_iter().flatten().any(|(_, item)| item.is_none());
        holds(gaps == self.gaps && gaps <= self.items.len() / 2 && !at_end, "a queue has lost items")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A map by ticket is the model.
        #[test]
        fn it_is_a_map_by_ticket(steps in proptest::collection::vec((0u8..8, any::<u64>()), 0..400)) {
            let (mut queue, mut model, mut pushed) = (Tickets::default(), BTreeMap::new(), 0u64);
            for (step, value) in steps {
                match step {
                    0..4 => {
                        let ticket = queue.push(value);
                        prop_assert_eq!(ticket, pushed);
                        pushed += 1;
                        model.insert(ticket, value);
                    }
                    4 => prop_assert_eq!(queue.pop_first(), model.pop_first().map(|(_, item)| item)),
                    5 => prop_assert_eq!(queue.pop_last(), model.pop_last().map(|(_, item)| item)),
                    _ => {
                        let ticket = value % (pushed + 1);
                        prop_assert_eq!(queue.get(ticket), model.get(&ticket).copied());
                        prop_assert_eq!(queue.remove(ticket), model.remove(&ticket));
                    }
                }
                prop_assert!(queue.check().is_ok());
                prop_assert_eq!(queue.first(), model.values().next().copied());
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
            prop_assert!(queue.entries().eq(model));
        }
    }
}
