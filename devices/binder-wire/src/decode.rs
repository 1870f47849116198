//! From the out page of a message to the core's [`Message`].
//!
//! The page was copied out of the guest once, before it came here; every offset and count in it
//! is checked against that copy. What cannot be a message of this protocol is [`Malformed`], and
//! the device answers it with `-EPROTO` (PROTOCOL.md, errors).

use binder::errno::Errno;
use binder::ids::{Kuid, Pfn, Pid, Seq, Tid, Token};
use binder::logs::{ReadText, Text};
use binder::message::{
    Body, Chunk, ChunkEnd, Continue, Expects, Header, Ioctl, Message, NeedKind, NeedResult, Open, Outcome,
    Range, RangeData,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::layout as wire;

/// Why a page is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// `vb_header.length` is shorter than the header or longer than the page.
    #[error("the message's length does not fit its page")]
    Length,
    /// An offset or a count leads out of the message.
    #[error("an offset or count leads out of the message")]
    Bounds,
    /// A number that this version does not define.
    #[error("message kind {0} is not defined")]
    Kind(u16),
    /// A form, reason or end that this version does not define.
    #[error("a field has a value that is not defined")]
    Value,
    /// A CONTINUE that is not what the thread's suspended ioctl waits for.
    #[error("CONTINUE does not match what the core asked for")]
    Unexpected,
}

/// First bytes of a message, as far as the device itself needs them before the body is judged.
pub fn header(page: &[u8]) -> Result<wire::Header, Malformed> {
    Page { bytes: page }.at::<wire::Header>(0)
}

/// The thread that sent a message. `None`: it is too short for one.
pub fn tid(page: &[u8]) -> Option<Tid> {
    wire::Header::ref_from_prefix(page).ok().map(|(header, _)| Tid(header.tid.get()))
}

/// The core's header of a message.
pub fn core_header(header: &wire::Header) -> Header {
    let flags = header.flags.get();
    Header {
        proc: header.proc.get(),
        tid: Tid(header.tid.get()),
        seq: Seq(header.seq.get()),
        nonblock: flags & wire::flag::NONBLOCK != 0,
        foreign: flags & wire::flag::FOREIGN != 0,
        read_bad: flags & wire::flag::RBAD != 0,
        other_sid: flags & wire::flag::OTHER_SID != 0,
        leader_euid: Kuid(header.leader_euid.get()),
        thread_euid: Kuid(header.thread_euid.get()),
        policy: header.policy.get(),
        prio: header.prio.get(),
        time: header.time.get(),
    }
}

/// Reads the message in `page`, whose header is `header`. `expects` tells what the thread's
/// suspended ioctl waits for: the lists of a CONTINUE have no types of their own. An ioctl takes the
/// memory of `spare`, which nobody needs any more.
pub fn message(
    header: &wire::Header,
    page: &[u8],
    expects: impl FnOnce(&Header) -> Expects,
    spare: &mut Ioctl,
) -> Result<Message, Malformed> {
    let length = header.length.get() as usize;
    if length < size_of::<wire::Header>() {
        return Err(Malformed::Length);
    }
    let page = Page { bytes: page.get(..length).ok_or(Malformed::Length)? };
    let core = core_header(header);
    let body = match header.kind.get() {
        wire::kind::CONTINUE => Body::Continue(page.continuation(expects(&core))?),
        wire::kind::IOCTL => {
            page.ioctl(spare)?;
            Body::Ioctl(std::mem::take(spare))
        }
        kind => page.body(kind)?,
    };
    Ok(Message { header: core, body })
}

/// A message page, cut to the message's length.
#[derive(Clone, Copy)]
struct Page<'a> {
    bytes: &'a [u8],
}

const BODY: u32 = size_of::<wire::Header>() as u32;

impl Page<'_> {
    fn body(self, kind: u16) -> Result<Body, Malformed> {
        use wire::kind::*;
        Ok(match kind {
            OPEN => Body::Open(self.open()?),
            CANCEL => Body::Cancel,
            TIMEOUT => Body::Timeout,
            FETCH => Body::Fetch,
            POLL => Body::Poll,
            TRIM => Body::Trim { max: self.at::<wire::Trim>(BODY)?.max.get() },
            READ_FAULT => Body::ReadFault { offset: self.at::<wire::ReadFault>(BODY)?.offset.get() },
            MMAP => {
                let map: wire::Mmap = self.at(BODY)?;
                Body::Mmap { address: map.address.get(), length: map.length.get() }
            }
            UNMAP => Body::Unmap,
            FLUSH => Body::Flush,
            RELEASE => Body::Release,
            CTX_DEL => Body::CtxDel { device: self.at::<wire::CtxDel>(BODY)?.device.get() },
            LOG => Body::Log(self.log()?),
            POLICY => Body::Policy,
            other => return Err(Malformed::Kind(other)),
        })
    }

    fn open(self) -> Result<Open, Malformed> {
        let open: wire::Open = self.at(BODY)?;
        Ok(Open {
            tgid: Pid(open.tgid.get()),
            default_nice: open.default_nice.get(),
            context: self.slice(open.name_offset.get(), open.name_length.get())?.to_vec(),
            secctx: self.slice(open.secctx_offset.get(), open.secctx_length.get())?.to_vec(),
            secctx_error: Errno(open.secctx_error.get()),
            device: open.device.get(),
        })
    }

    fn log(self) -> Result<ReadText, Malformed> {
        let log: wire::Log = self.at(BODY)?;
        let text = match log.text.get() {
            wire::text::STATE => Text::State,
            wire::text::STATE_HASHED => Text::StateHashed,
            wire::text::STATS => Text::Stats,
            wire::text::TRANSACTIONS => Text::Transactions,
            wire::text::TRANSACTIONS_HASHED => Text::TransactionsHashed,
            wire::text::TRANSACTION_LOG => Text::TransactionLog,
            wire::text::FAILED_TRANSACTION_LOG => Text::FailedTransactionLog,
            wire::text::PROC => Text::Proc(Pid(log.pid.get())),
            _ => return Err(Malformed::Value),
        };
        let pages = self.array::<U64>(log.page_offset.get(), log.page_count.get())?;
        Ok(ReadText { text, skip: log.skip.get(), pages: pages.map(|pfn| Pfn(pfn.get())).collect() })
    }

    fn ioctl(self, to: &mut Ioctl) -> Result<(), Malformed> {
        let ioctl: wire::Ioctl = self.at(BODY)?;
        to.cmd = ioctl.cmd.get();
        refill(&mut to.arg, &ioctl.arg);
        to.arg_error = Errno(ioctl.arg_error.get());
        to.lsm_error = Errno(ioctl.lsm_error.get());
        self.chunk(&ioctl.chunk, &mut to.chunk)
    }

    fn continuation(self, expects: Expects) -> Result<Continue, Malformed> {
        let wire: wire::Continue = self.at(BODY)?;
        let results = || self.array::<wire::NeedResult>(wire.result_offset.get(), wire.result_count.get());
        match (wire.reason.get(), expects) {
            (wire::reason::MORE, Expects::More) => {
                let mut chunk = Chunk::default();
                self.chunk(&wire.chunk, &mut chunk)?;
                Ok(Continue::More(chunk))
            }
            (wire::reason::NEEDS, Expects::Needs(kinds)) => {
                let results = results()?;
                if results.len() != kinds.len() {
                    return Err(Malformed::Unexpected);
                }
                let results = results.zip(kinds).map(|(result, kind)| self.result(&result, kind));
                Ok(Continue::Needs(results.collect::<Result<_, _>>()?))
            }
            (wire::reason::INSTALL, Expects::Install(_)) => {
                let result = results()?.next().ok_or(Malformed::Unexpected)?;
                let fds = self.array::<U32>(result.offset.get(), result.count.get())?.map(U32::get);
                Ok(Continue::Install(NeedResult {
                    error: Errno(result.error.get()),
                    outcome: Outcome::Fds(fds.collect()),
                }))
            }
            (wire::reason::MORE | wire::reason::NEEDS | wire::reason::INSTALL, _) => {
                Err(Malformed::Unexpected)
            }
            _ => Err(Malformed::Value),
        }
    }

    fn result(self, result: &wire::NeedResult, kind: NeedKind) -> Result<NeedResult, Malformed> {
        let (offset, count) = (result.offset.get(), result.count.get());
        let outcome = match kind {
            NeedKind::Pages => {
                Outcome::Pages(self.array::<U64>(offset, count)?.map(|pfn| Pfn(pfn.get())).collect())
            }
            NeedKind::Files => {
                Outcome::Files(self.array::<U32>(offset, count)?.map(|token| Token(token.get())).collect())
            }
            NeedKind::Data => {
                let mut range = Range::default();
                self.range(&result.range, &mut range)?;
                Outcome::Data(range)
            }
            NeedKind::Lsm => Outcome::None,
        };
        Ok(NeedResult { error: Errno(result.error.get()), outcome })
    }

    fn chunk(self, chunk: &wire::Chunk, to: &mut Chunk) -> Result<(), Malformed> {
        to.end = match chunk.end.get() {
            wire::chunk_end::LAST => ChunkEnd::Last,
            wire::chunk_end::CUT => ChunkEnd::Cut,
            wire::chunk_end::UNREADABLE => ChunkEnd::Unreadable,
            _ => return Err(Malformed::Value),
        };
        let ranges = self.array::<wire::Range>(chunk.range_offset.get(), chunk.range_count.get())?;
        to.ranges.resize_with(ranges.len(), Range::default);
        ranges.zip(&mut to.ranges).try_for_each(|(range, to)| self.range(&range, to))?;
        to.position = chunk.position.get();
        refill(&mut to.bytes, self.slice(chunk.offset.get(), chunk.length.get())?);
        Ok(())
    }

    fn range(self, range: &wire::Range, to: &mut Range) -> Result<(), Malformed> {
        let (address, readable) = (range.address.get(), range.readable.get());
        match range.form.get() {
            wire::range::NONE => to.data = RangeData::None,
            wire::range::INLINE => {
                let length = u32::try_from(readable).map_err(|_| Malformed::Bounds)?;
                let bytes = self.slice(range.offset.get(), length)?;
                match &mut to.data {
                    RangeData::Inline(data) => refill(data, bytes),
                    data => *data = RangeData::Inline(bytes.to_vec()),
                }
            }
            wire::range::PFNS => {
                let span = (address % wire::PAGE as u64).checked_add(readable).ok_or(Malformed::Bounds)?;
                let pages = u32::try_from(span.div_ceil(wire::PAGE as u64)).map_err(|_| Malformed::Bounds)?;
                let pfns = self.array::<U64>(range.offset.get(), pages)?;
                to.data = RangeData::Pages(pfns.map(|pfn| Pfn(pfn.get())).collect());
            }
            _ => return Err(Malformed::Value),
        }
        (to.address, to.length, to.readable) = (address, range.length.get(), readable);
        to.fault = range.flags.get() & wire::range::FAULT != 0;
        Ok(())
    }

    fn at<T: FromBytes + KnownLayout + Immutable>(self, offset: u32) -> Result<T, Malformed> {
        let bytes = self.slice(offset, size_of::<T>() as u32)?;
        T::read_from_bytes(bytes).map_err(|_| Malformed::Bounds)
    }

    fn slice(&self, offset: u32, length: u32) -> Result<&[u8], Malformed> {
        let (offset, length) = (offset as usize, length as usize);
        let end = offset.checked_add(length).ok_or(Malformed::Bounds)?;
        self.bytes.get(offset..end).ok_or(Malformed::Bounds)
    }

    fn array<T: FromBytes + KnownLayout + Immutable>(
        &self,
        offset: u32,
        count: u32,
    ) -> Result<impl ExactSizeIterator<Item = T> + use<'_, T>, Malformed> {
        let length = count.checked_mul(size_of::<T>() as u32).ok_or(Malformed::Bounds)?;
        let bytes = self.slice(offset, length)?;
        Ok(bytes
            .chunks_exact(size_of::<T>())
            .map(|item| T::read_from_bytes(item).expect("chunks have the size of T")))
    }
}

fn refill(to: &mut Vec<u8>, bytes: &[u8]) {
    to.clear();
    to.extend_from_slice(bytes);
}
