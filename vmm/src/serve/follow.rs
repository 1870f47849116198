//! Clients that follow the recording, or the events, of a running guest.
//!
//! A follower gets whole records, as a file would hold them. One that is too slow loses some; a record
//! in their place says how many. The guest never waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::window::{SendWindow, WindowError};
use binder_trace::recording::{Lost, Record, encode_record};
use control::wire::{Reply, Stream};

use super::peer::Peer;

/// Who follows. Clones share it: the recorder, on the vCPU's thread, feeds whom clients add.
#[derive(Clone)]
pub struct Followers {
    /// What they follow.
    stream: Stream,
    list: Arc<Mutex<Vec<Follower>>>,
    /// Whether there are any, for those who would have to make a record first.
    any: Arc<AtomicBool>,
}

struct Follower {
    peer: Arc<Peer>,
    request: u32,
    stream: Stream,
    window: SendWindow,
    dropped: u64,
}

impl Followers {
    /// Nobody yet.
    pub fn of(stream: Stream) -> Followers {
        Followers { stream, list: Arc::default(), any: Arc::default() }
    }

    /// Whether anybody follows.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// How many follow.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Adds a client, which gets `header` first.
    pub fn attach(&self, peer: Arc<Peer>, request: u32, header: &[u8]) {
        let mut list = self.lock();
        let stream = self.stream;
        let mut window = SendWindow::of(stream.window());
        window.spend(header.len());
        peer.data(request, stream, header);
        list.push(Follower { peer, request, stream, window, dropped: 0 });
        self.any.store(true, Ordering::Relaxed);
    }

    /// So many records happened, which go together.
    pub fn records(&self, count: u64, bytes: &[u8]) {
        self.lock().iter_mut().for_each(|follower| follower.records(bytes, count));
    }

    /// The client took bytes.
    pub fn credit(&self, peer: &Arc<Peer>, request: u32, bytes: u32) -> Result<(), WindowError> {
        let mut list = self.lock();
        let Some(follower) = list.iter_mut().find(|follower| follower.is(peer, Some(request))) else {
            return Ok(());
        };
        follower.window.grant(bytes)?;
        follower.tell_dropped();
        Ok(())
    }

    /// Removes one request of a client, or all of its.
    pub fn detach(&self, peer: &Arc<Peer>, request: Option<u32>) {
        let mut list = self.lock();
        list.retain(|follower| !follower.is(peer, request));
        self.any.store(!list.is_empty(), Ordering::Relaxed);
    }

    /// The run is over: the recordings end.
    pub fn finish(&self) {
        self.any.store(false, Ordering::Relaxed);
        for mut follower in std::mem::take(&mut *self.lock()) {
            follower.tell_dropped();
            follower.peer.reply(follower.request, Reply::Done);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    fn is(&self, peer: &Arc<Peer>, request: Option<u32>) -> bool {
        Arc::ptr_eq(&self.peer, peer) && request.is_none_or(|request| request == self.request)
    }

    fn records(&mut self, bytes: &[u8], count: u64) {
        // What is lost is lost together, up to the next credit, where the client hears of it.
        if self.dropped > 0 || self.window.room() < bytes.len() {
            self.dropped += count;
        } else {
            self.window.spend(bytes.len());
            self.peer.data(self.request, self.stream, bytes);
        }
    }

    fn tell_dropped(&mut self) {
        let lost = match self.stream {
            Stream::Trace => encode_record(&Record::Lost(Lost { events: self.dropped, ..Lost::default() })),
            _ => Vec::new(),
        };
        if self.dropped > 0 && lost.len() <= self.window.room() {
            self.window.spend(lost.len());
            self.peer.data(self.request, self.stream, &lost);
            let records = std::mem::take(&mut self.dropped);
            self.peer.reply(self.request, Reply::Dropped { records });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::frame::Messages;
    use control::wire::ToClient;
    use std::os::unix::net::UnixStream;
    use std::thread;

    #[test]
    fn a_slow_follower_loses_whole_records_and_is_told_how_many() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        let followers = Followers::of(Stream::Trace);
        assert!(!followers.any());
        followers.attach(peer.clone(), 1, b"header");
        assert!(followers.any());
        let record = vec![7; 1 << 20];
        for _ in 0..6 {
            followers.records(1, &record);
        }
        followers.credit(&peer, 1, 6 + (1 << 20)).unwrap();
        followers.records(1, b"last");
        followers.finish();
        assert!(!followers.any());
        peer.close();
        let writer = thread::spawn(move || peer.write());

        let mut messages = Messages::new(theirs);
        let (mut bytes, mut dropped, mut done) = (Vec::new(), 0, false);
        while let Some((message, data)) = messages.take::<ToClient>().unwrap() {
            match message.reply {
                Reply::Data { .. } => bytes.extend(data),
                Reply::Dropped { records } => dropped += records,
                Reply::Done => done = true,
                other => panic!("{other:?}"),
            }
        }
        writer.join().unwrap();
        // The header leaves room for three records of a MiB and a bit.
        let end =
            [encode_record(&Record::Lost(Lost { events: 3, ..Lost::default() })), b"last".to_vec()].concat();
        assert_eq!((bytes.len(), dropped, done), (6 + (3 << 20) + end.len(), 3, true));
        assert!(bytes.ends_with(&end));
    }
}
