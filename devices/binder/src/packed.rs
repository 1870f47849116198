//! How the fields that every message and answer has are saved and recorded: as bytes of fixed places.
//!
//! A recording has several of each for every call. Field by field, in numbers as short as they can be, they would take most
//! of the time that recording takes. Recordings tell blocks by how they differ from each other, so zeros cost nothing.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::errno::Errno;
use crate::ids::{Kuid, ProcId, Seq, Tid};
use crate::message::{Answer, Creds, Header};

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
}

impl<const N: usize> Serialize for Fields<N> {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.bytes)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Fields<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        let length = bytes.len();
        let wrong = |_| D::Error::custom(format!("{length} bytes in the place of {N}"));
        Ok(Fields { bytes: bytes.try_into().map_err(wrong)?, at: 0 })
    }
}

impl Serialize for Header {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let &Header { proc, tid, seq, nonblock, foreign, read_bad, other_sid, .. } = self;
        let &Header { leader_euid, thread_euid, policy, prio, time, .. } = self;
        let mut fields = Fields::<40>::new();
        fields.put(seq.0.to_le_bytes());
        fields.put(time.to_le_bytes());
        fields.put(proc.to_le_bytes());
        fields.put(tid.0.to_le_bytes());
        fields.put([nonblock, foreign, read_bad, other_sid].map(u8::from));
        fields.put(leader_euid.0.to_le_bytes());
        fields.put(thread_euid.0.to_le_bytes());
        fields.put(policy.to_le_bytes());
        fields.put(prio.to_le_bytes());
        fields.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut fields = Fields::<40>::deserialize(from)?;
        let seq = Seq(fields.take_u64());
        let time = fields.take_u32();
        let proc = fields.take_u32();
        let tid = Tid(fields.take_u32());
        let [nonblock, foreign, read_bad, other_sid] = fields.take().map(|flag: u8| flag != 0);
        let leader_euid = Kuid(fields.take_u32());
        let thread_euid = Kuid(fields.take_u32());
        let policy = fields.take_u32();
        let prio = i32::from_le_bytes(fields.take());
        Ok(Header {
            proc,
            tid,
            seq,
            nonblock,
            foreign,
            read_bad,
            other_sid,
            leader_euid,
            thread_euid,
            policy,
            prio,
            time,
        })
    }
}

/// What is there, by its bit.
const FIRST_WORD: u32 = 1;
const PROC: u32 = 2;
const CREDS: u32 = 4;
const CREDS_PROC: u32 = 8;

impl Serialize for Answer {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Answer { status, errno, proc, write_consumed, read_consumed, poll_mask, text, .. } = self;
        let Answer { result_position, result, first_word, creds, slots, actions, idle_pages, .. } = self;
        let creds_proc = creds.and_then(|creds| creds.proc);
        let bit = |there: bool, bit: u32| if there { bit } else { 0 };
        let there = bit(first_word.is_some(), FIRST_WORD)
            | bit(proc.is_some(), PROC)
            | bit(creds.is_some(), CREDS)
            | bit(creds_proc.is_some(), CREDS_PROC);
        let mut fields = Fields::<64>::new();
        fields.put(write_consumed.to_le_bytes());
        fields.put(read_consumed.to_le_bytes());
        fields.put(text.to_le_bytes());
        fields.put(result_position.to_le_bytes());
        fields.put(there.to_le_bytes());
        fields.put(errno.0.to_le_bytes());
        fields.put(poll_mask.to_le_bytes());
        fields.put(idle_pages.to_le_bytes());
        fields.put(first_word.unwrap_or(0).to_le_bytes());
        fields.put(proc.map_or(0, |proc| proc.0).to_le_bytes());
        fields.put(creds.map_or(0, |creds| creds.offset).to_le_bytes());
        fields.put(creds_proc.map_or(0, |proc| proc.0).to_le_bytes());
        (fields, Bytes(result), status, slots, actions).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (mut fields, result, status, slots, actions): (Fields<64>, _, _, _, _) =
            Deserialize::deserialize(from)?;
        let write_consumed = fields.take_u64();
        let read_consumed = fields.take_u64();
        let text = fields.take_u64();
        let result_position = fields.take_u64();
        let there = fields.take_u32();
        let errno = Errno(i32::from_le_bytes(fields.take()));
        let poll_mask = fields.take_u32();
        let idle_pages = fields.take_u32();
        let mut option = |bit| Some(fields.take_u32()).filter(|_| there & bit != 0);
        let first_word = option(FIRST_WORD);
        let proc = option(PROC).map(ProcId);
        let offset = option(CREDS);
        let creds_proc = option(CREDS_PROC).map(ProcId);
        let creds = offset.map(|offset| Creds { offset, proc: creds_proc });
        Ok(Answer {
            status,
            errno,
            proc,
            write_consumed,
            read_consumed,
            poll_mask,
            text,
            result_position,
            result,
            first_word,
            creds,
            slots,
            actions,
            idle_pages,
        })
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
    use crate::message::{Action, Status};
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value);
        assert!(postcard::from_bytes::<T>(&bytes[..bytes.len() - 1]).is_err());
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
        // A field of another length.
        let other = [&[bytes[0] - 1], &bytes[2..]].concat();
        assert!(postcard::from_bytes::<T>(&other).is_err());
    }

    #[test]
    fn what_every_call_has_comes_back() {
        comes_back(&Header::default());
        comes_back(&Header {
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
        });
        comes_back(&Answer::default());
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
        comes_back(&answer);
        comes_back(&Answer { creds: Some(Creds { proc: Some(ProcId(13)), ..creds }), ..answer });
    }
}
