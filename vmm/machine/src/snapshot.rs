//! Snapshots: a guest as a file, from which any number of guests go on.
//!
//! Taken between two runs of the engine, so that no CPU is inside a doorbell and every device is between
//! two calls: CPUs, devices, the worlds behind them and RAM are of one moment. A restored guest has the
//! same RAM, mapped copy on write from the file; all that are restored from one file share what none
//! of them writes.
//!
//! The file is judged like any other input: [`Snapshot::open`] checks the header, [`Snapshot::state`] the
//! hash and then every device its own part. The one thing that is trusted is what the guest may do
//! anyway, the contents of its RAM; [`Snapshot::verify`] compares even that.

mod error;
mod file;
mod state;
#[cfg(test)]
mod tests;

pub use error::SnapshotError;
pub use file::{FORMAT, Header, Labels, Snapshot, check_destination, is_special};
pub(crate) use file::{Facts, write};
pub(crate) use state::MachineState;
