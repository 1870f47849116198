//! Attempt-acquire: weak handles that are made strong, or not. OpenBinder's (BINDER.md 11.3), not the kernel's.

use binder::protocol::{Command, Return, ioctl, object};
use binder::{Body, Census, Errno, Limits, Profile};

use crate::payloads::*;
use crate::sharing::across;
use crate::trio::*;
use crate::world::*;

const TOLD: u64 = PTR + 1;
const TC: Return = Return::TransactionComplete;
const RELEASE: Return = Return::Release { ptr: PTR, cookie: TOLD };
const DECREFS: Return = Return::Decrefs { ptr: PTR, cookie: TOLD };
/// The manager's handle on the object.
const MANAGERS: u32 = 1;

fn granted() -> Vec<Return> {
    vec![Return::Noop, Return::AcquireResult(1)]
}

fn refused() -> Vec<Return> {
    vec![Return::Noop, Return::AcquireResult(0)]
}

fn asked(priority: i32) -> Vec<Return> {
    vec![Return::Noop, Return::AttemptAcquire { priority, ptr: PTR, cookie: TOLD }]
}

fn accepting() -> World {
    let mut w = World::new();
    w.domain.accept_attempts(GUEST, true);
    w
}

/// The manager and the client hold the object weakly, and its owner was told so.
fn weakly() -> Trio {
    let Trio { mut w, manager, owner, client, handle } = trio_with(accepting(), 0x100 | 0x7f);
    w.write(manager, &[Command::Increfs { handle: MANAGERS }, Command::Release { handle: MANAGERS }]);
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
    Trio { w, manager, owner, client, handle }
}

/// The same, and the client has asked.
fn asking() -> Trio {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    assert!(w.attempt(client, handle).parked);
    Trio { w, manager, owner, client, handle }
}

impl World {
    fn attempt(&mut self, th: Th, handle: u32) -> Out {
        self.write_read(th, &[Command::AttemptAcquire { priority: 5, handle }], READ_SIZE)
    }

    /// The owner's answer, and what it reads then: most often nothing.
    fn result(&mut self, th: Th, value: i32) -> Out {
        self.nonblock = true;
        let out = self.write_read(th, &[Command::AcquireResult(value)], READ_SIZE);
        self.nonblock = false;
        out
    }

    /// A call by this handle fails: it is weak, or gone.
    fn is_weak(&mut self, th: Th, handle: u32) -> bool {
        let command = self.call_command(th, handle, 1, b"", &[]);
        self.write_read(th, &[command], READ_SIZE).returns.contains(&Return::FailedReply)
    }

    /// The owner has nothing to read.
    fn is_quiet(&mut self, th: Th) -> bool {
        self.read_nonblock(th).errno == Errno::EAGAIN.0
    }
}

/// covers: B458
#[test]
fn who_holds_strongly_grants_at_once() {
    let Trio { mut w, manager, owner, client, handle } = trio_with(accepting(), 0x100 | 0x7f);
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
    assert_eq!(w.attempt(client, handle).returns, granted());
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    assert!(w.is_quiet(owner), "the client's count keeps the object");
    // One that is strong already gets another count.
    assert_eq!(w.attempt(client, handle).returns, granted());
    w.write(client, &[Command::Release { handle }]);
    assert!(w.is_quiet(owner));
    w.write(client, &[Command::Release { handle }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
    w.finish();
}

/// covers: B458
#[test]
fn an_owner_that_still_holds_its_count_is_not_asked() {
    let Trio { mut w, manager, owner, client, handle } = trio_with(accepting(), 0x100 | 0x7f);
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
    // BR_RELEASE is due and not read: the gain cancels it (B242).
    assert_eq!(w.attempt(client, handle).returns, granted());
    assert!(w.is_quiet(owner));
    assert!(!w.is_weak(client, handle));
    w.finish();
}

/// covers: B458
#[test]
fn the_owner_is_asked_and_gives() {
    let Trio { mut w, owner, client, handle, .. } = asking();
    assert_eq!(w.read(owner).returns, asked(5));
    assert!(w.sleeps(client));
    assert_eq!(w.result(owner, 1).errno, Errno::EAGAIN.0, "neither BR_ACQUIRE nor BR_INCREFS");
    assert_eq!(w.woken(client).returns, granted());
    assert!(!w.is_weak(client, handle));
    let got = w.read(owner).data();
    assert_eq!((got.target, got.cookie), (PTR, TOLD));
    w.free(owner, got.data);
    w.write(client, &[Command::Release { handle }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE], "the count that it gave");
    assert_eq!(w.census().transactions, 0);
    w.finish();
}

/// covers: B458
#[test]
fn the_owner_is_asked_and_refuses() {
    let Trio { mut w, owner, client, handle, .. } = asking();
    assert!(w.read(owner).returns == asked(5) && w.result(owner, 0).errno == Errno::EAGAIN.0);
    assert_eq!(w.woken(client).returns, refused());
    assert!(w.is_weak(client, handle));
    // It may be asked again, and think otherwise.
    assert!(w.attempt(client, handle).parked);
    w.read(owner);
    w.result(owner, 7);
    assert_eq!(w.woken(client).returns, granted(), "anything but 0 is a yes");
    w.finish();
}

/// covers: B458
#[test]
fn who_was_asked_and_ends_refuses() {
    for read in [false, true] {
        let Trio { mut w, owner, client, handle, .. } = asking();
        if read {
            w.read(owner);
        }
        w.release(owner.proc);
        w.events();
        assert_eq!(w.woken(client).returns, refused());
        assert_eq!(w.attempt(client, handle).returns, refused(), "nobody is there to be asked");
        w.finish();
    }
    // Only the thread ends: before, the question waits for another one; afterwards it is answered with 0.
    for read in [false, true] {
        let Trio { mut w, owner, client, .. } = weakly();
        let handle = 1;
        let thread = w.looper(owner.proc, 21);
        assert!(w.read(thread).parked);
        w.attempt(client, handle);
        assert_eq!(w.woken(thread).returns, asked(5));
        if read {
            w.ioctl(thread, ioctl::THREAD_EXIT, &[]);
            assert_eq!(w.woken(client).returns, refused());
        } else {
            w.send(thread, Body::ReadFault { offset: 4 });
            w.events();
            assert_eq!(w.woken(client).returns, refused());
            assert_eq!(w.write(thread, &[Command::AcquireResult(1)]).errno, Errno::EINVAL.0);
        }
        w.finish();
    }
}

/// covers: B458
#[test]
fn an_asker_that_ends_leaves_nothing_behind() {
    // Before the owner reads: it is not asked.
    let Trio { mut w, owner, client, .. } = asking();
    w.release(client.proc);
    assert!(w.is_quiet(owner), "the manager still holds it weakly");
    assert_eq!(w.census().transactions, 0);
    w.finish();
    // Afterwards: its count goes back to it.
    for value in [0, 1] {
        let Trio { mut w, manager, owner, client, .. } = asking();
        w.read(owner);
        w.release(client.proc);
        w.write(manager, &[Command::Decrefs { handle: MANAGERS }]);
        assert!(w.is_quiet(owner), "its pointer is good while it is asked");
        let told =
            if value == 1 { vec![Return::Noop, RELEASE, DECREFS] } else { vec![Return::Noop, DECREFS] };
        assert_eq!(w.result(owner, value).returns, told);
        w.finish();
    }
    // The asking thread alone ends.
    let Trio { mut w, owner, client, handle, .. } = asking();
    w.read(owner);
    w.signal(client);
    assert_eq!(w.ioctl(client, ioctl::THREAD_EXIT, &[]).0, 0);
    assert_eq!(w.result(owner, 1).returns, [Return::Noop, RELEASE]);
    assert!(w.is_weak(client, handle));
    w.finish();
}

/// covers: B458
#[test]
fn a_handle_that_goes_while_its_owner_is_asked() {
    for read in [false, true] {
        let Trio { mut w, manager, owner, client, handle } = asking();
        let other = w.thread(client.proc, 31);
        if read {
            w.read(owner);
        }
        w.write(other, &[Command::Decrefs { handle }]);
        w.write(manager, &[Command::Decrefs { handle: MANAGERS }]);
        if read {
            assert!(w.is_quiet(owner));
            assert_eq!(w.result(owner, 1).returns, [Return::Noop, RELEASE, DECREFS]);
        } else {
            assert_eq!(w.read(owner).returns, [Return::Noop, DECREFS], "it need not be asked");
        }
        assert_eq!(w.woken(client).returns, refused());
        w.finish();
    }
}

/// covers: B458
#[test]
fn a_count_that_the_owner_was_told_to_take_meanwhile_goes_back() {
    for told_first in [true, false] {
        let Trio { mut w, manager, owner, client, handle } = asking();
        let other = w.looper(owner.proc, 21);
        assert_eq!(w.read(owner).returns, asked(5));
        let object = flat_object(object::BINDER, 0x17f, PTR, TOLD);
        let export = w.call_command(other, 0, 1, &object, &[0]);
        w.write(other, &[export]);
        let acquire = Return::Acquire { ptr: PTR, cookie: TOLD };
        if told_first {
            assert_eq!(w.read(other).returns, [Return::Noop, acquire, TC]);
            w.write(other, &[Command::AcquireDone { ptr: PTR, cookie: TOLD }]);
            // It took two counts, for BR_ACQUIRE and for this: one goes back.
            assert_eq!(w.result(owner, 1).returns, [Return::Noop, RELEASE]);
        } else {
            // It took one, for this; BR_ACQUIRE is not sent any more.
            assert_eq!(w.result(owner, 1).errno, Errno::EAGAIN.0);
            assert_eq!(w.read(other).returns, [Return::Noop, TC]);
        }
        assert_eq!(w.woken(client).returns, granted());
        let got = w.read(manager).data();
        w.free(manager, got.data);
        assert!(w.is_quiet(owner));
        w.write(client, &[Command::Release { handle }]);
        assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
        w.finish();
    }
}

/// covers: B458
#[test]
fn a_question_that_was_answered_otherwise_is_not_asked() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    assert!(w.attempt(client, handle).parked);
    assert!(w.attempt(manager, MANAGERS).parked);
    assert_eq!(w.read(owner).returns, asked(5));
    assert_eq!(w.result(owner, 1).errno, Errno::EAGAIN.0, "the second one is granted without it");
    assert_eq!((w.woken(client).returns, w.woken(manager).returns), (granted(), granted()));
    w.write(client, &[Command::Release { handle }]);
    assert!(w.is_quiet(owner));
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
    w.finish();
}

/// covers: B458
#[test]
fn two_who_ask_at_a_time_make_the_owner_take_one_count() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    let other = w.looper(owner.proc, 21);
    for (asker, handle) in [(client, handle), (manager, MANAGERS)] {
        assert!(w.attempt(asker, handle).parked);
    }
    assert_eq!((w.read(owner).returns, w.read(other).returns), (asked(5), asked(5)));
    assert_eq!(w.result(other, 1).errno, Errno::EAGAIN.0);
    assert_eq!(w.result(owner, 1).returns, [Return::Noop, RELEASE]);
    assert_eq!((w.woken(client).returns, w.woken(manager).returns), (granted(), granted()));
    w.write(client, &[Command::Release { handle }, Command::Decrefs { handle }]);
    assert!(w.is_quiet(owner));
    w.write(manager, &[Command::Release { handle: MANAGERS }, Command::Decrefs { handle: MANAGERS }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE, DECREFS]);
    w.finish();
}

/// covers: B298, B458
#[test]
fn questions_and_calls_nest() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    let clients = w.publish(manager, client, owner, 0x5000, 0x7f);
    // The client serves a call while it asks, and is called by the owner while it is asked.
    let call = w.call_command(owner, clients, 1, b"", &[]);
    w.write_read(owner, &[call], READ_SIZE);
    let got = w.read(client).data();
    w.free(client, got.data);
    assert!(w.attempt(client, handle).parked);
    assert_eq!(w.read(owner).returns, asked(5));
    let bystander = w.looper(client.proc, 31);
    assert!(w.read(bystander).parked);
    assert!(w.call(owner, clients, b"nested", &[]).parked);
    assert!(w.sleeps(bystander), "the thread that waits is called");
    let got = w.woken(client).data();
    // Neither a reply nor a result fits what is on top of the other stack.
    assert_eq!(w.write(client, &[Command::AcquireResult(1)]).errno, Errno::EINVAL.0);
    w.free(client, got.data);
    w.reply_now(client, b"", &[]);
    let answer = w.woken(owner).data();
    w.free(owner, answer.data);
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, Return::FailedReply], "it owes a result");
    assert!(w.read(client).parked);
    assert_eq!(w.result(owner, 1).errno, Errno::EAGAIN.0);
    assert_eq!(w.woken(client).returns, granted());
    w.finish();
}

/// covers: B310, B458
#[test]
fn the_end_of_an_asker_reaches_its_caller() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    let clients = w.publish(manager, client, owner, 0x5000, 0x7f);
    let other = w.looper(owner.proc, 21);
    assert!(w.call(other, clients, b"", &[]).parked);
    let got = w.read(client).data();
    w.free(client, got.data);
    assert!(w.attempt(client, handle).parked);
    // The thread that waits for the client is asked.
    assert_eq!(w.woken(other).returns[2..], asked(5)[1..]);
    w.release(client.proc);
    w.events();
    assert_eq!(w.result(other, 1).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
    w.finish();
}

/// covers: B458
#[test]
fn the_frozen_are_not_asked() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    assert_eq!(w.freeze(manager, 20, 1), 0);
    assert_eq!(w.attempt(client, handle).returns, refused());
    assert_eq!(w.frozen_info(client, 20), (1, 0), "remembered, as a call is");
    assert_eq!(w.freeze(manager, 20, 0), 0);
    assert!(w.attempt(client, handle).parked);
    assert_eq!(w.freeze(manager, 20, 1), Errno::EAGAIN.0, "it is to answer first");
    w.read(owner);
    w.result(owner, 1);
    assert_eq!(w.freeze(manager, 20, 1), 0);
    assert_eq!(w.attempt(client, handle).returns[1], Return::AcquireResult(1), "the first one's result");
    assert_eq!(w.attempt(manager, MANAGERS).returns, granted(), "what is held is granted without it");
    w.finish();
}

/// covers: B458
#[test]
fn a_signal_ends_the_sleep_and_not_the_question() {
    let Trio { mut w, owner, client, .. } = asking();
    assert_eq!(w.signal(client).errno, Errno::EINTR);
    w.read(owner);
    w.result(owner, 1);
    assert_eq!(w.read(client).returns, granted());
    w.finish();
}

/// covers: B320, B323, B458
#[test]
fn who_is_asked_runs_with_the_askers_nice() {
    let Trio { mut w, owner, client, handle, .. } = weakly();
    w.nice.insert(client, -7);
    w.attempt(client, handle);
    w.read(owner);
    assert_eq!(w.nice[&owner], -7);
    w.write(owner, &[Command::AcquireResult(1)]);
    assert_eq!(w.nice[&owner], 0);
    w.finish();
}

/// covers: B116, B458
#[test]
fn without_the_feature_there_is_no_such_command() {
    let Trio { mut w, owner, client, handle, .. } = asking();
    w.read(owner);
    w.domain.accept_attempts(GUEST, false);
    let (ask, result) = (Command::AttemptAcquire { priority: 0, handle }, Command::AcquireResult(1));
    let out = w.write(owner, &[Command::EnterLooper, ask, result]);
    assert_eq!((out.errno, out.wc), (Errno::EINVAL.0, 4));
    w.signal(client);
    let out = w.write(client, &[ask]);
    assert_eq!((out.errno, out.wc), (Errno::EINVAL.0, 0));
    w.finish();
}

/// covers: B458
#[test]
fn a_reset_takes_the_feature_back() {
    let Trio { mut w, client, handle, .. } = asking();
    w.domain.reset(GUEST, &mut Vec::new());
    assert_eq!(w.census(), Census::default());
    let _ = (client, handle);
    let mut fresh = World::new();
    fresh.domain = w.domain;
    let th = fresh.process(10);
    let out = fresh.write(th, &[Command::AttemptAcquire { priority: 0, handle: 1 }]);
    assert_eq!((out.errno, out.wc), (Errno::EINVAL.0, 0));
    fresh.finish();
}

/// covers: B458
#[test]
fn misuse_of_the_commands() {
    let Trio { mut w, manager, owner, client, handle } = weakly();
    let ask = |handle| Command::AttemptAcquire { priority: 0, handle };
    // A handle that is not there, or is the manager's: as with BC_ACQUIRE (B257), but there is a result.
    assert_eq!(w.attempt(client, 77).returns, refused());
    let out = w.write_read(manager, &[ask(0)], READ_SIZE);
    assert_eq!((out.errno, out.wc), (Errno::EINVAL.0, 0), "the manager cannot hold itself");
    assert_eq!(w.attempt(client, 0).returns, granted());
    assert_eq!(w.write(client, &[Command::Release { handle: 0 }]).errno, 0);
    // Who waits cannot ask, and who was not asked cannot answer.
    assert_eq!(w.write(client, &[Command::AcquireResult(1)]).errno, Errno::EINVAL.0);
    let out = w.write(client, &[ask(handle), ask(handle)]);
    assert_eq!((out.errno, out.wc), (Errno::EINVAL.0, 12));
    assert_eq!(w.call(client, 0, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.read(owner);
    assert_eq!(w.write(client, &[Command::AcquireResult(1)]).errno, Errno::EINVAL.0, "its own question");
    w.result(owner, 0);
    assert_eq!(w.write(owner, &[Command::AcquireResult(0)]).errno, Errno::EINVAL.0, "once is enough");
    assert_eq!(w.read(client).returns, refused());
    w.finish();
}

/// covers: B458
#[test]
fn results_that_nobody_reads_are_bounded() {
    let limits = Limits { max_transactions: 20, ..Limits::default() };
    let mut w = World::with(limits, Profile::default());
    w.domain.accept_attempts(GUEST, true);
    let Trio { mut w, client, .. } = trio_with(w, 0x17f);
    let out = w.write(client, &[Command::AttemptAcquire { priority: 0, handle: 77 }; 30]);
    assert_eq!((out.errno, out.wc), (Errno::ENOMEM.0, 20 * 12));
    assert_eq!(w.read(client).returns[1..], [Return::AcquireResult(0); 20]);
    w.finish();
}

/// covers: B458
#[test]
fn owners_of_another_guest_are_asked_if_it_takes_part() {
    for takes_part in [false, true] {
        let Trio { mut w, manager, owner, client, handle } = across();
        w.domain.accept_attempts(GUEST, takes_part);
        w.domain.accept_attempts(OTHER, true);
        w.write(manager, &[Command::Release { handle: MANAGERS }]);
        w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
        assert_eq!(w.read(owner).returns, [Return::Noop, RELEASE]);
        let out = w.attempt(client, handle);
        if takes_part {
            assert!(out.parked);
            assert_eq!(w.read(owner).returns, asked(5));
            w.result(owner, 1);
            assert_eq!(w.woken(client).returns, granted());
        } else {
            assert_eq!(out.returns, refused());
            assert!(w.is_quiet(owner));
        }
        w.finish();
    }
}
