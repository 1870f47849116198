//! One line a call: the call, who served it, its reply, and how long both took in guest time.
//!
//! ```text
//!    0.412345678 g0 213/217 -> 98/98 handle=0 node=1 code=1 flags=ACCEPT_FDS iface=android.os.IServiceManager
//!        data=96 offsets=0 | reply flags=0 data=32 offsets=8 | queued 12us served 340us
//! ```
//!
//! (on one line). A call that failed shows the `BR_*` its sender got. A line is given when the call
//! is over, so lines are in the order in which calls end; the time is that of the call.

use std::collections::BTreeMap;
use std::time::Duration;

use binder::protocol::br;
use binder::trace::{Party, TraceEvent, TransactionRecord};
use binder::{DebugId, GuestId};

use crate::{Stamped, parcel, text};

/// Puts calls together from the events of any number of guests.
#[derive(Debug, Default)]
pub struct Calls {
    open: BTreeMap<(GuestId, DebugId), Call>,
}

#[derive(Debug)]
struct Call {
    sent: Duration,
    record: TransactionRecord,
    delivered: Option<(Duration, Party)>,
}

impl Calls {
    /// Takes the next event, and gives the line of the call that it ends.
    pub fn event(&mut self, event: &Stamped) -> Option<String> {
        let key = |id| (event.guest, id);
        match &event.event {
            TraceEvent::Transaction(record) if record.reply_to.is_none() => {
                let call = Call { sent: event.at, record: record.clone(), delivered: None };
                if record.to.is_none() || is_failure(record.result) {
                    return Some(call.line(event.guest, &format!("= {}", outcome(record))));
                }
                self.open.insert(key(record.id), call);
                None
            }
            TraceEvent::TransactionDelivered { id, to, .. } => {
                let call = self.open.get_mut(&key(*id))?;
                call.delivered = Some((event.at, *to));
                if !call.record.oneway {
                    return None;
                }
                let call = self.open.remove(&key(*id))?;
                let queued = event.at.saturating_sub(call.sent);
                Some(call.line(event.guest, &format!("| oneway queued {}", micros(queued))))
            }
            TraceEvent::Transaction(record) => {
                let call = self.open.remove(&key(record.reply_to?))?;
                let (delivered, _) = call.delivered.unwrap_or((call.sent, Party::default()));
                let end = format!(
                    "| reply flags={} data={} offsets={} = {} | queued {} served {}",
                    text::flags(record.flags),
                    record.data_size,
                    record.offsets_size,
                    outcome(record),
                    micros(delivered.saturating_sub(call.sent)),
                    micros(event.at.saturating_sub(delivered)),
                );
                Some(call.line(event.guest, &end))
            }
            TraceEvent::TransactionFailed { id, code, .. } => {
                let call = self.open.remove(&key(*id))?;
                Some(call.line(event.guest, &format!("= {}", text::return_name(*code))))
            }
            TraceEvent::Death { node, watcher, cookie } => {
                let time = text::time(event.at);
                Some(format!(
                    "{time} g{} death of node {node} told to p{watcher} cookie={cookie:#x}",
                    event.guest
                ))
            }
            _ => None,
        }
    }

    /// Lines of the calls that have not ended, oldest first.
    pub fn finish(self) -> Vec<String> {
        self.open.into_iter().map(|((guest, _), call)| call.line(guest, "| still open")).collect()
    }
}

impl Call {
    fn line(&self, guest: GuestId, end: &str) -> String {
        let record = &self.record;
        let target = self.delivered.map(|(_, to)| to).or(record.to);
        let to = target.map_or("nobody".to_owned(), |to| format!("{}/{}", to.pid, to.tid));
        let node = record.node.map_or(String::new(), |node| format!(" node={node}"));
        let interface = parcel::interface(&record.payload)
            .map_or(String::new(), |interface| format!(" iface={interface}"));
        format!(
            "{} g{guest} {}/{} -> {to} handle={}{node} code={} flags={}{interface} data={} offsets={} {end}",
            text::time(self.sent),
            record.from.pid,
            record.from.tid,
            record.handle,
            record.code,
            text::flags(record.flags),
            record.data_size,
            record.offsets_size,
        )
    }
}

fn is_failure(result: u32) -> bool {
    matches!(result, br::FAILED_REPLY | br::DEAD_REPLY | br::FROZEN_REPLY)
}

fn outcome(record: &TransactionRecord) -> String {
    if is_failure(record.result) {
        format!("{} errno={}", text::return_name(record.result), record.errno)
    } else {
        "ok".to_owned()
    }
}

fn micros(time: Duration) -> String {
    format!("{}us", time.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use binder::{Pid, ProcId, Tid};

    fn party(pid: u32) -> Party {
        Party { proc: ProcId(pid), pid: Pid(pid), tid: Tid(pid) }
    }

    fn at(micros: u64, event: TraceEvent) -> Stamped {
        Stamped { at: Duration::from_micros(micros), guest: GuestId(0), event }
    }

    fn record(id: u32, from: u32, to: u32) -> TransactionRecord {
        TransactionRecord {
            id: DebugId(id),
            from: party(from),
            to: Some(party(to)),
            code: 9,
            data_size: 16,
            result: br::TRANSACTION_COMPLETE,
            ..Default::default()
        }
    }

    #[test]
    fn a_call_and_its_reply_are_one_line() {
        let mut calls = Calls::default();
        let call = TransactionRecord { handle: 4, node: Some(DebugId(2)), ..record(10, 1, 2) };
        assert_eq!(calls.event(&at(100, TraceEvent::Transaction(call))), None);
        let delivered = TraceEvent::TransactionDelivered { id: DebugId(10), to: party(2), address: 0 };
        assert_eq!(calls.event(&at(110, delivered)), None);
        let reply = TransactionRecord { reply_to: Some(DebugId(10)), ..record(11, 2, 1) };
        let line = calls.event(&at(150, TraceEvent::Transaction(reply))).unwrap();
        assert_eq!(
            line,
            "     0.000100000 g0 1/1 -> 2/2 handle=4 node=2 code=9 flags=0 data=16 offsets=0 | reply flags=0 \
             data=16 offsets=0 = ok | queued 10us served 40us"
        );
        assert!(calls.finish().is_empty());
    }

    #[test]
    fn failures_and_open_calls_have_lines_too() {
        let mut calls = Calls::default();
        let failed = TransactionRecord { to: None, result: br::DEAD_REPLY, ..record(1, 1, 2) };
        assert!(calls.event(&at(1, TraceEvent::Transaction(failed))).unwrap().contains("= BR_DEAD_REPLY"));
        assert_eq!(calls.event(&at(2, TraceEvent::Transaction(record(2, 1, 2)))), None);
        let died = TraceEvent::TransactionFailed { id: DebugId(2), code: br::DEAD_REPLY, to: None };
        assert!(calls.event(&at(3, died)).unwrap().ends_with("= BR_DEAD_REPLY"));
        assert_eq!(calls.event(&at(4, TraceEvent::Transaction(record(3, 1, 2)))), None);
        assert!(calls.finish()[0].ends_with("still open"));
    }
}
