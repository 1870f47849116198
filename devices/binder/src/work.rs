//! Work: what waits in the queues of threads, processes and nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arena::{DeathId, FreezeId, NodeId, ThreadId, TransactionId};
use crate::check::{Inconsistent, holds};
use crate::ids::ProcId;

/// One item of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// A call, oneway or reply to be read.
    Transaction(TransactionId),
    /// The failure of the thread's own command (`Thread::return_error`).
    ReturnError,
    /// The failure of a call that the thread waits for (`Thread::reply_error`).
    ReplyError,
    /// Something was sent.
    Complete(Completion),
    /// The owner of a node is to be told about its counts.
    Node(NodeId),
    /// What the state of the registration says.
    Death(DeathId),
    /// What the state of the registration says.
    Freeze(FreezeId),
}

/// How a send ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Completion {
    Sent,
    /// To a frozen process (B137).
    PendingFrozen,
    /// Spam is suspected (B138).
    SpamSuspect,
}

/// A queue of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Queue {
    Thread(ThreadId),
    Proc(ProcId),
    /// Delivered and not yet acknowledged deaths of a process.
    DeliveredDeaths(ProcId),
    /// Delivered and not yet acknowledged freeze messages of a process.
    DeliveredFreezes(ProcId),
    /// Oneways that wait for the one before them (B146).
    Backlog(NodeId),
}

/// An item's place: where to take it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub queue: Queue,
    pub ticket: u64,
}

/// Whether `next` comes after the `last` ticket that is still out, and counting on cannot overflow.
pub(crate) fn tickets_follow(last: Option<u64>, next: u64) -> bool {
    last.is_none_or(|last| last < next) && next < 1 << 62
}

/// First in, first out (B081), with removal from the middle.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkQueue {
    items: BTreeMap<u64, Work>,
    next: u64,
}

impl WorkQueue {
    pub(crate) fn push(&mut self, work: Work) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.items.insert(ticket, work);
        ticket
    }

    pub(crate) fn pop(&mut self) -> Option<Work> {
        self.items.pop_first().map(|(_, work)| work)
    }

    pub(crate) fn head(&self) -> Option<Work> {
        self.items.first_key_value().map(|(_, work)| *work)
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<Work> {
        self.items.get(&ticket).copied()
    }

    pub(crate) fn remove(&mut self, ticket: u64) -> Option<Work> {
        self.items.remove(&ticket)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Work> {
        self.items.values().copied()
    }

    /// Items with their tickets.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, Work)> {
        self.items.iter().map(|(ticket, work)| (*ticket, *work))
    }

    /// Whether the next ticket is a new one, with room for all that may follow.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        let last = self.items.last_key_value().map(|(ticket, _)| *ticket);
        holds(tickets_follow(last, self.next), "a queue gives tickets out twice")
    }
}
