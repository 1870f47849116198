//! Events: what is told to threads that sleep or poll.
//!
//! A thread's notice waits in its guest's list until there is a buffer; what the event says stands in the thread, and
//! is taken from there when it is fetched.

use serde::{Deserialize, Serialize};

use crate::arena::ThreadId;
use crate::domain::{Domain, Guest};
use crate::errno::Errno;
use crate::ids::GuestId;
use crate::message::{Answer, EVENT_BYTES, Event, EventKind, Status};
use crate::thread::{Activity, Thread};

/// What an event says about a thread; the rest stands in the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Notice {
    Completed,
    Install,
    Poll,
}

impl Notice {
    /// Its bit in `Thread::notices`.
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Guest {
    /// Adds an event of a thread; one that waits for a buffer already stands for this one too.
    pub(crate) fn notify(&mut self, id: ThreadId, thread: &mut Thread, notice: Notice) {
        if thread.notices & notice.bit() == 0 {
            self.events.push_back((id, notice));
            thread.notices |= notice.bit();
        }
    }
}

impl Domain {
    /// The next event of a guest, in wake order. Call it only when a buffer is free: the event is
    /// handed over for good.
    pub fn next_event(&mut self, guest: GuestId) -> Option<Event> {
        let shared = self.is_shared();
        loop {
            let state = self.guests.get_mut(&guest)?;
            let (thread, notice) = state.events.pop_front()?;
            let idle_pages = if shared { 0 } else { state.idle_pages };
            // A thread that is gone has no events.
            let Some(object) = self.threads.get_mut(thread) else { continue };
            object.notices &= !notice.bit();
            let (proc, tid, seq) = (object.proc, object.tid, object.seq);
            let event =
                |fetch: bool, kind: EventKind| Some(Event { proc, tid, seq, fetch, kind, idle_pages });
            match (notice, std::mem::take(&mut object.activity)) {
                (Notice::Completed, Activity::Completed { mut answer, then: None, .. })
                    if fits_event(&answer) =>
                {
                    let nice = answer.actions.pop();
                    let result = std::mem::take(&mut answer.result);
                    let Answer { errno, read_consumed, first_word, creds, .. } = *answer;
                    self.spare.keep_answer(answer);
                    let kind = EventKind::Done { errno, read_consumed, result, first_word, creds, nice };
                    return event(false, kind);
                }
                (Notice::Completed, Activity::Completed { answer, then, .. }) => {
                    object.activity = Activity::Completed { answer, fetch: true, then };
                    return event(
                        true,
                        EventKind::Done {
                            errno: Errno::OK,
                            read_consumed: 0,
                            result: Vec::new(),
                            first_word: None,
                            creds: None,
                            nice: None,
                        },
                    );
                }
                (Notice::Install, Activity::Installing { call, transaction, .. }) => {
                    let files = self.transactions.get(transaction).map(|t| t.files.as_slice());
                    let files = files.unwrap_or_default();
                    let fetch = files.len() * 4 > EVENT_BYTES;
                    let told = if fetch { &[] } else { files };
                    let tokens = told.iter().map(|file| file.token).collect();
                    object.activity = Activity::Installing { call, transaction, announced: fetch };
                    return event(fetch, EventKind::Install { tokens });
                }
                (Notice::Poll, activity) => {
                    object.activity = activity;
                    return event(false, EventKind::Poll);
                }
                // It went on without its event: the shim does not follow the protocol.
                (_, activity) => object.activity = activity,
            }
        }
    }

    /// Whether [`next_event`](Self::next_event) has one.
    pub fn has_events(&self, guest: GuestId) -> bool {
        self.guests.get(&guest).is_some_and(|guest| self.has_due(guest))
    }

    fn has_due(&self, guest: &Guest) -> bool {
        guest.events.iter().any(|(thread, notice)| {
            // A thread may have gone on without its event, if the shim does not follow the protocol.
            let activity = self.threads.get(*thread).map(|thread| &thread.activity);
            matches!(
                (notice, activity),
                (Notice::Poll, Some(_))
                    | (Notice::Install, Some(Activity::Installing { .. }))
                    | (Notice::Completed, Some(Activity::Completed { .. }))
            )
        })
    }
}

/// Whether all that an answer says can be said by an event.
fn fits_event(answer: &Answer) -> bool {
    answer.status == Status::Done
        && answer.result.len() <= EVENT_BYTES
        && match answer.actions.as_slice() {
            [] => true,
            [action] => action.is_scheduling(),
            _ => false,
        }
}
