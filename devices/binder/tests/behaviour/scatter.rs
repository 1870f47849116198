//! PTR and FDA objects.

use binder::protocol::{Command, Return, TransactionData, br, object, tf};
use binder::{Body, Errno, NeedKind};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

/// A transaction in the making.
#[derive(Default)]
struct Parcel {
    data: Vec<u8>,
    offsets: Vec<u64>,
}

impl Parcel {
    /// Like libhwbinder: something else always comes first (B213).
    fn new() -> Parcel {
        Parcel { data: vec![0; 8], offsets: Vec::new() }
    }

    fn words(mut self, kind: u32, flags: u32, words: &[u64]) -> Parcel {
        self.offsets.push(self.data.len() as u64);
        self.data.extend((u64::from(kind) | u64::from(flags) << 32).to_le_bytes());
        self.data.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn ptr(self, address: u64, length: u64) -> Parcel {
        self.words(object::PTR, 0, &[address, length, 0, 0])
    }

    fn child(self, address: u64, length: u64, parent: u64, offset: u64) -> Parcel {
        self.words(object::PTR, object::PTR_FLAG_HAS_PARENT, &[address, length, parent, offset])
    }

    fn fda(self, count: u64, parent: u64, offset: u64) -> Parcel {
        self.words(object::FDA, 0, &[count, parent, offset])
    }

    fn send(self, w: &mut World, th: Th, handle: u32, buffers: u64) -> Out {
        let payload = w.payload(th, &self.data, &self.offsets);
        let data = TransactionData { target: u64::from(handle), flags: tf::ACCEPT_FDS, ..payload };
        w.write_read(th, &[Command::TransactionSg(data, buffers)], READ_SIZE)
    }

    /// Sends what must fail; returns its errno.
    fn refused(self, w: &mut World, th: Th, handle: u32, buffers: u64) -> i32 {
        let out = self.send(w, th, handle, buffers);
        assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
        let (command, errno) = w.extended_error(th);
        assert_eq!(command, br::FAILED_REPLY);
        errno
    }
}

/// covers: B202, B203, B204, B205, B206, B214
#[test]
fn memory_travels_along_and_is_linked() {
    for (lazy, inline_limit) in [(false, PAGE), (true, PAGE), (true, 0)] {
        let Trio { mut w, owner, client, handle, .. } = trio();
        w.lazy = lazy;
        w.inline_limit = inline_limit;
        let parent = w.put(client.proc, &[0xaa; 24]);
        let child = w.put(client.proc, b"child");
        let out = Parcel::new().ptr(parent, 24).child(child, 5, 0, 8).send(&mut w, client, handle, 32);
        assert!(out.parked, "{out:?}");
        let got = w.read(owner).data();
        assert_eq!((got.data_size, got.offsets), (88, got.data + 0x58));
        let extra = got.data + 0x68;
        let seen = w.look(owner.proc, got.data, 88);
        assert_eq!((long(&seen, 16), long(&seen, 24)), (extra, 24));
        assert_eq!((long(&seen, 56), long(&seen, 64), long(&seen, 80)), (extra + 24, 5, 8));
        let memory = w.look(owner.proc, extra, 32);
        assert_eq!(memory[..8], [0xaa; 8]);
        assert_eq!(long(&memory, 8), extra + 24);
        assert_eq!(memory[16..24], [0xaa; 8]);
        assert_eq!(&memory[24..], b"child\0\0\0");
        w.finish();
    }
}

/// A receiver with a mapping of 1 MiB, and the client's handle for its object.
fn large_receiver(w: &mut World, manager: Th, client: Th) -> (Th, u32) {
    let proc = w.open_device("binder", 60);
    assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length: 1 << 20 }).errno, Errno::OK);
    let owner = w.looper(proc, 60);
    let handle = w.publish(manager, owner, client, 0x9000, 0);
    w.trim(manager.proc);
    w.asked.clear();
    (owner, handle)
}

/// The pieces lie apart, the last one first: none can be asked for together with another one.
/// covers: B203, rule 10
#[test]
fn thousands_of_pieces_are_each_asked_for_once() {
    const PIECES: u64 = 4000;
    let Trio { mut w, manager, client, .. } = trio();
    let (owner, handle) = large_receiver(&mut w, manager, client);
    let mut pieces: Vec<u64> = (0..PIECES).map(|n| w.put(client.proc, &n.to_le_bytes())).collect();
    pieces.reverse();
    let parcel = pieces.iter().fold(Parcel::new(), |parcel, address| parcel.ptr(*address, 8));
    assert!(parcel.send(&mut w, client, handle, 8 * PIECES).parked);
    let data = w.asked.iter().filter(|kind| **kind == NeedKind::Data).count();
    assert_eq!(data as u64, PIECES);
    let got = w.read(owner).data();
    let extra = got.offsets + 8 * PIECES;
    let seen = w.look(owner.proc, extra, 8 * PIECES);
    assert!((0..PIECES).all(|n| long(&seen, 8 * n as usize) == PIECES - 1 - n));
    w.finish();
}

/// covers: B203, rule 10
#[test]
fn neighbouring_pieces_are_asked_for_together() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let memory: Vec<u8> = (0..=255).cycle().take(100 * 48).collect();
    let start = w.put(client.proc, &memory);
    let places: Vec<u64> = (0..100).map(|n| start + 48 * n).collect();
    // Neither order of the pieces is the order of their addresses.
    let parcel = places.iter().rev().step_by(2).fold(Parcel::new(), |parcel, at| parcel.ptr(*at, 32));
    let parcel = places.iter().step_by(2).fold(parcel, |parcel, at| parcel.ptr(*at, 32));
    assert!(parcel.send(&mut w, client, handle, 3200).parked);
    assert_eq!(w.asked, [NeedKind::Pages, NeedKind::Data]);
    let got = w.read(owner).data();
    let seen = w.look(owner.proc, got.offsets + 800, 3200);
    assert_eq!(seen[..32], memory[99 * 48..][..32]);
    assert_eq!(seen[3168..], memory[98 * 48..][..32]);
    w.finish();
}

/// covers: B202, B207
#[test]
fn space_and_source_are_checked() {
    let Trio { mut w, client, handle, .. } = trio();
    let source = w.put(client.proc, &[1; 64]);
    assert_eq!(Parcel::new().ptr(source, 33).refused(&mut w, client, handle, 32), -22);
    assert_eq!(Parcel::new().ptr(source, u64::MAX).refused(&mut w, client, handle, 32), -22);
    assert_eq!(Parcel::new().ptr(source, 8).refused(&mut w, client, handle, 0), -22);
    assert_eq!(Parcel::new().ptr(source, 65).refused(&mut w, client, handle, 72), -22, "unreadable");
    assert_eq!(Parcel::new().ptr(0x9_0000_0000, 8).refused(&mut w, client, handle, 8), -22);
    let plain = Parcel::new().ptr(source, 8);
    assert_eq!(w.call(client, handle, &plain.data, &plain.offsets).returns[1], Return::FailedReply);
    assert!(Parcel::new().ptr(source, 0).send(&mut w, client, handle, 0).parked);
    w.finish();
}

/// covers: B208, B209, B210, B211, B212, B213
#[test]
fn parents_are_earlier_and_offsets_ascend() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let a = w.put(client.proc, &[0; 64]);
    let none = Parcel::new;
    for bad in [
        none().child(a, 8, 0, 0),
        none().ptr(a, 16).child(a, 8, 1, 0),
        none().ptr(a, 16).child(a, 8, 7, 0),
        none().ptr(a, 16).child(a, 8, u64::MAX, 0),
        none().ptr(a, 16).child(a, 8, 0, 9),
        none().ptr(a, 16).child(a, 8, 0, 12),
        none().ptr(a, 7).child(a, 8, 0, 0),
        none().ptr(a, 16).child(a, 8, 0, u64::MAX - 3),
        // Backwards, and into the word of the child before.
        none().ptr(a, 32).child(a, 8, 0, 16).child(a, 8, 0, 8),
        none().ptr(a, 32).child(a, 8, 0, 16).child(a, 8, 0, 20),
        // The first PTR is no ancestor of the last one.
        none().ptr(a, 16).ptr(a, 16).child(a, 8, 0, 0),
        // An object at data offset 0 never is a parent.
        Parcel::default().ptr(a, 16).child(a, 8, 0, 0),
    ] {
        assert_eq!(bad.refused(&mut w, client, handle, 128), -22);
    }
    let good = none().ptr(a, 32).child(a, 16, 0, 0).child(a, 8, 1, 8).child(a, 8, 0, 8).child(a, 8, 0, 24);
    assert!(good.send(&mut w, client, handle, 128).parked);
    w.read(owner).data();
    w.finish();
}

fn with_fds() -> (Trio, u64) {
    let mut trio = trio();
    let w = &mut trio.w;
    w.procs.get_mut(&trio.client.proc).unwrap().fds.extend([(3, 500), (4, 501)]);
    let numbers: Vec<u8> = [7u32, 3, 4, 9].iter().flat_map(|fd| fd.to_le_bytes()).collect();
    let source = w.put(trio.client.proc, &numbers);
    (trio, source)
}

/// covers: B219, B220, B221
#[test]
fn descriptor_arrays_are_made_on_reading_and_closed_on_freeing() {
    for lazy in [false, true] {
        let (Trio { mut w, owner, client, handle, .. }, source) = with_fds();
        w.lazy = lazy;
        assert!(Parcel::new().ptr(source, 16).fda(2, 0, 4).send(&mut w, client, handle, 16).parked);
        let got = w.read(owner).data();
        let seen = w.look(owner.proc, got.data, got.data_size);
        let memory = w.look(owner.proc, long(&seen, 16), 16);
        assert_eq!([word(&memory, 0), word(&memory, 4), word(&memory, 8), word(&memory, 12)], [7, 0, 1, 9]);
        assert_eq!(w.procs[&owner.proc].fds, [(0, 500), (1, 501)].into());
        let out = w.write_read(owner, &[Command::FreeBuffer { data: got.data }], READ_SIZE);
        assert_eq!(out.returns, [Return::Noop], "need-return is set");
        assert!(w.procs[&owner.proc].fds.is_empty());
        w.finish();
    }
}

/// covers: B215, B216, B217, B218
#[test]
fn bad_descriptor_arrays() {
    let (Trio { mut w, client, handle, .. }, source) = with_fds();
    for (bad, errno) in [
        (Parcel::new().fda(1, 0, 0), -22),
        (Parcel::new().ptr(source, 16).fda(1, 1, 0), -22),
        (Parcel::new().ptr(source, 16).fda(5, 0, 0), -22),
        (Parcel::new().ptr(source, 16).fda(2, 0, 12), -22),
        (Parcel::new().ptr(source, 16).fda(1 << 62, 0, 0), -22),
        (Parcel::new().ptr(source, 16).fda(u64::MAX, 0, 0), -22),
        (Parcel::new().ptr(source, 16).fda(1, 0, 2), -22),
        (Parcel::new().ptr(source, 16).fda(1, 0, 0), -9),
        (Parcel::new().ptr(source, 16).fda(1, 0, 4).fda(1, 0, 4), -22),
    ] {
        assert_eq!(bad.refused(&mut w, client, handle, 64), errno);
    }
    assert!(w.tokens.is_empty());
    let Trio { mut w, client, handle, .. } = trio_with(World::new(), 0);
    let source = w.put(client.proc, &[0; 16]);
    assert_eq!(Parcel::new().ptr(source, 16).fda(1, 0, 4).refused(&mut w, client, handle, 64), -1);
    assert!(Parcel::new().ptr(source, 16).fda(0, 0, 4).send(&mut w, client, handle, 64).parked);
    w.finish();
}

/// covers: B210, B190, B209
#[test]
fn a_misplaced_address_is_found_after_everything_else() {
    let Trio { mut w, client, handle, .. } = trio();
    let source = w.put(client.proc, &[0; 32]);
    let placed = |at| Parcel::new().ptr(source, 32).child(source, 8, 0, at);
    assert_eq!(placed(9).refused(&mut w, client, handle, 64), -22);
    for (at, errno) in [(9, -9), (8, -9)] {
        let parcel = placed(at).words(object::FD, 0, &[9999, 0]);
        assert_eq!(parcel.refused(&mut w, client, handle, 64), errno);
    }
    // The rest of the data comes first, too.
    let mut torn = placed(9);
    torn.data.extend([0; 8]);
    let data = w.payload(client, &torn.data, &torn.offsets);
    let longer = TransactionData { target: u64::from(handle), data_size: data.data_size + 8, ..data };
    let out = w.write_read(client, &[Command::TransactionSg(longer, 64)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -14));
    w.finish();
}

/// covers: B215, B217
#[test]
fn an_array_that_may_not_be_sent_is_read_first() {
    for lazy in [false, true] {
        let Trio { mut w, client, handle, .. } = trio_with(World::new(), 0);
        w.lazy = lazy;
        let source = w.put(client.proc, &[0; 6]);
        let parcel = |at, count| Parcel::new().ptr(at, 16).fda(count, 0, 0).fda(1, 0, 8);
        assert_eq!(parcel(source, 1).refused(&mut w, client, handle, 64), -1);
        assert_eq!(parcel(source, 2).refused(&mut w, client, handle, 64), -1, "the second one is not read");
        assert_eq!(parcel(0x9_0000_0000, 1).refused(&mut w, client, handle, 64), -22);
        w.finish();
    }
}

/// covers: B223
#[test]
fn a_foreign_task_closes_the_numbers_in_its_own_table() {
    let (Trio { mut w, owner, client, handle, .. }, source) = with_fds();
    Parcel::new().ptr(source, 16).fda(2, 0, 4).send(&mut w, client, handle, 16);
    let got = w.read(owner).data();
    let other = w.thread(owner.proc, 99);
    w.foreign = true;
    let closed = w.write_read(other, &[Command::FreeBuffer { data: got.data }], READ_SIZE);
    // The fixture has one table for both; what matters is that the caller is told to close.
    assert_eq!((closed.errno, closed.returns), (0, vec![Return::Noop]));
    assert!(w.procs[&owner.proc].fds.is_empty());
    w.finish();
}

/// More closes than one answer carries.
#[test]
fn many_closes_come_in_several_answers() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    let numbers: Vec<u8> = (0..300).flat_map(|_| 3u32.to_le_bytes()).collect();
    let source = w.put(client.proc, &numbers);
    assert!(Parcel::new().ptr(source, 1200).fda(300, 0, 0).send(&mut w, client, handle, 1200).parked);
    let got = w.read(owner).data();
    assert_eq!(w.procs[&owner.proc].fds.len(), 300);
    let commands = [Command::FreeBuffer { data: got.data }, Command::EnterLooper];
    let out = w.write_read(owner, &commands, READ_SIZE);
    assert_eq!((out.errno, out.wc, out.returns), (0, 16, vec![Return::Noop]));
    assert!(w.procs[&owner.proc].fds.is_empty());
    w.finish();
}

#[test]
fn an_array_that_runs_over_the_last_address_is_einval() {
    let Trio { mut w, client, handle, .. } = trio();
    let parcel = Parcel::new().ptr(u64::MAX - 15, 32).fda(4, 0, 8);
    assert_eq!(parcel.refused(&mut w, client, handle, 32), -22);
    w.finish();
}
