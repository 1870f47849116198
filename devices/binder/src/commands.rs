//! The write half of BINDER_WRITE_READ: the one place that executes BC commands (BINDER.md 2.1, 3).

use crate::arena::ThreadId;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::message::{ChunkEnd, MAX_ACTIONS, Need};
use crate::protocol::{Command, NotACommand, bc};
use crate::thread::{Call, looper};
use crate::trace::{TraceEvent, UserError};
use crate::transaction::Sending;

/// Actions that may be due before the next command is executed: the caller takes them away first.
const ACTIONS_BEFORE_MORE: usize = MAX_ACTIONS / 2;

/// Bytes that one message moves before the caller is let go in between (rule 16); an object counts
/// as [`OBJECT_EFFORT`].
const MAX_EFFORT: u64 = 1 << 20;
/// A message that touches 4096 objects has done enough.
pub(crate) const OBJECT_EFFORT: u64 = MAX_EFFORT / 4096;

/// What became of a command.
pub(crate) enum Step {
    /// It is over; also where it failed with a BR code.
    Next,
    /// It waits for the guest.
    Suspend(Box<Sending>, Vec<Need>),
    /// The ioctl fails.
    Error(Errno),
}

/// How far a write half got.
pub(crate) enum WriteFlow {
    /// The read half may begin.
    Finished,
    /// The next chunk is due, or the caller must act first.
    More,
    Suspend(Box<Sending>, Vec<Need>),
    Error(Errno),
}

impl Domain {
    /// Executes whole commands of the present chunk.
    pub(crate) fn run_write(&mut self, cx: &mut Cx<'_>, call: &mut Call) -> WriteFlow {
        loop {
            let files = self.guests.get(&call.guest).map_or(0, |guest| guest.fputs.len());
            if call.actions.len() + files > ACTIONS_BEFORE_MORE || call.effort > MAX_EFFORT {
                return WriteFlow::More;
            }
            let failed = || self.threads.get(call.thread).is_none_or(|thread| thread.return_error.is_some());
            if call.write.consumed() >= call.write.size || failed() {
                return WriteFlow::Finished;
            }
            let chunk = call.write.chunk(cx.chunk);
            let (rest, end) = (call.write.rest(chunk), chunk.end);
            let decoded = Command::decode(rest);
            // One that is cut comes again, whole.
            if !matches!(decoded, Err(NotACommand::Short { .. }) if end == ChunkEnd::Cut)
                && let Some(word) = rest.first_chunk::<4>()
            {
                self.count_command(call.proc(), u32::from_le_bytes(*word));
            }
            let (command, length) = match &decoded {
                Ok((command, length)) => (command, *length),
                Err(NotACommand::Unknown { word }) => {
                    let word = *word;
                    self.trace_thread(cx, call.thread, move |thread| TraceEvent::UnknownCommand {
                        thread,
                        word,
                    });
                    return WriteFlow::Error(Errno::EINVAL);
                }
                Err(NotACommand::End) if end == ChunkEnd::Last => return WriteFlow::Finished,
                Err(_) if end == ChunkEnd::Cut => return WriteFlow::More,
                Err(NotACommand::Short { word }) if self.refuses(call, *word) => {
                    return WriteFlow::Error(Errno::EINVAL);
                }
                Err(_) => return WriteFlow::Error(Errno::EFAULT),
            };
            self.trace_thread(cx, call.thread, move |thread| TraceEvent::Command {
                thread,
                command: *command,
            });
            call.write.current = length;
            match self.execute(cx, call, command) {
                Step::Next => call.write.cursor += length,
                Step::Suspend(sending, needs) => return WriteFlow::Suspend(sending, needs),
                Step::Error(errno) => return WriteFlow::Error(errno),
            }
        }
    }

    /// Whether a command is refused before its payload is read, which may be missing (B114, B116).
    #[cold]
    fn refuses(&self, call: &Call, word: u32) -> bool {
        match word {
            bc::ATTEMPT_ACQUIRE | bc::ACQUIRE_RESULT => !self.accepts_attempts(call.guest),
            bc::REQUEST_FREEZE_NOTIFICATION
            | bc::CLEAR_FREEZE_NOTIFICATION
            | bc::FREEZE_NOTIFICATION_DONE => !self.profile.freeze_notifications(),
            _ => false,
        }
    }

    fn execute(&mut self, cx: &mut Cx<'_>, call: &mut Call, command: &Command) -> Step {
        let thread = call.thread;
        match *command {
            Command::Transaction(ref data) => return self.begin_send(cx, call, data, 0, false),
            Command::Reply(ref data) => return self.begin_send(cx, call, data, 0, true),
            Command::TransactionSg(ref data, size) => return self.begin_send(cx, call, data, size, false),
            Command::ReplySg(ref data, size) => return self.begin_send(cx, call, data, size, true),
            Command::FreeBuffer { data } => self.free_by_user(cx, call, data),
            Command::Increfs { handle } => return step(self.inc_handle(cx, thread, handle, false)),
            Command::Acquire { handle } => return step(self.inc_handle(cx, thread, handle, true)),
            Command::Release { handle } => self.dec_handle(cx, thread, handle, true),
            Command::Decrefs { handle } => self.dec_handle(cx, thread, handle, false),
            Command::IncrefsDone { ptr, cookie } => self.node_done(cx, thread, ptr, cookie, false),
            Command::AcquireDone { ptr, cookie } => self.node_done(cx, thread, ptr, cookie, true),
            Command::AttemptAcquire { priority, handle } => {
                return step(self.attempt_acquire(cx, call, priority, handle));
            }
            Command::AcquireResult(value) => return step(self.acquire_result(cx, call, value)),
            Command::RegisterLooper => self.register_looper(cx, thread),
            Command::EnterLooper => self.set_looper(cx, thread, looper::ENTERED, looper::REGISTERED),
            Command::ExitLooper => self.set_looper(cx, thread, looper::EXITED, 0),
            Command::RequestDeathNotification { handle, cookie } => {
                self.request_death(cx, thread, handle, cookie);
            }
            Command::ClearDeathNotification { handle, cookie } => {
                self.clear_death(cx, thread, handle, cookie)
            }
            Command::DeadBinderDone { cookie } => self.death_done(cx, thread, cookie),
            Command::RequestFreezeNotification { .. }
            | Command::ClearFreezeNotification { .. }
            | Command::FreezeNotificationDone { .. }
                if !self.profile.freeze_notifications() =>
            {
                return Step::Error(Errno::EINVAL);
            }
            Command::RequestFreezeNotification { handle, cookie } => {
                return step(self.request_freeze(cx, thread, handle, cookie));
            }
            Command::ClearFreezeNotification { handle, cookie } => {
                return step(self.clear_freeze(cx, thread, handle, cookie));
            }
            Command::FreezeNotificationDone { cookie } => return step(self.freeze_done(cx, thread, cookie)),
        }
        Step::Next
    }

    /// BC_FREE_BUFFER (B110, B220, B221).
    fn free_by_user(&mut self, cx: &mut Cx<'_>, call: &mut Call, address: u64) {
        let Some(buffer) = self.find_freeable(call.proc(), address) else {
            return self.user_error(cx, call.thread, UserError::BadBuffer(address));
        };
        let before = call.actions.len();
        // The caller's numbers, also where it is not of the owner's process (B223).
        self.free_buffer(cx, buffer, Some(&mut call.actions));
        if call.actions.len() > before
            && let Some(thread) = self.threads.get_mut(call.thread)
        {
            thread.need_return = true;
        }
    }

    /// B095, B096.
    fn register_looper(&mut self, cx: &mut Cx<'_>, thread: ThreadId) {
        let entered = self.threads.get(thread).is_some_and(|thread| thread.looper & looper::ENTERED != 0);
        let Some(proc) = self.thread_proc(thread).and_then(|proc| self.procs.get_mut(&proc)) else { return };
        let mut unasked = 0;
        match proc.requested_threads.checked_sub(1).filter(|_| !entered) {
            Some(less) => {
                proc.requested_threads = less;
                proc.started_threads = proc.started_threads.saturating_add(1);
            }
            None if entered => {}
            None => {
                unasked = looper::INVALID;
                self.user_error(cx, thread, UserError::BadLooper);
            }
        }
        self.set_looper(cx, thread, looper::REGISTERED | unasked, looper::ENTERED);
    }

    /// Sets looper bits; together with one of `against` that is misuse, and has no effect.
    fn set_looper(&mut self, cx: &mut Cx<'_>, thread: ThreadId, bits: u8, against: u8) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        let misuse = object.looper & against != 0;
        object.looper |= bits | if misuse { looper::INVALID } else { 0 };
        if misuse {
            self.user_error(cx, thread, UserError::BadLooper);
        }
    }
}

fn step(result: Result<(), Errno>) -> Step {
    match result {
        Ok(()) => Step::Next,
        Err(errno) => Step::Error(errno),
    }
}
