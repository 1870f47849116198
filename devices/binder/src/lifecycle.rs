//! Open, mmap, flush and release; the making and the end of threads and processes (BINDER.md 1.1 to 1.4).

use std::collections::{BTreeMap, BTreeSet};

use crate::arena::{BufferId, ThreadId};
use crate::buffer::Mapping;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, ProcId, Tid};
use crate::logs::Counters;
use crate::message::{Answer, Header, Open};
use crate::proc::{Answers, Context, ContextId, HandleTable, Proc, WaitingList};
use crate::protocol::br;
use crate::sched::Scheduling;
use crate::thread::{Activity, Thread};
use crate::trace::TraceEvent;
use crate::work::{Queue, Work, WorkQueue};

/// Device names that guests share, in one domain at most.
pub(crate) const MAX_CONTEXTS: usize = 1024;
/// Bytes of a device name (B404) and of a security context.
pub(crate) const MAX_NAME: usize = 255;
pub(crate) const MAX_SECCTX: usize = 4096;

impl Domain {
    /// A device is opened: a fresh process object (B001).
    pub(crate) fn open(&mut self, cx: &mut Cx<'_>, guest: GuestId, header: &Header, open: Open) -> Answer {
        match self.try_open(guest, header, &open) {
            Err(errno) => Answer::error(errno),
            Ok(proc) => {
                let (pid, context, euid) = (open.tgid, open.context, header.thread_euid);
                cx.trace(move || TraceEvent::ProcOpened { guest, proc, pid, context, euid });
                Answer { proc: Some(proc), ..Answer::default() }
            }
        }
    }

    fn try_open(&mut self, guest: GuestId, header: &Header, open: &Open) -> Result<ProcId, Errno> {
        if open.context.len() > MAX_NAME || open.secctx.len() > MAX_SECCTX {
            return Err(Errno::EINVAL);
        }
        let id = self.procs.next_id(self.last_proc).ok_or(Errno::ENOMEM)?;
        let usage = self.guests.get_mut(&guest).ok_or(Errno::EBADF)?;
        if usage.procs >= self.limits.max_procs {
            return Err(Errno::ENOMEM);
        }
        let context = self.context_of(guest, open)?;
        let usage = self.guests.get_mut(&guest).ok_or(Errno::EBADF)?;
        usage.procs += 1;
        usage.totals.procs = usage.totals.procs.wrapping_add(1);
        self.last_proc = id;
        let proc = Proc {
            guest,
            pid: open.tgid,
            context,
            default_sched: Scheduling::of_opener(self.profile, header.scheduling(), open.default_nice),
            secctx: open.secctx.clone(),
            secctx_error: open.secctx_error,
            threads: BTreeMap::new(),
            nodes: BTreeMap::new(),
            refs: HandleTable::default(),
            todo: WorkQueue::default(),
            waiting: WaitingList::default(),
            delivered_deaths: WorkQueue::default(),
            delivered_freezes: WorkQueue::default(),
            death_cookies: BTreeSet::new(),
            freeze_cookies: BTreeSet::new(),
            max_threads: 0,
            requested_threads: 0,
            started_threads: 0,
            mapping: None,
            frozen: false,
            sync_received: false,
            async_received: false,
            outstanding: 0,
            spam_detection: false,
            lsm: Answers::default(),
            freezers: BTreeSet::new(),
            poll_due: false,
            counters: Counters::default(),
        };
        self.procs.insert(id, proc);
        Ok(id)
    }

    /// The context of a device, which its first open makes.
    fn context_of(&mut self, guest: GuestId, open: &Open) -> Result<ContextId, Errno> {
        let device = (open.device != 0).then_some((guest, open.device));
        let same = |context: &Context| match device {
            Some(_) => context.device == device,
            None => context.device.is_none() && context.name == open.context,
        };
        if let Some((id, _)) = self.contexts.iter().find(|(_, context)| same(context)) {
            return Ok(*id);
        }
        let usage = self.guests.get_mut(&guest).ok_or(Errno::EBADF)?;
        if device.is_some() {
            if usage.contexts >= self.limits.max_contexts {
                return Err(Errno::ENOMEM);
            }
            usage.contexts += 1;
        } else if self.contexts.values().filter(|context| context.device.is_none()).count() >= MAX_CONTEXTS {
            return Err(Errno::ENOMEM);
        }
        let id = ContextId(self.last_context.0.checked_add(1).ok_or(Errno::ENOMEM)?);
        self.last_context = id;
        let name = open.context.clone();
        self.contexts.insert(id, Context { name, device, manager: None, manager_uid: None });
        Ok(id)
    }

    /// CTX_DEL: the number may be given to another device now. A device that was never opened is unknown here.
    pub(crate) fn end_device(&mut self, guest: GuestId, device: u32) -> Answer {
        let of_device = |context: &Context| device != 0 && context.device == Some((guest, device));
        let Some((&id, _)) = self.contexts.iter().find(|(_, context)| of_device(context)) else {
            return Answer::default();
        };
        if self.procs.values().any(|proc| proc.context == id) {
            return Answer::error(Errno::EBUSY);
        }
        self.contexts.remove(&id);
        if let Some(usage) = self.guests.get_mut(&guest) {
            usage.contexts = usage.contexts.saturating_sub(1);
        }
        Answer::default()
    }

    /// One mapping a process, for its whole life (B010).
    pub(crate) fn mmap(&mut self, proc: ProcId, address: u64, length: u64) -> Answer {
        let Some(object) = self.procs.get_mut(&proc) else { return Answer::error(Errno::EBADF) };
        if object.mapping.is_some() {
            return Answer::error(Errno::EBUSY);
        }
        object.mapping = Mapping::new(object.guest, address, length);
        Answer::error(if object.mapping.is_some() { Errno::OK } else { Errno::EINVAL })
    }

    /// B014.
    pub(crate) fn unmap(&mut self, proc: ProcId) -> Answer {
        if let Some(mapping) = self.procs.get_mut(&proc).and_then(|proc| proc.mapping.as_mut()) {
            mapping.unmapped = true;
        }
        Answer::default()
    }

    /// B028: every thread returns once.
    pub(crate) fn flush(&mut self, cx: &mut Cx<'_>, proc: ProcId) -> Answer {
        let threads = self.procs.get(&proc).map(|proc| proc.threads.values().copied().collect());
        let threads: Vec<ThreadId> = threads.unwrap_or_default();
        for thread in threads {
            if let Some(object) = self.threads.get_mut(thread) {
                object.need_return = true;
            }
            self.wake_thread(cx, thread);
            self.poll_changed(thread);
        }
        Answer::default()
    }

    /// The thread object of a tid, which the first ioctl or poll makes (B003).
    pub(crate) fn get_thread(&mut self, cx: &mut Cx<'_>, proc: ProcId, tid: Tid) -> Result<ThreadId, Errno> {
        if let Some(thread) = self.find_thread(proc, tid) {
            return Ok(thread);
        }
        let object = self.procs.get_mut(&proc).ok_or(Errno::EBADF)?;
        let usage = self.guests.get_mut(&object.guest).ok_or(Errno::EBADF)?;
        if usage.threads >= self.limits.max_threads {
            return Err(Errno::ENOMEM);
        }
        usage.threads += 1;
        usage.totals.threads = usage.totals.threads.wrapping_add(1);
        let id = self.threads.insert(Thread::new(proc, object.guest, tid));
        object.threads.insert(tid, id);
        let thread = self.party(id);
        cx.trace(move || TraceEvent::ThreadCreated { thread });
        Ok(id)
    }

    /// BINDER_THREAD_EXIT.
    pub(crate) fn exit_thread(&mut self, cx: &mut Cx<'_>, id: ThreadId) {
        let guest = self.thread_guest(id);
        let has_events = self.threads.get(id).is_some_and(|thread| thread.notices > 0);
        self.release_thread(cx, id);
        if has_events {
            self.drop_stale_events(guest);
        }
    }

    /// Events of threads that ended are not sent any more.
    fn drop_stale_events(&mut self, guest: GuestId) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.events.retain(|(thread, _)| self.threads.get(*thread).is_some());
        }
    }

    /// The end of a thread (B305 to B310, B052). Its events stay, to be dropped with all others of its process.
    fn release_thread(&mut self, cx: &mut Cx<'_>, id: ThreadId) {
        self.leave_waiting(id);
        let party = self.party(id);
        let activity = self.take_activity(id);
        // While the thread is there: its completions are counted.
        let mut works = Vec::new();
        while let Some(work) = self.dequeue(Queue::Thread(id)) {
            works.push(work);
        }
        let Some(thread) = self.threads.remove(id) else { return };
        if let Some(proc) = self.procs.get_mut(&thread.proc) {
            proc.threads.remove(&thread.tid);
        }
        if let Some(guest) = self.guests.get_mut(&thread.guest) {
            guest.threads = guest.threads.saturating_sub(1);
        }
        self.release_activity(cx, id, thread.guest, activity);
        let (unanswered, active_transactions) = self.leave_stack(cx, id, &thread);
        if let Some(call) = unanswered {
            self.send_failed_reply(cx, call, br::DEAD_REPLY);
        }
        for work in works {
            let Work::Node(id) = work else {
                self.release_work(cx, work);
                continue;
            };
            // Node work goes on in the process, else its owner would never hear of it (B248). The end of the
            // calls above may have queued it there already.
            if self.nodes.get(id).is_some_and(|node| node.place.is_none()) {
                self.enqueue(Queue::Proc(thread.proc), work);
                self.wake_proc(cx, thread.proc);
            }
        }
        cx.trace(move || TraceEvent::ThreadReleased { thread: party, active_transactions });
    }

    /// Whatever the thread was doing ends here.
    fn release_activity(&mut self, cx: &mut Cx<'_>, id: ThreadId, guest: GuestId, activity: Activity) {
        match activity {
            Activity::Suspended { sending, bytes, .. } => {
                self.end_suspended(guest, bytes);
                self.abandon_send(cx, &sending, guest);
                if let Some(call) = sending.in_reply_to {
                    self.send_failed_reply(cx, call, br::DEAD_REPLY);
                }
            }
            Activity::Installing { transaction, .. } => {
                self.cleanup_transaction(cx, transaction, br::DEAD_REPLY);
            }
            Activity::Freezing(wait) => self.stop_freezing(id, &wait),
            Activity::Filling { bytes, .. } => self.end_suspended(guest, bytes),
            Activity::Idle
            | Activity::WriteMore(_)
            | Activity::ReadMore(_)
            | Activity::Parked(_)
            | Activity::Completed { .. } => {}
        }
    }

    /// Unlinks a thread from its calls. Returns the one that it should have answered next, and how
    /// many there were.
    fn leave_stack(
        &mut self,
        cx: &mut Cx<'_>,
        id: ThreadId,
        thread: &Thread,
    ) -> (Option<crate::arena::TransactionId>, u32) {
        let mut unanswered = None;
        let mut count = 0;
        let mut next = thread.stack;
        while let Some(transaction_id) = next {
            let Some(transaction) = self.transactions.get_mut(transaction_id) else { break };
            if transaction.to_thread == Some(id) {
                transaction.to_thread = None;
                transaction.to_proc = None;
                next = transaction.to_parent;
                if let Some(buffer) = transaction.buffer.take().and_then(|id| self.buffers.get_mut(id)) {
                    buffer.transaction = None;
                }
                self.end_outstanding(cx, thread.proc);
                if count == 0 {
                    unanswered = Some(transaction_id);
                }
            } else if transaction.from == Some(id) {
                transaction.from = None;
                next = transaction.from_parent;
            } else {
                break;
            }
            count += 1;
        }
        (unanswered, count)
    }

    /// The last reference to the file is gone, in B031's order.
    pub(crate) fn release_proc(&mut self, cx: &mut Cx<'_>, id: ProcId) {
        let Some(proc) = self.procs.get_mut(&id) else { return };
        proc.frozen = false;
        proc.sync_received = false;
        proc.async_received = false;
        let (context, guest) = (proc.context, proc.guest);
        self.wake_freezers(cx, id);
        let manager = self.contexts.get(&context).and_then(|context| context.manager);
        if manager.and_then(|node| self.nodes.get(node)).is_some_and(|node| node.owner == Some(id))
            && let Some(context) = self.contexts.get_mut(&context)
        {
            context.manager = None;
        }
        while let Some(thread) = self.procs.get(&id).and_then(|proc| proc.threads.values().next().copied()) {
            self.release_thread(cx, thread);
        }
        self.drop_stale_events(guest);
        while let Some((_, node)) = self.procs.get_mut(&id).and_then(|proc| proc.nodes.pop_first()) {
            self.release_node(cx, node);
        }
        while let Some(entry) = self.procs.get(&id).and_then(|proc| proc.refs.first()) {
            self.remove_ref(cx, entry);
        }
        for queue in [Queue::Proc(id), Queue::DeliveredDeaths(id), Queue::DeliveredFreezes(id)] {
            while let Some(work) = self.dequeue(queue) {
                self.release_work(cx, work);
            }
        }
        self.release_mapping(cx, id);
        let removed = self.procs.remove(&id);
        if let (Some(proc), true) = (&removed, self.faults.is_some()) {
            self.forget_doomed(proc.guest, proc.pid);
        }
        self.procs.values_mut().for_each(|other| other.lsm.forget(id));
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.procs = guest.procs.saturating_sub(1);
            removed.iter().for_each(|proc| guest.counters.add(&proc.counters));
        }
        cx.trace(move || TraceEvent::ProcReleased { proc: id });
    }

    /// Buffers go with their process; what they held is gone already.
    fn release_mapping(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        let Some(object) = self.procs.get_mut(&proc) else { return };
        let Some(mapping) = object.mapping.take() else { return };
        let idle = mapping.idle();
        let buffers: Vec<BufferId> = mapping.buffers.values().collect();
        let mut objects = 0;
        for id in &buffers {
            let Some(buffer) = self.buffers.remove(*id) else { continue };
            objects += buffer.objects();
            if buffer.clear_on_free {
                // A page that is no RAM any more has nothing to hide.
                let _ = mapping.zero(cx.pages, buffer.offset, buffer.size);
            }
            if let Some(transaction) = buffer.transaction.and_then(|id| self.transactions.get_mut(id)) {
                transaction.buffer = None;
            }
        }
        if let Some(guest) = self.guests.get_mut(&object.guest) {
            guest.buffers = guest.buffers.saturating_sub(buffers.len() as u32);
            guest.buffer_objects = guest.buffer_objects.saturating_sub(objects);
            guest.idle_pages = guest.idle_pages.saturating_sub(idle);
        }
    }
}
