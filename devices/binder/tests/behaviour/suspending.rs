//! Commands that wait for the guest: large payloads, missing pages, the LSM, and what dies meanwhile.

use binder::protocol::{Command, Return, br, ioctl};
use binder::*;

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// covers: B466, rules 8, 10, 11
#[test]
fn large_payloads_are_copied_page_to_page_in_windows() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let big = w.open_device("binder", 60);
    w.note(big, Body::Mmap { address: MAPPING, length: 4 << 20 });
    let big = w.looper(big, 60);
    w.release(owner.proc);
    let _ = handle;
    let manager = w.procs.keys().next().copied().unwrap();
    let handle = w.publish(Th { proc: manager, tid: Tid(10) }, big, client, 0x9000, 0);
    w.asked.clear();
    let data = pattern(1_500_003);
    assert!(w.call(client, handle, &data, &[]).parked);
    assert!(w.asked.contains(&NeedKind::Data) && w.asked.contains(&NeedKind::Pages));
    let got = w.read(big).data();
    assert_eq!(w.look(big.proc, got.data, got.data_size), data);
    w.finish();
}

/// covers: rule 10
#[test]
fn a_plain_call_in_steady_state_never_suspends() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    for round in 0..3 {
        w.asked.clear();
        w.call(client, handle, &pattern(100), &[]);
        let got = w.read(owner).data();
        w.free(owner, got.data);
        w.reply_now(owner, b"", &[]);
        let back = w.woken(client).data();
        w.free(client, back.data);
        assert_eq!(w.asked.is_empty(), round > 0, "{:?}", w.asked);
    }
    w.finish();
}

/// covers: rule 9
#[test]
fn memory_that_did_not_come_along_is_asked_for() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.lazy = true;
    let object = flat_object(binder::protocol::object::BINDER, 0, 1, 2);
    assert!(w.call(client, handle, &object, &[0]).parked);
    assert_eq!(w.asked, [NeedKind::Pages, NeedKind::Data, NeedKind::Data], "in one pass");
    w.read(owner).data();
    w.finish();
}

/// covers: B128, B014
#[test]
fn pages_that_cannot_be_had_fail_the_call() {
    for (error, code, errno) in [(Errno::ENOMEM, br::FAILED_REPLY, -12), (Errno::ESRCH, br::DEAD_REPLY, -3)] {
        let Trio { mut w, owner, client, handle, .. } = trio();
        w.page_error = Some(error);
        w.call(client, handle, b"x", &[]);
        assert_eq!(w.extended_error(client), (code, errno));
        assert_eq!(w.census().buffers, 0);
        let _ = owner;
        w.finish();
    }
}

/// covers: B128, rule 10
#[test]
fn data_that_cannot_be_had_for_want_of_memory_is_no_fault() {
    for (error, errno) in [(Errno::ENOMEM, -12), (Errno::EFAULT, -14)] {
        let Trio { mut w, client, handle, .. } = trio();
        w.lazy = true;
        let needs = suspended(&mut w, client, handle, 0);
        let results = needs.iter().map(|need| match need {
            Need::Data { .. } => NeedResult { error, outcome: Outcome::None },
            need => w.supply(client, need),
        });
        let results = results.collect();
        let answer = w.send(client, Body::Continue(Continue::Needs(results)));
        let out = w.follow(client, &[], answer, Out::default());
        assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
        assert_eq!(w.extended_error(client), (br::FAILED_REPLY, errno));
        w.finish();
    }
}

/// Suspends the client's call and returns what it needs.
fn suspended(w: &mut World, client: Th, handle: u32, flags: u32) -> Vec<Need> {
    let command = w.call_command(client, handle, flags, b"payload", &[]);
    w.hold = true;
    w.write_read(client, &[command], READ_SIZE);
    w.hold = false;
    match w.last.status.clone() {
        Status::Needs(needs) => needs,
        status => panic!("{status:?}"),
    }
}

fn resume(w: &mut World, th: Th, needs: &[Need]) -> Out {
    let results = needs.iter().map(|need| w.supply(th, need)).collect();
    let answer = w.send(th, Body::Continue(Continue::Needs(results)));
    let out = w.follow(th, &[], answer, Out::default());
    w.events();
    out
}

/// covers: rule 10
#[test]
fn a_target_that_dies_meanwhile_is_a_dead_reply() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let needs = suspended(&mut w, client, handle, 0);
    assert_eq!(w.census().suspended, 1);
    w.domain.reset(GuestId(5), &mut NoTrace);
    let header = Header { proc: owner.proc.0, ..Header::default() };
    w.message(header, Body::Release);
    let out = resume(&mut w, client, &needs);
    assert_eq!(out.returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.extended_error(client), (br::DEAD_REPLY, 0));
    w.procs.remove(&owner.proc);
    w.finish();
}

/// covers: rule 10, B014
#[test]
fn a_mapping_that_goes_meanwhile_is_a_dead_reply() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let needs = suspended(&mut w, client, handle, 0);
    w.note(owner.proc, Body::Unmap);
    w.page_error = Some(Errno::ESRCH);
    assert_eq!(resume(&mut w, client, &needs).returns, [Return::Noop, Return::DeadReply]);
    w.finish();
}

/// covers: rule 10
#[test]
fn a_sender_that_dies_meanwhile_leaves_nothing() {
    let Trio { mut w, client, handle, .. } = trio();
    suspended(&mut w, client, handle, 1);
    assert_eq!(w.census().buffers, 1);
    w.release(client.proc);
    assert_eq!((w.census().buffers, w.census().suspended), (0, 0));
    w.finish();
}

/// covers: rule 10, B305
#[test]
fn a_replier_that_dies_meanwhile_fails_the_call() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let fresh = w.process(50);
    let _ = (client, handle);
    assert!(w.call(fresh, 0, b"", &[]).parked);
    w.read(manager).data();
    let payload = w.payload(manager, b"answer", &[]);
    w.hold = true;
    w.write_read(manager, &[Command::Reply(payload)], READ_SIZE);
    w.hold = false;
    assert!(matches!(w.last.status, Status::Needs(_)));
    w.release(manager.proc);
    w.events();
    assert_eq!(w.woken(fresh).returns, [Return::Noop, TC, Return::DeadReply]);
    let _ = owner;
    w.finish();
}

/// covers: rule 10, B308
#[test]
fn a_caller_that_dies_while_its_reply_is_suspended() {
    let Trio { mut w, manager, .. } = trio();
    let fresh = w.process(50);
    assert!(w.call(fresh, 0, b"", &[]).parked);
    w.read(manager).data();
    let payload = w.payload(manager, b"answer", &[]);
    w.hold = true;
    w.write_read(manager, &[Command::Reply(payload)], READ_SIZE);
    w.hold = false;
    let Status::Needs(needs) = w.last.status.clone() else { panic!() };
    w.release(fresh.proc);
    let results = needs.iter().map(|_| NeedResult { error: Errno::ESRCH, outcome: Outcome::None }).collect();
    let answer = w.send(manager, Body::Continue(Continue::Needs(results)));
    let out = w.follow(manager, &[], answer, Out::default());
    assert_eq!(out.returns, [Return::Noop, TC]);
    w.finish();
}

/// covers: 2.24, rule 33
#[test]
fn results_that_do_not_fit_end_the_ioctl() {
    for results in [
        vec![],
        vec![NeedResult { error: Errno::OK, outcome: Outcome::Fds(vec![1]) }],
        vec![NeedResult { error: Errno::OK, outcome: Outcome::Files(vec![Token(9)]) }],
    ] {
        let Trio { mut w, client, handle, .. } = trio();
        suspended(&mut w, client, handle, 0);
        let answer = w.send(client, Body::Continue(Continue::Needs(results)));
        assert_eq!((answer.status, answer.errno), (Status::Done, Errno::EPROTO));
        assert_eq!(w.census().buffers, 0);
        w.finish();
    }
}

/// covers: 2.24
#[test]
fn pages_outside_of_ram_are_refused() {
    let Trio { mut w, client, handle, .. } = trio();
    suspended(&mut w, client, handle, 0);
    for pfn in [1 << 20, u64::MAX, u64::MAX / 4096] {
        let outcome = Outcome::Pages(vec![Pfn(pfn)]);
        let body = Body::Continue(Continue::Needs(vec![NeedResult { error: Errno::OK, outcome }]));
        let answer = w.send(client, body);
        w.follow(client, &[], answer, Out::default());
        assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -12));
        suspended(&mut w, client, handle, 0);
    }
    w.finish();
}

/// covers: B124, B343, B117
#[test]
fn the_lsm_is_asked_as_the_mode_says() {
    for (lsm, rounds) in [(LsmMode::Off, 0), (LsmMode::Cache, 1), (LsmMode::Ask, 3)] {
        let limits = Limits { lsm, ..Limits::default() };
        let Trio { mut w, client, handle, owner, .. } = trio_with(World::with(limits, Profile::default()), 0);
        for _ in 0..3 {
            w.oneway(client, handle, b"");
        }
        let asked = w.asked.iter().filter(|kind| **kind == NeedKind::Lsm).count();
        assert_eq!(asked, rounds);
        w.read(owner).data();
        w.finish();
    }
}

/// covers: B124, B496
#[test]
fn remembered_answers_of_the_lsm_are_bounded() {
    let limits = Limits { lsm: LsmMode::Cache, ..Limits::default() };
    let Trio { mut w, manager, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0);
    let ask = |w: &mut World, handle| {
        w.asked.clear();
        w.oneway(client, handle, b"");
        w.asked.iter().filter(|kind| **kind == NeedKind::Lsm).count()
    };
    assert_eq!([ask(&mut w, handle), ask(&mut w, handle)], [1, 0]);
    for pid in 1000..1520 {
        let owner = w.process(pid);
        let handle = w.publish(manager, owner, client, 0x4000, 0);
        assert_eq!([ask(&mut w, handle), ask(&mut w, handle)], [1, 0], "{pid}");
    }
    assert_eq!(
        [ask(&mut w, handle), ask(&mut w, handle)],
        [1, 0],
        "forgotten for the others, and asked again"
    );
    w.finish();
}

/// covers: B124
#[test]
fn an_answer_of_an_old_policy_is_good_for_its_own_send_only() {
    let limits = Limits { lsm: LsmMode::Cache, ..Limits::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0);
    let needs = suspended(&mut w, client, handle, 1);
    assert!(matches!(needs[..], [Need::Lsm { .. }]), "{needs:?}");
    // Asked under the old policy, which granted it; the new one does not.
    assert_eq!(w.message(Header::default(), Body::Policy).errno, Errno::OK);
    assert_eq!(resume(&mut w, client, &needs).returns, [Return::Noop, TC]);
    w.lsm_error = Errno(-13);
    assert_eq!(w.oneway(client, handle, b"").returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -1));
    w.finish();
}

/// covers: B124, B181, B343
#[test]
fn a_denial_is_eperm() {
    let limits = Limits { lsm: LsmMode::Ask, ..Limits::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0);
    w.lsm_error = Errno(-13);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -1));
    // Only the transfer is denied.
    let object = flat_object(binder::protocol::object::BINDER, 0, 1, 2);
    let command = w.call_command(client, handle, 0, &object, &[0]);
    w.hold = true;
    w.write_read(client, &[command], READ_SIZE);
    w.hold = false;
    let answers = [Errno::OK, Errno(-13)];
    for error in answers {
        let Status::Needs(needs) = w.last.status.clone() else { panic!("{:?}", w.last) };
        let results = needs
            .iter()
            .map(|need| match need {
                Need::Lsm { .. } => NeedResult { error, outcome: Outcome::None },
                need => w.supply(client, need),
            })
            .collect();
        w.send(client, Body::Continue(Continue::Needs(results)));
    }
    assert_eq!(w.last.status, Status::Done);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -1));
    w.finish();
}

/// covers: B181, B179, B183
#[test]
fn an_object_that_is_not_there_is_no_denial() {
    use binder::protocol::object;
    let limits = Limits { lsm: LsmMode::Cache, ..Limits::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0);
    let known = flat_object(object::BINDER, 0, 0x50, 0x51);
    let send = |w: &mut World, object: &[u8]| {
        let command = w.call_command(client, handle, 1, object, &[0]);
        w.write_read(client, &[command], READ_SIZE);
        w.extended_error(client).1
    };
    assert_eq!(send(&mut w, &known), 0);
    // The call itself stays allowed, transfers are not any more.
    w.domain.handle(
        &Rams(&w.ram),
        GUEST,
        &Message { header: Header::default(), body: Body::Policy },
        &mut NoTrace,
    );
    assert_eq!(w.oneway(client, handle, b"").returns, [Return::Noop, TC]);
    w.lsm_error = Errno(-13);
    for (object, errno) in [
        (known, -1),
        (flat_object(object::BINDER, 0, 0x50, 0x52), -22),
        (flat_object(object::BINDER, 0, 0x60, 0x61), -1),
        (flat_object(object::HANDLE, 0, u64::from(handle), 0), -1),
        (flat_object(object::HANDLE, 0, 99, 0), -22),
    ] {
        assert_eq!(send(&mut w, &object), errno, "{object:?}");
    }
    w.finish();
}

/// The device decodes lists by this.
#[test]
fn the_core_says_what_it_expects() {
    let Trio { mut w, client, handle, .. } = trio();
    assert_eq!(w.domain.expects(GUEST, client.proc.0, client.tid), Expects::Nothing);
    let needs = suspended(&mut w, client, handle, 0);
    let kinds = needs.iter().map(Need::kind).collect();
    assert_eq!(w.domain.expects(GUEST, client.proc.0, client.tid), Expects::Needs(kinds));
    assert_eq!(w.domain.expects(GuestId(3), client.proc.0, client.tid), Expects::Nothing);
    w.ioctl(client, ioctl::VERSION, &[0; 4]);
    w.finish();
}

/// covers: rule 8 ("did not fit")
#[test]
fn data_that_did_not_fit_is_asked_for_again_but_not_for_ever() {
    let Trio { mut w, client, handle, .. } = trio();
    w.lazy = true;
    let mut needs = suspended(&mut w, client, handle, 0);
    let empty = NeedResult { error: Errno::OK, outcome: Outcome::Data(Range::default()) };
    let nothing = |need: &Need| match need {
        Need::Data { address, length } => {
            let range = Range { address: *address, length: *length, ..Range::default() };
            NeedResult { outcome: Outcome::Data(range), ..empty.clone() }
        }
        _ => unreachable!(),
    };
    assert!(matches!(needs[..], [Need::Pages { .. }, Need::Data { .. }]));
    let results = vec![w.supply(client, &needs[0]), nothing(&needs[1])];
    let answer = w.send(client, Body::Continue(Continue::Needs(results)));
    assert_eq!(answer.status, Status::Needs(needs.split_off(1)), "the pages were progress");
    let Status::Needs(needs) = answer.status else { unreachable!() };
    let answer = w.send(client, Body::Continue(Continue::Needs(needs.iter().map(nothing).collect())));
    let out = w.follow(client, &[], answer, Out::default());
    assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -14));
    w.finish();
}
