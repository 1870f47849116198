//! Arenas with typed ids: an id names one object for life, and a stale id finds nothing.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};

/// An id that an [`Arena`] hands out: a slot and the generation of its content.
pub(crate) trait ArenaId: Copy {
    fn new(index: u32, generation: u32) -> Self;
    fn index(self) -> u32;
    fn generation(self) -> u32;
}

macro_rules! arena_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) struct $name(u64);

        impl ArenaId for $name {
            fn new(index: u32, generation: u32) -> Self {
                $name(u64::from(generation) << 32 | u64::from(index))
            }

            fn index(self) -> u32 {
                self.0 as u32
            }

            fn generation(self) -> u32 {
                (self.0 >> 32) as u32
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
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Objects of one type, found by id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Arena<I, T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    id: PhantomData<I>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Arena { slots: Vec::new(), free: Vec::new(), id: PhantomData }
    }
}

impl<I: ArenaId, T> Arena<I, T> {
    pub(crate) fn insert(&mut self, value: T) -> I {
        match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.value = Some(value);
                I::new(index, slot.generation)
            }
            None => {
                let index = self.slots.len() as u32;
                self.slots.push(Slot { generation: 0, value: Some(value) });
                I::new(index, 0)
            }
        }
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let slot = self.slots.get(id.index() as usize)?;
        (slot.generation == id.generation()).then_some(slot.value.as_ref()).flatten()
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        (slot.generation == id.generation()).then_some(slot.value.as_mut()).flatten()
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        if slot.generation != id.generation() {
            return None;
        }
        let value = slot.value.take()?;
        // A slot whose generations are used up is not used again: its old ids stay stale for ever.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(id.index());
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Every object with its id.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (I, &T)> {
        let ids = (0..).zip(&self.slots);
        ids.filter_map(|(index, slot)| Some((I::new(index, slot.generation), slot.value.as_ref()?)))
    }

    /// Every free slot is there, vacant and listed once; an insertion may rely on that.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        holds(u32::try_from(self.slots.len()).is_ok(), "an arena has more slots than there are ids")?;
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
