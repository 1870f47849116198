//! One guest: its address space, its board, how it starts, runs and ends.
//!
//! # Model
//!
//! A [`Machine`] is a CPU ([`engine`]), RAM, and a board of devices. One thread runs the CPU and
//! everything that the guest can see happens on it: device registers are called inline, and host
//! input enters the guest there. Two other parties exist:
//!
//! - the *event thread*: the wall-clock limit and typed input;
//! - whoever holds a [`Handle`]: it may [wake](Handle::wake) the guest to take input that was put
//!   into a device's queue, or [stop](Handle::stop) the run.
//!
//! ```text
//!   MachineConfig ─▶ Machine::new ─▶ add_virtio* ─▶ run / spawn ─▶ Outcome
//!                                                     │
//!        event thread ──┐                   ┌─────────▼──────────┐
//!        Handle::wake ──┼──▶ inbox ──▶      │ loop:              │
//!        Handle::stop ──┘                   │   Engine::run(bus) │◀─▶ Board ─▶ devices
//!                                           │   Idle, Slice, ... │
//!                                           └────────────────────┘
//! ```
//!
//! # Time
//!
//! What an idle CPU means is decided here. With the virtual clock: waiting host input first, else
//! time jumps to the next timer; but while the guest has nothing to do ([`Activity`]) time stands
//! still until there is input, and while a command's stdin is open to somebody outside, time runs no
//! faster than the host's ([`Pace`]). With the host's clock: sleep until the timer is due. KVM sleeps in
//! the kernel and never shows an idle CPU.
//!
//! What enters the guest, and when, can be written to a log ([`Inputs`]), and a later run can be given the same
//! at the same instructions instead: then a run with live input repeats, too.
//!
//! # End
//!
//! A run ends for exactly one [`End`]: the guest's own (power-off, reset, panic, a crashed CPU) or
//! ours (time over, stopped). A kernel panic is recognised by what the kernel prints, so that a
//! guest without `panic=` does not hang the host; every [`Outcome`] carries the last console lines.

mod acpi;
pub mod boot;
pub mod bus;
mod console;
mod error;
mod events;
mod gauges;
mod inbox;
mod input_log;
pub mod layout;
mod machine;
mod news;
mod outcome;
mod snapshot;
mod wiring;

pub use console::{ConsoleLog, Panic};
pub use engine::{Choice, ClockMode, EngineError, Execution, GuestClock, Kind, MAX_CPUS, choose};
pub use error::MachineError;
pub use gauges::{Gauges, Reading};
pub use inbox::{Activity, Handle, Listening, Pace, SnapshotRequest, Working};
pub use input_log::{
    InputLogError, InputPort, Inputs, Moment, Reader as InputReader, Settings, Writer as InputWriter,
};
pub use machine::{Machine, MachineConfig, Running, SerialConsole, Start};
pub use news::News;
pub use outcome::{End, ExitCounts, Outcome, RunStats};
pub use snapshot::{FORMAT, Header, Labels, Snapshot, SnapshotError, check_destination, is_special};
