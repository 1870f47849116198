//! Messages on a byte stream: a line of JSON, and the bytes that some lines announce.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{Reply, Request, ToClient, ToServer};

/// The longest line: a command line with its environment, escaped.
pub const MAX_LINE: usize = 1 << 20;

/// The most stream bytes that one message carries.
pub const MAX_DATA: usize = 64 << 10;

/// The peer cannot be understood, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Reading failed, or it ended inside a message.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A line that does not end.
    #[error("a line of more than {MAX_LINE} bytes")]
    LineTooLong,
    /// More stream bytes than a message may carry.
    #[error("a message with {0} bytes of data; {MAX_DATA} are the most")]
    TooMuchData(usize),
    /// Not a message.
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// A message that may announce stream bytes.
pub trait Message: DeserializeOwned {
    /// How many bytes follow its line.
    fn data(&self) -> usize;
}

impl Message for ToServer {
    fn data(&self) -> usize {
        match self.request {
            Request::Data { bytes, .. } => bytes,
            _ => 0,
        }
    }
}

impl Message for ToClient {
    fn data(&self) -> usize {
        match self.reply {
            Reply::Data { bytes, .. } => bytes,
            _ => 0,
        }
    }
}

/// Takes messages from a stream. Holds one at a time.
pub struct Messages<R> {
    input: BufReader<R>,
}

impl<R: Read> Messages<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Messages<R> {
        Messages { input: BufReader::with_capacity(MAX_DATA, input) }
    }

    /// The next message and its stream bytes; `None` at the end of the stream.
    pub fn take<M: Message>(&mut self) -> Result<Option<(M, Vec<u8>)>, FrameError> {
        let mut line = Vec::new();
        (&mut self.input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        match line.last() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) if line.len() > MAX_LINE => return Err(FrameError::LineTooLong),
            Some(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        let message: M = serde_json::from_slice(&line)?;
        let length = message.data();
        if length > MAX_DATA {
            return Err(FrameError::TooMuchData(length));
        }
        let mut data = vec![0; length];
        self.input.read_exact(&mut data)?;
        Ok(Some((message, data)))
    }
}

/// The bytes of a message with its stream bytes.
pub fn encode(message: &impl Serialize, data: &[u8]) -> Vec<u8> {
    // Strings, numbers and lists with string keys: nothing that JSON cannot say.
    let mut bytes = serde_json::to_vec(message).expect("plain data");
    bytes.push(b'\n');
    bytes.extend_from_slice(data);
    bytes
}

/// Writes a message.
pub fn write(out: &mut impl Write, message: &impl Serialize, data: &[u8]) -> io::Result<()> {
    out.write_all(&encode(message, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Stream;

    fn next(bytes: &[u8]) -> Result<Option<(ToServer, Vec<u8>)>, FrameError> {
        Messages::new(bytes).take()
    }

    #[test]
    fn data_follows_its_line_and_may_hold_anything() {
        let data = b"a\n{\"id\":1}\n\0";
        let request = Request::Data { stream: Stream::Stdin, bytes: data.len() };
        let mut bytes = encode(&ToServer { id: 3, request: request.clone() }, data);
        bytes.extend(encode(&ToServer { id: 4, request: Request::Close }, &[]));
        let mut messages = Messages::new(&bytes[..]);
        assert_eq!(messages.take().unwrap(), Some((ToServer { id: 3, request }, data.to_vec())));
        let close = ToServer { id: 4, request: Request::Close };
        assert_eq!(messages.take().unwrap(), Some((close, Vec::new())));
        assert!(messages.take::<ToServer>().unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_without_being_kept() {
        assert!(matches!(next(b"hello\n"), Err(FrameError::Malformed(_))));
        assert!(matches!(next(b"{\"id\":1,\"request\":\"fly\"}\n"), Err(FrameError::Malformed(_))));
        assert!(matches!(next(&vec![b'x'; MAX_LINE + 2]), Err(FrameError::LineTooLong)));
        assert!(matches!(next(b"{\"id\":1"), Err(FrameError::Read(_))));
        let much = br#"{"id":1,"request":"data","stream":"stdin","bytes":99999999999}"#;
        assert!(matches!(next(&[much, &b"\n"[..]].concat()), Err(FrameError::TooMuchData(_))));
        let short = br#"{"id":1,"request":"data","stream":"stdin","bytes":9}"#;
        assert!(matches!(next(&[short, &b"\nabc"[..]].concat()), Err(FrameError::Read(_))));
    }
}
