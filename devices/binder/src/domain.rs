//! The domain: one binder world, and the way of a message through it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryBackend;

use crate::arena::{Arena, BufferId, DeathId, FreezeId, NodeId, RefId, ThreadId, TransactionId};
use crate::buffer::Buffer;
use crate::death::Death;
use crate::errno::Errno;
use crate::events::Notice;
use crate::faults::Faults;
use crate::freeze::Freeze;
use crate::guest_table::GuestTable;
use crate::ids::{DebugId, GuestId, Pid, ProcId, Tid, Token};
use crate::limits::{Limits, Profile};
use crate::logs::{Counters, LogRing, Totals};
use crate::memory::{GuestPages, NoPages, Pages};
use crate::message::{
    Action, Answer, Body, Chunk, ChunkEnd, Continue, Expects, Header, Ioctl, MAX_ACTIONS, MAX_INSTALL_FILES,
    Message, Need, NeedKind, Status,
};
use crate::node::Node;
use crate::poll::PollCheck;
use crate::proc::{Context, ContextId};
use crate::proc_table::ProcTable;
use crate::refs::Ref;
use crate::spare::Spare;
use crate::thread::{Activity, Thread};
use crate::trace::{MessageKind, Party, StatusKind, TraceEvent, TraceSink, TransactionRecord, UserError};
use crate::transaction::Transaction;

/// `EPOLLERR`: no thread object could be made (B018).
const EPOLLERR: u32 = 8;
/// Slots in the answer to one TRIM at most.
const MAX_TRIM: usize = 512;

/// The RAM of the guests of a domain. Only RAM: no ROM, no device memory.
pub trait GuestRams {
    /// One guest's memory.
    type Ram: GuestMemoryBackend;

    /// The RAM of that guest, if it is there.
    fn ram(&self, guest: GuestId) -> Option<&Self::Ram>;
}

/// How many objects of a guest exist. All zero once every process of the guest is gone and no
/// other guest of the domain holds on to its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Open files.
    pub procs: u32,
    /// Thread objects.
    pub threads: u32,
    /// Nodes, the dead ones included.
    pub nodes: u32,
    /// Handles.
    pub refs: u32,
    /// Transactions that its processes sent.
    pub transactions: u32,
    /// Buffers in mappings of its processes.
    pub buffers: u32,
    /// Death and freeze registrations.
    pub deaths: u32,
    /// Ioctls that wait for a CONTINUE.
    pub suspended: u32,
    /// Files held by the shim for the core.
    pub tokens: u32,
    /// Pages that TRIM could give back.
    pub idle_pages: u32,
    /// Events that no buffer was found for yet.
    pub events: u32,
}

/// What a guest uses, and what waits for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub procs: u32,
    pub threads: u32,
    pub nodes: u32,
    pub refs: u32,
    pub transactions: u32,
    pub buffers: u32,
    /// Objects that these have room for in their offsets.
    pub buffer_objects: u64,
    /// Completions in queues of threads.
    pub completions: u32,
    /// Death and freeze registrations, the cleared ones that are not read yet included.
    pub registrations: u32,
    /// Nodes of which it is known what they are registered as.
    pub registered: u32,
    pub tokens: u32,
    pub suspended_bytes: u64,
    pub idle_pages: u32,
    /// Files to be let go with the next answer.
    pub fputs: VecDeque<Token>,
    pub events: VecDeque<(ThreadId, Notice)>,
    /// binderfs devices with a context.
    pub contexts: u32,
    /// Its driver takes part in attempt-acquire.
    pub attempt_acquire: bool,
    /// Commands and returns of its processes that ended.
    pub counters: Counters,
    /// Objects ever made.
    pub totals: Totals,
    pub log: LogRing,
    pub failed_log: LogRing,
}

/// What the handling of one message can use.
pub(crate) struct Cx<'a> {
    pub pages: &'a dyn Pages,
    pub sink: &'a mut dyn TraceSink,
    /// The piece of a write stream that the message brought; empty if it brought none.
    pub chunk: &'a Chunk,
    /// What the sink says: asked once a message.
    traces: bool,
}

impl<'a> Cx<'a> {
    /// For what no message asked for.
    pub(crate) fn new(pages: &'a dyn Pages, sink: &'a mut dyn TraceSink) -> Cx<'a> {
        static NOTHING: Chunk =
            Chunk { position: 0, bytes: Vec::new(), end: ChunkEnd::Last, ranges: Vec::new() };
        let traces = sink.enabled();
        Cx { pages, sink, chunk: &NOTHING, traces }
    }

    fn of_message(pages: &'a dyn Pages, sink: &'a mut dyn TraceSink, body: &'a Body) -> Cx<'a> {
        let cx = Cx::new(pages, sink);
        match body {
            Body::Ioctl(Ioctl { chunk, .. }) | Body::Continue(Continue::More(chunk)) => Cx { chunk, ..cx },
            _ => cx,
        }
    }

    pub(crate) fn traces(&self) -> bool {
        self.traces
    }

    #[inline(always)]
    pub(crate) fn trace(&mut self, event: impl FnOnce() -> TraceEvent) {
        if self.traces {
            self.emit(event);
        }
    }

    /// Of its own, so that whoever traces needs no room for events while nobody listens.
    #[cold]
    #[inline(never)]
    fn emit(&mut self, event: impl FnOnce() -> TraceEvent) {
        self.sink.event(&event());
    }
}

/// One binder world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Domain {
    pub(crate) limits: Limits,
    pub(crate) profile: Profile,
    pub(crate) guests: GuestTable,
    pub(crate) contexts: BTreeMap<ContextId, Context>,
    pub(crate) last_context: ContextId,
    pub(crate) procs: ProcTable,
    pub(crate) threads: Arena<ThreadId, Thread>,
    pub(crate) nodes: Arena<NodeId, Node>,
    pub(crate) refs: Arena<RefId, Ref>,
    pub(crate) transactions: Arena<TransactionId, Transaction>,
    pub(crate) buffers: Arena<BufferId, Buffer>,
    pub(crate) deaths: Arena<DeathId, Death>,
    pub(crate) freezes: Arena<FreezeId, Freeze>,
    pub(crate) last_proc: ProcId,
    pub(crate) last_debug_id: DebugId,
    /// Nodes whose owners died, ever: tells which died first.
    pub(crate) node_deaths: u64,
    /// Woken in this message; empty between messages.
    pub(crate) runnable: VecDeque<ThreadId>,
    /// What this message may have made readable; empty between messages.
    pub(crate) poll_check: Vec<PollCheck>,
    /// What is done to transactions on purpose.
    pub(crate) faults: Option<Box<Faults>>,
    #[serde(skip)]
    pub(crate) spare: Spare,
}

impl Domain {
    /// An empty world. A greater `max_files` than [`MAX_INSTALL_FILES`] is taken as that.
    pub fn new(mut limits: Limits, profile: Profile) -> Domain {
        limits.max_files = limits.max_files.min(MAX_INSTALL_FILES);
        Domain {
            limits,
            profile,
            guests: GuestTable::default(),
            contexts: BTreeMap::new(),
            last_context: ContextId(0),
            procs: ProcTable::default(),
            threads: Arena::default(),
            nodes: Arena::default(),
            refs: Arena::default(),
            transactions: Arena::default(),
            buffers: Arena::default(),
            deaths: Arena::default(),
            freezes: Arena::default(),
            last_proc: ProcId(0),
            last_debug_id: DebugId(0),
            node_deaths: 0,
            runnable: VecDeque::new(),
            poll_check: Vec::new(),
            faults: None,
            spare: Spare::default(),
        }
    }

    /// Lets a guest take part. A guest that is not attached gets `EBADF` for everything.
    pub fn attach(&mut self, guest: GuestId) {
        self.guests.attach(guest);
    }

    /// The guests that take part.
    pub fn guests(&self) -> impl Iterator<Item = GuestId> {
        self.guests.iter().map(|(id, _)| *id)
    }

    /// How many bytes of each payload trace events carry from now on.
    pub fn trace_payloads(&mut self, bytes: u32) {
        self.limits.trace_payload = bytes;
    }

    /// The files that a guest has open: each with the opener and the name of its context.
    pub fn open_files(&self, guest: GuestId) -> impl Iterator<Item = (ProcId, Pid, &[u8])> {
        let procs = self.procs.iter().filter(move |(_, proc)| proc.guest == guest);
        procs.filter_map(|(id, proc)| {
            let context = self.contexts.get(&proc.context)?;
            Some((id, proc.pid, context.name.as_slice()))
        })
    }

    /// The nodes that are context managers.
    pub fn managers(&self) -> impl Iterator<Item = DebugId> {
        let managers = self.contexts.values().filter_map(|context| context.manager);
        managers.filter_map(|node| Some(self.nodes.get(node)?.debug_id))
    }

    /// How the nodes of a guest were first passed to their context managers, each alone of its call's objects: what
    /// they are registered as. The first 4096 of those that live are known.
    pub fn registrations(&self, guest: GuestId) -> impl Iterator<Item = &TransactionRecord> {
        let nodes = self.nodes.iter().filter(move |node| node.guest == guest && node.owner.is_some());
        nodes.filter_map(|node| node.registered.as_deref())
    }

    /// What it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Handles one message to its end: when this returns, every thread that the message woke has
    /// read, and what they read waits in [`next_event`](Self::next_event). The message is only looked at: a
    /// device can read the next one into its memory.
    pub fn handle<R: GuestRams>(
        &mut self,
        rams: &R,
        guest: GuestId,
        message: &Message,
        sink: &mut dyn TraceSink,
    ) -> Answer {
        self.handle_on(&GuestPages(rams), guest, message, sink)
    }

    /// [`handle`](Self::handle) with the guests' pages behind an interface: for a replay, which has
    /// no guest.
    pub fn handle_on(
        &mut self,
        pages: &dyn Pages,
        guest: GuestId,
        message: &Message,
        sink: &mut dyn TraceSink,
    ) -> Answer {
        let mut answer = Answer::default();
        self.answer(pages, guest, message, sink, &mut answer);
        answer
    }

    /// The same into an answer that the caller keeps: its memory is used again.
    pub fn answer(
        &mut self,
        pages: &dyn Pages,
        guest: GuestId,
        message: &Message,
        sink: &mut dyn TraceSink,
        answer: &mut Answer,
    ) {
        let Message { header, body } = message;
        let mut cx = Cx::of_message(pages, sink, body);
        let kind = message_kind(body);
        cx.trace(move || TraceEvent::Message {
            guest,
            proc: header.proc,
            tid: header.tid,
            seq: header.seq,
            kind,
        });
        answer.clear();
        self.dispatch(&mut cx, guest, header, body, answer);
        self.settle(&mut cx);
        self.add_leftovers(guest, header, kind, answer);
        let proc = answer.proc.map_or(header.proc, |proc| proc.0);
        let (status, errno) = (status_kind(&answer.status), answer.errno);
        cx.trace(move || TraceEvent::Answered { proc, tid: header.tid, seq: header.seq, status, errno });
    }

    /// Fills in an answer that says nothing yet.
    fn dispatch(
        &mut self,
        cx: &mut Cx<'_>,
        guest: GuestId,
        header: &Header,
        body: &Body,
        answer: &mut Answer,
    ) {
        let proc = ProcId(header.proc);
        let found = self.procs.get(&proc).filter(|proc| proc.guest == guest);
        let owned = found.is_some();
        match body {
            // By far the most of them.
            Body::Ioctl(ioctl) if owned && header.tid != Tid(0) => {
                let known = found.and_then(|proc| proc.threads.get(&header.tid)).copied();
                match known.map_or_else(|| self.get_thread(cx, proc, header.tid), Ok) {
                    Ok(thread) => self.ioctl(cx, header, thread, ioctl, answer),
                    Err(errno) => answer.errno = errno,
                }
            }
            _ if !self.guests.contains_key(&guest) => answer.errno = Errno::EBADF,
            Body::Open(open) => *answer = self.open(cx, guest, header, open.clone()),
            Body::CtxDel { device } => *answer = self.end_device(guest, *device),
            Body::Policy => *answer = self.forget_permissions(guest),
            Body::Log(read) => *answer = self.read_text(cx, guest, header.time, read),
            // After RELEASE the worker of that process fetches what is left to be let go.
            Body::Continue(_) if !owned && header.tid == Tid(0) && self.was_released(proc) => {}
            _ if !owned => answer.errno = Errno::EBADF,
            _ => *answer = self.of_proc(cx, proc, header, body),
        }
    }

    /// What a process asks for beside ioctls.
    #[inline(never)]
    fn of_proc(&mut self, cx: &mut Cx<'_>, proc: ProcId, header: &Header, body: &Body) -> Answer {
        match body {
            Body::Open(_) | Body::CtxDel { .. } | Body::Log(_) | Body::Policy => Answer::error(Errno::EPROTO),
            Body::Mmap { address, length } => self.mmap(proc, *address, *length),
            Body::Unmap => self.unmap(proc),
            Body::Flush => self.flush(cx, proc),
            Body::Release => {
                self.release_proc(cx, proc);
                Answer::default()
            }
            Body::Trim { max } => self.trim(proc, *max),
            // Of no thread.
            Body::Ioctl(_) => Answer::error(Errno::EPROTO),
            Body::Poll if header.tid == Tid(0) => Answer::error(Errno::EPROTO),
            Body::Poll => match self.get_thread(cx, proc, header.tid) {
                Ok(thread) => Answer { poll_mask: self.poll_thread(thread), ..Answer::default() },
                Err(_) => Answer { poll_mask: EPOLLERR, ..Answer::default() },
            },
            Body::Continue(_) | Body::Cancel | Body::Timeout | Body::Fetch | Body::ReadFault { .. } => {
                match self.find_thread(proc, header.tid) {
                    Some(thread) => self.follow_up(cx, header, thread, body),
                    None => Answer::error(Errno::EBADF),
                }
            }
        }
    }

    fn was_released(&self, proc: ProcId) -> bool {
        proc != ProcId(0) && proc <= self.last_proc && !self.procs.contains_key(&proc)
    }

    /// Messages that belong to an ioctl that was begun.
    fn follow_up(&mut self, cx: &mut Cx<'_>, header: &Header, thread: ThreadId, body: &Body) -> Answer {
        match body {
            Body::Continue(more) => self.resume(cx, header, thread, more),
            Body::Cancel => self.cancel(cx, header, thread),
            Body::Timeout => self.timeout(cx, header, thread),
            Body::Fetch => self.fetch(thread),
            Body::ReadFault { .. } => self.read_fault(cx, thread, header.seq),
            _ => Answer::error(Errno::EPROTO),
        }
    }

    /// Files to be let go travel with any answer whose actions the shim does: not OPEN's, TRIM's and
    /// those of notes. RELEASE is not over before the last one has.
    fn add_leftovers(&mut self, guest: GuestId, header: &Header, kind: MessageKind, answer: &mut Answer) {
        let shared = self.is_shared();
        let Some(state) = self.guests.get_mut(&guest) else { return };
        answer.idle_pages = if shared { 0 } else { state.idle_pages };
        if state.fputs.is_empty() {
            return;
        }
        if !matches!(
            kind,
            MessageKind::Open
                | MessageKind::Trim
                | MessageKind::Mmap
                | MessageKind::Unmap
                | MessageKind::Flush
                | MessageKind::CtxDel
                | MessageKind::Policy
                | MessageKind::Log
        ) {
            let room = MAX_ACTIONS.saturating_sub(answer.actions.len()).min(state.fputs.len());
            answer.actions.extend(state.fputs.drain(..room).map(Action::Fput));
        }
        let releasing =
            kind == MessageKind::Release || (kind == MessageKind::Continue && header.tid == Tid(0));
        if releasing && answer.errno.is_ok() && !state.fputs.is_empty() {
            answer.status = Status::More;
        }
    }

    /// TRIM: pages of idle slots go back (rule 24), unless other guests rely on their being there.
    fn trim(&mut self, proc: ProcId, max: u32) -> Answer {
        let max = if self.is_shared() { 0 } else { max };
        let Some(object) = self.procs.get_mut(&proc) else { return Answer::error(Errno::EBADF) };
        let max = (max as usize).min(MAX_TRIM);
        let slots = object.mapping.as_mut().map(|mapping| mapping.trim(max)).unwrap_or_default();
        if let Some(guest) = self.guests.get_mut(&object.guest) {
            guest.idle_pages = guest.idle_pages.saturating_sub(slots.len() as u32);
        }
        Answer { slots, ..Answer::default() }
    }

    /// Takes back the memory of an [`Answer::result`] or of an event's, for what is read next. Nobody must: it saves
    /// the allocator some work.
    pub fn reuse(&mut self, result: Vec<u8>) {
        self.spare.keep_result(result);
    }

    /// Which CONTINUE the core waits for from a thread: how the lists in it are to be decoded.
    pub fn expects(&self, guest: GuestId, proc: u32, tid: Tid) -> Expects {
        let proc = ProcId(proc);
        if tid == Tid(0) && self.was_released(proc) {
            return Expects::More;
        }
        let owned = self.procs.get(&proc).is_some_and(|proc| proc.guest == guest);
        let thread = self.find_thread(proc, tid).filter(|_| owned).and_then(|id| self.threads.get(id));
        match thread.map(|thread| &thread.activity) {
            Some(Activity::WriteMore(_) | Activity::ReadMore(_)) => Expects::More,
            Some(Activity::Suspended { needs, .. }) => Expects::Needs(needs.iter().map(Need::kind).collect()),
            Some(Activity::Filling { .. }) => Expects::Needs(vec![NeedKind::Pages]),
            Some(Activity::Installing { transaction, .. }) => {
                Expects::Install(self.transactions.get(*transaction).map_or(0, |t| t.files.len()))
            }
            _ => Expects::Nothing,
        }
    }

    /// The kernel that it behaves like.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The opener's thread group of a process.
    pub fn pid(&self, proc: ProcId) -> Option<Pid> {
        self.procs.get(&proc).map(|proc| proc.pid)
    }

    /// Releases every process of a guest without touching its memory (device reset).
    pub fn reset(&mut self, guest: GuestId, sink: &mut dyn TraceSink) {
        let mut cx = Cx::new(&NoPages, sink);
        let procs = self.procs.iter().filter(|(_, proc)| proc.guest == guest);
        let procs: Vec<ProcId> = procs.map(|(id, _)| id).collect();
        for proc in procs {
            self.release_proc(&mut cx, proc);
        }
        self.settle(&mut cx);
        if let Some(state) = self.guests.get_mut(&guest) {
            // The shim drops its files with the epoch.
            state.fputs.clear();
            state.events.clear();
            state.contexts = 0;
            state.attempt_acquire = false;
        }
        // Its devices are gone with its epoch; so is everybody who could hold on to them.
        self.contexts.retain(|_, context| context.device.is_none_or(|(owner, _)| owner != guest));
    }

    /// Counts a guest's objects.
    pub fn census(&self, guest: GuestId) -> Census {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let of = |id: &ProcId| self.procs.get(id).is_some_and(|proc| proc.guest == guest);
        let waits = |thread: &&Thread| {
            thread.guest == guest
                && matches!(
                    thread.activity,
                    Activity::Suspended { .. }
                        | Activity::Filling { .. }
                        | Activity::WriteMore(_)
                        | Activity::ReadMore(_)
                        | Activity::Installing { .. }
                )
        };
        let state = self.guests.get(&guest);
        let deaths = self.deaths.iter().filter(|death| death.guest == guest).count();
        let freezes = self.freezes.iter().filter(|freeze| freeze.guest == guest).count();
        Census {
            procs: count(self.procs.values().filter(|proc| proc.guest == guest).count()),
            threads: count(self.threads.iter().filter(|thread| thread.guest == guest).count()),
            nodes: count(self.nodes.iter().filter(|node| node.guest == guest).count()),
            refs: count(self.refs.iter().filter(|entry| entry.guest == guest).count()),
            transactions: count(self.transactions.iter().filter(|t| t.guest == guest).count()),
            buffers: count(self.buffers.iter().filter(|buffer| of(&buffer.proc)).count()),
            deaths: count(deaths + freezes),
            suspended: count(self.threads.iter().filter(waits).count()),
            tokens: state.map_or(0, |guest| guest.tokens),
            idle_pages: state.map_or(0, |guest| guest.idle_pages),
            events: state.map_or(0, |guest| count(guest.events.len())),
        }
    }

    pub(crate) fn next_debug_id(&mut self) -> DebugId {
        self.last_debug_id = DebugId(self.last_debug_id.0.wrapping_add(1));
        self.last_debug_id
    }

    pub(crate) fn thread_proc(&self, thread: ThreadId) -> Option<ProcId> {
        self.threads.get(thread).map(|thread| thread.proc)
    }

    /// The guest of a live thread.
    pub(crate) fn thread_guest(&self, thread: ThreadId) -> GuestId {
        self.threads.get(thread).map(|thread| thread.guest).unwrap_or_default()
    }

    pub(crate) fn find_thread(&self, proc: ProcId, tid: Tid) -> Option<ThreadId> {
        self.procs.get(&proc)?.threads.get(&tid).copied()
    }

    pub(crate) fn party(&self, thread: ThreadId) -> Party {
        let Some(thread) = self.threads.get(thread) else { return Party::default() };
        Party { proc: thread.proc, pid: self.pid(thread.proc).unwrap_or_default(), tid: thread.tid }
    }

    /// Traces something of a thread. Who that is, is found out only where somebody listens.
    #[inline(always)]
    pub(crate) fn trace_thread(
        &self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        event: impl FnOnce(Party) -> TraceEvent,
    ) {
        cx.trace(move || event(self.party(thread)));
    }

    pub(crate) fn user_error(&self, cx: &mut Cx<'_>, thread: ThreadId, error: UserError) {
        self.trace_thread(cx, thread, move |thread| TraceEvent::UserError { thread, error });
    }
}

fn message_kind(body: &Body) -> MessageKind {
    match body {
        Body::Open(_) => MessageKind::Open,
        Body::Ioctl(_) => MessageKind::Ioctl,
        Body::Continue(_) => MessageKind::Continue,
        Body::Cancel => MessageKind::Cancel,
        Body::Timeout => MessageKind::Timeout,
        Body::Fetch => MessageKind::Fetch,
        Body::Poll => MessageKind::Poll,
        Body::Trim { .. } => MessageKind::Trim,
        Body::ReadFault { .. } => MessageKind::ReadFault,
        Body::Mmap { .. } => MessageKind::Mmap,
        Body::Unmap => MessageKind::Unmap,
        Body::Flush => MessageKind::Flush,
        Body::Release => MessageKind::Release,
        Body::CtxDel { .. } => MessageKind::CtxDel,
        Body::Log(_) => MessageKind::Log,
        Body::Policy => MessageKind::Policy,
    }
}

fn status_kind(status: &Status) -> StatusKind {
    match status {
        Status::Done => StatusKind::Done,
        Status::More => StatusKind::More,
        Status::Needs(_) => StatusKind::Needs,
        Status::Install(_) => StatusKind::Install,
        Status::Parked { .. } => StatusKind::Parked,
        Status::TooLate => StatusKind::TooLate,
    }
}
