use super::*;
use crate::item::Event;
use crate::recording::{GuestName, ThreadName, VERSION};
use crate::text::{self, Style};
use binder::protocol::br;
use binder::trace::ObjectRecord;
use binder::{Pid, ProcId};

pub(crate) fn party(pid: u32) -> Party {
    Party { proc: ProcId(pid), pid: Pid(pid), tid: Tid(pid) }
}

pub(crate) fn at(micros: u64, event: TraceEvent) -> Record {
    Record::Event(Stamped { at: Duration::from_micros(micros), guest: GuestId(0), event })
}

pub(crate) fn header(android: Option<u32>) -> Header {
    let guests = vec![GuestName { id: GuestId(0), name: "g0".into() }];
    Header { version: VERSION, guests, android, ..Header::default() }
}

pub(crate) fn named(pid: u32, name: &str) -> Record {
    let name = name.as_bytes().to_vec();
    Record::Name(ThreadName { guest: GuestId(0), pid: Pid(pid), tid: Tid(pid), name })
}

pub(crate) fn send(id: u32, from: u32, to: u32) -> TransactionRecord {
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

pub(crate) fn delivered(id: u32, to: u32) -> TraceEvent {
    TraceEvent::TransactionDelivered { id: DebugId(id), to: party(to), address: 0 }
}

pub(crate) fn reply(id: u32, call: u32, from: u32, to: u32) -> TransactionRecord {
    TransactionRecord { reply_to: Some(DebugId(call)), ..send(id, from, to) }
}

/// A call's payload as AOSP 11 and later write it.
pub(crate) fn request(interface: &str, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\0\0\0\x80\xff\xff\xff\xffTSYS".to_vec();
    string16(&mut bytes, interface);
    bytes.extend(rest);
    bytes
}

pub(crate) fn string16(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.encode_utf16().count() as u32).to_le_bytes());
    bytes.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A recording of a small world: a client (1) calls a service (2) that calls a third (3), a oneway,
/// a failure, a registration, and a call that stays open.
pub(crate) fn world() -> Vec<Record> {
    let manager = TraceEvent::ContextManager { proc: ProcId(9), node: DebugId(1) };
    let open = |proc: u32| TraceEvent::ProcOpened {
        guest: GuestId(0),
        proc: ProcId(proc),
        pid: Pid(proc),
        context: b"binder".to_vec(),
        euid: binder::Kuid(0),
    };
    let mut arguments = Vec::new();
    string16(&mut arguments, "demo");
    let binder_at = request("android.os.IServiceManager", &arguments).len();
    arguments.extend([0x85; 24]);
    arguments.extend([0, 0, 0, 0].repeat(3));
    let registration = TransactionRecord {
        node: Some(DebugId(1)),
        code: 3,
        data_size: (binder_at + 36) as u64,
        payload: request("android.os.IServiceManager", &arguments),
        objects: vec![ObjectRecord {
            offset: binder_at as u64,
            object: SentObject::Binder { strong: true, ptr: 5, node: Some(DebugId(7)) },
        }],
        ..send(2, 2, 9)
    };
    let accepted = TransactionRecord { data_size: 4, payload: vec![0; 4], ..reply(3, 2, 9, 2) };
    let payload = request("demo.IDemo", &[1, 0, 0, 0]);
    let data_size = payload.len() as u64;
    let call = TransactionRecord { handle: 4, node: Some(DebugId(7)), payload, data_size, ..send(10, 1, 2) };
    let nested = TransactionRecord { handle: 1, node: Some(DebugId(8)), ..send(11, 2, 3) };
    let oneway = TransactionRecord { oneway: true, flags: 1, ..send(20, 1, 2) };
    let freed = TraceEvent::BufferFreed { proc: ProcId(2), id: DebugId(20), address: 0, size: 16 };
    let refused =
        TransactionRecord { to: None, result: br::DEAD_REPLY, errno: binder::Errno(-3), ..send(30, 1, 2) };
    vec![
        named(1, "client"),
        named(2, "service"),
        named(9, "servicemanager"),
        at(1, open(9)),
        at(2, manager),
        at(3, open(2)),
        at(4, open(1)),
        at(10, TraceEvent::Transaction(registration)),
        at(12, delivered(2, 9)),
        at(15, TraceEvent::Transaction(accepted)),
        at(16, delivered(3, 2)),
        at(100, TraceEvent::Transaction(call)),
        at(110, delivered(10, 2)),
        at(120, TraceEvent::Transaction(nested)),
        at(121, delivered(11, 3)),
        at(125, TraceEvent::Transaction(reply(12, 11, 3, 2))),
        at(126, delivered(12, 2)),
        at(150, TraceEvent::Transaction(reply(13, 10, 2, 1))),
        at(160, delivered(13, 1)),
        at(200, TraceEvent::Transaction(oneway)),
        at(201, delivered(20, 2)),
        at(230, freed),
        at(300, TraceEvent::Transaction(refused)),
        at(400, TraceEvent::Transaction(send(40, 1, 2))),
        at(410, delivered(40, 2)),
    ]
}

pub(crate) fn calls(records: &[Record], android: Option<u32>) -> Vec<Call> {
    let mut model = Model::new(&header(android), 1, Arc::new(Table::default()));
    let mut calls: Vec<Call> = records.iter().filter_map(|record| model.record(record)).collect();
    calls.extend(model.finish());
    calls
}

#[test]
fn calls_are_put_together_with_their_names() {
    let lines: Vec<String> = calls(&world(), Some(14))
        .iter()
        .map(|call| text::call(call, &Table::default(), Style::default()))
        .collect();
    let expected = [
        "     0.000010000 g0 service 2/2 -> servicemanager 9/9 android.os.IServiceManager.addService(name=\"demo\", \
         service=binder(node 7), allowIsolated=false, dumpPriority=0) = ok <total 6000ns, queue 2000ns, service \
         3000ns> id=2 handle=0 node=1 service=context-manager code=3 flags=0 size=124 objects=binder(node 7)@88 \
         reply_size=4",
        "     0.000120000 g0   service 2/2 -> 3/3 ?.#9(...) = replied <total 6000ns, queue 1000ns, service 4000ns> id=11 \
         handle=1 node=8 code=9 flags=0 size=16 reply_size=16 in=10",
        "     0.000100000 g0 client 1/1 -> service 2/2 demo.IDemo.#9(...) = replied <total 60us, queue 10us, service 40us> \
         id=10 handle=4 node=7 service=demo code=9 flags=0 size=44 reply_size=16",
        "     0.000200000 g0 client 1/1 => service 2/2 ?.#9(...) = ok <total 1000ns, queue 1000ns, service 29us> id=20 \
         handle=0 code=9 flags=ONE_WAY size=16",
        "     0.000300000 g0 client 1/1 -> nobody ?.#9(...) = BR_DEAD_REPLY (errno -3) id=30 handle=0 code=9 flags=0 \
         size=16",
        "     0.000400000 g0 client 1/1 -> service 2/2 ?.#9(...) = open <queue 10us> id=40 handle=0 code=9 flags=0 \
         size=16",
    ];
    assert_eq!(lines, expected);
}

/// Messages of the guest are missing.
pub(crate) fn lost(messages: u64) -> Record {
    Record::Lost(Lost { guest: Some(GuestId(0)), messages, events: 0 })
}

#[test]
fn calls_across_a_gap_are_unknown_unless_their_end_is_seen() {
    // The call is delivered, the nested one sent; what is seen then is the reply to the first, or nothing.
    let told = |seen: &[Record]| {
        let mut records = world();
        records.truncate(14);
        records.push(lost(5));
        records.extend(seen.iter().cloned());
        let calls = calls(&records, Some(14));
        calls.iter().map(|call| (call.record.id.0, call.result(), call.depth)).collect::<Vec<_>>()
    };
    let unknown = |id, depth| (id, "unknown".to_owned(), depth);
    let ok = |id, depth| (id, "ok".to_owned(), depth);
    assert_eq!(told(&[]), [ok(2, 0), unknown(10, 0), unknown(11, 1)]);
    assert_eq!(told(&world()[17..19]), [ok(2, 0), ok(10, 0), unknown(11, 1)]);
    // Nobody knows whether who calls now is still in the call that it served.
    let calls = [at(400, TraceEvent::Transaction(send(50, 2, 3)))];
    assert_eq!(told(&calls), [ok(2, 0), unknown(10, 0), unknown(11, 1), (50, "open".to_owned(), 0)]);
}

#[test]
fn a_registration_from_before_the_recording_names_the_service_and_is_no_call() {
    let (before, after) = {
        let mut records = world();
        let after = records.split_off(11);
        (records, after)
    };
    let registration = before.iter().find_map(|record| match record {
        Record::Event(Stamped { event: TraceEvent::Transaction(record), .. }) => Some(record.clone()),
        _ => None,
    });
    let guest = GuestId(0);
    let manager = Record::Known(Known::Manager { guest, node: DebugId(1) });
    let record = Box::new(registration.unwrap());
    let registered = Record::Known(Known::Registered { guest, record: record.clone() });
    let names = |known: Vec<Record>, android| {
        let records: Vec<Record> = known.into_iter().chain(after.clone()).collect();
        let calls = calls(&records, android);
        assert!(calls.iter().all(|call| call.record.id != DebugId(2)), "it is not told as a call");
        calls.iter().find(|call| call.record.id == DebugId(10)).unwrap().service.as_deref().map(str::to_owned)
    };
    assert_eq!(names(vec![manager.clone(), registered.clone()], Some(14)).as_deref(), Some("demo"));
    // Another version's codes, or a node that is no manager: not a guess.
    assert_eq!(names(vec![manager, registered.clone()], None), None);
    assert_eq!(names(vec![registered], Some(14)), None);
}

#[test]
fn a_table_of_another_version_gives_no_names_that_are_believed() {
    let calls = calls(&world(), None);
    assert_eq!(calls[0].method_label(), "addService?");
    assert!(calls[0].arguments(&Table::default()).is_none());
    assert_eq!(calls[2].service, None, "nothing was learnt from it either");
}

#[test]
fn services_answer_with_statuses_and_exceptions() {
    let answer = |flags: u32, payload: &[u8]| {
        let payload_call = request("android.os.IServiceManager", &[]);
        let call = TransactionRecord { code: 4, payload: payload_call, ..send(1, 1, 2) };
        let data_size = payload.len() as u64;
        let reply = TransactionRecord { flags, payload: payload.to_vec(), data_size, ..reply(2, 1, 2, 1) };
        let records = [
            at(1, TraceEvent::Transaction(call)),
            at(2, delivered(1, 2)),
            at(3, TraceEvent::Transaction(reply)),
            at(4, delivered(2, 1)),
        ];
        calls(&records, Some(14))[0].result()
    };
    assert_eq!(answer(8, &(-74i32).to_le_bytes()), "status=-74");
    assert_eq!(answer(8, &[0; 4]), "ok");
    assert_eq!(answer(0, &[[0xff; 4], [0xff; 4], [0; 4]].concat()), "EX_SECURITY");
    assert_eq!(answer(0, &[0; 8]), "ok");
}

#[test]
fn the_interface_of_a_node_is_learnt_by_asking() {
    let mut told = Vec::new();
    string16(&mut told, "demo.IDemo");
    let ask = TransactionRecord {
        code: INTERFACE_TRANSACTION,
        node: Some(DebugId(7)),
        data_size: 0,
        ..send(1, 1, 2)
    };
    let tell = TransactionRecord { data_size: told.len() as u64, payload: told, ..reply(2, 1, 2, 1) };
    let later = TransactionRecord { node: Some(DebugId(7)), ..send(3, 1, 2) };
    let records = [
        at(1, TraceEvent::Transaction(ask)),
        at(2, delivered(1, 2)),
        at(3, TraceEvent::Transaction(tell)),
        at(4, delivered(2, 1)),
        at(5, TraceEvent::Transaction(later)),
    ];
    let calls = calls(&records, None);
    assert_eq!(calls[0].method_label(), "INTERFACE_TRANSACTION");
    assert_eq!(calls[1].interface.as_deref(), Some("demo.IDemo"));
}

#[test]
fn events_know_who_they_are_about() {
    let mut model = Model::new(&header(Some(14)), 1, Arc::new(Table::default()));
    let lines: Vec<String> = world()
        .iter()
        .filter_map(|record| {
            let ended = model.record(record);
            let Record::Event(event) = record else { return None };
            Some(text::event(&Event::new(&model, event, ended.as_ref()), Style::default()))
        })
        .collect();
    assert_eq!(
        lines[1],
        "     0.000002000 g0 servicemanager 9 p9 context_manager node=1 service=context-manager"
    );
    assert_eq!(
        lines[8],
        "     0.000100000 g0 client 1/1 p1 transaction demo.IDemo.#9 kind=call id=10 to_proc_id=2 to_pid=2 to_tid=2 \
         handle=4 node=7 code=9 flags=0 data=44 offsets=0 result=BR_TRANSACTION_COMPLETE service=demo"
    );
    assert_eq!(lines[9], "     0.000110000 g0 service 2/2 p2 delivered demo.IDemo.#9 id=10 at=0x0");
}

#[test]
fn hostile_names_do_not_reach_a_terminal() {
    let records = [named(1, "\x1b[31mred\u{202e}"), at(1, TraceEvent::Transaction(send(1, 1, 2)))];
    let line = text::call(&calls(&records, None)[0], &Table::default(), Style::default());
    assert!(line.contains("\\u{1b}[31mred\\u{202e} 1/1"), "{line}");
}

/// Two guests whose processes have the same numbers share a domain: a call from one to the other is one call, and its
/// ends are named by the guest that each is in. What is delivered across is recorded with the message that caused it.
#[test]
fn a_call_between_guests_of_a_domain_has_an_end_in_each() {
    let (here, there) = (GuestId(0), GuestId(1));
    let by = |guest: GuestId, micros: u64, event: TraceEvent| {
        Record::Event(Stamped { at: Duration::from_micros(micros), guest, event })
    };
    let open = |guest: GuestId, proc: u32| TraceEvent::ProcOpened {
        guest,
        proc: ProcId(proc),
        pid: Pid(80),
        context: b"binder".to_vec(),
        euid: binder::Kuid(0),
    };
    let name = |guest: GuestId, name: &str| {
        Record::Name(ThreadName { guest, pid: Pid(80), tid: Tid(80), name: name.as_bytes().to_vec() })
    };
    let end = |proc: u32| Party { proc: ProcId(proc), pid: Pid(80), tid: Tid(80) };
    let send = |id: u32, from: u32, to: u32| TransactionRecord {
        from: end(from),
        to: Some(end(to)),
        ..send(id, from, to)
    };
    let delivered =
        |id: u32, to: u32| TraceEvent::TransactionDelivered { id: DebugId(id), to: end(to), address: 0 };
    let answer = TransactionRecord { reply_to: Some(DebugId(10)), ..send(11, 2, 1) };
    let records = [
        name(here, "client"),
        name(there, "server"),
        by(here, 1, open(here, 1)),
        by(there, 2, open(there, 2)),
        by(here, 10, TraceEvent::Transaction(send(10, 1, 2))),
        by(here, 10, delivered(10, 2)),
        by(there, 30, TraceEvent::Transaction(answer)),
        by(there, 30, delivered(11, 1)),
    ];
    let guests = [(here, "one"), (there, "two")];
    let guests = guests.map(|(id, name)| GuestName { id, name: name.into() }).to_vec();
    let header = Header { guests, ..header(None) };
    let mut model = Model::new(&header, 1, Arc::default());
    let calls: Vec<Call> = records.iter().filter_map(|record| model.record(record)).collect();
    let [call] = &calls[..] else { panic!("{calls:?}") };
    let line = text::call(call, model.table(), Style::default());
    assert!(line.contains("one client 80/80 -> two: server 80/80"), "{line}");
    assert_eq!((call.outcome.clone(), call.duration()), (Outcome::Ok, Some(Duration::from_micros(20))));
    assert_eq!(model.finish().len(), 0);
}
