//! Work: what waits in the queues of threads, processes and nodes.

use serde::{Deserialize, Serialize};

use crate::arena::{DeathId, FreezeId, NodeId, ThreadId, TransactionId};
use crate::ids::ProcId;
use crate::tickets::Tickets;

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

/// How a command ended that is answered with a word of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Completion {
    Sent,
    /// To a frozen process (B137).
    PendingFrozen,
    /// Spam is suspected (B138).
    SpamSuspect,
    /// BC_ATTEMPT_ACQUIRE is over: whether the ref is strong.
    Acquire(bool),
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

/// First in, first out (B081), with removal from the middle.
pub(crate) type WorkQueue = Tickets<Work>;
