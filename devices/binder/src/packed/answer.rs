//! Answers and events.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bytes, Fields};
use crate::ids::{ProcId, Seq, Tid};
use crate::message::{Action, Answer, Creds, Event, EventKind, Park, Status};

/// What follows the fields and the result.
#[derive(Serialize)]
enum Written<'a> {
    /// Nothing: the status is among the fields.
    Usual,
    Full(&'a Status, &'a [u32], &'a [Action]),
}

/// The same, as it is read.
#[derive(Deserialize)]
enum Read {
    Usual,
    Full(Status, Vec<u32>, Vec<Action>),
}

/// The statuses that most answers have, by their number among the fields.
const USUAL: [Status; 4] =
    [Status::Done, Status::More, Status::Parked { park: Park::Read, timeout_ms: 0 }, Status::TooLate];

/// The number of a status.
#[inline]
fn number(status: &Status) -> Option<u32> {
    match status {
        Status::Done => Some(0),
        Status::More => Some(1),
        Status::Parked { park: Park::Read, timeout_ms: 0 } => Some(2),
        Status::TooLate => Some(3),
        _ => None,
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
        let usual = number(status).filter(|_| slots.is_empty() && actions.is_empty());
        let tail = if usual.is_some() { Written::Usual } else { Written::Full(status, slots, actions) };
        let mut fields = Fields::<68>::new();
        fields.put(write_consumed.to_le_bytes());
        fields.put(read_consumed.to_le_bytes());
        fields.put(text.to_le_bytes());
        fields.put(result_position.to_le_bytes());
        fields.put(errno.0.to_le_bytes());
        fields.put(poll_mask.to_le_bytes());
        fields.put(idle_pages.to_le_bytes());
        put_options(&mut fields, *first_word, *proc, *creds);
        fields.put(usual.unwrap_or(0).to_le_bytes());
        (fields, Bytes(result), tail).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (mut fields, result, tail): (Fields<68>, _, Read) = Deserialize::deserialize(from)?;
        let write_consumed = fields.take_u64();
        let read_consumed = fields.take_u64();
        let text = fields.take_u64();
        let result_position = fields.take_u64();
        let errno = fields.take_errno();
        let poll_mask = fields.take_u32();
        let idle_pages = fields.take_u32();
        let (first_word, proc, creds) = take_options(&mut fields);
        let usual = fields.take_u32();
        let (status, slots, actions) = match tail {
            Read::Full(status, slots, actions) => (status, slots, actions),
            Read::Usual => {
                let known = USUAL.get(usual as usize).cloned();
                let status =
                    known.ok_or_else(|| D::Error::custom(format!("an answer has status {usual}")))?;
                (status, Vec::new(), Vec::new())
            }
        };
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

/// An event as it is written: nearly all end an ioctl.
#[derive(Serialize)]
enum WrittenEvent<'a> {
    /// Everything but the result and the action.
    Done(Fields<56>, Bytes<'a>, &'a Option<Action>),
    Other(Fields<24>, &'a EventKind),
}

/// The same, as it is read.
#[derive(Deserialize)]
enum ReadEvent {
    Done(Fields<56>, Vec<u8>, Option<Action>),
    Other(Fields<24>, EventKind),
}

impl Serialize for Event {
    #[inline]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let EventKind::Done { errno, read_consumed, result, first_word, creds, nice } = &self.kind else {
            let mut fields = Fields::new();
            put_event(&mut fields, self);
            return WrittenEvent::Other(fields, &self.kind).serialize(to);
        };
        let mut fields = Fields::new();
        put_event(&mut fields, self);
        fields.put(read_consumed.to_le_bytes());
        fields.put(errno.0.to_le_bytes());
        put_options(&mut fields, *first_word, None, *creds);
        WrittenEvent::Done(fields, Bytes(result), nice).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match ReadEvent::deserialize(from)? {
            ReadEvent::Other(mut fields, kind) => Ok(take_event(&mut fields, kind)),
            ReadEvent::Done(mut fields, result, nice) => {
                let event = take_event(&mut fields, EventKind::Poll);
                let read_consumed = fields.take_u64();
                let errno = fields.take_errno();
                let (first_word, _, creds) = take_options(&mut fields);
                let kind = EventKind::Done { errno, read_consumed, result, first_word, creds, nice };
                Ok(Event { kind, ..event })
            }
        }
    }
}

#[inline]
fn put_event<const N: usize>(fields: &mut Fields<N>, event: &Event) {
    let Event { proc, tid, seq, fetch, idle_pages, .. } = event;
    fields.put(seq.0.to_le_bytes());
    fields.put(proc.0.to_le_bytes());
    fields.put(tid.0.to_le_bytes());
    fields.put(idle_pages.to_le_bytes());
    fields.put(u32::from(*fetch).to_le_bytes());
}

fn take_event<const N: usize>(fields: &mut Fields<N>, kind: EventKind) -> Event {
    let seq = Seq(fields.take_u64());
    let proc = ProcId(fields.take_u32());
    let tid = Tid(fields.take_u32());
    let idle_pages = fields.take_u32();
    let fetch = fields.take_u32() != 0;
    Event { proc, tid, seq, fetch, kind, idle_pages }
}

/// What may be there: which of it is, and then all, or zeros.
#[inline]
fn put_options<const N: usize>(
    fields: &mut Fields<N>,
    first_word: Option<u32>,
    proc: Option<ProcId>,
    creds: Option<Creds>,
) {
    let creds_proc = creds.and_then(|creds| creds.proc);
    let bit = |there: bool, bit: u32| if there { bit } else { 0 };
    let there = bit(first_word.is_some(), FIRST_WORD)
        | bit(proc.is_some(), PROC)
        | bit(creds.is_some(), CREDS)
        | bit(creds_proc.is_some(), CREDS_PROC);
    fields.put(there.to_le_bytes());
    fields.put(first_word.unwrap_or(0).to_le_bytes());
    fields.put(proc.map_or(0, |proc| proc.0).to_le_bytes());
    fields.put(creds.map_or(0, |creds| creds.offset).to_le_bytes());
    fields.put(creds_proc.map_or(0, |proc| proc.0).to_le_bytes());
}

fn take_options<const N: usize>(fields: &mut Fields<N>) -> (Option<u32>, Option<ProcId>, Option<Creds>) {
    let there = fields.take_u32();
    let mut option = |bit| Some(fields.take_u32()).filter(|_| there & bit != 0);
    let first_word = option(FIRST_WORD);
    let proc = option(PROC).map(ProcId);
    let offset = option(CREDS);
    let creds_proc = option(CREDS_PROC).map(ProcId);
    (first_word, proc, offset.map(|offset| Creds { offset, proc: creds_proc }))
}
