//! A recording that is still being written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often a file that did not grow is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// A file whose end is waited at. It never ends by itself, but when it is told to.
pub struct Growing {
    file: File,
    stop: Arc<AtomicBool>,
}

impl Growing {
    /// Opens a file, which may be empty still; waits for one that is not there yet.
    pub fn open(path: &Path, stop: Arc<AtomicBool>) -> io::Result<Growing> {
        loop {
            match File::open(path) {
                Ok(file) => return Ok(Growing { file, stop }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !stop.load(Ordering::Relaxed) => {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer)? {
                0 if !buffer.is_empty() && !self.stop.load(Ordering::Relaxed) => thread::sleep(PAUSE),
                read => return Ok(read),
            }
        }
    }
}
