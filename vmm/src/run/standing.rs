//! How a run stands in its process: alone, or as one guest of a group.
//!
//! Alone it has the process's streams, may read its stdin, and ends it where nothing else helps. In a
//! group it speaks under its name, a line at a time, has no stdin, and its end is the group's to judge.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use agent_protocol::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::world::Membership;
use crate::terminal;

/// What a guest may print without an end of line before a group shows it anyway.
const LONGEST_LINE: usize = 8 << 10;

/// How a run stands in its process. Clones are of the same run.
#[derive(Clone)]
pub struct Standing {
    /// Where its words go.
    pub voice: Voice,
    /// Ends what waits for a run that does not end by itself, with this exit code.
    pub give_up: Arc<dyn Fn(u8) + Send + Sync>,
    /// The binder world that it shares with others.
    pub world: Option<Membership>,
}

impl Standing {
    /// The only run of its process.
    pub fn alone() -> Standing {
        let give_up = Arc::new(|code: u8| std::process::exit(i32::from(code)));
        Standing { voice: Voice(None), give_up, world: None }
    }

    /// Whether it has the process to itself.
    pub fn is_alone(&self) -> bool {
        self.voice.is_alone()
    }
}

/// Where the words of a run and the output of its command go. Clones speak for the same run.
#[derive(Clone)]
pub struct Voice(Option<Arc<Named>>);

/// A guest of a group.
struct Named {
    name: String,
    /// Lines that are not whole yet, of stdout and stderr.
    begun: Mutex<[Vec<u8>; 2]>,
}

impl Voice {
    /// The voice of a group's guest.
    pub fn named(name: &str) -> Voice {
        Voice(Some(Arc::new(Named { name: name.to_owned(), begun: Mutex::default() })))
    }

    /// Whether nobody else speaks in its process.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Says something on stderr, maybe while the terminal is raw.
    pub fn say(&self, text: impl Display) {
        match &self.0 {
            None => eprint!("bindervm: {text}{}", terminal::newline()),
            Some(named) => eprintln!("bindervm: {}: {text}", named.name),
        }
    }

    /// Shows a line that belongs to what was said.
    pub fn more(&self, text: impl Display) {
        match &self.0 {
            None => eprintln!("  {text}"),
            Some(named) => eprintln!("  {}: {text}", named.name),
        }
    }

    /// Writes output of the command: as it is, or in a group in whole lines behind the guest's name. A
    /// reader that is slow holds the guest back.
    pub fn output(&self, stream: Stream, bytes: &[u8]) -> rustix::io::Result<()> {
        let Some(named) = &self.0 else { return write(stream, bytes) };
        let mut begun = named.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let line = &mut begun[stream as usize & 1];
        line.extend_from_slice(bytes);
        let whole = match line.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if line.len() >= LONGEST_LINE => line.len(),
            None => return Ok(()),
        };
        let rest = line.split_off(whole);
        let lines = std::mem::replace(line, rest);
        write(stream, &named.prefixed(&lines))
    }

    /// Shows what was begun and never ended.
    pub fn finish(&self) {
        let Some(named) = &self.0 else { return };
        let begun = std::mem::take(&mut *named.begun.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, line) in [Stream::Stdout, Stream::Stderr].into_iter().zip(begun) {
            if !line.is_empty() {
                // Nobody is left to hear that it failed.
                let _ = write(stream, &named.prefixed(&line));
            }
        }
    }

    /// A writer of lines to stderr, for a console that is shown.
    pub fn console(&self) -> Box<dyn Write + Send> {
        match &self.0 {
            None => Box::new(io::stderr()),
            Some(_) => Box::new(Lines(self.clone())),
        }
    }
}

impl Named {
    /// Lines, each behind the name.
    fn prefixed(&self, lines: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(lines.len() + 64);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(self.name.as_bytes());
            text.extend_from_slice(b"| ");
            text.extend_from_slice(line);
        }
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        text
    }
}

/// A console among others.
struct Lines(Voice);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.output(Stream::Stderr, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(stream: Stream, bytes: &[u8]) -> rustix::io::Result<()> {
    match stream {
        Stream::Stdout => write_all(io::stdout(), bytes),
        Stream::Stderr => write_all(io::stderr(), bytes),
    }
}

/// Writes all of `bytes`, and waits for a file that is full and does not block.
fn write_all(file: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_group_says_whose_it_is() {
        let Voice(Some(named)) = Voice::named("g1") else { panic!("a name") };
        assert_eq!(named.prefixed(b"one\ntwo\n"), b"g1| one\ng1| two\n");
        assert_eq!(named.prefixed(b"begun"), b"g1| begun\n");
        assert_eq!(named.prefixed(b"a\n\nb\n"), b"g1| a\ng1| \ng1| b\n");
    }
}
