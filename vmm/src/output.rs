//! Standard output of the commands that print something.

use std::io::{self, Write};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::exit::{Code, Failure};
use crate::terminal;

/// Lets `print` write to stdout.
pub fn print(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    judge(print(&mut out).and_then(|()| out.flush()))
}

/// Ends this process when nobody reads its stdout any more, for a command that may have nothing to print for long:
/// without that it would notice at its next word. A reader that has seen enough is no failure.
pub fn end_with_reader() -> Result<(), Failure> {
    let watch = || {
        let out = io::stdout();
        loop {
            // Asked for nothing, it tells of errors alone.
            let mut watched = [PollFd::new(&out, PollFlags::empty())];
            match poll(&mut watched, None) {
                Ok(_) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                    terminal::restore();
                    std::process::exit(0);
                }
                Ok(0) | Err(Errno::INTR) => {}
                _ => return,
            }
        }
    };
    let started = thread::Builder::new().name("reader-watch".into()).spawn(watch);
    started.map(drop).map_err(|error| Failure::because(Code::Internal, "cannot start a thread", error))
}

/// What it means that writing to stdout ended so. A reader such as `head` that has seen enough is
/// no failure.
pub fn judge(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::because(Code::Internal, "cannot write the output", error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_may_go_away() {
        let ended = |kind: io::ErrorKind| judge(Err(kind.into())).map_err(|failure| failure.code);
        assert_eq!(ended(io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(ended(io::ErrorKind::StorageFull), Err(Code::Internal));
    }
}
