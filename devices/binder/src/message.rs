//! What passes between the device and the core, as plain data.
//!
//! The wire format is `guest/shim/virtio_binder.h`; the device translates. The types here follow
//! it field by field, so its comments hold here too.

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::ids::{Kuid, Pfn, Pid, ProcId, Seq, Tid, Token};
use crate::logs::ReadText;
use crate::replay::as_bytes;
use crate::sched::Scheduling;

/// Bytes of [`Answer::result`] at most; the rest of a longer read follows after [`Status::More`].
pub const MAX_RESULT: usize = 2048;
/// Actions in one [`Answer`] at most; the rest follows after [`Status::More`].
pub const MAX_ACTIONS: usize = 64;
/// Slots in one [`Need::Pages`] at most.
pub const MAX_NEED_PAGES: usize = 256;
/// Needs in one answer at most: with their results, pages and files, some 600 bytes of the shim's
/// page are left for data.
pub const MAX_NEEDS: usize = 16;
/// Files of one [`Status::Install`] at most: 980 fit into an answer (PROTOCOL.md 10), less the room of
/// all actions, of 8 bytes each.
pub const MAX_INSTALL_FILES: u32 = 980 - 2 * MAX_ACTIONS as u32;
/// Result bytes that fit into an [`Event`]; longer results wait for [`Body::Fetch`].
pub const EVENT_BYTES: usize = 192;

/// Fields of every message (`struct vb_header`). The epoch is checked by the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The id that OPEN was answered with; 0 in OPEN.
    pub proc: u32,
    /// The calling thread; 0 where there is none.
    pub tid: Tid,
    /// The ioctl that the message belongs to.
    pub seq: Seq,
    /// `O_NONBLOCK` is set on the file now (B004).
    pub nonblock: bool,
    /// The caller is not of the opener's thread group (B005).
    pub foreign: bool,
    /// The read buffer cannot be written.
    pub read_bad: bool,
    /// The caller's security id is not the opener's: remembered answers of the LSM are not about it (B342).
    pub other_sid: bool,
    /// Effective uid of the opener's group leader now.
    pub leader_euid: Kuid,
    /// Effective uid of the caller.
    pub thread_euid: Kuid,
    /// The caller's `SCHED_*` policy.
    pub policy: u32,
    /// Nice for `SCHED_NORMAL`/`BATCH`/`IDLE`, else the real-time priority.
    pub prio: i32,
    /// Milliseconds of the guest's monotonic clock, for the logs; wraps.
    pub time: u32,
}

impl Header {
    /// The caller's scheduling at this moment.
    pub(crate) fn scheduling(&self) -> Scheduling {
        Scheduling { policy: self.policy, value: self.prio }
    }
}

/// A message from the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who, and in which state.
    pub header: Header,
    /// What.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// open(2).
    Open(Open),
    /// ioctl(2).
    Ioctl(Ioctl),
    /// The suspended ioctl goes on.
    Continue(Continue),
    /// A signal ends the sleep.
    Cancel,
    /// The sleep took as long as it may.
    Timeout,
    /// The rest of an event that did not fit.
    Fetch,
    /// poll(2): answers a mask and arms the thread.
    Poll,
    /// The shim wants at most `max` idle pages back.
    Trim {
        /// Pages wanted.
        max: u32,
    },
    /// The last result could not be copied out.
    ReadFault {
        /// First byte of the result bytes that could not be copied out.
        offset: u64,
    },
    /// mmap(2) was accepted.
    Mmap {
        /// Address in the opener's address space.
        address: u64,
        /// Bytes, at most 4 MiB.
        length: u64,
    },
    /// A part of the mapping is gone.
    Unmap,
    /// close(2) of a descriptor of the file.
    Flush,
    /// The last reference to the file is gone.
    Release,
    /// A binderfs device is gone; no file of it is open.
    CtxDel {
        /// The guest's number for it ([`Open::device`]).
        device: u32,
    },
    /// A log file is read.
    Log(ReadText),
    /// The guest's security policy has changed.
    Policy,
}

/// `struct vb_open`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The opener's thread group.
    pub tgid: Pid,
    /// Nice of the opening thread.
    pub default_nice: i32,
    /// Name of the context ("binder"), as bytes.
    pub context: Vec<u8>,
    /// The guest's number for a binderfs device, whose context is its own; 0: the one context of that name.
    pub device: u32,
    /// Security context of the file's credentials without NUL; empty: none.
    pub secctx: Vec<u8>,
    /// Why there is none.
    pub secctx_error: Errno,
}

/// `struct vb_ioctl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioctl {
    /// The ioctl number as the caller gave it.
    pub cmd: u32,
    /// 0, or `EFAULT` when the argument cannot be read.
    pub arg_error: Errno,
    /// The argument: `_IOC_SIZE(cmd)` bytes or more (the wire field is 48 bytes long).
    pub arg: Vec<u8>,
    /// Answer of `security_binder_set_context_mgr`, for the commands that need it.
    pub lsm_error: Errno,
    /// `BINDER_WRITE_READ`: first piece of the write stream.
    pub chunk: Chunk,
}

/// How a chunk ends (`VB_CHUNK_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkEnd {
    /// At write_size.
    #[default]
    Last,
    /// More follows.
    Cut,
    /// The next byte cannot be read.
    Unreadable,
}

/// A piece of the write stream (`struct vb_chunk`): whole commands, but for a last one that
/// write_size cuts short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// write_consumed of the first byte.
    pub position: u64,
    /// The commands.
    pub bytes: Vec<u8>,
    /// Why it ends where it ends.
    pub end: ChunkEnd,
    /// Memory that the commands name.
    pub ranges: Vec<Range>,
}

/// Sender's memory (`struct vb_range`). Pages that it names stay valid until the ioctl is answered
/// with anything else than [`Status::Needs`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// User address of the first byte.
    pub address: u64,
    /// Bytes named from there.
    pub length: u64,
    /// Bytes of these that are carried here, from the start.
    pub readable: u64,
    /// The byte at `address + readable` cannot be read.
    pub fault: bool,
    /// The bytes.
    pub data: RangeData,
}

impl Chunk {
    /// Bytes of host memory that it takes.
    pub(crate) fn weight(&self) -> u64 {
        self.bytes.len() as u64 + self.ranges.iter().map(Range::weight).sum::<u64>()
    }
}

impl Range {
    /// Bytes of host memory that it takes.
    pub(crate) fn weight(&self) -> u64 {
        let data = match &self.data {
            RangeData::None => 0,
            RangeData::Inline(bytes) => bytes.len(),
            RangeData::Pages(pfns) => pfns.len() * size_of::<Pfn>(),
        };
        (size_of::<Range>() + data) as u64
    }
}

/// How a range carries its bytes (`VB_RANGE_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeData {
    /// Nothing of it is carried.
    #[default]
    None,
    /// `readable` bytes.
    Inline(#[serde(serialize_with = "as_bytes")] Vec<u8>),
    /// Pages; the first byte stands at `address % 4096` of the first one.
    Pages(Vec<Pfn>),
}

/// `struct vb_continue`, by reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Continue {
    /// After [`Status::More`]: the next chunk; empty for the next page of a read.
    More(Chunk),
    /// After [`Status::Needs`]: one result a need, in order.
    Needs(Vec<NeedResult>),
    /// After [`Status::Install`] or an INSTALL event.
    Install(NeedResult),
}

impl Default for Continue {
    fn default() -> Self {
        Continue::More(Chunk::default())
    }
}

/// What became of one need (`struct vb_result`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedResult {
    /// 0 or a negative errno.
    pub error: Errno,
    /// What was got, also before the error.
    pub outcome: Outcome,
}

/// The list of a [`NeedResult`], by kind of need. [`Domain::expects`](crate::Domain::expects) says
/// which kinds are due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// LSM, or nothing got.
    #[default]
    None,
    /// PAGES: one a slot.
    Pages(Vec<Pfn>),
    /// FILES: tokens of the files got before the error.
    Files(Vec<Token>),
    /// INSTALL: the new descriptor numbers.
    Fds(Vec<u32>),
    /// DATA.
    Data(Range),
}

/// What the core waits for from a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expects {
    /// No CONTINUE.
    Nothing,
    /// [`Continue::More`].
    More,
    /// [`Continue::Needs`] with results for these, in order.
    Needs(Vec<NeedKind>),
    /// [`Continue::Install`] with this many descriptors.
    Install(usize),
}

/// A [`Need`] without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NeedKind {
    /// [`Need::Data`].
    Data,
    /// [`Need::Pages`].
    Pages,
    /// [`Need::Files`].
    Files,
    /// [`Need::Lsm`].
    Lsm,
}

/// What only the guest's kernel can supply (`struct vb_need`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Bytes of the caller's memory.
    Data {
        /// User address.
        address: u64,
        /// Bytes; the answer may cover less.
        length: u64,
    },
    /// Pages of a mapping.
    Pages {
        /// Whose mapping.
        proc: ProcId,
        /// Page indexes in the mapping, ascending.
        slots: Vec<u32>,
    },
    /// Tokens for descriptors of the caller.
    Files {
        /// Who is to receive them.
        proc: ProcId,
        /// The descriptors.
        fds: Vec<u32>,
    },
    /// An LSM hook's opinion.
    Lsm {
        /// The target.
        proc: ProcId,
        /// Which hook.
        question: LsmQuestion,
    },
}

impl Need {
    /// Its kind.
    pub fn kind(&self) -> NeedKind {
        match self {
            Need::Data { .. } => NeedKind::Data,
            Need::Pages { .. } => NeedKind::Pages,
            Need::Files { .. } => NeedKind::Files,
            Need::Lsm { .. } => NeedKind::Lsm,
        }
    }
}

/// The LSM hooks that the core asks for (`vb_need.lsm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LsmQuestion {
    /// `security_binder_transaction`.
    Transaction,
    /// `security_binder_transfer_binder`.
    TransferBinder,
}

/// The answer to a message (`struct vb_answer`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the shim does next.
    pub status: Status,
    /// Result of the call.
    pub errno: Errno,
    /// OPEN: the new id.
    pub proc: Option<ProcId>,
    /// `BINDER_WRITE_READ`: bytes of the write buffer that were executed; valid with any status.
    pub write_consumed: u64,
    /// `BINDER_WRITE_READ`: to be stored with errno 0, or with the errno of a failed write half (0 then, B063).
    pub read_consumed: u64,
    /// POLL: `EPOLL*` bits.
    pub poll_mask: u32,
    /// LOG: bytes written to the reader's pages.
    pub text: u64,
    /// Offset in the read buffer of `result`.
    pub result_position: u64,
    /// Bytes for the read buffer or the ioctl's argument.
    pub result: Vec<u8>,
    /// To be written over the first word of the read buffer after `result`.
    pub first_word: Option<u32>,
    /// Where in `result` pid and euid of a sender stand.
    pub creds: Option<Creds>,
    /// TRIM: slots whose pages are given back.
    pub slots: Vec<u32>,
    /// To be done by the caller, in order, whatever the status.
    pub actions: Vec<Action>,
    /// Pages of the guest that TRIM could give back.
    pub idle_pages: u32,
}

impl Answer {
    /// Says nothing any more, and keeps its memory.
    pub fn clear(&mut self) {
        if self.status != Status::Done {
            self.status = Status::Done;
        }
        self.errno = Errno::OK;
        self.proc = None;
        (self.write_consumed, self.read_consumed) = (0, 0);
        (self.poll_mask, self.text, self.result_position) = (0, 0, 0);
        self.result.clear();
        (self.first_word, self.creds) = (None, None);
        self.slots.clear();
        self.actions.clear();
        self.idle_pages = 0;
    }

    /// An answer that is nothing but an error.
    pub fn error(errno: Errno) -> Answer {
        Answer { errno, ..Answer::default() }
    }
}

/// `vb_answer.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Over.
    #[default]
    Done,
    /// Post [`Continue::More`]; of RELEASE: files are left to be let go.
    More,
    /// Post [`Continue::Needs`].
    Needs(Vec<Need>),
    /// Reserve as many descriptors, or none, and post [`Continue::Install`].
    Install(Vec<Token>),
    /// Sleep.
    Parked {
        /// In which sleep.
        park: Park,
        /// Post [`Body::Timeout`] after this time (freeze only, else 0).
        timeout_ms: u32,
    },
    /// Of CANCEL and TIMEOUT: the event is on its way.
    TooLate,
}

/// What a thread sleeps for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Park {
    /// Work.
    Read,
    /// The end of a process's outstanding transactions.
    Freeze,
}

/// Position of `sender_pid` and `sender_euid`, which the receiver's shim translates into its namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creds {
    /// Offset in the result bytes of the u32 pid, which the u32 euid follows.
    pub offset: u32,
    /// Whose opener the pid is; `None`: the pid stays 0.
    pub proc: Option<ProcId>,
}

/// What the owner of a message does when it is answered (`struct vb_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Set the caller's nice.
    NiceSet(i32),
    /// Set the caller's nice if that is better (lower) than the present one.
    NiceRaise(i32),
    /// Set the caller's policy and nice or real-time priority (profile aosp).
    Schedule {
        /// What to set.
        wanted: Scheduling,
        /// As far as the caller's limits allow; a restored value is not checked.
        checked: bool,
    },
    /// Close a descriptor of the caller when the message is over (B221).
    CloseFd(u32),
    /// Let a file go.
    Fput(Token),
}

impl Action {
    /// True for a change of scheduling, the one action that an event can carry.
    pub fn is_scheduling(self) -> bool {
        matches!(self, Action::NiceSet(_) | Action::NiceRaise(_) | Action::Schedule { .. })
    }
}

/// Something that happens to a thread that sleeps or polls (`struct vb_event`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Whose thread.
    pub proc: ProcId,
    /// The thread.
    pub tid: Tid,
    /// The ioctl that ends; the last one of the thread for a poll.
    pub seq: Seq,
    /// The rest did not fit: the answer of FETCH is the result, and all fields of `kind` are empty.
    pub fetch: bool,
    /// What happens.
    pub kind: EventKind,
    /// Pages of the guest that TRIM could give back.
    pub idle_pages: u32,
}

/// `vb_event.kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The parked ioctl is over.
    Done {
        /// Its result.
        errno: Errno,
        /// Bytes of the read buffer that are valid.
        read_consumed: u64,
        /// Bytes from offset `read_consumed - result.len()` of the read buffer.
        #[serde(serialize_with = "as_bytes")]
        result: Vec<u8>,
        /// To be written over the first word of the read buffer.
        first_word: Option<u32>,
        /// Where in `result` pid and euid of a sender stand.
        creds: Option<Creds>,
        /// The one action that an event can carry.
        nice: Option<Action>,
    },
    /// The parked read wants descriptors: post [`Continue::Install`].
    Install {
        /// The files.
        tokens: Vec<Token>,
    },
    /// The armed poll became ready.
    Poll,
}
