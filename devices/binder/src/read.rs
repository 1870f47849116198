//! The read half of BINDER_WRITE_READ (BINDER.md 2.2 to 2.6).

use crate::arena::{DeathId, FreezeId, ThreadId, TransactionId};
use crate::death::DeathState;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::message::{Creds, MAX_RESULT};
use crate::protocol::{Return, SENDER_PID_OFFSET, TransactionData, br};
use crate::thread::{Call, Delivery, Read, ReadPhase};
use crate::trace::{TraceEvent, UserError};
use crate::transaction::Kind;
use crate::work::{Completion, Queue, Work};

/// Room that must be free before an item is taken: the longest one and a word (B072).
const ROOM: u64 = 76;

/// How far a read got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFlow {
    /// It is over; an error leaves read_consumed as it was (B077).
    Done(Errno),
    /// Nothing to do, and it may wait.
    Park,
    /// The answer is full.
    More,
    /// The transaction's descriptors are to be made.
    Install(TransactionId),
}

/// What an item does to the read.
pub(crate) enum Taken {
    /// The read goes on.
    Next,
    /// It ends (B090).
    End,
    Install(TransactionId),
}

impl Read {
    #[inline(always)]
    pub(crate) fn push(&mut self, item: Return) {
        let before = self.bytes.len();
        item.encode(&mut self.bytes);
        self.position += (self.bytes.len() - before) as u64;
    }

    /// What its latest bytes say, as the user will see it; `last`: the read ends with them. What the first word of
    /// a read in several pieces will be is known, and told, when it ends.
    pub(crate) fn returns(&self, bytes: &[u8], last: bool) -> impl Iterator<Item = Return> {
        let begins = self.position == bytes.len() as u64;
        let word = if self.spawn { Return::SpawnLooper } else { Return::Noop };
        let first = (last && begins && !bytes.is_empty()).then_some(word);
        let behind = (last && !begins && (self.spawn || self.start == 0)).then_some(word);
        first.into_iter().chain(returns(bytes).skip(usize::from(begins))).chain(behind)
    }

    /// Only BR_NOOP was written (B088).
    fn is_empty(&self) -> bool {
        self.position == 4
    }
}

impl Domain {
    /// Runs the read until it ends or waits.
    pub(crate) fn run_read(&mut self, cx: &mut Cx<'_>, call: &mut Call) -> ReadFlow {
        if call.read.phase == ReadPhase::Start {
            if call.header.read_bad {
                return ReadFlow::Done(Errno::EFAULT);
            }
            if call.read.start == 0 {
                if call.read.size < 4 {
                    // B074: no room even for BR_NOOP.
                    return ReadFlow::Done(Errno::OK);
                }
                if call.read.bytes.capacity() == 0 {
                    call.read.bytes = self.spare.result();
                }
                call.read.push(Return::Noop);
            }
            call.read.phase = ReadPhase::Enter;
        }
        let mut phase = call.read.phase;
        loop {
            if phase == ReadPhase::Enter {
                self.enter_read(cx, call);
                phase = ReadPhase::Wait;
            }
            if phase == ReadPhase::Wait {
                if !self.has_work(call.thread, call.read.wait_for_proc) {
                    call.read.phase = ReadPhase::Wait;
                    return match call.header.nonblock {
                        true => ReadFlow::Done(Errno::EAGAIN),
                        false if self.is_interrupted(call.thread) => ReadFlow::Done(Errno::EINTR),
                        false => ReadFlow::Park,
                    };
                }
                call.read.phase = ReadPhase::Take;
            }
            if let Some(flow) = self.take_work(cx, call) {
                return flow;
            }
            phase = ReadPhase::Enter;
        }
    }

    fn enter_read(&mut self, cx: &mut Cx<'_>, call: &mut Call) {
        let Some(thread) = self.threads.get(call.thread) else { return };
        let (proc, looper) = (thread.proc, thread.is_looper());
        call.read.wait_for_proc = thread.available_for_proc_work(self.profile);
        if call.read.wait_for_proc {
            if !looper {
                self.user_error(cx, call.thread, UserError::NotALooper);
            }
            self.schedule_waiter(call, proc);
        }
    }

    /// Takes items until the read ends; `None`: nothing was produced, wait again.
    fn take_work(&mut self, cx: &mut Cx<'_>, call: &mut Call) -> Option<ReadFlow> {
        loop {
            let Some(thread) = self.threads.get_mut(call.thread) else {
                return Some(ReadFlow::Done(Errno::EINTR));
            };
            let proc = if call.read.wait_for_proc { self.procs.get_mut(&thread.proc) } else { None };
            let proc = proc.filter(|proc| thread.todo.is_empty() && !proc.todo.is_empty());
            if thread.todo.is_empty() && proc.is_none() {
                let nothing = call.read.is_empty() && !thread.need_return;
                return if nothing { None } else { Some(self.end_read(call)) };
            }
            if call.read.size.saturating_sub(call.read.position) < ROOM {
                return Some(self.end_read(call));
            }
            if call.read.bytes.len() + ROOM as usize > MAX_RESULT {
                return Some(ReadFlow::More);
            }
            let work = proc.map_or_else(|| thread.take_first(), |proc| proc.todo.pop_first());
            let Some(work) = work else { return Some(self.end_read(call)) };
            self.dequeued(work, call.guest);
            match self.take(cx, call, work) {
                Taken::Next => {}
                Taken::End => return Some(self.end_read(call)),
                Taken::Install(id) => return Some(ReadFlow::Install(id)),
            }
        }
    }

    /// B097: the reading thread is asked to make another one.
    fn end_read(&mut self, call: &mut Call) -> ReadFlow {
        let Some(thread) = self.threads.get(call.thread) else { return ReadFlow::Done(Errno::OK) };
        let is_looper = thread.is_looper();
        if let Some(proc) = self.procs.get_mut(&thread.proc)
            && proc.requested_threads == 0
            && proc.waiting.is_empty()
            && proc.started_threads < proc.max_threads
            && is_looper
        {
            proc.requested_threads = 1;
            call.read.spawn = true;
        }
        ReadFlow::Done(Errno::OK)
    }

    fn take(&mut self, cx: &mut Cx<'_>, call: &mut Call, work: Work) -> Taken {
        match work {
            Work::Transaction(id) => return self.take_transaction(cx, call, id),
            Work::ReturnError => {
                let code = self.threads.get_mut(call.thread).and_then(|thread| thread.return_error.take());
                call.read.push(error_return(code));
            }
            Work::ReplyError => {
                let code = self.threads.get_mut(call.thread).and_then(|thread| thread.reply_error.take());
                call.read.push(error_return(code));
            }
            Work::Complete(completion) => {
                let proc = || self.procs.get(&call.proc());
                call.read.push(match completion {
                    Completion::SpamSuspect if proc().is_some_and(|proc| proc.spam_detection) => {
                        Return::OnewaySpamSuspect
                    }
                    Completion::PendingFrozen => Return::TransactionPendingFrozen,
                    Completion::Acquire(granted) => Return::AcquireResult(granted.into()),
                    Completion::Sent | Completion::SpamSuspect => Return::TransactionComplete,
                });
            }
            Work::Node(id) => {
                if let Some(item) = self.give_back(call.thread, id) {
                    call.read.push(item);
                    return Taken::Next;
                }
                for item in self.tell_owner(cx, id) {
                    call.read.push(item);
                }
            }
            Work::Death(id) => return self.take_death(call, id),
            Work::Freeze(id) => return self.take_freeze(call, id),
        }
        Taken::Next
    }

    fn take_death(&mut self, call: &mut Call, id: DeathId) -> Taken {
        let Some(death) = self.deaths.get(id).copied() else { return Taken::Next };
        if death.state == DeathState::Cleared {
            self.remove_death(id);
            call.read.push(Return::ClearDeathNotificationDone { cookie: death.cookie });
            return Taken::Next;
        }
        self.enqueue(Queue::DeliveredDeaths(death.proc), Work::Death(id));
        call.read.push(Return::DeadBinder { cookie: death.cookie });
        Taken::End
    }

    fn take_freeze(&mut self, call: &mut Call, id: FreezeId) -> Taken {
        let Some(freeze) = self.freezes.get(id).copied() else { return Taken::Next };
        if freeze.cleared {
            self.remove_freeze(id);
            call.read.push(Return::ClearFreezeNotificationDone { cookie: freeze.cookie });
            return Taken::Next;
        }
        if let Some(freeze) = self.freezes.get_mut(id) {
            freeze.sent = true;
        }
        self.enqueue(Queue::DeliveredFreezes(freeze.proc), Work::Freeze(id));
        call.read.push(Return::FrozenBinder { cookie: freeze.cookie, is_frozen: freeze.is_frozen });
        Taken::End
    }

    fn take_transaction(&mut self, cx: &mut Cx<'_>, call: &mut Call, id: TransactionId) -> Taken {
        let Some(transaction) = self.transactions.get(id) else { return Taken::Next };
        if let Kind::Attempt { reference } = transaction.kind {
            return self.take_attempt(cx, call, id, reference);
        }
        let files = !transaction.files.is_empty();
        if !transaction.is_reply() {
            self.schedule_callee(call, id);
        }
        if files { Taken::Install(id) } else { self.deliver(cx, call, id) }
    }

    /// Hands a transaction to its reader. Its descriptors are in place.
    fn deliver(&mut self, cx: &mut Cx<'_>, call: &mut Call, id: TransactionId) -> Taken {
        let Some(transaction) = self.transactions.get(id) else { return Taken::Next };
        let Some((buffer_id, buffer)) = transaction.buffer.and_then(|id| Some((id, self.buffers.get(id)?)))
        else {
            self.free_transaction(cx, id);
            return Taken::Next;
        };
        let mapping = self.procs.get(&buffer.proc).and_then(|proc| proc.mapping.as_ref());
        let address = mapping.map_or(0, |mapping| mapping.address.wrapping_add(buffer.offset));
        let node = transaction.node.and_then(|node| self.nodes.get(node));
        let from = transaction.from.and_then(|from| self.threads.get(from));
        let reader_guest = call.guest;
        let sender = from.filter(|from| from.guest == reader_guest).map(|from| from.proc);
        let data = TransactionData {
            target: node.map_or(0, |node| node.ptr),
            cookie: node.map_or(0, |node| node.cookie),
            code: transaction.code,
            flags: transaction.flags,
            sender_pid: sender.and_then(|proc| self.pid(proc)).unwrap_or_default(),
            sender_euid: transaction.sender_euid,
            data_size: buffer.data_size,
            offsets_size: buffer.offsets_size,
            data: address,
            offsets: address.wrapping_add(crate::buffer::align8(buffer.data_size)),
        };
        let offset = (call.read.bytes.len() + 4 + SENDER_PID_OFFSET) as u32;
        call.read.creds = Some(Creds { offset, proc: sender });
        call.read.push(match (transaction.is_reply(), transaction.secctx) {
            (true, _) => Return::Reply(data),
            (false, Some(secctx)) => Return::TransactionSecCtx(data, secctx),
            (false, None) => Return::Transaction(data),
        });
        let stays = !transaction.is_reply() && !transaction.is_oneway();
        let (debug_id, seq) = (transaction.debug_id, call.header.seq);
        self.trace_thread(cx, call.thread, |to| TraceEvent::TransactionDelivered {
            id: debug_id,
            to,
            address,
        });
        if let Some(buffer) = self.buffers.get_mut(buffer_id) {
            buffer.user_free = true;
        }
        if let Some(thread) = self.threads.get_mut(call.thread) {
            let transaction = stays.then_some(id);
            thread.last_delivery = Some(Delivery { seq, transaction, buffer: Some(buffer_id) });
            if let (true, Some(transaction)) = (stays, self.transactions.get_mut(id)) {
                transaction.to_parent = thread.stack.replace(id);
                transaction.to_thread = Some(call.thread);
            }
        }
        if !stays {
            self.free_transaction(cx, id);
        }
        Taken::End
    }

    /// INSTALL was answered: the read goes on, with the transaction or without it (B198 to B200).
    pub(crate) fn installed(
        &mut self,
        cx: &mut Cx<'_>,
        call: &mut Call,
        id: TransactionId,
        fds: Option<&[u32]>,
    ) -> Option<ReadFlow> {
        let transaction = self.transactions.get(id)?;
        let (is_reply, buffer, files) = (transaction.is_reply(), transaction.buffer, transaction.files.len());
        let fds = fds.filter(|fds| fds.len() == files);
        if fds.is_some_and(|fds| self.write_fds(cx, id, fds)) {
            return match self.deliver(cx, call, id) {
                Taken::End => Some(self.end_read(call)),
                _ => None,
            };
        }
        self.cleanup_transaction(cx, id, br::FAILED_REPLY);
        if let Some(buffer) = buffer {
            self.free_buffer(cx, buffer, None);
        }
        if is_reply {
            call.read.push(Return::FailedReply);
            return Some(self.end_read(call));
        }
        None
    }

    /// Writes the numbers into the buffer; the files are the receiver's now.
    fn write_fds(&mut self, cx: &mut Cx<'_>, id: TransactionId, fds: &[u32]) -> bool {
        let Some(transaction) = self.transactions.get_mut(id) else { return false };
        let Some(buffer) = transaction.buffer.and_then(|id| self.buffers.get_mut(id)) else { return false };
        let Some(mapping) = self.procs.get(&buffer.proc).and_then(|proc| proc.mapping.as_ref()) else {
            return false;
        };
        for (file, fd) in transaction.files.iter().zip(fds) {
            if mapping.write(cx.pages, buffer.offset + file.offset, &fd.to_le_bytes()).is_err() {
                return false;
            }
            if file.close {
                buffer.close.push(*fd);
            }
        }
        let count = transaction.files.len() as u32;
        transaction.files.clear();
        if let Some(guest) = self.guests.get_mut(&transaction.guest) {
            guest.tokens = guest.tokens.saturating_sub(count);
        }
        true
    }

    /// Takes back what the last read delivered (B075).
    pub(crate) fn undo_delivery(&mut self, cx: &mut Cx<'_>, thread: ThreadId, seq: crate::ids::Seq) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        let Some(delivery) = object.last_delivery.take().filter(|delivery| delivery.seq == seq) else {
            return;
        };
        if let Some(id) = delivery.transaction
            && object.stack == Some(id)
            && let Some(transaction) = self.transactions.get_mut(id)
        {
            object.stack = transaction.to_parent;
            transaction.to_thread = None;
            self.cleanup_transaction(cx, id, br::FAILED_REPLY);
        }
        if let Some(buffer) = delivery.buffer {
            self.free_buffer(cx, buffer, None);
        }
    }
}

/// The returns that `bytes` say.
fn returns(mut bytes: &[u8]) -> impl Iterator<Item = Return> {
    std::iter::from_fn(move || {
        let (item, length) = Return::decode(bytes)?;
        bytes = &bytes[length..];
        Some(item)
    })
}

fn error_return(code: Option<u32>) -> Return {
    match code {
        Some(br::TRANSACTION_COMPLETE) => Return::TransactionComplete,
        Some(br::DEAD_REPLY) => Return::DeadReply,
        Some(br::FROZEN_REPLY) => Return::FrozenReply,
        Some(br::ERROR) => Return::Error,
        _ => Return::FailedReply,
    }
}
