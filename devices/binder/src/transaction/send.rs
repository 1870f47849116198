//! Sending: BC_TRANSACTION and BC_REPLY in B117's order of checks, suspended where the guest must help.

use crate::arena::{BufferId, ThreadId};
use crate::buffer::{AsyncSender, Buffer, MAX_MAPPING, Sizes, align8};
use crate::commands::{OBJECT_EFFORT, Step};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, ProcId};
use crate::limits::LsmMode;
use crate::memory::{NotRam, UserMemory};
use crate::message::{Answer, Chunk, LsmQuestion, Need};
use crate::node::Side;
use crate::proc::Proc;
use crate::protocol::{TransactionData, br, tf};
use crate::thread::{Activity, Call};
use crate::trace::{MAX_OBJECTS, ObjectRecord, Party, SentObject, TraceEvent, TransactionRecord, UserError};
use crate::transaction::copy::Copier;
use crate::transaction::objects::{Plan, What};
use crate::transaction::{FileFixup, SendError, Sending, Stage, Transaction, extended};
use crate::work::Work;

/// Bytes that are kept of the payload with which a node was registered: interface and name stand first.
pub(crate) const REGISTRATION: u32 = 512;
/// Nodes of a guest of which it is known how they were registered: more than any Android has services.
pub(crate) const MAX_REGISTERED: u32 = 4096;

impl Sending {
    pub(crate) fn is_oneway(&self) -> bool {
        !self.reply && self.data.flags & tf::ONE_WAY != 0
    }

    /// The sender's memory, where `brought` is the message's chunk.
    pub(crate) fn memory<'a>(&'a self, brought: &'a Chunk, call: &'a Call) -> UserMemory<'a> {
        UserMemory {
            guest: self.guest,
            chunk: &call.write.chunk(brought).ranges,
            fetched: &self.gathered().fetched,
        }
    }
}

impl Domain {
    /// Begins a send; the transaction is judged from here on, on copies.
    pub(crate) fn begin_send(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        data: &TransactionData,
        buffers_size: u64,
        reply: bool,
    ) -> Step {
        let debug_id = self.next_debug_id();
        if let Some(thread) = self.threads.get_mut(call.thread) {
            thread.extended_error = extended(debug_id, br::OK, Errno::OK);
        }
        let Some(&Proc { pid, context, .. }) = self.procs.get(&call.proc()) else { return Step::Next };
        let header = &call.header;
        let euid = if self.profile.thread_euid() { header.thread_euid } else { header.leader_euid };
        let mut sending = Sending {
            debug_id,
            thread: call.thread,
            guest: call.guest,
            sender: Party { proc: call.proc(), pid, tid: header.tid },
            reply,
            data: *data,
            buffers_size,
            euid,
            sched: call.sched,
            asks_anew: header.other_sid,
            stage: Stage::Permission,
            in_reply_to: None,
            target_proc: None,
            target_thread: None,
            target_node: None,
            buffer: None,
            gathered: None,
            log: 0,
            started: header.time,
        };
        let aimed = if reply { self.aim_reply(call, &mut sending) } else { self.aim_call(&mut sending) };
        self.log_send(&mut sending, context);
        if let Err(error) = aimed {
            self.fail_send(cx, call, &sending, error);
            return Step::Next;
        }
        let needs = self.advance_send(cx, call, &mut sending);
        if needs.is_empty() { Step::Next } else { Step::Suspend(Box::new(sending), needs) }
    }

    /// Goes on as far as possible. With nothing needed it is over, also where it failed.
    pub(crate) fn advance_send(&mut self, cx: &mut Cx<'_>, call: &mut Call, s: &mut Sending) -> Vec<Need> {
        let needs = self.try_send(cx, call, s).unwrap_or_else(|error| {
            self.fail_send(cx, call, s, error);
            Vec::new()
        });
        if self.faults.is_some() {
            self.end_due_holds(cx);
        }
        needs
    }

    fn try_send(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        s: &mut Sending,
    ) -> Result<Vec<Need>, SendError> {
        if s.stage == Stage::Permission {
            if !s.reply {
                match self.permission(s, LsmQuestion::Transaction, s.gathered().call_allowed) {
                    Permission::Granted => {}
                    Permission::Refused => return Err(SendError::failed(Errno::EPERM)),
                    Permission::Ask(need) => return Ok(vec![need]),
                }
                if s.gathered().call_allowed.is_some() {
                    self.check_target(s)?;
                }
            }
            s.stage = Stage::Admission;
        }
        let mut pages_there = false;
        if s.stage == Stage::Admission {
            if !s.reply {
                self.check_stack(s)?;
            }
            s.stage = Stage::Gathering;
            pages_there = self.reserve(s)?;
        } else {
            self.check_target(s)?;
        }
        let needs = self.gather(cx, call, s, pages_there)?;
        match needs.is_empty() {
            true => self.commit(cx, call, s)?,
            false => self.log_target(s),
        }
        Ok(needs)
    }

    /// Finds the target of a call and takes the count that keeps its node (B119 to B123).
    fn aim_call(&mut self, s: &mut Sending) -> Result<(), SendError> {
        let proc_id = s.sender.proc;
        let handle = s.data.target as u32;
        let own = self.procs.get(&proc_id);
        let node_id = if handle == 0 {
            let context = own.and_then(|own| self.contexts.get(&own.context));
            context.and_then(|context| context.manager).ok_or(SendError::dead(Errno::EINVAL))?
        } else {
            let id = self.find_ref(proc_id, handle, true).ok_or(SendError::failed(Errno::EINVAL))?;
            self.refs.get(id).map(|entry| entry.node).ok_or(SendError::failed(Errno::EINVAL))?
        };
        let owner = self.nodes.get(node_id).and_then(|node| node.owner);
        let target = owner.ok_or(SendError::dead(Errno::EINVAL))?;
        let other = self.procs.get(&target);
        let same_process = own.zip(other).is_some_and(|(a, b)| a.guest == b.guest && a.pid == b.pid);
        if target == proc_id || (handle == 0 && same_process) {
            return Err(SendError::failed(Errno::EINVAL));
        }
        self.inc_node(node_id, true, Side::Local, None).map_err(SendError::failed)?;
        s.target_proc = Some(target);
        s.target_node = Some(node_id);
        Ok(())
    }

    /// Finds the thread that waits for a reply; pops the call (B293 to B296, B317).
    fn aim_reply(&mut self, call: &mut Call, s: &mut Sending) -> Result<(), SendError> {
        let protocol = SendError::failed(Errno::EPROTO);
        let thread = self.threads.get_mut(s.thread).ok_or(protocol)?;
        let id = thread.stack.ok_or(protocol)?;
        let called = |t: &&Transaction| t.to_thread == Some(s.thread) && !t.is_attempt();
        let transaction = self.transactions.get(id).filter(called).ok_or(protocol)?;
        let (saved, from) = (transaction.saved_sched, transaction.from);
        thread.stack = transaction.to_parent;
        s.in_reply_to = Some(id);
        self.restore_scheduling(call, saved);
        let from = from.ok_or(SendError::dead(Errno::OK))?;
        let caller = self.threads.get(from).ok_or(SendError::dead(Errno::OK))?;
        if caller.stack != Some(id) {
            s.in_reply_to = None;
            return Err(protocol);
        }
        s.target_thread = Some(from);
        s.target_proc = Some(caller.proc);
        Ok(())
    }

    /// Everything that may have died while the command was suspended.
    fn check_target(&self, s: &Sending) -> Result<(), SendError> {
        let gone = SendError::dead(Errno::OK);
        let target = s.target_proc.filter(|proc| self.procs.contains_key(proc)).ok_or(gone)?;
        if let Some(node) = s.target_node
            && self.nodes.get(node).is_none_or(|node| node.owner != Some(target))
        {
            return Err(gone);
        }
        if s.target_thread.is_some_and(|thread| self.threads.get(thread).is_none()) {
            return Err(gone);
        }
        if s.buffer.is_some_and(|buffer| self.buffers.get(buffer).is_none()) {
            return Err(gone);
        }
        Ok(())
    }

    /// Asks the LSM as the mode says.
    pub(super) fn permission(&self, s: &Sending, question: LsmQuestion, answer: Option<bool>) -> Permission {
        let Some(target) = s.target_proc else { return Permission::Refused };
        if self.procs.get(&target).is_some_and(|proc| proc.guest != s.guest) {
            // The sender's security module knows nothing of another guest's processes.
            return Permission::Granted;
        }
        let known = || self.procs.get(&s.sender.proc)?.lsm.get(target, question);
        let answer = match self.limits.lsm {
            LsmMode::Off => Some(true),
            LsmMode::Ask => answer,
            LsmMode::Cache if s.asks_anew => answer,
            LsmMode::Cache => answer.or_else(known),
        };
        match answer {
            Some(true) => Permission::Granted,
            Some(false) => Permission::Refused,
            None => Permission::Ask(Need::Lsm { proc: target, question }),
        }
    }

    /// The guest's policy has changed: what the LSM said before is worth nothing, and an answer that is on its way is
    /// good for its own send only.
    pub(crate) fn forget_permissions(&mut self, guest: GuestId) -> Answer {
        for proc in self.procs.values_mut().filter(|proc| proc.guest == guest) {
            proc.lsm.clear();
            for thread in proc.threads.values() {
                if let Some(Activity::Suspended { sending, .. }) =
                    self.threads.get_mut(*thread).map(|thread| &mut thread.activity)
                {
                    sending.asks_anew = true;
                }
            }
        }
        Answer::default()
    }

    /// B125, B126, and the thread of a nested call (B298).
    fn check_stack(&self, s: &mut Sending) -> Result<(), SendError> {
        if s.is_oneway() {
            return Ok(());
        }
        if !self.may_call(s.thread) {
            return Err(SendError::failed(Errno::EPROTO));
        }
        s.target_thread = s.target_proc.and_then(|target| self.nested_target(s.thread, target));
        Ok(())
    }

    /// Whether a thread may wait for an answer: it has no call to read first, nor waits for another one.
    pub(crate) fn may_call(&self, thread: ThreadId) -> bool {
        let Some(object) = self.threads.get(thread) else { return false };
        let called = matches!(object.todo.first(), Some(Work::Transaction(_)));
        let top = |id| self.transactions.get(id).is_some_and(|top| top.to_thread == Some(thread));
        !called && object.stack.is_none_or(top)
    }

    /// The thread of `target` that waits, directly or not, for what this thread is doing.
    pub(crate) fn nested_target(&self, thread: ThreadId, target: ProcId) -> Option<ThreadId> {
        let mut next = self.threads.get(thread)?.stack;
        while let Some(transaction) = next.and_then(|id| self.transactions.get(id)) {
            let from = transaction.from.filter(|from| self.thread_proc(*from) == Some(target));
            if from.is_some() {
                return from;
            }
            next = transaction.from_parent;
        }
        None
    }

    /// Whether a guest may send nothing more for now.
    pub(crate) fn over_transactions(&self, guest: GuestId) -> bool {
        let used = self.guests.get(&guest).map_or(0, |guest| guest.transactions.max(guest.completions));
        used >= self.limits.max_transactions
    }

    /// Security context and space in the target. Tells whether the pages of the space are there.
    fn reserve(&mut self, s: &mut Sending) -> Result<bool, SendError> {
        self.count_target(s.guest);
        let wants_secctx =
            s.target_node.and_then(|node| self.nodes.get(node)).is_some_and(|n| n.wants_secctx);
        if wants_secctx {
            let sender = self.procs.get(&s.sender.proc).ok_or(SendError::failed(Errno::EINVAL))?;
            let fallback = self.limits.default_secctx.as_deref().unwrap_or_default();
            let label = if sender.secctx.is_empty() { fallback } else { &sender.secctx };
            if label.is_empty() {
                let errno = sender.secctx_error;
                return Err(SendError::failed(if errno.is_ok() { Errno::EOPNOTSUPP } else { errno }));
            }
            s.gather().secctx = Some([label, b"\0"].concat());
        }
        if self.over_transactions(s.guest) {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        if self.faults.is_some() {
            self.keep_full(s);
        }
        let secctx = s.gathered().secctx.as_ref().map_or(0, |label| align8(label.len() as u64));
        let extra = s.buffers_size.checked_add(secctx).ok_or(SendError::failed(Errno::EINVAL))?;
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let proc = self.procs.get_mut(&target).ok_or(SendError::dead(Errno::OK))?;
        let guest = self.guests.get_mut(&proc.guest).ok_or(SendError::dead(Errno::OK))?;
        // More offsets than any mapping has room for are judged where the buffer is placed.
        let objects = guest.buffer_objects.saturating_add(s.data.offsets_size.min(MAX_MAPPING) / 8);
        if guest.buffers >= self.limits.max_buffers || objects > u64::from(self.limits.max_buffer_objects) {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        let mapping = proc.mapping.as_mut().ok_or(SendError::dead(Errno::ESRCH))?;
        let sizes = Sizes { data: s.data.data_size, offsets: s.data.offsets_size, extra };
        let is_async = s.is_oneway();
        let (pid, counts_itself) = (s.sender.pid, self.profile.spam_counts_itself());
        let placed = match mapping.place(sizes, is_async.then_some(AsyncSender { pid, counts_itself })) {
            Ok(placed) => placed,
            Err(Errno::ESRCH) => return Err(SendError::dead(Errno::ESRCH)),
            Err(errno) => {
                self.found_full(target, errno);
                return Err(SendError::failed(errno));
            }
        };
        let id = self.buffers.insert(Buffer {
            debug_id: s.debug_id,
            proc: target,
            offset: placed.offset,
            size: placed.size,
            data_size: s.data.data_size,
            offsets_size: s.data.offsets_size,
            extra_size: extra,
            is_async,
            sender: s.sender.pid,
            spam_suspect: placed.spam_suspect,
            clear_on_free: s.data.flags & tf::CLEAR_BUF != 0,
            user_free: false,
            transaction: None,
            target_node: s.target_node,
            held: Vec::new(),
            close: Vec::new(),
        });
        mapping.buffers.insert(placed.offset, id);
        guest.buffers += 1;
        guest.buffer_objects = objects;
        guest.idle_pages = guest.idle_pages.saturating_sub(placed.pages_taken);
        s.buffer = Some(id);
        Ok(placed.pages_there)
    }

    /// Translates, copies and enqueues.
    fn commit(&mut self, cx: &mut Cx<'_>, call: &mut Call, s: &mut Sending) -> Result<(), SendError> {
        if self.faults.is_some() {
            self.meet_faults(cx, call, s)?;
        }
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let gone = SendError::dead(Errno::OK);
        let buffer_id = s.buffer.ok_or(gone)?;
        static NO_OBJECTS: Plan =
            Plan { objects: Vec::new(), failure: None, covered: 0, extra_used: 0, refused_array: None };
        let plan = s.gathered().plan.as_ref().unwrap_or(&NO_OBJECTS);
        let mapping = self.procs.get(&target).and_then(|proc| proc.mapping.as_ref()).ok_or(gone)?;
        let buffer = self.buffers.get(buffer_id).ok_or(gone)?;
        let (start, address) = (buffer.offset, mapping.address.wrapping_add(buffer.offset));
        let translated = match plan.objects.is_empty() {
            true => Vec::new(),
            false => self.translate_all(cx, call, s, plan, (target, buffer_id, address))?,
        };
        if let Some(errno) = plan.failure {
            return Err(SendError::failed(errno));
        }
        let label = align8(s.data.data_size) + align8(s.data.offsets_size) + s.buffers_size;
        self.copy_payload(cx, call, s, start, plan, &translated)
            .map_err(|NotRam| SendError::failed(Errno::EFAULT))?;
        call.effort += s.data.data_size + s.buffers_size + plan.objects.len() as u64 * OBJECT_EFFORT;
        let files =
            if s.gathered().tokens.is_empty() { Vec::new() } else { fixups(plan, &s.gathered().tokens) };
        let secctx = s.gathered().secctx.as_ref().map(|_| address.wrapping_add(label));
        self.enqueue_transaction(cx, call, s, target, files, secctx)
    }

    /// Translates the objects of a plan for the buffer of a target, at this address.
    #[inline(never)]
    fn translate_all(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &Sending,
        plan: &Plan,
        (target, buffer, address): (ProcId, BufferId, u64),
    ) -> Result<Vec<Vec<u8>>, SendError> {
        let mut translated = Vec::with_capacity(plan.objects.len());
        for object in &plan.objects {
            let result = self.translate(cx, s, target, address, &object.what);
            let object = result.map_err(SendError::failed)?;
            if let (Some(held), Some(buffer)) = (object.held, self.buffers.get_mut(buffer)) {
                buffer.held.push(held);
            }
            translated.push(object.bytes);
        }
        if plan.failure.is_none() && s.target_node.is_some_and(|node| self.is_manager(node)) {
            self.note_registration(cx, call, s);
        }
        Ok(translated)
    }

    /// Moves everything into the buffer at `start` of the target's mapping.
    fn copy_payload(
        &self,
        cx: &Cx<'_>,
        call: &Call,
        s: &Sending,
        start: u64,
        plan: &Plan,
        translated: &[Vec<u8>],
    ) -> Result<(), NotRam> {
        let target = s.target_proc.and_then(|target| self.procs.get(&target));
        let mapping = target.and_then(|proc| proc.mapping.as_ref()).ok_or(NotRam)?;
        let copier = Copier {
            pages: cx.pages,
            memory: s.memory(cx.chunk, call),
            sender: s.guest,
            mapping,
            start,
            data: s.data.data,
            data_size: s.data.data_size,
        };
        copier.data(plan, translated)?;
        copier.offsets(s.gathered().offsets.as_deref().unwrap_or_default())?;
        let extra = align8(s.data.data_size) + align8(s.data.offsets_size);
        let label = extra + s.buffers_size;
        copier.pointers(plan, extra, label)?;
        if let Some(text) = &s.gathered().secctx {
            let mut padded = text.clone();
            padded.resize(align8(text.len() as u64) as usize, 0);
            mapping.write(cx.pages, start + label, &padded)?;
        }
        Ok(())
    }

    /// Undoes a send and reports its failure (B127, B133).
    pub(crate) fn fail_send(&mut self, cx: &mut Cx<'_>, call: &mut Call, s: &Sending, error: SendError) {
        self.trace_sent(cx, call, s, Err(error));
        self.log_failure(s, error);
        self.user_error(cx, s.thread, UserError::BadTransaction(s.debug_id));
        self.abandon_send(cx, s, s.guest);
        let reason = extended(s.debug_id, error.code, error.errno);
        match s.in_reply_to {
            Some(answered) => {
                self.set_caller_error(answered, reason);
                self.set_return_error(s.thread, br::TRANSACTION_COMPLETE);
                self.send_failed_reply(cx, answered, error.code);
            }
            None => {
                if let Some(thread) = self.threads.get_mut(s.thread) {
                    thread.extended_error = reason;
                }
                self.set_return_error(s.thread, error.code);
            }
        }
    }

    /// Gives back what a send holds: files, buffer, node.
    pub(crate) fn abandon_send(&mut self, cx: &mut Cx<'_>, s: &Sending, guest: GuestId) {
        for token in &s.gathered().tokens {
            self.put_file(guest, *token);
        }
        match (s.buffer, s.target_node, s.target_proc) {
            (Some(buffer), ..) => self.release_buffer(cx, buffer, None),
            (None, Some(node), Some(target)) => self.drop_local(cx, node, true, target),
            _ => {}
        }
    }

    #[inline(always)]
    pub(super) fn trace_sent(
        &self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &Sending,
        result: Result<Option<BufferId>, SendError>,
    ) {
        if cx.traces() {
            self.emit_sent(cx, call, s, result);
        } else if cx.pages.keeps_reads() {
            self.read_sent(cx, call, s);
        }
    }

    #[cold]
    fn emit_sent(
        &self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &Sending,
        result: Result<Option<BufferId>, SendError>,
    ) {
        let record = self.sent_record(cx, call, s, result, self.limits.trace_payload);
        cx.sink.event(&TraceEvent::Transaction(record));
    }

    /// Reads of the payload what [`emit_sent`](Self::emit_sent) will, when this is replayed.
    fn read_sent(&self, cx: &Cx<'_>, call: &Call, s: &Sending) {
        if s.memory(cx.chunk, call).is_in_pages(s.data.data, s.data.data_size) {
            self.sent_payload(cx, call, s, self.limits.trace_payload);
        }
    }

    /// An own node goes to the context manager for the first time: what it is registered as can be told
    /// whenever a recording begins.
    fn note_registration(&mut self, cx: &Cx<'_>, call: &Call, s: &Sending) {
        let own = |what: &What| match *what {
            What::Binder { ptr, .. } => Some(ptr),
            _ => None,
        };
        let ptr =
            s.gathered().plan.iter().flat_map(|plan| &plan.objects).find_map(|object| own(&object.what));
        let node =
            self.procs.get(&s.sender.proc).zip(ptr).and_then(|(proc, ptr)| proc.nodes.get(&ptr).copied());
        let Some((id, node)) = node.and_then(|id| Some((id, self.nodes.get(id)?))) else { return };
        let room = self.guests.get(&node.guest).is_some_and(|guest| guest.registered < MAX_REGISTERED);
        if node.registered.is_some() || !room {
            return;
        }
        let (guest, debug_id) = (node.guest, Some(node.debug_id));
        let mut record = self.sent_record(cx, call, s, Ok(s.buffer), REGISTRATION);
        record.objects.retain(|it| matches!(it.object, SentObject::Binder { node, .. } if node == debug_id));
        record.objects.truncate(1);
        record.objects.shrink_to_fit();
        if let Some(node) = self.nodes.get_mut(id) {
            node.registered = Some(Box::new(record));
        }
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.registered += 1;
        }
    }

    /// A send as traces have it, with at most `most` bytes of its payload.
    fn sent_record(
        &self,
        cx: &Cx<'_>,
        call: &Call,
        s: &Sending,
        result: Result<Option<BufferId>, SendError>,
        most: u32,
    ) -> TransactionRecord {
        let payload = self.sent_payload(cx, call, s, most);
        let to = s.target_proc.map(|proc| match s.target_thread {
            Some(thread) => self.party(thread),
            None => Party { proc, pid: self.pid(proc).unwrap_or_default(), ..Party::default() },
        });
        let address = s.buffer.and_then(|id| {
            let buffer = self.buffers.get(id)?;
            Some(self.procs.get(&buffer.proc)?.mapping.as_ref()?.address.wrapping_add(buffer.offset))
        });
        let (result, errno) = match result {
            Ok(_) => (br::TRANSACTION_COMPLETE, Errno::OK),
            Err(error) => (error.code, error.errno),
        };
        TransactionRecord {
            id: s.debug_id,
            from: self.party(s.thread),
            to,
            node: s.target_node.and_then(|node| self.nodes.get(node)).map(|node| node.debug_id),
            handle: if s.reply { 0 } else { s.data.target as u32 },
            code: s.data.code,
            flags: s.data.flags,
            data_size: s.data.data_size,
            offsets_size: s.data.offsets_size,
            buffers_size: s.buffers_size,
            oneway: s.is_oneway(),
            reply_to: s.in_reply_to.and_then(|call| self.transactions.get(call)).map(|call| call.debug_id),
            result,
            errno,
            address: address.unwrap_or(0),
            payload,
            objects: self.sent_objects(s),
        }
    }

    /// At most `most` bytes of a payload as it was sent; empty where they cannot be read.
    fn sent_payload(&self, cx: &Cx<'_>, call: &Call, s: &Sending, most: u32) -> Vec<u8> {
        let mut payload = vec![0; s.data.data_size.min(u64::from(most)) as usize];
        if s.memory(cx.chunk, call).read(cx.pages, s.data.data, &mut payload).is_err() {
            payload.clear();
        }
        payload
    }

    /// The objects of a transaction as far as they were judged, for the trace.
    fn sent_objects(&self, s: &Sending) -> Vec<ObjectRecord> {
        let proc = self.procs.get(&s.sender.proc);
        let debug_id = |id| self.nodes.get(id).map(|node| node.debug_id);
        let planned = s.gathered().plan.iter().flat_map(|plan| &plan.objects).take(MAX_OBJECTS);
        let object = |what: &What| match *what {
            What::Binder { strong, ptr, .. } => {
                let node = proc.and_then(|proc| proc.nodes.get(&ptr)).and_then(|id| debug_id(*id));
                SentObject::Binder { strong, ptr, node }
            }
            What::Handle { strong, handle, .. } => {
                let id = self.find_ref(s.sender.proc, handle, strong);
                let node = id.and_then(|id| self.refs.get(id)).and_then(|entry| debug_id(entry.node));
                SentObject::Handle { strong, handle, node }
            }
            What::Fd { fd, .. } => SentObject::Fd { fd },
            What::Ptr(ptr) => SentObject::Ptr { length: ptr.length },
            What::Fda { count, .. } => SentObject::FdArray { count },
        };
        planned
            .map(|planned| ObjectRecord { offset: planned.offset, object: object(&planned.what) })
            .collect()
    }
}

/// An opinion of the LSM.
pub(super) enum Permission {
    Granted,
    Refused,
    Ask(Need),
}

/// Where the numbers of the captured files go.
fn fixups(plan: &Plan, tokens: &[crate::ids::Token]) -> Vec<FileFixup> {
    let mut tokens = tokens.iter().copied();
    let mut files = Vec::new();
    for object in &plan.objects {
        match &object.what {
            What::Fd { .. } => {
                files.extend(tokens.next().map(|token| FileFixup {
                    offset: object.offset + 8,
                    token,
                    close: false,
                }));
            }
            What::Fda { place, fds: Some(fds), .. } => {
                let places = (0..fds.len() as u64).map(|index| place + index * 4);
                files.extend(places.zip(tokens.by_ref()).map(|(offset, token)| FileFixup {
                    offset,
                    token,
                    close: true,
                }));
            }
            _ => {}
        }
    }
    files
}
