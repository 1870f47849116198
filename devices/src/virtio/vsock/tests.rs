//! The socket device as a driver sees it, with real sockets on the host.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::packet::shutdown;
use super::stream::BUFFER;
use super::*;
use crate::testing::{Driver, WRITE};

const CID: u64 = 7;
/// Where the guest puts its packets, and where it has its receive buffers.
const SENT: u64 = 0x2_0000;
const RECEIVED: u64 = 0x4_0000;
const ROOM: u32 = 4096;
/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Host {
    wakes: AtomicUsize,
    open: AtomicUsize,
}

impl VsockHost for Host {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
    }

    fn streams(&self, open: usize) {
        self.open.store(open, Ordering::SeqCst);
    }
}

/// A guest that posts receive buffers, and a folder with the sockets.
struct Guest {
    driver: Driver,
    host: Arc<Host>,
    folder: tempfile::TempDir,
}

/// A packet for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    op: u16,
    host: u32,
    guest: u32,
    flags: u32,
    forwarded: u32,
    bytes: Vec<u8>,
}

impl Guest {
    fn new() -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let host = Arc::new(Host::default());
        let device = Vsock::new(CID, &folder.path().join("sock"), host.clone()).unwrap();
        Guest { driver: Driver::start(Box::new(device), 0), host, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// Sends a packet of a stream.
    fn send(&mut self, op: u16, host: u32, guest: u32, flags: u32, bytes: &[u8]) {
        self.send_with(op, host, guest, flags, bytes, 1 << 20);
    }

    fn send_with(&mut self, op: u16, host: u32, guest: u32, flags: u32, bytes: &[u8], buffer: u32) {
        let header = Header {
            source_cid: CID.into(),
            target_cid: HOST_CID.into(),
            source_port: guest.into(),
            target_port: host.into(),
            length: (bytes.len() as u32).into(),
            kind: TYPE_STREAM.into(),
            op: op.into(),
            flags: flags.into(),
            buffer: buffer.into(),
            forwarded: 0.into(),
        };
        self.transmit(header.as_bytes(), bytes);
    }

    /// Header and bytes are one descriptor each, as Linux 6.1 has it.
    fn transmit(&mut self, header: &[u8], bytes: &[u8]) {
        self.driver.reuse_descriptors(TRANSMIT);
        let body = SENT + header.len() as u64;
        self.driver.ram.write_slice(header, GuestAddress(SENT)).unwrap();
        self.driver.ram.write_slice(bytes, GuestAddress(body)).unwrap();
        let mut chain = vec![(SENT, header.len() as u32, 0)];
        if !bytes.is_empty() {
            chain.push((body, bytes.len() as u32, 0));
        }
        self.driver.add(TRANSMIT, &chain);
        self.driver.kick(TRANSMIT);
    }

    /// The next packet, with one buffer for it.
    fn poll(&mut self) -> Option<Packet> {
        self.driver.reuse_descriptors(RECEIVE);
        self.driver.add(RECEIVE, &[(RECEIVED, ROOM, WRITE)]);
        self.driver.kick(RECEIVE);
        self.wait_used()
    }

    fn wait_used(&mut self) -> Option<Packet> {
        let until = Instant::now() + LIMIT;
        loop {
            let used = self.driver.used(RECEIVE);
            if let [(_, length)] = used[..] {
                let bytes = self.driver.bytes(RECEIVED, length as usize);
                let header = Header::read_from_bytes(&bytes[..HEADER]).unwrap();
                assert_eq!((header.source_cid.get(), header.target_cid.get()), (HOST_CID, CID));
                assert_eq!(header.length.get() as usize, bytes.len() - HEADER);
                return Some(Packet {
                    op: header.op.get(),
                    host: header.source_port.get(),
                    guest: header.target_port.get(),
                    flags: header.flags.get(),
                    forwarded: header.forwarded.get(),
                    bytes: bytes[HEADER..].to_vec(),
                });
            }
            assert!(used.is_empty() && self.driver.transport.failure().is_none());
            if Instant::now() > until {
                return None;
            }
            std::thread::yield_now();
            self.driver.transport.service();
        }
    }

    #[track_caller]
    fn next(&mut self) -> Packet {
        self.poll().expect("a packet for the guest")
    }

    /// A stream that the host began, to the guest's port 52: the host's socket and port.
    fn called(&mut self) -> (UnixStream, u32) {
        let mut socket = UnixStream::connect(self.path()).unwrap();
        socket.write_all(b"CONNECT 52\n").unwrap();
        let request = self.next();
        assert_eq!((request.op, request.guest), (op::REQUEST, 52));
        self.send(op::RESPONSE, request.host, 52, 0, b"");
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let hello = format!("OK {}\n", request.host);
        let mut bytes = vec![0; hello.len()];
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, hello.as_bytes());
        (socket, request.host)
    }

    /// A stream that the guest began, from its port 1000 to the host's 80.
    fn calls(&mut self) -> UnixStream {
        let listener = UnixListener::bind(self.folder.path().join("sock_80")).unwrap();
        self.send(op::REQUEST, 80, 1000, 0, b"");
        assert_eq!(self.next().op, op::RESPONSE);
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    fn open(&self) -> usize {
        self.host.open.load(Ordering::SeqCst)
    }
}

#[test]
fn the_host_calls_and_both_talk() {
    let mut guest = Guest::new();
    let (mut socket, port) = guest.called();
    socket.write_all(b"to the guest").unwrap();
    let packet = guest.next();
    assert_eq!((packet.op, packet.host, packet.guest), (op::RW, port, 52));
    assert_eq!(packet.bytes, b"to the guest");
    guest.send(op::RW, port, 52, 0, b"to the host");
    let mut bytes = [0; 11];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the host");
    assert!(guest.host.wakes.load(Ordering::SeqCst) > 0);
    assert_eq!(guest.open(), 1);
}

#[test]
fn a_guest_that_refuses_hangs_up_on_the_caller() {
    let mut guest = Guest::new();
    let mut socket = UnixStream::connect(guest.path()).unwrap();
    socket.write_all(b"CONNECT 52\n").unwrap();
    let request = guest.next();
    guest.send(op::RST, request.host, 52, 0, b"");
    assert_eq!(socket.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(guest.open(), 0);
}

#[test]
fn callers_that_talk_nonsense_are_hung_up_on() {
    let guest = Guest::new();
    let long = [b'9'; 64];
    for said in [&b"HELLO 52\n"[..], b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967296\n", &long, b"\n"] {
        let mut socket = UnixStream::connect(guest.path()).unwrap();
        socket.write_all(said).unwrap();
        socket.set_nonblocking(true).unwrap();
        let until = Instant::now() + LIMIT;
        loop {
            guest.driver.transport.service();
            match socket.read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => break,
                // What it said and nobody read is its loss.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                other => panic!("{other:?}"),
            }
            assert!(Instant::now() < until, "{said:?} is still there");
        }
    }
    assert_eq!(guest.open(), 0);
}

#[test]
fn the_guest_calls_and_both_talk() {
    let mut guest = Guest::new();
    let mut socket = guest.calls();
    guest.send(op::RW, 80, 1000, 0, b"GET /");
    let mut bytes = [0; 5];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"GET /");
    socket.write_all(b"200").unwrap();
    assert_eq!(guest.next().bytes, b"200");
    // The host says that this was all; the guest may go on talking.
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let packet = guest.next();
    assert_eq!((packet.op, packet.flags), (op::SHUTDOWN, shutdown::SEND));
    guest.send(op::RW, 80, 1000, 0, b"bye");
    guest.send(op::SHUTDOWN, 80, 1000, shutdown::BOTH, b"");
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    assert_eq!(guest.next().op, op::RST);
    assert_eq!(guest.open(), 0);
}

#[test]
fn where_nobody_listens_the_guest_is_refused() {
    let mut guest = Guest::new();
    guest.send(op::REQUEST, 81, 1000, 0, b"");
    let packet = guest.next();
    assert_eq!((packet.op, packet.host, packet.guest), (op::RST, 81, 1000));
    // What belongs to no stream is refused, too; a reset is not answered.
    guest.send(op::RST, 81, 1000, 0, b"");
    guest.send(op::RW, 82, 1000, 0, b"x");
    let packet = guest.next();
    assert_eq!((packet.op, packet.host), (op::RST, 82));
}

#[test]
fn a_host_that_goes_takes_the_stream_along() {
    let mut guest = Guest::new();
    let mut socket = guest.calls();
    socket.write_all(b"last words").unwrap();
    drop(socket);
    assert_eq!(guest.next().bytes, b"last words");
    // The end of what it says may be seen before it is seen to be gone, and is told then.
    let mut told = 0;
    while told != shutdown::BOTH {
        let packet = guest.next();
        assert_eq!(packet.op, op::SHUTDOWN);
        assert_ne!(packet.flags & !told, 0, "news");
        told |= packet.flags;
    }
    guest.driver.transport.service();
    assert_eq!(guest.open(), 0);
}

#[test]
fn a_host_that_reads_nothing_holds_the_guest_back() {
    let mut guest = Guest::new();
    let mut socket = guest.calls();
    // As much as it was promised room for: some of it is in the kernel's socket, and taken out.
    let chunk = vec![7; 16 << 10];
    let mut sent = 0;
    for _ in 0..BUFFER / chunk.len() {
        guest.send(op::RW, 80, 1000, 0, &chunk);
        sent += chunk.len();
    }
    assert_eq!(guest.open(), 1);
    // The host reads: the guest hears of the room.
    let mut bytes = vec![0; sent];
    let reader = std::thread::spawn(move || socket.read_exact(&mut bytes).map(|()| (socket, bytes)));
    let mut told = 0;
    while told < sent as u32 {
        let packet = guest.next();
        assert_eq!(packet.op, op::CREDIT_UPDATE);
        assert!(packet.forwarded > told);
        told = packet.forwarded;
        if sent as u32 - told < BUFFER as u32 / 2 {
            break;
        }
    }
    let until = Instant::now() + LIMIT;
    while !reader.is_finished() && Instant::now() < until {
        guest.driver.transport.service();
    }
    let (mut socket, bytes) = reader.join().unwrap().unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    // One that sends more than it may is reset.
    let over = (BUFFER / chunk.len()) * 4;
    for _ in 0..over {
        guest.send(op::RW, 80, 1000, 0, &chunk);
    }
    let until = std::iter::repeat_with(|| guest.next()).take(over + 4).find(|packet| packet.op == op::RST);
    assert!(until.is_some());
    assert_eq!(guest.open(), 0);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.len() <= over * chunk.len());
}

#[test]
fn a_guest_without_room_is_asked_for_some() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.folder.path().join("sock_80")).unwrap();
    guest.send_with(op::REQUEST, 80, 1000, 0, b"", 4);
    assert_eq!(guest.next().op, op::RESPONSE);
    let (mut socket, _) = listener.accept().unwrap();
    socket.write_all(b"0123456789").unwrap();
    assert_eq!(guest.next().bytes, b"0123");
    assert_eq!(guest.next().op, op::CREDIT_REQUEST);
    // It says that it took two out.
    let mut header = Header {
        source_cid: CID.into(),
        target_cid: HOST_CID.into(),
        source_port: 1000.into(),
        target_port: 80.into(),
        kind: TYPE_STREAM.into(),
        op: op::CREDIT_UPDATE.into(),
        buffer: 4.into(),
        forwarded: 2.into(),
        ..Header::default()
    };
    guest.transmit(header.as_bytes(), b"");
    assert_eq!(guest.next().bytes, b"45");
    // One that claims to have taken more than it got has no room.
    header.forwarded = 100.into();
    guest.transmit(header.as_bytes(), b"");
    assert_eq!(guest.next().op, op::CREDIT_REQUEST);
}

#[test]
fn streams_are_bounded_and_come_back() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.folder.path().join("sock_80")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut sockets = Vec::new();
    let mut refused = 0;
    for port in 0..MAX_STREAMS as u32 + 10 {
        guest.send(op::REQUEST, 80, port, 0, b"");
        refused += usize::from(guest.next().op == op::RST);
        sockets.extend(listener.accept().ok());
    }
    assert_eq!((guest.open(), refused, sockets.len()), (MAX_STREAMS, 10, MAX_STREAMS));
    guest.send(op::RST, 80, 0, 0, b"");
    guest.send(op::REQUEST, 80, 9999, 0, b"");
    assert_eq!(guest.next().op, op::RESPONSE);
}

#[test]
fn a_guest_that_takes_no_answers_is_not_heard_for_ever() {
    let mut guest = Guest::new();
    let mut heard = 0;
    loop {
        guest.send(op::RW, 80, heard, 0, b"");
        match guest.driver.used(TRANSMIT).len() {
            0 => break,
            taken => heard += taken as u32,
        }
    }
    assert_eq!(heard as usize, MAX_REPLIES + 1);
    // Once it takes some, it is heard again.
    for port in 0..=heard {
        let packet = guest.next();
        assert_eq!((packet.op, packet.guest), (op::RST, port));
    }
    assert_eq!(guest.driver.used(TRANSMIT).len(), 1);
}

#[test]
fn packets_that_are_none_stop_the_device_until_its_reset() {
    let mut guest = Guest::new();
    guest.transmit(&[0; HEADER - 1], b"");
    assert!(guest.driver.transport.failure().is_some());
    guest.driver.restart(0);
    let long = Header { length: 5.into(), ..Header::default() };
    guest.transmit(long.as_bytes(), b"1234");
    assert!(guest.driver.transport.failure().is_some());
    guest.driver.restart(0);
    // Nobody's.
    guest.transmit(Header::default().as_bytes(), b"");
    let datagram =
        Header { source_cid: CID.into(), target_cid: HOST_CID.into(), kind: 3.into(), ..Header::default() };
    guest.transmit(datagram.as_bytes(), b"");
    assert_eq!(guest.next().op, op::RST);
}

#[test]
fn a_restored_guest_is_told_to_forget_its_streams() {
    let mut guest = Guest::new();
    let mut socket = guest.calls();
    guest.driver.add(EVENTS, &[(RECEIVED, 4, WRITE)]);
    let other = tempfile::tempdir().unwrap();
    let fresh = Vsock::new(CID, &other.path().join("sock"), guest.host.clone()).unwrap();
    let saved = guest.driver.saved();
    guest.driver.transport = guest.driver.restored(&saved, Box::new(fresh)).unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the old device is gone");
    guest.driver.ram.write_obj(u32::MAX, GuestAddress(RECEIVED)).unwrap();
    guest.driver.transport.service();
    assert_eq!(guest.driver.used(EVENTS).len(), 1);
    assert_eq!(guest.driver.bytes(RECEIVED, 4), TRANSPORT_RESET.to_le_bytes());
    // It is told once, and all works anew.
    guest.driver.add(EVENTS, &[(RECEIVED, 4, WRITE)]);
    guest.driver.transport.service();
    assert!(guest.driver.used(EVENTS).is_empty());
    guest.folder = other;
    guest.called();
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let device = || Vsock::new(CID, &path, Arc::new(Host::default()));
    let first = device().unwrap();
    assert!(device().is_err());
    drop(first);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    let second = device().unwrap();
    drop(second);
    std::fs::write(&path, "mine").unwrap();
    assert!(device().is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

/// What guest and host do.
#[derive(Clone, Debug)]
enum Step {
    Send { op: u16, host: u32, guest: u32, flags: u32, length: usize, buffer: u32, forwarded: u32 },
    Receive,
    Call,
    Talk { socket: usize, length: usize },
    Hush { socket: usize },
    Leave { socket: usize },
    Service,
}

fn step() -> impl Strategy<Value = Step> {
    let host = prop_oneof![Just(80), Just(81), FIRST_HOST_PORT..FIRST_HOST_PORT + 3];
    let number = || prop_oneof![Just(0), Just(4), Just(1 << 20), any::<u32>()];
    let length = prop_oneof![Just(0), Just(9), Just(30_000)];
    let send = (0..9u16, host, prop_oneof![Just(52), Just(1000)], 0..5u32, length, number(), number());
    prop_oneof![
        8 => send.prop_map(|(op, host, guest, flags, length, buffer, forwarded)| {
            Step::Send { op, host, guest, flags, length, buffer, forwarded }
        }),
        6 => Just(Step::Receive),
        2 => Just(Step::Call),
        2 => (0..8usize, 0..9000usize).prop_map(|(socket, length)| Step::Talk { socket, length }),
        1 => (0..8usize).prop_map(|socket| Step::Hush { socket }),
        1 => (0..8usize).prop_map(|socket| Step::Leave { socket }),
        4 => Just(Step::Service),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_guest_and_host_say_the_device_goes_on(steps in prop::collection::vec(step(), 1..80)) {
        let mut guest = Guest::new();
        let listener = UnixListener::bind(guest.folder.path().join("sock_80")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut sockets: Vec<UnixStream> = Vec::new();
        let mut posted = false;
        for step in steps {
            match step {
                Step::Send { op, host, guest: port, flags, length, buffer, forwarded } => {
                    let header = Header {
                        source_cid: CID.into(),
                        target_cid: HOST_CID.into(),
                        source_port: port.into(),
                        target_port: host.into(),
                        length: (length as u32).into(),
                        kind: TYPE_STREAM.into(),
                        op: op.into(),
                        flags: flags.into(),
                        buffer: buffer.into(),
                        forwarded: forwarded.into(),
                    };
                    guest.transmit(header.as_bytes(), &vec![1; length]);
                    prop_assert_eq!(guest.driver.used(TRANSMIT).len(), 1);
                    sockets.extend(listener.accept().ok().map(|(socket, _)| socket));
                }
                Step::Receive => {
                    if !posted {
                        guest.driver.reuse_descriptors(RECEIVE);
                        guest.driver.add(RECEIVE, &[(RECEIVED, ROOM, WRITE)]);
                    }
                    guest.driver.kick(RECEIVE);
                    posted = guest.driver.used(RECEIVE).is_empty();
                }
                Step::Call => {
                    let mut socket = UnixStream::connect(guest.path()).unwrap();
                    socket.write_all(b"CONNECT 52\n").unwrap();
                    sockets.push(socket);
                }
                Step::Talk { socket, length } => {
                    if let Some(mut socket) = sockets.get(socket) {
                        socket.set_nonblocking(true).unwrap();
                        let _ = socket.write(&vec![2; length]);
                    }
                }
                Step::Hush { socket } => {
                    if let Some(socket) = sockets.get(socket) {
                        let _ = socket.shutdown(std::net::Shutdown::Write);
                    }
                }
                Step::Leave { socket } if socket < sockets.len() => drop(sockets.swap_remove(socket)),
                Step::Leave { .. } => {}
                Step::Service => guest.driver.transport.service(),
            }
            prop_assert_eq!(guest.driver.transport.failure(), None);
            // Those it asked for (at most two ports of its own for each of five) and those that called.
            prop_assert!(guest.open() <= 90);
        }
        guest.driver.restart(0);
        prop_assert_eq!(guest.open(), 0);
        // An answer comes before what clients that are still there may want.
        guest.send(op::RW, 99, 7, 0, b"");
        let packet = guest.next();
        prop_assert_eq!((packet.op, packet.host, packet.guest), (op::RST, 99, 7));
    }
}
