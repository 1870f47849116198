//! poll(2).

use binder::protocol::{Return, ioctl};
use binder::{Body, Tid};

use crate::trio::*;
use crate::world::*;

impl World {
    fn poll(&mut self, th: Th) -> bool {
        let answer = self.send(th, Body::Poll);
        self.events();
        answer.poll_mask == 1
    }
}

/// covers: B019, B020
#[test]
fn a_new_thread_is_readable_until_its_first_ioctl() {
    let mut w = World::new();
    let proc = w.process(10).proc;
    let th = Th { proc, tid: Tid(50) };
    assert!(w.poll(th));
    assert!(w.poll(th));
    w.ioctl(th, ioctl::VERSION, &[0; 4]);
    assert!(!w.poll(th));
    w.finish();
}

/// covers: B021, B026, B513
#[test]
fn process_work_makes_an_armed_thread_readable_once() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(!w.poll(owner));
    w.oneway(client, handle, b"1");
    assert_eq!(w.polled, [owner]);
    let other = w.thread(client.proc, 31);
    w.call(other, handle, b"2", &[]);
    assert_eq!(w.polled.len(), 1, "disarmed by the event");
    assert!(w.poll(owner));
    w.read(owner).data();
    w.finish();
}

/// covers: B022, B130
#[test]
fn a_withheld_completion_is_not_readable_but_the_reply_is() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.nonblock = true;
    w.call(client, handle, b"", &[]);
    w.nonblock = false;
    assert!(!w.poll(client));
    w.read(owner).data();
    w.reply_now(owner, b"", &[]);
    assert_eq!(w.polled, [client]);
    assert!(w.poll(client));
    w.finish();
}

/// covers: B023, B025, B129
#[test]
fn a_thread_in_a_call_is_not_readable_by_process_work_but_by_its_own() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    assert!(!w.poll(owner));
    let other = w.thread(client.proc, 31);
    w.oneway(other, handle, b"");
    assert!(w.polled.is_empty());
    assert!(!w.poll(owner));
    let oneway = w.call_command(owner, 0, 1, b"", &[]);
    w.write(owner, &[oneway]);
    assert_eq!(w.polled, [owner]);
    w.finish();
}

/// covers: B026, B083
#[test]
fn a_sleeping_reader_comes_before_the_pollers() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let poller = w.looper(owner.proc, 21);
    assert!(!w.poll(poller));
    assert!(w.read(owner).parked);
    w.oneway(client, handle, b"");
    assert!(w.polled.is_empty());
    w.woken(owner).data();
    w.finish();
}

/// covers: B027, B052, B471
#[test]
fn thread_exit_forgets_the_armed_poll() {
    let mut w = World::new();
    let th = w.process(10);
    assert!(!w.poll(th));
    w.ioctl(th, ioctl::THREAD_EXIT, &[]);
    assert!(w.poll(th), "a new thread object");
    assert_eq!(w.read(th).returns, [Return::Noop]);
    w.finish();
}

/// covers: B028
#[test]
fn flush_makes_pollers_readable() {
    let mut w = World::new();
    let th = w.process(10);
    assert!(!w.poll(th));
    w.note(th.proc, Body::Flush);
    w.events();
    assert_eq!(w.polled, [th]);
    w.finish();
}

/// covers: B026: an epoll set is woken through the thread that added the file, whoever waits for it.
#[test]
fn a_poll_by_one_thread_arms_all_that_polled() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let waiter = w.looper(owner.proc, 21);
    assert!(!w.poll(owner));
    w.oneway(client, handle, b"1");
    assert_eq!(w.polled, [owner]);
    w.polled.clear();
    assert!(w.poll(waiter));
    let got = w.read(waiter).data();
    w.free(waiter, got.data);
    assert!(!w.poll(waiter));
    w.oneway(client, handle, b"2");
    assert_eq!(w.polled, [owner, waiter]);
    w.finish();
}
