//! From the core's [`Message`] to the out page that says it: what the shim does.

use binder::logs::{ReadText, Text};
use binder::message::{
    Body, Chunk, ChunkEnd, Continue, Header, Ioctl, Message, NeedResult, Outcome, Range, RangeData,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::layout as wire;

/// The bytes of a message to a device of this `epoch`, from a thread that is called `comm`. They are longer than
/// [`wire::PAGE`] where no page has room for the message.
///
/// # Panics
///
/// Where an ioctl's argument has more than the 48 bytes that there are, or a list more than 2^32 entries.
pub fn message(message: &Message, epoch: u32, comm: [u8; 16]) -> Vec<u8> {
    let Message { header, body } = message;
    let mut page = Page(vec![0; size_of::<wire::Header>()]);
    let kind = page.body(body);
    let length = page.0.len() as u32;
    let head = head(header, kind, epoch, length, comm);
    page.0[..size_of::<wire::Header>()].copy_from_slice(head.as_bytes());
    page.0
}

fn head(header: &Header, kind: u16, epoch: u32, length: u32, comm: [u8; 16]) -> wire::Header {
    let Header { proc, tid, seq, nonblock, foreign, read_bad, other_sid, .. } = *header;
    let Header { leader_euid, thread_euid, policy, prio, time, .. } = *header;
    let flags = [
        (nonblock, wire::flag::NONBLOCK),
        (foreign, wire::flag::FOREIGN),
        (read_bad, wire::flag::RBAD),
        (other_sid, wire::flag::OTHER_SID),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
    wire::Header {
        kind: kind.into(),
        flags: flags.into(),
        epoch: epoch.into(),
        proc: proc.into(),
        tid: tid.0.into(),
        seq: seq.0.into(),
        leader_euid: leader_euid.0.into(),
        thread_euid: thread_euid.0.into(),
        policy: policy.into(),
        prio: prio.into(),
        length: length.into(),
        time: time.into(),
        comm,
    }
}

/// An out page being filled: header and body at its start, what their offsets name behind them.
struct Page(Vec<u8>);

impl Page {
    /// Appends the body, and gives its kind.
    fn body(&mut self, body: &Body) -> u16 {
        use wire::kind::*;
        match body {
            Body::Open(open) => {
                let at = self.reserve::<wire::Open>();
                let (name_offset, name_length) = self.append(&open.context);
                let (secctx_offset, secctx_length) = self.append(&open.secctx);
                let tgid = open.tgid.0.into();
                let default_nice = open.default_nice.into();
                let secctx_error = open.secctx_error.0.into();
                let device = open.device.into();
                let open = wire::Open {
                    tgid,
                    default_nice,
                    name_offset,
                    name_length,
                    secctx_offset,
                    secctx_length,
                    secctx_error,
                    device,
                };
                self.fill(at, open, OPEN)
            }
            Body::Ioctl(Ioctl { cmd, arg_error, arg, lsm_error, chunk }) => {
                let at = self.reserve::<wire::Ioctl>();
                let mut ioctl = wire::Ioctl::new_zeroed();
                ioctl.cmd = (*cmd).into();
                ioctl.arg_error = arg_error.0.into();
                ioctl.arg[..arg.len()].copy_from_slice(arg);
                ioctl.lsm_error = lsm_error.0.into();
                ioctl.chunk = self.chunk(chunk);
                self.fill(at, ioctl, IOCTL)
            }
            Body::Continue(continuation) => {
                let at = self.reserve::<wire::Continue>();
                let continuation = self.continuation(continuation);
                self.fill(at, continuation, CONTINUE)
            }
            Body::Trim { max } => self.fixed(wire::Trim { max: (*max).into(), reserved: U32::ZERO }, TRIM),
            Body::ReadFault { offset } => {
                self.fixed(wire::ReadFault { offset: (*offset).into() }, READ_FAULT)
            }
            Body::Mmap { address, length } => {
                self.fixed(wire::Mmap { address: (*address).into(), length: (*length).into() }, MMAP)
            }
            Body::CtxDel { device } => {
                self.fixed(wire::CtxDel { device: (*device).into(), reserved: U32::ZERO }, CTX_DEL)
            }
            Body::Log(text) => {
                let at = self.reserve::<wire::Log>();
                let log = self.log(text);
                self.fill(at, log, LOG)
            }
            Body::Cancel => CANCEL,
            Body::Timeout => TIMEOUT,
            Body::Fetch => FETCH,
            Body::Poll => POLL,
            Body::Unmap => UNMAP,
            Body::Flush => FLUSH,
            Body::Release => RELEASE,
            Body::Policy => POLICY,
        }
    }

    fn continuation(&mut self, continuation: &Continue) -> wire::Continue {
        let mut wire = wire::Continue::new_zeroed();
        match continuation {
            Continue::More(chunk) => {
                wire.reason = wire::reason::MORE.into();
                wire.chunk = self.chunk(chunk);
            }
            Continue::Needs(results) => {
                wire.reason = wire::reason::NEEDS.into();
                let results: Vec<_> = results.iter().map(|result| self.result(result)).collect();
                (wire.result_offset, wire.result_count) = self.append(&results);
            }
            Continue::Install(result) => {
                wire.reason = wire::reason::INSTALL.into();
                let result = self.result(result);
                (wire.result_offset, wire.result_count) = self.append(&[result]);
            }
        }
        wire
    }

    fn result(&mut self, result: &NeedResult) -> wire::NeedResult {
        let mut wire = wire::NeedResult::new_zeroed();
        wire.error = result.error.0.into();
        match &result.outcome {
            Outcome::None => {}
            Outcome::Pages(pfns) => {
                (wire.offset, wire.count) = self.append(&longs(pfns.iter().map(|pfn| pfn.0)))
            }
            Outcome::Files(tokens) => {
                (wire.offset, wire.count) = self.append(&words(tokens.iter().map(|token| token.0)));
            }
            Outcome::Fds(fds) => (wire.offset, wire.count) = self.append(&words(fds.iter().copied())),
            Outcome::Data(range) => wire.range = self.range(range),
        }
        wire
    }

    fn log(&mut self, read: &ReadText) -> wire::Log {
        let (text, pid) = match read.text {
            Text::State => (wire::text::STATE, 0),
            Text::StateHashed => (wire::text::STATE_HASHED, 0),
            Text::Stats => (wire::text::STATS, 0),
            Text::Transactions => (wire::text::TRANSACTIONS, 0),
            Text::TransactionsHashed => (wire::text::TRANSACTIONS_HASHED, 0),
            Text::TransactionLog => (wire::text::TRANSACTION_LOG, 0),
            Text::FailedTransactionLog => (wire::text::FAILED_TRANSACTION_LOG, 0),
            Text::Proc(pid) => (wire::text::PROC, pid.0),
        };
        let (page_offset, page_count) = self.append(&longs(read.pages.iter().map(|pfn| pfn.0)));
        let mut log = wire::Log::new_zeroed();
        (log.text, log.pid, log.skip) = (text.into(), pid.into(), read.skip.into());
        (log.page_offset, log.page_count) = (page_offset, page_count);
        log
    }

    fn chunk(&mut self, chunk: &Chunk) -> wire::Chunk {
        let end = match chunk.end {
            ChunkEnd::Last => wire::chunk_end::LAST,
            ChunkEnd::Cut => wire::chunk_end::CUT,
            ChunkEnd::Unreadable => wire::chunk_end::UNREADABLE,
        };
        let (offset, length) = self.append(&chunk.bytes);
        let ranges: Vec<_> = chunk.ranges.iter().map(|range| self.range(range)).collect();
        let (range_offset, range_count) = self.append(&ranges);
        let (position, end, reserved) = (chunk.position.into(), end.into(), U32::ZERO);
        wire::Chunk { position, offset, length, end, range_offset, range_count, reserved }
    }

    fn range(&mut self, range: &Range) -> wire::Range {
        let (form, (offset, _)) = match &range.data {
            RangeData::None => (wire::range::NONE, (U32::ZERO, U32::ZERO)),
            RangeData::Inline(bytes) => (wire::range::INLINE, self.append(bytes)),
            RangeData::Pages(pfns) => (wire::range::PFNS, self.append(&longs(pfns.iter().map(|pfn| pfn.0)))),
        };
        wire::Range {
            address: range.address.into(),
            length: range.length.into(),
            readable: range.readable.into(),
            form: form.into(),
            flags: if range.fault { wire::range::FAULT } else { 0 }.into(),
            offset,
        }
    }

    /// Appends a body that names nothing behind it.
    fn fixed<T: IntoBytes + Immutable>(&mut self, body: T, kind: u16) -> u16 {
        self.0.extend_from_slice(body.as_bytes());
        kind
    }

    /// Leaves room for a body, and tells where.
    fn reserve<T>(&mut self) -> usize {
        let at = self.0.len();
        self.0.resize(at + size_of::<T>(), 0);
        at
    }

    fn fill<T: IntoBytes + Immutable>(&mut self, at: usize, body: T, kind: u16) -> u16 {
        self.0[at..][..size_of::<T>()].copy_from_slice(body.as_bytes());
        kind
    }

    /// Appends `items` at the next multiple of 8 and gives (offset, count of items).
    fn append<T: IntoBytes + Immutable>(&mut self, items: &[T]) -> (U32, U32) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let offset = self.0.len() as u32;
        self.0.extend_from_slice(items.as_bytes());
        let count = u32::try_from(items.len()).expect("a list of a message is short");
        (offset.into(), count.into())
    }
}

fn words(values: impl Iterator<Item = u32>) -> Vec<U32> {
    values.map(U32::new).collect()
}

fn longs(values: impl Iterator<Item = u64>) -> Vec<U64> {
    values.map(U64::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{self, Malformed};
    use binder::errno::Errno;
    use binder::ids::{Kuid, Pfn, Pid, Seq, Tid, Token};
    use binder::message::{Expects, NeedKind, Open};
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let ids = any::<(u32, u32, u64)>();
        let rest = any::<(bool, bool, bool, bool, u32, u32, u32, i32, u32)>();
        (ids, rest).prop_map(|((proc, tid, seq), rest)| {
            let (nonblock, foreign, read_bad, other_sid, leader, thread, policy, prio, time) = rest;
            Header {
                proc,
                tid: Tid(tid),
                seq: Seq(seq),
                nonblock,
                foreign,
                read_bad,
                other_sid,
                leader_euid: Kuid(leader),
                thread_euid: Kuid(thread),
                policy,
                prio,
                time,
            }
        })
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..100)
    }

    fn pfns(count: usize) -> Vec<Pfn> {
        (0..count as u64).map(|pfn| Pfn(pfn << 33 | 7)).collect()
    }

    fn range() -> impl Strategy<Value = Range> {
        let data = (0..3, any::<u64>(), bytes());
        (data, any::<(u64, bool)>()).prop_map(|((form, address, bytes), (length, fault))| {
            // Pages are as many as the bytes need that can be read.
            let readable = bytes.len() as u64 * 61;
            let address = address >> 1;
            let (readable, data) = match form {
                0 => (readable, RangeData::None),
                1 => (bytes.len() as u64, RangeData::Inline(bytes)),
                _ => (readable, RangeData::Pages(pfns((address % 4096 + readable).div_ceil(4096) as usize))),
            };
            Range { address, length, readable, fault, data }
        })
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        let end = prop::sample::select(vec![ChunkEnd::Last, ChunkEnd::Cut, ChunkEnd::Unreadable]);
        (any::<u64>(), bytes(), end, prop::collection::vec(range(), 0..4))
            .prop_map(|(position, bytes, end, ranges)| Chunk { position, bytes, end, ranges })
    }

    fn result() -> impl Strategy<Value = (NeedResult, NeedKind)> {
        let outcome = prop_oneof![
            Just((Outcome::None, NeedKind::Lsm)),
            (0..5usize).prop_map(|count| (Outcome::Pages(pfns(count)), NeedKind::Pages)),
            any::<Vec<u32>>().prop_map(|files| {
                (Outcome::Files(files.into_iter().map(Token).collect()), NeedKind::Files)
            }),
            range().prop_map(|range| (Outcome::Data(range), NeedKind::Data)),
        ];
        (any::<i32>(), outcome)
            .prop_map(|(error, (outcome, kind))| (NeedResult { error: Errno(error), outcome }, kind))
    }

    fn text() -> impl Strategy<Value = Text> {
        let pid = any::<u32>().prop_map(|pid| Text::Proc(Pid(pid)));
        let others = [Text::State, Text::StateHashed, Text::Stats, Text::Transactions];
        let more = [Text::TransactionsHashed, Text::TransactionLog, Text::FailedTransactionLog];
        prop_oneof![pid, prop::sample::select([&others[..], &more].concat())]
    }

    /// Any message, and what the core has to wait for.
    fn body() -> impl Strategy<Value = (Body, Expects)> {
        let open = (any::<(u32, i32, i32, u32)>(), bytes(), bytes()).prop_map(
            |((tgid, default_nice, error, device), context, secctx)| {
                let (tgid, secctx_error) = (Pid(tgid), Errno(error));
                Body::Open(Open { tgid, default_nice, context, secctx, secctx_error, device })
            },
        );
        let ioctl =
            (any::<(u32, i32, [u8; 16], i32)>(), chunk()).prop_map(|((cmd, arg_error, arg, lsm), chunk)| {
                let arg = arg.repeat(3);
                Body::Ioctl(Ioctl { cmd, arg_error: Errno(arg_error), arg, lsm_error: Errno(lsm), chunk })
            });
        let log = (text(), any::<u64>(), 0..9usize)
            .prop_map(|(text, skip, pages)| Body::Log(ReadText { text, skip, pages: pfns(pages) }));
        let plain = prop_oneof![
            open,
            ioctl,
            log,
            any::<u32>().prop_map(|max| Body::Trim { max }),
            any::<u64>().prop_map(|offset| Body::ReadFault { offset }),
            any::<(u64, u64)>().prop_map(|(address, length)| Body::Mmap { address, length }),
            any::<u32>().prop_map(|device| Body::CtxDel { device }),
            prop::sample::select(vec![
                Body::Cancel,
                Body::Timeout,
                Body::Fetch,
                Body::Poll,
                Body::Unmap,
                Body::Flush,
                Body::Release,
                Body::Policy,
            ]),
        ];
        prop_oneof![
            plain.prop_map(|body| (body, Expects::Nothing)),
            chunk().prop_map(|chunk| (Body::Continue(Continue::More(chunk)), Expects::More)),
            prop::collection::vec(result(), 0..4).prop_map(|results| {
                let (results, kinds) = results.into_iter().unzip();
                (Body::Continue(Continue::Needs(results)), Expects::Needs(kinds))
            }),
            any::<(i32, Vec<u32>)>().prop_map(|(error, fds)| {
                let count = fds.len();
                let result = NeedResult { error: Errno(error), outcome: Outcome::Fds(fds) };
                (Body::Continue(Continue::Install(result)), Expects::Install(count))
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_message_is_read_as_it_was_written(
            header in header(), (body, expects) in body(), epoch: u32, comm: [u8; 16]
        ) {
            let written = Message { header, body };
            let page = message(&written, epoch, comm);
            let wire = decode::header(&page).unwrap();
            prop_assert_eq!((wire.epoch.get(), wire.comm), (epoch, comm));
            prop_assert_eq!(wire.length.get() as usize, page.len());
            let mut spare = Ioctl { arg: vec![1; 60], ..Ioctl::default() };
            let read = decode::message(&wire, &page, |_| expects, &mut spare);
            prop_assert_eq!(read, Ok(written));
            // One byte less is no message any more.
            let cut = decode::message(&wire, &page[..page.len() - 1], |_| Expects::Nothing, &mut spare);
            prop_assert_eq!(cut, Err(Malformed::Length));
        }

        #[test]
        fn whatever_stands_in_a_page_is_judged(
            header in header(), (body, expects) in body(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut page = message(&Message { header, body }, 1, [0; 16]);
            for (at, value) in changes {
                let at = at.index(page.len());
                page[at] = value;
            }
            let wire = decode::header(&page).unwrap();
            let _ = decode::message(&wire, &page, |_| expects, &mut Ioctl::default());
        }
    }
}
