//! The process object: one open of a device.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::arena::{NodeId, RefId, ThreadId};
use crate::buffer::Mapping;
use crate::check::{Inconsistent, holds};
use crate::errno::Errno;
use crate::ids::{GuestId, Kuid, Pid, ProcId, Tid};
use crate::logs::Counters;
use crate::message::LsmQuestion;
use crate::sched::Scheduling;
use crate::tickets::Tickets;
use crate::work::WorkQueue;

/// Names a [`Context`] of its domain for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ContextId(pub u32);

/// One device ("binder"): a world of handles with one manager (B006).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    /// As it was made; a device that is renamed keeps it (B410).
    pub name: Vec<u8>,
    /// A binderfs device: whose, and the guest's number for it. `None`: the device of that name, which
    /// all guests of the domain share.
    pub device: Option<(GuestId, u32)>,
    pub manager: Option<NodeId>,
    /// Pinned by the first successful check (B048).
    pub manager_uid: Option<Kuid>,
}

/// An open file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Proc {
    pub guest: GuestId,
    pub pid: Pid,
    pub context: ContextId,
    /// Of its threads between calls (B002, B324).
    pub default_sched: Scheduling,
    pub secctx: Vec<u8>,
    pub secctx_error: Errno,
    pub threads: BTreeMap<Tid, ThreadId>,
    /// By the owner's pointer.
    pub nodes: BTreeMap<u64, NodeId>,
    pub refs: HandleTable,
    pub todo: WorkQueue,
    /// Parked threads that may take process work.
    pub waiting: WaitingList,
    pub delivered_deaths: WorkQueue,
    pub delivered_freezes: WorkQueue,
    /// Cookies and tickets of what is in `delivered_deaths`, to be found by cookie.
    pub death_cookies: BTreeSet<(u64, u64)>,
    /// The same of `delivered_freezes`.
    pub freeze_cookies: BTreeSet<(u64, u64)>,
    pub max_threads: u32,
    pub requested_threads: u32,
    pub started_threads: u32,
    pub mapping: Option<Mapping>,
    pub frozen: bool,
    pub sync_received: bool,
    pub async_received: bool,
    /// B370.
    pub outstanding: u32,
    pub spam_detection: bool,
    /// The LSM's answers about this sender, in mode cache.
    pub lsm: Answers,
    /// Threads that wait in `BINDER_FREEZE` for this process.
    pub freezers: BTreeSet<ThreadId>,
    /// Its armed threads are looked at when the message ends.
    pub poll_due: bool,
    /// Its commands and returns.
    pub counters: Counters,
}

/// What the LSM said about a sender and its targets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answers(BTreeMap<(ProcId, LsmQuestion), bool>);

impl Answers {
    /// So many are remembered: as many as a busy system's processes have of each other.
    const MAX: usize = 512;

    pub(crate) fn get(&self, target: ProcId, question: LsmQuestion) -> Option<bool> {
        self.0.get(&(target, question)).copied()
    }

    /// Remembers one; where there are too many, all others are asked for again.
    pub(crate) fn insert(&mut self, target: ProcId, question: LsmQuestion, allowed: bool) {
        if self.0.len() >= Self::MAX {
            self.0.clear();
        }
        self.0.insert((target, question), allowed);
    }

    /// A target is gone.
    pub(crate) fn forget(&mut self, target: ProcId) {
        for question in [LsmQuestion::Transaction, LsmQuestion::TransferBinder] {
            self.0.remove(&(target, question));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether they are of processes that are there.
    pub(crate) fn check(&self, mut is_there: impl FnMut(ProcId) -> bool) -> Result<(), Inconsistent> {
        let known = self.0.keys().all(|(target, _)| is_there(*target)) && self.0.len() <= Self::MAX;
        holds(known, "the LSM judged a process that is not there, or too many")
    }
}

/// Parked threads; the most recently parked one is taken first (B083).
pub(crate) type WaitingList = Tickets<ThreadId>;

/// The first ticket with a cookie.
pub(crate) fn first_ticket(cookies: &BTreeSet<(u64, u64)>, cookie: u64) -> Option<u64> {
    cookies.range((cookie, 0)..=(cookie, u64::MAX)).next().map(|(_, ticket)| *ticket)
}

/// Numbers and the refs behind them (B249, B250).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HandleTable {
    by_handle: BTreeMap<u32, RefId>,
    by_node: BTreeMap<NodeId, RefId>,
    /// Unused numbers from 1 to `highest`.
    unused: BTreeSet<u32>,
    /// The highest number ever given.
    highest: u32,
}

impl HandleTable {
    pub(crate) fn get(&self, handle: u32) -> Option<RefId> {
        self.by_handle.get(&handle).copied()
    }

    pub(crate) fn find(&self, node: NodeId) -> Option<RefId> {
        self.by_node.get(&node).copied()
    }

    /// The number for a new ref: 0 for the manager if it is free, else the lowest free one.
    pub(crate) fn reserve(&mut self, manager: bool) -> Option<u32> {
        if manager && !self.by_handle.contains_key(&0) {
            return Some(0);
        }
        if let Some(handle) = self.unused.pop_first() {
            return Some(handle);
        }
        self.highest = self.highest.checked_add(1)?;
        Some(self.highest)
    }

    pub(crate) fn insert(&mut self, handle: u32, node: NodeId, id: RefId) {
        self.by_handle.insert(handle, id);
        self.by_node.insert(node, id);
    }

    pub(crate) fn remove(&mut self, handle: u32, node: NodeId) {
        self.by_handle.remove(&handle);
        self.by_node.remove(&node);
        if handle != 0 {
            self.unused.insert(handle);
        }
    }

    /// The ref with the lowest number.
    pub(crate) fn first(&self) -> Option<RefId> {
        self.by_handle.first_key_value().map(|(_, id)| *id)
    }

    /// Numbers with their refs.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, RefId)> {
        self.by_handle.iter().map(|(handle, id)| (*handle, *id))
    }

    /// Whether a number that is handed out next is free, and both tables have as many refs.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        holds(self.by_handle.len() == self.by_node.len(), "a handle table has two sizes")?;
        let given = |handle: u32| handle <= self.highest;
        holds(self.by_handle.keys().all(|handle| given(*handle)), "a handle was never given out")?;
        let free = |handle: &u32| *handle > 0 && given(*handle) && !self.by_handle.contains_key(handle);
        holds(self.unused.iter().all(free), "an unused handle is in use")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::ArenaId;

    /// covers: B249, B250
    #[test]
    fn the_lowest_free_number_is_given() {
        let mut table = HandleTable::default();
        for index in 0..3 {
            let handle = table.reserve(false).unwrap();
            table.insert(handle, NodeId::first(index), RefId::first(index));
            assert_eq!(handle, index + 1);
        }
        table.remove(2, NodeId::first(1));
        assert_eq!(table.reserve(true), Some(0));
        assert_eq!(table.reserve(false), Some(2));
        assert_eq!(table.reserve(false), Some(4));
    }
}
