//! The thread object: its queue, its stack of transactions, and what its present ioctl does.

use serde::{Deserialize, Serialize};

use crate::arena::{ThreadId, TransactionId};
use crate::errno::Errno;
use crate::ids::{DebugId, GuestId, ProcId, Seq, Tid};
use crate::limits::Profile;
use crate::message::{Action, Answer, Chunk, Creds, Header, Need};
use crate::protocol::br;
use crate::sched::Scheduling;
use crate::transaction::Sending;
use crate::work::{Work, WorkQueue};

/// Looper bits as the state dump shows them (B094).
pub(crate) mod looper {
    pub(crate) const REGISTERED: u8 = 0x01;
    pub(crate) const ENTERED: u8 = 0x02;
    pub(crate) const EXITED: u8 = 0x04;
    pub(crate) const INVALID: u8 = 0x08;
    pub(crate) const POLL: u8 = 0x20;
}

/// What `BINDER_GET_EXTENDED_ERROR` returns (B058).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtendedError {
    pub id: DebugId,
    pub command: u32,
    pub param: Errno,
}

impl Default for ExtendedError {
    fn default() -> Self {
        ExtendedError { id: DebugId(0), command: br::OK, param: Errno::OK }
    }
}

/// A thread of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Thread {
    pub proc: ProcId,
    pub guest: GuestId,
    pub tid: Tid,
    /// [`looper`] bits.
    pub looper: u8,
    /// The next read returns at once (B036, B089).
    pub need_return: bool,
    /// Top of the stack of calls that it sent or has to answer.
    pub stack: Option<TransactionId>,
    pub todo: WorkQueue,
    /// `todo` has more than deferred work (B082).
    pub todo_ready: bool,
    /// The failure of an own command that is not read yet (B065).
    pub return_error: Option<u32>,
    /// The failure of a call that is not read yet (B135).
    pub reply_error: Option<u32>,
    pub extended_error: ExtendedError,
    /// The next readiness sends a POLL event.
    pub poll_armed: bool,
    /// Number of the present or last ioctl.
    pub seq: Seq,
    pub activity: Activity,
    /// Its place on the process's waiting list.
    pub waiting: Option<u64>,
    /// It is going to read at the end of this message.
    pub runnable: bool,
    /// Events that wait for a buffer: a bit for each kind of notice.
    pub notices: u8,
    /// What the last read delivered, for READ_FAULT.
    pub last_delivery: Option<Delivery>,
}

impl Thread {
    pub(crate) fn new(proc: ProcId, guest: GuestId, tid: Tid) -> Thread {
        Thread {
            proc,
            guest,
            tid,
            looper: 0,
            need_return: true,
            stack: None,
            todo: WorkQueue::default(),
            todo_ready: false,
            return_error: None,
            reply_error: None,
            extended_error: ExtendedError::default(),
            poll_armed: false,
            seq: Seq(0),
            activity: Activity::Idle,
            waiting: None,
            runnable: false,
            notices: 0,
            last_delivery: None,
        }
    }

    /// Takes the first item of its queue.
    #[inline(always)]
    pub(crate) fn take_first(&mut self) -> Option<Work> {
        let work = self.todo.pop_first();
        self.todo_ready &= !self.todo.is_empty();
        work
    }

    pub(crate) fn is_looper(&self) -> bool {
        self.looper & (looper::ENTERED | looper::REGISTERED) != 0
    }

    /// B078; AOSP's driver gives process work to loopers only (B024, B457).
    pub(crate) fn available_for_proc_work(&self, profile: Profile) -> bool {
        self.stack.is_none() && self.todo.is_empty() && (profile != Profile::Aosp || self.is_looper())
    }
}

/// Where a thread is in its ioctl.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Activity {
    /// In no ioctl.
    #[default]
    Idle,
    /// A command waits for what only the guest can supply.
    Suspended { call: Box<Call>, sending: Box<Sending>, needs: Vec<Need>, bytes: u64 },
    /// The next chunk is due.
    WriteMore(Box<Call>),
    /// The caller takes a page of results away.
    ReadMore(Box<Call>),
    /// Asleep in a read.
    Parked(Box<Call>),
    /// A transaction is read whose descriptors are being made; `announced`: FETCH may ask for the tokens.
    Installing { call: Box<Call>, transaction: TransactionId, announced: bool },
    /// Asleep in `BINDER_FREEZE`.
    Freezing(Box<FreezeWait>),
    /// Ended by an event that waits for a buffer, or for FETCH. `then`: the read that goes on.
    Completed { answer: Box<Answer>, fetch: bool, then: Option<Box<Call>> },
    /// The process's mapping gets its pages before the ioctl begins.
    Filling { call: Box<Call>, slots: Vec<u32>, bytes: u64 },
}

/// A `BINDER_FREEZE` that waits (B368).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FreezeWait {
    pub target: ProcId,
    /// Processes of the same pid that are to be frozen after it.
    pub rest: Vec<ProcId>,
    pub timeout_ms: u32,
    pub header: Header,
}

/// A delivered transaction that READ_FAULT takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub seq: Seq,
    /// Present while the call is to be answered.
    pub transaction: Option<TransactionId>,
    /// A question of attempt-acquire has none.
    pub buffer: Option<crate::arena::BufferId>,
}

/// A `BINDER_WRITE_READ` under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub thread: ThreadId,
    /// The thread's.
    pub guest: GuestId,
    /// Of the latest message of the ioctl.
    pub header: Header,
    pub write: Write,
    pub read: Read,
    /// What the caller is to do with the next answer.
    pub actions: Vec<Action>,
    /// Bytes and objects moved in this message, in bytes (rule 16).
    pub effort: u64,
    /// The caller's scheduling as far as the core knows.
    pub sched: Scheduling,
}

impl Call {
    /// An ioctl that begins.
    pub(crate) fn new(thread: ThreadId, guest: GuestId, header: &Header) -> Call {
        Call {
            thread,
            guest,
            header: *header,
            write: Write::default(),
            read: Read::default(),
            actions: Vec::new(),
            effort: 0,
            sched: header.scheduling(),
        }
    }

    /// The same in the memory of one that is over, and [holds nothing](Self::holds_nothing).
    pub(crate) fn begin(&mut self, thread: ThreadId, guest: GuestId, header: &Header) {
        self.thread = thread;
        self.guest = guest;
        self.header = *header;
        self.sched = header.scheduling();
        self.effort = 0;
        (self.write.cursor, self.write.current) = (0, 0);
        self.read.phase = ReadPhase::Start;
        (self.read.wait_for_proc, self.read.spawn) = (false, false);
    }

    /// Nothing is left of it but plain numbers, and memory for as much as an answer has.
    pub(crate) fn holds_nothing(&self) -> bool {
        let Read { bytes, creds, .. } = &self.read;
        let empty = bytes.is_empty() && self.actions.is_empty();
        empty && creds.is_none() && self.write.kept.is_none()
    }

    /// The thread's process.
    pub(crate) fn proc(&self) -> ProcId {
        ProcId(self.header.proc)
    }

    /// The next message of the ioctl. A read buffer that was found bad stays so.
    pub(crate) fn follow(&mut self, header: &Header) {
        let read_bad = self.header.read_bad;
        self.header = *header;
        self.header.read_bad |= read_bad;
        self.effort = 0;
    }
}

/// The write half.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Write {
    pub size: u64,
    /// write_consumed of the first byte of the chunk.
    pub position: u64,
    /// Executed bytes of the chunk.
    pub cursor: usize,
    /// Length of the command that is suspended.
    pub current: usize,
    /// The chunk, while a command of it waits. Before that it is the message's ([`Cx::chunk`](crate::domain::Cx)).
    pub kept: Option<Box<Chunk>>,
}

impl Write {
    pub(crate) fn consumed(&self) -> u64 {
        self.position + self.cursor as u64
    }

    /// The chunk that is executed, where `brought` is the message's.
    pub(crate) fn chunk<'a>(&'a self, brought: &'a Chunk) -> &'a Chunk {
        self.kept.as_deref().unwrap_or(brought)
    }

    /// The ioctl waits: the message will be gone.
    pub(crate) fn keep(&mut self, brought: &Chunk) {
        self.kept.get_or_insert_with(|| Box::new(brought.clone()));
    }

    /// Bytes of `chunk` that are not executed; write_size is a hard bound (B068).
    pub(crate) fn rest<'a>(&self, chunk: &'a Chunk) -> &'a [u8] {
        let room = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        chunk.bytes.get(self.cursor..chunk.bytes.len().min(room)).unwrap_or_default()
    }

    /// The half is over, or the next chunk is due: a thread that sleeps keeps none.
    pub(crate) fn let_go(&mut self) {
        self.position = self.consumed();
        self.cursor = 0;
        self.kept = None;
    }

    /// Begins with the next chunk; false where it does not continue the stream.
    pub(crate) fn feed(&mut self, chunk: &Chunk) -> bool {
        if chunk.position != self.consumed() {
            return false;
        }
        self.let_go();
        true
    }
}

/// The phases of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadPhase {
    /// Nothing done.
    #[default]
    Start,
    /// It is to be decided which work the thread may take (B078).
    Enter,
    /// Until there is work.
    Wait,
    /// Taking work.
    Take,
}

/// The read half.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Read {
    pub size: u64,
    /// read_consumed on entry.
    pub start: u64,
    /// Offset of the next byte.
    pub position: u64,
    /// Bytes that are not handed out yet; they end at `position`.
    pub bytes: Vec<u8>,
    pub creds: Option<Creds>,
    pub phase: ReadPhase,
    pub wait_for_proc: bool,
    /// BR_SPAWN_LOOPER replaces the first word (B097).
    pub spawn: bool,
}
