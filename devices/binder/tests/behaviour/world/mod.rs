//! A guest without a kernel: user memory, descriptors, and a shim that does what the core asks.

use std::collections::{BTreeMap, BTreeSet};

use binder::protocol::{Command, Return, TransactionData, ioctl};
use binder::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::payloads::word;

mod caller;
mod shim;

pub const PAGE: u64 = 4096;
const RAM_PAGES: u64 = 4096;
pub const READ_SIZE: u64 = 4096;
/// Where the binder mapping of every process is.
pub const MAPPING: u64 = 0x7000_0000_0000;

/// A thread, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Th {
    pub proc: ProcId,
    pub tid: Tid,
}

/// How an ioctl ended, or that it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Out {
    pub errno: i32,
    pub wc: u64,
    pub rc: u64,
    pub returns: Vec<Return>,
    pub bytes: Vec<u8>,
    pub creds: Option<ProcId>,
    pub parked: bool,
    /// read_consumed on entry.
    pub start: u64,
}

impl Out {
    /// The one transaction or reply among the returns.
    pub fn data(&self) -> TransactionData {
        self.returns
            .iter()
            .find_map(|item| match item {
                Return::Transaction(data) | Return::Reply(data) | Return::TransactionSecCtx(data, _) => {
                    Some(*data)
                }
                _ => None,
            })
            .unwrap_or_else(|| panic!("no transaction in {:?}", self.returns))
    }
}

/// What the fake guest kernel knows of a process.
#[derive(Default)]
pub struct Process {
    pub memory: BTreeMap<u64, Vec<u8>>,
    pub next_address: u64,
    pub slots: BTreeMap<u32, Pfn>,
    /// fd -> file number.
    pub fds: BTreeMap<u32, u32>,
    pub max_fds: usize,
}

#[derive(Clone, Copy)]
pub struct Rams<'a>(pub &'a GuestMemoryMmap);

impl GuestRams for Rams<'_> {
    type Ram = GuestMemoryMmap;

    fn ram(&self, _guest: GuestId) -> Option<&GuestMemoryMmap> {
        Some(self.0)
    }
}

/// The RAM of two guests.
struct Both<'a> {
    first: &'a GuestMemoryMmap,
    other: &'a GuestMemoryMmap,
}

impl GuestRams for Both<'_> {
    type Ram = GuestMemoryMmap;

    fn ram(&self, guest: GuestId) -> Option<&GuestMemoryMmap> {
        match guest {
            GUEST => Some(self.first),
            OTHER => Some(self.other),
            _ => None,
        }
    }
}

pub struct World {
    pub domain: Domain,
    pub ram: GuestMemoryMmap,
    /// RAM of [`OTHER`].
    pub other_ram: GuestMemoryMmap,
    /// Whose processes are opened.
    pub here: GuestId,
    homes: BTreeMap<ProcId, GuestId>,
    pub trace: Vec<TraceEvent>,
    pub procs: BTreeMap<ProcId, Process>,
    pub tokens: BTreeMap<Token, u32>,
    next_token: u32,
    free_pages: Vec<Pfn>,
    pub nice: BTreeMap<Th, i32>,
    pub policy: BTreeMap<Th, u32>,
    pub euid: BTreeMap<Th, u32>,
    pub leader_euid: u32,
    seqs: BTreeMap<Th, u64>,
    /// Write offset of the ioctl under way, for PARKED and its event.
    pending: BTreeMap<Th, Out>,
    /// Ended ioctls that had parked.
    done: BTreeMap<Th, Out>,
    pub polled: Vec<Th>,
    /// Ranges larger than this go as pages.
    pub inline_limit: u64,
    /// Commands bring no memory: everything is asked for.
    pub lazy: bool,
    /// Bytes of a chunk.
    pub chunk_limit: usize,
    /// PAGES and FILES are refused with these.
    pub page_error: Option<Errno>,
    pub lsm_error: Errno,
    pub file_error: Option<Errno>,
    pub install_error: Option<Errno>,
    pub nonblock: bool,
    pub foreign: bool,
    pub read_bad: bool,
    pub other_sid: bool,
    /// Rounds of NEEDS, by kind.
    pub asked: Vec<NeedKind>,
    /// Do not answer NEEDS or INSTALL; the test does.
    pub hold: bool,
    pub last: Answer,
    pub idle_pages: u32,
    limits: Limits,
    /// Messages so far.
    messages: u32,
    /// Milliseconds of the guest's clock.
    pub time: u32,
}

/// Every message up to this one, and every so many after it, meets a domain that was saved and restored.
const RELOADS: u32 = 150;

/// The domain as it comes back from a snapshot.
pub fn reload(domain: &Domain, limits: &Limits) -> Domain {
    let bytes = postcard::to_stdvec(domain).expect("a domain is plain data");
    let loaded: Domain = postcard::from_bytes(&bytes).expect("a saved domain can be read");
    loaded.check(limits).expect("a saved domain is consistent");
    assert_eq!(postcard::to_stdvec(&loaded).unwrap(), bytes, "the encoding is stable");
    loaded
}

pub const GUEST: GuestId = GuestId(1);
/// A second guest, where there are two.
pub const OTHER: GuestId = GuestId(2);

impl World {
    pub fn new() -> World {
        World::with(Limits::default(), Profile::default())
    }

    pub fn with(limits: Limits, profile: Profile) -> World {
        let mut domain = Domain::new(limits.clone(), profile);
        domain.attach(GUEST);
        let ram = || GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (RAM_PAGES * PAGE) as usize)]).unwrap();
        World {
            domain,
            ram: ram(),
            other_ram: ram(),
            here: GUEST,
            homes: BTreeMap::new(),
            trace: Vec::new(),
            procs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
            free_pages: (1..RAM_PAGES).rev().map(Pfn).collect(),
            nice: BTreeMap::new(),
            policy: BTreeMap::new(),
            euid: BTreeMap::new(),
            leader_euid: 0,
            seqs: BTreeMap::new(),
            pending: BTreeMap::new(),
            done: BTreeMap::new(),
            polled: Vec::new(),
            inline_limit: PAGE,
            lazy: false,
            chunk_limit: usize::MAX,
            page_error: None,
            lsm_error: Errno::OK,
            file_error: None,
            install_error: None,
            nonblock: false,
            foreign: false,
            read_bad: false,
            other_sid: false,
            asked: Vec::new(),
            hold: false,
            last: Answer::default(),
            idle_pages: 0,
            limits,
            messages: 0,
            time: 0,
        }
    }

    /// A world that [`OTHER`] shares.
    pub fn shared() -> World {
        let mut world = World::new();
        world.domain.attach(OTHER);
        world
    }

    fn home(&self, proc: ProcId) -> GuestId {
        self.homes.get(&proc).copied().unwrap_or(self.here)
    }

    /// RAM of the guest that a process is of.
    pub fn ram_of(&self, proc: ProcId) -> &GuestMemoryMmap {
        if self.home(proc) == OTHER { &self.other_ram } else { &self.ram }
    }

    // --- processes ---

    pub fn open_as(&mut self, open: Open) -> Result<ProcId, Errno> {
        let answer = self.message(Header::default(), Body::Open(open));
        match answer.proc {
            None => Err(answer.errno),
            Some(proc) => {
                let process = Process { next_address: 0x10_0000, max_fds: 1024, ..Process::default() };
                self.procs.insert(proc, process);
                self.homes.insert(proc, self.here);
                Ok(proc)
            }
        }
    }

    pub fn open_device(&mut self, context: &str, pid: u32) -> ProcId {
        self.open_as(Open { tgid: Pid(pid), context: context.into(), ..Open::default() }).unwrap()
    }

    /// Opens "binder" and maps 64 KiB; pid and first tid are the same number.
    pub fn process(&mut self, pid: u32) -> Th {
        self.process_with(pid, 16 * PAGE)
    }

    /// The same with a mapping of that length.
    pub fn process_with(&mut self, pid: u32, length: u64) -> Th {
        let proc = self.open_device("binder", pid);
        assert_eq!(self.note(proc, Body::Mmap { address: MAPPING, length }).errno, Errno::OK);
        self.thread(proc, pid)
    }

    /// A thread whose need-return flag is spent.
    pub fn thread(&mut self, proc: ProcId, tid: u32) -> Th {
        let th = Th { proc, tid: Tid(tid) };
        assert_eq!(self.ioctl(th, ioctl::VERSION, &[0; 4]).0, 0);
        th
    }

    /// The same, in the looper.
    pub fn looper(&mut self, proc: ProcId, tid: u32) -> Th {
        let th = self.thread(proc, tid);
        self.write(th, &[Command::EnterLooper]);
        th
    }

    pub fn note(&mut self, proc: ProcId, body: Body) -> Answer {
        self.message(Header { proc: proc.0, ..Header::default() }, body)
    }

    pub fn release(&mut self, proc: ProcId) {
        let mut answer = self.note(proc, Body::Release);
        while answer.status == Status::More {
            answer = self.note(proc, Body::Continue(Continue::More(Chunk::default())));
        }
        let process = self.procs.remove(&proc).unwrap();
        self.free_pages.extend(process.slots.values());
    }

    /// Takes every idle page back.
    pub fn trim(&mut self, proc: ProcId) {
        let answer = self.note(proc, Body::Trim { max: 1024 });
        for slot in answer.slots {
            self.free_pages
                .push(self.procs.get_mut(&proc).unwrap().slots.remove(&slot).expect("a filled slot"));
        }
    }

    pub fn become_manager(&mut self, th: Th) {
        assert_eq!(self.ioctl(th, ioctl::SET_CONTEXT_MGR, &[0; 4]).0, 0);
    }

    // --- ioctls ---

    fn header(&self, th: Th) -> Header {
        Header {
            proc: th.proc.0,
            tid: th.tid,
            seq: Seq(self.seqs.get(&th).copied().unwrap_or(0)),
            nonblock: self.nonblock,
            foreign: self.foreign,
            read_bad: self.read_bad,
            other_sid: self.other_sid,
            leader_euid: Kuid(self.leader_euid),
            thread_euid: Kuid(self.euid.get(&th).copied().unwrap_or(0)),
            policy: self.policy.get(&th).copied().unwrap_or(0),
            prio: self.nice.get(&th).copied().unwrap_or(0),
            time: self.time,
        }
    }

    /// Posts a message and collects the events.
    pub fn message(&mut self, header: Header, body: Body) -> Answer {
        self.messages += 1;
        if self.messages <= RELOADS || self.messages.is_multiple_of(RELOADS) {
            self.domain = reload(&self.domain, &self.limits);
        }
        let guest = self.home(ProcId(header.proc));
        let rams = Both { first: &self.ram, other: &self.other_ram };
        let answer = self.domain.handle(&rams, guest, &Message { header, body }, &mut self.trace);
        self.act(Th { proc: ProcId(header.proc), tid: header.tid }, &answer.actions);
        self.idle_pages = answer.idle_pages;
        self.last = answer.clone();
        answer
    }

    /// The machine has a turn.
    pub fn turn(&mut self) {
        self.domain = reload(&self.domain, &self.limits);
        let rams = Both { first: &self.ram, other: &self.other_ram };
        self.domain.turn(&rams, &mut self.trace);
        self.events();
    }

    pub fn send(&mut self, th: Th, body: Body) -> Answer {
        let header = self.header(th);
        self.message(header, body)
    }

    /// A thread's policy and nice or real-time priority.
    pub fn scheduling(&self, th: Th) -> (u32, i32) {
        (self.policy.get(&th).copied().unwrap_or(0), self.nice.get(&th).copied().unwrap_or(0))
    }

    /// A signal during the sleep.
    pub fn signal(&mut self, th: Th) -> Answer {
        let answer = self.send(th, Body::Cancel);
        self.pending.remove(&th);
        self.events();
        answer
    }

    pub fn extended_error(&mut self, th: Th) -> (u32, i32) {
        let (errno, bytes) = self.ioctl(th, ioctl::GET_EXTENDED_ERROR, &[0; 12]);
        assert_eq!(errno, 0);
        (word(&bytes, 4), word(&bytes, 8) as i32)
    }

    pub fn census(&self) -> Census {
        self.domain.census(GUEST)
    }

    /// A reply whose completion is read too.
    pub fn reply_now(&mut self, th: Th, data: &[u8], offsets: &[u64]) {
        let out = self.reply(th, data, offsets);
        assert_eq!(out.returns, [Return::Noop, Return::TransactionComplete]);
    }

    /// Releases every process and checks that nothing is left of them.
    pub fn finish(mut self) {
        let procs: BTreeSet<ProcId> = self.procs.keys().copied().collect();
        for proc in procs {
            self.release(proc);
        }
        while self.domain.next_event(GUEST).or_else(|| self.domain.next_event(OTHER)).is_some() {}
        assert_eq!(self.census(), Census::default());
        assert_eq!(self.domain.census(OTHER), Census::default());
        assert!(self.tokens.is_empty(), "files leak: {:?}", self.tokens);
    }
}
