//! A gdb server for a guest.
//!
//! A [`Server`] listens at a TCP port of this host or at a UNIX socket. A thread of its own accepts one
//! debugger after the other and reads what it says; whatever concerns the guest happens on the guest's
//! own thread, in [`attend`], which runs the guest in the machine's place until the debugger leaves.
//!
//! ```text
//!   gdb ── socket ──▶ reader thread ── bytes ──▶ attend (vCPU thread): gdbstub's state machine
//!                          └── wake the guest        │  stopped: waits for bytes
//!                                                    └─ running: Guest::advance, looks for bytes
//! ```
//!
//! The remote protocol is the crate `gdbstub`'s. What is here is the guest behind it (`target`):
//! registers and the engine's stops; memory by linear address through the guest's page tables
//! (`paging`); breakpoints as INT3 in guest memory, or as the engine's points.
//!
//! CPUs are threads, number 1 being CPU 0. All stop when one does, and all run when one does, but for a
//! single step, during which the others stand still and interrupts wait.

mod paging;
mod server;
mod session;
mod target;

pub use server::{Address, AddressError, Connection, Server};
pub use session::{Guest, Turn, attend};
