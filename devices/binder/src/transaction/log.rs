//! What the logs tell of a send (B430 to B432), and the count of transactions.

use crate::domain::{Domain, Guest};
use crate::ids::{DebugId, Pid, Tid};
use crate::logs::{LogEntry, LogKind};
use crate::protocol::{TransactionData, tf};
use crate::thread::Call;
use crate::transaction::{SendError, Sending};

impl Guest {
    /// 7.2 counts a transaction before it is judged, older drivers once its target is found.
    fn count_transaction(&mut self) {
        self.totals.transactions = self.totals.transactions.wrapping_add(1);
    }
}

impl Domain {
    /// A send begins. Returns the number of its entry.
    pub(super) fn log_send(&mut self, call: &Call, id: DebugId, data: &TransactionData, reply: bool) -> u64 {
        let proc = self.procs.get(&call.proc());
        let context = proc.and_then(|proc| self.contexts.get(&proc.context));
        let name = context.map(|context| context.name.as_slice()).unwrap_or_default();
        let from = (proc.map(|proc| proc.pid).unwrap_or_default(), call.header.tid);
        let kind = match (reply, data.flags & tf::ONE_WAY != 0) {
            (true, _) => LogKind::Reply,
            (false, true) => LogKind::Async,
            (false, false) => LogKind::Call,
        };
        let entry = LogEntry {
            id,
            kind,
            from,
            to: (Pid(0), Tid(0)),
            context: Vec::new(),
            node: DebugId(0),
            handle: data.target as u32,
            data_size: data.data_size,
            offsets_size: data.offsets_size,
            result: 0,
            errno: crate::errno::Errno::OK,
            complete: false,
        };
        let Some(guest) = self.guests.get_mut(&call.guest) else { return 0 };
        if self.profile.tells_async() {
            guest.count_transaction();
        }
        guest.log.push(entry, name)
    }

    /// The target's node is known.
    pub(super) fn log_node(&mut self, s: &Sending) {
        let node = s.target_node.and_then(|node| self.nodes.get(node)).map(|node| node.debug_id);
        self.log_entry(s, |entry| entry.node = node.unwrap_or_default());
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
        self.log_entry(s, |entry| entry.to = (pid, tid));
    }

    pub(super) fn log_success(&mut self, s: &Sending) {
        self.log_entry(s, |entry| entry.complete = true);
    }

    pub(super) fn log_failure(&mut self, s: &Sending, error: SendError) {
        let mut failed = None;
        self.log_entry(s, |entry| {
            entry.result = error.code;
            entry.errno = error.errno;
            entry.complete = true;
            failed = Some(entry.clone());
        });
        if let (Some(entry), Some(guest)) = (failed, self.guests.get_mut(&s.guest)) {
            let name = entry.context.clone();
            guest.failed_log.push(entry, &name);
        }
    }

    fn log_entry(&mut self, s: &Sending, change: impl FnOnce(&mut LogEntry)) {
        if let Some(entry) = self.guests.get_mut(&s.guest).and_then(|guest| guest.log.get_mut(s.log)) {
            change(entry);
        }
    }
}
