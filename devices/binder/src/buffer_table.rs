//! The buffers of a mapping, found by offset. Most of the time there is one: the call that is served, or its reply.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arena::BufferId;

/// Buffers by offset. The latest one is beside the tree, which a mapping with one buffer at a time never touches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BufferTable {
    latest: Option<(u64, BufferId)>,
    older: BTreeMap<u64, BufferId>,
}

impl BufferTable {
    pub(crate) fn get(&self, offset: u64) -> Option<BufferId> {
        match self.latest {
            Some((latest, id)) if latest == offset => Some(id),
            _ => self.older.get(&offset).copied(),
        }
    }

    pub(crate) fn insert(&mut self, offset: u64, id: BufferId) {
        if let Some((offset, id)) = self.latest.replace((offset, id)) {
            self.older.insert(offset, id);
        }
    }

    pub(crate) fn remove(&mut self, offset: u64) {
        match self.latest {
            Some((latest, _)) if latest == offset => self.latest = None,
            _ => {
                self.older.remove(&offset);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.older.len() + usize::from(self.latest.is_some())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offsets and buffers, the lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, BufferId)> {
        let at = self.latest.map_or(u64::MAX, |(offset, _)| offset);
        let (before, behind) = (self.older.range(..at), self.older.range(at..));
        let older = |(offset, id): (&u64, &BufferId)| (*offset, *id);
        before.map(older).chain(self.latest).chain(behind.map(older))
    }

    /// Buffers, the lowest first.
    pub(crate) fn values(&self) -> impl Iterator<Item = BufferId> {
        self.iter().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arena::ArenaId;

    proptest! {
        /// A map is the model.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u64..20), 0..200)) {
            let (mut table, mut model) = (BufferTable::default(), BTreeMap::new());
            for (number, (insert, offset)) in (0..).zip(steps) {
                if insert && !model.contains_key(&offset) {
                    table.insert(offset, BufferId::first(number));
                    model.insert(offset, BufferId::first(number));
                } else {
                    table.remove(offset);
                    model.remove(&offset);
                }
                prop_assert_eq!(table.get(offset), model.get(&offset).copied());
                prop_assert!(table.iter().eq(model.iter().map(|(offset, id)| (*offset, *id))));
                prop_assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
