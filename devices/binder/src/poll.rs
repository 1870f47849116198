//! poll(2): a mask now, and one event at the next readiness (BINDER.md 1.3, PROTOCOL.md rule 19).

use serde::{Deserialize, Serialize};

use crate::arena::ThreadId;
use crate::domain::Domain;
use crate::events::Notice;
use crate::ids::ProcId;
use crate::thread::looper;

/// `EPOLLIN`.
pub(crate) const EPOLLIN: u32 = 1;

/// Whose armed threads are looked at when the message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PollCheck {
    Thread(ThreadId),
    /// All threads of a process, once a message however often its queue changed.
    Proc(ProcId),
}

impl Domain {
    /// Answers the mask and arms the thread, and with it all threads of its process that ever polled: an
    /// epoll set waits with the thread that added the file, but who waits for the set may be another.
    pub(crate) fn poll_thread(&mut self, thread: ThreadId) -> u32 {
        if let Some(object) = self.threads.get_mut(thread) {
            object.looper |= looper::POLL;
        }
        let proc = self.thread_proc(thread).and_then(|proc| self.procs.get(&proc));
        for id in proc.into_iter().flat_map(|proc| proc.threads.values()) {
            if let Some(object) = self.threads.get_mut(*id) {
                object.poll_armed |= object.looper & looper::POLL != 0;
            }
        }
        if self.poll_ready(thread) { EPOLLIN } else { 0 }
    }

    fn poll_ready(&self, thread: ThreadId) -> bool {
        let available =
            self.threads.get(thread).is_some_and(|thread| thread.available_for_proc_work(self.profile));
        self.has_work(thread, available)
    }

    /// The thread may have become readable.
    pub(crate) fn poll_changed(&mut self, thread: ThreadId) {
        if self.threads.get(thread).is_some_and(|thread| thread.poll_armed) {
            self.poll_check.push(PollCheck::Thread(thread));
        }
    }

    /// Work waits in the process queue and nobody sleeps in a read (B026).
    pub(crate) fn poll_proc_changed(&mut self, proc: ProcId) {
        let Some(object) = self.procs.get_mut(&proc) else { return };
        if !std::mem::replace(&mut object.poll_due, true) {
            self.poll_check.push(PollCheck::Proc(proc));
        }
    }

    pub(crate) fn send_poll_events(&mut self) {
        if self.poll_check.is_empty() {
            return;
        }
        for check in std::mem::take(&mut self.poll_check) {
            match check {
                PollCheck::Thread(thread) => self.send_poll_event(thread),
                PollCheck::Proc(proc) => {
                    let Some(object) = self.procs.get_mut(&proc) else { continue };
                    object.poll_due = false;
                    let threads: Vec<ThreadId> = object.threads.values().copied().collect();
                    for thread in threads {
                        self.send_poll_event(thread);
                    }
                }
            }
        }
    }

    fn send_poll_event(&mut self, thread: ThreadId) {
        if !self.threads.get(thread).is_some_and(|thread| thread.poll_armed) || !self.poll_ready(thread) {
            return;
        }
        let Some(object) = self.threads.get_mut(thread) else { return };
        object.poll_armed = false;
        if let Some(guest) = self.guests.get_mut(&object.guest) {
            guest.notify(thread, object, Notice::Poll);
        }
    }
}
