//! io_uring on a binder device: requests that the driver does not have, polls, opens and closes by the ring's own
//! threads, and a ring that keeps the file when its descriptor is gone.
//!
//! They are of the group `race`, played on both drivers side by side: not every kernel has io_uring.

use super::{Case, watched};
use crate::actor::Actor;
use crate::commands;
use crate::stream::{call, enter_looper, free, reply};
use crate::transcript;
use crate::world::{MAP_SIZE, Result, World, unexpected};

pub const CASES: &[Case] = &[
    Case { name: "race-uring-refused", covers: "B003", play: refused },
    Case { name: "race-uring-buffers", covers: "B013", play: buffers },
    Case { name: "race-uring-poll", covers: "B018, B019, B020, B027", play: poll },
    Case { name: "race-uring-open", covers: "B001, B028", play: open },
    Case { name: "race-uring-kept-file", covers: "B028, B265", play: kept_file },
];

const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PAGE: u64 = 4096;
const ENTRIES: u64 = 8;

/// `io_uring.h`: operations, flags of an entry, and what can be registered.
mod op {
    pub const READV: u8 = 1;
    pub const POLL_ADD: u8 = 6;
    pub const FSYNC: u8 = 3;
    pub const OPENAT: u8 = 18;
    pub const CLOSE: u8 = 19;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const URING_CMD: u8 = 46;
    /// The descriptor is an index of the registered files.
    pub const FIXED_FILE: u8 = 1;
    /// By a thread of the ring's own, and not by who submits it.
    pub const ASYNC: u8 = 1 << 4;
    pub const REGISTER_BUFFERS: u64 = 0;
    pub const REGISTER_FILES: u64 = 2;
    pub const OFFSET_ENTRIES: u64 = 0x1000_0000;
    pub const ENTER_GETEVENTS: u64 = 1;
}

/// A request for the ring.
#[derive(Clone, Copy, Default)]
struct Entry {
    op: u8,
    flags: u8,
    fd: i32,
    address: u64,
    length: u32,
    /// What else the operation takes: events of a poll, flags of an open.
    word: u32,
}

impl Entry {
    fn of(op: u8, fd: i64) -> Entry {
        Entry { op, fd: fd as i32, ..Entry::default() }
    }

    fn at(self, address: u64, length: u64) -> Entry {
        Entry { address, length: length as u32, ..self }
    }

    fn asynchronous(self) -> Entry {
        Entry { flags: self.flags | op::ASYNC, ..self }
    }

    fn encode(self, id: u64) -> Vec<u8> {
        let mut bytes = vec![self.op, self.flags, 0, 0];
        bytes.extend(self.fd.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.address.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.word.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.resize(64, 0);
        bytes
    }
}

/// A ring of an actor's, one request at a time.
struct Ring<'a, 'w> {
    actor: &'a Actor<'w>,
    fd: i64,
    rings: u64,
    size: u64,
    entries: u64,
    /// Offsets in `rings`: the submission queue's tail and array, the completion queue's head, tail and entries.
    tail: u64,
    array: u64,
    taken: u64,
    done: u64,
    completions: u64,
    submitted: u32,
    seen: u32,
}

impl<'a, 'w> Ring<'a, 'w> {
    fn new(actor: &'a Actor<'w>) -> Result<Self> {
        let params = actor.place(&[0; 120])?;
        let fd = actor.ask(libc::SYS_io_uring_setup, &[ENTRIES, params])?;
        if fd < 0 {
            return unexpected(format!("no io_uring: {}", transcript::result(fd)));
        }
        let filled = actor.peek(params, 120)?;
        let word =
            |at: usize| u64::from(u32::from_le_bytes(filled[at..at + 4].try_into().unwrap_or_default()));
        let flags = (libc::MAP_SHARED | libc::MAP_POPULATE) as u64;
        let map = |size: u64, offset: u64| {
            actor.ask(libc::SYS_mmap, &[0, size, READ_WRITE, flags, fd as u64, offset])
        };
        // One mapping has both queues (IORING_FEAT_SINGLE_MMAP, since Linux 5.4).
        let size = (word(64) + word(0) * 4).max(word(100) + word(4) * 16);
        let (rings, entries) = (map(size, 0)?, map(word(0) * 64, op::OFFSET_ENTRIES)?);
        if rings < 0 || entries < 0 {
            return unexpected("a ring that cannot be mapped");
        }
        Ok(Ring {
            actor,
            fd,
            rings: rings as u64,
            size,
            entries: entries as u64,
            tail: word(44),
            array: word(64),
            taken: word(80),
            done: word(84),
            completions: word(100),
            submitted: 0,
            seen: 0,
        })
    }

    /// Submits a request.
    fn submit(&mut self, entry: Entry) -> Result {
        let slot = u64::from(self.submitted) % ENTRIES;
        self.submitted += 1;
        self.actor.poke(self.entries + slot * 64, &entry.encode(self.submitted.into()))?;
        self.actor.poke(self.rings + self.array + slot * 4, &(slot as u32).to_le_bytes())?;
        self.actor.poke(self.rings + self.tail, &self.submitted.to_le_bytes())?;
        match self.actor.ask(libc::SYS_io_uring_enter, &[self.fd as u64, 1, 0, 0, 0, 0])? {
            1 => Ok(()),
            other => unexpected(format!("io_uring_enter took {other} requests")),
        }
    }

    /// The next result, if it is there.
    fn next(&mut self) -> Result<Option<i64>> {
        let tail = self.actor.peek(self.rings + self.done, 4)?;
        if tail == self.seen.to_le_bytes() {
            return Ok(None);
        }
        // The completion queue has twice as many entries.
        let slot = u64::from(self.seen) % (2 * ENTRIES);
        let entry = self.actor.peek(self.rings + self.completions + slot * 16, 16)?;
        self.seen += 1;
        self.actor.poke(self.rings + self.taken, &self.seen.to_le_bytes())?;
        Ok(Some(i32::from_le_bytes(entry[8..12].try_into().unwrap_or_default()).into()))
    }

    /// Waits for the next result.
    fn wait(&mut self) -> Result<i64> {
        self.actor.ask(libc::SYS_io_uring_enter, &[self.fd as u64, 0, 1, op::ENTER_GETEVENTS, 0, 0])?;
        match self.next()? {
            Some(result) => Ok(result),
            None => unexpected("io_uring_enter returned without a result"),
        }
    }

    /// Submits a request, waits for its result and prints that.
    fn does(&mut self, what: &str, entry: Entry) -> Result<i64> {
        self.submit(entry)?;
        let result = self.wait()?;
        self.actor.say(&format!("io_uring {what} -> {}", transcript::result(result)));
        Ok(result)
    }

    /// Says whether a request has ended, and how: a poll with events.
    fn says(&mut self, what: &str) -> Result {
        self.actor.world.settle();
        let ended = self.next()?.map_or("nothing yet".to_owned(), transcript::result);
        self.actor.say(&format!("io_uring {what} -> {ended}"));
        Ok(())
    }

    /// Lets go of the ring, whose mappings keep it as its descriptor does.
    fn close(self) -> Result {
        for (address, size) in [(self.rings, self.size), (self.entries, ENTRIES * 64)] {
            self.actor.ask(libc::SYS_munmap, &[address, size])?;
        }
        self.actor.sys("close of the ring", libc::SYS_close, &[self.fd as u64])?;
        Ok(())
    }

    fn register(&self, what: &str, opcode: u64, argument: &[u8], count: u64) -> Result<i64> {
        let address = self.actor.place(argument)?;
        self.actor.sys(
            &format!("io_uring registers {what}"),
            libc::SYS_io_uring_register,
            &[self.fd as u64, opcode, address, count],
        )
    }
}

fn buffer(address: u64, length: u64) -> Vec<u8> {
    [address.to_le_bytes(), length.to_le_bytes()].concat()
}

/// What a binder file does not do, by whoever runs it. A read waits like a poll before it is told so.
fn refused(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let memory = m.alloc(PAGE)?;
    let vector = m.place(&buffer(memory, 64))?;
    let mut ring = Ring::new(&m)?;
    let fd = m.device();
    world.note("with nothing to read");
    ring.submit(Entry::of(op::READ, fd).at(memory, 64))?;
    ring.says("read")?;
    c.wr(commands![call(0, 1).oneway().bytes(b"ping")])?;
    ring.says("read")?;
    world.note("with something to read");
    for (what, entry) in [
        ("read", Entry::of(op::READ, fd).at(memory, 64)),
        ("readv", Entry::of(op::READV, fd).at(vector, 1)),
        ("write", Entry::of(op::WRITE, fd).at(memory, 64)),
        ("fsync", Entry::of(op::FSYNC, fd)),
        ("command", Entry::of(op::URING_CMD, fd)),
    ] {
        for (how, entry) in [("", entry), (", by its thread", entry.asynchronous())] {
            ring.submit(entry)?;
            ring.says(&format!("{what}{how}"))?;
        }
    }
    world.note("and it still works");
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    Ok(())
}

/// The mapping as fixed buffers, which the kernel would write to, and as the source of writes, which only read it.
fn buffers(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).pattern(6000, 7)])?;
    let request = m.r()?.received()?;
    let mut ring = Ring::new(&m)?;
    let start = m.map_start();
    ring.register("what was received", op::REGISTER_BUFFERS, &buffer(request.buffer(), 6000), 1)?;
    ring.register("the whole mapping", op::REGISTER_BUFFERS, &buffer(start, MAP_SIZE), 1)?;
    let name = m.place(b"sink\0")?;
    let sink = m.ask(libc::SYS_memfd_create, &[name, 0])?;
    let write = |address: u64, length: u64| Entry::of(op::WRITE, sink).at(address, length);
    let last = start + MAP_SIZE - PAGE;
    for (what, entry) in
        [("of what was received", write(request.buffer(), 6000)), ("of a page never filled", write(last, 64))]
    {
        ring.does(&format!("write {what}"), entry)?;
        ring.does(&format!("write {what}, by its thread"), entry.asynchronous())?;
    }
    let read = |address: u64| Entry::of(op::READ, sink).at(address, 64);
    world.note("nobody but the driver writes there");
    ring.does("read into what was received", read(request.buffer()))?;
    ring.does("read into what was received, by its thread", read(request.buffer()).asynchronous())?;
    if m.peek(request.buffer(), 6000)? != request.contents.data {
        return unexpected("what was received has changed");
    }
    m.wr(commands![free(request.buffer()), reply()])?;
    c.finish()?;
    Ok(())
}

/// Polls of the ring wait at the thread that submits them, or at one of the ring's own, and end as others do.
fn poll(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let mut ring = Ring::new(&m)?;
    let add = Entry { word: libc::POLLIN as u32, ..Entry::of(op::POLL_ADD, m.device()) };
    for (how, entry) in [("", add), (", by its thread", add.asynchronous())] {
        m.say(&format!("io_uring polls{how}"));
        ring.submit(entry)?;
        ring.says("poll")?;
        c.wr(commands![call(0, 1).oneway().bytes(b"ping")])?;
        ring.says("poll")?;
        let event = m.r()?.received()?;
        m.w(commands![free(event.buffer())])?;
    }
    world.note("what is there already");
    c.wr(commands![call(0, 2).oneway().bytes(b"ping")])?;
    ring.submit(add)?;
    ring.says("poll")?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    world.note("a thread whose poll waits tells the driver that it ends");
    let t = m.thread("M.2")?;
    t.w(commands![enter_looper()])?;
    let mut other = Ring::new(&t)?;
    other.submit(add)?;
    other.says("poll")?;
    t.thread_exit()?;
    other.says("poll")?;
    world.note("the process ends with a poll that waits");
    ring.submit(add)?;
    ring.says("poll")?;
    m.kill()?;
    c.wr(commands![call(0, 3)])?;
    Ok(())
}

/// A device that a thread of the ring opens is its process's, and one that it closes is closed.
fn open(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.spawn("S")?;
    let mut ring = Ring::new(&s)?;
    let path = s.place(b"/dev/binder\0")?;
    let open = Entry { word: libc::O_RDWR as u32, ..Entry::of(op::OPENAT, libc::AT_FDCWD.into()) };
    let fd = ring.does("open, by its thread", open.at(path, 0).asynchronous())?;
    s.on(fd);
    s.map(MAP_SIZE)?;
    s.start(commands![call(0, 1).bytes(b"who")])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply()])?;
    s.finish()?;
    world.note("a thread that waits there returns when the ring closes the descriptor");
    let t = s.thread("S.2")?;
    t.on(fd);
    t.w(commands![enter_looper()])?;
    t.start(commands![])?;
    ring.does("close, by its thread", Entry::of(op::CLOSE, fd).asynchronous())?;
    t.finish()?;
    Ok(())
}

/// A ring that has the file registered keeps it, and the process's nodes, when descriptor and mapping are gone.
fn kept_file(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    let mut ring = Ring::new(&s)?;
    ring.register("the file", op::REGISTER_FILES, &(s.device() as i32).to_le_bytes(), 1)?;
    s.sys("munmap", libc::SYS_munmap, &[s.map_start(), MAP_SIZE])?;
    s.sys("close", libc::SYS_close, &[s.device() as u64])?;
    world.settle();
    c.try_r()?;
    world.note("the ring's file can be polled; a call finds no mapping");
    let poll = Entry { word: libc::POLLIN as u32, flags: op::FIXED_FILE, ..Entry::of(op::POLL_ADD, 0) };
    ring.submit(poll)?;
    ring.says("poll")?;
    c.wr(commands![call(handle, 1).oneway().bytes(b"ping")])?;
    ring.says("poll")?;
    world.note("the ring goes");
    ring.close()?;
    c.r()?;
    Ok(())
}
