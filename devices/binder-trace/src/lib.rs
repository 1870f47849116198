//! What the host saw of a guest's binder: recorded to a file, read back, printed.
//!
//! The core tells what it does as [`TraceEvent`]s; the device stamps them with guest time. A
//! [`Stamped`] event is that pair. From there:
//!
//! - [`recording`]: the file. A header that can be read without the rest, then one record an event.
//!   A recording never drops: the vCPU waits for the disk, which guest time does not see.
//! - [`text`]: one line an event, in the manner of strace; nothing is left out.
//! - [`calls`]: the events of a transaction put together into one line a call.
//! - [`tally`]: counts for a closing summary.
//! - [`parcel`]: the little that is known of payloads (interface tokens).
//!
//! Nothing here knows how a guest runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use binder::trace::TraceEvent;

pub mod calls;
pub mod parcel;
pub mod recording;
pub mod tally;
pub mod text;

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
