//! What the driver tells about itself: the texts of `binder_logs/` and debugfs (BINDER.md 10.5, 10.6).
//!
//! A text is made from a domain as it is between two messages, so it is consistent, and it is never
//! kept: [`Domain`] writes it straight into pages that the reader's shim names in its message, and
//! stops where they end. The functions here are pure and write what the kernel's driver of the
//! domain's [`Profile`](crate::limits::Profile) writes; parsers made for Android read them.

mod lines;
mod log_ring;
mod state;
mod stats;
mod transactions;

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, Pfn, Pid};
use crate::limits::Profile;
use crate::memory::{PAGE, PageByte, Pages};
use crate::message::Answer;
use crate::proc::Proc;

pub(crate) use log_ring::{LogEntry, LogKind, LogRing, LoggedSend};
pub use state::{proc, state};
pub use stats::stats;
pub(crate) use stats::{Counters, Totals};
pub use transactions::{failed_transaction_log, transaction_log, transactions};

/// Pages that one message can name: what is left of its page after header and body, 8 bytes each.
pub const MAX_TEXT_PAGES: usize = (4096 - 64 - 32) / 8;

/// Which text (`vb_log.text`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// Everything (B419).
    State,
    /// The same with user pointers hashed (B415).
    StateHashed,
    /// Counters (B428).
    Stats,
    /// What is under way (B427).
    Transactions,
    /// The same with user pointers hashed.
    TransactionsHashed,
    /// The last 32 sends (B430).
    TransactionLog,
    /// The last 32 that failed.
    FailedTransactionLog,
    /// The state of the processes of one pid (B418).
    Proc(Pid),
}

/// LOG: a piece of a text into pages of the reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadText {
    /// Which.
    pub text: Text,
    /// Bytes of it that were read before.
    pub skip: u64,
    /// Where the next ones go, at most [`MAX_TEXT_PAGES`].
    pub pages: Vec<Pfn>,
}

/// What a text covers, and how it says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// One guest's processes; `None`: all of the domain's.
    pub guest: Option<GuestId>,
    /// Milliseconds of the guest's clock, for how long a transaction is under way. `None`: not known, 0.
    pub now: Option<u32>,
}

impl Scope {
    fn covers(&self, guest: GuestId) -> bool {
        self.guest.is_none_or(|only| only == guest)
    }
}

/// Writes a text.
pub fn write(domain: &Domain, scope: Scope, text: Text, out: &mut dyn Write) -> fmt::Result {
    match text {
        Text::State => state::state(domain, scope, false, out),
        Text::StateHashed => state::state(domain, scope, true, out),
        Text::Stats => stats::stats(domain, scope, out),
        Text::Transactions => transactions::transactions(domain, scope, false, out),
        Text::TransactionsHashed => transactions::transactions(domain, scope, true, out),
        Text::TransactionLog => transactions::transaction_log(domain, scope, out),
        Text::FailedTransactionLog => transactions::failed_transaction_log(domain, scope, out),
        Text::Proc(pid) => state::proc(domain, scope, pid, out),
    }
}

impl Profile {
    /// Whether pointers to buffers are printed as offsets, `from` stays, and the time is told (B423 to B425).
    fn tells_offsets(self) -> bool {
        self != Profile::Linux6_1
    }

    /// Whether transactions are printed with `a` (oneway) and `r` (reply), and counted from the first
    /// check on (B425).
    pub(crate) fn tells_async(self) -> bool {
        self == Profile::Linux7_2
    }
}

impl Domain {
    /// Processes, the one that was opened last first, as the kernel lists them.
    fn listed(&self, scope: Scope) -> impl Iterator<Item = &Proc> {
        self.procs.values().rev().filter(move |proc| scope.covers(proc.guest))
    }

    /// A pid as a guest may see it: 0 for another guest's.
    fn pid_in(&self, scope: Scope, proc: crate::ids::ProcId) -> Pid {
        let proc = self.procs.get(&proc).filter(|proc| scope.covers(proc.guest));
        proc.map(|proc| proc.pid).unwrap_or_default()
    }

    /// Answers LOG: the value is the number of bytes written, less than there is room for at the end.
    pub(crate) fn read_text(&self, cx: &Cx<'_>, guest: GuestId, now: u32, read: &ReadText) -> Answer {
        if read.pages.len() > MAX_TEXT_PAGES || read.pages.iter().any(|pfn| !cx.pages.is_ram(guest, *pfn)) {
            return Answer::error(Errno::EPROTO);
        }
        let mut out = PageWriter { to: cx.pages, guest, pages: &read.pages, skip: read.skip, written: 0 };
        let scope = Scope { guest: Some(guest), now: Some(now) };
        // An error is the end of the room: the reader asks for the rest.
        let _ = write(self, scope, read.text, &mut out);
        Answer { text: out.written, ..Answer::default() }
    }
}

/// Writes text into guest pages, from some byte of it on; an error when they are full.
struct PageWriter<'a> {
    to: &'a dyn Pages,
    guest: GuestId,
    pages: &'a [Pfn],
    skip: u64,
    written: u64,
}

impl Write for PageWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let skipped = self.skip.min(text.len() as u64);
        self.skip -= skipped;
        let mut bytes = &text.as_bytes()[skipped as usize..];
        while !bytes.is_empty() {
            let pfn = *self.pages.get((self.written / PAGE) as usize).ok_or(fmt::Error)?;
            let offset = self.written % PAGE;
            let (now, rest) = bytes.split_at(bytes.len().min((PAGE - offset) as usize));
            self.to.write(PageByte { guest: self.guest, pfn, offset }, now).map_err(|_| fmt::Error)?;
            self.written += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

/// Names are bytes in the kernel; a text is not, here.
fn name(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// What the kernel prints for a pointer that it hides: 32 bits that stand for it, 0 for none. Ours has
/// no secret, and needs none: ids go in, not addresses.
fn hidden(value: u64) -> u64 {
    if value == 0 {
        return 0;
    }
    let mut mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)) >> 32 | 1
}
