//! Arenas with typed ids: an id names one object for life, and a stale id finds nothing.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};

/// An id that an [`Arena`] hands out: a slot and the generation of its content.
pub(crate) trait ArenaId: Copy + PartialEq {
    /// The first id of a slot.
    fn first(index: u32) -> Self;
    /// The id of the slot's next content; `None` when the generations are used up.
    fn next(self) -> Option<Self>;
    fn index(self) -> usize;
}

/// The first generation is 1, so that no id is 0 and an `Option` of one is as small as the id. The slot is in the
/// low half.
const FIRST: NonZeroU64 = NonZeroU64::new(1 << 32).expect("not 0");

macro_rules! arena_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) struct $name(NonZeroU64);

        impl ArenaId for $name {
            fn first(index: u32) -> Self {
                $name(FIRST.saturating_add(index.into()))
            }

            fn next(self) -> Option<Self> {
                Some($name(self.0.checked_add(FIRST.get())?))
            }

            fn index(self) -> usize {
                self.0.get() as u32 as usize
            }
        }
    )*};
}

arena_ids! {
    /// A thread object.
    ThreadId,
    /// A node.
    NodeId,
    /// An entry of a handle table.
    RefId,
    /// A call, oneway or reply under way.
    TransactionId,
    /// A buffer of a mapping.
    BufferId,
    /// A death registration.
    DeathId,
    /// A freeze registration.
    FreezeId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Slot<I, T> {
    /// Of the value; of a free slot the one to come.
    id: I,
    value: Option<T>,
}

/// Objects of one type, found by id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Arena<I, T> {
    slots: Vec<Slot<I, T>>,
    free: Vec<u32>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Arena { slots: Vec::new(), free: Vec::new() }
    }
}

impl<I: ArenaId, T> Arena<I, T> {
    pub(crate) fn insert(&mut self, value: T) -> I {
        self.insert_with(move || value)
    }

    /// Adds what `make` makes, in its place.
    #[inline(always)]
    pub(crate) fn insert_with(&mut self, make: impl FnOnce() -> T) -> I {
        match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.value = Some(make());
                slot.id
            }
            None => {
                let id = I::first(self.slots.len() as u32);
                self.slots.push(Slot { id, value: Some(make()) });
                id
            }
        }
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let slot = self.slots.get(id.index())?;
        if slot.id == id { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index())?;
        if slot.id == id { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let slot = self.slots.get_mut(id.index())?;
        if slot.id != id || slot.value.is_none() {
            return None;
        }
        // A slot whose generations are used up is not used again: its old ids stay stale for ever.
        if let Some(next) = id.next() {
            slot.id = next;
            self.free.push(id.index() as u32);
        }
        slot.value.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Every object with its id.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().filter_map(|slot| Some((slot.id, slot.value.as_ref()?)))
    }

    /// Every free slot is there, vacant and listed once; an insertion may rely on that.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        holds(u32::try_from(self.slots.len()).is_ok(), "an arena has more slots than there are ids")?;
        let own = self.slots.iter().zip(0..).all(|(slot, index)| slot.id.index() == index);
        holds(own, "an object of an arena has another one's id")?;
        let vacant = |index: &u32| self.slots.get(*index as usize).is_some_and(|slot| slot.value.is_none());
        holds(self.free.iter().all(vacant), "a free slot of an arena is in use or missing")?;
        let distinct: BTreeSet<u32> = self.free.iter().copied().collect();
        holds(distinct.len() == self.free.len(), "a slot of an arena is free twice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut arena: Arena<NodeId, u8> = Arena::default();
        let old = arena.insert(1);
        assert_eq!(arena.remove(old), Some(1));
        let new = arena.insert(2);
        assert_eq!((old.index(), arena.remove(old)), (new.index(), None));
        assert_eq!(arena.get(old), None);
        assert_eq!(arena.get(new), Some(&2));
        assert_eq!(arena.iter().count(), 1);
    }
}
