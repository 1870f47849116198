//! Frames: where one ends and the next begins.

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 9;

/// The longest payload. A command line with its environment is the longest thing sent; Linux takes
/// 128 KiB for one argument.
pub const MAX_PAYLOAD: usize = 256 << 10;

/// The other side does not speak this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length beyond [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes is longer than {MAX_PAYLOAD}")]
    TooLong(usize),
    /// A kind that this side does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A payload that does not fit its kind.
    #[error("malformed payload of frame kind {0}")]
    Malformed(u8),
}

/// One frame, still in the decoder's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub kind: u8,
    pub id: u32,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The payload as little-endian words.
    pub fn words<const N: usize>(&self) -> Result<[u32; N], FrameError> {
        let mut words = [0; N];
        if self.payload.len() != 4 * N {
            return Err(FrameError::Malformed(self.kind));
        }
        for (word, bytes) in words.iter_mut().zip(self.payload.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
        }
        Ok(words)
    }

    /// The payload as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(self.payload).map_err(|_| FrameError::Malformed(self.kind))
    }
}

/// Appends a frame to `out`.
pub(crate) fn encode(out: &mut Vec<u8>, kind: u8, id: u32, payload: &[u8]) {
    out.reserve(HEADER + payload.len());
    out.push(kind);
    out.extend(id.to_le_bytes());
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
}

/// Cuts a byte stream into messages. Holds at most one frame and what was pushed behind it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Everything before this was handed out.
    start: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes that arrived. Take all messages out before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend(bytes);
    }

    /// What was pushed and not handed out.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The next whole frame. After an error the stream is lost.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some((header, rest)) = self.buffer[self.start..].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, i0, i1, i2, i3, l0, l1, l2, l3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        self.start += HEADER + length;
        Ok(Some(Frame { kind, id: u32::from_le_bytes([i0, i1, i2, i3]), payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut stream = Vec::new();
        encode(&mut stream, 7, 1, b"first");
        encode(&mut stream, 8, 0xdead_beef, b"");
        encode(&mut stream, 9, 3, &[0xaa; 1000]);
        for piece in [1, 2, 8, 9, 10, 500, stream.len()] {
            let mut decoder = Decoder::new();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push((frame.kind, frame.id, frame.payload.to_vec()));
                }
            }
            let expected =
                [(7, 1, b"first".to_vec()), (8, 0xdead_beef, Vec::new()), (9, 3, vec![0xaa; 1000])];
            assert_eq!(got, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_buffered() {
        let mut decoder = Decoder::new();
        decoder.push(&[1, 0, 0, 0, 0, 1, 0, 4, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong(MAX_PAYLOAD + 1)));
    }

    #[test]
    fn words_must_fit() {
        let frame = Frame { kind: 3, id: 0, payload: &[1, 2, 0, 0, 0xff, 0, 0, 0x80] };
        assert_eq!(frame.words(), Ok([0x201, 0x8000_00ff]));
        assert_eq!(frame.words::<1>(), Err(FrameError::Malformed(3)));
    }
}
