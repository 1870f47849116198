//! A call from its client's command to its reply.

use std::sync::Arc;
use std::time::Duration;

use binder::protocol::br;
use binder::trace::{ObjectRecord, Party, TransactionRecord};
use binder::{DebugId, GuestId};

use crate::aidl::Table;
use crate::constants::{STATUS_CODE, is_failure, return_name};
use crate::parcel::cursor::word;
use crate::parcel::decode::{self, Decoded, Exception, Payload};
use crate::parcel::token::Layout;

/// One end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its guest: in a domain not always that of the call.
    pub guest: GuestId,
    /// What that is called.
    pub guest_name: Arc<str>,
    /// The thread, its process, its open file; tid 0 while a call waits for any thread.
    pub party: Party,
    /// What the process calls itself.
    pub process: Option<Arc<str>>,
    /// What the thread calls itself.
    pub thread: Option<Arc<str>>,
}

/// What is known of the method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodName {
    /// Its name.
    pub name: Arc<str>,
    /// False: the declaration is of another version than the guest's, or the guest's is not known.
    pub sure: bool,
}

/// The reply of a synchronous call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its own debug id.
    pub id: DebugId,
    /// Guest time when the server sent it.
    pub sent: Duration,
    /// Guest time when the client read it.
    pub received: Option<Duration>,
    /// What was sent.
    pub record: TransactionRecord,
}

/// How a call went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered, or (oneway) not delivered, when the recording ended.
    Open,
    /// The same, but something is missing in the recording after it was sent.
    Unknown,
    /// Answered; oneway: delivered.
    Ok,
    /// The driver failed it: a `BR_*` word and the errno beside it.
    Failed(u32, i32),
    /// The service answered with a `status_t`.
    Status(i32),
    /// The service answered with an exception.
    Exception(Exception),
}

/// A call, nested or not, synchronous or oneway.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name of the guest that calls.
    pub guest: Arc<str>,
    /// Number of that guest among all recordings that are shown together, from 1.
    pub machine: u32,
    /// The context ("binder"), where the opening of the file was seen.
    pub context: Option<Arc<str>>,
    /// Guest time when it was sent.
    pub sent: Duration,
    /// Host time (`CLOCK_BOOTTIME`) when it was sent, if the recording has it.
    pub host: Option<Duration>,
    /// What was sent.
    pub record: TransactionRecord,
    /// Who calls.
    pub client: Peer,
    /// Who serves; until it is delivered, to whom it was sent.
    pub server: Option<Peer>,
    /// What the target is called.
    pub service: Option<Arc<str>>,
    /// The interface.
    pub interface: Option<Arc<str>>,
    /// The method.
    pub method: Option<MethodName>,
    /// How its parcels are laid out, and where the arguments begin.
    pub layout: Option<(Layout, usize)>,
    /// The AOSP version that declarations were looked up with.
    pub android: Option<u32>,
    /// The call that its client served when it made this one.
    pub parent: Option<DebugId>,
    /// How many calls it is nested in.
    pub depth: u32,
    /// Guest time when a thread of the server read it.
    pub delivered: Option<Duration>,
    /// Guest time when the receiver of a oneway call freed its buffer.
    pub freed: Option<Duration>,
    /// Its reply.
    pub reply: Option<Reply>,
    /// How it went.
    pub outcome: Outcome,
}

impl Call {
    /// Time in the queue of the server.
    pub fn queued(&self) -> Option<Duration> {
        self.delivered.map(|at| at.saturating_sub(self.sent))
    }

    /// Time that the server took: until it replied or, oneway, freed the buffer.
    pub fn served(&self) -> Option<Duration> {
        let end = self.reply.as_ref().map(|reply| reply.sent).or(self.freed)?;
        self.delivered.map(|at| end.saturating_sub(at))
    }

    /// Time until the client had its answer; oneway: until the call was delivered.
    pub fn duration(&self) -> Option<Duration> {
        let end = match &self.reply {
            Some(reply) => Some(reply.received.unwrap_or(reply.sent)),
            None if self.record.oneway => self.delivered,
            None => None,
        };
        end.map(|end| end.saturating_sub(self.sent))
    }

    /// Bytes of data and offsets that the call carried.
    pub fn size(&self) -> u64 {
        self.record.data_size.saturating_add(self.record.offsets_size)
    }

    /// Bytes of data and offsets of the reply.
    pub fn reply_size(&self) -> Option<u64> {
        self.reply.as_ref().map(|reply| reply.record.data_size.saturating_add(reply.record.offsets_size))
    }

    /// The outcome in a word: `ok`, `open`, `unknown`, `BR_DEAD_REPLY`, `status=-74`, `EX_SECURITY`.
    pub fn result(&self) -> String {
        match &self.outcome {
            Outcome::Open => "open".to_owned(),
            Outcome::Unknown => "unknown".to_owned(),
            Outcome::Ok => "ok".to_owned(),
            Outcome::Failed(code, _) => return_name(*code),
            Outcome::Status(status) => format!("status={status}"),
            Outcome::Exception(exception) => decode::exception_name(exception.code),
        }
    }

    /// Whether it failed, in the driver or in the service.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(..) | Outcome::Status(_) | Outcome::Exception(_))
    }

    /// The method's name, or its number: `getService`, `getService?`, `#1`.
    pub fn method_label(&self) -> String {
        match &self.method {
            Some(method) if method.sure => method.name.to_string(),
            Some(method) => format!("{}?", method.name),
            None => format!("#{}", self.record.code),
        }
    }

    /// Its arguments, where the declaration is known.
    pub fn arguments(&self, table: &Table) -> Option<Decoded> {
        let (layout, at) = self.layout?;
        let found = self.declaration(table)?;
        Some(decode::arguments(table, &found, payload(&self.record), at, layout))
    }

    /// What its reply brings, where the declaration is known.
    pub fn result_values(&self, table: &Table) -> Option<Decoded> {
        let (layout, _) = self.layout?;
        let found = self.declaration(table)?;
        let reply = self.reply.as_ref().filter(|_| self.outcome == Outcome::Ok)?;
        Some(decode::reply(table, &found, payload(&reply.record), layout).1)
    }

    fn declaration<'a>(&self, table: &'a Table) -> Option<crate::aidl::Found<'a>> {
        let found = table.method(self.interface.as_deref()?, self.record.code, self.android)?;
        // A signature of another version would be a guess.
        found.sure.then_some(found)
    }

    /// What a reply says about how the call went.
    pub(super) fn judge(&self, record: &TransactionRecord, table: &Table) -> Outcome {
        if is_failure(record.result) {
            return Outcome::Failed(record.result, record.errno.0);
        }
        if record.flags & STATUS_CODE != 0 {
            return match word(&record.payload, 0).map(|word| word as i32) {
                Some(0) | None => Outcome::Ok,
                Some(status) => Outcome::Status(status),
            };
        }
        let exception = self
            .layout
            .zip(self.declaration(table))
            .and_then(|((layout, _), found)| decode::reply(table, &found, payload(record), layout).0);
        exception.map_or(Outcome::Ok, Outcome::Exception)
    }
}

fn payload(record: &TransactionRecord) -> Payload<'_> {
    Payload { bytes: &record.payload, total: record.data_size, objects: objects(record) }
}

fn objects(record: &TransactionRecord) -> &[ObjectRecord] {
    &record.objects
}

/// The outcome of a call that was refused when it was sent.
pub(super) fn refused(record: &TransactionRecord) -> Option<Outcome> {
    let failed =
        is_failure(record.result) || (record.to.is_none() && record.result != br::TRANSACTION_COMPLETE);
    failed.then_some(Outcome::Failed(record.result, record.errno.0))
}
