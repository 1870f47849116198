//! One stream between a socket of the host and a port of the guest.
//!
//! Bytes to the host wait in `to_host` until the socket takes them; the guest was promised no more room
//! than that. Bytes to the guest are read from the socket as far as `to_guest` has room, and leave as the
//! guest gives credit. So neither side can make this one hold more than [`BUFFER`] bytes each way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::event::epoll::EventFlags;

use super::packet::{Header, op, shutdown};

/// Bytes that wait in either direction; what the guest is told as `buf_alloc`. Linux's own is the same.
pub const BUFFER: usize = 256 << 10;

/// The host's socket is not read or written any more, and the guest's stream is to be reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// One stream.
pub struct Stream {
    socket: UnixStream,
    phase: Phase,
    to_host: VecDeque<u8>,
    to_guest: VecDeque<u8>,
    /// Bytes that the socket took, modulo 2^32, and how much of that the guest knows of.
    forwarded: u32,
    told: u32,
    /// Bytes sent to the guest, modulo 2^32; what it said it has room for, and took out.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    /// The guest was asked for credit, and has not answered.
    asked: bool,
    /// The guest asked for credit.
    owes_credit: bool,
    /// What the guest said of itself, by `shutdown`'s flags.
    guest_shutdown: u32,
    /// What it was told of the host.
    host_shutdown: u32,
    /// The socket may have more to read than was read.
    readable: bool,
    /// The socket has no more to read.
    ended: bool,
    /// The socket takes no more, and its other end has gone.
    gone: bool,
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest is to be asked.
    Asking,
    /// It was asked.
    Asked,
    /// The guest asked, and is to be told yes.
    Accepting,
    /// Bytes may flow.
    Open,
}

impl Stream {
    /// A stream that the host wants; `socket` does not block.
    pub fn of_host(socket: UnixStream) -> Stream {
        Stream::new(socket, Phase::Asking)
    }

    /// A stream that the guest asked for with `request`.
    pub fn of_guest(socket: UnixStream, request: &Header) -> Stream {
        let mut stream = Stream::new(socket, Phase::Accepting);
        stream.take_credit(request);
        // The other end may have spoken already.
        stream.readable = true;
        stream
    }

    fn new(socket: UnixStream, phase: Phase) -> Stream {
        Stream {
            socket,
            phase,
            to_host: VecDeque::new(),
            to_guest: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            asked: false,
            owes_credit: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            readable: false,
            ended: false,
            gone: false,
        }
    }

    /// The socket, to be listened to.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Something happened to the socket.
    pub fn happened(&mut self, flags: EventFlags) {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        self.gone |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if flags.contains(EventFlags::OUT) {
            self.flush();
        }
    }

    /// Whether [`pull`](Self::pull) may read something.
    pub fn may_pull(&self) -> bool {
        self.phase == Phase::Open && self.readable && !self.ended && self.to_guest.len() < BUFFER
    }

    /// Reads what the socket has, as far as there is room.
    pub fn pull(&mut self) {
        let mut chunk = [0; 16 << 10];
        while self.may_pull() {
            let room = chunk.len().min(BUFFER - self.to_guest.len());
            match self.socket.read(&mut chunk[..room]) {
                Ok(0) => self.ended = true,
                // Nobody in the guest reads it.
                Ok(_) if self.guest_shutdown & shutdown::RECEIVE != 0 => {}
                Ok(count) => self.to_guest.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => (self.ended, self.gone) = (true, true),
            }
        }
    }

    /// Writes what waits for the socket, as far as it takes it.
    fn flush(&mut self) {
        while !self.to_host.is_empty() {
            match self.socket.write(self.to_host.as_slices().0) {
                Ok(count) => {
                    self.to_host.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    self.to_host.clear();
                }
            }
        }
        if self.guest_shutdown & shutdown::SEND != 0 {
            // It may have gone.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer.get();
        self.guest_forwarded = header.forwarded.get();
        self.asked = false;
    }

    /// Bytes that the guest has room for. One that contradicts itself has none.
    fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(under_way) as usize
    }

    /// A packet of the guest, other than a request or a reset. `greeting` is what the socket is told when
    /// the guest agrees; `bytes` reads as many as the header says.
    pub fn take(
        &mut self,
        header: &Header,
        greeting: &str,
        bytes: impl FnOnce(usize) -> Vec<u8>,
    ) -> Result<(), Broken> {
        match (self.phase, header.op.get()) {
            (Phase::Asked, op::RESPONSE) => {
                self.phase = Phase::Open;
                // An empty socket has room for it.
                self.gone |= self.socket.write_all(greeting.as_bytes()).is_err();
                self.readable = true;
            }
            (Phase::Open | Phase::Accepting, op::RW) => {
                let length = header.length.get() as usize;
                if self.to_host.len() + length > BUFFER || self.guest_shutdown & shutdown::SEND != 0 {
                    return Err(Broken);
                }
                if !self.gone {
                    self.to_host.extend(bytes(length));
                }
            }
            (Phase::Open | Phase::Accepting, op::CREDIT_UPDATE) => {}
            (Phase::Open | Phase::Accepting, op::CREDIT_REQUEST) => self.owes_credit = true,
            (Phase::Open | Phase::Accepting, op::SHUTDOWN) => {
                self.guest_shutdown |= header.flags.get() & shutdown::BOTH;
                if self.guest_shutdown & shutdown::RECEIVE != 0 {
                    self.to_guest.clear();
                }
            }
            _ => return Err(Broken),
        }
        self.take_credit(header);
        self.flush();
        Ok(())
    }

    /// Whether nothing can come or go any more, so that the guest's end is to be reset.
    pub fn is_over(&self) -> bool {
        let guest_done = self.guest_shutdown == shutdown::BOTH;
        let host_done = self.host_shutdown == shutdown::BOTH || self.phase != Phase::Open && self.gone;
        host_done || guest_done && self.to_host.is_empty()
    }

    /// Whether the guest knows that it is over.
    pub fn is_told(&self) -> bool {
        self.host_shutdown == shutdown::BOTH
    }

    /// What the guest is to be told of the host's end, if that is news.
    fn shutdown_news(&self) -> Option<u32> {
        let now = match (self.gone, self.ended) {
            (true, true) => shutdown::BOTH,
            (_, true) => shutdown::SEND,
            (_, false) => 0,
        };
        // What is still to be read comes first.
        (self.to_guest.is_empty() && now & !self.host_shutdown != 0).then_some(now)
    }

    /// What the next packet to the guest would be.
    fn next_op(&self) -> Option<u16> {
        match self.phase {
            Phase::Asking => Some(op::REQUEST),
            Phase::Asked => None,
            Phase::Accepting => Some(op::RESPONSE),
            Phase::Open if !self.to_guest.is_empty() && self.credit() > 0 => Some(op::RW),
            Phase::Open if self.shutdown_news().is_some() => Some(op::SHUTDOWN),
            Phase::Open if self.owes_credit => Some(op::CREDIT_UPDATE),
            Phase::Open if self.forwarded.wrapping_sub(self.told) as usize >= BUFFER / 2 => {
                Some(op::CREDIT_UPDATE)
            }
            Phase::Open if !self.to_guest.is_empty() && !self.asked => Some(op::CREDIT_REQUEST),
            Phase::Open => None,
        }
    }

    /// Whether there is something to be said to the guest.
    pub fn has_news(&self) -> bool {
        self.next_op().is_some()
    }

    /// The next packet to the guest: its header without addresses, and its bytes, put into `room`.
    pub fn next(&mut self, room: &mut [u8]) -> Option<Header> {
        let op = self.next_op()?;
        let mut header = Header { op: op.into(), ..Header::default() };
        match op {
            op::REQUEST => self.phase = Phase::Asked,
            op::RESPONSE => self.phase = Phase::Open,
            op::RW => {
                let count = room.len().min(self.credit()).min(self.to_guest.len());
                for (to, from) in room.iter_mut().zip(self.to_guest.drain(..count)) {
                    *to = from;
                }
                self.sent = self.sent.wrapping_add(count as u32);
                header.length = (count as u32).into();
            }
            op::SHUTDOWN => {
                let news = self.shutdown_news().unwrap_or_default();
                self.host_shutdown |= news;
                header.flags = news.into();
            }
            op::CREDIT_REQUEST => self.asked = true,
            _ => {}
        }
        self.owes_credit = false;
        self.told = self.forwarded;
        header.buffer = (BUFFER as u32).into();
        header.forwarded = self.forwarded.into();
        Some(header)
    }
}
