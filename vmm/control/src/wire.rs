//! What the messages say.

use agent_protocol::{ExecRequest, ExitStatus};
use serde::{Deserialize, Serialize};

/// A client's message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToServer {
    /// Which request: a new number for a new one. Numbers may be used again when theirs has ended.
    pub id: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub request: Request,
}

/// The server's message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToClient {
    /// The request it belongs to; 0 where none can be named.
    pub id: u32,
    /// What there is to say.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What a client may want. The first message of a connection is Hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Names the client's version of the protocol. Answered by `hello`.
    Hello {
        /// [`crate::PROTOCOL`] of the client.
        protocol: u32,
    },
    /// Answered by `status`.
    Status,
    /// Answered by `metrics`.
    Metrics,
    /// Answered by `done` when the guest takes commands.
    Ready,
    /// Runs a command: `started`, `data` of stdout and stderr, `credit` for stdin, and at last
    /// `exited` or `not-started`.
    Exec(ExecRequest),
    /// Stream bytes follow the line.
    Data {
        /// Of which stream.
        stream: Stream,
        /// How many; at most [`crate::frame::MAX_DATA`].
        bytes: usize,
    },
    /// The client took bytes of a stream.
    Credit {
        /// Of which stream.
        stream: Stream,
        /// How many.
        bytes: u32,
    },
    /// No more bytes for the request's stdin.
    Close,
    /// A signal for a command's process group.
    Signal {
        /// Linux's number.
        signo: u32,
    },
    /// A command's terminal has another size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        cols: u16,
    },
    /// The serial console: its last bytes, then live, as `data`; `data` of the client is typed.
    Console,
    /// A recording of binder from now on, as `data` with a header first. What a slow client misses
    /// is told by `dropped`.
    Trace,
    /// The run's events ([`crate::events`]) as lines, the latest first, as `data`. Ends with `done`.
    Events {
        /// Whether it ends with the run, and not with what has happened already.
        #[serde(default)]
        follow: bool,
    },
    /// Saves the guest to a file; it goes on. Answered by `done` when the file is whole.
    Snapshot {
        /// An absolute path on the host.
        path: String,
    },
    /// Switches the guest off. Answered by `done` when it was asked; `wait` tells the end.
    Stop {
        /// Milliseconds after which a guest that does not go down is ended.
        grace_ms: u64,
    },
    /// Ends the run at once. Answered by `done`.
    Kill,
    /// Answered by `ended`.
    Wait,
    /// Ends the request: a command is hung up (SIGHUP), anything else just ends. Answered by `done`.
    Cancel,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Who is there. Also the server's first word, with id 0, before the client has spoken.
    Hello(Greeting),
    /// The guest's state.
    Status(Status),
    /// Counters of the run.
    Metrics(Box<Metrics>),
    /// The request did what it was for.
    Done,
    /// The request failed, and has ended.
    Error {
        /// What kind of failure, for programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// A command runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Stream bytes follow the line.
    Data {
        /// Of which stream.
        stream: Stream,
        /// How many; at most [`crate::frame::MAX_DATA`].
        bytes: usize,
    },
    /// The server took bytes of a stream.
    Credit {
        /// Of which stream.
        stream: Stream,
        /// How many.
        bytes: u32,
    },
    /// A command ended; all its output came before.
    Exited(Exited),
    /// A command did not start.
    NotStarted {
        /// Linux's error number; 2 (ENOENT) if there is no such program.
        errno: i32,
        /// What was tried, and the error in words.
        text: String,
    },
    /// Records of a trace that were left out here, because the client was too slow.
    Dropped {
        /// How many.
        records: u64,
    },
    /// The run is over.
    Ended {
        /// As `bindervm run --status` writes it.
        status: serde_json::Value,
        /// Exit status of the process that ran the guest.
        exit_code: u8,
    },
}

impl Reply {
    /// Whether nothing more comes for the request.
    pub fn is_last(&self) -> bool {
        match self {
            Reply::Started { .. } | Reply::Data { .. } | Reply::Credit { .. } | Reply::Dropped { .. } => {
                false
            }
            Reply::Hello(_)
            | Reply::Status(_)
            | Reply::Metrics(_)
            | Reply::Done
            | Reply::Error { .. }
            | Reply::Exited(_)
            | Reply::NotStarted { .. }
            | Reply::Ended { .. } => true,
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exited {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl From<ExitStatus> for Exited {
    fn from(status: ExitStatus) -> Exited {
        match status {
            ExitStatus::Code(code) => Exited::Code(code),
            ExitStatus::Signal(signal) => Exited::Signal(signal),
        }
    }
}

impl From<Exited> for ExitStatus {
    fn from(exited: Exited) -> ExitStatus {
        match exited {
            Exited::Code(code) => ExitStatus::Code(code),
            Exited::Signal(signal) => ExitStatus::Signal(signal),
        }
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The message makes no sense; the connection is closed.
    Malformed,
    /// The versions do not fit; the connection is closed.
    Version,
    /// The connection is not for this user; it is closed.
    Denied,
    /// This guest or this version cannot do it.
    Unsupported,
    /// The request does not fit the state of its id (unknown, in use, or without such a stream), or what it
    /// names is wrong: a file that cannot be made.
    BadRequest,
    /// Too much is under way.
    Busy,
    /// The guest has gone.
    GuestLost,
    /// It was tried, and failed.
    Failed,
}

/// A stream of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// To a command or a console.
    Stdin,
    /// Of a command; with a terminal, all it prints.
    Stdout,
    /// Of a command.
    Stderr,
    /// Of the serial port.
    Console,
    /// Of a recording.
    Trace,
    /// Of events.
    Events,
}

impl Stream {
    /// Bytes that may be under way before the receiver took any.
    pub const fn window(self) -> u32 {
        match self {
            Stream::Stdin | Stream::Stdout | Stream::Stderr | Stream::Console => 256 << 10,
            // Room for a burst: what does not fit is lost.
            Stream::Trace | Stream::Events => 4 << 20,
        }
    }
}

/// The server's first word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`crate::PROTOCOL`] of the server.
    pub protocol: u32,
    /// Version of bindervm.
    pub bindervm: String,
    /// Name of the guest.
    pub guest: String,
    /// Process that runs it.
    pub pid: u32,
}

/// How far a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its agent is not ready.
    Booting,
    /// It takes commands.
    Ready,
    /// It runs without an agent of ours: console only.
    NoAgent,
    /// It was asked to go down.
    Stopping,
    /// Its agent is gone; it is about to end.
    Lost,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Booting => "booting",
            State::Ready => "ready",
            State::NoAgent => "no-agent",
            State::Stopping => "stopping",
            State::Lost => "lost",
        })
    }
}

/// What is known of a guest at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the guest.
    pub guest: String,
    /// Process that runs it.
    pub pid: u32,
    /// Image, if one was booted.
    pub image: Option<String>,
    /// It was not booted, but goes on from a snapshot.
    #[serde(default)]
    pub restored: bool,
    /// `soft` or `kvm`.
    pub engine: String,
    /// `virtual` or `host`.
    pub clock: String,
    /// How far it is.
    pub state: State,
    /// Commands that run, the run's own included.
    pub commands: u32,
    /// Wall time since the run began, in milliseconds.
    pub uptime_ms: u64,
    /// Guest time, in milliseconds.
    pub guest_ms: u64,
    /// Guest memory, in bytes.
    pub memory: u64,
}

/// Counters since power-on. Values may be added in later versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Name of the guest.
    pub guest: String,
    /// Wall time since the run began, in milliseconds.
    pub uptime_ms: u64,
    /// Guest time, in nanoseconds.
    pub guest_ns: u64,
    /// Guest instructions, where the engine counts them.
    pub instructions: Option<u64>,
    /// How often the engine returned, by reason.
    pub exits: serde_json::Value,
    /// Accesses to devices, by kind.
    pub accesses: serde_json::Value,
    /// The binder device's counters.
    pub binder: serde_json::Value,
    /// Objects of the guest in the binder core now; none with the kernel's own driver.
    pub objects: serde_json::Value,
    /// Clients that are connected to the control socket.
    pub clients: u32,
    /// Those of them that follow the recording of binder.
    #[serde(default)]
    pub followers: u32,
    /// Commands that run.
    pub commands: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_documented_json() {
        let json = |message: &ToServer| serde_json::to_string(message).unwrap();
        let exec = ExecRequest { argv: vec!["ls".into()], stdin: true, ..ExecRequest::default() };
        let request = ToServer { id: 7, request: Request::Exec(exec) };
        assert_eq!(json(&request), r#"{"id":7,"request":"exec","argv":["ls"],"stdin":true}"#);
        assert_eq!(serde_json::from_str::<ToServer>(&json(&request)).unwrap(), request);
        let status = serde_json::from_str::<ToServer>(r#"{"request":"status","id":1}"#).unwrap();
        assert_eq!(status.request, Request::Status);
        let data = ToClient { id: 7, reply: Reply::Data { stream: Stream::Stdout, bytes: 3 } };
        let text = serde_json::to_string(&data).unwrap();
        assert_eq!(text, r#"{"id":7,"reply":"data","stream":"stdout","bytes":3}"#);
        let exited = ToClient { id: 7, reply: Reply::Exited(Exited::Signal(9)) };
        assert_eq!(serde_json::to_string(&exited).unwrap(), r#"{"id":7,"reply":"exited","signal":9}"#);
        for message in [data, exited] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ToClient>(&text).unwrap(), message);
        }
    }
}
