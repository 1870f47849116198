//! What is on its way to one client, and its open requests.
//!
//! Nobody who has something to say to a client waits for it: the vCPU's thread is among them. Stream
//! bytes are bounded by the windows of their streams, and wait by stream, so that a guest that prints
//! single bytes makes no more of them than they are. Replies are bounded because no request is read
//! while too many wait ([`Peer::wait_for_room`]).

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::frame::{self, MAX_DATA};
use control::wire::{ErrorCode, Reply, Stream, ToClient};

use super::exec::RemoteExec;

/// Requests of one client under way at once.
const MAX_REQUESTS: usize = 128;
/// Messages that may wait before no request is read any more.
const MAX_WAITING: usize = 256;

/// One client. Its writer thread sends what the others leave here.
pub struct Peer {
    socket: UnixStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    /// What waits of each stream that is in the queue; for a moment nothing, until that is taken out.
    streams: BTreeMap<(u32, Stream), VecDeque<u8>>,
    open: BTreeMap<u32, Active>,
    /// Nothing more is queued; what is there is still sent.
    closing: bool,
    /// Nothing more can be sent.
    broken: bool,
}

/// What waits for the writer, in order.
enum Item {
    Message(ToClient),
    /// The stream has bytes. There is one such item for a stream at most.
    Stream(u32, Stream),
}

/// A request under way.
#[derive(Clone)]
pub enum Active {
    /// A command.
    Exec(Arc<RemoteExec>),
    /// The serial console.
    Console,
    /// A recording.
    Trace,
    /// Events.
    Events,
    /// A snapshot. It is whole or not there, so it is not given up either.
    Snapshot,
    /// One that waits for something to be told.
    Waiting,
}

impl Peer {
    /// A client at the other end of `socket`.
    pub fn new(socket: UnixStream) -> Arc<Peer> {
        Arc::new(Peer { socket, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Takes note of a new request. An error where its id is in use, or there are too many.
    pub fn begin(&self, id: u32, active: Active) -> Result<(), (ErrorCode, &'static str)> {
        let mut state = self.lock();
        if state.open.contains_key(&id) || id == 0 {
            return Err((ErrorCode::BadRequest, "this id is in use"));
        }
        if state.open.len() >= MAX_REQUESTS {
            return Err((ErrorCode::Busy, "too many requests are under way"));
        }
        state.open.insert(id, active);
        Ok(())
    }

    /// The request `id`, if it is under way.
    pub fn active(&self, id: u32) -> Option<Active> {
        self.lock().open.get(&id).cloned()
    }

    /// Sends a reply. With the last one the request has ended.
    pub fn reply(&self, id: u32, reply: Reply) {
        let mut state = self.lock();
        if reply.is_last() {
            state.open.remove(&id);
        }
        state.push(Item::Message(ToClient { id, reply }));
        drop(state);
        self.changed.notify_all();
    }

    /// Sends a failure, which ends the request.
    pub fn fail(&self, id: u32, code: ErrorCode, text: impl Into<String>) {
        self.reply(id, Reply::Error { code, text: text.into() });
    }

    /// Sends stream bytes. The caller minds the stream's window.
    pub fn data(&self, id: u32, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.closing || state.broken {
            return;
        }
        let is_new = !state.streams.contains_key(&(id, stream));
        state.streams.entry((id, stream)).or_default().extend(bytes);
        if is_new {
            state.queue.push_back(Item::Stream(id, stream));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Sleeps while too much waits for the client. False: it is gone.
    pub fn wait_for_room(&self) -> bool {
        let full = |state: &mut State| state.queue.len() > MAX_WAITING && !state.broken;
        let state = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        !state.broken && !state.closing
    }

    /// No more is said. Gives the requests that were under way.
    pub fn close(&self) -> BTreeMap<u32, Active> {
        let mut state = self.lock();
        state.closing = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        self.changed.notify_all();
        open
    }

    /// Waits until everything was sent, at most for `limit`, and hangs up.
    pub fn finish(&self, limit: Duration) {
        let waits = |state: &mut State| !state.queue.is_empty() && !state.broken;
        drop(self.changed.wait_timeout_while(self.lock(), limit, waits));
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends what waits, until the client goes or [`close`](Self::close) was called and nothing is left.
    pub fn write(&self) {
        let mut socket = &self.socket;
        while let Some(bytes) = self.next() {
            if socket.write_all(&bytes).is_err() {
                self.lock().broken = true;
                break;
            }
            self.sent();
        }
        self.changed.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// The next message as bytes. It stays in the queue until it was [sent](Self::sent).
    fn next(&self) -> Option<Vec<u8>> {
        let idle = |state: &mut State| state.queue.is_empty() && !state.closing;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        Some(match state.queue.front()? {
            Item::Message(message) => frame::encode(message, &[]),
            Item::Stream(id, stream) => {
                let (id, stream) = (*id, *stream);
                let waiting = state.streams.get_mut(&(id, stream))?;
                let data: Vec<u8> = waiting.drain(..waiting.len().min(MAX_DATA)).collect();
                let reply = Reply::Data { stream, bytes: data.len() };
                frame::encode(&ToClient { id, reply }, &data)
            }
        })
    }

    fn sent(&self) {
        let mut state = self.lock();
        // A stream stays in front until it is empty: what follows it may be its end.
        match state.queue.front() {
            Some(&Item::Stream(id, stream)) => {
                if state.streams.get(&(id, stream)).is_none_or(VecDeque::is_empty) {
                    state.streams.remove(&(id, stream));
                    state.queue.pop_front();
                }
            }
            _ => drop(state.queue.pop_front()),
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Everything in it is valid by itself, whatever panicked while it was held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, item: Item) {
        if !self.closing && !self.broken {
            self.queue.push_back(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::frame::Messages;
    use std::thread;

    fn received(messages: &mut Messages<UnixStream>) -> (u32, Reply, Vec<u8>) {
        let (message, data) = messages.take::<ToClient>().unwrap().unwrap();
        (message.id, message.reply, data)
    }

    #[test]
    fn bytes_of_a_stream_come_before_its_end_and_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        peer.begin(1, Active::Waiting).unwrap();
        for byte in b"hello" {
            peer.data(1, Stream::Stdout, &[*byte]);
        }
        peer.reply(1, Reply::Done);
        peer.begin(1, Active::Waiting).expect("the id is free again");
        peer.close();
        peer.reply(2, Reply::Done);
        let writer = peer.clone();
        let thread = thread::spawn(move || writer.write());
        let mut messages = Messages::new(theirs);
        let data = Reply::Data { stream: Stream::Stdout, bytes: 5 };
        assert_eq!(received(&mut messages), (1, data, b"hello".to_vec()));
        assert_eq!(received(&mut messages), (1, Reply::Done, Vec::new()));
        assert!(messages.take::<ToClient>().unwrap().is_none(), "nothing after close");
        thread.join().unwrap();
    }

    #[test]
    fn a_client_that_reads_nothing_holds_up_nobody_and_costs_its_windows() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        let writer = peer.clone();
        let thread = thread::spawn(move || writer.write());
        let size = Stream::Stdout.window() as usize;
        for _ in 0..size / 2 {
            peer.data(1, Stream::Stdout, b"x");
            peer.data(1, Stream::Stderr, b"y");
        }
        {
            let state = peer.lock();
            assert!(state.queue.len() <= 2);
            assert!(state.streams.values().map(VecDeque::len).sum::<usize>() <= size);
        }
        peer.close();
        peer.finish(Duration::ZERO);
        thread.join().unwrap();
    }

    #[test]
    fn bytes_that_come_while_others_are_written_are_not_lost() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        peer.data(1, Stream::Stdout, b"a");
        assert!(peer.next().unwrap().ends_with(b"\na"));
        peer.data(1, Stream::Stdout, b"b");
        peer.sent();
        assert!(peer.next().unwrap().ends_with(b"\nb"));
        peer.sent();
        peer.reply(1, Reply::Done);
        peer.close();
        peer.write();
        assert_eq!(received(&mut Messages::new(theirs)), (1, Reply::Done, Vec::new()));
    }

    #[test]
    fn requests_are_bounded_and_ids_unique() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        for id in 1..=MAX_REQUESTS as u32 {
            peer.begin(id, Active::Waiting).unwrap();
        }
        assert_eq!(peer.begin(1, Active::Waiting).unwrap_err().0, ErrorCode::BadRequest);
        assert_eq!(peer.begin(9999, Active::Waiting).unwrap_err().0, ErrorCode::Busy);
        peer.fail(1, ErrorCode::Failed, "x");
        peer.begin(9999, Active::Waiting).unwrap();
    }
}
