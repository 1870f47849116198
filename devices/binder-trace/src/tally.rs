//! Counts of what happened, for a closing summary and for comparison with counts made in a guest.

use std::collections::BTreeMap;

use binder::Pid;
use binder::protocol::br;
use binder::trace::TraceEvent;

use crate::constants;

/// What a guest's transactions come to: as large after a year as after a minute, whatever the guest does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Synchronous calls that were accepted.
    pub calls: u64,
    /// Oneway calls that were accepted.
    pub oneways: u64,
    /// Replies that were accepted.
    pub replies: u64,
    /// Calls and replies that failed at once or later.
    pub failed: u64,
    /// Bytes of data and offsets of all accepted transactions.
    pub bytes: u64,
}

impl Tally {
    /// Takes the next event.
    pub fn event(&mut self, event: &TraceEvent) {
        match event {
            TraceEvent::Transaction(record) => {
                if matches!(record.result, br::FAILED_REPLY | br::DEAD_REPLY | br::FROZEN_REPLY) {
                    self.failed += 1;
                    return;
                }
                match (record.reply_to, record.oneway) {
                    (Some(_), _) => self.replies += 1,
                    (None, true) => self.oneways += 1,
                    (None, false) => self.calls += 1,
                }
                self.bytes += record.data_size + record.offsets_size;
            }
            TraceEvent::TransactionFailed { .. } => self.failed += 1,
            _ => {}
        }
    }
}

/// Commands and returns by process and name (`BC_*`, `BR_*`). Every process that ever was has a part of
/// it, so it is for recordings and not for guests that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items(BTreeMap<(Pid, String), u64>);

impl Items {
    /// Takes the next event.
    pub fn event(&mut self, event: &TraceEvent) {
        match event {
            TraceEvent::Command { thread, command } => {
                self.count(thread.pid, constants::command_name(command.code()));
            }
            TraceEvent::Return { thread, item } => {
                self.count(thread.pid, constants::return_name(item.code()))
            }
            _ => {}
        }
    }

    fn count(&mut self, pid: Pid, name: String) {
        *self.0.entry((pid, name)).or_default() += 1;
    }

    /// `count pid=<pid> <name> <n>`, by pid and name.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|((pid, name), count)| format!("count pid={pid} {name} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binder::protocol::{Command, Return};
    use binder::trace::{Party, TransactionRecord};
    use binder::{ProcId, Tid};

    #[test]
    fn transactions_and_items_are_counted_by_kind() {
        let thread = Party { proc: ProcId(1), pid: Pid(7), tid: Tid(8) };
        let call = TransactionRecord {
            data_size: 10,
            offsets_size: 8,
            result: br::TRANSACTION_COMPLETE,
            ..Default::default()
        };
        let (mut tally, mut items) = (Tally::default(), Items::default());
        for event in [
            TraceEvent::Command { thread, command: Command::EnterLooper },
            TraceEvent::Command { thread, command: Command::EnterLooper },
            TraceEvent::Return { thread, item: Return::Noop },
            TraceEvent::Return { thread, item: Return::TransactionComplete },
            TraceEvent::Transaction(call.clone()),
            TraceEvent::Transaction(TransactionRecord { oneway: true, ..call.clone() }),
            TraceEvent::Transaction(TransactionRecord { result: br::FAILED_REPLY, ..call }),
        ] {
            tally.event(&event);
            items.event(&event);
        }
        assert_eq!((tally.calls, tally.oneways, tally.failed, tally.bytes), (1, 1, 1, 36));
        let lines: Vec<_> = items.lines().collect();
        assert_eq!(
            lines,
            [
                "count pid=7 BC_ENTER_LOOPER 2",
                "count pid=7 BR_NOOP 1",
                "count pid=7 BR_TRANSACTION_COMPLETE 1"
            ]
        );
    }
}
