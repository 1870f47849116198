use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use binder::replay::{CORE, RecordedPages};
use binder::{Body, Header, Limits, Message, NotRam, Open, PageByte, Pages, Pfn, Profile};
use binder_trace::recording::{self, Reader, VERSION, Writer};
use binder_trace::replay::Replay;
use binder_trace::told::Told;
use binder_wire::{encode, request};
use engine::Kind;
use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

const GUEST: GuestId = GuestId(0);
const EPOCH: u32 = 2;

/// More than any test takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Messages about open files need none.
struct NoPages;

impl Pages for NoPages {
    fn is_ram(&self, _: GuestId, _: Pfn) -> bool {
        false
    }

    fn read(&self, _: PageByte, _: &mut [u8]) -> Result<(), NotRam> {
        Err(NotRam)
    }

    fn write(&self, _: PageByte, _: &[u8]) -> Result<(), NotRam> {
        Err(NotRam)
    }

    fn copy(&self, _: PageByte, _: PageByte, _: u64) -> Result<(), NotRam> {
        Err(NotRam)
    }
}

/// A guest whose processes open the device, and the way from its device into the recording.
struct Guest {
    domain: Domain,
    tap: Tap,
    /// What each message caused.
    events: Vec<Vec<TraceEvent>>,
}

impl Guest {
    fn new(recording: &Recording) -> Guest {
        let mut domain = Domain::new(Limits::default(), Profile::default());
        domain.attach(GUEST);
        let mut guest = Guest { domain, tap: recording.tap(), events: Vec::new() };
        if guest.tap.replays() {
            guest.tap.step(Duration::ZERO, GUEST, &Step::Start(Box::new(guest.domain.clone())));
            guest.tap.step(Duration::ZERO, GUEST, &Step::Ram(vec![(Pfn(0), 16)]));
            guest.tap.commit();
        }
        guest
    }

    /// A process opens the device and closes it, as the device has a message handled.
    fn come_and_go(&mut self) {
        let tgid = Pid(1 + self.events.len() as u32);
        let open = Open { tgid, context: b"binder".to_vec(), ..Open::default() };
        let proc =
            self.message(Message { header: Header::default(), body: Body::Open(open) }).expect("a file");
        let header = Header { proc: proc.0, ..Header::default() };
        self.message(Message { header, body: Body::Release });
    }

    fn message(&mut self, message: Message) -> Option<binder::ProcId> {
        let at = Duration::from_micros(self.events.len() as u64);
        if self.tap.has_gap() {
            self.tap.mend(at, GUEST, &self.domain, &[(GUEST, vec![(Pfn(0), 16)])]);
        }
        let mut events: Vec<TraceEvent> = Vec::new();
        let pages = RecordedPages::new(NoPages, Reads::default());
        if self.tap.replays() {
            let bytes = request::message(&message, EPOCH, [0; 16]);
            self.tap.message(at, GUEST, &bytes);
        }
        let mut answer = self.domain.handle_on(&pages, GUEST, &message, &mut events);
        if self.tap.enabled() {
            events.iter().for_each(|event| self.tap.record(at, GUEST, event));
        }
        if self.tap.replays() {
            let reads = pages.into_reads();
            let mut page = Vec::new();
            assert!(encode::answer(&mut answer, EPOCH, &mut page));
            self.tap.answer(at, GUEST, &reads, &page);
        }
        self.tap.commit();
        self.events.push(events);
        answer.proc
    }
}

/// A pipe whose reader begins when it is told to, and gives all there was.
fn slow_file(path: &Path) -> (Sender<()>, JoinHandle<Vec<u8>>) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    let (tell, told) = channel();
    let path = path.to_owned();
    let reader = thread::spawn(move || {
        let mut pipe = File::open(path).unwrap();
        let _ = told.recv();
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    });
    (tell, reader)
}

fn target(option: &str) -> TraceTarget {
    let path = Path::new("t").to_owned();
    TraceTarget { path, payload: 0, host_times: option == "host-times", replay: option == "replay" }
}

/// A recording of a guest on KVM into a file that is too slow for it, and what the guest did before and behind the gap.
fn with_a_gap(option: &str, part: bool) -> (Vec<u8>, Vec<TraceEvent>, Vec<TraceEvent>, Lost) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let (tell, reader) = slow_file(&path);
    let target = target(option);
    let header = recording::Header {
        version: VERSION,
        core: CORE.to_owned(),
        replay: target.replay,
        has_end: true,
        ..recording::Header::default()
    };
    let writer = Writer::create(&path, &header).unwrap();
    let sink = Sink::with_room(writer, Kind::Kvm, 32 << 10).unwrap();
    let clock = GuestClock::host(Instant::now());
    let recording = Recording::new(clock, Some(sink), Some(&target), false, part);
    let mut guest = Guest::new(&recording);
    // More than fits into the pipe, the writer's own buffer and ours.
    let until = Instant::now() + LIMIT;
    let mut before = 0;
    while recording.lost().is_none() {
        assert!(Instant::now() < until, "everything found room");
        before = guest.events.len();
        guest.come_and_go();
    }
    (0..20).for_each(|_| guest.come_and_go());
    let lost = lock(&recording.shared).lost;
    assert!(!guest.tap.has_gap(), "there is no room yet");
    drop(tell);
    while !guest.tap.has_gap() {
        assert!(Instant::now() < until, "the buffer was not emptied");
        thread::sleep(Duration::from_millis(1));
    }
    let behind = guest.events.len();
    (0..20).for_each(|_| guest.come_and_go());
    assert_eq!(lock(&recording.shared).lost, lost, "there is room now");
    recording.finish().unwrap();
    // The process that found no room came or went unseen; a later one did both.
    let seen = lost.messages.max(lost.events) as usize;
    assert!(seen >= 40, "{lost:?}");
    let Guest { mut events, tap, .. } = guest;
    let behind = events.split_off(behind).concat();
    events.truncate(before + 1);
    drop((tap, recording));
    (reader.join().unwrap(), events.concat(), behind, lost)
}

/// The events that a reader makes, in two parts, with what is told between them.
fn told(bytes: &[u8]) -> (Vec<TraceEvent>, Lost, Vec<TraceEvent>) {
    let (mut before, mut lost, mut behind) = (Vec::new(), None, Vec::new());
    for record in Told::new(Reader::new(bytes).unwrap()) {
        match record.unwrap() {
            Record::Lost(more) => assert!(lost.replace(more).is_none(), "one gap, one guest"),
            Record::Event(event) if lost.is_none() => before.push(event.event),
            Record::Event(event) => behind.push(event.event),
            _ => {}
        }
    }
    (before, lost.expect("the file tells what is missing"), behind)
}

#[test]
fn what_the_disk_is_too_slow_for_is_counted_and_both_sides_of_it_replay() {
    for option in ["", "replay", "host-times"] {
        let (bytes, did_before, did_behind, lost) = with_a_gap(option, false);
        let (before, told_lost, behind) = told(&bytes);
        assert_eq!(told_lost, Lost { guest: Some(GUEST), ..lost });
        assert_eq!(told_lost.events > 0, option == "replay");
        assert!(did_before.starts_with(&before) && before.len() + 20 > did_before.len());
        assert_eq!(behind, did_behind);

        let reader = Reader::new(bytes.as_slice()).unwrap();
        let mut replay = Replay::of(reader.header());
        reader.for_each(|record| replay.record(&record.unwrap()).unwrap());
        assert!(replay.domain().is_some());
        let compared = replay.finish().unwrap();
        assert_eq!((compared.lost.messages, compared.lost.events), (lost.messages, lost.events));
        assert!(compared.messages > 40);
    }
}

#[test]
fn a_part_of_a_domain_goes_on_behind_what_is_missing() {
    let (bytes, did_before, did_behind, lost) = with_a_gap("", true);
    let (before, told_lost, behind) = told(&bytes);
    assert_eq!(told_lost, Lost { guest: Some(GUEST), ..lost });
    assert!(lost.messages == 0 && did_before.starts_with(&before));
    assert_eq!(behind, did_behind);
}

#[test]
fn a_guest_on_the_soft_engine_waits_for_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let (tell, reader) = slow_file(&path);
    let target = target("");
    let header =
        recording::Header { version: VERSION, core: CORE.to_owned(), ..recording::Header::default() };
    let writer = Writer::create(&path, &recording::Header { has_end: true, ..header }).unwrap();
    let sink = Sink::with_room(writer, Kind::Soft, 16).unwrap();
    let recording = Recording::new(GuestClock::host(Instant::now()), Some(sink), Some(&target), false, false);
    let theirs = recording.clone();
    let guest = thread::spawn(move || {
        let mut guest = Guest::new(&theirs);
        (0..20_000).for_each(|_| guest.come_and_go());
        guest.events
    });
    tell.send(()).unwrap();
    let did = guest.join().unwrap().concat();
    recording.finish().unwrap();
    assert!(recording.lost().is_none());
    drop(recording);
    let bytes = reader.join().unwrap();
    let told = Told::new(Reader::new(bytes.as_slice()).unwrap());
    let events = told.filter_map(|record| match record.unwrap() {
        Record::Event(event) => Some(event.event),
        Record::Lost(lost) => panic!("{lost}"),
        _ => None,
    });
    assert_eq!(events.collect::<Vec<_>>(), did);
}
