//! The binder driver core: a deterministic state machine.
//!
//! A [`Domain`] is one binder world. The device hands it [`Message`]s of its guests, one after the
//! other, and gets an [`Answer`] each; what happens to other threads meanwhile comes out as
//! [`Event`]s. There is no I/O in here, no thread, no clock, no hash order and no randomness: the
//! same messages and the same guest memory give the same answers, byte for byte.
//!
//! # Model
//!
//! * [`ProcId`]: one open of a device. It has threads, nodes (its own objects), refs (handles on
//!   the nodes of others), one mapping that payloads are placed in, and a queue of work.
//! * A thread has a queue of its own, and a stack of calls that it sent or has to answer.
//! * A transaction (call, oneway, reply) travels with a buffer in the receiver's mapping.
//! * Nothing blocks. A thread that finds no work is *parked*; work for it makes it *runnable*, and at
//!   the end of the message the core reads on its behalf and emits an event.
//! * What only the guest's kernel can supply is asked for ([`Status::Needs`]); the command waits as
//!   plain data, other messages run, and on resume everything that may have died is looked at again.
//!
//! Objects live in arenas and are named by generation-checked ids, so a stale id finds nothing.
//! Memory of what is over is kept for what begins (`spare`); a round trip of a call allocates nothing.
//! All state is plain data and can be saved with serde between any two messages; one that was loaded
//! is judged by [`Domain::check`] before it is used.
//!
//! # The way of a message
//!
//! [`Domain::handle`] → `lifecycle` (open, mmap, flush, release), `ioctl`, `poll` → `suspend`
//! (the life of a BINDER_WRITE_READ) → `commands` (the write half, the one place that executes BC
//! commands) → `transaction` (judge, copy, enqueue), `refs`, `node`, `death`, `freeze`, `attempt` → `read` (the
//! read half, the one place that makes BR returns) → `wake` (the woken threads read). [`faults`] may step in
//! before a transaction is queued.
//!
//! Numbers like B123 are the items of `BINDER.md` beside this crate; rules are those of
//! `PROTOCOL.md` of the shim.

mod ahead;
mod arena;
mod attempt;
mod buffer;
mod buffer_table;
mod check;
mod commands;
mod death;
mod domain;
pub mod errno;
mod events;
pub mod faults;
mod fetched;
mod freeze;
mod guest_table;
pub mod ids;
mod ioctl;
mod lifecycle;
pub mod limits;
pub mod logs;
mod memory;
pub mod message;
mod node;
mod poll;
mod proc;
mod proc_table;
pub mod protocol;
mod read;
mod refs;
pub mod replay;
pub mod sched;
mod spare;
mod suspend;
mod thread;
mod tickets;
pub mod trace;
mod transaction;
mod wake;
mod work;

pub use check::Inconsistent;
pub use domain::{Census, Domain, GuestRams};
pub use errno::Errno;
pub use ids::*;
pub use limits::{Limits, LsmMode, Profile};
pub use memory::{GuestPages, NotRam, PageByte, Pages};
pub use message::*;
pub use sched::Scheduling;
pub use trace::{NoTrace, TraceEvent, TraceSink};
