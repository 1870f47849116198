//! The device against a driver that posts bytes: what the shim would never send included.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use binder::ids::GuestId;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, Limits, Profile};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{BinderDevice, Counters, Ram, Recorder, SharedDomain, Timing, Trouble, wire};
use crate::testing::{Deaf, Driver, EPOCH, POST, WRITE};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::status::DEVICE_NEEDS_RESET;

/// Where the test's pages are: out, in, and event buffers behind them.
const OUT: u64 = 0x8_0000;
const IN: u64 = 0x8_1000;
const EVENTS: u64 = 0x9_0000;

const EPROTO: i32 = -71;
const EIO: i32 = -5;

struct Guest {
    driver: Driver,
    counters: Arc<Mutex<Counters>>,
    wakes: Arc<Mutex<u32>>,
}

/// Records the steps in a word each; the second message finds that something is missing.
#[derive(Clone, Default)]
struct Gappy(Arc<Mutex<Vec<String>>>);

impl Gappy {
    fn note(&self, step: String) {
        self.0.lock().unwrap().push(step);
    }
}

impl Recorder for Gappy {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn enabled(&self) -> bool {
        false
    }

    fn record(&mut self, _at: Duration, _guest: GuestId, _event: &TraceEvent) {}

    fn replays(&self) -> bool {
        true
    }

    fn step(&mut self, _at: Duration, _guest: GuestId, step: &Step) {
        let step = format!("{step:?}");
        self.note(step.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned());
    }

    fn message(&mut self, _at: Duration, _guest: GuestId, _bytes: &[u8]) {
        self.note("Message".to_owned());
    }

    fn answer(&mut self, _at: Duration, _guest: GuestId, _reads: &Reads, _page: &[u8]) {
        self.note("Answer".to_owned());
    }

    fn has_gap(&self) -> bool {
        let steps = self.0.lock().unwrap();
        steps.iter().any(|step| step == "Answer") && !steps.iter().any(|step| step.starts_with("mended"))
    }

    fn mend(&mut self, _at: Duration, _guest: GuestId, domain: &Domain, rams: &[(GuestId, Ram)]) {
        let pages: u64 = rams.iter().flat_map(|(_, ram)| ram).map(|(_, pages)| pages).sum();
        let guests: Vec<GuestId> = rams.iter().map(|(guest, _)| *guest).collect();
        assert_eq!(guests, domain.guests().collect::<Vec<_>>());
        self.note(format!("mended with {} files, {}", domain.open_files(guests[0]).count(), pages > 0));
    }
}

fn device(timing: Timing, limits: &Limits) -> BinderDevice {
    recorded(timing, limits, Box::new(Deaf::default()))
}

fn recorded(timing: Timing, limits: &Limits, recorder: Box<dyn Recorder>) -> BinderDevice {
    let domain = SharedDomain::new(Domain::new(limits.clone(), Profile::default()));
    BinderDevice::new(domain, GuestId(0), limits, timing, recorder)
}

impl Guest {
    fn inline() -> Guest {
        Guest::start(|_| Timing::Inline, 1 << wire::F_INLINE)
    }

    fn direct() -> Guest {
        Guest::start(|_| Timing::Inline, 1 << wire::F_INLINE | 1 << wire::F_DIRECT)
    }

    fn late() -> Guest {
        let timing = |wakes: Arc<Mutex<u32>>| Timing::Late {
            seed: 3,
            waker: Box::new(move || *wakes.lock().unwrap() += 1),
        };
        Guest::start(timing, 0)
    }

    fn start(timing: impl FnOnce(Arc<Mutex<u32>>) -> Timing, features: u64) -> Guest {
        let wakes = Arc::default();
        let device = device(timing(Arc::clone(&wakes)), &Limits::default());
        Guest::of(device, features, wakes)
    }

    fn of(device: BinderDevice, features: u64, wakes: Arc<Mutex<u32>>) -> Guest {
        let counters = device.counters();
        Guest { driver: Driver::start(Box::new(device), features), counters, wakes }
    }

    fn epoch(&self) -> u32 {
        self.driver.read(EPOCH)
    }

    /// A message of `kind` without a body.
    fn header(&self, kind: u16) -> wire::Header {
        let mut header = wire::Header::new_zeroed();
        header.kind = kind.into();
        header.epoch = self.epoch().into();
        header.length = (size_of::<wire::Header>() as u32).into();
        header
    }

    fn put(&mut self, page: &[u8]) {
        self.driver.ram.write_slice(page, GuestAddress(OUT)).unwrap();
        self.driver.add(wire::REQUEST_QUEUE, &[(OUT, 4096, 0), (IN, 4096, WRITE)]);
    }

    fn answer(&self) -> wire::Answer {
        let bytes = self.driver.bytes(IN, size_of::<wire::Answer>());
        wire::Answer::read_from_bytes(&bytes).unwrap()
    }

    /// Posts a message, kicks, and gives the answer that must be there then.
    fn send(&mut self, page: &[u8]) -> wire::Answer {
        self.put(page);
        self.driver.kick(wire::REQUEST_QUEUE);
        assert_eq!(self.driver.used(wire::REQUEST_QUEUE).len(), 1);
        self.answer()
    }

    /// Posts a message without a queue, and gives the answer that must be behind it then.
    fn send_direct(&mut self, page: &[u8]) -> wire::Answer {
        self.driver.ram.write_slice(page, GuestAddress(OUT)).unwrap();
        self.driver.ram.write_slice(&[0; 2], GuestAddress(IN)).unwrap();
        self.driver.write(POST, (OUT >> 12) as u32);
        assert!(self.driver.used(wire::REQUEST_QUEUE).is_empty());
        self.answer()
    }

    /// Arms thread `tid` of `proc`.
    fn poll(&mut self, proc: u32, tid: u32) {
        let mut header = self.header(wire::kind::POLL);
        header.proc = proc.into();
        header.tid = tid.into();
        assert_eq!(self.send_direct(header.as_bytes()).error.get(), 0);
    }

    /// Wakes the threads of `proc` that are armed, by a message that is no thread's.
    fn flush(&mut self, proc: u32) -> wire::Answer {
        let mut header = self.header(wire::kind::FLUSH);
        header.proc = proc.into();
        self.send_direct(header.as_bytes())
    }

    /// Kind and thread of the events that an answer carries.
    fn carried(&self, answer: &wire::Answer) -> Vec<(u16, u32)> {
        let mut at = IN + u64::from(answer.event_offset.get());
        let events = (0..answer.event_count.get()).map(|_| {
            let mut event = wire::Event::new_zeroed();
            let head = self.driver.bytes(at, wire::EVENT_HEAD);
            event.as_mut_bytes()[..wire::EVENT_HEAD].copy_from_slice(&head);
            at += (wire::EVENT_HEAD as u64 + u64::from(event.length.get())).next_multiple_of(8);
            (event.kind.get(), event.tid.get())
        });
        events.collect()
    }

    fn malformed(&self) -> u64 {
        self.counters.lock().unwrap().malformed
    }
}

/// Opens the context "binder" for process 100.
fn open_page(header: wire::Header) -> Vec<u8> {
    let name = b"binder";
    let offset = size_of::<wire::Header>() + size_of::<wire::Open>();
    let mut open = wire::Open::new_zeroed();
    open.tgid = 100.into();
    open.name_offset = (offset as u32).into();
    open.name_length = (name.len() as u32).into();
    let mut header = header;
    header.kind = wire::kind::OPEN.into();
    header.tid = 100.into();
    header.length = ((offset + name.len()) as u32).into();
    [header.as_bytes(), open.as_bytes(), name].concat()
}

#[test]
fn the_config_space_names_version_and_epoch() {
    let guest = Guest::inline();
    assert_eq!(guest.driver.read(0x100), wire::VERSION);
    assert_eq!(guest.driver.read(0x104), 2, "one reset by the driver's start");
    let bits = wire::driver::FREEZE_NOTIFICATION | wire::driver::HASHED_LOGS;
    assert_eq!(guest.driver.read(0x100 + 24), bits, "what 7.2 has");
    assert_eq!(guest.driver.read(POST), 0, "is for writing");
    assert_eq!(guest.driver.read(0x100 + 32), 0, "behind the end");
}

#[test]
fn open_is_answered_inside_the_doorbell_without_an_interrupt() {
    let mut guest = Guest::inline();
    let page = open_page(guest.header(0));
    let answer = guest.send(&page);
    assert_eq!((answer.status.get(), answer.error.get()), (wire::status::DONE, 0));
    assert_ne!(answer.proc.get(), 0);
    assert_eq!(guest.driver.pulses(), 0);
}

#[test]
fn a_recording_that_lacks_something_is_told_the_domain_before_the_next_message() {
    let recorder = Gappy::default();
    let device = recorded(Timing::Inline, &Limits::default(), Box::new(recorder.clone()));
    let mut guest = Guest::of(device, 1 << wire::F_INLINE | 1 << wire::F_DIRECT, Arc::default());
    for _ in 0..3 {
        let page = open_page(guest.header(0));
        assert_eq!(guest.send_direct(&page).error.get(), 0);
    }
    let told = recorder.0.lock().unwrap().clone();
    let first = ["Start", "Features", "Ram", "Message", "Answer"];
    assert_eq!(told[..5], first);
    assert_eq!(told[5..], ["mended with 1 files, true", "Message", "Answer", "Message", "Answer"]);
}

#[test]
fn an_unknown_kind_is_a_protocol_error() {
    let mut guest = Guest::inline();
    // Between those that are defined, and far from them.
    for kind in [0, 13, 14, 31, 35, 99, u16::MAX] {
        let page = guest.header(kind);
        let answer = guest.send(page.as_bytes());
        assert_eq!((answer.status.get(), answer.error.get()), (wire::status::DONE, EPROTO), "kind {kind}");
    }
    assert_eq!(guest.malformed(), 7);
    assert_eq!(guest.driver.status() & DEVICE_NEEDS_RESET, 0);
}

#[test]
fn offsets_and_counts_that_lead_out_of_the_message_are_protocol_errors() {
    let mut guest = Guest::inline();
    let whole = open_page(guest.header(0));
    let break_at = |at: usize, value: u32| {
        let mut page = whole.clone();
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        page
    };
    let length_field = 40;
    let name_offset = 64 + 8;
    let name_length = 64 + 12;
    for page in [
        break_at(length_field, 0),
        break_at(length_field, 63),
        break_at(length_field, 70),
        break_at(length_field, 4097),
        break_at(length_field, u32::MAX),
        break_at(name_offset, 4096),
        break_at(name_offset, u32::MAX),
        break_at(name_length, u32::MAX),
        break_at(name_length, 7),
    ] {
        assert_eq!(guest.send(&page).error.get(), EPROTO);
    }
    assert_eq!(guest.send(&whole).error.get(), 0, "and the device goes on");
}

#[test]
fn a_message_is_read_as_far_as_it_goes_and_no_farther_than_its_page() {
    let mut guest = Guest::inline();
    let whole = open_page(guest.header(0));
    let end = size_of::<wire::Header>() + size_of::<wire::Open>();
    // The name stands anywhere in the page, up to its last byte.
    for offset in [end, 505, 506, 507, 512, 513, 3000, 4090] {
        let mut page = [&whole[..end], &vec![0xff; offset - end], b"binder"].concat();
        page[40..44].copy_from_slice(&((offset + 6) as u32).to_le_bytes());
        page[72..76].copy_from_slice(&(offset as u32).to_le_bytes());
        assert_eq!(guest.send(&page).error.get(), 0, "at {offset}");
        // The driver's descriptor is shorter than the message says.
        for length in [0, 63, 64, offset as u32 + 5] {
            guest.driver.ram.write_slice(&page, GuestAddress(OUT)).unwrap();
            guest.driver.add(wire::REQUEST_QUEUE, &[(OUT, length, 0), (IN, 4096, WRITE)]);
            guest.driver.kick(wire::REQUEST_QUEUE);
            assert_eq!(guest.driver.used(wire::REQUEST_QUEUE).len(), 1);
            assert_eq!(guest.answer().error.get(), EPROTO, "at {offset}, {length} bytes");
        }
        // Nothing of the message before is left.
        page[40..44].copy_from_slice(&(offset as u32).to_le_bytes());
        assert_eq!(guest.send(&page).error.get(), EPROTO, "at {offset}, cut");
    }
}

#[test]
fn a_continue_that_nobody_waits_for_is_a_protocol_error() {
    let mut guest = Guest::inline();
    for reason in [wire::reason::MORE, wire::reason::NEEDS, wire::reason::INSTALL, 77] {
        let mut header = guest.header(wire::kind::CONTINUE);
        header.length = ((size_of::<wire::Header>() + size_of::<wire::Continue>()) as u32).into();
        let mut body = wire::Continue::new_zeroed();
        body.reason = reason.into();
        let page = [header.as_bytes(), body.as_bytes()].concat();
        assert_eq!(guest.send(&page).error.get(), EPROTO, "reason {reason}");
    }
}

#[test]
fn a_message_of_an_older_epoch_gets_eio() {
    let mut guest = Guest::inline();
    let page = open_page(guest.header(0));
    let stale = guest.epoch();
    guest.driver.restart(1 << wire::F_INLINE);
    assert_eq!(guest.epoch(), stale + 1);
    assert_eq!(guest.send(&page).error.get(), EIO);
}

#[test]
fn pages_that_are_no_pages_cost_the_guest_its_answer_only() {
    let mut guest = Guest::inline();
    let page = open_page(guest.header(0));
    guest.driver.ram.write_slice(&page, GuestAddress(OUT)).unwrap();
    let outside = 1 << 30;
    for chain in [
        vec![(OUT, 4096, 0)],
        vec![(IN, 4096, WRITE)],
        vec![(IN, 4096, WRITE), (OUT, 4096, 0)],
        vec![(outside, 4096, 0), (IN, 4096, WRITE)],
        vec![(OUT, 4096, 0), (outside, 4096, WRITE)],
        vec![(OUT, 4096, 0), (IN, 8, WRITE)],
        vec![(OUT, 0, 0), (IN, 4096, WRITE)],
    ] {
        guest.driver.add(wire::REQUEST_QUEUE, &chain);
        guest.driver.kick(wire::REQUEST_QUEUE);
        assert_eq!(guest.driver.used(wire::REQUEST_QUEUE).len(), 1, "{chain:x?}");
    }
    assert_eq!(guest.driver.status() & DEVICE_NEEDS_RESET, 0);
    assert_eq!(guest.send(&page).error.get(), 0);
}

#[test]
fn an_impossible_ring_takes_the_device_out_of_order_until_its_reset() {
    let mut guest = Guest::inline();
    guest.driver.set_available(wire::REQUEST_QUEUE, 5000);
    guest.driver.kick(wire::REQUEST_QUEUE);
    assert_ne!(guest.driver.status() & DEVICE_NEEDS_RESET, 0);
    guest.driver.restart(1 << wire::F_INLINE);
    let page = open_page(guest.header(0));
    assert_eq!(guest.send(&page).error.get(), 0);
}

#[test]
fn a_late_device_answers_at_its_turns_with_interrupts_and_in_order() {
    let mut guest = Guest::late();
    for n in 0..6 {
        let page = open_page(guest.header(0));
        let at = EVENTS + n * 0x2000;
        guest.driver.ram.write_slice(&page, GuestAddress(at)).unwrap();
        guest.driver.add(wire::REQUEST_QUEUE, &[(at, 4096, 0), (at + 0x1000, 4096, WRITE)]);
    }
    guest.driver.kick(wire::REQUEST_QUEUE);
    assert!(guest.driver.used(wire::REQUEST_QUEUE).is_empty(), "not inside the doorbell");
    assert_eq!(*guest.wakes.lock().unwrap(), 1);

    let mut heads = Vec::new();
    for _ in 0..50 {
        guest.driver.transport.service();
        heads.extend(guest.driver.used(wire::REQUEST_QUEUE).into_iter().map(|(head, _)| head));
    }
    assert_eq!(heads, [0, 2, 4, 6, 8, 10]);
    assert!(guest.driver.pulses() > 1, "several turns, each with its interrupt");
}

#[test]
fn a_driver_without_inline_is_refused_by_an_inline_device() {
    let limits = Limits::default();
    let domain = SharedDomain::new(Domain::new(limits.clone(), Profile::default()));
    let device = BinderDevice::new(domain, GuestId(0), &limits, Timing::Inline, Box::new(Deaf::default()));
    let mut driver = Driver::cold(Box::new(device));
    driver.negotiate(0);
    for queue in 0..2 {
        driver.place_queue(queue, GuestAddress(0x1_0000 + u64::from(queue) * 0x2000));
    }
    driver.write(0x070, driver.status() | 4);
    assert_ne!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

/// PROTOCOL.md 35.
#[test]
fn a_restored_world_goes_on_with_its_own_quotas() {
    let mut guest = Guest::inline();
    let page = open_page(guest.header(0));
    let first = guest.send(&page).proc.get();
    let epoch = guest.epoch();
    let other = Limits { max_procs: 7, ..Limits::default() };
    guest.driver.reload(Box::new(device(Timing::Inline, &other)));
    assert_eq!(guest.epoch(), epoch);
    assert_eq!(guest.driver.read(0x10c), Limits::default().max_procs);
    let mut flush = guest.header(wire::kind::FLUSH);
    flush.proc = first.into();
    assert_eq!(guest.send(flush.as_bytes()).error.get(), 0, "the process is there");
    assert_eq!(guest.send(&page).proc.get(), first + 1);
}

#[test]
fn messages_that_wait_are_answered_after_a_restore() {
    let mut guest = Guest::late();
    let page = open_page(guest.header(0));
    guest.put(&page);
    guest.driver.kick(wire::REQUEST_QUEUE);
    let wakes = Arc::new(Mutex::new(0));
    let woken = wakes.clone();
    let timing = Timing::Late { seed: 99, waker: Box::new(move || *woken.lock().unwrap() += 1) };
    guest.driver.reload(Box::new(device(timing, &Limits::default())));
    assert_eq!(*wakes.lock().unwrap(), 1, "it asks for its turn");
    (0..50).for_each(|_| guest.driver.transport.service());
    assert_eq!(guest.driver.used(wire::REQUEST_QUEUE).len(), 1);
    assert_ne!(guest.answer().proc.get(), 0);
}

#[test]
fn what_no_device_was_saved_as_is_refused() {
    let limits = Limits::default();
    // Before features are negotiated: afterwards they tell the two apart already.
    let late = Timing::Late { seed: 1, waker: Box::new(|| ()) };
    let cold = Driver::cold(Box::new(device(late, &limits)));
    let error = cold.restored(&cold.saved(), Box::new(device(Timing::Inline, &limits))).err();
    assert_eq!(error.as_deref(), Some("its binder device did not answer inline"));

    let greedy = device(Timing::Inline, &Limits { max_procs: u32::MAX, ..Limits::default() });
    let guest = Driver::start(Box::new(greedy), 1 << wire::F_INLINE);
    let error = guest.restored(&guest.saved(), Box::new(device(Timing::Inline, &limits))).err();
    assert_eq!(
        error.as_deref(),
        Some("the binder world contradicts itself: its quotas are more than allowed")
    );
}

#[test]
fn a_guest_of_a_shared_world_is_not_saved() {
    let limits = Limits::default();
    let domain = SharedDomain::new(Domain::new(limits.clone(), Profile::default()));
    domain.join(GuestId(5), Box::new(|| ()));
    let device = BinderDevice::new(domain, GuestId(0), &limits, Timing::Inline, Box::new(Deaf::default()));
    let driver = Driver::start(Box::new(device), 1 << wire::F_INLINE);
    assert!(
        driver.transport.save().is_err_and(|error| error.to_string().contains("shares its binder world"))
    );
}

/// A driver beside others in one world, and how often it was woken.
fn member(domain: &SharedDomain, id: u32) -> (Guest, Arc<Mutex<Counters>>) {
    let guest = GuestId(id);
    let wakes: Arc<Mutex<u32>> = Arc::default();
    let woken = wakes.clone();
    domain.join(guest, Box::new(move || *woken.lock().unwrap() += 1));
    let device = BinderDevice::new(
        domain.clone(),
        guest,
        &Limits::default(),
        Timing::Inline,
        Box::new(Deaf::default()),
    );
    let counters = device.counters();
    let driver = Driver::start(Box::new(device), 1 << wire::F_INLINE);
    (Guest { driver, counters: counters.clone(), wakes }, counters)
}

/// Posts a message of a thread of `proc` with `body` behind the header.
fn post(guest: &mut Guest, kind: u16, proc: u32, seq: u64, body: &[u8]) -> wire::Answer {
    let mut header = guest.header(kind);
    header.proc = proc.into();
    header.tid = 100.into();
    header.seq = seq.into();
    header.length = ((size_of::<wire::Header>() + body.len()) as u32).into();
    guest.send(&[header.as_bytes(), body].concat())
}

#[test]
fn a_guest_of_a_shared_world_reaches_its_own_processes_alone() {
    let domain = SharedDomain::new(Domain::new(Limits::default(), Profile::default()));
    let (mut one, _) = member(&domain, 0);
    let (mut other, counters) = member(&domain, 1);
    let manager = one.send(&open_page(one.header(0))).proc.get();
    let client = other.send(&open_page(other.header(0))).proc.get();
    assert_ne!(manager, client, "ids are of the world");

    // A flush makes the own armed thread readable, and wakes nobody else.
    assert_eq!(post(&mut one, wire::kind::POLL, manager, 0, &[]).error.get(), 0);
    post(&mut other, wire::kind::FLUSH, client, 0, &[]);
    assert_eq!(*one.wakes.lock().unwrap(), 0);

    // Nor may it name that guest's processes.
    assert_eq!(post(&mut other, wire::kind::FLUSH, manager, 0, &[]).error.get(), -9, "EBADF");
    assert_eq!(domain.census(GuestId(0)).procs, 1);

    drop(one);
    domain.leave(GuestId(0), &mut Deaf::default());
    assert_eq!((domain.census(GuestId(0)).procs, domain.census(GuestId(1)).procs), (0, 1));
    post(&mut other, wire::kind::FLUSH, client, 0, &[]);
    assert_eq!(counters.lock().unwrap().malformed, 0);
}

/// PROTOCOL.md 1, direct.
#[test]
fn a_message_in_the_register_is_answered_behind_itself() {
    let mut guest = Guest::direct();
    let page = open_page(guest.header(0));
    let answer = guest.send_direct(&page);
    assert_eq!((answer.status.get(), answer.error.get()), (wire::status::DONE, 0));
    assert_ne!(answer.proc.get(), 0);
    assert_eq!(answer.event_count.get(), 0);
    let counters = *guest.counters.lock().unwrap();
    assert_eq!((counters.doorbells, counters.messages, counters.interrupts), (1, 1, 0));
    // What is no message is told so, as by the queue; which goes on working beside it.
    let unknown = guest.header(99);
    assert_eq!(guest.send_direct(unknown.as_bytes()).error.get(), EPROTO);
    assert_eq!(guest.send(&page).proc.get(), answer.proc.get() + 1);
}

#[test]
fn an_answer_carries_the_events_that_its_message_caused() {
    let mut guest = Guest::direct();
    let page = open_page(guest.header(0));
    let proc = guest.send_direct(&page).proc.get();
    guest.poll(proc, 100);
    guest.poll(proc, 101);
    let answer = guest.flush(proc);
    assert_eq!(guest.carried(&answer), [(wire::event::POLL, 100), (wire::event::POLL, 101)]);
    assert!(guest.driver.used(wire::EVENT_QUEUE).is_empty());
    assert_eq!(guest.driver.pulses(), 0);
    assert_eq!(guest.counters.lock().unwrap().events, 2);
}

#[test]
fn events_for_which_an_answer_has_no_room_take_the_queue_and_what_has_none_stays() {
    let mut guest = Guest::direct();
    let page = open_page(guest.header(0));
    let proc = guest.send_direct(&page).proc.get();
    (0..200).for_each(|n| guest.poll(proc, 100 + n));
    for n in 0..50 {
        guest.driver.add(wire::EVENT_QUEUE, &[(EVENTS + n * 256, 256, WRITE)]);
    }
    let answer = guest.flush(proc);
    let mut tids: Vec<_> = guest.carried(&answer).into_iter().map(|(_, tid)| tid).collect();
    assert!((15..100).contains(&tids.len()), "{} in the answer", tids.len());
    assert_eq!(guest.driver.pulses(), 1, "somebody has to look at the queue");
    let events = guest.driver.used(wire::EVENT_QUEUE).len() as u64;
    assert_eq!(events, 50);
    let tid = std::mem::offset_of!(wire::Event, tid) as u64;
    tids.extend((0..events).map(|n| {
        let bytes = guest.driver.bytes(EVENTS + n * 256 + tid, 4);
        u32::from_le_bytes(bytes.try_into().unwrap())
    }));
    // The next message takes along what still waits.
    while tids.len() < 200 {
        let unknown = guest.header(99);
        let answer = guest.send_direct(unknown.as_bytes());
        assert_ne!(answer.event_count.get(), 0, "after {}", tids.len());
        tids.extend(guest.carried(&answer).into_iter().map(|(_, tid)| tid));
    }
    assert!(tids.into_iter().eq(100..300), "each once, in the order of the core");
}

#[test]
fn a_register_that_names_no_page_costs_the_guest_its_answer_only() {
    let mut guest = Guest::direct();
    let page = open_page(guest.header(0));
    let last = (guest.driver.ram.iter().map(|piece| piece.len()).sum::<u64>() >> 12) as u32 - 1;
    for pfn in [last, last + 1, 1 << 20, u32::MAX] {
        guest.driver.write(POST, pfn);
    }
    // Not as one word: that is no post.
    guest.driver.transport.write(POST, &[0; 8]);
    guest.driver.transport.write(POST + 1, &[0; 2]);
    assert_eq!(guest.driver.status() & DEVICE_NEEDS_RESET, 0);
    assert_eq!(guest.counters.lock().unwrap().doorbells, 4);
    assert_eq!(guest.send_direct(&page).error.get(), 0);
}

#[test]
fn the_register_is_nothing_to_whom_did_not_accept_it() {
    for mut guest in [Guest::inline(), Guest::late()] {
        let page = open_page(guest.header(0));
        assert_eq!(guest.send_direct(&page).status.get(), 0);
        let counters = *guest.counters.lock().unwrap();
        assert_eq!((counters.doorbells, counters.messages), (0, 0));
    }
    // Nor is it offered by a device that must not be inline, or is to be short of queue entries.
    let limits = Limits::default();
    let late = device(Timing::Late { seed: 1, waker: Box::new(|| ()) }, &limits);
    let tight = device(Timing::Inline, &limits).with(Trouble { tight: true, ..Trouble::default() });
    for device in [late, tight] {
        assert_eq!(device.features() & 1 << wire::F_DIRECT, 0);
    }
}

/// PROTOCOL.md 8.
#[test]
fn a_device_that_fails_in_the_register_answers_nothing() {
    let trouble = Trouble { fails_after: Some(1), ..Trouble::default() };
    let device = device(Timing::Inline, &Limits::default()).with(trouble);
    let counters = device.counters();
    let driver = Driver::start(Box::new(device), 1 << wire::F_INLINE | 1 << wire::F_DIRECT);
    let mut guest = Guest { driver, counters, wakes: Arc::default() };
    let page = open_page(guest.header(0));
    assert_eq!(guest.send_direct(&page).status.get(), wire::status::DONE);
    assert_eq!(guest.send_direct(&page).status.get(), 0);
    assert_ne!(guest.driver.status() & DEVICE_NEEDS_RESET, 0);
}
