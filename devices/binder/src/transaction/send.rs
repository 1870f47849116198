//! Sending: BC_TRANSACTION and BC_REPLY in B117's order of checks, suspended where the guest must help.

use crate::arena::{BufferId, TransactionId};
use crate::buffer::{Buffer, Sizes, align8};
use crate::commands::Step;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, ProcId};
use crate::limits::LsmMode;
use crate::memory::{Absent, UserMemory};
use crate::message::{LsmQuestion, MAX_NEED_PAGES, MAX_NEEDS, Need};
use crate::node::Side;
use crate::protocol::{TransactionData, br, tf};
use crate::thread::Call;
use crate::trace::{Party, TraceEvent, TransactionRecord, UserError};
use crate::transaction::copy::Copier;
use crate::transaction::objects::{Judge, What, read_arrays};
use crate::transaction::{FileFixup, SendError, Sending, Stage, Transaction, extended};
use crate::work::{Completion, Queue, Work};

/// Descriptors asked for with one need.
const MAX_NEED_FILES: usize = 256;
/// Pieces of sender's memory kept for one command: a shim that brings a byte at a time is cut off.
const MAX_FETCHED: usize = 4096;

impl Sending {
    fn is_oneway(&self) -> bool {
        !self.reply && self.data.flags & tf::ONE_WAY != 0
    }

    fn memory<'a>(&'a self, call: &'a Call, guest: GuestId) -> UserMemory<'a> {
        UserMemory { guest, chunk: &call.write.user, fetched: &self.fetched }
    }
}

impl Domain {
    /// Begins a send; the transaction is judged from here on, on copies.
    pub(crate) fn begin_send(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        data: TransactionData,
        buffers_size: u64,
        reply: bool,
    ) -> Step {
        let debug_id = self.next_debug_id();
        if let Some(thread) = self.threads.get_mut(call.thread) {
            thread.extended_error = extended(debug_id, br::OK, Errno::OK);
        }
        let header = &call.header;
        let euid = if self.profile.thread_euid() { header.thread_euid } else { header.leader_euid };
        let mut sending = Box::new(Sending {
            debug_id,
            thread: call.thread,
            reply,
            data,
            buffers_size,
            euid,
            nice: call.nice.unwrap_or(0),
            stage: Stage::Permission,
            in_reply_to: None,
            target_proc: None,
            target_thread: None,
            target_node: None,
            buffer: None,
            secctx: None,
            fetched: Vec::new(),
            offsets: None,
            plan: None,
            call_allowed: None,
            transfer_allowed: None,
            tokens: Vec::new(),
            file_error: None,
            page_error: None,
        });
        let aimed = if reply { self.aim_reply(call, &mut sending) } else { self.aim_call(&mut sending) };
        match aimed {
            Err(error) => {
                self.fail_send(cx, call, *sending, error);
                Step::Next
            }
            Ok(()) => self.advance_send(cx, call, sending),
        }
    }

    /// Goes on as far as possible.
    pub(crate) fn advance_send(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        mut sending: Box<Sending>,
    ) -> Step {
        match self.try_send(cx, call, &mut sending) {
            Ok(needs) if needs.is_empty() => Step::Next,
            Ok(needs) => Step::Suspend(sending, needs),
            Err(error) => {
                self.fail_send(cx, call, *sending, error);
                Step::Next
            }
        }
    }

    fn try_send(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        s: &mut Sending,
    ) -> Result<Vec<Need>, SendError> {
        if s.stage == Stage::Permission {
            if !s.reply {
                match self.permission(s, LsmQuestion::Transaction, s.call_allowed) {
                    Permission::Granted => {}
                    Permission::Refused => return Err(SendError::failed(Errno::EPERM)),
                    Permission::Ask(need) => return Ok(vec![need]),
                }
                if s.call_allowed.is_some() {
                    self.check_target(s)?;
                }
            }
            s.stage = Stage::Admission;
        }
        if s.stage == Stage::Admission {
            if !s.reply {
                self.check_stack(s)?;
            }
            self.reserve(s)?;
            s.stage = Stage::Gathering;
        } else {
            self.check_target(s)?;
        }
        let needs = self.gather(cx, call, s)?;
        if needs.is_empty() {
            self.commit(cx, call, s)?;
        }
        Ok(needs)
    }

    /// Finds the target of a call and takes the count that keeps its node (B119 to B123).
    fn aim_call(&mut self, s: &mut Sending) -> Result<(), SendError> {
        let proc_id = self.thread_proc(s.thread).ok_or(SendError::failed(Errno::EINVAL))?;
        let handle = s.data.target as u32;
        let node_id = if handle == 0 {
            self.manager_of(proc_id).ok_or(SendError::dead(Errno::EINVAL))?
        } else {
            let id = self.find_ref(proc_id, handle, true).ok_or(SendError::failed(Errno::EINVAL))?;
            self.refs.get(id).map(|entry| entry.node).ok_or(SendError::failed(Errno::EINVAL))?
        };
        let owner = self.nodes.get(node_id).and_then(|node| node.owner);
        let target = owner.ok_or(SendError::dead(Errno::EINVAL))?;
        let (own, other) = (self.procs.get(&proc_id), self.procs.get(&target));
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
        let transaction =
            self.transactions.get(id).filter(|t| t.to_thread == Some(s.thread)).ok_or(protocol)?;
        call.restore_nice(transaction.saved_nice);
        thread.stack = transaction.to_parent;
        s.in_reply_to = Some(id);
        let from = transaction.from.ok_or(SendError::dead(Errno::OK))?;
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
    fn permission(&self, s: &Sending, question: LsmQuestion, answer: Option<bool>) -> Permission {
        let Some(target) = s.target_proc else { return Permission::Refused };
        let known = || self.procs.get(&self.thread_proc(s.thread)?)?.lsm.get(&(target.0, question)).copied();
        let answer = match self.limits.lsm {
            LsmMode::Off => Some(true),
            LsmMode::Ask => answer,
            LsmMode::Cache => answer.or_else(known),
        };
        match answer {
            Some(true) => Permission::Granted,
            Some(false) => Permission::Refused,
            None => Permission::Ask(Need::Lsm { proc: target, question }),
        }
    }

    /// B125, B126, and the thread of a nested call (B298).
    fn check_stack(&self, s: &mut Sending) -> Result<(), SendError> {
        if s.is_oneway() {
            return Ok(());
        }
        let protocol = SendError::failed(Errno::EPROTO);
        let thread = self.threads.get(s.thread).ok_or(protocol)?;
        if matches!(thread.todo.head(), Some(Work::Transaction(_))) {
            return Err(protocol);
        }
        let Some(top) = thread.stack else { return Ok(()) };
        if self.transactions.get(top).is_none_or(|top| top.to_thread != Some(s.thread)) {
            return Err(protocol);
        }
        let mut next = Some(top);
        while let Some(transaction) = next.and_then(|id| self.transactions.get(id)) {
            let from = transaction.from.filter(|from| self.thread_proc(*from) == s.target_proc);
            if from.is_some() {
                s.target_thread = from;
                break;
            }
            next = transaction.from_parent;
        }
        Ok(())
    }

    /// Security context and space in the target.
    fn reserve(&mut self, s: &mut Sending) -> Result<(), SendError> {
        let sender = self.thread_proc(s.thread).and_then(|proc| self.procs.get(&proc));
        let sender = sender.ok_or(SendError::failed(Errno::EINVAL))?;
        let (sender_pid, sender_guest) = (sender.pid, sender.guest);
        let wants_secctx =
            s.target_node.and_then(|node| self.nodes.get(node)).is_some_and(|n| n.wants_secctx);
        if wants_secctx {
            let fallback = self.limits.default_secctx.as_deref().unwrap_or_default();
            let label = if sender.secctx.is_empty() { fallback } else { &sender.secctx };
            if label.is_empty() {
                let errno = sender.secctx_error;
                return Err(SendError::failed(if errno.is_ok() { Errno::EOPNOTSUPP } else { errno }));
            }
            s.secctx = Some([label, b"\0"].concat());
        }
        let over =
            |used: u32, max: u32| if used >= max { Err(SendError::failed(Errno::ENOMEM)) } else { Ok(()) };
        over(self.guests.get(&sender_guest).map_or(0, |g| g.transactions), self.limits.max_transactions)?;
        let secctx = s.secctx.as_ref().map_or(0, |label| align8(label.len() as u64));
        let extra = s.buffers_size.checked_add(secctx).ok_or(SendError::failed(Errno::EINVAL))?;
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let proc = self.procs.get_mut(&target).ok_or(SendError::dead(Errno::OK))?;
        over(self.guests.get(&proc.guest).map_or(0, |g| g.buffers), self.limits.max_buffers)?;
        let mapping = proc.mapping.as_mut().ok_or(SendError::dead(Errno::ESRCH))?;
        let sizes = Sizes { data: s.data.data_size, offsets: s.data.offsets_size, extra };
        let is_async = s.is_oneway();
        let placed = mapping.place(sizes, is_async.then_some(sender_pid)).map_err(|errno| match errno {
            Errno::ESRCH => SendError::dead(errno),
            errno => SendError::failed(errno),
        })?;
        let id = self.buffers.insert(Buffer {
            debug_id: s.debug_id,
            proc: target,
            offset: placed.offset,
            size: placed.size,
            data_size: s.data.data_size,
            offsets_size: s.data.offsets_size,
            is_async,
            sender: sender_pid,
            spam_suspect: placed.spam_suspect,
            clear_on_free: s.data.flags & tf::CLEAR_BUF != 0,
            user_free: false,
            transaction: None,
            target_node: s.target_node,
            held: Vec::new(),
            close: Vec::new(),
        });
        mapping.buffers.insert(placed.offset, id);
        if let Some(guest) = self.guests.get_mut(&proc.guest) {
            guest.buffers += 1;
            guest.idle_pages = guest.idle_pages.saturating_sub(placed.pages_taken);
        }
        s.buffer = Some(id);
        Ok(())
    }

    /// Collects everything that is still missing, in one pass.
    fn gather(&mut self, cx: &mut Cx<'_>, call: &Call, s: &mut Sending) -> Result<Vec<Need>, SendError> {
        if let Some(errno) = s.page_error {
            let unmapped = errno == Errno::ESRCH;
            return Err(if unmapped { SendError::dead(errno) } else { SendError::failed(Errno::ENOMEM) });
        }
        if s.fetched.len() > MAX_FETCHED {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let mut needs = self.missing_pages(s, target)?;
        let guest = self.thread_guest(s.thread);
        if s.offsets.is_none() {
            let (from, size) = (s.data.offsets, s.data.offsets_size);
            match s.memory(call, guest).covers(from, size) {
                Err(Absent::Fault) => return Err(SendError::failed(Errno::EFAULT)),
                Err(Absent::Missing(at)) => needs.push(Need::Data { address: at, length: from + size - at }),
                Ok(()) => s.offsets = Some(self.read_offsets(cx, call, s, guest)?),
            }
        }
        match s.memory(call, guest).covers(s.data.data, s.data.data_size) {
            // A fault is judged by its place among the objects.
            Ok(()) | Err(Absent::Fault) => {}
            Err(Absent::Missing(at)) => {
                let length = s.data.data + s.data.data_size - at;
                needs.push(Need::Data { address: at, length });
                return Ok(needs);
            }
        }
        let Some(offsets) = s.offsets.as_deref() else { return Ok(needs) };
        let mut plan = match s.plan.take() {
            Some(plan) => plan,
            None => self.judge(cx, call, s, guest).plan(offsets),
        };
        let more = self.plan_needs(cx, call, s, guest, target, &mut plan);
        s.plan = Some(plan);
        needs.extend(more);
        needs.truncate(MAX_NEEDS);
        Ok(needs)
    }

    fn missing_pages(&self, s: &Sending, target: ProcId) -> Result<Vec<Need>, SendError> {
        let proc = self.procs.get(&target).ok_or(SendError::dead(Errno::OK))?;
        let buffer = s.buffer.and_then(|id| self.buffers.get(id)).ok_or(SendError::dead(Errno::OK))?;
        let mapping = proc.mapping.as_ref().ok_or(SendError::dead(Errno::ESRCH))?;
        let slots = mapping.missing(buffer.offset, buffer.size, MAX_NEED_PAGES);
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        if mapping.unmapped {
            return Err(SendError::dead(Errno::ESRCH));
        }
        if proc.guest != self.thread_guest(s.thread) {
            // The sender's shim has no business with another guest's mapping.
            return Err(SendError::failed(Errno::ENOMEM));
        }
        Ok(vec![Need::Pages { proc: target, slots }])
    }

    fn read_offsets(
        &self,
        cx: &Cx<'_>,
        call: &Call,
        s: &Sending,
        guest: GuestId,
    ) -> Result<Vec<u64>, SendError> {
        let size = s.data.offsets_size;
        if !size.is_multiple_of(8) || !s.buffers_size.is_multiple_of(8) {
            return Err(SendError::failed(Errno::EINVAL));
        }
        if size / 8 > u64::from(self.limits.max_objects) {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        let mut bytes = vec![0; size as usize];
        let memory = s.memory(call, guest);
        memory.read(cx.pages, s.data.offsets, &mut bytes).map_err(|_| SendError::failed(Errno::EFAULT))?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn judge<'a>(&self, cx: &'a Cx<'_>, call: &'a Call, s: &'a Sending, guest: GuestId) -> Judge<'a> {
        let extra_start = align8(s.data.data_size) + align8(s.data.offsets_size);
        let accepts_fds = match (s.in_reply_to, s.target_node) {
            (Some(call), _) => self.transactions.get(call).is_some_and(|t| t.flags & tf::ACCEPT_FDS != 0),
            (None, Some(node)) => self.nodes.get(node).is_some_and(|node| node.accepts_fds),
            (None, None) => false,
        };
        Judge {
            memory: s.memory(call, guest),
            pages: cx.pages,
            data: s.data.data,
            data_size: s.data.data_size,
            extra: extra_start..extra_start + s.buffers_size,
            accepts_fds,
            max_files: u64::from(self.limits.max_files),
        }
    }

    /// What the objects of a plan need: the LSM's opinion, PTR memory, descriptor arrays, files.
    fn plan_needs(
        &self,
        cx: &Cx<'_>,
        call: &Call,
        s: &Sending,
        guest: GuestId,
        target: ProcId,
        plan: &mut crate::transaction::objects::Plan,
    ) -> Vec<Need> {
        let mut needs = Vec::new();
        let is_flat = |what: &What| matches!(what, What::Binder { .. } | What::Handle { .. });
        if let Some(first) = plan.objects.iter().position(|object| is_flat(&object.what)) {
            match self.permission(s, LsmQuestion::TransferBinder, s.transfer_allowed) {
                Permission::Granted => {}
                Permission::Refused => plan.fail_at(first, Errno::EPERM),
                Permission::Ask(need) => needs.push(need),
            }
        }
        let memory = s.memory(call, guest);
        if plan.failure.is_none() {
            for object in &plan.objects {
                let What::Ptr(ptr) = &object.what else { continue };
                match memory.covers(ptr.source, ptr.length) {
                    Ok(()) => {}
                    Err(Absent::Missing(at)) => {
                        needs.push(Need::Data { address: at, length: ptr.source + ptr.length - at });
                    }
                    Err(Absent::Fault) => {
                        plan.failure = Some(Errno::EINVAL);
                        break;
                    }
                }
                if needs.len() >= MAX_NEEDS {
                    return needs;
                }
            }
        }
        if let Some((address, length)) = read_arrays(plan, memory, cx.pages) {
            needs.push(Need::Data { address, length });
            return needs;
        }
        let wanted = plan.fds().nth(s.tokens.len());
        match (wanted, s.file_error) {
            (None, _) => {}
            (Some((index, _)), Some(errno)) => plan.fail_at(index, errno),
            (Some((index, _)), None) if self.procs.get(&target).is_none_or(|proc| proc.guest != guest) => {
                // Files do not cross guests.
                plan.fail_at(index, Errno::EPERM);
            }
            (Some(_), None) => {
                let fds = plan.fds().skip(s.tokens.len()).take(MAX_NEED_FILES).map(|(_, fd)| fd).collect();
                needs.push(Need::Files { proc: target, fds });
            }
        }
        needs
    }

    /// Translates, copies and enqueues.
    fn commit(&mut self, cx: &mut Cx<'_>, call: &mut Call, s: &mut Sending) -> Result<(), SendError> {
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let gone = SendError::dead(Errno::OK);
        let buffer_id = s.buffer.ok_or(gone)?;
        let plan = s.plan.take().unwrap_or_default();
        let mapping = self.procs.get(&target).and_then(|proc| proc.mapping.as_ref()).ok_or(gone)?;
        let buffer = self.buffers.get(buffer_id).ok_or(gone)?;
        let (start, address) = (buffer.offset, mapping.address.wrapping_add(buffer.offset));
        let mut translated = Vec::with_capacity(plan.objects.len());
        for object in &plan.objects {
            let result = self.translate(cx, s, target, address, &object.what);
            let object = result.map_err(SendError::failed)?;
            if let (Some(held), Some(buffer)) = (object.held, self.buffers.get_mut(buffer_id)) {
                buffer.held.push(held);
            }
            translated.push(object.bytes);
        }
        if let Some(errno) = plan.failure {
            return Err(SendError::failed(errno));
        }
        let guest = self.thread_guest(s.thread);
        let mapping = self.procs.get(&target).and_then(|proc| proc.mapping.as_ref()).ok_or(gone)?;
        let copier = Copier {
            pages: cx.pages,
            memory: s.memory(call, guest),
            sender: guest,
            mapping,
            start,
            data: s.data.data,
            data_size: s.data.data_size,
        };
        let extra = align8(s.data.data_size) + align8(s.data.offsets_size);
        let label = extra + s.buffers_size;
        copier
            .data(&plan, &translated)
            .and_then(|()| copier.offsets(s.offsets.as_deref().unwrap_or_default()))
            .and_then(|()| copier.pointers(&plan, extra, label))
            .and_then(|()| match &s.secctx {
                None => Ok(()),
                Some(text) => {
                    let mut padded = text.clone();
                    padded.resize(align8(text.len() as u64) as usize, 0);
                    mapping.write(cx.pages, start + label, &padded)
                }
            })
            .map_err(|_| SendError::failed(Errno::EFAULT))?;
        let files = fixups(&plan, &s.tokens);
        let transaction = Transaction {
            debug_id: s.debug_id,
            guest,
            is_reply: s.reply,
            from: (!s.reply && !s.is_oneway()).then_some(s.thread),
            sender: self.party(s.thread),
            from_parent: None,
            to_proc: Some(target),
            to_thread: s.target_thread,
            to_parent: None,
            buffer: Some(buffer_id),
            node: s.target_node,
            code: s.data.code,
            flags: s.data.flags,
            sender_euid: s.euid,
            nice: s.nice,
            saved_nice: None,
            secctx: s.secctx.as_ref().map(|_| address.wrapping_add(label)),
            files,
            place: None,
        };
        self.enqueue_transaction(cx, call, s, transaction)
    }

    /// The last checks (frozen, dead), then the queues.
    fn enqueue_transaction(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &mut Sending,
        transaction: Transaction,
    ) -> Result<(), SendError> {
        let gone = SendError::dead(Errno::OK);
        let target = s.target_proc.ok_or(gone)?;
        let oneway = s.is_oneway();
        let proc = self.procs.get_mut(&target).ok_or(gone)?;
        let frozen = proc.frozen && !s.reply;
        if frozen {
            proc.sync_received |= !oneway;
            proc.async_received |= oneway;
            if !oneway {
                return Err(SendError { code: br::FROZEN_REPLY, errno: Errno::OK });
            }
        }
        if s.target_thread.is_some_and(|thread| self.threads.get(thread).is_none()) {
            return Err(gone);
        }
        proc.outstanding += 1;
        if let Some(guest) = self.guests.get_mut(&transaction.guest) {
            guest.transactions += 1;
        }
        // The files belong to the transaction now.
        s.tokens.clear();
        let id = self.transactions.insert(transaction);
        let mut suspect = false;
        if let Some(buffer) = s.buffer.and_then(|id| self.buffers.get_mut(id)) {
            buffer.transaction = Some(id);
            suspect = buffer.spam_suspect;
        }
        self.trace_sent(cx, call, s, Ok(s.buffer));
        if s.reply {
            self.enqueue_ready(s.thread, Work::Complete(Completion::Sent));
            if let (Some(caller), Some(answered)) = (s.target_thread, s.in_reply_to) {
                self.pop_sent(caller, answered);
                self.enqueue_ready(caller, Work::Transaction(id));
                self.wake_thread(cx, caller);
                self.free_transaction(cx, answered);
            }
        } else if oneway {
            self.enqueue_oneway(cx, id, target, s.target_node, frozen);
            let completion = match (frozen && self.profile.freeze_notifications(), suspect) {
                (true, _) => Completion::PendingFrozen,
                (false, true) => Completion::SpamSuspect,
                (false, false) => Completion::Sent,
            };
            self.enqueue_ready(s.thread, Work::Complete(completion));
        } else {
            self.enqueue(Queue::Thread(s.thread), Work::Complete(Completion::Sent));
            if let Some(thread) = self.threads.get_mut(s.thread) {
                let below = thread.stack.replace(id);
                if let Some(transaction) = self.transactions.get_mut(id) {
                    transaction.from_parent = below;
                }
            }
            match s.target_thread {
                Some(thread) => {
                    self.enqueue_ready(thread, Work::Transaction(id));
                    self.wake_thread(cx, thread);
                }
                None => self.offer(cx, target, Work::Transaction(id)),
            }
        }
        Ok(())
    }

    /// At most one oneway of a node is in the target's hands (B146); the rest waits.
    fn enqueue_oneway(
        &mut self,
        cx: &mut Cx<'_>,
        id: TransactionId,
        target: ProcId,
        node_id: Option<crate::arena::NodeId>,
        frozen: bool,
    ) {
        let Some((node_id, node)) = node_id.and_then(|id| Some((id, self.nodes.get_mut(id)?))) else {
            return;
        };
        if !node.has_async {
            node.has_async = true;
            return self.offer(cx, target, Work::Transaction(id));
        }
        if frozen {
            self.supersede(cx, id, target, node_id);
        }
        self.enqueue(Queue::Backlog(node_id), Work::Transaction(id));
    }

    /// TF_UPDATE_TXN: drops the first oneway of the backlog that the new one replaces (B144).
    fn supersede(&mut self, cx: &mut Cx<'_>, new: TransactionId, target: ProcId, node: crate::arena::NodeId) {
        const BOTH: u32 = tf::ONE_WAY | tf::UPDATE_TXN;
        let Some(new) = self.transactions.get(new) else { return };
        if new.flags & BOTH != BOTH {
            return;
        }
        let replaced = |id: &TransactionId| {
            self.transactions.get(*id).is_some_and(|old| {
                old.sender.pid == new.sender.pid
                    && old.guest == new.guest
                    && old.code == new.code
                    && old.flags == new.flags
                    && old.to_proc == Some(target)
            })
        };
        let backlog = self.nodes.get(node).into_iter().flat_map(|node| node.backlog.iter());
        let transactions = backlog.filter_map(|work| match work {
            Work::Transaction(id) => Some(id),
            _ => None,
        });
        let Some(old) = transactions.into_iter().find(replaced) else { return };
        let Some(transaction) = self.transactions.get_mut(old) else { return };
        let (place, buffer) = (transaction.place.take(), transaction.buffer.take());
        if let Some(place) = place {
            self.remove_from_queue(place);
        }
        if let Some(buffer) = buffer {
            self.release_buffer(cx, buffer, None);
        }
        self.free_transaction(cx, old);
    }

    /// Undoes a send and reports its failure (B127, B133).
    pub(crate) fn fail_send(&mut self, cx: &mut Cx<'_>, call: &mut Call, s: Sending, error: SendError) {
        self.trace_sent(cx, call, &s, Err(error));
        self.user_error(cx, s.thread, UserError::BadTransaction(s.debug_id));
        let guest = self.thread_guest(s.thread);
        self.abandon_send(cx, &s, guest);
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
        for token in &s.tokens {
            self.put_file(guest, *token);
        }
        match (s.buffer, s.target_node, s.target_proc) {
            (Some(buffer), ..) => self.release_buffer(cx, buffer, None),
            (None, Some(node), Some(target)) => self.drop_local(cx, node, true, target),
            _ => {}
        }
    }

    fn trace_sent(
        &self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &Sending,
        result: Result<Option<BufferId>, SendError>,
    ) {
        if !cx.sink.enabled() {
            return;
        }
        let mut payload = vec![0; s.data.data_size.min(u64::from(self.limits.trace_payload)) as usize];
        if s.memory(call, self.thread_guest(s.thread)).read(cx.pages, s.data.data, &mut payload).is_err() {
            payload.clear();
        }
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
        cx.sink.event(TraceEvent::Transaction(TransactionRecord {
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
        }));
    }
}

/// An opinion of the LSM.
enum Permission {
    Granted,
    Refused,
    Ask(Need),
}

/// Where the numbers of the captured files go.
fn fixups(plan: &crate::transaction::objects::Plan, tokens: &[crate::ids::Token]) -> Vec<FileFixup> {
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
