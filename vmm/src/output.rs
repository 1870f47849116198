//! Standard output of the commands that print something.

use std::io::{self, Write};

use crate::exit::{Code, Failure};

/// Lets `print` write to stdout.
pub fn print(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    judge(print(&mut out).and_then(|()| out.flush()))
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
