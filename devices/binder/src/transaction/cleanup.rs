//! How transactions and buffers end.

use crate::arena::{BufferId, NodeId, ThreadId, TransactionId};
use crate::buffer::Held;
use crate::domain::{Cx, Domain};
use crate::ids::{GuestId, ProcId, Token};
use crate::message::Action;
use crate::node::Side;
use crate::protocol::br;
use crate::thread::ExtendedError;
use crate::trace::TraceEvent;
use crate::transaction::Transaction;
use crate::work::{Queue, Work};

impl Domain {
    /// Forgets a transaction; its buffer stays, but is free of it.
    pub(crate) fn free_transaction(&mut self, cx: &mut Cx<'_>, id: TransactionId) {
        let Some(transaction) = self.transactions.remove(id) else { return };
        let attempt = transaction.is_attempt();
        let Transaction { guest, to_proc, buffer, node, files, .. } = transaction;
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.transactions = guest.transactions.saturating_sub(1);
        }
        if let Some(proc) = to_proc {
            self.end_outstanding(cx, proc);
        }
        if let Some(buffer) = buffer.and_then(|id| self.buffers.get_mut(id)) {
            buffer.transaction = None;
        }
        if let (true, Some(node)) = (attempt, node) {
            // The owner's pointer need not stay good any longer. A dead owner's node has no local counts.
            if self.nodes.get(node).is_some_and(|node| node.owner.is_some()) {
                self.dec_node(cx, node, false, Side::Local);
            }
        }
        for file in files {
            self.put_file(guest, file.token);
        }
    }

    /// One transaction less under way to a process (B370, B376).
    pub(crate) fn end_outstanding(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        let Some(target) = self.procs.get_mut(&proc) else { return };
        target.outstanding = target.outstanding.saturating_sub(1);
        if target.outstanding == 0 && target.frozen {
            self.wake_freezers(cx, proc);
        }
    }

    /// Lets a file of a guest go: the next answer to that guest carries the action.
    pub(crate) fn put_file(&mut self, guest: GuestId, token: Token) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.tokens = guest.tokens.saturating_sub(1);
            guest.fputs.push_back(token);
        }
    }

    /// Ends an undelivered transaction: a call fails back to its sender.
    pub(crate) fn cleanup_transaction(&mut self, cx: &mut Cx<'_>, id: TransactionId, code: u32) {
        let Some(transaction) = self.transactions.get(id) else { return };
        if transaction.is_reply() || transaction.is_oneway() {
            let debug_id = transaction.debug_id;
            cx.trace(move || TraceEvent::TransactionFailed { id: debug_id, code, to: None });
            self.free_transaction(cx, id);
        } else {
            self.send_failed_reply(cx, id, code);
        }
    }

    /// Fails a call to whoever still waits for it: its sender, or else the sender's own caller, and
    /// so on down the chain (B310). No recursion, however deep (B495).
    pub(crate) fn send_failed_reply(&mut self, cx: &mut Cx<'_>, id: TransactionId, code: u32) {
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(transaction) = self.transactions.get(id) else { return };
            let debug_id = transaction.debug_id;
            let waiting = transaction.from.filter(|thread| self.threads.get(*thread).is_some());
            let attempt = transaction.is_attempt();
            next = transaction.from_parent;
            if let Some(thread) = waiting {
                if !attempt {
                    let to = Some(self.party(thread));
                    cx.trace(move || TraceEvent::TransactionFailed { id: debug_id, code, to });
                }
                self.pop_sent(thread, id);
                self.free_transaction(cx, id);
                if attempt {
                    self.tell_acquired(cx, thread, false);
                } else {
                    self.fail_waiting(cx, thread, code);
                }
                return;
            }
            self.free_transaction(cx, id);
        }
    }

    /// Queues the failure of a call for its sender; a second one is dropped (B135).
    fn fail_waiting(&mut self, cx: &mut Cx<'_>, thread: ThreadId, code: u32) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        if object.reply_error.is_none() {
            object.reply_error = Some(code);
            self.enqueue_ready(thread, Work::ReplyError);
            self.wake_thread(cx, thread);
        }
    }

    /// Takes a call off its sender's stack.
    pub(crate) fn pop_sent(&mut self, thread: ThreadId, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        transaction.from = None;
        let parent = transaction.from_parent;
        if let Some(object) = self.threads.get_mut(thread)
            && object.stack == Some(id)
        {
            object.stack = parent;
        }
    }

    /// The reason of a failed reply, for the caller, if it has none yet (B133).
    pub(crate) fn set_caller_error(&mut self, call: TransactionId, error: ExtendedError) {
        let from = self.transactions.get(call).and_then(|call| call.from);
        if let Some(thread) = from.and_then(|from| self.threads.get_mut(from))
            && thread.extended_error.command == br::OK
        {
            thread.extended_error = error;
        }
    }

    /// Drops an item whose queue goes away (B307, B031).
    pub(crate) fn release_work(&mut self, cx: &mut Cx<'_>, work: Work) {
        match work {
            Work::Transaction(id) => {
                if let Some(transaction) = self.transactions.get_mut(id) {
                    transaction.place = None;
                }
                self.cleanup_transaction(cx, id, br::DEAD_REPLY);
            }
            Work::Node(id) => {
                if let Some(node) = self.nodes.get_mut(id) {
                    node.place = None;
                }
            }
            // Only registrations that no ref has any more are in a queue that goes away.
            Work::Death(id) => self.remove_death(id),
            Work::Freeze(id) => self.remove_freeze(id),
            Work::ReturnError | Work::ReplyError | Work::Complete(_) => {}
        }
    }

    /// BC_FREE_BUFFER's lookup: a delivered buffer that starts at this address (B110).
    pub(crate) fn find_freeable(&self, proc: ProcId, address: u64) -> Option<BufferId> {
        let mapping = self.procs.get(&proc)?.mapping.as_ref()?;
        let id = mapping.buffers.get(address.checked_sub(mapping.address)?)?;
        self.buffers.get(id)?.user_free.then_some(id)
    }

    /// Frees a buffer and what it holds. Descriptors of arrays are to be closed by `closer` (B220).
    pub(crate) fn free_buffer(&mut self, cx: &mut Cx<'_>, id: BufferId, closer: Option<&mut Vec<Action>>) {
        let Some(buffer) = self.buffers.get_mut(id) else { return };
        let (proc, node, is_async) = (buffer.proc, buffer.target_node, buffer.is_async);
        if let Some(transaction) = buffer.transaction.take().and_then(|id| self.transactions.get_mut(id)) {
            transaction.buffer = None;
        }
        if let (true, Some(node)) = (is_async, node) {
            self.next_oneway(cx, proc, node);
        }
        self.release_buffer(cx, id, closer);
    }

    /// The node's next oneway goes to the back of the process queue (B146).
    pub(crate) fn next_oneway(&mut self, cx: &mut Cx<'_>, proc: ProcId, node: NodeId) {
        if self.faults.is_some() && self.is_held(node) {
            return;
        }
        let Some(node) = self.nodes.get_mut(node) else { return };
        match node.backlog.pop_first() {
            None => node.has_async = false,
            Some(work) => {
                self.enqueue(Queue::Proc(proc), work);
                self.wake_proc(cx, proc);
            }
        }
    }

    /// Drops the counts of a buffer and gives its space back (B229).
    pub(crate) fn release_buffer(&mut self, cx: &mut Cx<'_>, id: BufferId, closer: Option<&mut Vec<Action>>) {
        let Some(buffer) = self.buffers.remove(id) else { return };
        if let Some(node) = buffer.target_node {
            self.drop_local(cx, node, true, buffer.proc);
        }
        for held in &buffer.held {
            match *held {
                Held::Node { node, strong } => self.drop_local(cx, node, strong, buffer.proc),
                Held::Ref { id, strong } => {
                    self.dec_ref(cx, id, strong);
                }
            }
        }
        if let Some(actions) = closer {
            actions.extend(buffer.close.iter().map(|fd| Action::CloseFd(*fd)));
        }
        let mut address = 0;
        if let Some(proc) = self.procs.get_mut(&buffer.proc) {
            let mut idle = 0;
            if let Some(mapping) = proc.mapping.as_mut() {
                address = mapping.address.wrapping_add(buffer.offset);
                if buffer.clear_on_free {
                    // A page that is no RAM any more has nothing to hide.
                    let _ = mapping.zero(cx.pages, buffer.offset, buffer.size);
                }
                idle = mapping.vacate(&buffer);
            }
            if let Some(guest) = self.guests.get_mut(&proc.guest) {
                guest.buffers = guest.buffers.saturating_sub(1);
                guest.buffer_objects = guest.buffer_objects.saturating_sub(buffer.objects());
                guest.idle_pages += idle;
            }
        }
        cx.trace(move || TraceEvent::BufferFreed {
            proc: buffer.proc,
            id: buffer.debug_id,
            address,
            size: buffer.size,
        });
    }

    /// Drops a local count of a buffer; a dead owner's node has none left.
    pub(crate) fn drop_local(&mut self, cx: &mut Cx<'_>, node: NodeId, strong: bool, owner: ProcId) {
        let Some(object) = self.nodes.get_mut(node).filter(|node| node.owner == Some(owner)) else { return };
        if strong && object.local_strong > 1 {
            // Nothing comes of it.
            object.local_strong -= 1;
        } else {
            self.dec_node(cx, node, strong, Side::Local);
        }
    }

    /// Records a failure of the thread's own command.
    pub(crate) fn set_return_error(&mut self, thread: ThreadId, code: u32) {
        if let Some(object) = self.threads.get_mut(thread) {
            object.return_error = Some(code);
            self.enqueue_ready(thread, Work::ReturnError);
        }
    }
}
