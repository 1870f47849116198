//! The rings behind `transaction_log` and `failed_transaction_log` (B430 to B432).

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};
use crate::errno::Errno;
use crate::ids::{DebugId, Pid, Tid};
use crate::lifecycle::MAX_NAME;
use crate::proc::ContextId;

/// Entries of a ring.
const ENTRIES: usize = 32;

/// What kind of send it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogKind {
    Call,
    Async,
    Reply,
}

/// One send, and the context that it was made in. The context may be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    pub context: ContextId,
    pub name: Vec<u8>,
    pub send: LoggedSend,
}

/// One send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggedSend {
    pub id: DebugId,
    pub kind: LogKind,
    pub from: (Pid, Tid),
    /// 0 where it did not come to a target, or to no particular thread.
    pub to: (Pid, Tid),
    pub node: DebugId,
    pub handle: u32,
    pub data_size: u64,
    pub offsets_size: u64,
    /// A `BR_*` word; 0: it was sent.
    pub result: u32,
    pub errno: Errno,
    /// It has ended.
    pub complete: bool,
}

/// The latest sends of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRing {
    /// Each at its number, modulo [`ENTRIES`].
    entries: Vec<LogEntry>,
    /// How many entries were ever added.
    added: u64,
}

impl LogRing {
    /// Adds an entry, which its number finds as long as it is there. `name` is asked for only where the entry that
    /// goes is of another context.
    pub(crate) fn push(
        &mut self,
        context: ContextId,
        name: impl FnOnce() -> Vec<u8>,
        send: LoggedSend,
    ) -> u64 {
        let number = self.added;
        match self.entries.get_mut(number as usize % ENTRIES) {
            Some(oldest) => {
                oldest.send = send;
                if oldest.context != context {
                    (oldest.context, oldest.name) = (context, name());
                }
            }
            None => self.entries.push(LogEntry { context, name: name(), send }),
        }
        self.added += 1;
        number
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut LogEntry> {
        let there = number < self.added && self.added - number <= ENTRIES as u64;
        if there { self.entries.get_mut(number as usize % ENTRIES) } else { None }
    }

    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        let all = self.entries.len() as u64 == self.added.min(ENTRIES as u64);
        holds(all && self.added < u64::MAX, "a log has another number of entries than it was given")?;
        let short = self.entries.iter().all(|entry| entry.name.len() <= MAX_NAME);
        holds(short, "a log names a context that cannot be")
    }

    /// The oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LogEntry> {
        let (late, early) = self.entries.split_at(self.added as usize % ENTRIES % self.entries.len().max(1));
        early.iter().chain(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(id: u32) -> LoggedSend {
        LoggedSend {
            id: DebugId(id),
            kind: LogKind::Call,
            from: (Pid(1), Tid(1)),
            to: (Pid(2), Tid(0)),
            node: DebugId(1),
            handle: 0,
            data_size: 0,
            offsets_size: 0,
            result: 0,
            errno: Errno::OK,
            complete: false,
        }
    }

    /// covers: B430
    #[test]
    fn the_last_32_stay_oldest_first_and_numbers_find_them() {
        let mut ring = LogRing::default();
        let numbers: Vec<u64> =
            (0..40).map(|id| ring.push(ContextId(1), || b"binder".into(), send(id))).collect();
        let ids: Vec<u32> = ring.iter().map(|entry| entry.send.id.0).collect();
        assert_eq!(ids, (8..40).collect::<Vec<_>>());
        assert!(ring.get_mut(numbers[7]).is_none());
        assert_eq!(ring.get_mut(numbers[8]).map(|entry| entry.send.id), Some(DebugId(8)));
        assert_eq!(ring.get_mut(numbers[39]).map(|entry| entry.send.id), Some(DebugId(39)));
        assert!(ring.get_mut(40).is_none());
    }
}
