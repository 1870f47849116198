//! From the core's answers and events to the pages and buffers that the shim reads.

use binder::errno::Errno;
use binder::message::{Action, Answer, Creds, Event, EventKind, LsmQuestion, Need, Park, Status};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::layout as wire;

/// An in page being filled: the answer at its start, what its offsets name behind it.
struct AnswerPage<'a> {
    bytes: &'a mut Vec<u8>,
}

impl AnswerPage<'_> {
    /// Appends `items` at the next multiple of 8 and gives (offset, count of items).
    fn append<T: IntoBytes + Immutable>(&mut self, items: &[T]) -> (u32, u32) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(items.as_bytes());
        (offset, items.len() as u32)
    }

    /// Appends the list of a need, and gives the need that names it.
    fn need(&mut self, need: &Need) -> wire::Need {
        let mut wire = wire::Need::new_zeroed();
        match need {
            Need::Data { address, length } => {
                wire.kind = wire::need::DATA.into();
                wire.address = (*address).into();
                wire.length = (*length).into();
            }
            Need::Pages { proc, slots } => {
                let (offset, count) = self.append(&words(slots.iter().copied()));
                wire.kind = wire::need::PAGES.into();
                wire.proc = proc.0.into();
                wire.offset = offset.into();
                wire.count = count.into();
            }
            Need::Files { proc, fds } => {
                let (offset, count) = self.append(&words(fds.iter().copied()));
                wire.kind = wire::need::FILES.into();
                wire.proc = proc.0.into();
                wire.offset = offset.into();
                wire.count = count.into();
            }
            Need::Lsm { proc, question } => {
                wire.kind = wire::need::LSM.into();
                wire.proc = proc.0.into();
                wire.lsm = match question {
                    LsmQuestion::Transaction => wire::need::LSM_TRANSACTION,
                    LsmQuestion::TransferBinder => wire::need::LSM_TRANSFER_BINDER,
                }
                .into();
            }
        }
        wire
    }
}

/// Writes the bytes of an in page, as many of it as are used. The core bounds results and lists so that they fit into
/// [`wire::PAGE`]; should they not, `answer` becomes `-EPROTO`, and `false` says so.
pub fn answer(answer: &mut Answer, epoch: u32, page: &mut Vec<u8>) -> bool {
    put_answer(answer, epoch, page);
    let fits = page.len() <= wire::PAGE;
    if !fits {
        answer.clear();
        answer.errno = Errno::EPROTO;
        put_answer(answer, epoch, page);
    }
    fits
}

fn put_answer(answer: &Answer, epoch: u32, page: &mut Vec<u8>) {
    page.clear();
    page.resize(size_of::<wire::Answer>(), 0);
    let mut page = AnswerPage { bytes: page };
    let (result_offset, result_length) = page.append(&answer.result);
    let (status, park, timeout_ms) = match &answer.status {
        Status::Done => (wire::status::DONE, 0, 0),
        Status::More => (wire::status::MORE, 0, 0),
        Status::Needs(_) => (wire::status::NEEDS, 0, 0),
        Status::Install(_) => (wire::status::INSTALL, 0, 0),
        Status::Parked { park: Park::Read, .. } => (wire::status::PARKED, wire::park::READ, 0),
        Status::Parked { park: Park::Freeze, timeout_ms } => {
            (wire::status::PARKED, wire::park::FREEZE, *timeout_ms)
        }
        Status::TooLate => (wire::status::TOO_LATE, 0, 0),
    };
    let (list_offset, list_count) = match &answer.status {
        Status::Needs(needs) => {
            let needs: Vec<_> = needs.iter().map(|need| page.need(need)).collect();
            page.append(&needs)
        }
        Status::Install(tokens) => page.append(&words(tokens.iter().map(|token| token.0))),
        _ => page.append(&words(answer.slots.iter().copied())),
    };
    let actions: Vec<_> = answer.actions.iter().map(action).collect();
    let (action_offset, action_count) = page.append(&actions);
    let (creds_offset, creds_proc) = creds(&answer.creds);
    let head = wire::Answer {
        status: status.into(),
        park: park.into(),
        epoch: epoch.into(),
        error: answer.errno.0.into(),
        proc: answer.proc.map_or(0, |proc| proc.0).into(),
        write_consumed: answer.write_consumed.into(),
        read_consumed: answer.read_consumed.into(),
        // Of two messages that never meet.
        value: (u64::from(answer.poll_mask) | answer.text).into(),
        result_position: answer.result_position.into(),
        result_offset: result_offset.into(),
        result_length: result_length.into(),
        first_word: answer.first_word.unwrap_or(0).into(),
        creds_offset: creds_offset.into(),
        creds_proc: creds_proc.into(),
        timeout_ms: timeout_ms.into(),
        list_offset: list_offset.into(),
        list_count: list_count.into(),
        action_offset: action_offset.into(),
        action_count: action_count.into(),
        idle_pages: answer.idle_pages.into(),
        event_offset: 0.into(),
        event_count: 0.into(),
    };
    page.bytes[..size_of::<wire::Answer>()].copy_from_slice(head.as_bytes());
}

/// The bytes of an event buffer.
pub fn event(event: &Event, epoch: u32, last_buffer: bool) -> wire::Event {
    let mut wire = wire::Event::new_zeroed();
    let mut flags = 0;
    if last_buffer {
        flags |= wire::event::MORE_EVENTS;
    }
    if event.fetch {
        flags |= wire::event::FETCH;
    }
    wire.flags = flags.into();
    wire.epoch = epoch.into();
    wire.proc = event.proc.0.into();
    wire.tid = event.tid.0.into();
    wire.seq = event.seq.0.into();
    wire.idle_pages = event.idle_pages.into();
    wire.creds_offset = wire::NO_CREDS.into();
    match &event.kind {
        EventKind::Done { errno, read_consumed, result, first_word, creds: position, nice } => {
            let (creds_offset, creds_proc) = creds(position);
            wire.kind = wire::event::DONE.into();
            wire.error = errno.0.into();
            wire.read_consumed = (*read_consumed).into();
            wire.first_word = first_word.unwrap_or(0).into();
            wire.creds_offset = creds_offset.into();
            wire.creds_proc = creds_proc.into();
            if let Some(nice) = nice {
                let nice = action(nice);
                wire.nice_kind = nice.kind;
                wire.nice = nice.value;
            }
            wire.length = (result.len() as u32).into();
            wire.bytes[..result.len()].copy_from_slice(result);
        }
        EventKind::Install { tokens } => {
            let tokens = words(tokens.iter().map(|token| token.0));
            let bytes = tokens.as_bytes();
            wire.kind = wire::event::INSTALL.into();
            wire.length = (bytes.len() as u32).into();
            wire.bytes[..bytes.len()].copy_from_slice(bytes);
        }
        EventKind::Poll => wire.kind = wire::event::POLL.into(),
    }
    wire
}

/// Whether an answer page has room for any event behind what it carries.
pub fn has_room_for_event(page: &[u8]) -> bool {
    page.len().next_multiple_of(8) + wire::EVENT_SIZE <= wire::PAGE
}

/// Puts an event behind what an answer page carries, without the bytes that it does not use.
pub fn append_event(page: &mut Vec<u8>, event: &wire::Event) {
    page.resize(page.len().next_multiple_of(8), 0);
    let at = page.len();
    page.extend_from_slice(used(event));
    if let Ok((head, _)) = wire::Answer::mut_from_prefix(page) {
        if head.event_count.get() == 0 {
            head.event_offset.set(at as u16);
        }
        head.event_count += 1;
    }
}

/// The bytes of an event that say something: all but the last of its room for a result.
pub fn used(event: &wire::Event) -> &[u8] {
    let end = wire::EVENT_HEAD + event.length.get() as usize;
    &event.as_bytes()[..end.min(wire::EVENT_SIZE)]
}

/// How many events go with the answer of a page.
pub fn events_in(page: &[u8]) -> usize {
    wire::Answer::ref_from_prefix(page).map_or(0, |(head, _)| head.event_count.get().into())
}

fn words(values: impl Iterator<Item = u32>) -> Vec<U32> {
    values.map(U32::new).collect()
}

fn creds(creds: &Option<Creds>) -> (u32, u32) {
    match creds {
        None => (wire::NO_CREDS, 0),
        Some(Creds { offset, proc }) => (*offset, proc.map_or(0, |proc| proc.0)),
    }
}

fn action(action: &Action) -> wire::Action {
    let (kind, value) = match *action {
        Action::NiceSet(nice) => (wire::action::NICE_SET, nice),
        Action::NiceRaise(nice) => (wire::action::NICE_RAISE, nice),
        Action::Schedule { wanted, checked } => {
            let policy = (wanted.policy & 0xff) << 8;
            let checked = if checked { wire::action::SCHED_CHECKED } else { 0 };
            (wire::action::SCHED, (wanted.value & 0xff) | (policy | checked) as i32)
        }
        Action::CloseFd(fd) => (wire::action::CLOSE_FD, fd as i32),
        Action::Fput(token) => (wire::action::FPUT, token.0 as i32),
    };
    wire::Action { kind: kind.into(), value: value.into() }
}
