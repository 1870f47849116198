//! What the host saw of a guest's binder: recorded to a file, read back, put together, shown.
//!
//! The core tells what it does as [`TraceEvent`]s; the device stamps them with guest time. A
//! [`Stamped`] event is that pair. From there:
//!
//! - [`recording`]: the file. A header that can be read without the rest, then records: what went into the core and
//!   came out, names of threads, host times. A recording of the soft engine never drops: the vCPU waits for the disk, which guest
//!   time does not see; that of KVM says what the disk was too slow for, and goes on behind it.
//! - [`model`]: the events of a transaction put together into a call, with the names that the traffic
//!   tells on the way.
//! - [`aidl`], [`parcel`]: method names and arguments, where the AIDL is known.
//! - [`filter`]: one expression that picks calls and events.
//! - [`text`]: one line an event or a call, in the manner of strace; nothing is left out.
//! - [`jsonl`]: one JSON object an event or a call; `schema/trace.schema.json` says what is in it.
//! - [`perfetto`]: a trace for ui.perfetto.dev.
//! - [`html`]: one page with a timeline, a call graph, latencies and failures.
//! - [`replay`]: the recorded messages given to a fresh domain, which must do the same.
//! - [`told`]: records as all that follows wants them, with the events that a replay makes of the steps.
//! - [`summary`]: counts and latencies of each method.
//! - [`tally`]: counts for a closing summary.
//!
//! Nothing here knows how a guest runs. What a guest says (names, payloads) is untrusted: it is
//! bounded, and made harmless where it is shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use binder::trace::TraceEvent;

pub mod aidl;
pub mod constants;
pub mod event;
pub mod filter;
pub mod html;
pub mod item;
pub mod jsonl;
pub mod model;
pub mod parcel;
pub mod perfetto;
pub mod recording;
pub mod replay;
pub mod summary;
pub mod tally;
pub mod text;
pub mod told;

/// One event of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Guest time since power-on.
    pub at: Duration,
    /// Which guest.
    pub guest: binder::GuestId,
    /// What happened.
    pub event: TraceEvent,
}
