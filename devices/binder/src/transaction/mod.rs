//! Transactions: calls, oneways and replies, and the stacks that calls form (BINDER.md 3, 6).
//!
//! A call is on two stacks once it was read: on its sender's (linked by `from_parent`) and on its
//! receiver's (linked by `to_parent`). [`send`] makes transactions, [`gather`] finds out
//! what is missing for that, [`objects`] judges what they carry, [`copy`] moves it, [`enqueue`] hands
//! it over, [`cleanup`] ends them, [`log`] remembers the latest ones.

pub(crate) mod cleanup;
pub(crate) mod copy;
mod enqueue;
pub(crate) mod gather;
mod log;
pub(crate) mod objects;
pub(crate) mod send;

use serde::{Deserialize, Serialize};

use crate::arena::{BufferId, NodeId, RefId, ThreadId, TransactionId};
use crate::errno::Errno;
use crate::fetched::Fetched;
use crate::ids::{DebugId, GuestId, Kuid, ProcId, Token};
use crate::protocol::{TransactionData, tf};
use crate::sched::Scheduling;
use crate::trace::Party;
use crate::work::Place;

/// A file on its way, and where its number is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileFixup {
    /// In the buffer.
    pub offset: u64,
    pub token: Token,
    /// Of an FDA: freeing the buffer closes the number.
    pub close: bool,
}

/// What a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A call or, with TF_ONE_WAY, a oneway.
    Call,
    Reply,
    /// An owner is asked for a strong count ([`attempt`](crate::attempt)): a call without a buffer. `code` is
    /// the priority that it was sent with.
    Attempt {
        /// The ref of the asker.
        reference: RefId,
    },
}

/// A transaction that was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub debug_id: DebugId,
    /// Whose quota it counts against.
    pub guest: GuestId,
    pub kind: Kind,
    /// The waiting sender; `None` for oneways and replies, and when the thread is gone.
    pub from: Option<ThreadId>,
    /// As it was when it was sent, for traces and TF_UPDATE_TXN.
    pub sender: Party,
    pub from_parent: Option<TransactionId>,
    /// The target; `None` once it died.
    pub to_proc: Option<ProcId>,
    pub to_thread: Option<ThreadId>,
    pub to_parent: Option<TransactionId>,
    pub buffer: Option<BufferId>,
    pub node: Option<NodeId>,
    pub code: u32,
    pub flags: u32,
    pub sender_euid: Kuid,
    /// The sender's.
    pub sched: Scheduling,
    /// The receiver's before it read this.
    pub saved_sched: Option<Scheduling>,
    /// User address of the security context.
    pub secctx: Option<u64>,
    pub files: Vec<FileFixup>,
    pub place: Option<Place>,
    /// When it was sent, in milliseconds of its guest's clock.
    pub started: u32,
}

impl Transaction {
    pub(crate) fn is_reply(&self) -> bool {
        self.kind == Kind::Reply
    }

    pub(crate) fn is_attempt(&self) -> bool {
        matches!(self.kind, Kind::Attempt { .. })
    }

    pub(crate) fn is_oneway(&self) -> bool {
        self.kind == Kind::Call && self.flags & tf::ONE_WAY != 0
    }
}

/// How far a send is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The target is known; may the sender call it?
    Permission,
    /// Queue head, stack, security context, space.
    Admission,
    /// Getting offsets, data, pages, files.
    Gathering,
}

/// A transaction that is not yet successful. Every end of it goes through `commit` or `fail_send`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sending {
    pub debug_id: DebugId,
    /// The sender and its guest.
    pub thread: ThreadId,
    pub guest: GuestId,
    /// Its process, and its numbers.
    pub sender: Party,
    pub reply: bool,
    pub data: TransactionData,
    pub buffers_size: u64,
    pub euid: Kuid,
    pub sched: Scheduling,
    pub stage: Stage,
    /// The call that a reply answers; popped from the replier's stack.
    pub in_reply_to: Option<TransactionId>,
    pub target_proc: Option<ProcId>,
    pub target_thread: Option<ThreadId>,
    /// Holds a local strong count, which goes over to the buffer.
    pub target_node: Option<NodeId>,
    pub buffer: Option<BufferId>,
    /// The LSM is asked also where an answer is remembered, and its answer is not kept.
    pub asks_anew: bool,
    /// Most sends need nothing but what the message brought.
    pub gathered: Option<Box<Gathered>>,
    /// Its entry in the guest's log.
    pub log: u64,
    pub started: u32,
}

/// What a send takes beside the message that began it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Gathered {
    /// The sender's security context, NUL included.
    pub secctx: Option<Vec<u8>>,
    /// What NEEDS brought.
    pub fetched: Fetched,
    /// The offsets array, fetched once.
    pub offsets: Option<Vec<u64>>,
    pub plan: Option<objects::Plan>,
    /// Answers of the LSM.
    pub call_allowed: Option<bool>,
    pub transfer_allowed: Option<bool>,
    /// Files got for the plan's descriptors, in order.
    pub tokens: Vec<Token>,
    /// Why there are no more.
    pub file_error: Option<Errno>,
    /// The mapping lost its pages, or the guest has no memory for them or for the data.
    pub page_error: Option<Errno>,
}

static NOTHING: Gathered = Gathered {
    secctx: None,
    fetched: Fetched::new(),
    offsets: None,
    plan: None,
    call_allowed: None,
    transfer_allowed: None,
    tokens: Vec::new(),
    file_error: None,
    page_error: None,
};

impl Sending {
    /// What was gathered so far.
    pub(crate) fn gathered(&self) -> &Gathered {
        self.gathered.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to add to it.
    pub(crate) fn gather(&mut self) -> &mut Gathered {
        self.gathered.get_or_insert_default()
    }

    /// Bytes of host memory that it takes while it waits.
    pub(crate) fn weight(&self) -> u64 {
        let Some(gathered) = &self.gathered else { return size_of::<Sending>() as u64 };
        let offsets = gathered.offsets.as_ref().map_or(0, Vec::len) * size_of::<u64>();
        let plan = gathered.plan.as_ref();
        let objects = plan.map_or(0, |plan| plan.objects.len()) * size_of::<objects::Planned>();
        let tokens = gathered.tokens.len() * size_of::<Token>();
        let fixed = size_of::<Sending>() + size_of::<Gathered>() + offsets + objects + tokens;
        fixed as u64 + gathered.fetched.weight()
    }
}

/// What a failed send is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendError {
    /// A `BR_*` word.
    pub code: u32,
    /// The extended error's param.
    pub errno: Errno,
}

impl SendError {
    pub(crate) fn failed(errno: Errno) -> SendError {
        SendError { code: crate::protocol::br::FAILED_REPLY, errno }
    }

    pub(crate) fn dead(errno: Errno) -> SendError {
        SendError { code: crate::protocol::br::DEAD_REPLY, errno }
    }
}

/// An error of a send, as `BINDER_GET_EXTENDED_ERROR` says it.
pub(crate) fn extended(id: DebugId, command: u32, param: Errno) -> crate::thread::ExtendedError {
    crate::thread::ExtendedError { id, command, param }
}
