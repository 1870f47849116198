//! What the logs tell of a send (B430 to B432), and the count of transactions.

use crate::domain::{Domain, Guest};
use crate::ids::{Pid, Tid};
use crate::logs::{LogEntry, LogKind, LoggedSend};
use crate::protocol::tf;
use crate::transaction::{SendError, Sending};

impl Guest {
    /// 7.2 counts a transaction before it is judged, older drivers once its target is found.
    fn count_transaction(&mut self) {
        self.totals.transactions = self.totals.transactions.wrapping_add(1);
    }
}

impl Domain {
    /// A send begins, and was aimed at a node or was not. Gives it the number of its entry.
    pub(super) fn log_send(&mut self, s: &mut Sending) {
        let context = self.procs.get(&s.sender.proc).and_then(|proc| self.contexts.get(&proc.context));
        let name = context.map(|context| context.name.as_slice()).unwrap_or_default();
        let node = s.target_node.and_then(|node| self.nodes.get(node)).map(|node| node.debug_id);
        let Some(guest) = self.guests.get_mut(&s.guest) else { return };
        if self.profile.tells_async() {
            guest.count_transaction();
        }
        s.log = guest.log.push(
            name,
            LoggedSend {
                id: s.debug_id,
                kind: match (s.reply, s.data.flags & tf::ONE_WAY != 0) {
                    (true, _) => LogKind::Reply,
                    (false, true) => LogKind::Async,
                    (false, false) => LogKind::Call,
                },
                from: (s.sender.pid, s.sender.tid),
                to: (Pid(0), Tid(0)),
                node: node.unwrap_or_default(),
                handle: s.data.target as u32,
                data_size: s.data.data_size,
                offsets_size: s.data.offsets_size,
                result: 0,
                errno: crate::errno::Errno::OK,
                complete: false,
            },
        );
    }

    /// The target may be called: from here on it is named.
    pub(super) fn log_target(&mut self, s: &Sending) {
        if !self.profile.tells_async()
            && let Some(guest) = self.guests.get_mut(&s.guest)
        {
            guest.count_transaction();
        }
        let target = s.target_proc.and_then(|proc| self.procs.get(&proc));
        let pid =
            target.filter(|target| target.guest == s.guest).map(|target| target.pid).unwrap_or_default();
        let thread = s.target_thread.and_then(|thread| self.threads.get(thread));
        let tid = thread.map(|thread| thread.tid).unwrap_or_default();
        self.logged(s, |send| send.to = (pid, tid));
    }

    pub(super) fn log_success(&mut self, s: &Sending) {
        self.logged(s, |send| send.complete = true);
    }

    pub(super) fn log_failure(&mut self, s: &Sending, error: SendError) {
        self.logged(s, |send| {
            send.result = error.code;
            send.errno = error.errno;
            send.complete = true;
        });
        if let Some(guest) = self.guests.get_mut(&s.guest)
            && let Some(LogEntry { context, send }) = guest.log.get_mut(s.log)
        {
            guest.failed_log.push(context, *send);
        }
    }

    fn logged(&mut self, s: &Sending, change: impl FnOnce(&mut LoggedSend)) {
        if let Some(entry) = self.guests.get_mut(&s.guest).and_then(|guest| guest.log.get_mut(s.log)) {
            change(&mut entry.send);
        }
    }
}
