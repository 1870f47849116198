//! The life of one BINDER_WRITE_READ over several messages (PROTOCOL.md rules 6, 10, 13, 17).

use crate::arena::{ThreadId, TransactionId};
use crate::commands::WriteFlow;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::events::Notice;
use crate::ids::{GuestId, Seq, Token};
use crate::message::{
    Answer, Continue, Header, LsmQuestion, MAX_ACTIONS, Need, NeedKind, NeedResult, Outcome, Park, Range,
    RangeData, Status,
};
use crate::protocol::ioctl;
use crate::read::ReadFlow;
use crate::thread::{Activity, Call, ReadPhase};
use crate::trace::TraceEvent;
use crate::transaction::{SendError, Sending};

/// The CONTINUE does not fit what the core waits for.
struct Mismatch;

impl Domain {
    /// Runs an ioctl from where it is, and answers the message.
    pub(crate) fn proceed(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>, answer: &mut Answer) {
        if call.read.phase == ReadPhase::Start {
            match self.run_write(cx, &mut call) {
                WriteFlow::Finished => {}
                WriteFlow::More => {
                    fill(answer, &mut call);
                    answer.status = Status::More;
                    call.write.let_go();
                    return self.set_activity(call.thread, Activity::WriteMore(call));
                }
                WriteFlow::Suspend(sending, needs) => return self.suspend(cx, call, sending, needs, answer),
                WriteFlow::Error(errno) => return self.finish(cx, call, errno, Half::Write, answer),
            }
            if call.read.size == 0 {
                return self.finish(cx, call, Errno::OK, Half::Write, answer);
            }
            call.write.let_go();
        }
        let flow = self.run_read(cx, &mut call);
        self.after_read(cx, call, flow, answer);
    }

    /// The command waits; what it keeps is counted against the guest's quota.
    fn suspend(
        &mut self,
        cx: &mut Cx<'_>,
        mut call: Box<Call>,
        sending: Box<Sending>,
        needs: Vec<Need>,
        answer: &mut Answer,
    ) {
        let guest = call.guest;
        let bytes = sending.weight() + call.write.chunk(cx.chunk).weight();
        if !self.keeps_suspended(guest, bytes) {
            self.fail_send(cx, &mut call, &sending, SendError::failed(Errno::ENOMEM));
            call.write.cursor += call.write.current;
            return self.proceed(cx, call, answer);
        }
        fill(answer, &mut call);
        answer.status = Status::Needs(needs.clone());
        call.write.keep(cx.chunk);
        self.set_activity(call.thread, Activity::Suspended { call, sending, needs, bytes });
    }

    /// Counts what a command keeps while it waits; false: the guest's quota is used up.
    pub(crate) fn keeps_suspended(&mut self, guest: GuestId, bytes: u64) -> bool {
        let Some(guest) = self.guests.get_mut(&guest) else { return false };
        let sum = guest.suspended_bytes.saturating_add(bytes);
        let room = sum <= self.limits.max_suspended_bytes;
        if room {
            guest.suspended_bytes = sum;
        }
        room
    }

    /// It waits no longer.
    pub(crate) fn end_suspended(&mut self, guest: GuestId, bytes: u64) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.suspended_bytes = guest.suspended_bytes.saturating_sub(bytes);
        }
    }

    #[inline(always)]
    fn after_read(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>, flow: ReadFlow, answer: &mut Answer) {
        match flow {
            ReadFlow::Done(errno) => self.finish(cx, call, errno, Half::Read, answer),
            ReadFlow::Park => self.park(cx, call, answer),
            ReadFlow::More => {
                fill(answer, &mut call);
                answer.status = Status::More;
                self.hand_out(cx, &call, answer);
                self.set_activity(call.thread, Activity::ReadMore(call));
            }
            ReadFlow::Install(transaction) => {
                fill(answer, &mut call);
                answer.status = Status::Install(self.tokens_of(transaction));
                // The bytes so far stay for the page that ends the read.
                call.read.bytes = std::mem::take(&mut answer.result);
                let thread = call.thread;
                self.set_activity(thread, Activity::Installing { call, transaction, announced: true });
            }
        }
    }

    fn tokens_of(&self, transaction: TransactionId) -> Vec<Token> {
        let files = self.transactions.get(transaction).map(|transaction| transaction.files.as_slice());
        files.unwrap_or_default().iter().map(|file| file.token).collect()
    }

    fn park(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>, answer: &mut Answer) {
        answer.status = Status::Parked { park: Park::Read, timeout_ms: 0 };
        answer.write_consumed = call.write.consumed();
        std::mem::swap(&mut answer.actions, &mut call.actions);
        let (id, wait_for_proc) = (call.thread, call.read.wait_for_proc);
        let mut ticket = None;
        if wait_for_proc && let Some(proc) = self.procs.get_mut(&call.proc()) {
            ticket = Some(proc.waiting.push(id));
        }
        if let Some(object) = self.threads.get_mut(id) {
            object.waiting = ticket;
            object.activity = Activity::Parked(call);
        }
        self.trace_thread(cx, id, move |thread| TraceEvent::Parked { thread, park: Park::Read });
    }

    /// Ends an ioctl (B036, B063, B076, B077).
    fn finish(
        &mut self,
        cx: &mut Cx<'_>,
        mut call: Box<Call>,
        errno: Errno,
        half: Half,
        answer: &mut Answer,
    ) {
        let id = call.thread;
        fill(answer, &mut call);
        if let Some(proc) = self.procs.get_mut(&call.proc()) {
            if errno.is_ok() {
                proc.counters.count_read(&call.read, &answer.result);
            }
            if half == Half::Read && !proc.todo.is_empty() {
                self.wake_proc(cx, call.proc());
            }
        }
        if let Some(object) = self.threads.get_mut(id) {
            object.need_return = false;
        }
        answer.errno = errno;
        answer.read_consumed = match (errno.is_ok(), half) {
            (true, _) => call.read.position,
            (false, Half::Write) => 0,
            (false, Half::Read) => call.read.start,
        };
        if errno.is_ok() {
            if cx.traces() {
                self.trace_returns(cx, &call, &answer.result, true);
            }
            if call.read.spawn {
                let word = crate::protocol::br::SPAWN_LOOPER.to_le_bytes();
                match answer.result.first_chunk_mut::<4>() {
                    Some(first) if answer.result_position == 0 => *first = word,
                    _ => answer.first_word = Some(u32::from_le_bytes(word)),
                }
            }
        }
        let (write_consumed, read_consumed) = (answer.write_consumed, answer.read_consumed);
        self.trace_thread(cx, id, move |thread| TraceEvent::IoctlDone {
            thread,
            cmd: ioctl::WRITE_READ,
            errno,
            write_consumed,
            read_consumed,
        });
        self.spare.keep_call(call);
    }

    /// Counts and traces a piece of a long read: nothing of it is kept.
    #[cold]
    fn hand_out(&mut self, cx: &mut Cx<'_>, call: &Call, answer: &Answer) {
        if let Some(proc) = self.procs.get_mut(&call.proc()) {
            proc.counters.count_read(&call.read, &answer.result);
        }
        if cx.traces() {
            self.trace_returns(cx, call, &answer.result, false);
        }
    }

    #[cold]
    fn trace_returns(&self, cx: &mut Cx<'_>, call: &Call, bytes: &[u8], last: bool) {
        for item in call.read.returns(bytes, last) {
            self.trace_thread(cx, call.thread, move |thread| TraceEvent::Return { thread, item });
        }
    }

    fn set_activity(&mut self, thread: ThreadId, activity: Activity) {
        if let Some(object) = self.threads.get_mut(thread) {
            object.activity = activity;
        }
    }

    pub(crate) fn take_activity(&mut self, thread: ThreadId) -> Activity {
        self.threads.get_mut(thread).map(|thread| std::mem::take(&mut thread.activity)).unwrap_or_default()
    }

    /// CONTINUE.
    pub(crate) fn resume(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        thread: ThreadId,
        body: &Continue,
    ) -> Answer {
        let mut answer = Answer::default();
        if self.threads.get(thread).is_some_and(|thread| thread.seq == header.seq) {
            self.go_on(cx, header, thread, body, &mut answer);
        } else {
            answer.errno = Errno::EPROTO;
        }
        answer
    }

    fn go_on(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        thread: ThreadId,
        body: &Continue,
        answer: &mut Answer,
    ) {
        match (self.take_activity(thread), body) {
            (Activity::WriteMore(mut call), Continue::More(chunk)) => {
                call.follow(header);
                // Actions that did not fit go first; the chunk comes again.
                if call.write.consumed() < call.write.size && !call.write.feed(chunk) {
                    return self.finish(cx, call, Errno::EPROTO, Half::Write, answer);
                }
                self.proceed(cx, call, answer);
            }
            (Activity::ReadMore(mut call), Continue::More(_)) => {
                call.follow(header);
                self.proceed(cx, call, answer);
            }
            (Activity::Suspended { mut call, mut sending, needs, bytes }, Continue::Needs(results)) => {
                call.follow(header);
                self.end_suspended(call.guest, bytes);
                if self.take_results(cx, &mut sending, &needs, results).is_err() {
                    let error = SendError::failed(Errno::ENOMEM);
                    self.fail_send(cx, &mut call, &sending, error);
                    return self.finish(cx, call, Errno::EPROTO, Half::Write, answer);
                }
                let needs = self.advance_send(cx, &mut call, &mut sending);
                if needs.is_empty() {
                    call.write.cursor += call.write.current;
                    self.proceed(cx, call, answer);
                } else {
                    self.suspend(cx, call, sending, needs, answer);
                }
            }
            (Activity::Filling { mut call, slots, bytes }, Continue::Needs(results)) => {
                call.follow(header);
                self.end_suspended(call.guest, bytes);
                self.take_fill(cx, call, &slots, results, answer);
            }
            (Activity::Installing { mut call, transaction, .. }, Continue::Install(result)) => {
                call.follow(header);
                let fds = match &result.outcome {
                    Outcome::Fds(fds) if result.error.is_ok() => Some(fds.as_slice()),
                    _ => None,
                };
                match self.installed(cx, &mut call, transaction, fds) {
                    Some(flow) => self.after_read(cx, call, flow, answer),
                    None => self.proceed(cx, call, answer),
                }
            }
            (activity, _) => {
                self.set_activity(thread, activity);
                answer.errno = Errno::EPROTO;
            }
        }
    }

    /// Takes what the guest supplied.
    fn take_results(
        &mut self,
        cx: &Cx<'_>,
        sending: &mut Sending,
        needs: &[Need],
        results: &[NeedResult],
    ) -> Result<(), Mismatch> {
        if needs.len() != results.len() {
            return Err(Mismatch);
        }
        let mut progress = needs.iter().any(|need| need.kind() != NeedKind::Data);
        for (need, result) in needs.iter().zip(results) {
            match (need, &result.outcome) {
                (Need::Data { .. }, Outcome::None | Outcome::Data(_)) if result.error == Errno::ENOMEM => {
                    // Not a fault: the guest could not get it now.
                    sending.gather().page_error = Some(Errno::ENOMEM);
                    progress = true;
                }
                (Need::Data { address, length }, outcome) => {
                    let range = fetched(*address, *length, result.error, outcome)?;
                    progress |= range.is_some_and(|range| sending.gather().fetched.insert(range));
                }
                (Need::Pages { slots, .. }, Outcome::Pages(pfns)) => {
                    self.take_pages(cx, sending, slots, pfns, result.error);
                }
                (Need::Pages { slots, .. }, Outcome::None) => {
                    self.take_pages(cx, sending, slots, &[], result.error);
                }
                (Need::Files { fds, .. }, Outcome::Files(tokens)) => {
                    self.take_files(sending, fds, tokens, result.error)?;
                }
                (Need::Files { fds, .. }, Outcome::None) => {
                    self.take_files(sending, fds, &[], result.error)?;
                }
                (Need::Lsm { proc, question }, Outcome::None) => {
                    let allowed = result.error.is_ok();
                    match question {
                        LsmQuestion::Transaction => sending.gather().call_allowed = Some(allowed),
                        LsmQuestion::TransferBinder => sending.gather().transfer_allowed = Some(allowed),
                    }
                    if self.limits.lsm == crate::limits::LsmMode::Cache
                        && !sending.asks_anew
                        && self.procs.contains_key(proc)
                        && let Some(sender) = self.procs.get_mut(&sending.sender.proc)
                    {
                        sender.lsm.insert(*proc, *question, allowed);
                    }
                }
                _ => return Err(Mismatch),
            }
        }
        if let (false, Some(Need::Data { address, length })) = (progress, needs.first()) {
            // A shim that brings nothing, ever, would keep the command for ever.
            sending.gather().fetched.insert(fault(*address, *length));
        }
        Ok(())
    }

    fn take_pages(
        &mut self,
        cx: &Cx<'_>,
        sending: &mut Sending,
        slots: &[u32],
        pfns: &[crate::ids::Pfn],
        error: Errno,
    ) {
        // A buffer that is gone keeps no slot busy: its pages are of no use any more.
        let alive = sending.buffer.is_some_and(|buffer| self.buffers.get(buffer).is_some());
        let target = sending.target_proc.and_then(|target| self.procs.get_mut(&target));
        let Some(target) = target.filter(|_| alive) else { return };
        let Some(mapping) = target.mapping.as_mut() else { return };
        for (slot, pfn) in slots.iter().zip(pfns) {
            if !cx.pages.is_ram(target.guest, *pfn) {
                sending.gather().page_error = Some(Errno::ENOMEM);
                return;
            }
            mapping.supply(*slot, *pfn);
        }
        if !error.is_ok() {
            sending.gather().page_error = Some(error);
        } else if pfns.len() < slots.len() {
            sending.gather().page_error = Some(Errno::ENOMEM);
        }
    }

    fn take_files(
        &mut self,
        sending: &mut Sending,
        fds: &[u32],
        tokens: &[Token],
        error: Errno,
    ) -> Result<(), Mismatch> {
        if tokens.len() > fds.len() || (error.is_ok() && tokens.len() < fds.len()) {
            return Err(Mismatch);
        }
        if let Some(guest) = self.guests.get_mut(&sending.guest) {
            guest.tokens += tokens.len() as u32;
        }
        sending.gather().tokens.extend(tokens);
        if !error.is_ok() {
            // The LSM's own error is not passed on (B190, B343).
            let known = matches!(error, Errno::EBADF | Errno::ENOMEM);
            sending.gather().file_error = Some(if known { error } else { Errno::EPERM });
        }
        Ok(())
    }

    /// A woken thread reads; what comes out is an event.
    pub(crate) fn run_woken(&mut self, cx: &mut Cx<'_>, thread: ThreadId) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        object.runnable = false;
        let mut answer = self.spare.answer();
        match std::mem::take(&mut object.activity) {
            Activity::Parked(call) => self.proceed(cx, call, &mut answer),
            Activity::Freezing(wait) => *answer = self.freezer_done(cx, thread, *wait),
            activity => {
                object.activity = activity;
                return self.spare.keep_answer(answer);
            }
        }
        let Some(object) = self.threads.get_mut(thread) else { return };
        let notice = match &mut object.activity {
            // There is no answer to carry the actions: they stay for the one that comes.
            Activity::Parked(call) => {
                call.actions.append(&mut answer.actions);
                return self.spare.keep_answer(answer);
            }
            Activity::Freezing(_) => return self.spare.keep_answer(answer),
            Activity::Installing { call, announced, .. } => {
                call.actions.append(&mut answer.actions);
                *announced = false;
                self.spare.keep_answer(answer);
                Notice::Install
            }
            activity => {
                let completed = Activity::Completed { answer, fetch: false, then: None };
                if let Activity::ReadMore(call) = std::mem::replace(activity, completed)
                    && let Activity::Completed { then, .. } = activity
                {
                    *then = Some(call);
                }
                Notice::Completed
            }
        };
        if let Some(guest) = self.guests.get_mut(&object.guest) {
            guest.notify(thread, object, notice);
        }
    }

    /// FETCH: what an event could not carry.
    pub(crate) fn fetch(&mut self, thread: ThreadId) -> Answer {
        match self.take_activity(thread) {
            Activity::Completed { answer, fetch: true, then } => {
                self.set_activity(thread, then.map_or(Activity::Idle, Activity::ReadMore));
                *answer
            }
            Activity::Installing { mut call, transaction, announced: true } => {
                let status = Status::Install(self.tokens_of(transaction));
                let actions = std::mem::take(&mut call.actions);
                self.set_activity(thread, Activity::Installing { call, transaction, announced: true });
                Answer { status, actions, ..Answer::default() }
            }
            activity => {
                self.set_activity(thread, activity);
                Answer::error(Errno::EPROTO)
            }
        }
    }

    /// CANCEL: a signal ends the sleep, unless the event was first (rule 17).
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, header: &Header, thread: ThreadId) -> Answer {
        if self.threads.get(thread).is_none_or(|thread| thread.seq != header.seq) {
            return Answer::error(Errno::EPROTO);
        }
        match self.take_activity(thread) {
            Activity::Parked(call) => {
                self.leave_waiting(thread);
                let party = self.party(thread);
                cx.trace(move || TraceEvent::Cancelled { thread: party });
                let mut answer = Answer::default();
                self.finish(cx, call, Errno::EINTR, Half::Read, &mut answer);
                answer
            }
            Activity::Freezing(wait) => {
                self.stop_freezing(thread, &wait);
                let party = self.party(thread);
                cx.trace(move || TraceEvent::Cancelled { thread: party });
                if let Some(object) = self.threads.get_mut(thread) {
                    object.need_return = false;
                }
                Answer { errno: Errno::ERESTARTSYS, ..Answer::default() }
            }
            activity => self.too_late(thread, activity),
        }
    }

    /// TIMEOUT: the freezer has waited long enough (rule 18).
    pub(crate) fn timeout(&mut self, cx: &mut Cx<'_>, header: &Header, thread: ThreadId) -> Answer {
        if self.threads.get(thread).is_none_or(|thread| thread.seq != header.seq) {
            return Answer::error(Errno::EPROTO);
        }
        match self.take_activity(thread) {
            Activity::Freezing(wait) => self.freezer_done(cx, thread, *wait),
            activity => self.too_late(thread, activity),
        }
    }

    fn too_late(&mut self, thread: ThreadId, activity: Activity) -> Answer {
        let on_its_way = matches!(
            activity,
            Activity::Idle | Activity::Completed { .. } | Activity::Installing { announced: _, .. }
        );
        self.set_activity(thread, activity);
        if on_its_way {
            Answer { status: Status::TooLate, ..Answer::default() }
        } else {
            Answer::error(Errno::EPROTO)
        }
    }

    /// READ_FAULT: the last result could not be copied out. What it delivered is lost (B075), and the
    /// ioctl is over, also where MORE was said.
    pub(crate) fn read_fault(&mut self, cx: &mut Cx<'_>, thread: ThreadId, seq: Seq) -> Answer {
        if self.threads.get(thread).is_none_or(|thread| thread.seq != seq) {
            return Answer::error(Errno::EPROTO);
        }
        self.undo_delivery(cx, thread, seq);
        match self.take_activity(thread) {
            Activity::ReadMore(call) => {
                let mut answer = Answer::default();
                self.finish(cx, call, Errno::EFAULT, Half::Read, &mut answer);
                Answer { actions: answer.actions, ..Answer::default() }
            }
            activity => {
                self.set_activity(thread, activity);
                Answer::default()
            }
        }
    }

    pub(crate) fn leave_waiting(&mut self, thread: ThreadId) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        let ticket = object.waiting.take();
        if let (Some(ticket), Some(proc)) = (ticket, self.procs.get_mut(&object.proc)) {
            proc.waiting.remove(ticket);
        }
    }
}

/// Where an ioctl ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Write,
    Read,
}

/// Fills in what every answer to a `BINDER_WRITE_READ` has, beside its status.
#[inline(always)]
fn fill(answer: &mut Answer, call: &mut Call) {
    answer.write_consumed = call.write.consumed();
    // What the answer has is empty.
    std::mem::swap(&mut answer.result, &mut call.read.bytes);
    answer.result_position = call.read.position - answer.result.len() as u64;
    answer.creds = call.read.creds.take();
    std::mem::swap(&mut answer.actions, &mut call.actions);
    if answer.actions.len() > MAX_ACTIONS {
        call.actions = answer.actions.split_off(MAX_ACTIONS);
    }
}

/// DATA: what was brought; `None` where it did not fit into the message.
fn fetched(address: u64, length: u64, error: Errno, outcome: &Outcome) -> Result<Option<Range>, Mismatch> {
    match outcome {
        Outcome::None | Outcome::Data(_) if !error.is_ok() => Ok(Some(fault(address, length))),
        Outcome::None => Ok(None),
        Outcome::Data(range) if range.address != address => Err(Mismatch),
        Outcome::Data(range) => Ok(Some(range.clone())),
        _ => Err(Mismatch),
    }
}

/// Memory that cannot be read.
fn fault(address: u64, length: u64) -> Range {
    Range { address, length, readable: 0, fault: true, data: RangeData::None }
}
