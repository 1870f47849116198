//! Frames between the host and the agent in a guest.
//!
//! # Model
//!
//! The channel is a byte stream in each direction (a virtio-console port). On it travel frames: a
//! 9-byte header (kind, id, length; little endian) and a payload of at most [`MAX_PAYLOAD`] bytes.
//! `id` names the command that a frame is about. Structured payloads are JSON, streams are raw bytes.
//!
//! ```text
//! agent                                host
//!   Hello{version, kernel, ...}   ->
//!   Log, Fatal (any time)         ->
//!   Ready                         ->
//!                                 <-   Exec 1 {argv, env, cwd, tty, stdin}
//!   Started 1 {pid}               ->
//!   Output 1 stdout|stderr        ->
//!                                 <-   OutputCredit 1, Stdin 1, StdinClosed 1, Signal 1, Resize 1
//!   StdinCredit 1                 ->
//!   Exited 1 {code | signal}      ->      (after the last Output; or ExecFailed 1 instead of Started)
//!                                 <-   Sync t, answered by Synced t
//!                                 <-   PowerOff
//! ```
//!
//! Each stream of a command has a window of [`WINDOW`] bytes that its sender may have under way;
//! the receiver opens it again with credits, so neither side buffers more than that for the other
//! ([`window`]). A command that prints faster than the host takes it is stopped by its full pipe.
//!
//! This crate does no I/O: [`Decoder`] eats bytes in whatever pieces they come, messages encode
//! themselves into a `Vec<u8>`, and [`AgentLink`] is the host's whole end as a state machine.

mod frame;
mod link;
mod message;
mod saved;
pub mod window;

pub use frame::{Decoder, FrameError, MAX_PAYLOAD};
pub use link::{AgentEvent, AgentEvents, AgentLink, BadFrames, LinkError, LinkState, LostReason};
pub use message::{
    ExecFailure, ExecId, ExecRequest, ExitStatus, GuestMessage, Hello, HostMessage, SEED, Stream, WindowSize,
};
pub use saved::{BadLink, NotSaved, SavedLink};
pub use window::WINDOW;

/// The version of this protocol that an agent names in its Hello.
pub const VERSION: u32 = 1;

/// The name of the virtio-console port that is the channel, in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "bindervm.agent";

/// The most bytes of a stream that one frame carries.
pub const STREAM_CHUNK: usize = 16 << 10;
