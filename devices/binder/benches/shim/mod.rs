//! The least shim that can keep two processes talking, so that what is measured is the core.

use std::collections::BTreeMap;

use binder::protocol::{Command, TransactionData, ioctl, object, tf};
use binder::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

pub mod cpu_time;

const PAGE: u64 = 4096;
const RAM: u64 = 256 << 20;
/// Where every process has its mapping.
const MAPPING: u64 = 0x7000_0000_0000;
pub const GUEST: GuestId = GuestId(0);

struct Rams<'a>(&'a GuestMemoryMmap);

impl GuestRams for Rams<'_> {
    type Ram = GuestMemoryMmap;

    fn ram(&self, _guest: GuestId) -> Option<&GuestMemoryMmap> {
        Some(self.0)
    }
}

/// A thread and the number of its last ioctl.
#[derive(Clone, Copy)]
pub struct Thread {
    pub proc: ProcId,
    pub tid: Tid,
    seq: u64,
}

impl Thread {
    fn ioctl(&mut self, cmd: u32, arg: Vec<u8>, chunk: Chunk) -> Message {
        self.seq += 1;
        let header = Header { proc: self.proc.0, tid: self.tid, seq: Seq(self.seq), ..Header::default() };
        Message { header, body: Body::Ioctl(Ioctl { cmd, arg, chunk, ..Ioctl::default() }) }
    }

    /// Its next BINDER_WRITE_READ.
    fn write_read(&mut self, commands: &[Command], payload: Option<&Payload>, read_size: u64) -> Message {
        let ranges = payload.map_or(Vec::new(), |payload| vec![payload.range.clone(), Range::default()]);
        self.write_read_of(commands, ranges, read_size)
    }

    fn write_read_of(&mut self, commands: &[Command], ranges: Vec<Range>, read_size: u64) -> Message {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        let fields = [bytes.len() as u64, 0, 0x1000, read_size, 0, 0x2000];
        let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        self.ioctl(ioctl::WRITE_READ, arg, Chunk { bytes, ranges, ..Chunk::default() })
    }
}

pub struct Shim {
    pub domain: Domain,
    ram: GuestMemoryMmap,
    pages: BTreeMap<(ProcId, u32), Pfn>,
    next_page: u64,
    next_pid: u32,
    /// As a device keeps it, for one message after the other.
    answer: Answer,
}

/// Payload of a call, as the shim carries it: in the message, or as pages for the core to copy from.
pub struct Payload {
    data: TransactionData,
    range: Range,
}

impl Payload {
    pub fn new(size: usize) -> Payload {
        let address = 0x10_0000;
        let length = size as u64;
        let data = if size <= 2048 {
            RangeData::Inline(vec![0x5a; size])
        } else {
            // Pages from the top of RAM, where no mapping's pages are.
            let count = length.div_ceil(PAGE);
            RangeData::Pages((RAM / PAGE - count..RAM / PAGE).map(Pfn).collect())
        };
        let range = Range { address, length, readable: length, fault: false, data };
        Payload {
            data: TransactionData { data: address, data_size: length, code: 1, ..Default::default() },
            range,
        }
    }
}

impl Shim {
    pub fn new() -> Shim {
        let limits = Limits {
            max_procs: 1 << 20,
            max_threads: 1 << 20,
            max_nodes: 1 << 20,
            max_refs: 1 << 20,
            ..Limits::default()
        };
        let mut domain = Domain::new(limits, Profile::default());
        domain.attach(GUEST);
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
        Shim { domain, ram, pages: BTreeMap::new(), next_page: 0, next_pid: 1, answer: Answer::default() }
    }

    fn handle(&mut self, message: &Message) -> &Answer {
        let rams = Rams(&self.ram);
        let answer = &mut self.answer;
        self.domain.answer(&GuestPages(&rams), GUEST, message, &mut NoTrace, answer);
        answer
    }

    /// A process with a mapping of 1 MiB, and its first thread.
    pub fn process(&mut self) -> Thread {
        let pid = self.next_pid;
        self.next_pid += 1;
        let open = Open { tgid: Pid(pid), context: b"binder".into(), ..Open::default() };
        let proc = self
            .handle(&Message { header: Header::default(), body: Body::Open(open) })
            .proc
            .expect("a process");
        let header = Header { proc: proc.0, ..Header::default() };
        self.handle(&Message { header, body: Body::Mmap { address: MAPPING, length: 256 * PAGE } });
        self.thread(proc)
    }

    pub fn thread(&mut self, proc: ProcId) -> Thread {
        let tid = Tid(self.next_pid);
        self.next_pid += 1;
        let mut thread = Thread { proc, tid, seq: 0 };
        self.write_read(&mut thread, &[Command::EnterLooper], 0);
        thread
    }

    pub fn become_manager(&mut self, thread: &mut Thread) {
        let answer = self.request(&thread.ioctl(ioctl::SET_CONTEXT_MGR, vec![0; 4], Chunk::default()));
        assert_eq!(answer.errno, Errno::OK);
    }

    /// Handles a request to its end, with all the pages it needs.
    pub fn request(&mut self, message: &Message) -> &Answer {
        self.handle(message);
        while let Status::Needs(needs) = &self.answer.status {
            let results = needs.clone().iter().map(|need| self.supply(need)).collect();
            let body = Body::Continue(Continue::Needs(results));
            self.handle(&Message { header: message.header, body });
        }
        &self.answer
    }

    fn supply(&mut self, need: &Need) -> NeedResult {
        let Need::Pages { proc, slots } = need else { panic!("{need:?} is not of these calls") };
        let mut page = |slot: u32| {
            *self.pages.entry((*proc, slot)).or_insert_with(|| {
                self.next_page += 1;
                Pfn(self.next_page)
            })
        };
        let pages = slots.iter().map(|slot| page(*slot)).collect();
        NeedResult { error: Errno::OK, outcome: Outcome::Pages(pages) }
    }

    /// One BINDER_WRITE_READ; what is read is not looked at.
    pub fn write_read(&mut self, thread: &mut Thread, commands: &[Command], read_size: u64) -> &Answer {
        self.request(&thread.write_read(commands, None, read_size))
    }

    /// The owner sends an object in a oneway, which the manager keeps under its next handle.
    fn publish(&mut self, owner: &mut Thread, manager: &mut Thread, handle: u32) {
        let ptr = 0x1000 + u64::from(handle) * 16;
        let mut object = Vec::new();
        for word in [u64::from(object::BINDER), ptr, ptr] {
            object.extend(word.to_le_bytes());
        }
        let inline = |address: u64, bytes: Vec<u8>| {
            let length = bytes.len() as u64;
            Range { address, length, readable: length, fault: false, data: RangeData::Inline(bytes) }
        };
        let ranges = vec![inline(0x10_0000, object), inline(0x20_0000, vec![0; 8])];
        let data = TransactionData {
            data: 0x10_0000,
            data_size: 24,
            offsets: 0x20_0000,
            offsets_size: 8,
            flags: tf::ONE_WAY,
            ..Default::default()
        };
        let send = owner.write_read_of(&[Command::Transaction(data)], ranges, 256);
        assert_eq!(self.request(&send).errno, Errno::OK);
        let done = [Command::IncrefsDone { ptr, cookie: ptr }, Command::AcquireDone { ptr, cookie: ptr }];
        self.write_read(owner, &done, 0);
        self.write_read(manager, &[], 256);
        self.write_read(manager, &[Command::Acquire { handle }, Command::FreeBuffer { data: MAPPING }], 0);
    }

    fn event(&mut self) {
        let event = self.domain.next_event(GUEST).expect("the other side is woken");
        if let EventKind::Done { result, .. } = event.kind {
            self.domain.reuse(result);
        }
    }
}

/// A client in the middle of calling a server again and again, in two halves: what the two ask for, and
/// the core that answers, so that requests can be made beforehand.
pub struct Pair {
    pub requests: Requests,
    pub shim: Shim,
}

/// The three requests of a call.
pub type Round = [Message; 3];

pub struct Requests {
    client: Thread,
    server: Thread,
    payload: Payload,
}

impl Requests {
    /// The call, which also frees the last reply, and waits; the reply, which also frees the call's
    /// buffer; the wait for the next call.
    pub fn round(&mut self) -> Round {
        let Requests { client, server, payload } = self;
        // Both sides have one buffer at a time, at the start of their mapping.
        let free = Command::FreeBuffer { data: MAPPING };
        [
            client.write_read(&[free, Command::Transaction(payload.data)], Some(payload), 256),
            server.write_read(&[free, Command::Reply(payload.data)], Some(payload), 256),
            server.write_read(&[], None, 256),
        ]
    }
}

impl Pair {
    /// The server is context manager and waits; every call carries `size` bytes, and every reply.
    pub fn new(shim: Shim, size: usize) -> Pair {
        Pair::with_objects(shim, size, 0)
    }

    /// The same, where the server has handles to `objects` of the client.
    pub fn with_objects(mut shim: Shim, size: usize, objects: usize) -> Pair {
        let mut server = shim.process();
        shim.become_manager(&mut server);
        let mut client = shim.process();
        for handle in 1..=objects as u32 {
            shim.publish(&mut client, &mut server, handle);
        }
        let answer = shim.write_read(&mut server, &[], 256);
        assert!(matches!(answer.status, Status::Parked { .. }));
        let mut pair = Pair { shim, requests: Requests { client, server, payload: Payload::new(size) } };
        // Fills the pages of both mappings.
        for _ in 0..4 {
            let round = pair.requests.round();
            pair.shim.round_trip(&round);
        }
        pair
    }
}

impl Shim {
    /// The three requests, and the two events that come of them. A function of its own, so that callgrind
    /// can count what one takes (the crate's README).
    #[inline(never)]
    pub fn round_trip(&mut self, [call, reply, wait]: &Round) {
        let answer = self.request(call);
        assert!(matches!(answer.status, Status::Parked { .. }), "{answer:?}");
        self.event();
        let answer = self.request(reply);
        assert!(matches!(answer.status, Status::Done), "{answer:?}");
        self.event();
        let answer = self.request(wait);
        assert!(matches!(answer.status, Status::Parked { .. }), "{answer:?}");
    }
}
