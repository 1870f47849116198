//! Messages.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bytes, Fields};
use crate::errno::Errno;
use crate::ids::{Kuid, Seq, Tid};
use crate::message::{Body, Chunk, ChunkEnd, Header, Ioctl, Message, Range};

/// A message as it is written: nearly all that a call has are ioctls.
#[derive(Serialize)]
enum Written<'a> {
    /// Header, ioctl and chunk; argument; commands; memory that they name.
    Ioctl(Fields<61>, Bytes<'a>, Bytes<'a>, &'a [Range]),
    Other(&'a Header, &'a Body),
}

/// The same, as it is read.
#[derive(Deserialize)]
enum Read {
    Ioctl(Fields<61>, Vec<u8>, Vec<u8>, Vec<Range>),
    Other(Header, Body),
}

impl Serialize for Message {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Message { header, body } = self;
        let Body::Ioctl(Ioctl { cmd, arg_error, arg, lsm_error, chunk }) = body else {
            return Written::Other(header, body).serialize(to);
        };
        let mut fields = Fields::new();
        put_header(&mut fields, header);
        put_ioctl(&mut fields, *cmd, *arg_error, *lsm_error);
        put_chunk(&mut fields, chunk);
        Written::Ioctl(fields, Bytes(arg), Bytes(&chunk.bytes), &chunk.ranges).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (mut fields, arg, bytes, ranges) = match Read::deserialize(from)? {
            Read::Ioctl(fields, arg, bytes, ranges) => (fields, arg, bytes, ranges),
            Read::Other(header, body) => return Ok(Message { header, body }),
        };
        let header = take_header(&mut fields);
        let (cmd, arg_error, lsm_error) = (fields.take_u32(), fields.take_errno(), fields.take_errno());
        let (position, end) = take_chunk(&mut fields).map_err(D::Error::custom)?;
        let chunk = Chunk { position, bytes, end, ranges };
        Ok(Message { header, body: Body::Ioctl(Ioctl { cmd, arg_error, arg, lsm_error, chunk }) })
    }
}

impl Serialize for Header {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::<40>::new();
        put_header(&mut fields, self);
        fields.serialize(to)
    }
}

#[inline]
fn put_header<const N: usize>(fields: &mut Fields<N>, header: &Header) {
    let &Header { proc, tid, seq, nonblock, foreign, read_bad, other_sid, .. } = header;
    let &Header { leader_euid, thread_euid, policy, prio, time, .. } = header;
    fields.put(seq.0.to_le_bytes());
    fields.put(time.to_le_bytes());
    fields.put(proc.to_le_bytes());
    fields.put(tid.0.to_le_bytes());
    fields.put([nonblock, foreign, read_bad, other_sid].map(u8::from));
    fields.put(leader_euid.0.to_le_bytes());
    fields.put(thread_euid.0.to_le_bytes());
    fields.put(policy.to_le_bytes());
    fields.put(prio.to_le_bytes());
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(take_header(&mut Fields::<40>::deserialize(from)?))
    }
}

fn take_header<const N: usize>(fields: &mut Fields<N>) -> Header {
    let seq = Seq(fields.take_u64());
    let time = fields.take_u32();
    let proc = fields.take_u32();
    let tid = Tid(fields.take_u32());
    let [nonblock, foreign, read_bad, other_sid] = fields.take().map(|flag: u8| flag != 0);
    let leader_euid = Kuid(fields.take_u32());
    let thread_euid = Kuid(fields.take_u32());
    let policy = fields.take_u32();
    let prio = i32::from_le_bytes(fields.take());
    Header {
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
    }
}

#[inline]
fn put_ioctl<const N: usize>(fields: &mut Fields<N>, cmd: u32, arg_error: Errno, lsm_error: Errno) {
    fields.put(cmd.to_le_bytes());
    fields.put(arg_error.0.to_le_bytes());
    fields.put(lsm_error.0.to_le_bytes());
}

#[inline]
fn put_chunk<const N: usize>(fields: &mut Fields<N>, chunk: &Chunk) {
    fields.put(chunk.position.to_le_bytes());
    fields.put([chunk.end as u8]);
}

fn take_chunk<const N: usize>(fields: &mut Fields<N>) -> Result<(u64, ChunkEnd), String> {
    let position = fields.take_u64();
    let [end] = fields.take();
    let ends = [ChunkEnd::Last, ChunkEnd::Cut, ChunkEnd::Unreadable];
    let known = ends.into_iter().find(|known| *known as u8 == end);
    Ok((position, known.ok_or_else(|| format!("a chunk ends in way {end}"))?))
}

impl Serialize for Chunk {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::<9>::new();
        put_chunk(&mut fields, self);
        (fields, Bytes(&self.bytes), &self.ranges).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (mut fields, bytes, ranges): (Fields<9>, _, _) = Deserialize::deserialize(from)?;
        let (position, end) = take_chunk(&mut fields).map_err(D::Error::custom)?;
        Ok(Chunk { position, bytes, end, ranges })
    }
}

impl Serialize for Range {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Range { address, length, readable, fault, data } = self;
        let mut fields = Fields::<25>::new();
        fields.put(address.to_le_bytes());
        fields.put(length.to_le_bytes());
        fields.put(readable.to_le_bytes());
        fields.put([u8::from(*fault)]);
        (fields, data).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (mut fields, data): (Fields<25>, _) = Deserialize::deserialize(from)?;
        let address = fields.take_u64();
        let length = fields.take_u64();
        let readable = fields.take_u64();
        let fault = fields.take() != [0];
        Ok(Range { address, length, readable, fault, data })
    }
}
