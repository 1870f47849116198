//! The trace: complete, and the same for the same messages.

use binder::TraceEvent;
use binder::protocol::{Command, Return, br, ioctl, object, tf};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

/// covers: rule 35
#[test]
fn commands_and_returns_are_counted_exactly() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.trace.clear();
    let mut returns = 0;
    let mut commands = 0;
    assert!(w.read(owner).parked);
    w.call(client, handle, b"interface", &[]);
    commands += 1;
    let got = w.woken(owner);
    returns += got.returns.len();
    w.write(owner, &[Command::FreeBuffer { data: got.data().data }, Command::Acquire { handle: 99 }]);
    commands += 2;
    w.reply_now(owner, b"", &[]);
    commands += 1;
    returns += 2 + w.woken(client).returns.len();
    assert_eq!(w.read_nonblock(manager).errno, -11);
    let count = |wanted: fn(&TraceEvent) -> bool| w.trace.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|event| matches!(event, TraceEvent::Command { .. })), commands);
    assert_eq!(count(|event| matches!(event, TraceEvent::Return { .. })), returns);
    w.finish();
}

#[test]
fn a_transaction_is_told_with_its_payload() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"interface token", &[]);
    let got = w.read(owner).data();
    let records = w.trace.iter().filter_map(|event| match event {
        TraceEvent::Transaction(record) => Some(record.clone()),
        _ => None,
    });
    let record = records.collect::<Vec<_>>().pop().unwrap();
    assert_eq!(record.payload, b"interface token");
    assert_eq!((record.from.proc, record.from.pid.0, record.from.tid), (client.proc, 30, client.tid));
    assert_eq!((record.to.unwrap().proc, record.to.unwrap().pid.0), (owner.proc, 20));
    assert_eq!((record.handle, record.code, record.flags), (handle, 7, tf::ACCEPT_FDS));
    assert_eq!((record.address, record.result, record.oneway), (got.data, br::TRANSACTION_COMPLETE, false));
    let delivered = |event: &TraceEvent| matches!(event, TraceEvent::TransactionDelivered { id, to, .. } if *id == record.id && to.proc == owner.proc);
    assert!(w.trace.iter().any(delivered));
    w.reply_now(owner, b"", &[]);
    let reply = w.trace.iter().rev().find_map(|event| match event {
        TraceEvent::Transaction(record) => Some(record.clone()),
        _ => None,
    });
    assert_eq!(reply.unwrap().reply_to, Some(record.id));
    w.finish();
}

#[test]
fn the_same_messages_give_the_same_trace() {
    let run = || {
        let Trio { mut w, owner, client, handle, .. } = trio();
        assert!(w.read(owner).parked);
        w.oneway(client, handle, b"1");
        w.woken(owner);
        w.release(owner.proc);
        (serde_json::to_string(&w.domain).unwrap(), w.trace.clone())
    };
    assert_eq!(run(), run());
}

/// covers: B098
#[test]
fn spawn_looper_is_told_instead_of_the_noop() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.ioctl(owner, binder::protocol::ioctl::SET_MAX_THREADS, &1u32.to_le_bytes());
    w.oneway(client, handle, b"1");
    w.trace.clear();
    w.read(owner);
    let items: Vec<Return> = w
        .trace
        .iter()
        .filter_map(|event| match event {
            TraceEvent::Return { item, .. } => Some(*item),
            _ => None,
        })
        .collect();
    assert!(matches!(items[..], [Return::SpawnLooper, Return::Transaction(_)]));
    w.finish();
}

/// A recording that begins later is told what nodes are registered as: of each its own object, and of so many.
#[test]
fn registrations_are_remembered_shortly_and_not_without_end() {
    let mut w = World::new();
    let manager = w.process_with(10, 4 << 20);
    w.become_manager(manager);
    let owner = w.process(20);
    let node = |ptr: u64| flat_object(object::BINDER, 0, ptr, 0);
    let data = [node(0x10), node(0x20), vec![7; 1000]].concat();
    let call = w.call_command(owner, 0, tf::ONE_WAY, &data, &[0, 24]);
    w.write(owner, &[call]);
    let known: Vec<_> = w.domain.registrations(GUEST).cloned().collect();
    assert_eq!((known.len(), known[0].objects.len(), known[0].objects[0].offset), (1, 1, 0));
    assert_eq!(known[0].payload, data[..512]);
    // The first messages all meet a domain that was saved and restored: these may be them.
    (0..150).for_each(|_| assert_eq!(w.ioctl(owner, ioctl::VERSION, &[0; 4]).0, 0));
    for first in (0x1000..0x1000 + 5000 * 8).step_by(1000 * 8) {
        let calls = (first..first + 1000 * 8).step_by(8);
        let calls: Vec<Command> =
            calls.map(|ptr| w.call_command(owner, 0, tf::ONE_WAY, &node(ptr), &[0])).collect();
        w.write(owner, &calls);
    }
    assert_eq!((w.census().nodes, w.domain.registrations(GUEST).count()), (5003, 4096));
    // Those that go make room.
    let second = w.process(21);
    w.release(owner.proc);
    assert_eq!(w.domain.registrations(GUEST).count(), 0);
    let call = w.call_command(second, 0, tf::ONE_WAY, &node(0x10), &[0]);
    w.write(second, &[call]);
    assert_eq!(w.domain.registrations(GUEST).count(), 1);
    w.finish();
}
