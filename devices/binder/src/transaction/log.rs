//! What the logs tell of a send (B430 to B432), and the count of transactions.

use crate::domain::{Domain, Guest};
use crate::ids::{GuestId, Pid, Tid};
use crate::logs::{LogEntry, LogKind, LoggedSend};
use crate::proc::{ContextId, Proc};
use crate::protocol::tf;
use crate::thread::Thread;
use crate::transaction::{SendError, Sending, Stage};

impl Guest {
    /// 7.2 counts a transaction before it is judged, older drivers once its target is found.
    fn count_transaction(&mut self) {
        self.totals.transactions = self.totals.transactions.wrapping_add(1);
    }
}

/// Whom a send goes to that came to no target.
const NOBODY: (Pid, Tid) = (Pid(0), Tid(0));

impl Sending {
    /// How its guest's log names a target: the one of another guest has no number there.
    pub(super) fn named(&self, target: &Proc, thread: Option<&Thread>) -> (Pid, Tid) {
        let pid = if target.guest == self.guest { target.pid } else { Pid(0) };
        (pid, thread.map(|thread| thread.tid).unwrap_or_default())
    }
}

impl Domain {
    /// A send begins in a context, and was aimed at a node or was not. Gives it the number of its entry.
    pub(super) fn log_send(&mut self, s: &mut Sending, context: ContextId) {
        let node = s.target_node.and_then(|node| self.nodes.get(node)).map(|node| node.debug_id);
        let Some(guest) = self.guests.get_mut(&s.guest) else { return };
        if self.profile.tells_async() {
            guest.count_transaction();
        }
        let send = LoggedSend {
            id: s.debug_id,
            kind: match (s.reply, s.data.flags & tf::ONE_WAY != 0) {
                (true, _) => LogKind::Reply,
                (false, true) => LogKind::Async,
                (false, false) => LogKind::Call,
            },
            from: (s.sender.pid, s.sender.tid),
            to: NOBODY,
            node: node.unwrap_or_default(),
            handle: s.data.target as u32,
            data_size: s.data.data_size,
            offsets_size: s.data.offsets_size,
            result: 0,
            errno: crate::errno::Errno::OK,
            complete: false,
        };
        let name = || self.contexts.get(&context).map(|context| context.name.clone()).unwrap_or_default();
        s.log = guest.log.push(context, name, send);
    }

    /// The target may be called.
    pub(super) fn count_target(&mut self, guest: GuestId) {
        if !self.profile.tells_async()
            && let Some(guest) = self.guests.get_mut(&guest)
        {
            guest.count_transaction();
        }
    }

    /// A send that may go to its target does not end at once, or fails: names the target, unless that was done
    /// while it was there.
    pub(super) fn log_target(&mut self, s: &Sending) {
        let target = s.target_proc.and_then(|proc| self.procs.get(&proc));
        let thread = s.target_thread.and_then(|thread| self.threads.get(thread));
        let to = target.map_or(NOBODY, |target| s.named(target, thread));
        self.logged(s, |send| {
            if send.to == NOBODY {
                send.to = to;
            }
        });
    }

    pub(super) fn log_success(&mut self, s: &Sending, to: (Pid, Tid)) {
        self.logged(s, |send| {
            send.to = to;
            send.complete = true;
        });
    }

    pub(super) fn log_failure(&mut self, s: &Sending, error: SendError) {
        if s.stage == Stage::Gathering {
            self.log_target(s);
        }
        self.logged(s, |send| {
            send.result = error.code;
            send.errno = error.errno;
            send.complete = true;
        });
        if let Some(guest) = self.guests.get_mut(&s.guest)
            && let Some(LogEntry { context, name, send }) = guest.log.get_mut(s.log)
        {
            guest.failed_log.push(*context, || name.clone(), *send);
        }
    }

    fn logged(&mut self, s: &Sending, change: impl FnOnce(&mut LoggedSend)) {
        if let Some(entry) = self.guests.get_mut(&s.guest).and_then(|guest| guest.log.get_mut(s.log)) {
            change(&mut entry.send);
        }
    }
}
