//! The queues that a finished transaction goes to.

use crate::arena::{NodeId, ThreadId, TransactionId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::ProcId;
use crate::protocol::{br, tf};
use crate::thread::Call;
use crate::transaction::{FileFixup, Kind, SendError, Sending, Transaction};
use crate::work::{Completion, Queue, Work};

impl Domain {
    /// The last checks (frozen, dead), then the queues.
    pub(super) fn enqueue_transaction(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &mut Sending,
        target: ProcId,
        files: Vec<FileFixup>,
        secctx: Option<u64>,
    ) -> Result<(), SendError> {
        let gone = SendError::dead(Errno::OK);
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
        let thread = s.target_thread.map(|thread| self.threads.get(thread).ok_or(gone)).transpose()?;
        let named = s.named(proc, thread);
        proc.outstanding += 1;
        if let Some(guest) = self.guests.get_mut(&s.guest) {
            guest.transactions += 1;
        }
        // The files belong to the transaction now.
        if let Some(gathered) = &mut s.gathered {
            gathered.tokens.clear();
        }
        let id = self.transactions.insert_with(|| Transaction {
            debug_id: s.debug_id,
            guest: s.guest,
            kind: if s.reply { Kind::Reply } else { Kind::Call },
            from: (!s.reply && !oneway).then_some(s.thread),
            sender: s.sender,
            from_parent: None,
            to_proc: Some(target),
            to_thread: s.target_thread,
            to_parent: None,
            buffer: s.buffer,
            node: s.target_node,
            code: s.data.code,
            flags: s.data.flags,
            sender_euid: s.euid,
            sched: s.sched,
            saved_sched: None,
            secctx,
            files,
            place: None,
            started: s.started,
        });
        let mut suspect = false;
        if let Some(buffer) = s.buffer.and_then(|id| self.buffers.get_mut(id)) {
            buffer.transaction = Some(id);
            suspect = buffer.spam_suspect;
        }
        self.trace_sent(cx, call, s, Ok(s.buffer));
        self.log_success(s, named);
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
            self.put_call(cx, s.thread, id, target, s.target_thread);
        }
        Ok(())
    }

    /// Puts a call on its sender's stack, and hands it to a thread that waits below it, or to the process.
    pub(crate) fn put_call(
        &mut self,
        cx: &mut Cx<'_>,
        sender: ThreadId,
        id: TransactionId,
        target: ProcId,
        target_thread: Option<ThreadId>,
    ) {
        if let Some(thread) = self.threads.get_mut(sender) {
            let below = thread.stack.replace(id);
            if let Some(transaction) = self.transactions.get_mut(id) {
                transaction.from_parent = below;
            }
        }
        match target_thread {
            Some(thread) => {
                self.enqueue_ready(thread, Work::Transaction(id));
                self.wake_thread(cx, thread);
            }
            None => self.offer(cx, target, Work::Transaction(id)),
        }
    }

    /// At most one oneway of a node is in the target's hands (B146); the rest waits.
    fn enqueue_oneway(
        &mut self,
        cx: &mut Cx<'_>,
        id: TransactionId,
        target: ProcId,
        node_id: Option<NodeId>,
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
    fn supersede(&mut self, cx: &mut Cx<'_>, new: TransactionId, target: ProcId, node: NodeId) {
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
}
