//! How what every call has, messages, answers and events, is saved and recorded: as bytes of fixed places.
//!
//! A recording has several of each for every call. Field by field, in numbers as short as they can be, they would take most
//! of the time that recording takes. Recordings tell blocks by how they differ from each other, so zeros cost nothing.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::errno::Errno;

mod answer;
mod message;

/// Bytes that are written, or read, one field after another.
struct Fields<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Fields<N> {
        Fields { bytes: [0; N], at: 0 }
    }

    #[inline]
    fn put<const M: usize>(&mut self, field: [u8; M]) {
        self.bytes[self.at..][..M].copy_from_slice(&field);
        self.at += M;
    }

    #[inline]
    fn take<const M: usize>(&mut self) -> [u8; M] {
        let field = *self.bytes[self.at..].first_chunk().expect("no more is taken than was put");
        self.at += M;
        field
    }

    fn take_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn take_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn take_errno(&mut self) -> Errno {
        Errno(i32::from_le_bytes(self.take()))
    }
}

impl<const N: usize> Serialize for Fields<N> {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.bytes)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Fields<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Places)
    }
}

/// Reads bytes of a number that is known.
struct Places<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for Places<N> {
    type Value = Fields<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Fields<N>, E> {
        let wrong = |_| E::invalid_length(bytes.len(), &self);
        Ok(Fields { bytes: bytes.try_into().map_err(wrong)?, at: 0 })
    }

    /// Where the format has no bytes.
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Fields<N>, A::Error> {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = from.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
        }
        match from.next_element::<u8>()? {
            None => Ok(Fields { bytes, at: 0 }),
            Some(_) => Err(A::Error::invalid_length(N + 1, &self)),
        }
    }
}

/// Bytes, told at once.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Kuid, Pfn, ProcId, Seq, Tid};
    use crate::message::{
        Action, Answer, Body, Chunk, ChunkEnd, Creds, Event, EventKind, Header, Ioctl, Message, Park, Range,
        RangeData, Status,
    };
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    /// The first field's length stands behind so many bytes.
    fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(behind: usize, value: &T) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value);
        assert!(postcard::from_bytes::<T>(&bytes[..bytes.len() - 1]).is_err());
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
        // A field of another length.
        let other = [&bytes[..behind], &[bytes[behind] - 1], &bytes[behind + 2..]].concat();
        assert!(postcard::from_bytes::<T>(&other).is_err());
    }

    #[test]
    fn what_every_call_has_comes_back() {
        comes_back(0, &Header::default());
        comes_back(
            0,
            &Header {
                proc: 1,
                tid: Tid(2),
                seq: Seq(u64::MAX - 3),
                nonblock: true,
                foreign: false,
                read_bad: true,
                other_sid: true,
                leader_euid: Kuid(4),
                thread_euid: Kuid(5),
                policy: 6,
                prio: -7,
                time: 8,
            },
        );
        comes_back(0, &Answer::default());
        let creds = Creds { offset: 9, proc: None };
        let answer = Answer {
            status: Status::TooLate,
            errno: Errno::EPROTO,
            proc: Some(ProcId(1)),
            write_consumed: 2,
            read_consumed: 3,
            poll_mask: 4,
            text: 5,
            result_position: 6,
            result: vec![7; 80],
            first_word: Some(0),
            creds: Some(creds),
            slots: vec![10],
            actions: vec![Action::CloseFd(11)],
            idle_pages: 12,
        };
        comes_back(0, &answer);
        for status in [Status::Done, Status::More, Status::TooLate] {
            comes_back(0, &Answer { status, ..Answer::default() });
        }
        for (park, timeout_ms) in [(Park::Read, 0), (Park::Read, 1), (Park::Freeze, 0)] {
            comes_back(0, &Answer { status: Status::Parked { park, timeout_ms }, ..Answer::default() });
        }
        comes_back(0, &Answer { creds: Some(Creds { proc: Some(ProcId(13)), ..creds }), ..answer });
        for data in [RangeData::None, RangeData::Inline(vec![1; 70]), RangeData::Pages(vec![Pfn(2)])] {
            let range = Range { address: 3, length: u64::MAX, readable: 4, fault: true, data };
            for end in [ChunkEnd::Last, ChunkEnd::Cut, ChunkEnd::Unreadable] {
                let ranges = vec![range.clone(), Range::default()];
                let chunk = Chunk { position: 5, bytes: vec![6; 7], end, ranges };
                comes_back(0, &chunk);
                let (arg_error, lsm_error) = (Errno::EFAULT, Errno::EPERM);
                let ioctl = Ioctl { cmd: 0xc030_6201, arg_error, arg: vec![8; 48], lsm_error, chunk };
                comes_back(1, &Message { header: Header::default(), body: Body::Ioctl(ioctl) });
            }
        }
        comes_back(1, &Message { header: Header::default(), body: Body::Poll });
        let kind = EventKind::Done {
            errno: Errno::EPROTO,
            read_consumed: 1,
            result: vec![2; 68],
            first_word: Some(3),
            creds: Some(creds),
            nice: Some(Action::NiceSet(-4)),
        };
        for (fetch, kind) in [(false, kind), (true, EventKind::Poll)] {
            comes_back(1, &Event { proc: ProcId(5), tid: Tid(6), seq: Seq(7), fetch, kind, idle_pages: 8 });
        }
    }

    #[test]
    fn a_chunk_that_ends_otherwise_is_refused() {
        let mut bytes = postcard::to_stdvec(&Chunk::default()).unwrap();
        bytes[9] = 3;
        assert!(postcard::from_bytes::<Chunk>(&bytes).is_err());
    }
}
