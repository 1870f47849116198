//! What recording adds to a synchronous call in the device and the core: the least CPU time of some rounds, without and
//! with a recording.
//!
//! `cargo bench -p devices --features testing --bench record [-- BYTES ...]`. How to count instructions of the whole process
//! instead: `vmm/softcpu/README.md`.

use std::fs::File;
use std::mem::offset_of;
use std::time::Duration;

use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, GuestId, Limits, Profile};
use binder_trace::recording::{Block, Header, VERSION, Writer};
use binder_wire::{F_DIRECT, F_INLINE, request};
use criterion::measurement::Measurement;
use devices::testing::{Deaf, Driver, EPOCH, POST};
use devices::virtio::binder::{BinderDevice, Recorder, SharedDomain, Timing};
use shim::cpu_time::CpuTime;
use shim::{GUEST, Pair, Requests, Shim};
use vm_memory::{Bytes, GuestAddress};

#[allow(dead_code)]
#[path = "../binder/benches/shim/mod.rs"]
mod shim;

const ROUNDS: usize = 10;
const BATCHES: usize = 100;
const BATCH: usize = 32;

/// How many events came with the answer, which is in the page behind.
const COUNT: GuestAddress = GuestAddress(OUT.0 + 4096 + offset_of!(binder_wire::Answer, event_count) as u64);
/// Where messages are, which is not where the pair's mappings have their few pages.
const OUT: GuestAddress = GuestAddress(0x8_0000);

/// A recording as a run makes it: a block a message, in a file that forgets.
struct Tap {
    block: Block,
    writer: Writer<File>,
    now: u64,
}

impl Tap {
    fn new() -> Tap {
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let header = Header { version: VERSION, ..Header::default() };
        Tap { block: Block::default(), writer: Writer::new(null, &header).expect("a header"), now: 0 }
    }
}

impl Recorder for Tap {
    fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn enabled(&self) -> bool {
        false
    }

    fn record(&mut self, _at: Duration, _guest: GuestId, _event: &TraceEvent) {}

    fn commit(&mut self) {
        self.now += 1;
        self.block.end(|block| self.writer.block(&block));
    }

    fn replays(&self) -> bool {
        true
    }

    fn step(&mut self, at: Duration, guest: GuestId, step: &Step) {
        self.block.step(at, guest, step);
    }

    fn message(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.block.message(at, guest, bytes);
    }

    fn answer(&mut self, at: Duration, guest: GuestId, reads: &Reads, page: &[u8]) {
        self.block.answer(at, guest, reads, page);
    }
}

/// A guest whose client calls its server, message by message.
struct Guest {
    driver: Driver,
    requests: Requests,
    epoch: u32,
}

/// The messages of a call, as they stand in a page.
type Round = [Vec<u8>; 3];

impl Guest {
    /// The pair comes to know each other without a device, and goes on behind one.
    fn new(size: usize, recorder: Box<dyn Recorder>) -> Guest {
        let Pair { requests, shim } = Pair::new(Shim::new(), size);
        let world = SharedDomain::new(Domain::new(Limits::default(), Profile::default()));
        let device = BinderDevice::new(world.clone(), GUEST, &Limits::default(), Timing::Inline, recorder);
        let driver = Driver::start(Box::new(device), 1 << F_INLINE | 1 << F_DIRECT);
        // A device begins with a reset.
        world.with(|domain| *domain = shim.domain);
        let epoch = driver.read(EPOCH);
        Guest { driver, requests, epoch }
    }

    fn round(&mut self) -> Round {
        self.requests
            .round()
            .map(|message| request::message(&message, self.epoch, *b"pair\0\0\0\0\0\0\0\0\0\0\0\0"))
    }

    /// Nanoseconds for all batches.
    fn time(&mut self) -> u64 {
        (0..BATCHES).fold(0, |sum, _| {
            let batch: Vec<Round> = (0..BATCH).map(|_| self.round()).collect();
            let start = CpuTime.start();
            batch.iter().for_each(|round| round_trip(&self.driver, round));
            sum + CpuTime.end(start)
        })
    }

    /// The least that one took.
    fn least(&mut self) -> u64 {
        let round = (0..ROUNDS).map(|_| self.time()).min().unwrap_or_default();
        round / (BATCHES * BATCH) as u64
    }
}

/// The messages of a call, and the events that come with their answers.
fn round_trip(driver: &Driver, round: &Round) {
    for (message, events) in round.iter().zip([1, 1, 0]) {
        driver.ram.write_slice(message, OUT).expect("RAM");
        driver.write(POST, (OUT.0 >> 12) as u32);
        let last: u16 = driver.ram.read_obj(COUNT).expect("RAM");
        assert_eq!(last, events, "events that came with the answer");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|size| size.parse().ok()).collect();
    for size in if sizes.is_empty() { vec![4, 128] } else { sizes } {
        let plain = Guest::new(size, Box::new(Deaf::default())).least();
        let traced = Guest::new(size, Box::new(Tap::new())).least();
        println!("{size} bytes: {plain} ns a round trip, recorded {traced} ns");
    }
}
