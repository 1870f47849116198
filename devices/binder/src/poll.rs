//! poll(2): a mask now, and one event at the next readiness (BINDER.md 1.3, PROTOCOL.md rule 19).

use crate::arena::ThreadId;
use crate::domain::{Domain, Notice};
use crate::ids::ProcId;
use crate::thread::looper;

/// `EPOLLIN`.
pub(crate) const EPOLLIN: u32 = 1;

impl Domain {
    /// Answers the mask and arms the thread.
    pub(crate) fn poll_thread(&mut self, thread: ThreadId) -> u32 {
        if let Some(object) = self.threads.get_mut(thread) {
            object.looper |= looper::POLL;
            object.poll_armed = true;
        }
        if self.poll_ready(thread) { EPOLLIN } else { 0 }
    }

    fn poll_ready(&self, thread: ThreadId) -> bool {
        let available = self.threads.get(thread).is_some_and(|thread| thread.available_for_proc_work());
        self.has_work(thread, available)
    }

    /// The thread may have become readable.
    pub(crate) fn poll_changed(&mut self, thread: ThreadId) {
        if self.threads.get(thread).is_some_and(|thread| thread.poll_armed) {
            self.poll_check.push(thread);
        }
    }

    /// Work waits in the process queue and nobody sleeps in a read (B026).
    pub(crate) fn poll_proc_changed(&mut self, proc: ProcId) {
        let Some(object) = self.procs.get(&proc) else { return };
        for thread in object.threads.values() {
            let armed = |id: &ThreadId| {
                self.threads.get(*id).is_some_and(|t| t.poll_armed && t.available_for_proc_work())
            };
            if armed(thread) {
                self.poll_check.push(*thread);
            }
        }
    }

    pub(crate) fn send_poll_events(&mut self) {
        for thread in std::mem::take(&mut self.poll_check) {
            if !self.poll_ready(thread) {
                continue;
            }
            let Some(object) = self.threads.get_mut(thread) else { continue };
            if std::mem::take(&mut object.poll_armed) {
                let guest = object.guest;
                self.notify(guest, thread, Notice::Poll);
            }
        }
    }
}
