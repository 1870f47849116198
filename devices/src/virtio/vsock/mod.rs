//! The socket device (virtio 1.2, section 5.10; Linux `net/vmw_vsock/virtio_transport.c`): streams between
//! guest and host, with UNIX sockets on the host in Firecracker's convention.
//!
//! | who begins | how |
//! |---|---|
//! | host | connects to `PATH`, writes `CONNECT port\n`, and reads `OK hostport\n` when the guest agreed |
//! | guest | connects to CID 2, port P: the device connects to `PATH_P` |
//!
//! Host sockets are read at [`VirtioDevice::service`] alone, so what a guest sees comes at moments that
//! guest time defines; it still comes when it comes, so runs that use this do not repeat.
//!
//! Everything is bounded: [`stream::BUFFER`] bytes each way of a stream, [`MAX_STREAMS`] streams,
//! [`MAX_CALLERS`] clients that have not said what they want, [`MAX_REPLIES`] packets that answer without
//! belonging to a stream. A guest that overruns its credit loses the stream.
//!
//! A snapshot holds no stream: a restored guest is told to forget those that it had (TRANSPORT_RESET).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use self::packet::{HEADER, Header, Ports, TYPE_STREAM, op};
use self::sockets::{Caller, LISTENER, Said, Sockets, Token};
use self::stream::Stream;
use super::{ActivateError, ActiveQueues, ChainReader, DeviceError, Ring, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};

mod packet;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;

pub use self::sockets::VsockHost;

/// The socket device's id.
pub const DEVICE_ID: u32 = 19;

/// The host's address.
pub const HOST_CID: u64 = 2;

/// Addresses that a guest may have: those below are the hypervisor's, the loopback's and the host's.
pub const GUEST_CIDS: std::ops::RangeInclusive<u64> = 3..=0xffff_fffe;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENTS: u16 = 2;
const QUEUE_SIZES: &[u16] = &[128, 128, 8];

/// Streams at once.
const MAX_STREAMS: usize = 256;
/// Clients of the host that have not said which port they want.
const MAX_CALLERS: usize = 32;
/// Packets that wait for the guest and belong to no stream. While there are as many, the guest's packets
/// are left in its queue, as Linux's vhost has it.
const MAX_REPLIES: usize = 256;
/// Ports of the host's ends of streams that the host began; Firecracker's begin there, too.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const TRANSPORT_RESET: u32 = 0;

/// The socket device.
pub struct Vsock {
    cid: u64,
    host: Arc<dyn VsockHost>,
    switch: Switch,
    /// The guest is to be told that its streams are gone.
    restored: bool,
    active: Option<Active>,
}

struct Active {
    receive: Ring,
    transmit: Ring,
    events: Ring,
}

/// Who talks to whom.
struct Switch {
    cid: u64,
    sockets: Sockets,
    callers: BTreeMap<Token, Caller>,
    streams: BTreeMap<Ports, Stream>,
    /// Sockets of streams.
    tokens: BTreeMap<Token, Ports>,
    /// Streams that may have something to say, each once, in turn.
    turns: VecDeque<Ports>,
    replies: VecDeque<Header>,
    next_port: u32,
}

impl Vsock {
    /// A device for the guest with address `cid` (of [`GUEST_CIDS`]), whose host end listens at `path`.
    pub fn new(cid: u64, path: &Path, host: Arc<dyn VsockHost>) -> io::Result<Vsock> {
        let switch = Switch {
            cid,
            sockets: Sockets::bind(path, host.clone())?,
            callers: BTreeMap::new(),
            streams: BTreeMap::new(),
            tokens: BTreeMap::new(),
            turns: VecDeque::new(),
            replies: VecDeque::new(),
            next_port: FIRST_HOST_PORT,
        };
        Ok(Vsock { cid, host, switch, restored: false, active: None })
    }

    /// Moves what waits for the guest into the buffers it posted.
    fn deliver(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.restored {
            let restored = &mut self.restored;
            active.events.fill(|buffer| match std::mem::replace(restored, false) {
                true => put(buffer, EVENTS, &TRANSPORT_RESET.to_le_bytes()),
                false => Ok(0),
            })?;
        }
        let switch = &mut self.switch;
        active.receive.fill(|buffer| match buffer.get_mut(..HEADER) {
            Some(_) => Ok(switch.next(buffer)),
            None => Err(DeviceError::Driver { queue: RECEIVE, problem: "a buffer shorter than a header" }),
        })?;
        // A socket that has more, and room for it again.
        if switch.streams.values().any(Stream::may_pull) {
            self.host.wake();
        }
        self.host.streams(switch.streams.len());
        Ok(())
    }

    /// Takes the guest's packets, unless it lets too many answers wait.
    fn take(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let switch = &mut self.switch;
        if switch.replies.len() > MAX_REPLIES {
            return Ok(());
        }
        active.transmit.drain(|reader| switch.take(reader))
    }
}

/// Puts `bytes` into the start of a buffer of `queue`.
fn put(buffer: &mut [u8], queue: u16, bytes: &[u8]) -> Result<usize, DeviceError> {
    let problem = "a buffer that is too short";
    let place = buffer.get_mut(..bytes.len()).ok_or(DeviceError::Driver { queue, problem })?;
    place.copy_from_slice(bytes);
    Ok(bytes.len())
}

impl Switch {
    /// A packet of the guest.
    fn take(&mut self, mut reader: ChainReader<'_>) -> Result<(), DeviceError> {
        let broken = |problem| DeviceError::Driver { queue: TRANSMIT, problem };
        let mut bytes = [0; HEADER];
        reader.read_exact(&mut bytes).map_err(|_| broken("a packet shorter than its header"))?;
        let Ok(header) = Header::read_from_bytes(&bytes) else { return Ok(()) };
        let length = header.length.get() as usize;
        if length > reader.available_bytes() {
            return Err(broken("a packet shorter than it says"));
        }
        // Linux's vhost has no answer to those either.
        if header.source_cid.get() != self.cid || header.target_cid.get() != HOST_CID {
            return Ok(());
        }
        let ports = Ports { host: header.target_port.get(), guest: header.source_port.get() };
        match header.op.get() {
            op::RST => self.end(ports),
            _ if header.kind.get() != TYPE_STREAM => self.refuse(ports, header.kind.get()),
            op::REQUEST => self.connect(ports, &header),
            _ => {
                let Some(stream) = self.streams.get_mut(&ports) else {
                    self.refuse(ports, TYPE_STREAM);
                    return Ok(());
                };
                // What lies outside of RAM reads as nothing, which the guest has itself to thank for.
                let read = |length| {
                    let mut bytes = vec![0; length];
                    let _ = reader.read_exact(&mut bytes);
                    bytes
                };
                match stream.take(&header, &format!("OK {}\n", ports.host), read) {
                    Ok(()) => self.settle(ports),
                    Err(stream::Broken) => {
                        self.end(ports);
                        self.refuse(ports, TYPE_STREAM);
                    }
                }
            }
        }
        Ok(())
    }

    /// The guest wants a stream.
    fn connect(&mut self, ports: Ports, request: &Header) {
        // A second request is an error of the first one's, too.
        let known = self.streams.contains_key(&ports);
        self.end(ports);
        let socket = match known || self.streams.len() >= MAX_STREAMS {
            true => None,
            false => self.sockets.connect(ports.host).ok(),
        };
        match socket.map(|socket| self.add(ports, Stream::of_guest(socket, request))) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => self.refuse(ports, TYPE_STREAM),
        }
    }

    fn add(&mut self, ports: Ports, stream: Stream) -> io::Result<()> {
        let token = self.sockets.watch(stream.socket())?;
        self.tokens.insert(token, ports);
        self.streams.insert(ports, stream);
        self.turns.push_back(ports);
        Ok(())
    }

    /// Forgets a stream, and hangs up on the host's side.
    fn end(&mut self, ports: Ports) {
        if self.streams.remove(&ports).is_some() {
            self.tokens.retain(|_, other| *other != ports);
            self.turns.retain(|other| *other != ports);
        }
    }

    /// Tells the guest that there is no such stream.
    fn refuse(&mut self, ports: Ports, kind: u16) {
        let mut header = Header { op: op::RST.into(), ..Header::default() };
        address(&mut header, self.cid, ports);
        header.kind = kind.into();
        self.replies.push_back(header);
    }

    /// After a change of a stream: it ends where it is over, and gets its turn where it has news.
    fn settle(&mut self, ports: Ports) {
        let Some(stream) = self.streams.get(&ports) else { return };
        if stream.is_over() {
            let told = stream.is_told();
            self.end(ports);
            if !told {
                self.refuse(ports, TYPE_STREAM);
            }
        } else if stream.has_news() && !self.turns.contains(&ports) {
            self.turns.push_back(ports);
        }
    }

    /// Puts the next packet for the guest into a buffer that holds a header at least; 0: there is none.
    fn next(&mut self, buffer: &mut [u8]) -> usize {
        let (head, room) = buffer.split_at_mut(HEADER);
        if let Some(header) = self.replies.pop_front() {
            head.copy_from_slice(header.as_bytes());
            return HEADER;
        }
        while let Some(ports) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&ports) else { continue };
            let Some(mut header) = stream.next(room) else { continue };
            address(&mut header, self.cid, ports);
            head.copy_from_slice(header.as_bytes());
            self.settle(ports);
            return HEADER + header.length.get() as usize;
        }
        0
    }

    /// Takes note of all that happened on the host.
    fn service(&mut self) {
        let happened = self.sockets.happened();
        if happened.contains_key(&LISTENER) {
            self.accept();
        }
        for (token, flags) in happened {
            if let Some(caller) = self.callers.remove(&token) {
                self.listen(token, caller);
            } else if let Some(ports) = self.tokens.get(&token)
                && let Some(stream) = self.streams.get_mut(ports)
            {
                stream.happened(flags);
            }
        }
        let all: Vec<Ports> = self.streams.keys().copied().collect();
        for ports in all {
            self.streams.get_mut(&ports).map(Stream::pull);
            self.settle(ports);
        }
    }

    /// Lets new clients in. Too many are hung up on.
    fn accept(&mut self) {
        while let Some(socket) = self.sockets.accept() {
            if self.callers.len() < MAX_CALLERS
                && let Ok(token) = self.sockets.watch(&socket)
            {
                self.listen(token, Caller::new(socket));
            }
        }
    }

    /// Hears which port a client wants, if it has said so.
    fn listen(&mut self, token: Token, caller: Caller) {
        match caller.listen() {
            Said::More(caller) => drop(self.callers.insert(token, caller)),
            Said::Port(socket, guest) if self.streams.len() < MAX_STREAMS => {
                let ports = Ports { host: self.free_port(guest), guest };
                self.tokens.insert(token, ports);
                self.streams.insert(ports, Stream::of_host(socket));
                self.turns.push_back(ports);
            }
            Said::Port(..) | Said::Nonsense => {}
        }
    }

    /// A port of the host that no stream to the guest's port `guest` has.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_HOST_PORT);
            // There are far more ports than streams.
            if !self.streams.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Forgets everybody.
    fn clear(&mut self) {
        self.callers.clear();
        self.streams.clear();
        self.tokens.clear();
        self.turns.clear();
        self.replies.clear();
    }
}

/// Writes who sends to whom into a packet for the guest.
fn address(header: &mut Header, cid: u64, ports: Ports) {
    header.source_cid = HOST_CID.into();
    header.target_cid = cid.into();
    header.source_port = ports.host.into();
    header.target_port = ports.guest.into();
    header.kind = TYPE_STREAM.into();
}

impl VirtioDevice for Vsock {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// The guest's address.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.cid.to_le_bytes();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, mut guest: ActiveQueues) -> Result<(), ActivateError> {
        let (receive, transmit) = (guest.take_ring(RECEIVE)?, guest.take_ring(TRANSMIT)?);
        self.active = Some(Active { receive, transmit, events: guest.take_ring(EVENTS)? });
        // Clients may have come before.
        self.host.wake();
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        self.deliver()?;
        self.take()?;
        self.deliver()
    }

    fn service(&mut self) -> Result<(), DeviceError> {
        self.switch.service();
        self.deliver()
    }

    fn reset(&mut self) {
        self.active = None;
        self.restored = false;
        self.switch.clear();
        self.host.streams(0);
    }

    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        let Active { receive, transmit, events } = self.active.as_ref()?;
        Some(vec![receive.saved(), transmit.saved(), events.saved()])
    }

    /// Streams are not saved: their other ends are the host's.
    fn save(&self) -> Result<SavedDevice, NotSaved> {
        Ok(SavedDevice::Plain)
    }

    fn restore(&mut self, saved: SavedDevice) -> Result<(), NotRestored> {
        saved.plain()?;
        self.restored = self.active.is_some();
        self.host.wake();
        Ok(())
    }
}
