//! The life of one BINDER_WRITE_READ over several messages (PROTOCOL.md rules 6, 10, 13, 17).

use crate::arena::{ThreadId, TransactionId};
use crate::commands::{Step, WriteFlow};
use crate::domain::{Cx, Domain, Notice};
use crate::errno::Errno;
use crate::ids::{GuestId, Seq, Token};
use crate::message::{
    Answer, Continue, Header, LsmQuestion, Need, NeedKind, NeedResult, Outcome, Park, Range, RangeData,
    Status,
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
    pub(crate) fn proceed(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>) -> Answer {
        if call.read.phase == ReadPhase::Start {
            match self.run_write(cx, &mut call) {
                WriteFlow::Finished => {}
                WriteFlow::More => {
                    let answer = answer(&mut call, Status::More);
                    self.set_activity(call.thread, Activity::WriteMore(call));
                    return answer;
                }
                WriteFlow::Suspend(sending, needs) => return self.suspend(cx, call, sending, needs),
                WriteFlow::Error(errno) => return self.finish(cx, call, errno, Half::Write),
            }
            if call.read.size == 0 {
                return self.finish(cx, call, Errno::OK, Half::Write);
            }
            call.write.close();
        }
        let flow = self.run_read(cx, &mut call);
        self.after_read(cx, call, flow)
    }

    /// The command waits; what it keeps is counted against the guest's quota.
    fn suspend(
        &mut self,
        cx: &mut Cx<'_>,
        mut call: Box<Call>,
        sending: Box<Sending>,
        needs: Vec<Need>,
    ) -> Answer {
        let guest = call.guest;
        let bytes = sending.weight() + call.write.weight();
        if self.guests.get(&guest).is_none_or(|g| g.suspended_bytes + bytes > self.limits.max_suspended_bytes)
        {
            self.fail_send(cx, &mut call, *sending, SendError::failed(Errno::ENOMEM));
            call.write.cursor += call.write.current;
            return self.proceed(cx, call);
        }
        self.count_suspended(guest, bytes, true);
        let answer = answer(&mut call, Status::Needs(needs.clone()));
        self.set_activity(call.thread, Activity::Suspended { call, sending, needs, bytes });
        answer
    }

    pub(crate) fn count_suspended(&mut self, guest: GuestId, bytes: u64, more: bool) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            let count = guest.suspended_bytes;
            guest.suspended_bytes = if more { count + bytes } else { count.saturating_sub(bytes) };
        }
    }

    fn after_read(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>, flow: ReadFlow) -> Answer {
        match flow {
            ReadFlow::Done(errno) => self.finish(cx, call, errno, Half::Read),
            ReadFlow::Park => self.park(cx, call),
            ReadFlow::More => {
                let answer = answer(&mut call, Status::More);
                self.set_activity(call.thread, Activity::ReadMore(call));
                answer
            }
            ReadFlow::Install(transaction) => {
                let mut answer = answer(&mut call, Status::Install(self.tokens_of(transaction)));
                // The bytes so far stay for the page that ends the read.
                call.read.bytes = std::mem::take(&mut answer.result);
                let thread = call.thread;
                self.set_activity(thread, Activity::Installing { call, transaction, announced: true });
                answer
            }
        }
    }

    fn tokens_of(&self, transaction: TransactionId) -> Vec<Token> {
        let files = self.transactions.get(transaction).map(|transaction| transaction.files.as_slice());
        files.unwrap_or_default().iter().map(|file| file.token).collect()
    }

    fn park(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>) -> Answer {
        let status = Status::Parked { park: Park::Read, timeout_ms: 0 };
        let answer = Answer {
            status,
            write_consumed: call.write.consumed(),
            actions: std::mem::take(&mut call.actions),
            ..Answer::default()
        };
        let (id, wait_for_proc) = (call.thread, call.read.wait_for_proc);
        let mut ticket = None;
        if wait_for_proc && let Some(proc) = self.procs.get_mut(&call.proc()) {
            ticket = Some(proc.waiting.push(id));
        }
        if let Some(object) = self.threads.get_mut(id) {
            object.waiting = ticket;
            object.activity = Activity::Parked(call);
        }
        self.trace_thread(cx, id, |thread| TraceEvent::Parked { thread, park: Park::Read });
        answer
    }

    /// Ends an ioctl (B036, B063, B076, B077).
    fn finish(&mut self, cx: &mut Cx<'_>, mut call: Box<Call>, errno: Errno, half: Half) -> Answer {
        let id = call.thread;
        if half == Half::Read && self.procs.get(&call.proc()).is_some_and(|proc| !proc.todo.is_empty()) {
            self.wake_proc(cx, call.proc());
        }
        if let Some(object) = self.threads.get_mut(id) {
            object.need_return = false;
            object.activity = Activity::Idle;
        }
        let mut answer = answer(&mut call, Status::Done);
        answer.errno = errno;
        answer.read_consumed = match (errno.is_ok(), half) {
            (true, _) => call.read.position,
            (false, Half::Write) => 0,
            (false, Half::Read) => call.read.start,
        };
        if errno.is_ok() {
            self.count_returns(&call);
            if cx.traces() {
                for item in &call.read.returns {
                    self.trace_thread(cx, id, |thread| TraceEvent::Return { thread, item: *item });
                }
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
        self.trace_thread(cx, id, |thread| TraceEvent::IoctlDone {
            thread,
            cmd: ioctl::WRITE_READ,
            errno,
            write_consumed,
            read_consumed,
        });
        self.spare.keep(call);
        answer
    }

    fn set_activity(&mut self, thread: ThreadId, activity: Activity) {
        if let Some(object) = self.threads.get_mut(thread) {
            object.activity = activity;
        }
    }

    fn activity_mut(&mut self, thread: ThreadId) -> Option<&mut Activity> {
        self.threads.get_mut(thread).map(|thread| &mut thread.activity)
    }

    pub(crate) fn take_activity(&mut self, thread: ThreadId) -> Activity {
        self.threads.get_mut(thread).map(|thread| std::mem::take(&mut thread.activity)).unwrap_or_default()
    }

    /// CONTINUE.
    pub(crate) fn resume(
        &mut self,
        cx: &mut Cx<'_>,
        header: Header,
        thread: ThreadId,
        body: Continue,
    ) -> Answer {
        let expected = self.threads.get(thread).is_some_and(|thread| thread.seq == header.seq);
        if !expected {
            return Answer::error(Errno::EPROTO);
        }
        match (self.take_activity(thread), body) {
            (Activity::WriteMore(mut call), Continue::More(chunk)) => {
                call.follow(header);
                // Actions that did not fit go first; the chunk comes again.
                if call.write.consumed() < call.write.size && !call.write.feed(chunk) {
                    return self.finish(cx, call, Errno::EPROTO, Half::Write);
                }
                self.proceed(cx, call)
            }
            (Activity::ReadMore(mut call), Continue::More(_)) => {
                call.follow(header);
                self.proceed(cx, call)
            }
            (Activity::Suspended { mut call, mut sending, needs, bytes }, Continue::Needs(results)) => {
                call.follow(header);
                self.count_suspended(call.guest, bytes, false);
                if self.take_results(cx, &mut sending, &needs, results).is_err() {
                    let error = SendError::failed(Errno::ENOMEM);
                    self.fail_send(cx, &mut call, *sending, error);
                    return self.finish(cx, call, Errno::EPROTO, Half::Write);
                }
                match self.advance_send(cx, &mut call, *sending) {
                    Step::Suspend(sending, needs) => self.suspend(cx, call, sending, needs),
                    Step::Next | Step::Error(_) => {
                        call.write.cursor += call.write.current;
                        self.proceed(cx, call)
                    }
                }
            }
            (Activity::Filling { mut call, slots }, Continue::Needs(results)) => {
                call.follow(header);
                self.take_fill(cx, call, &slots, &results)
            }
            (Activity::Installing { mut call, transaction, .. }, Continue::Install(result)) => {
                call.follow(header);
                let fds = match &result.outcome {
                    Outcome::Fds(fds) if result.error.is_ok() => Some(fds.as_slice()),
                    _ => None,
                };
                match self.installed(cx, &mut call, transaction, fds) {
                    Some(flow) => self.after_read(cx, call, flow),
                    None => self.proceed(cx, call),
                }
            }
            (activity, _) => {
                self.set_activity(thread, activity);
                Answer::error(Errno::EPROTO)
            }
        }
    }

    /// Takes what the guest supplied.
    fn take_results(
        &mut self,
        cx: &Cx<'_>,
        sending: &mut Sending,
        needs: &[Need],
        results: Vec<NeedResult>,
    ) -> Result<(), Mismatch> {
        if needs.len() != results.len() {
            return Err(Mismatch);
        }
        let mut progress = needs.iter().any(|need| need.kind() != NeedKind::Data);
        for (need, result) in needs.iter().zip(results) {
            match (need, result.outcome) {
                (Need::Data { .. }, Outcome::None | Outcome::Data(_)) if result.error == Errno::ENOMEM => {
                    // Not a fault: the guest could not get it now.
                    sending.page_error = Some(Errno::ENOMEM);
                    progress = true;
                }
                (Need::Data { address, length }, outcome) => {
                    let range = fetched(*address, *length, result.error, outcome)?;
                    progress |= range.is_some_and(|range| sending.fetched.insert(range));
                }
                (Need::Pages { slots, .. }, Outcome::Pages(pfns)) => {
                    self.take_pages(cx, sending, slots, &pfns, result.error);
                }
                (Need::Pages { slots, .. }, Outcome::None) => {
                    self.take_pages(cx, sending, slots, &[], result.error);
                }
                (Need::Files { fds, .. }, Outcome::Files(tokens)) => {
                    self.take_files(sending, fds, tokens, result.error)?;
                }
                (Need::Files { fds, .. }, Outcome::None) => {
                    self.take_files(sending, fds, Vec::new(), result.error)?;
                }
                (Need::Lsm { proc, question }, Outcome::None) => {
                    let allowed = result.error.is_ok();
                    match question {
                        LsmQuestion::Transaction => sending.call_allowed = Some(allowed),
                        LsmQuestion::TransferBinder => sending.transfer_allowed = Some(allowed),
                    }
                    if self.limits.lsm == crate::limits::LsmMode::Cache
                        && !sending.asks_anew
                        && self.procs.contains_key(proc)
                        && let Some(sender) = self.procs.get_mut(&sending.proc)
                    {
                        sender.lsm.insert((proc.0, *question), allowed);
                    }
                }
                _ => return Err(Mismatch),
            }
        }
        if let (false, Some(Need::Data { address, length })) = (progress, needs.first()) {
            // A shim that brings nothing, ever, would keep the command for ever.
            sending.fetched.insert(fault(*address, *length));
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
                sending.page_error = Some(Errno::ENOMEM);
                return;
            }
            mapping.supply(*slot, *pfn);
        }
        if !error.is_ok() {
            sending.page_error = Some(error);
        } else if pfns.len() < slots.len() {
            sending.page_error = Some(Errno::ENOMEM);
        }
    }

    fn take_files(
        &mut self,
        sending: &mut Sending,
        fds: &[u32],
        tokens: Vec<Token>,
        error: Errno,
    ) -> Result<(), Mismatch> {
        if tokens.len() > fds.len() || (error.is_ok() && tokens.len() < fds.len()) {
            return Err(Mismatch);
        }
        if let Some(guest) = self.guests.get_mut(&sending.guest) {
            guest.tokens += tokens.len() as u32;
        }
        sending.tokens.extend(tokens);
        if !error.is_ok() {
            // The LSM's own error is not passed on (B190, B343).
            let known = matches!(error, Errno::EBADF | Errno::ENOMEM);
            sending.file_error = Some(if known { error } else { Errno::EPERM });
        }
        Ok(())
    }

    /// A woken thread reads; what comes out is an event.
    pub(crate) fn run_woken(&mut self, cx: &mut Cx<'_>, thread: ThreadId) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        object.runnable = false;
        let guest = object.guest;
        let mut answer = match self.take_activity(thread) {
            Activity::Parked(call) => self.proceed(cx, call),
            Activity::Freezing(wait) => self.freezer_done(cx, thread, *wait),
            activity => return self.set_activity(thread, activity),
        };
        match answer.status {
            // There is no answer to carry the actions: they stay for the one that comes.
            Status::Parked { .. } => {
                if let Some(Activity::Parked(call)) = self.activity_mut(thread) {
                    call.actions.append(&mut answer.actions);
                }
            }
            Status::Install(_) => {
                if let Some(Activity::Installing { call, announced, .. }) = self.activity_mut(thread) {
                    call.actions.append(&mut answer.actions);
                    *announced = false;
                }
                self.notify(guest, thread, Notice::Install);
            }
            _ => {
                let then = match self.take_activity(thread) {
                    Activity::ReadMore(call) => Some(call),
                    _ => None,
                };
                let answer = Box::new(answer);
                self.set_activity(thread, Activity::Completed { answer, fetch: false, then });
                self.notify(guest, thread, Notice::Completed);
            }
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
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, header: Header, thread: ThreadId) -> Answer {
        if self.threads.get(thread).is_none_or(|thread| thread.seq != header.seq) {
            return Answer::error(Errno::EPROTO);
        }
        match self.take_activity(thread) {
            Activity::Parked(call) => {
                self.leave_waiting(thread);
                let party = self.party(thread);
                cx.trace(|| TraceEvent::Cancelled { thread: party });
                self.finish(cx, call, Errno::EINTR, Half::Read)
            }
            Activity::Freezing(wait) => {
                self.stop_freezing(thread, &wait);
                let party = self.party(thread);
                cx.trace(|| TraceEvent::Cancelled { thread: party });
                if let Some(object) = self.threads.get_mut(thread) {
                    object.need_return = false;
                }
                Answer { errno: Errno::ERESTARTSYS, ..Answer::default() }
            }
            activity => self.too_late(thread, activity),
        }
    }

    /// TIMEOUT: the freezer has waited long enough (rule 18).
    pub(crate) fn timeout(&mut self, cx: &mut Cx<'_>, header: Header, thread: ThreadId) -> Answer {
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
                let actions = self.finish(cx, call, Errno::EFAULT, Half::Read).actions;
                Answer { actions, ..Answer::default() }
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

/// The fields that every answer to a `BINDER_WRITE_READ` has.
fn answer(call: &mut Call, status: Status) -> Answer {
    let result = std::mem::take(&mut call.read.bytes);
    let mut actions = std::mem::take(&mut call.actions);
    if actions.len() > crate::message::MAX_ACTIONS {
        call.actions = actions.split_off(crate::message::MAX_ACTIONS);
    }
    Answer {
        status,
        write_consumed: call.write.consumed(),
        result_position: call.read.position - result.len() as u64,
        result,
        creds: call.read.creds.take(),
        actions,
        ..Answer::default()
    }
}

/// DATA: what was brought; `None` where it did not fit into the message.
fn fetched(address: u64, length: u64, error: Errno, outcome: Outcome) -> Result<Option<Range>, Mismatch> {
    match outcome {
        Outcome::None | Outcome::Data(_) if !error.is_ok() => Ok(Some(fault(address, length))),
        Outcome::None => Ok(None),
        Outcome::Data(range) if range.address != address => Err(Mismatch),
        Outcome::Data(range) => Ok(Some(range)),
        _ => Err(Mismatch),
    }
}

/// Memory that cannot be read.
fn fault(address: u64, length: u64) -> Range {
    Range { address, length, readable: 0, fault: true, data: RangeData::None }
}
