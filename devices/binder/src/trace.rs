//! What a host-side strace of binder needs: every message, command, return and decision.
//!
//! The core emits events while it works; the sink stamps them with guest time, which the core
//! does not know. The numbers of [`TraceEvent::Command`] and [`TraceEvent::Return`] events equal
//! the numbers of commands executed and of returns handed out by successful reads.

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::ids::{DebugId, GuestId, Kuid, Pid, ProcId, Seq, Tid};
use crate::message::Park;
use crate::protocol::{Command, Return};
use crate::replay::as_bytes;

/// Where events go.
pub trait TraceSink {
    /// False: events are not even built.
    fn enabled(&self) -> bool;
    /// Takes one event. The sink must not block on the guest.
    fn event(&mut self, event: &TraceEvent);
}

/// A sink that wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl TraceSink for NoTrace {
    fn enabled(&self) -> bool {
        false
    }

    fn event(&mut self, _event: &TraceEvent) {}
}

impl TraceSink for Vec<TraceEvent> {
    fn enabled(&self) -> bool {
        true
    }

    fn event(&mut self, event: &TraceEvent) {
        self.push(event.clone());
    }
}

/// A thread of a process of the domain, as the trace names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Party {
    /// The open file.
    pub proc: ProcId,
    /// Thread group of the opener.
    pub pid: Pid,
    /// The thread; 0 while it is not known (a call to a process).
    pub tid: Tid,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum MessageKind {
    Open,
    Ioctl,
    Continue,
    Cancel,
    Timeout,
    Fetch,
    Poll,
    Trim,
    ReadFault,
    Mmap,
    Unmap,
    Flush,
    Release,
    CtxDel,
    Log,
    Policy,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceEvent {
    /// A message of a guest is going to be handled.
    Message {
        /// From which guest.
        guest: GuestId,
        /// The open file; 0 in OPEN.
        proc: u32,
        /// The calling thread.
        tid: Tid,
        /// The ioctl it belongs to.
        seq: Seq,
        /// What.
        kind: MessageKind,
    },
    /// A message was answered.
    Answered {
        /// The open file; 0 where OPEN failed.
        proc: u32,
        /// The calling thread.
        tid: Tid,
        /// The ioctl it belongs to.
        seq: Seq,
        /// What the shim was told to do.
        status: StatusKind,
        /// The result with [`StatusKind::Done`].
        errno: Errno,
    },
    /// A device was opened.
    ProcOpened {
        /// Of which guest.
        guest: GuestId,
        /// The new id.
        proc: ProcId,
        /// The opener.
        pid: Pid,
        /// Name of the context.
        context: Vec<u8>,
        /// Effective uid of the opener.
        euid: Kuid,
    },
    /// An open file is gone, with everything of it.
    ProcReleased {
        /// Which.
        proc: ProcId,
    },
    /// A thread object was made by the first ioctl or poll of a thread.
    ThreadCreated {
        /// Which.
        thread: Party,
    },
    /// A thread object is gone.
    ThreadReleased {
        /// Which.
        thread: Party,
        /// Calls that were on its stack.
        active_transactions: u32,
    },
    /// An ioctl begins.
    Ioctl {
        /// Who.
        thread: Party,
        /// The ioctl number.
        cmd: u32,
        /// The argument.
        #[serde(serialize_with = "as_bytes")]
        arg: Vec<u8>,
    },
    /// An ioctl is over.
    IoctlDone {
        /// Who.
        thread: Party,
        /// The ioctl number.
        cmd: u32,
        /// The result.
        errno: Errno,
        /// `BINDER_WRITE_READ`.
        write_consumed: u64,
        /// `BINDER_WRITE_READ`.
        read_consumed: u64,
    },
    /// A command of the write stream is executed.
    Command {
        /// Who.
        thread: Party,
        /// The command.
        command: Command,
    },
    /// A word of the write stream is no command.
    UnknownCommand {
        /// Who.
        thread: Party,
        /// The word.
        word: u32,
    },
    /// A return is in the bytes that a successful read hands out.
    Return {
        /// Who reads.
        thread: Party,
        /// The return.
        item: Return,
    },
    /// What the kernel would have logged as a user error: the command was ignored or refused.
    UserError {
        /// Whose.
        thread: Party,
        /// What.
        error: UserError,
    },
    /// A call, oneway or reply was sent or failed.
    Transaction(TransactionRecord),
    /// A transaction was handed to the thread that reads it.
    TransactionDelivered {
        /// Its debug id.
        id: DebugId,
        /// The reader.
        to: Party,
        /// User address of the buffer.
        address: u64,
    },
    /// A transaction ended without an answer.
    TransactionFailed {
        /// Its debug id.
        id: DebugId,
        /// The `BR_*` word that its sender gets, if it still waits.
        code: u32,
        /// Who gets it.
        to: Option<Party>,
    },
    /// A buffer was freed.
    BufferFreed {
        /// Whose.
        proc: ProcId,
        /// Debug id of the transaction that it carried.
        id: DebugId,
        /// User address.
        address: u64,
        /// Bytes, alignment included.
        size: u64,
    },
    /// A node was made.
    NodeCreated {
        /// Whose.
        proc: ProcId,
        /// Its debug id.
        node: DebugId,
        /// The owner's pointer.
        ptr: u64,
        /// The owner's cookie.
        cookie: u64,
    },
    /// A node is gone.
    NodeReleased {
        /// Its debug id.
        node: DebugId,
    },
    /// A process got a handle.
    RefCreated {
        /// Which process.
        proc: ProcId,
        /// Debug id of the ref.
        id: DebugId,
        /// The number.
        handle: u32,
        /// Debug id of the node.
        node: DebugId,
    },
    /// A handle is gone.
    RefReleased {
        /// Which process.
        proc: ProcId,
        /// The number.
        handle: u32,
        /// Debug id of the node.
        node: DebugId,
    },
    /// The owner of a watched node died.
    Death {
        /// Debug id of the node.
        node: DebugId,
        /// Who watched.
        watcher: ProcId,
        /// The watcher's cookie.
        cookie: u64,
    },
    /// A thread goes to sleep.
    Parked {
        /// Which.
        thread: Party,
        /// In which sleep.
        park: Park,
    },
    /// A sleeping thread was chosen to run.
    Woken {
        /// Which.
        thread: Party,
    },
    /// A signal ended the sleep of a thread.
    Cancelled {
        /// Which.
        thread: Party,
    },
    /// A process became the context manager.
    ContextManager {
        /// Which.
        proc: ProcId,
        /// Debug id of its node.
        node: DebugId,
    },
    /// A process was frozen or thawed.
    Frozen {
        /// Which.
        proc: ProcId,
        /// Its state now.
        frozen: bool,
    },
    /// A fault was injected.
    Fault {
        /// By which rule, counted from 0; `None`: by the choice among waiting threads.
        rule: Option<u32>,
        /// The sender; the thread that was chosen; who waits in `BINDER_FREEZE`.
        thread: Party,
        /// The transaction.
        id: Option<DebugId>,
        /// What.
        fault: FaultKind,
    },
}

/// A fault that was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum FaultKind {
    Failed,
    Dead,
    Frozen,
    Interrupt,
    KillReceiver,
    KillSender,
    Freeze,
    Chosen,
    Signal,
    Delay,
    Reorder,
    Exhaust,
}

/// [`Status`](crate::Status) without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum StatusKind {
    Done,
    More,
    Needs,
    Install,
    Parked,
    TooLate,
}

/// A call, oneway or reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRecord {
    /// Its debug id.
    pub id: DebugId,
    /// The sender.
    pub from: Party,
    /// The target; tid 0 while it goes to a process.
    pub to: Option<Party>,
    /// Debug id of the target node; `None` for a reply or an unknown target.
    pub node: Option<DebugId>,
    /// The sender's handle; 0 for a reply.
    pub handle: u32,
    /// The method.
    pub code: u32,
    /// `TF_*` bits.
    pub flags: u32,
    /// Bytes of data.
    pub data_size: u64,
    /// Bytes of offsets.
    pub offsets_size: u64,
    /// Bytes of PTR payloads.
    pub buffers_size: u64,
    /// Nobody waits for an answer.
    pub oneway: bool,
    /// Debug id of the call that this answers.
    pub reply_to: Option<DebugId>,
    /// `BR_TRANSACTION_COMPLETE`, or the `BR_*` word of the failure.
    pub result: u32,
    /// The errno beside a failure (`BINDER_GET_EXTENDED_ERROR`).
    pub errno: Errno,
    /// User address of the data in the receiver.
    pub address: u64,
    /// First bytes of the data as they were sent.
    #[serde(serialize_with = "as_bytes")]
    pub payload: Vec<u8>,
    /// The objects in the data, as they were sent; at most [`MAX_OBJECTS`].
    pub objects: Vec<ObjectRecord>,
}

/// Objects of one transaction that its record carries.
pub const MAX_OBJECTS: usize = 256;

/// An object that a transaction carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Where in the data it stands.
    pub offset: u64,
    /// What it is.
    pub object: SentObject,
}

/// An object as its sender wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SentObject {
    /// A local object.
    Binder {
        /// It is not WEAK_BINDER.
        strong: bool,
        /// The sender's pointer.
        ptr: u64,
        /// Debug id of its node, if it has one.
        node: Option<DebugId>,
    },
    /// A handle.
    Handle {
        /// It is not WEAK_HANDLE.
        strong: bool,
        /// The sender's handle.
        handle: u32,
        /// Debug id of the node it names, if it names one.
        node: Option<DebugId>,
    },
    /// A file descriptor.
    Fd {
        /// The sender's number.
        fd: u32,
    },
    /// Memory that travels along.
    Ptr {
        /// Its bytes.
        length: u64,
    },
    /// Descriptors in a PTR's memory.
    FdArray {
        /// How many.
        count: u64,
    },
}

/// Misuse that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UserError {
    /// A handle that is not held, or only weakly where a strong one is wanted.
    BadHandle(u32),
    /// A count that is already zero.
    BadCount(u32),
    /// A DONE for a node that does not wait for one.
    BadDone(u64),
    /// A buffer that is not there or not delivered.
    BadBuffer(u64),
    /// A death registration that exists already, or does not match.
    BadDeath(u64),
    /// A looper command in the wrong state.
    BadLooper,
    /// A read of process work by a thread that is not a looper.
    NotALooper,
    /// A transaction that was refused.
    BadTransaction(DebugId),
}
