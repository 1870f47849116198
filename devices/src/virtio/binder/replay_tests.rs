//! What a device records, replayed: whatever its guests send, and however it answers, the recording lacks nothing.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use binder::errno::Errno;
use binder::ids::{GuestId, Pfn, Pid, Seq, Tid};
use binder::message::{
    Body, Chunk, Continue, Header, Ioctl, Message, NeedResult, Open, Outcome, Range, RangeData,
};
use binder::protocol::{Command, TransactionData, ioctl, tf};
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, Limits, Profile};
use binder_trace::Stamped;
use binder_trace::recording::{self, Block, Reader, Record, VERSION, Writer};
use binder_trace::replay::{Compared, Replay};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, FromZeros};

use super::{BinderDevice, Recorder, SharedDomain, Timing, wire};
use crate::testing::{Driver, EPOCH, POST, WRITE};

const OUT: u64 = 0x8_0000;
const IN: u64 = 0x8_1000;
const EVENTS: u64 = 0x9_0000;
/// Where processes have their mappings.
const MAPPING: u64 = 0x5000_0000;

/// Records everything, in a file.
#[derive(Clone)]
struct Tap {
    file: Arc<Mutex<(Block, Writer<File>)>>,
    /// The trace events, too.
    events: bool,
}

impl Tap {
    fn with(&self, put: impl FnOnce(&mut Block)) {
        put(&mut self.file.lock().unwrap().0);
    }
}

impl Recorder for Tap {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn enabled(&self) -> bool {
        self.events
    }

    fn record(&mut self, at: Duration, guest: GuestId, event: &TraceEvent) {
        let event = Record::Event(Stamped { at, guest, event: event.clone() });
        self.with(|block| block.record(&event));
    }

    fn commit(&mut self) {
        let (block, writer) = &mut *self.file.lock().unwrap();
        block.end(|block| writer.block(&block));
    }

    fn replays(&self) -> bool {
        true
    }

    fn step(&mut self, at: Duration, guest: GuestId, step: &Step) {
        self.with(|block| block.step(at, guest, step));
    }

    fn message(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.with(|block| block.message(at, guest, bytes));
    }

    fn answer(&mut self, at: Duration, guest: GuestId, reads: &Reads, page: &[u8]) {
        self.with(|block| block.answer(at, guest, reads, page));
    }

    fn sent_event(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.with(|block| block.sent_event(at, guest, bytes));
    }
}

/// How a device gets its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Queue,
    Late,
}

/// What a driver does next.
#[derive(Clone, Debug)]
enum Act {
    Send(Body),
    /// What the last answer of this guest asked for.
    Supply,
    /// The device gets a turn.
    Serve,
    Restart,
}

/// How a message is sent: by which thread, to which file, and what is wrong with it.
#[derive(Clone, Debug)]
struct How {
    guest: usize,
    tid: u32,
    proc: u32,
    stale: bool,
    damage: Option<(Index, u8)>,
}

struct Guest {
    driver: Driver,
    way: Way,
    last: wire::Answer,
    /// The number of the last ioctl.
    seq: Seq,
}

impl Guest {
    fn new(world: &SharedDomain, id: GuestId, way: Way, tap: Tap) -> Guest {
        let timing = match way {
            Way::Late => Timing::Late { seed: 5, waker: Box::new(|| ()) },
            Way::Direct | Way::Queue => Timing::Inline,
        };
        let device = BinderDevice::new(world.clone(), id, &Limits::default(), timing, Box::new(tap));
        let mut guest = Guest {
            driver: Driver::cold(Box::new(device)),
            way,
            last: wire::Answer::new_zeroed(),
            seq: Seq(0),
        };
        guest.restart();
        guest
    }

    fn restart(&mut self) {
        let features = match self.way {
            Way::Direct => 1 << wire::F_INLINE | 1 << wire::F_DIRECT,
            Way::Queue => 1 << wire::F_INLINE,
            Way::Late => 0,
        };
        self.driver.restart(features);
        (0..20).for_each(|_| self.add_event_buffer());
    }

    fn add_event_buffer(&mut self) {
        self.driver.add(wire::EVENT_QUEUE, &[(EVENTS, wire::EVENT_SIZE as u32, WRITE)]);
    }

    fn send(&mut self, page: &[u8]) {
        self.driver.ram.write_slice(page, GuestAddress(OUT)).unwrap();
        if self.way == Way::Direct {
            self.driver.write(POST, (OUT >> 12) as u32);
        } else {
            self.driver.add(wire::REQUEST_QUEUE, &[(OUT, 4096, 0), (IN, 4096, WRITE)]);
            self.driver.kick(wire::REQUEST_QUEUE);
        }
        self.look();
    }

    /// Takes what the device has done since.
    fn look(&mut self) {
        self.driver.used(wire::REQUEST_QUEUE);
        let bytes = self.driver.bytes(IN, size_of::<wire::Answer>());
        self.last = wire::Answer::read_from_bytes(&bytes).unwrap();
        let used = self.driver.used(wire::EVENT_QUEUE).len();
        (0..used).for_each(|_| self.add_event_buffer());
    }

    /// What the last answer asked for, if it did.
    fn supply(&self) -> Option<Body> {
        if self.last.status.get() != wire::status::NEEDS {
            return None;
        }
        let (offset, count) = (self.last.list_offset.get(), self.last.list_count.get());
        let list = self.driver.bytes(IN + u64::from(offset), count as usize * size_of::<wire::Need>());
        let needs = list.chunks_exact(size_of::<wire::Need>());
        let results = needs.map(|need| {
            let need = wire::Need::read_from_bytes(need).unwrap();
            let pages = || (0..need.count.get()).map(|page| Pfn(150 + u64::from(page) % 64)).collect();
            let outcome = match need.kind.get() {
                wire::need::PAGES => Outcome::Pages(pages()),
                wire::need::DATA => Outcome::Data(payload(need.address.get(), 300)),
                _ => Outcome::None,
            };
            NeedResult { error: Errno::OK, outcome }
        });
        Some(Body::Continue(Continue::Needs(results.collect())))
    }
}

/// Memory of a sender, in pages.
fn payload(address: u64, length: u64) -> Range {
    let data = RangeData::Pages(vec![Pfn(100), Pfn(101)]);
    Range { address, length, readable: length, fault: false, data }
}

/// A BINDER_WRITE_READ.
fn write_read(commands: &[Command], length: u64, read: u64) -> Body {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| command.encode(&mut bytes));
    let fields = [bytes.len() as u64, 0, 0x1000, read, 0, 0x2000];
    let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    let ranges = vec![payload(0x10_0000, length), Range::default()];
    Body::Ioctl(Ioctl {
        cmd: ioctl::WRITE_READ,
        arg,
        chunk: Chunk { bytes, ranges, ..Chunk::default() },
        ..Ioctl::default()
    })
}

fn command() -> impl Strategy<Value = Command> {
    let data = (select(vec![0, tf::ONE_WAY]), select(vec![4, 300]));
    let data = data.prop_map(|(flags, data_size)| TransactionData {
        data: 0x10_0000,
        data_size,
        flags,
        ..Default::default()
    });
    prop_oneof![
        3 => data.clone().prop_map(Command::Transaction),
        2 => data.prop_map(Command::Reply),
        1 => Just(Command::EnterLooper),
        1 => (0..4u64).prop_map(|at| Command::FreeBuffer { data: MAPPING + 8 * at }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let open = (0..3u32).prop_map(|pid| {
        Body::Open(Open { tgid: Pid(100 + pid), context: b"binder".into(), ..Open::default() })
    });
    let manager = Body::Ioctl(Ioctl { cmd: ioctl::SET_CONTEXT_MGR, arg: vec![0; 4], ..Ioctl::default() });
    let calls = (prop::collection::vec(command(), 0..3), select(vec![4, 300]), select(vec![0, 256, 256]));
    let more = Body::Continue(Continue::More(Chunk::default()));
    let plain =
        [Body::Poll, Body::Flush, Body::Cancel, Body::Timeout, Body::Fetch, Body::Release, Body::Unmap, more];
    prop_oneof![
        2 => open.prop_map(Act::Send),
        2 => Just(Act::Send(Body::Mmap { address: MAPPING, length: 0x1_0000 })),
        2 => Just(Act::Send(manager)),
        8 => calls.prop_map(|(commands, length, read)| Act::Send(write_read(&commands, length, read))),
        3 => select(plain.to_vec()).prop_map(Act::Send),
        5 => Just(Act::Supply),
        2 => Just(Act::Serve),
        1 => prop::bool::weighted(0.1).prop_map(|rare| if rare { Act::Restart } else { Act::Serve }),
    ]
}

fn how() -> impl Strategy<Value = How> {
    let damage = prop::option::weighted(0.1, any::<(Index, u8)>());
    (0..2usize, 100..104u32, 1..4u32, prop::bool::weighted(0.04), damage)
        .prop_map(|(guest, tid, proc, stale, damage)| How { guest, tid, proc, stale, damage })
}

/// Does it all, and replays what was recorded of it.
fn run(ways: &[Way], events: bool, acts: &[(Act, How)]) -> Compared {
    let file = tempfile::NamedTempFile::new().unwrap();
    let header = recording::Header { version: VERSION, replay: events, has_end: true, ..Default::default() };
    let writer = Writer::create(file.path(), &header).unwrap();
    let tap = Tap { file: Arc::new(Mutex::new((Block::default(), writer))), events };
    let limits = Limits { trace_payload: 256, ..Limits::default() };
    let world = SharedDomain::new(Domain::new(limits, Profile::default()));
    let ids = (0..).map(GuestId);
    if ways.len() > 1 {
        ids.clone().take(ways.len()).for_each(|id| world.join(id, Box::new(|| ())));
    }
    let guests = ways.iter().zip(ids).map(|(way, id)| Guest::new(&world, id, *way, tap.clone()));
    let mut guests: Vec<Guest> = guests.collect();
    for (act, how) in acts {
        let guest = &mut guests[how.guest % ways.len()];
        let body = match act {
            Act::Send(body) => body.clone(),
            Act::Supply => match guest.supply() {
                Some(body) => body,
                None => continue,
            },
            Act::Serve => {
                guest.driver.transport.service();
                guest.look();
                continue;
            }
            Act::Restart => {
                guest.restart();
                continue;
            }
        };
        let proc = if matches!(body, Body::Open(_)) { 0 } else { how.proc };
        guest.seq.0 += u64::from(matches!(body, Body::Ioctl(_)));
        let header = Header { proc, tid: Tid(how.tid), seq: guest.seq, ..Header::default() };
        let epoch = if how.stale { 77 } else { guest.driver.read(EPOCH) };
        let mut page =
            binder_wire::request::message(&Message { header, body }, epoch, *b"a thread\0\0\0\0\0\0\0\0");
        if let Some((at, value)) = &how.damage {
            let at = at.index(page.len());
            page[at] = *value;
        }
        guest.send(&page);
    }
    drop(guests);
    let (block, writer) = &mut *tap.file.lock().unwrap();
    block.end(|block| writer.block(&block));
    writer.finish().unwrap();
    let reader = Reader::open(file.path()).unwrap();
    let mut replay = Replay::of(reader.header());
    for record in reader {
        replay.record(&record.unwrap()).unwrap();
    }
    replay.finish().unwrap()
}

/// A process that waits for what comes, and one of a guest, the same or another, that sends it a payload: with the pages
/// that it needs.
fn a_call(client: usize) -> Vec<(Act, How)> {
    let open =
        |pid| Act::Send(Body::Open(Open { tgid: Pid(pid), context: b"binder".into(), ..Open::default() }));
    let manager = Body::Ioctl(Ioctl { cmd: ioctl::SET_CONTEXT_MGR, arg: vec![0; 4], ..Ioctl::default() });
    let data = TransactionData { data: 0x10_0000, data_size: 300, ..Default::default() };
    let acts = [
        (open(100), 1),
        (Act::Send(Body::Mmap { address: MAPPING, length: 0x1_0000 }), 1),
        (Act::Send(manager), 1),
        (Act::Send(write_read(&[Command::EnterLooper], 4, 256)), 1),
        // Where guests share a world, who waits has pages for what comes.
        (Act::Supply, 1),
        (open(101), 2),
        (Act::Send(Body::Mmap { address: MAPPING, length: 0x1_0000 }), 2),
        (Act::Send(write_read(&[Command::Transaction(data)], 300, 256)), 2),
        (Act::Supply, 2),
    ];
    let guest = move |proc| if proc == 1 { 0 } else { client };
    let how = move |proc| How { guest: guest(proc), tid: 99 + proc, proc, stale: false, damage: None };
    // A late device takes its time.
    let turns = |proc| std::iter::repeat_with(move || (Act::Serve, how(proc))).take(6);
    acts.into_iter().flat_map(|(act, proc)| std::iter::once((act, how(proc))).chain(turns(proc))).collect()
}

#[test]
fn a_call_is_recorded_whichever_way_its_messages_take() {
    for way in [Way::Direct, Way::Queue, Way::Late] {
        for events in [false, true] {
            let compared = run(&[way], events, &a_call(0));
            assert_eq!((compared.messages, compared.completions), (8, 1), "{way:?}");
            assert_eq!(compared.events > 0, events);
        }
    }
}

#[test]
fn an_event_that_comes_with_the_answer_to_no_message_is_recorded() {
    let mut acts = a_call(1);
    let (_, mut how) = acts[0].clone();
    how.stale = true;
    // The guest that was called does not know of it before it sends this.
    acts.push((Act::Send(Body::Flush), how));
    for events in [false, true] {
        let compared = run(&[Way::Direct; 2], events, &acts);
        assert_eq!((compared.messages, compared.completions), (9, 1));
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_sends_is_recorded(
        ways in prop::collection::vec(select(vec![Way::Direct, Way::Direct, Way::Queue, Way::Late]), 1..3),
        events: bool,
        acts in prop::collection::vec((act(), how()), 0..120),
    ) {
        run(&ways, events, &[a_call(ways.len() - 1), acts].concat());
    }
}
