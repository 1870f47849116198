//! Output of unknown size, kept in a file of bounded size: its beginning and its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

/// What is kept of a stream by default: head and tail.
pub const OUTPUT: Bounds = Bounds { head: 8 << 20, tail: 1 << 20 };

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes from the beginning.
    pub head: usize,
    /// Bytes before the end.
    pub tail: usize,
}

/// A file that takes any amount and keeps a bounded part.
pub struct Capture {
    file: File,
    bounds: Bounds,
    total: u64,
    tail: VecDeque<u8>,
    failed: Option<io::Error>,
    finished: bool,
}

/// How much came, and how much was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes of these that are not in the file.
    pub left_out: u64,
}

impl Capture {
    /// Begins the file.
    pub fn create(path: &Path, bounds: Bounds) -> io::Result<Capture> {
        let file = File::create(path)?;
        Ok(Capture { file, bounds, total: 0, tail: VecDeque::new(), failed: None, finished: false })
    }

    /// Takes bytes. A file that cannot be written is told at the end; the stream flows on.
    pub fn take(&mut self, bytes: &[u8]) {
        let room = (self.bounds.head as u64).saturating_sub(self.total) as usize;
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.total += bytes.len() as u64;
        if !head.is_empty() && self.failed.is_none() {
            self.failed = self.file.write_all(head).err();
        }
        let rest = &rest[rest.len().saturating_sub(self.bounds.tail)..];
        let over = (self.tail.len() + rest.len()).saturating_sub(self.bounds.tail);
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    /// Writes the end. Nothing more can be taken.
    pub fn finish(mut self) -> io::Result<Captured> {
        self.write_tail()
    }

    fn write_tail(&mut self) -> io::Result<Captured> {
        self.finished = true;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let kept = self.total.min(self.bounds.head as u64) + self.tail.len() as u64;
        let left_out = self.total - kept;
        if left_out > 0 {
            write!(self.file, "\n[bindervm: {left_out} bytes are left out here]\n")?;
        }
        let (one, two) = self.tail.as_slices();
        self.file.write_all(one)?;
        self.file.write_all(two)?;
        Ok(Captured { bytes: self.total, left_out })
    }

    /// Takes everything that `from` gives.
    pub fn take_all(mut self, mut from: impl Read) -> io::Result<Captured> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return self.finish(),
                Ok(read) => self.take(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.finish(),
            }
        }
    }
}

/// For whoever writes, and does not want to know.
impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell.
            let _ = self.write_tail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pieces: &[&str]) -> (String, Captured) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut capture = Capture::create(file.path(), Bounds { head: 8, tail: 4 }).unwrap();
        for piece in pieces {
            capture.take(piece.as_bytes());
        }
        let captured = capture.finish().unwrap();
        (std::fs::read_to_string(file.path()).unwrap(), captured)
    }

    #[test]
    fn little_is_kept_whole() {
        assert_eq!(captured(&["abc", "defgh"]), ("abcdefgh".into(), Captured { bytes: 8, left_out: 0 }));
        assert_eq!(captured(&["abcdefgh", "1234"]).0, "abcdefgh1234");
        assert_eq!(captured(&[]).1, Captured::default());
    }

    #[test]
    fn of_much_the_ends_are_kept_and_it_says_so() {
        let expected = "01234567\n[bindervm: 8 bytes are left out here]\ncdef";
        for pieces in [vec!["0123456789abxxxxcdef"], "0123456789abxxxxcdef".split("").collect::<Vec<_>>()] {
            let (text, captured) = captured(&pieces);
            assert_eq!(text.replace("x", ""), expected);
            assert_eq!(captured, Captured { bytes: 20, left_out: 8 });
        }
    }
}
