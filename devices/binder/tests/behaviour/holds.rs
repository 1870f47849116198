//! Faults that hold back, and the promise that whatever rules do, the driver's are kept.

use std::collections::BTreeMap;

use binder::faults::{ALWAYS, Action, Faults, Impossible, Kind, Rule, Signal, hold};
use binder::protocol::{Command, Return, ioctl};
use binder::trace::FaultKind;
use binder::{Errno, Pid};
use proptest::prelude::*;

use crate::hostile::{act, acted_in};
use crate::rules::*;
use crate::trio::*;
use crate::world::*;

/// What the next read of the owner brings, freed; `None`: nothing.
fn next(w: &mut World, owner: Th) -> Option<Vec<u8>> {
    let out = w.read_nonblock(owner);
    if out.errno != 0 {
        assert_eq!(out.errno, Errno::EAGAIN.0);
        return None;
    }
    let got = out.data();
    let bytes = w.look(owner.proc, got.data, got.data_size);
    w.free(owner, got.data);
    Some(bytes)
}

/// covers: B146, B147
#[test]
fn a_delayed_oneway_lets_calls_pass_and_keeps_its_place_among_its_nodes() {
    let mut trio = with(vec![rule(Kind::Oneway, Action::Delay(2))]);
    let Trio { w, manager, owner, client, handle } = &mut trio;
    let second = w.publish(*manager, *owner, *client, 0x2000, 0);
    let caller = w.thread(client.proc, 31);
    w.oneway(*client, *handle, b"1");
    assert!(w.call(caller, *handle, b"call", &[]).parked);
    assert_eq!(next(w, *owner).unwrap(), b"call");
    w.reply_now(*owner, b"", &[]);
    w.woken(caller).data();
    w.oneway(*client, *handle, b"2");
    assert_eq!(next(w, *owner), None, "both wait");
    w.oneway(*client, second, b"other");
    let order: Vec<Vec<u8>> = std::iter::from_fn(|| next(w, *owner)).collect();
    assert_eq!(order, [b"other".to_vec(), b"1".to_vec(), b"2".to_vec()]);
    assert_eq!(injected(w), [FaultKind::Delay]);
    assert!(!w.domain.wants_turns());
    trio.w.finish();
}

#[test]
fn what_is_delayed_comes_in_the_end_also_where_nothing_follows() {
    let mut trio = with(vec![rule(Kind::Oneway, Action::Delay(1000))]);
    let Trio { w, owner, client, handle, .. } = &mut trio;
    w.oneway(*client, *handle, b"1");
    assert!(w.read(*owner).parked);
    for _ in 1..hold::TURNS {
        w.turn();
    }
    assert!(w.sleeps(*owner) && w.domain.wants_turns());
    w.turn();
    let got = w.woken(*owner).data();
    assert_eq!(w.look(owner.proc, got.data, 1), b"1");
    assert!(!w.domain.wants_turns());
    trio.w.finish();
}

#[test]
fn a_node_at_work_can_be_held_and_faults_can_be_taken_away_meanwhile() {
    let mut trio = with(vec![Rule { skip: 1, ..rule(Kind::Oneway, Action::Delay(1000)) }]);
    let Trio { w, owner, client, handle, .. } = &mut trio;
    w.oneway(*client, *handle, b"1");
    let first = w.read(*owner).data();
    w.oneway(*client, *handle, b"2");
    w.domain.set_faults(None);
    w.free(*owner, first.data);
    assert_eq!(next(w, *owner), None, "it is still held");
    for _ in 0..hold::TURNS {
        w.turn();
    }
    assert_eq!(next(w, *owner).unwrap(), b"2");
    trio.w.finish();
}

#[test]
fn oneways_of_two_nodes_change_places_and_those_of_one_do_not() {
    let mut trio = with(vec![rule(Kind::Oneway, Action::Reorder)]);
    let Trio { w, manager, owner, client, handle } = &mut trio;
    let second = w.publish(*manager, *owner, *client, 0x2000, 0);
    w.oneway(*client, *handle, b"1");
    w.oneway(*client, *handle, b"2");
    assert_eq!(next(w, *owner), None);
    w.oneway(*client, second, b"other");
    let order: Vec<Vec<u8>> = std::iter::from_fn(|| next(w, *owner)).collect();
    assert_eq!(order, [b"other".to_vec(), b"1".to_vec(), b"2".to_vec()]);
    trio.w.finish();
}

/// covers: B344, B350, B351
#[test]
fn an_exhausted_buffer_is_full_for_everybody_until_it_is_freed() {
    let mut trio = with(vec![rule(Kind::Call, Action::Exhaust(3))]);
    let Trio { w, owner, client, handle, .. } = &mut trio;
    assert!(w.call(*client, *handle, b"first", &[]).parked);
    let got = w.read(*owner).data();
    w.free(*owner, got.data);
    w.reply_now(*owner, b"", &[]);
    let back = w.woken(*client).data();
    w.free(*client, back.data);
    for size in [8, 4000] {
        let out = w.call(*client, *handle, &vec![0; size], &[]);
        assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
        assert_eq!(w.extended_error(*client).1, Errno::ENOSPC.0);
    }
    assert_eq!(w.oneway(*client, *handle, b"x").returns, [Return::Noop, Return::FailedReply]);
    assert!(w.call(*client, *handle, b"second", &[]).parked, "it is free again");
    assert_eq!(injected(w), [FaultKind::Exhaust]);
    trio.w.finish();
}

#[test]
fn a_process_may_die_with_its_buffer_exhausted_and_its_nodes_held() {
    for action in [Action::Exhaust(9), Action::Delay(9), Action::Reorder] {
        let mut trio = with(vec![rule(Kind::Oneway, action)]);
        trio.w.oneway(trio.client, trio.handle, b"1");
        trio.w.release(trio.owner.proc);
        for _ in 0..=hold::TURNS {
            trio.w.turn();
        }
        assert!(!trio.w.domain.wants_turns(), "{action:?}");
        trio.w.finish();
    }
}

#[test]
fn a_sender_that_is_to_die_does_no_more() {
    let mut trio = with(vec![rule(Kind::Call, Action::KillSender)]);
    assert!(trio.w.call(trio.client, trio.handle, b"x", &[]).parked);
    assert_eq!(trio.w.domain.take_signals(GUEST), [(Pid(30), Signal::Kill)]);
    let other = Th { tid: binder::Tid(31), ..trio.client };
    assert_eq!(trio.w.ioctl(other, ioctl::VERSION, &[0; 4]).0, Errno::EINTR.0);
    let got = trio.w.read(trio.owner).data();
    trio.w.release(trio.client.proc);
    trio.w.free(trio.owner, got.data);
    let told = [Return::Noop, Return::TransactionComplete];
    assert_eq!(trio.w.reply(trio.owner, b"", &[]).returns, told, "nobody hears it");
    trio.w.finish();
}

/// covers: B372
#[test]
fn who_waits_in_a_freeze_is_sent_a_signal() {
    let mut trio = with(vec![rule(Kind::Freeze, Action::SignalSender)]);
    let Trio { w, owner, client, handle, .. } = &mut trio;
    let freezer = w.process(40);
    let arg = |timeout: u32| [20u32, 1, timeout].map(u32::to_le_bytes).concat();
    // Nothing is under way: it does not wait.
    assert_eq!(w.ioctl(freezer, ioctl::FREEZE, &arg(100)).0, 0);
    assert_eq!(w.ioctl(freezer, ioctl::FREEZE, &[20u32, 0, 0].map(u32::to_le_bytes).concat()).0, 0);
    w.oneway(*client, *handle, b"1");
    w.ioctl(freezer, ioctl::FREEZE, &arg(100));
    assert_eq!(w.domain.take_signals(GUEST), [(Pid(40), Signal::StopAndContinue)]);
    assert_eq!(w.signal(freezer).errno, Errno::ERESTARTSYS);
    assert_eq!(injected(w), [FaultKind::Signal]);
    next(w, *owner).unwrap();
    assert_eq!(w.ioctl(freezer, ioctl::FREEZE, &arg(100)).0, 0);
    trio.w.finish();
}

#[test]
fn what_cannot_be_held_is_refused() {
    for (kind, action, why) in [
        (Kind::Call, Action::Delay(1), Impossible::OnewaysOnly),
        (Kind::Reply, Action::Reorder, Impossible::OnewaysOnly),
        (Kind::Oneway, Action::SignalSender, Impossible::NoTransaction),
        (Kind::Freeze, Action::Dead, Impossible::NoTransaction),
        (Kind::Reply, Action::Freeze(1), Impossible::CallsOnly),
    ] {
        assert_eq!(
            Faults::new(vec![rule(kind, action)], false, 0).err(),
            Some((0, why)),
            "{kind:?} {action:?}"
        );
    }
}

// --- any rules at all ---

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let count = 1..4u32;
    let action = prop_oneof![
        1 => Just(Action::Failed(Errno::EINVAL)),
        1 => Just(Action::Dead),
        1 => Just(Action::Frozen),
        1 => Just(Action::Interrupt),
        1 => count.clone().prop_map(Action::Freeze),
        4 => count.clone().prop_map(Action::Delay),
        4 => Just(Action::Reorder),
        2 => count.prop_map(Action::Exhaust),
        1 => Just(Action::SignalSender),
    ];
    let kind = prop_oneof![1 => Just(Kind::Call), 2 => Just(Kind::Oneway), 1 => Just(Kind::Reply)];
    let rule = (kind, action, 0..4u32, 1..4u32, prop_oneof![Just(ALWAYS), Just(ALWAYS / 2)])
        .prop_map(|(kind, action, skip, times, chance)| Rule { skip, times, chance, ..rule(kind, action) })
        .prop_filter("rules that can be followed", |rule| Faults::new(vec![rule.clone()], false, 0).is_ok());
    prop::collection::vec(rule, 1..5)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A client, a node, and whether nobody waits.
    Send(usize, usize, bool),
    /// A server frees what it held, and reads: it answers a call, and holds a oneway until it next serves.
    Serve(usize),
    /// The machine has a turn.
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..3usize, 0..3usize, prop::bool::weighted(0.7)).prop_map(|(who, node, oneway)| Step::Send(who, node, oneway)),
        3 => (0..2usize).prop_map(Step::Serve),
        1 => Just(Step::Turn),
    ];
    prop::collection::vec(step, 0..80)
}

/// Three clients, a process with two loopers and three nodes, and what is known of their traffic.
struct Played {
    w: World,
    servers: [Th; 2],
    clients: [Th; 3],
    handles: [u32; 3],
    /// The buffer that each server still holds.
    held: [Option<u64>; 2],
    /// Clients whose calls are not answered yet.
    waiting: [bool; 3],
    next: u8,
    sent: BTreeMap<u8, Vec<u8>>,
    received: BTreeMap<u8, Vec<u8>>,
}

impl Played {
    fn new(rules: Vec<Rule>, seed: u64) -> Played {
        let Trio { mut w, manager, owner, client, handle } = trio();
        let handles = [
            handle,
            w.publish(manager, owner, client, 0x2000, 0),
            w.publish(manager, owner, client, 0x3000, 0),
        ];
        let servers = [owner, w.looper(owner.proc, 21)];
        let clients = [client, w.thread(client.proc, 31), w.thread(client.proc, 32)];
        w.domain.set_faults(Some(Faults::new(rules, true, seed).unwrap()));
        Played {
            w,
            servers,
            clients,
            handles,
            held: [None; 2],
            waiting: [false; 3],
            next: 0,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(who, node, oneway) => self.send(who, node, oneway),
            Step::Serve(which) => {
                self.serve(which);
            }
            Step::Turn => self.w.turn(),
        }
    }

    fn send(&mut self, who: usize, node: usize, oneway: bool) {
        self.hear(who);
        if self.waiting[who] {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let data = [u8::from(oneway), node as u8, self.next];
        let (th, handle) = (self.clients[who], self.handles[node]);
        if oneway {
            let out = self.w.oneway(th, handle, &data);
            let failed =
                [Return::FailedReply, Return::DeadReply].iter().any(|code| out.returns.contains(code));
            if !failed {
                self.sent.entry(node as u8).or_default().push(self.next);
            }
            return;
        }
        let out = self.w.call(th, handle, &data, &[]);
        self.waiting[who] = out.parked;
        if out.errno == Errno::EINTR.0 {
            // As every library does.
            self.waiting[who] = self.w.read(th).parked;
            assert!(self.waiting[who], "a wait that was interrupted goes on");
        } else if !out.parked {
            self.answered(&out);
        }
    }

    /// Exactly one answer of a call, or one failure.
    fn answered(&self, out: &Out) {
        let ends = out.returns.iter().filter(|item| {
            matches!(item, Return::Reply(_) | Return::FailedReply | Return::DeadReply | Return::FrozenReply)
        });
        assert_eq!(ends.count(), 1, "{out:?}");
    }

    fn hear(&mut self, who: usize) {
        let th = self.clients[who];
        if self.waiting[who] && !self.w.sleeps(th) {
            let out = self.w.woken(th);
            self.answered(&out);
            self.waiting[who] = false;
            let reply = out.returns.iter().find_map(|item| match item {
                Return::Reply(data) => Some(data.data),
                _ => None,
            });
            reply.into_iter().for_each(|data| self.w.free(th, data));
        }
    }

    /// False: there was nothing to do.
    fn serve(&mut self, which: usize) -> bool {
        let th = self.servers[which];
        let freed = self.held[which].take();
        freed.into_iter().for_each(|data| self.w.free(th, data));
        let out = self.w.read_nonblock(th);
        if out.errno != 0 {
            return freed.is_some();
        }
        let Some(got) = out.returns.iter().find_map(|item| match item {
            Return::Transaction(data) => Some(*data),
            _ => None,
        }) else {
            return true;
        };
        let bytes = self.w.look(th.proc, got.data, 3);
        if bytes[0] == 1 {
            self.received.entry(bytes[1]).or_default().push(bytes[2]);
            self.held[which] = Some(got.data);
        } else {
            self.w.write(th, &[Command::FreeBuffer { data: got.data }]);
            self.w.reply(th, &bytes, &[]);
        }
        true
    }

    /// Everything comes to an end.
    fn finish(mut self) {
        for _ in 0..hold::TURNS {
            self.w.turn();
        }
        while self.serve(0) | self.serve(1) {}
        for who in 0..3 {
            self.hear(who);
        }
        assert_eq!(self.waiting, [false; 3], "a call was never answered");
        assert_eq!(self.received, self.sent, "oneways of a node come once, in order, whatever the rules");
        self.w.finish();
    }
}

proptest! {
    /// covers: B146, B147
    #[test]
    fn whatever_rules_do_oneways_keep_their_order_and_calls_have_one_answer(
        rules in rules(),
        seed in any::<u64>(),
        steps in steps(),
    ) {
        let mut played = Played::new(rules, seed);
        steps.into_iter().for_each(|step| played.step(step));
        played.finish();
    }

    #[test]
    fn careless_programs_with_faults_leave_nothing(
        acts in prop::collection::vec(act(), 0..60),
        rules in rules(),
        lazy in any::<bool>(),
    ) {
        let mut w = World::new();
        w.domain.set_faults(Some(Faults::new(rules, true, 7).unwrap()));
        let mut w = acted_in(w, acts, lazy, false);
        w.turn();
        w.finish();
    }
}
