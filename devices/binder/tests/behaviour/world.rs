//! A guest without a kernel: user memory, descriptors, and a shim that does what the core asks.

use std::collections::{BTreeMap, BTreeSet};

use binder::protocol::{Command, Return, TransactionData, ioctl};
use binder::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::payloads::{parse, word};

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
        let proc = self.open_device("binder", pid);
        assert_eq!(self.note(proc, Body::Mmap { address: MAPPING, length: 16 * PAGE }).errno, Errno::OK);
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
        let answer = self.domain.handle(&rams, guest, Message { header, body }, &mut self.trace);
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

    fn act(&mut self, th: Th, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::NiceSet(nice) => {
                    self.nice.insert(th, nice);
                }
                Action::NiceRaise(nice) => {
                    let now = self.nice.entry(th).or_default();
                    *now = nice.min(*now);
                }
                Action::Schedule { wanted, .. } => {
                    self.policy.insert(th, wanted.policy);
                    self.nice.insert(th, wanted.value);
                }
                Action::CloseFd(fd) => {
                    self.procs.get_mut(&th.proc).unwrap().fds.remove(&fd).expect("an open descriptor");
                }
                Action::Fput(token) => {
                    self.tokens.remove(&token).expect("a token");
                }
            }
        }
    }

    pub fn ioctl(&mut self, th: Th, cmd: u32, arg: &[u8]) -> (i32, Vec<u8>) {
        self.ioctl_as(th, Ioctl { cmd, arg: arg.to_vec(), ..Ioctl::default() })
    }

    /// Posts an ioctl; a thread that sleeps in one has no other.
    fn begin(&mut self, th: Th, body: Ioctl) -> Answer {
        let seq = self.seqs.entry(th).or_default();
        *seq += 1;
        let answer = self.send(th, Body::Ioctl(body));
        if answer.errno == Errno::EPROTO && self.pending.contains_key(&th) {
            *self.seqs.entry(th).or_default() -= 1;
        }
        answer
    }

    pub fn ioctl_as(&mut self, th: Th, body: Ioctl) -> (i32, Vec<u8>) {
        let answer = self.begin(th, body);
        self.events();
        (answer.errno.0, answer.result)
    }

    pub fn write(&mut self, th: Th, commands: &[Command]) -> Out {
        self.write_read(th, commands, 0)
    }

    pub fn read(&mut self, th: Th) -> Out {
        self.write_read(th, &[], READ_SIZE)
    }

    pub fn read_nonblock(&mut self, th: Th) -> Out {
        self.nonblock = true;
        let out = self.read(th);
        self.nonblock = false;
        out
    }

    pub fn write_read(&mut self, th: Th, commands: &[Command], read_size: u64) -> Out {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        self.raw_write_read(th, &bytes, bytes.len() as u64, read_size, 0)
    }

    pub fn raw_write_read(&mut self, th: Th, bytes: &[u8], write_size: u64, read_size: u64, rc: u64) -> Out {
        let fields = [write_size, 0, 0x1000, read_size, rc, 0x2000];
        let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        let chunk = self.chunk(th, bytes, 0);
        let body = Ioctl { cmd: ioctl::WRITE_READ, arg, chunk, ..Ioctl::default() };
        let answer = self.begin(th, body);
        let out = Out { bytes: vec![0; rc as usize], start: rc, ..Out::default() };
        let out = self.follow(th, bytes, answer, out);
        self.events();
        out
    }

    /// Whole commands from `position`, as many as fit, with the memory that they name.
    fn chunk(&self, th: Th, bytes: &[u8], position: usize) -> Chunk {
        let mut chunk = Chunk { position: position as u64, ..Chunk::default() };
        let mut at = position;
        while at < bytes.len() {
            let (length, command) = match Command::decode(&bytes[at..]) {
                Ok((command, length)) => (length, Some(command)),
                Err(_) => (bytes.len() - at, None),
            };
            if at > position && at + length - position > self.chunk_limit {
                chunk.end = ChunkEnd::Cut;
                break;
            }
            let data = match command {
                Some(Command::Transaction(data) | Command::Reply(data)) => Some(data),
                Some(Command::TransactionSg(data, _) | Command::ReplySg(data, _)) => Some(data),
                _ => None,
            };
            if let Some(data) = data.filter(|_| !self.lazy) {
                chunk.ranges.push(self.range(th.proc, data.data, data.data_size));
                chunk.ranges.push(self.range(th.proc, data.offsets, data.offsets_size));
            }
            at += length;
        }
        chunk.bytes = bytes[position..at].to_vec();
        chunk
    }

    /// A piece of user memory as the shim carries it.
    pub fn range(&self, proc: ProcId, address: u64, length: u64) -> Range {
        let none = Range { address, length, readable: 0, fault: length > 0, data: RangeData::None };
        let process = &self.procs[&proc];
        let Some((start, bytes)) = process.memory.range(..=address).next_back() else { return none };
        let skip = (address - start) as usize;
        let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) else { return none };
        let window = length.min(256 * PAGE - address % PAGE);
        let readable = window.min(rest.len() as u64);
        let fault = readable < window;
        let data = if readable <= self.inline_limit {
            RangeData::Inline(rest[..readable as usize].to_vec())
        } else {
            RangeData::Pages(self.user_pages(proc, address, &rest[..readable as usize]))
        };
        Range { address, length, readable, fault, data }
    }

    /// User memory in guest pages: below the top of RAM, reused for every range.
    fn user_pages(&self, proc: ProcId, address: u64, bytes: &[u8]) -> Vec<Pfn> {
        let offset = address % PAGE;
        let count = (offset + bytes.len() as u64).div_ceil(PAGE);
        // From the top, growing down, by address: stable for one address.
        let first = RAM_PAGES - 1024 + (address / PAGE) % (1024 - count);
        self.ram_of(proc).write_slice(bytes, GuestAddress(first * PAGE + offset)).unwrap();
        (first..first + count).map(Pfn).collect()
    }

    /// Does what answers ask for until the ioctl ends or parks.
    pub fn follow(&mut self, th: Th, bytes: &[u8], mut answer: Answer, mut out: Out) -> Out {
        loop {
            out.wc = answer.write_consumed.max(out.wc);
            self.collect(&mut out, &answer);
            match &answer.status {
                Status::Done => {
                    out.errno = answer.errno.0;
                    out.rc = answer.read_consumed;
                    if out.errno == 0 {
                        out.returns = parse(&out.bytes[out.start as usize..out.rc as usize]);
                    }
                    return out;
                }
                Status::Parked { .. } => {
                    self.pending.insert(th, out.clone());
                    out.parked = true;
                    return out;
                }
                Status::TooLate => panic!("TOO_LATE of an ioctl"),
                _ if self.hold => {
                    self.pending.insert(th, out.clone());
                    return out;
                }
                Status::More => {
                    let chunk = self.chunk(th, bytes, (out.wc as usize).min(bytes.len()));
                    answer = self.send(th, Body::Continue(Continue::More(chunk)));
                }
                Status::Needs(needs) => {
                    let results = needs.clone().iter().map(|need| self.supply(th, need)).collect();
                    answer = self.send(th, Body::Continue(Continue::Needs(results)));
                }
                Status::Install(tokens) => {
                    let result = self.install(th, &tokens.clone());
                    answer = self.send(th, Body::Continue(Continue::Install(result)));
                }
            }
        }
    }

    fn collect(&self, out: &mut Out, answer: &Answer) {
        let end = answer.result_position as usize + answer.result.len();
        out.bytes.resize(end.max(out.bytes.len()), 0);
        out.bytes[answer.result_position as usize..end].copy_from_slice(&answer.result);
        if let Some(word) = answer.first_word {
            out.bytes[..4].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(creds) = answer.creds {
            out.creds = creds.proc;
            let at = answer.result_position as usize + creds.offset as usize;
            let pid = creds.proc.and_then(|proc| self.domain.pid(proc)).unwrap_or_default();

            assert_eq!(out.bytes[at..at + 4], pid.0.to_le_bytes(), "creds name the place of sender_pid");
        }
    }

    pub fn supply(&mut self, th: Th, need: &Need) -> NeedResult {
        self.asked.push(need.kind());
        match need {
            Need::Data { address, length } => {
                let range = self.range(th.proc, *address, *length);
                NeedResult { error: Errno::OK, outcome: Outcome::Data(range) }
            }
            Need::Pages { proc, slots } => {
                if let Some(error) = self.page_error {
                    return NeedResult { error, outcome: Outcome::None };
                }
                let mut pfns = Vec::new();
                for slot in slots {
                    let process = self.procs.get_mut(proc).unwrap();
                    let pfn = *process.slots.entry(*slot).or_insert_with(|| self.free_pages.pop().unwrap());
                    pfns.push(pfn);
                }
                NeedResult { error: Errno::OK, outcome: Outcome::Pages(pfns) }
            }
            Need::Files { fds, .. } => {
                let mut tokens = Vec::new();
                let mut error = Errno::OK;
                for fd in fds {
                    let file = self.procs[&th.proc].fds.get(fd).copied();
                    match (file, self.file_error) {
                        (Some(_), Some(refused)) => {
                            error = refused;
                            break;
                        }
                        (Some(file), None) => tokens.push(self.token(file)),
                        (None, _) => {
                            error = Errno::EBADF;
                            break;
                        }
                    }
                }
                NeedResult { error, outcome: Outcome::Files(tokens) }
            }
            Need::Lsm { .. } => NeedResult { error: self.lsm_error, outcome: Outcome::None },
        }
    }

    fn token(&mut self, file: u32) -> Token {
        self.next_token += 1;
        self.tokens.insert(Token(self.next_token), file);
        Token(self.next_token)
    }

    pub fn install(&mut self, th: Th, tokens: &[Token]) -> NeedResult {
        let process = self.procs.get_mut(&th.proc).unwrap();
        let free: Vec<u32> = (0..).filter(|fd| !process.fds.contains_key(fd)).take(tokens.len()).collect();
        let full = process.fds.len() + tokens.len() > process.max_fds;
        if let Some(error) = self.install_error.or(full.then_some(Errno(-24))) {
            return NeedResult { error, outcome: Outcome::None };
        }
        for (fd, token) in free.iter().zip(tokens) {
            let file = self.tokens.remove(token).expect("a token");
            process.fds.insert(*fd, file);
        }
        NeedResult { error: Errno::OK, outcome: Outcome::Fds(free) }
    }

    // --- events ---

    /// Takes every event there is, fetches and installs where asked.
    pub fn events(&mut self) {
        while let Some(event) = self.domain.next_event(GUEST).or_else(|| self.domain.next_event(OTHER)) {
            let th = Th { proc: event.proc, tid: event.tid };
            self.idle_pages = event.idle_pages;
            match event.kind {
                EventKind::Poll => self.polled.push(th),
                _ if event.fetch => {
                    let answer = self.send(th, Body::Fetch);
                    let out = self.pending.remove(&th).unwrap_or_default();
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
                EventKind::Install { tokens } => {
                    let out = self.pending.remove(&th).unwrap_or_default();
                    if self.hold {
                        self.pending.insert(th, out);
                        continue;
                    }
                    let result = self.install(th, &tokens);
                    let answer = self.send(th, Body::Continue(Continue::Install(result)));
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
                EventKind::Done { errno, read_consumed, result, first_word, creds, nice } => {
                    self.act(th, nice.as_slice());
                    let result_position = read_consumed - result.len() as u64;
                    let answer = Answer {
                        errno,
                        read_consumed,
                        result,
                        result_position,
                        first_word,
                        creds,
                        ..Answer::default()
                    };
                    let out = self.pending.remove(&th).unwrap_or_default();
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
            }
        }
    }

    fn keep(&mut self, th: Th, out: Out) {
        if !out.parked {
            self.done.insert(th, out);
        }
    }

    /// The end of an ioctl that had parked.
    pub fn woken(&mut self, th: Th) -> Out {
        self.done.remove(&th).unwrap_or_else(|| panic!("{th:?} still sleeps"))
    }

    pub fn sleeps(&self, th: Th) -> bool {
        !self.done.contains_key(&th)
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
