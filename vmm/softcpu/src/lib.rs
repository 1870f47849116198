//! An x86-64 CPU in software.
//!
//! [`Vm`] is up to eight 64-bit CPUs with their interrupt controllers over a guest's RAM; everything else is
//! a [`Bus`] that the caller provides. [`Vm::run`] executes until something happens that only the
//! caller can answer ([`Exit`]); a [`Remote`] raises interrupts and stops the run from elsewhere.
//!
//! # From bytes to work
//!
//! 1. RIP is translated (`tlb`, else the page walk of `paging`) and the block at that *physical*
//!    address looked up (`code`). If there is none, `decode` makes one: up to 64 instructions of
//!    one page, each lowered to one micro-operation (`uop`), sometimes two. A micro-operation
//!    holds the address of its handler, specialised by operand size and kind.
//! 2. The handlers (`interp`) call each other in turn; the last one of a block says how it was
//!    left (`uop::Flow`), and `run` follows a link to the next block.
//!    Blocks that are executed often are compiled (`jit`), and then jump to each other without
//!    coming back to `run` until the instructions run out or the interpreter has to take over.
//! 3. Loads and stores look into the TLB, which holds host addresses. All else (page faults,
//!    accesses across pages, devices, pages with decoded code) takes the slow paths in
//!    `access`.
//! 4. An instruction that cannot go on is given up: nothing of it has happened, RIP is its address,
//!    and `cpu::Cause` says why. `vm` then delivers an exception (`interrupt`), or has the
//!    instruction executed alone.
//!
//! # Several CPUs
//!
//! One `Cpu` executes; the others are parked as plain data (`state`), each with its TLB, and change places
//! with it at the end of a turn (`turns`). They share the decoded code.
//!
//! # What is exact
//!
//! * Exceptions: registers and memory are as before the instruction (as in its finished part for
//!   a repeated string instruction).
//! * Time: the CPU counts instructions down to the next event; in virtual mode an interrupt falls
//!   between the same two instructions in every run.
//! * Flags: stored as a result and its carries (`flags`) and worked out when read.
//! * Code that changes: a page with decoded code has no writable TLB entry, so the CPU's own
//!   stores to it pass a check that drops the blocks they overlap; devices' stores come through
//!   the stale list of [`guest_ram`].
//!
//! # What is trusted
//!
//! Nothing in guest memory. Unsafe code is in `memory` (raw access to RAM pages), the TLB fast
//! paths of `access` and `cpu` (addresses that a matching tag vouches for), the walk along a block's
//! micro-operations (`uop`, `run`), generated code and its memory (`jit`), the host's own floating point
//! (`x87/host`, `simd/float`), and the lifetime of the bus (`vm`).

#![warn(missing_docs)]

mod access;
pub mod apic;
mod board;
mod clock;
mod code;
mod cpu;
mod cpuid;
mod debug;
pub mod debugger;
mod decode;
mod decode_flow;
mod decode_legacy;
mod decode_system;
pub mod exception;
mod flags;
mod interp;
mod interrupt;
mod jit;
mod memory;
mod mode;
mod msr;
mod paging;
mod random;
mod remote;
mod run;
mod save;
mod segment;
pub mod simd;
mod state;
mod table_cache;
mod tlb;
mod turns;
mod uop;
mod vm;
mod word;
pub mod x87;

pub use remote::Remote;
pub use save::{BadState, VmState};
pub use vm::{
    Bus, ClockMode, Config, ConfigError, EntryState, Execution, Exit, MAX_CPUS, Registers, Stats, Vm,
};
