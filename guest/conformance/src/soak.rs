//! Everything that goes wrong in a long life, again and again: a soak.
//!
//! A server takes calls of clients that come and go. Clients send calls, oneways, nodes, file descriptors and more than
//! fits. Meanwhile this process kills clients at any moment, interrupts them with signals, and freezes and thaws
//! them. What a kill leaves half done must be undone by the driver: at the end every node that was registered has been
//! reported dead, every oneway that was accepted has arrived, and no descriptor is left over. Whether the driver itself
//! is empty, the host knows.
//!
//! What happens follows from a seed; on the software CPU with its virtual clock a seed repeats exactly.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::bench::carrying;
use crate::child::{self, Child, Signal, threads};
use crate::device::Device;
use crate::object::Object;
use crate::random::Random;
use crate::stream::{Delivery, call, free, reply};
use crate::stress::payload;
use crate::talk::code::{CALL_ME_BACK, ECHO, EVENT, REGISTER};
use crate::talk::{CallBack, Talk};
use crate::uapi::tf;

const SERVER_THREADS: usize = 4;
const CLIENTS: usize = 4;
const CLIENT_THREADS: usize = 2;
/// Small, so that two of the largest calls at once do not fit.
const MAP: usize = 1 << 20;
const LARGEST: usize = 600 << 10;
/// Descriptors that the server may have at once.
const MAX_FDS: usize = 100;
const FILE_TEXT: &[u8; 8] = b"binderfd";

const PASS_FILE: u32 = 6;

/// What all processes count together.
#[derive(Debug, Default)]
struct Totals {
    /// Calls, replies and oneways that were accepted. The clients go on until there are enough.
    transactions: AtomicU64,
    /// Calls and oneways that found no room, a dead or a frozen process.
    refused: AtomicU64,
    events_begun: AtomicU64,
    events_sent: AtomicU64,
    events_received: AtomicU64,
    files: AtomicU64,
    registered: AtomicU64,
    deaths: AtomicU64,
    signals: AtomicU64,
    errors: AtomicU64,
}

impl Totals {
    fn error(&self, what: &str) {
        self.errors.fetch_add(1, SeqCst);
        eprintln!("soak: {what}");
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, SeqCst);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(SeqCst)
}

/// A file in memory with a text that its receiver knows.
fn known_file() -> io::Result<File> {
    // SAFETY: a NUL-terminated name; the descriptor is owned from here on.
    let fd = unsafe { libc::memfd_create(c"soak".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(FILE_TEXT)?;
    file.rewind()?;
    Ok(file)
}

/// Takes the descriptor that a delivery carries; false if it is not the known file.
fn take_file(data: &[u8]) -> bool {
    let Some(Object::Fd { fd, .. }) = Object::decode(data) else { return false };
    // SAFETY: the driver made this descriptor for us, with this delivery; it is closed here, once.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    let mut text = [0; FILE_TEXT.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut text, 0).is_ok() && text == *FILE_TEXT
}

struct Server {
    device: Device,
    totals: &'static Totals,
    file: File,
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
                // The caller may be gone, or have no room for as much.
                let size = data.len().min(4096);
                self.count(talk.reply(request.buffer, &payload(seed + 1, size))?);
            }
            EVENT => {
                if data != payload(data.len() as u64, data.len()) {
                    self.totals.error("a oneway's data is wrong");
                }
                add(&self.totals.events_received, 1);
                talk.say(free(request.buffer));
            }
            CALL_ME_BACK => {
                if let Some(Object::Handle { handle, .. }) = Object::decode(&data) {
                    match talk.call_back(handle, &payload(7, 100))? {
                        CallBack::Right => self.count(true),
                        CallBack::Wrong => {
                            self.totals.error("a call back's answer is wrong");
                            self.count(true);
                        }
                        // Who called may be gone.
                        CallBack::Failed => {}
                    }
                }
                self.count(talk.reply(request.buffer, &[])?);
            }
            REGISTER => {
                if talk.adopt(&data) {
                    add(&self.totals.registered, 1);
                }
                self.count(talk.reply(request.buffer, &[])?);
            }
            PASS_FILE => {
                if !take_file(&data) {
                    self.totals.error("a file is not the one that was sent");
                }
                add(&self.totals.files, 1);
                let back = Object::fd(self.file.as_raw_fd().into()).encode();
                let offsets = 0u64.to_le_bytes();
                let with_file = carrying(reply(), &back).offsets_at(offsets.as_ptr() as u64, 8);
                self.count(talk.reply_with(request.buffer, with_file)?);
                if load(&self.totals.files).is_multiple_of(256)
                    && std::fs::read_dir("/proc/self/fd")?.count() > MAX_FDS
                {
                    self.totals.error("descriptors are left over");
                }
            }
            _ => self.totals.error("an unknown request"),
        }
        Ok(())
    }

    fn count(&self, accepted: bool) {
        add(if accepted { &self.totals.transactions } else { &self.totals.refused }, 1);
    }
}

struct Client<'a> {
    talk: Talk<'a>,
    totals: &'static Totals,
    random: Random,
    file: File,
    /// Of the next node that is registered.
    next_ptr: u64,
}

impl Client<'_> {
    /// Goes on until all together have sent enough.
    fn run(mut self, enough: u64) -> io::Result<()> {
        while load(&self.totals.transactions) < enough {
            match self.random.below(100) {
                0..50 => self.echo(&[0, 4, 8, 60, 300])?,
                50..52 => self.echo(&[4096, 20_000, 60_000])?,
                52..53 => self.echo(&[LARGEST])?,
                53..75 => self.event(&[8, 16, 100, 1000])?,
                75..76 => self.event(&[60_000, 200_000])?,
                76..86 => self.call_with(CALL_ME_BACK, Object::binder(1, 0x5000))?,
                86..90 => {
                    self.next_ptr += 16;
                    self.call_with(REGISTER, Object::binder(self.next_ptr, 0x6000))?;
                }
                _ => self.call_with(PASS_FILE, Object::fd(self.file.as_raw_fd().into()))?,
            }
        }
        self.talk.finish()
    }

    fn size(&mut self, sizes: &[usize]) -> usize {
        sizes[self.random.below(sizes.len() as u64) as usize]
    }

    fn echo(&mut self, sizes: &[usize]) -> io::Result<()> {
        let (seed, size) = (self.random.below(1 << 16), self.size(sizes));
        let bytes = payload(seed, size);
        // The driver passes unknown flag bits on: the seed travels in them.
        let flags = (seed as u32) << 8;
        if let Some(answer) = self.answered(carrying(call(0, ECHO).flags(flags), &bytes).into())?
            && self.talk.data(&answer)? != payload(seed + 1, size.min(4096))
        {
            self.totals.error("a reply's data is wrong");
        }
        Ok(())
    }

    fn event(&mut self, sizes: &[usize]) -> io::Result<()> {
        let size = self.size(sizes);
        let bytes = payload(size as u64, size);
        add(&self.totals.events_begun, 1);
        if self.talk.send(carrying(call(0, EVENT).oneway(), &bytes).into())? {
            add(&self.totals.events_sent, 1);
            add(&self.totals.transactions, 1);
        } else {
            add(&self.totals.refused, 1);
        }
        Ok(())
    }

    /// A call that carries an object; the answer may carry a file.
    fn call_with(&mut self, code: u32, object: Object) -> io::Result<()> {
        let bytes = object.encode();
        let offsets = 0u64.to_le_bytes();
        let with = carrying(call(0, code).flags(tf::ACCEPT_FDS), &bytes);
        if let Some(answer) = self.answered(with.offsets_at(offsets.as_ptr() as u64, 8).into())?
            && code == PASS_FILE
            && !take_file(&self.talk.data(&answer)?)
        {
            self.totals.error("a file is not the one that was sent back");
        }
        Ok(())
    }

    /// Makes a call; the reply stays readable until the next exchange.
    fn answered(&mut self, command: crate::stream::Command) -> io::Result<Option<Delivery>> {
        let answer = self.talk.call(command)?;
        match &answer {
            Some(answer) => {
                self.talk.say(free(answer.buffer));
                add(&self.totals.transactions, 1);
            }
            None => add(&self.totals.refused, 1),
        }
        Ok(answer)
    }
}

/// A client process; its threads' numbers follow from `seed`.
fn client(totals: &'static Totals, seed: u64, enough: u64) -> io::Result<Child> {
    Child::fork(|| {
        interruptible()?;
        let device = Device::open("binder", MAP)?;
        threads(CLIENT_THREADS, |thread| {
            let random = Random(seed ^ (thread as u64 + 1) << 56);
            let next_ptr = (thread as u64 + 1) << 32;
            Client { talk: Talk::new(&device), totals, random, file: known_file()?, next_ptr }.run(enough)
        })
    })
}

/// SIGUSR1 ends a sleep of this process, and does nothing else.
fn interruptible() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a zeroed action is a valid one; the handler does nothing, so it may run anywhere.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What happens to the clients until they have done enough.
fn disturb(totals: &'static Totals, random: &mut Random, enough: u64) -> io::Result<(u64, u64, Vec<Child>)> {
    let freezer = Device::open("binder", 4096)?;
    let (mut kills, mut freezes) = (0, 0);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client(totals, random.below(u64::MAX), enough)?);
    }
    while load(&totals.transactions) < enough {
        let victim = random.below(CLIENTS as u64) as usize;
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        match random.below(8) {
            0 => {
                let born = client(totals, random.below(u64::MAX), enough)?;
                // The old one ends here.
                drop(std::mem::replace(&mut clients[victim], born));
                kills += 1;
            }
            1 => {
                let pid = clients[victim].pid();
                // A process that was born just now has not opened the device yet.
                if let Ok(true) = freezer.freeze(pid, true, random.below(5) as u32) {
                    std::thread::sleep(Duration::from_micros(random.below(2000)));
                    freezes += 1;
                }
                let _ = freezer.freeze(pid, false, 0);
            }
            _ => {
                // Before it has a handler, the signal would end it: that is a kill, too.
                clients[victim].signal(libc::SIGUSR1);
                add(&totals.signals, 1);
            }
        }
        if clients[victim].ended() {
            clients[victim] = client(totals, random.below(u64::MAX), enough)?;
        }
    }
    Ok((kills, freezes, clients))
}

/// Runs until `enough` transactions were accepted; an error if anything was lost or wrong.
pub fn run(enough: &str, seed: &str) -> io::Result<()> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| io::Error::other(format!("{text:?} is not a number of transactions or a seed")))
    };
    let (enough, seed) = (number(enough)?, number(seed)?);
    println!("soak seed={seed}");
    // SAFETY: zeroes are valid atomics.
    let totals: &'static Totals = unsafe { child::shared() }?;
    let ready = Signal::new()?;
    let server = Child::fork(|| {
        let device = Device::open("binder", MAP)?;
        device.become_manager_with_fds()?;
        let server = Server { device, totals, file: known_file()? };
        ready.give();
        threads(SERVER_THREADS, |_| server.run())
    })?;
    ready.wait()?;
    let (kills, freezes, clients) = disturb(totals, &mut Random(seed), enough)?;
    // They stop at their next look at the count; the last ones die, so that all their nodes do.
    for mut client in clients {
        client.wait();
    }
    let patience = Instant::now();
    let settled = || {
        let received = load(&totals.events_received);
        load(&totals.deaths) == load(&totals.registered)
            && (load(&totals.events_sent)..=load(&totals.events_begun)).contains(&received)
    };
    while !settled() && patience.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.kill();
    println!(
        "soak transactions={} refused={} oneways={} files={} deaths={}/{} kills={kills} freezes={freezes} signals={} errors={}",
        load(&totals.transactions),
        load(&totals.refused),
        load(&totals.events_received),
        load(&totals.files),
        load(&totals.deaths),
        load(&totals.registered),
        load(&totals.signals),
        load(&totals.errors),
    );
    match (settled(), load(&totals.errors)) {
        (true, 0) => Ok(()),
        (false, _) => Err(io::Error::other("oneways or deaths were lost")),
        (true, errors) => Err(io::Error::other(format!("{errors} errors"))),
    }
}
