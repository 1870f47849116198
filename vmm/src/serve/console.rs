//! The serial console as clients see it: its last bytes, then live.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::window::{SendWindow, WindowError};
use control::wire::Stream;

use super::peer::Peer;

/// Bytes that a client gets of what was printed before it came.
const HISTORY: usize = 64 << 10;

/// Listens to the serial port. Clones are the same one.
#[derive(Clone)]
pub struct ConsoleTap(Arc<Mutex<State>>);

struct State {
    history: VecDeque<u8>,
    viewers: Vec<Viewer>,
    /// Where typed bytes go.
    input: Option<File>,
}

struct Viewer {
    peer: Arc<Peer>,
    request: u32,
    window: SendWindow,
    /// Bytes left out since it was too slow.
    missed: u64,
}

impl ConsoleTap {
    /// A console whose typed bytes go to `input`.
    pub fn new(input: Option<File>) -> ConsoleTap {
        let state = State { history: VecDeque::new(), viewers: Vec::new(), input };
        ConsoleTap(Arc::new(Mutex::new(state)))
    }

    /// What the serial port writes to: passes it on to `sink`, and listens.
    pub fn tee(&self, sink: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        Box::new(Tee { tap: self.clone(), sink })
    }

    /// Attaches a client.
    pub fn attach(&self, peer: Arc<Peer>, request: u32) {
        let mut state = self.lock();
        let mut window = SendWindow::of(Stream::Console.window());
        let history: Vec<u8> = state.history.iter().copied().collect();
        window.spend(history.len());
        peer.data(request, Stream::Console, &history);
        state.viewers.push(Viewer { peer, request, window, missed: 0 });
    }

    /// The client took bytes.
    pub fn credit(&self, peer: &Arc<Peer>, request: u32, bytes: u32) -> Result<(), WindowError> {
        let mut state = self.lock();
        match state.viewers.iter_mut().find(|viewer| viewer.is(peer, Some(request))) {
            Some(viewer) => viewer.window.grant(bytes),
            None => Ok(()),
        }
    }

    /// The client types. What the guest does not take is lost, as on a serial line.
    pub fn typed(&self, bytes: &[u8]) {
        if let Some(input) = &mut self.lock().input {
            // The pipe does not block.
            let _ = input.write(bytes);
        }
    }

    /// Detaches one console of a client, or all of its.
    pub fn detach(&self, peer: &Arc<Peer>, request: Option<u32>) {
        self.lock().viewers.retain(|viewer| !viewer.is(peer, request));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    fn is(&self, peer: &Arc<Peer>, request: Option<u32>) -> bool {
        Arc::ptr_eq(&self.peer, peer) && request.is_none_or(|request| request == self.request)
    }

    /// All of `bytes`, or none: a guest is never kept waiting by who looks on.
    fn show(&mut self, bytes: &[u8]) {
        if self.missed > 0 {
            let notice = format!("\r\n[bindervm: {} bytes left out]\r\n", self.missed);
            // Only once there is plenty again, or the notice would be all that one reads.
            if self.window.room() < notice.len() + bytes.len() + Stream::Console.window() as usize / 4 {
                self.missed += bytes.len() as u64;
                return;
            }
            self.missed = 0;
            self.send(notice.as_bytes());
        }
        if self.window.room() < bytes.len() {
            self.missed += bytes.len() as u64;
        } else {
            self.send(bytes);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.window.spend(bytes.len());
        self.peer.data(self.request, Stream::Console, bytes);
    }
}

struct Tee {
    tap: ConsoleTap,
    sink: Box<dyn Write + Send>,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.tap.lock();
        state.history.extend(bytes);
        let surplus = state.history.len().saturating_sub(HISTORY);
        state.history.drain(..surplus);
        state.viewers.iter_mut().for_each(|viewer| viewer.show(bytes));
        drop(state);
        let _ = self.sink.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.sink.flush();
        Ok(())
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
    fn a_viewer_gets_history_then_live_and_a_slow_one_a_notice() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours);
        let tap = ConsoleTap::new(None);
        let mut serial = tap.tee(Box::new(io::sink()));
        serial.write_all(b"before ").unwrap();
        tap.attach(peer.clone(), 1);
        serial.write_all(b"after").unwrap();
        // Nobody takes this, so its end is lost.
        for _ in 0..5 {
            serial.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        tap.credit(&peer, 1, 190 << 10).unwrap();
        serial.write_all(b"again").unwrap();
        tap.detach(&peer, None);
        serial.write_all(b"unseen").unwrap();

        let writer = peer.clone();
        let thread = thread::spawn(move || writer.write());
        peer.close();
        let mut messages = Messages::new(theirs);
        let mut seen = Vec::new();
        while let Some((_, data)) = messages.take::<ToClient>().unwrap() {
            seen.extend(data);
        }
        thread.join().unwrap();
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.starts_with("before afterxxx"), "{}", &seen[..30]);
        assert!(
            seen.ends_with("\r\n[bindervm: 131072 bytes left out]\r\nagain"),
            "{}",
            &seen[seen.len() - 60..]
        );
    }
}
