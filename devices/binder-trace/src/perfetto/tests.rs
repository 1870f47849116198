//! The exporter against a model of trace_processor's binder tracker.

use super::*;
use crate::aidl::Table;
use crate::model::tests::{at, header, lost, send, world};

/// Reads one field: its number, and its bytes or its value.
fn fields(mut bytes: &[u8]) -> Vec<(u32, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = varint(&mut bytes);
        let content = if tag & 7 == 2 {
            let (content, rest) = bytes.split_at(value as usize);
            bytes = rest;
            content
        } else {
            assert_eq!(tag & 7, 0);
            &[][..]
        };
        fields.push(((tag >> 3) as u32, value, content));
    }
    fields
}

fn number(bytes: &[u8], field: u32) -> Option<u64> {
    fields(bytes).iter().find(|(number, ..)| *number == field).map(|(_, value, _)| *value)
}

fn inner(bytes: &[u8], field: u32) -> Option<&[u8]> {
    fields(bytes).iter().find(|(number, ..)| *number == field).map(|(.., content)| *content)
}

fn export(worlds: &[Vec<Record>]) -> Vec<u8> {
    let mut exporter = Exporter::new(Vec::new(), None).unwrap();
    for (index, records) in worlds.iter().enumerate() {
        let mut model = Model::new(&header(Some(14)), index as u32 + 1, Arc::new(Table::default()));
        for record in records {
            let ended = model.record(record);
            exporter.record(&model, record, ended.as_ref(), |_| true).unwrap();
        }
    }
    exporter.finish().unwrap()
}

/// What the tracker makes of a trace, by USES.md A.4.
#[derive(Default, Debug, PartialEq, Eq)]
struct Tracked {
    calls: usize,
    closed: usize,
    flows: usize,
    aidl: Vec<String>,
}

fn track(bytes: &[u8]) -> Tracked {
    let mut tracked = Tracked::default();
    let mut processes: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    // Open slices of each thread, and what each transaction is.
    let mut stacks: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    let mut sent: BTreeMap<(u64, u64), (bool, bool)> = BTreeMap::new();
    for (index, (_, _, packet_bytes)) in fields(bytes).into_iter().enumerate() {
        let machine = number(packet_bytes, packet::MACHINE);
        assert_eq!(
            index == 0,
            inner(packet_bytes, packet::CLOCK_SNAPSHOT).is_some(),
            "the clocks come first"
        );
        assert_eq!(index == 0, machine.is_none(), "and are the host's");
        let machine = machine.unwrap_or(0);
        if let Some(tree_bytes) = inner(packet_bytes, packet::PROCESS_TREE) {
            let thread = inner(tree_bytes, tree::THREADS).unwrap();
            processes.insert((machine, number(thread, tree::TID).unwrap()));
        }
        let Some(events) = inner(packet_bytes, packet::FTRACE) else { continue };
        assert_eq!(number(events, bundle::CPU), Some(0));
        for (field, _, event) in fields(events) {
            if field != bundle::EVENT {
                continue;
            }
            let time = number(event, ftrace::TIMESTAMP).unwrap();
            assert!(last.insert(machine, time).is_none_or(|before| before < time), "times ascend");
            let tid = number(event, ftrace::PID).unwrap();
            assert!(processes.contains(&(machine, tid)), "thread {tid} has a process");
            let stack = stacks.entry((machine, tid)).or_default();
            if let Some(fields) = inner(event, ftrace::TRANSACTION) {
                let is_reply = number(fields, transaction::REPLY) == Some(1);
                let oneway = number(fields, transaction::FLAGS).unwrap() & 1 != 0;
                sent.insert((machine, number(fields, transaction::ID).unwrap()), (is_reply, oneway));
                if is_reply {
                    assert_eq!(stack.pop().as_deref(), Some("binder reply"), "only the reply slice is open");
                } else if !oneway {
                    tracked.calls += 1;
                    stack.push("binder transaction".into());
                }
            } else if let Some(fields) = inner(event, ftrace::RECEIVED) {
                let (is_reply, oneway) = sent[&(machine, number(fields, received::ID).unwrap())];
                if is_reply {
                    assert_eq!(stack.pop().as_deref(), Some("binder transaction"));
                    tracked.closed += 1;
                } else {
                    tracked.flows += 1;
                    if !oneway {
                        stack.push("binder reply".into());
                    }
                }
            } else if let Some(fields) = inner(event, ftrace::PRINT) {
                let text = std::str::from_utf8(inner(fields, print::BUF).unwrap()).unwrap();
                if let Some(name) = text.strip_prefix("B|") {
                    tracked.aidl.push(name.to_owned());
                    stack.push("aidl".into());
                } else {
                    assert_eq!(stack.pop().as_deref(), Some("aidl"), "{text}");
                }
            } else if let Some(fields) = inner(event, ftrace::RETURN)
                && matches!(number(fields, word::CMD), Some(0x7205 | 0x7211 | 0x7212))
                && stack.last().is_some_and(|slice| slice == "binder transaction")
            {
                stack.pop();
                tracked.closed += 1;
            }
        }
    }
    tracked
}

#[test]
fn every_call_closes_and_flows_to_its_server() {
    let tracked = track(&export(&[world()]));
    // The registration, a call with a nested one, and one that stays open; a oneway flows, too.
    assert_eq!((tracked.calls, tracked.closed, tracked.flows), (4, 3, 5));
    assert_eq!(
        tracked.aidl,
        [
            "9|AIDL::cpp::android.os.IServiceManager::addService::server",
            "2|AIDL::cpp::demo.IDemo::#9::server"
        ]
    );
}

#[test]
fn two_guests_stay_apart() {
    let tracked = track(&export(&[world(), world()]));
    assert_eq!((tracked.calls, tracked.closed, tracked.flows), (8, 6, 10));
}

#[test]
fn a_refused_call_is_an_instant_and_no_slice() {
    let refused = TransactionRecord { to: None, result: binder::protocol::br::DEAD_REPLY, ..send(1, 1, 2) };
    let bytes = export(&[vec![at(1, TraceEvent::Transaction(refused))]]);
    assert_eq!(track(&bytes), Tracked::default());
    let names: Vec<_> = fields(&bytes)
        .iter()
        .filter_map(|(.., packet_bytes)| inner(packet_bytes, packet::TRACK_EVENT))
        .map(|event| String::from_utf8_lossy(inner(event, track_event::NAME).unwrap()).into_owned())
        .collect();
    assert_eq!(names, ["BR_DEAD_REPLY #9"]);
}

#[test]
fn what_is_open_ends_where_something_is_missing() {
    // The nested call was sent, and the one that it is nested in was not answered.
    let mut records = world();
    records.truncate(14);
    records.push(lost(5));
    records.extend(world().into_iter().skip(18).take(3));
    let bytes = export(&[records]);
    let mut open: BTreeMap<u64, i32> = BTreeMap::new();
    let mut most = 0;
    for (.., packet_bytes) in fields(&bytes) {
        let events = inner(packet_bytes, packet::FTRACE).map(fields).unwrap_or_default();
        for (.., event) in events.into_iter().filter(|(field, ..)| *field == bundle::EVENT) {
            let stack = open.entry(number(event, ftrace::PID).unwrap()).or_default();
            if let Some(fields) = inner(event, ftrace::TRANSACTION) {
                let oneway = number(fields, transaction::FLAGS).unwrap() & 1 != 0;
                *stack += match number(fields, transaction::REPLY) {
                    Some(1) => -1,
                    _ => i32::from(!oneway),
                };
            } else if let Some(fields) = inner(event, ftrace::RECEIVED) {
                // Replies close the call, calls open the service; the oneway comes last.
                *stack += match number(fields, received::ID).unwrap() {
                    3 | 12 | 13 => -1,
                    20 => 0,
                    _ => 1,
                };
            } else if let Some(fields) = inner(event, ftrace::PRINT) {
                *stack += if inner(fields, print::BUF).unwrap().starts_with(b"B|") { 1 } else { -1 };
            }
            most = most.max(*stack);
        }
    }
    assert_eq!(most, 3, "served, by its name, and calling");
    assert!(open.values().all(|open| *open == 0), "{open:?}");
    let names = fields(&bytes).into_iter().filter_map(|(.., bytes)| inner(bytes, packet::TRACK_EVENT));
    let names: Vec<_> = names.map(|event| inner(event, track_event::NAME).unwrap()).collect();
    assert_eq!(names, [b"5 messages lost"]);
}
