//! The least shim that can keep two processes talking, so that what is measured is the core.

use std::collections::BTreeMap;

use binder::protocol::{Command, TransactionData, ioctl};
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

pub struct Shim {
    pub domain: Domain,
    ram: GuestMemoryMmap,
    pages: BTreeMap<(ProcId, u32), Pfn>,
    next_page: u64,
    next_pid: u32,
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
        Shim { domain, ram, pages: BTreeMap::new(), next_page: 0, next_pid: 1 }
    }

    fn handle(&mut self, header: Header, body: Body) -> Answer {
        self.domain.handle(&Rams(&self.ram), GUEST, Message { header, body }, &mut NoTrace)
    }

    /// A process with a mapping of 1 MiB, and its first thread.
    pub fn process(&mut self) -> Thread {
        let pid = self.next_pid;
        self.next_pid += 1;
        let open = Open { tgid: Pid(pid), context: b"binder".into(), ..Open::default() };
        let proc = self.handle(Header::default(), Body::Open(open)).proc.expect("a process");
        let header = Header { proc: proc.0, ..Header::default() };
        self.handle(header, Body::Mmap { address: MAPPING, length: 256 * PAGE });
        self.thread(proc)
    }

    pub fn thread(&mut self, proc: ProcId) -> Thread {
        let tid = Tid(self.next_pid);
        self.next_pid += 1;
        let mut thread = Thread { proc, tid, seq: 0 };
        self.write_read(&mut thread, &[Command::EnterLooper], None, 0);
        thread
    }

    pub fn become_manager(&mut self, thread: &mut Thread) {
        let answer = self.ioctl(thread, ioctl::SET_CONTEXT_MGR, vec![0; 4], Chunk::default());
        assert_eq!(answer.errno, Errno::OK);
    }

    fn ioctl(&mut self, thread: &mut Thread, cmd: u32, arg: Vec<u8>, chunk: Chunk) -> Answer {
        thread.seq += 1;
        let header =
            Header { proc: thread.proc.0, tid: thread.tid, seq: Seq(thread.seq), ..Header::default() };
        let body = Ioctl { cmd, arg, chunk, ..Ioctl::default() };
        let mut answer = self.handle(header, Body::Ioctl(body));
        while let Status::Needs(needs) = &answer.status {
            let results = needs.clone().iter().map(|need| self.supply(need)).collect();
            answer = self.handle(header, Body::Continue(Continue::Needs(results)));
        }
        answer
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
    pub fn write_read(
        &mut self,
        thread: &mut Thread,
        commands: &[Command],
        payload: Option<&Payload>,
        read_size: u64,
    ) -> Answer {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        let fields = [bytes.len() as u64, 0, 0x1000, read_size, 0, 0x2000];
        let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        let empty = Range::default();
        let ranges = payload.map_or(Vec::new(), |payload| vec![payload.range.clone(), empty]);
        let chunk = Chunk { bytes, ranges, ..Chunk::default() };
        self.ioctl(thread, ioctl::WRITE_READ, arg, chunk)
    }

    fn event(&mut self) {
        self.domain.next_event(GUEST).expect("the other side is woken");
    }
}

/// A client in the middle of calling a server again and again.
pub struct Pair {
    pub shim: Shim,
    client: Thread,
    server: Thread,
    payload: Payload,
}

impl Pair {
    /// The server is context manager and waits; every call carries `size` bytes, and every reply.
    pub fn new(mut shim: Shim, size: usize) -> Pair {
        let mut server = shim.process();
        shim.become_manager(&mut server);
        let client = shim.process();
        let answer = shim.write_read(&mut server, &[], None, 256);
        assert!(matches!(answer.status, Status::Parked { .. }));
        let mut pair = Pair { shim, client, server, payload: Payload::new(size) };
        // Fills the pages of both mappings.
        (0..4).for_each(|_| pair.round_trip());
        pair
    }

    /// The call; the reply, and the read of its completion; the wait for the next call.
    pub fn round_trip(&mut self) {
        let Pair { shim, client, server, payload } = self;
        // Both sides have one buffer at a time, at the start of their mapping.
        let free = Command::FreeBuffer { data: MAPPING };
        let call = Command::Transaction(payload.data);
        let answer = shim.write_read(client, &[call], Some(payload), 256);
        assert!(matches!(answer.status, Status::Parked { .. }), "{answer:?}");
        shim.event();
        let reply = Command::Reply(payload.data);
        let answer = shim.write_read(server, &[free, reply], Some(payload), 256);
        assert!(matches!(answer.status, Status::Done), "{answer:?}");
        shim.event();
        // The client frees the reply with its next call; here, so that every round is the same.
        let answer = shim.write_read(client, &[free], None, 0);
        assert_eq!(answer.errno, Errno::OK);
        let answer = shim.write_read(server, &[], None, 256);
        assert!(matches!(answer.status, Status::Parked { .. }), "{answer:?}");
    }
}
