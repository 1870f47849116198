//! The recording of a running guest, as bytes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::client::ClientError;
use crate::running::{Event, Running};

/// How often it is looked whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// Reads what a file of the recording would hold, from now on: a header, then records. It ends with
/// the run.
pub struct Following {
    running: Running,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    dropped: Dropped,
    stop: Arc<AtomicBool>,
}

/// How many records a follower has lost. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<AtomicU64>);

impl Dropped {
    /// Until now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Following {
    pub(crate) fn new(running: Running) -> Following {
        Following {
            running,
            bytes: Vec::new(),
            at: 0,
            ended: false,
            dropped: Dropped::default(),
            stop: Arc::default(),
        }
    }

    /// Ends the reading soon after `stop` is set.
    pub fn until(self, stop: Arc<AtomicBool>) -> Following {
        Following { stop, ..self }
    }

    /// Tells, also after the reader was given away, what was lost because it was too slow.
    pub fn dropped(&self) -> Dropped {
        self.dropped.clone()
    }
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.bytes.len() && !self.ended {
            if self.stop.load(Ordering::Relaxed) {
                self.ended = true;
                break;
            }
            match self.running.next(Some(LOOK)) {
                Ok(Event::Output(_, bytes)) => (self.bytes, self.at) = (bytes, 0),
                Ok(Event::Dropped(records)) => drop(self.dropped.0.fetch_add(records, Ordering::Relaxed)),
                Ok(Event::Done) | Err(ClientError::Gone) => self.ended = true,
                Ok(_) | Err(ClientError::TimedOut(_)) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let length = buffer.len().min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
