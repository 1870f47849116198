//! Faults on purpose: each is what the driver does anyway, and leaves nothing behind.

use binder::faults::{ALWAYS, Action, Faults, Impossible, Kind, Rule, Signal};
use binder::protocol::{Return, ioctl};
use binder::trace::FaultKind;
use binder::{Errno, Pid};

use crate::rules::*;
use crate::trio::*;
use crate::world::*;

/// One call that is answered.
fn passes(trio: &mut Trio) {
    assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
    let got = trio.w.read(trio.owner).data();
    trio.w.free(trio.owner, got.data);
    trio.w.reply_now(trio.owner, b"", &[]);
    let back = trio.w.woken(trio.client).data();
    trio.w.free(trio.client, back.data);
}

#[test]
fn the_nth_call_fails_as_the_rule_says() {
    for (action, answer, errno) in [
        (Action::Failed(Errno::ENOSPC), Return::FailedReply, Errno::ENOSPC),
        (Action::Dead, Return::DeadReply, Errno::OK),
        (Action::Frozen, Return::FrozenReply, Errno::OK),
    ] {
        let mut trio = with(vec![Rule { skip: 1, ..rule(Kind::Call, action) }]);
        passes(&mut trio);
        let out = trio.w.call(trio.client, trio.handle, b"x", &[]);
        assert_eq!(out.returns, [Return::Noop, answer]);
        let (_, told) = trio.w.ioctl(trio.client, ioctl::GET_EXTENDED_ERROR, &[0; 12]);
        let word = |at: usize| u32::from_le_bytes(told[at..at + 4].try_into().unwrap());
        assert_eq!((word(4), word(8) as i32), (answer.code(), errno.0));
        passes(&mut trio);
        let counts = trio.w.domain.faults().unwrap().counts()[0];
        assert_eq!((counts.matched, counts.injected, injected(&trio.w).len()), (3, 1, 1));
        trio.w.finish();
    }
}

#[test]
fn a_rule_picks_by_code_interface_names_and_manager() {
    let token = |text: &str| {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [&0u32.to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), &units].concat()
    };
    let fail = rule(Kind::Call, Action::Failed(Errno::EINVAL));
    for (rule, hit) in [
        (Rule { code: Some(7), ..fail.clone() }, true),
        (Rule { code: Some(8), ..fail.clone() }, false),
        (Rule { interface: Some("a.IThing".into()), ..fail.clone() }, true),
        (Rule { interface: Some("a.IThin".into()), ..fail.clone() }, false),
        (Rule { sender: Some("client".into()), receiver: Some("owner".into()), ..fail.clone() }, true),
        (Rule { sender: Some("owner".into()), ..fail.clone() }, false),
        (Rule { manager: Some(false), ..fail.clone() }, true),
        (Rule { manager: Some(true), ..fail.clone() }, false),
        (Rule { kind: Kind::Oneway, ..fail.clone() }, false),
    ] {
        let mut trio = with(vec![rule.clone()]);
        for (th, name) in [(trio.client, "client"), (trio.owner, "owner")] {
            trio.w.domain.process_named(GUEST, Pid(th.tid.0), true, name);
        }
        let out = trio.w.call(trio.client, trio.handle, &token("a.IThing"), &[]);
        assert_eq!(!out.parked, hit, "{rule:?}");
    }
}

#[test]
fn a_reply_that_fails_is_heard_by_the_caller() {
    let mut trio = with(vec![rule(Kind::Reply, Action::Failed(Errno::ENOSPC))]);
    assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
    let got = trio.w.read(trio.owner).data();
    trio.w.free(trio.owner, got.data);
    assert_eq!(trio.w.reply(trio.owner, b"", &[]).returns, [Return::Noop, Return::TransactionComplete]);
    let heard = trio.w.woken(trio.client).returns;
    assert_eq!(heard, [Return::Noop, Return::TransactionComplete, Return::FailedReply]);
    trio.w.finish();
}

#[test]
fn a_receiver_that_is_to_die_hears_of_the_call_and_does_no_more() {
    let mut trio = with(vec![rule(Kind::Call, Action::KillReceiver)]);
    assert!(trio.w.read(trio.owner).parked);
    assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
    trio.w.woken(trio.owner).data();
    assert_eq!(trio.w.domain.take_signals(GUEST), [(Pid(20), Signal::Kill)]);
    assert_eq!(trio.w.domain.take_signals(GUEST), []);
    assert_eq!(trio.w.reply(trio.owner, b"", &[]).errno, Errno::EINTR.0);
    trio.w.release(trio.owner.proc);
    trio.w.events();
    let heard = trio.w.woken(trio.client).returns;
    assert_eq!(heard, [Return::Noop, Return::TransactionComplete, Return::DeadReply]);
    // The number may be another process's now.
    let again = trio.w.process(20);
    assert!(trio.w.read(again).parked);
}

#[test]
fn an_interrupted_wait_goes_on_with_the_next_read() {
    let mut trio = with(vec![rule(Kind::Call, Action::Interrupt)]);
    let out = trio.w.call(trio.client, trio.handle, b"x", &[]);
    assert_eq!((out.errno, out.parked), (Errno::EINTR.0, false));
    assert!(trio.w.read(trio.client).parked, "the call is still under way");
    let got = trio.w.read(trio.owner).data();
    trio.w.free(trio.owner, got.data);
    trio.w.reply_now(trio.owner, b"", &[]);
    trio.w.woken(trio.client).data();
    assert_eq!(injected(&trio.w), [FaultKind::Interrupt]);
    trio.w.finish();
}

#[test]
fn a_frozen_receiver_is_thawed_by_the_calls_that_it_refuses() {
    let mut trio = with(vec![rule(Kind::Call, Action::Freeze(3))]);
    for _ in 0..3 {
        let out = trio.w.call(trio.client, trio.handle, b"x", &[]);
        assert_eq!(out.returns, [Return::Noop, Return::FrozenReply]);
    }
    passes(&mut trio);
    assert_eq!(injected(&trio.w), [FaultKind::Freeze]);
    trio.w.finish();

    // A process with a call under way is not frozen, as BINDER_FREEZE would not.
    let mut trio = with(vec![Rule { skip: 1, ..rule(Kind::Call, Action::Freeze(1)) }]);
    assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
    trio.w.read(trio.owner).data();
    let other = trio.w.thread(trio.client.proc, 31);
    assert!(trio.w.call(other, trio.handle, b"x", &[]).parked);
    assert_eq!(injected(&trio.w), []);
}

#[test]
fn any_waiting_looper_may_be_chosen_and_the_seed_says_which() {
    let chosen = |seed: u64| {
        let mut trio = trio();
        trio.w.domain.set_faults(Some(Faults::new(Vec::new(), true, seed).unwrap()));
        let mut loopers = vec![trio.owner];
        loopers.extend((21..25).map(|tid| trio.w.looper(trio.owner.proc, tid)));
        loopers.iter().for_each(|looper| assert!(trio.w.read(*looper).parked));
        (0..8)
            .map(|_| {
                assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
                let served = loopers.iter().position(|looper| !trio.w.sleeps(*looper)).unwrap();
                let looper = loopers[served];
                let got = trio.w.woken(looper).data();
                trio.w.free(looper, got.data);
                trio.w.reply_now(looper, b"", &[]);
                let back = trio.w.woken(trio.client).data();
                trio.w.free(trio.client, back.data);
                assert!(trio.w.read(looper).parked);
                served
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen(1), chosen(1));
    assert!((1..8).any(|seed| chosen(seed) != chosen(0)));
    assert!(chosen(1).iter().any(|looper| *looper != 4), "not always the newest");
}

#[test]
fn chance_follows_the_seed_and_impossible_rules_are_refused() {
    let hits = |seed: u64| {
        let mut trio = trio();
        let rules = vec![Rule { chance: ALWAYS / 2, times: u32::MAX, ..rule(Kind::Call, Action::Dead) }];
        trio.w.domain.set_faults(Some(Faults::new(rules, false, seed).unwrap()));
        (0..32)
            .map(|_| {
                let out = trio.w.call(trio.client, trio.handle, b"x", &[]);
                if out.parked {
                    let got = trio.w.read(trio.owner).data();
                    trio.w.free(trio.owner, got.data);
                    trio.w.reply_now(trio.owner, b"", &[]);
                    let back = trio.w.woken(trio.client).data();
                    trio.w.free(trio.client, back.data);
                }
                !out.parked
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(hits(3), hits(3));
    assert_ne!(hits(3), hits(4));
    assert!((4..28).contains(&hits(3).iter().filter(|hit| **hit).count()));

    let oneway = rule(Kind::Oneway, Action::Frozen);
    assert_eq!(Faults::new(vec![oneway], false, 0).err(), Some((0, Impossible::CallsOnly)));
    let never = Rule { times: 0, ..rule(Kind::Call, Action::Dead) };
    assert_eq!(Faults::new(vec![never], false, 0).err(), Some((0, Impossible::Never)));
}
