//! The control socket of a running guest: its protocol, where it stands, and a client.
//!
//! # Model
//!
//! Every guest with a name owns a UNIX socket ([`place`]). A connection carries *requests*, each with
//! an id that its client chose, and *replies* with the id of their request; any number of requests
//! may be under way ([`wire`]). Each message is one JSON object on a line; a message of stream data is
//! followed by as many raw bytes as it says ([`frame`]). `CONTROL.md` specifies it.
//!
//! ```text
//!   Client ── exec, status, stop, ... ──▶ socket ──▶ the bindervm process that runs the guest
//!      ▲                                    │
//!      └── started, data, exited, done ◀────┘
//! ```
//!
//! Each stream of a request has a window ([`wire::Stream::window`]) of bytes that may be under way;
//! whoever takes bytes says so with a credit. A client that does not read one stream holds back that
//! stream, and nothing else.
//!
//! [`Client`] blocks, and may be shared by threads. There is no daemon: what cannot be connected to
//! does not run.

mod client;
pub mod events;
mod files;
pub mod frame;
pub mod place;
mod running;
mod trace;
mod unpack;
pub mod wire;

pub use agent_protocol::{ExecFailure, ExecRequest, ExitStatus, WindowSize};
pub use client::{Client, ClientError};
pub use files::CopyError;
pub use running::{Event, Input, Output, Running};
pub use trace::{Dropped, Following};
pub use unpack::{Limits, UnpackError, Unpacked};
pub use wire::{State, Status};

/// The version of the protocol. Another is refused by either end.
pub const PROTOCOL: u32 = 1;
