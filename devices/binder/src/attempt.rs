//! Attempt-acquire: a weak handle is made strong, if its owner can still give a strong count (BINDER.md 11.3).
//!
//! OpenBinder's driver had it, no Linux driver ever did: a guest must opt in ([`Domain::accept_attempts`]),
//! else the commands are refused as the kernel's driver refuses them (B116).
//!
//! The asker writes BC_ATTEMPT_ACQUIRE and gets exactly one BR_ACQUIRE_RESULT. Where the owner holds its
//! object strongly for the driver, the ref gets its count at once. Otherwise the owner is asked: the question
//! is a transaction without a buffer, on both stacks like a call, so that everything that ends a call ends it,
//! with 0. An owner that says 1 has taken a strong count for the driver, as if it had been told BR_ACQUIRE
//! and had answered: it gets BR_RELEASE for it, once, as for any other.

use crate::arena::{NodeId, RefId, ThreadId, TransactionId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::GuestId;
use crate::protocol::{Return, br};
use crate::read::Taken;
use crate::thread::{Call, Delivery};
use crate::trace::UserError;
use crate::transaction::{Kind, Transaction};
use crate::work::{Completion, Work};

impl Domain {
    /// Whether a guest's driver takes part in attempt-acquire; said when the driver is ready.
    pub fn accept_attempts(&mut self, guest: GuestId, accepts: bool) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.attempt_acquire = accepts;
        }
    }

    pub(crate) fn accepts_attempts(&self, guest: GuestId) -> bool {
        self.guests.get(&guest).is_some_and(|guest| guest.attempt_acquire)
    }

    /// BC_ATTEMPT_ACQUIRE. `EINVAL` without the feature, of a thread that cannot wait for an answer now (as
    /// B125, B126), and for the manager's own 0 (as B257); `ENOMEM` over the quota of transactions.
    pub(crate) fn attempt_acquire(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        priority: i32,
        handle: u32,
    ) -> Result<(), Errno> {
        let thread = call.thread;
        let guest = self.thread_guest(thread);
        let proc = self.thread_proc(thread).ok_or(Errno::EINVAL)?;
        if !self.accepts_attempts(guest) || !self.may_call(thread) {
            return Err(Errno::EINVAL);
        }
        if self.over_transactions(guest) {
            return Err(Errno::ENOMEM);
        }
        if handle == 0 && self.inc_manager(cx, proc, true)? {
            self.tell_acquired(cx, thread, true);
            return Ok(());
        }
        let Some(reference) = self.find_ref(proc, handle, false) else {
            self.user_error(cx, thread, UserError::BadHandle(handle));
            self.tell_acquired(cx, thread, false);
            return Ok(());
        };
        if self.can_grant(reference) {
            let granted = self.make_strong(reference);
            self.tell_acquired(cx, thread, granted);
        } else if !self.ask_owner(cx, call, priority, reference) {
            self.tell_acquired(cx, thread, false);
        }
        Ok(())
    }

    /// Sends the question. False: there is nobody who could be asked.
    fn ask_owner(&mut self, cx: &mut Cx<'_>, call: &Call, priority: i32, reference: RefId) -> bool {
        let guest = self.thread_guest(call.thread);
        let Some(node_id) = self.refs.get(reference).map(|entry| entry.node) else { return false };
        let Some(owner) = self.nodes.get(node_id).and_then(|node| node.owner) else { return false };
        let owners = self.procs.get(&owner).is_some_and(|owner| self.accepts_attempts(owner.guest));
        let to_thread = self.nested_target(call.thread, owner);
        let (debug_id, sender) = (self.next_debug_id(), self.party(call.thread));
        let (Some(target), Some(node)) = (self.procs.get_mut(&owner), self.nodes.get_mut(node_id)) else {
            return false;
        };
        // As a call to a frozen process, which fails and is remembered (B371).
        target.sync_received |= target.frozen;
        if !owners || target.frozen {
            return false;
        }
        // The owner's pointer is to stay good until it has answered.
        node.local_weak += 1;
        target.outstanding += 1;
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.transactions += 1;
        }
        let id = self.transactions.insert(Transaction {
            debug_id,
            guest,
            kind: Kind::Attempt { reference },
            from: Some(call.thread),
            sender,
            from_parent: None,
            to_proc: Some(owner),
            to_thread,
            to_parent: None,
            buffer: None,
            node: Some(node_id),
            code: priority as u32,
            flags: 0,
            sender_euid: call.header.thread_euid,
            sched: call.sched,
            saved_sched: None,
            secctx: None,
            files: Vec::new(),
            place: None,
            started: call.header.time,
        });
        self.put_call(cx, call.thread, id, owner, to_thread);
        true
    }

    /// The owner reads the question, unless it has become needless.
    pub(crate) fn take_attempt(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        id: TransactionId,
        reference: RefId,
    ) -> Taken {
        let Some(attempt) = self.transactions.get(id) else { return Taken::Next };
        let (from, code, node) = (attempt.from, attempt.code, attempt.node);
        if self.can_grant(reference) {
            self.end_attempt(cx, id, reference);
            return Taken::Next;
        }
        let asked = from.is_some_and(|from| self.threads.get(from).is_some());
        let node = node.and_then(|node| self.nodes.get(node));
        let Some(node) = node.filter(|_| asked && self.refs.get(reference).is_some()) else {
            self.send_failed_reply(cx, id, br::DEAD_REPLY);
            return Taken::Next;
        };
        let item = Return::AttemptAcquire { priority: code as i32, ptr: node.ptr, cookie: node.cookie };
        self.schedule_callee(call, id);
        call.read.push(item);
        if let Some(thread) = self.threads.get_mut(call.thread) {
            let seq = call.header.seq;
            thread.last_delivery = Some(Delivery { seq, transaction: Some(id), buffer: None });
            if let Some(attempt) = self.transactions.get_mut(id) {
                attempt.to_parent = thread.stack.replace(id);
                attempt.to_thread = Some(call.thread);
            }
        }
        Taken::End
    }

    /// BC_ACQUIRE_RESULT. `EINVAL` without the feature, and of a thread that was not asked last.
    pub(crate) fn acquire_result(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        value: i32,
    ) -> Result<(), Errno> {
        if !self.accepts_attempts(self.thread_guest(call.thread)) {
            return Err(Errno::EINVAL);
        }
        let thread = self.threads.get_mut(call.thread).ok_or(Errno::EINVAL)?;
        let asked = thread.stack.and_then(|id| Some((id, self.transactions.get(id)?)));
        let (id, attempt) =
            asked.filter(|(_, attempt)| attempt.to_thread == Some(call.thread)).ok_or(Errno::EINVAL)?;
        let Kind::Attempt { reference } = attempt.kind else { return Err(Errno::EINVAL) };
        thread.stack = attempt.to_parent;
        let (saved, node) = (attempt.saved_sched, attempt.node);
        self.restore_scheduling(call, saved);
        if value == 0 {
            self.send_failed_reply(cx, id, br::FAILED_REPLY);
            return Ok(());
        }
        if let Some(node) = node {
            self.take_count(call.thread, node);
        }
        self.end_attempt(cx, id, reference);
        // Nobody was there to take the count: it goes back.
        if let Some(node) = node
            && self.nodes.get(node).is_some_and(|node| node.told_strong && !node.strong())
        {
            self.settle_node(cx, node);
        }
        Ok(())
    }

    /// The owner has taken a strong count for the driver. If it was told to take one meanwhile, it has one
    /// too many and gets BR_RELEASE for it.
    fn take_count(&mut self, thread: ThreadId, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if !std::mem::replace(&mut node.told_strong, true) {
            return;
        }
        node.surplus = node.surplus.saturating_add(1);
        if node.place.is_none() {
            self.enqueue_ready(thread, Work::Node(id));
        }
    }

    /// One strong count that the owner has too many, if it has any; the node is looked at again after it.
    pub(crate) fn give_back(&mut self, thread: ThreadId, id: NodeId) -> Option<Return> {
        let node = self.nodes.get_mut(id)?;
        node.surplus = node.surplus.checked_sub(1)?;
        let item = Return::Release { ptr: node.ptr, cookie: node.cookie };
        self.enqueue_ready(thread, Work::Node(id));
        Some(item)
    }

    /// The count is there: the ref gets it, if it and its asker still are.
    fn end_attempt(&mut self, cx: &mut Cx<'_>, id: TransactionId, reference: RefId) {
        let asker = self.transactions.get(id).and_then(|attempt| attempt.from);
        let waiting = |asker: &ThreadId| self.threads.get(*asker).is_some_and(|it| it.stack == Some(id));
        match asker.filter(waiting) {
            Some(asker) if self.make_strong(reference) => {
                self.pop_sent(asker, id);
                self.free_transaction(cx, id);
                self.tell_acquired(cx, asker, true);
            }
            _ => self.send_failed_reply(cx, id, br::DEAD_REPLY),
        }
    }

    /// Whether the owner holds its object strongly for the driver, or is just being told to.
    fn can_grant(&self, reference: RefId) -> bool {
        let node = self.refs.get(reference).and_then(|entry| self.nodes.get(entry.node));
        node.is_some_and(|node| node.owner.is_some() && (node.strong() || node.told_strong))
    }

    /// Adds a strong count that the owner stands for. False: the ref is gone, or full.
    fn make_strong(&mut self, reference: RefId) -> bool {
        let Some(entry) = self.refs.get_mut(reference) else { return false };
        let Some(more) = entry.strong.checked_add(1) else { return false };
        if entry.strong == 0
            && let Some(node) = self.nodes.get_mut(entry.node)
        {
            node.internal_strong += 1;
        }
        entry.strong = more;
        true
    }

    /// Queues BR_ACQUIRE_RESULT.
    pub(crate) fn tell_acquired(&mut self, cx: &mut Cx<'_>, thread: ThreadId, granted: bool) {
        self.enqueue_ready(thread, Work::Complete(Completion::Acquire(granted)));
        self.wake_thread(cx, thread);
    }
}
