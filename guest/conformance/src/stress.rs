//! Many threads of several processes at once, with data that checks itself.
//!
//! A server with a pool of threads is the context manager. Client threads make calls of very different sizes,
//! oneways that carry a sequence number, and calls in which the server calls back into the waiting thread. Meanwhile
//! short-lived processes register a node and are killed. What happened is counted in memory that all share, so at
//! the end every oneway that was accepted must have arrived, in order, and every death must have been reported.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::bench::carrying;
use crate::child::{self, Child, Signal, threads};
use crate::device::Device;
use crate::object::Object;
use crate::random::Random;
use crate::stream::{Delivery, call, free};
use crate::talk::code::{CALL_ME_BACK, ECHO, EVENT, REGISTER};
use crate::talk::{CallBack, Talk};

const SERVER_THREADS: usize = 4;
const CLIENTS: usize = 3;
const CLIENT_THREADS: usize = 3;
const SERVER_MAP: usize = 4 << 20;
const CLIENT_MAP: usize = 2 << 20;

/// What all processes count together.
#[derive(Debug, Default)]
struct Totals {
    calls: AtomicU64,
    callbacks: AtomicU64,
    bytes: AtomicU64,
    events_sent: AtomicU64,
    events_received: AtomicU64,
    /// Oneways that found no room; they are not lost, their sender was told.
    refused: AtomicU64,
    registered: AtomicU64,
    deaths: AtomicU64,
    errors: AtomicU64,
}

impl Totals {
    /// Totals in memory that forked children share.
    fn shared() -> io::Result<&'static Self> {
        // SAFETY: zeroes are valid atomics.
        unsafe { child::shared() }
    }

    fn error(&self, what: &str) {
        self.errors.fetch_add(1, SeqCst);
        eprintln!("stress: {what}");
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, SeqCst);
}

/// `size` bytes that follow from a seed.
pub fn payload(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64)
        .map(|i| (seed ^ seed >> 7).wrapping_add(i.wrapping_mul(31)).wrapping_add(i >> 12) as u8)
        .collect()
}

/// The server's pool.
struct Server {
    device: Device,
    totals: &'static Totals,
    /// The last sequence number of each client thread.
    last_event: Mutex<[u64; CLIENTS * CLIENT_THREADS]>,
}

impl Server {
    fn run(&self) -> io::Result<()> {
        Talk::new(&self.device).serve(&self.totals.deaths, |talk, request| self.serve(talk, request))
    }

    fn serve(&self, talk: &mut Talk<'_>, request: Delivery) -> io::Result<()> {
        let data = talk.data(&request)?;
        match request.code {
            ECHO => {
                let seed = u64::from(request.flags >> 8);
                if data != payload(seed, data.len()) {
                    self.totals.error("a call's data is wrong");
                }
                self.reply(talk, request.buffer, &payload(seed + 1, data.len()))
            }
            EVENT => {
                self.note_event(&data);
                talk.say(free(request.buffer));
                Ok(())
            }
            CALL_ME_BACK => {
                let bytes = payload(data.len() as u64, 100);
                match Object::decode(&data) {
                    Some(Object::Handle { handle, .. }) => match talk.call_back(handle, &bytes)? {
                        CallBack::Right => {}
                        CallBack::Wrong => self.totals.error("a call back's answer is wrong"),
                        CallBack::Failed => self.totals.error("a call back failed"),
                    },
                    _ => self.totals.error("no handle to call back"),
                }
                self.reply(talk, request.buffer, &[])
            }
            REGISTER => {
                talk.adopt(&data);
                self.reply(talk, request.buffer, &[])
            }
            _ => {
                self.totals.error("an unknown request");
                Ok(())
            }
        }
    }

    fn reply(&self, talk: &mut Talk<'_>, buffer: u64, bytes: &[u8]) -> io::Result<()> {
        if !talk.reply(buffer, bytes)? {
            self.totals.error("a reply was refused");
        }
        Ok(())
    }

    fn note_event(&self, data: &[u8]) {
        let word = |at: usize| {
            data.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        };
        let (Some(sender), Some(sequence)) = (word(0), word(8)) else {
            return self.totals.error("a oneway without numbers");
        };
        let mut last = self.last_event.lock().expect("no holder of the lock panics");
        match last.get_mut(sender as usize) {
            Some(last) if *last < sequence && data[16..] == payload(sequence, data.len() - 16) => {
                *last = sequence
            }
            _ => self.totals.error("a oneway out of order or damaged"),
        }
        add(&self.totals.events_received, 1);
    }
}

/// How long the clients go on.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Time(Duration),
    Rounds(u64),
}

impl Limit {
    fn parse(text: &str) -> io::Result<Self> {
        let number = |text: &str| {
            text.parse().map_err(|_| {
                io::Error::other(format!("{text:?} is neither seconds nor iterations (like 500x)"))
            })
        };
        match text.strip_suffix('x') {
            Some(rounds) => Ok(Self::Rounds(number(rounds)?)),
            None => Ok(Self::Time(Duration::from_secs(number(text)?))),
        }
    }

    fn reached(self, start: Instant, rounds: u64) -> bool {
        match self {
            Self::Time(limit) => start.elapsed() >= limit,
            Self::Rounds(limit) => rounds >= limit,
        }
    }
}

fn client(device: &Device, totals: &'static Totals, index: usize, limit: Limit) -> io::Result<()> {
    let mut talk = Talk::new(device);
    let mut random = Random(index as u64 + 1);
    let mut sequence = 0;
    let start = Instant::now();
    for round in 0.. {
        if limit.reached(start, round) {
            break;
        }
        let size = [0, 4, 8, 60, 300, 4096, 20_000, 150_000][random.below(8) as usize];
        match random.below(8) {
            0..4 => echo(&mut talk, totals, random.below(1 << 16), size)?,
            4..7 => {
                sequence += 1;
                let head = [(index as u64).to_le_bytes(), u64::to_le_bytes(sequence)].concat();
                let bytes = [head, payload(sequence, size.min(4096))].concat();
                if talk.send(carrying(call(0, EVENT).oneway(), &bytes).into())? {
                    add(&totals.events_sent, 1);
                } else {
                    add(&totals.refused, 1);
                }
            }
            _ => {
                let node = Object::binder(index as u64 + 1, 0x5000).encode();
                let offsets = 0u64.to_le_bytes();
                let with_node = carrying(call(0, CALL_ME_BACK), &node).offsets_at(offsets.as_ptr() as u64, 8);
                match talk.call(with_node.into())? {
                    Some(answer) => talk.say(free(answer.buffer)),
                    None => totals.error("a call failed"),
                }
                add(&totals.callbacks, 1);
            }
        }
    }
    // The last commands are done, and the thread leaves nothing behind.
    talk.finish()?;
    Ok(())
}

fn echo(talk: &mut Talk<'_>, totals: &Totals, seed: u64, size: usize) -> io::Result<()> {
    let bytes = payload(seed, size);
    // The driver passes unknown flag bits on: the seed travels in them.
    let flags = (seed as u32) << 8;
    match talk.call(carrying(call(0, ECHO).flags(flags), &bytes).into())? {
        Some(answer) => {
            if talk.data(&answer)? != payload(seed + 1, size) {
                totals.error("a reply's data is wrong");
            }
            talk.say(free(answer.buffer));
        }
        None => totals.error("a call failed"),
    }
    add(&totals.calls, 1);
    add(&totals.bytes, 2 * size as u64);
    Ok(())
}

/// Registers a node and waits to be killed.
fn mortal(ready: &Signal, totals: &'static Totals) -> io::Result<()> {
    let device = Device::open("binder", 64 << 10)?;
    let mut talk = Talk::new(&device);
    let node = Object::binder(0x10, 0x20).encode();
    let offsets = 0u64.to_le_bytes();
    let with_node = carrying(call(0, REGISTER), &node).offsets_at(offsets.as_ptr() as u64, 8);
    match talk.call(with_node.into())? {
        Some(_) => add(&totals.registered, 1),
        None => totals.error("a registration failed"),
    }
    ready.give();
    loop {
        talk.exchange()?;
    }
}

/// Makes the kernel reclaim what it can, over and over, until killed.
fn reclaim() -> io::Result<()> {
    loop {
        std::fs::write("/proc/sys/vm/drop_caches", "2")?;
        // Not the whole CPU, or nobody fills what could be taken.
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Runs the workload and prints a summary; an error if anything was lost or wrong. With `reclaim` the kernel takes idle
/// pages back all the time.
pub fn run(limit: &str, reclaiming: bool) -> io::Result<()> {
    let limit = Limit::parse(limit)?;
    let totals = Totals::shared()?;
    let ready = Signal::new()?;
    let start = Instant::now();
    let server = Child::fork(|| {
        let device = Device::open("binder", SERVER_MAP)?;
        device.become_manager()?;
        let server = Server { device, totals, last_event: Mutex::default() };
        ready.give();
        threads(SERVER_THREADS, |_| server.run())
    })?;
    ready.wait()?;
    let reclaimer = if reclaiming { Some(Child::fork(reclaim)?) } else { None };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Child::fork(|| {
            let device = Device::open("binder", CLIENT_MAP)?;
            threads(CLIENT_THREADS, |thread| client(&device, totals, number * CLIENT_THREADS + thread, limit))
        })?);
    }
    while !clients.iter_mut().all(Child::ended) {
        let born = Signal::new()?;
        let victim = Child::fork(|| mortal(&born, totals))?;
        born.wait()?;
        drop(victim);
    }
    for client in &mut clients {
        if !client.wait() {
            totals.error("a client did not end well");
        }
    }
    let patience = Instant::now();
    let settled = || {
        totals.events_received.load(SeqCst) == totals.events_sent.load(SeqCst)
            && totals.deaths.load(SeqCst) == totals.registered.load(SeqCst)
    };
    while !settled() && patience.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.kill();
    if reclaimer.is_some_and(|mut reclaimer| reclaimer.ended()) {
        totals.error("the reclaimer failed");
    }
    summary(totals, start.elapsed(), settled())
}

fn summary(totals: &Totals, elapsed: Duration, settled: bool) -> io::Result<()> {
    let load = |counter: &AtomicU64| counter.load(SeqCst);
    println!(
        "stress seconds={:.1} calls={} callbacks={} bytes={} oneways={}/{} refused={} deaths={}/{} errors={}",
        elapsed.as_secs_f64(),
        load(&totals.calls),
        load(&totals.callbacks),
        load(&totals.bytes),
        load(&totals.events_received),
        load(&totals.events_sent),
        load(&totals.refused),
        load(&totals.deaths),
        load(&totals.registered),
        load(&totals.errors),
    );
    match (settled, load(&totals.errors)) {
        (true, 0) => Ok(()),
        (false, _) => Err(io::Error::other("oneways or deaths were lost")),
        (true, errors) => Err(io::Error::other(format!("{errors} errors"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_seconds_or_rounds() {
        assert!(
            matches!(Limit::parse("10").unwrap(), Limit::Time(limit) if limit == Duration::from_secs(10))
        );
        assert!(matches!(Limit::parse("500x").unwrap(), Limit::Rounds(500)));
        assert!(Limit::parse("soon").is_err());
        assert!(Limit::Rounds(2).reached(Instant::now(), 2) && !Limit::Rounds(2).reached(Instant::now(), 1));
    }

    #[test]
    fn payloads_differ_by_seed_and_by_page() {
        assert_ne!(payload(1, 64), payload(2, 64));
        let long = payload(1, 8192);
        assert_ne!(long[..4096], long[4096..]);
    }
}
