//! What the frames mean.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::{Decoder, Frame, FrameError, encode};

/// Names a command for as long as the link lives. Chosen by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId(pub u32);

/// An output stream of a command. With a terminal there is only `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The status as a shell shows it: 128 + n for signal n.
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// The agent is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the agent.
    pub version: u32,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Where binder is served: `host` or `kernel`.
    pub binder: String,
    /// Milliseconds of guest time since the kernel started.
    pub uptime_ms: u64,
    /// It knows [`HostMessage::Resume`]; older agents do not say so.
    #[serde(default)]
    pub can_resume: bool,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A command to run. Strings are UTF-8 without NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program, looked up in PATH if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// Variables on top of the agent's own (PATH, HOME, TERM).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// The working directory; `/` if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Run it on a terminal of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<WindowSize>,
    /// Whether stdin is sent; if not, the command reads end of file at once. A terminal's always is.
    #[serde(default)]
    pub stdin: bool,
}

/// A command did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailure {
    /// Linux's error number; 2 (ENOENT) if there is no such program.
    pub errno: i32,
    /// What was tried, and the error in words.
    pub text: String,
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestMessage<'a> {
    /// First of all: who speaks.
    Hello(Hello),
    /// Modules are loaded and boot services are up: commands may come.
    Ready,
    /// A command runs.
    Started {
        /// The command.
        id: ExecId,
        /// Its process id in the guest.
        pid: u32,
    },
    /// A command wrote something.
    Output {
        /// The command.
        id: ExecId,
        /// Where it wrote.
        stream: Stream,
        /// At most [`crate::STREAM_CHUNK`] bytes.
        bytes: &'a [u8],
    },
    /// A command ended and all its output was sent.
    Exited {
        /// The command.
        id: ExecId,
        /// How.
        status: ExitStatus,
    },
    /// A command did not start.
    ExecFailed {
        /// The command.
        id: ExecId,
        /// Why.
        failure: ExecFailure,
    },
    /// The command took this much of its stdin.
    StdinCredit {
        /// The command.
        id: ExecId,
        /// Bytes.
        bytes: u32,
    },
    /// Everything received before Sync with this token was acted upon.
    Synced {
        /// The token of the Sync.
        token: u32,
    },
    /// For a person to read.
    Log(Cow<'a, str>),
    /// The guest is not what its image promises. The agent goes on where it can.
    Fatal(Cow<'a, str>),
}

/// From the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMessage<'a> {
    /// Run a command.
    Exec {
        /// Its name from now on.
        id: ExecId,
        /// What to run.
        request: ExecRequest,
    },
    /// Bytes for a command's stdin.
    Stdin {
        /// The command.
        id: ExecId,
        /// At most [`crate::STREAM_CHUNK`] bytes.
        bytes: &'a [u8],
    },
    /// No more stdin.
    StdinClosed {
        /// The command.
        id: ExecId,
    },
    /// Send a signal to the command's process group.
    Signal {
        /// The command.
        id: ExecId,
        /// Linux's signal number.
        signo: u32,
    },
    /// The command's terminal has another size.
    Resize {
        /// The command.
        id: ExecId,
        /// The new size.
        size: WindowSize,
    },
    /// The host took this much of a command's output.
    OutputCredit {
        /// The command.
        id: ExecId,
        /// The stream.
        stream: Stream,
        /// Bytes.
        bytes: u32,
    },
    /// Answer with Synced when all before this was acted upon.
    Sync {
        /// Comes back in the answer.
        token: u32,
    },
    /// Stop everything and switch the guest off.
    PowerOff,
    /// The guest goes on from a snapshot, perhaps one of many.
    Resume {
        /// To be mixed into the kernel's random numbers, which are those of all the others.
        seed: [u8; SEED],
        /// What time it is now, since 1970; zero: the clock stays as it is.
        time: Duration,
    },
}

/// Bytes of a [`HostMessage::Resume`]'s seed.
pub const SEED: usize = 32;

/// Frame kinds: those of the agent below 64, those of the host from 64.
mod kind {
    pub const HELLO: u8 = 1;
    pub const READY: u8 = 2;
    pub const STARTED: u8 = 3;
    pub const STDOUT: u8 = 4;
    pub const STDERR: u8 = 5;
    pub const EXITED: u8 = 6;
    pub const EXEC_FAILED: u8 = 7;
    pub const STDIN_CREDIT: u8 = 8;
    pub const SYNCED: u8 = 9;
    pub const LOG: u8 = 10;
    pub const FATAL: u8 = 11;

    pub const EXEC: u8 = 64;
    pub const STDIN: u8 = 65;
    pub const STDIN_CLOSED: u8 = 66;
    pub const SIGNAL: u8 = 67;
    pub const RESIZE: u8 = 68;
    pub const STDOUT_CREDIT: u8 = 69;
    pub const STDERR_CREDIT: u8 = 70;
    pub const SYNC: u8 = 71;
    pub const POWER_OFF: u8 = 72;
    pub const RESUME: u8 = 73;
}

/// First word of an Exited payload.
const BY_CODE: u32 = 0;
const BY_SIGNAL: u32 = 1;

impl<'a> GuestMessage<'a> {
    /// Appends the message's frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            GuestMessage::Hello(hello) => encode(out, kind::HELLO, 0, &json(hello)),
            GuestMessage::Ready => encode(out, kind::READY, 0, &[]),
            GuestMessage::Started { id, pid } => encode(out, kind::STARTED, id.0, &pid.to_le_bytes()),
            GuestMessage::Output { id, stream: Stream::Stdout, bytes } => {
                encode(out, kind::STDOUT, id.0, bytes)
            }
            GuestMessage::Output { id, stream: Stream::Stderr, bytes } => {
                encode(out, kind::STDERR, id.0, bytes)
            }
            GuestMessage::Exited { id, status } => {
                let words = match *status {
                    ExitStatus::Code(code) => [BY_CODE, code.into()],
                    ExitStatus::Signal(signal) => [BY_SIGNAL, signal.into()],
                };
                encode(out, kind::EXITED, id.0, words.map(u32::to_le_bytes).as_flattened());
            }
            GuestMessage::ExecFailed { id, failure } => encode(out, kind::EXEC_FAILED, id.0, &json(failure)),
            GuestMessage::StdinCredit { id, bytes } => {
                encode(out, kind::STDIN_CREDIT, id.0, &bytes.to_le_bytes());
            }
            GuestMessage::Synced { token } => encode(out, kind::SYNCED, *token, &[]),
            GuestMessage::Log(text) => encode(out, kind::LOG, 0, text.as_bytes()),
            GuestMessage::Fatal(text) => encode(out, kind::FATAL, 0, text.as_bytes()),
        }
    }

    /// The next message that `decoder` holds whole.
    pub fn decode(decoder: &'a mut Decoder) -> Result<Option<Self>, FrameError> {
        let Some(frame) = decoder.next_frame()? else { return Ok(None) };
        let id = ExecId(frame.id);
        Ok(Some(match frame.kind {
            kind::HELLO => GuestMessage::Hello(frame.json()?),
            kind::READY => GuestMessage::Ready,
            kind::STARTED => {
                let [pid] = frame.words()?;
                GuestMessage::Started { id, pid }
            }
            kind::STDOUT => GuestMessage::Output { id, stream: Stream::Stdout, bytes: frame.payload },
            kind::STDERR => GuestMessage::Output { id, stream: Stream::Stderr, bytes: frame.payload },
            kind::EXITED => GuestMessage::Exited { id, status: exit_status(&frame)? },
            kind::EXEC_FAILED => GuestMessage::ExecFailed { id, failure: frame.json()? },
            kind::STDIN_CREDIT => {
                let [bytes] = frame.words()?;
                GuestMessage::StdinCredit { id, bytes }
            }
            kind::SYNCED => GuestMessage::Synced { token: frame.id },
            kind::LOG => GuestMessage::Log(String::from_utf8_lossy(frame.payload)),
            kind::FATAL => GuestMessage::Fatal(String::from_utf8_lossy(frame.payload)),
            other => return Err(FrameError::UnknownKind(other)),
        }))
    }
}

impl<'a> HostMessage<'a> {
    /// Appends the message's frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HostMessage::Exec { id, request } => encode(out, kind::EXEC, id.0, &json(request)),
            HostMessage::Stdin { id, bytes } => encode(out, kind::STDIN, id.0, bytes),
            HostMessage::StdinClosed { id } => encode(out, kind::STDIN_CLOSED, id.0, &[]),
            HostMessage::Signal { id, signo } => encode(out, kind::SIGNAL, id.0, &signo.to_le_bytes()),
            HostMessage::Resize { id, size } => {
                let words = [u32::from(size.rows), u32::from(size.cols)];
                encode(out, kind::RESIZE, id.0, words.map(u32::to_le_bytes).as_flattened());
            }
            HostMessage::OutputCredit { id, stream, bytes } => {
                let kind = match stream {
                    Stream::Stdout => kind::STDOUT_CREDIT,
                    Stream::Stderr => kind::STDERR_CREDIT,
                };
                encode(out, kind, id.0, &bytes.to_le_bytes());
            }
            HostMessage::Sync { token } => encode(out, kind::SYNC, *token, &[]),
            HostMessage::PowerOff => encode(out, kind::POWER_OFF, 0, &[]),
            HostMessage::Resume { seed, time } => {
                let mut payload = seed.to_vec();
                payload.extend(time.as_secs().to_le_bytes());
                payload.extend(time.subsec_nanos().to_le_bytes());
                encode(out, kind::RESUME, 0, &payload);
            }
        }
    }

    /// The next message that `decoder` holds whole.
    pub fn decode(decoder: &'a mut Decoder) -> Result<Option<Self>, FrameError> {
        let Some(frame) = decoder.next_frame()? else { return Ok(None) };
        let id = ExecId(frame.id);
        Ok(Some(match frame.kind {
            kind::EXEC => HostMessage::Exec { id, request: frame.json()? },
            kind::STDIN => HostMessage::Stdin { id, bytes: frame.payload },
            kind::STDIN_CLOSED => HostMessage::StdinClosed { id },
            kind::SIGNAL => {
                let [signo] = frame.words()?;
                HostMessage::Signal { id, signo }
            }
            kind::RESIZE => {
                let [rows, cols] = frame.words()?;
                HostMessage::Resize { id, size: WindowSize { rows: rows as u16, cols: cols as u16 } }
            }
            kind::STDOUT_CREDIT => credit(id, Stream::Stdout, &frame)?,
            kind::STDERR_CREDIT => credit(id, Stream::Stderr, &frame)?,
            kind::SYNC => HostMessage::Sync { token: frame.id },
            kind::POWER_OFF => HostMessage::PowerOff,
            kind::RESUME => resume(&frame).ok_or(FrameError::Malformed(frame.kind))?,
            other => return Err(FrameError::UnknownKind(other)),
        }))
    }
}

/// Seed, seconds in 64 bits, nanoseconds in 32.
fn resume(frame: &Frame<'_>) -> Option<HostMessage<'static>> {
    let (seed, rest) = frame.payload.split_first_chunk::<SEED>()?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let nanos = u32::from_le_bytes(rest.try_into().ok()?);
    let time =
        Duration::from_secs(u64::from_le_bytes(*seconds)).checked_add(Duration::from_nanos(nanos.into()))?;
    Some(HostMessage::Resume { seed: *seed, time })
}

fn credit(id: ExecId, stream: Stream, frame: &Frame<'_>) -> Result<HostMessage<'static>, FrameError> {
    let [bytes] = frame.words()?;
    Ok(HostMessage::OutputCredit { id, stream, bytes })
}

fn exit_status(frame: &Frame<'_>) -> Result<ExitStatus, FrameError> {
    let [how, value] = frame.words()?;
    let value = u8::try_from(value).map_err(|_| FrameError::Malformed(frame.kind))?;
    match how {
        BY_CODE => Ok(ExitStatus::Code(value)),
        BY_SIGNAL => Ok(ExitStatus::Signal(value)),
        _ => Err(FrameError::Malformed(frame.kind)),
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Strings, numbers and lists with string keys: nothing that JSON cannot say.
    serde_json::to_vec(value).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_messages_survive_the_way() {
        let id = ExecId(7);
        let hello = Hello {
            version: 1,
            kernel: "6.1.0".into(),
            binder: "host".into(),
            uptime_ms: 812,
            can_resume: true,
        };
        let messages = [
            GuestMessage::Hello(hello),
            GuestMessage::Ready,
            GuestMessage::Started { id, pid: 123 },
            GuestMessage::Output { id, stream: Stream::Stdout, bytes: b"out\0" },
            GuestMessage::Output { id, stream: Stream::Stderr, bytes: b"" },
            GuestMessage::Exited { id, status: ExitStatus::Code(255) },
            GuestMessage::Exited { id, status: ExitStatus::Signal(9) },
            GuestMessage::ExecFailed { id, failure: ExecFailure { errno: 2, text: "nope: \"x\"".into() } },
            GuestMessage::StdinCredit { id, bytes: 1 << 20 },
            GuestMessage::Synced { token: u32::MAX },
            GuestMessage::Log("zażółć".into()),
            GuestMessage::Fatal("".into()),
        ];
        let mut decoder = Decoder::new();
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            decoder.push(&bytes);
            assert_eq!(GuestMessage::decode(&mut decoder), Ok(Some(message)));
            assert_eq!(GuestMessage::decode(&mut decoder), Ok(None));
        }
    }

    #[test]
    fn host_messages_survive_the_way() {
        let id = ExecId(1);
        let request = ExecRequest {
            argv: vec!["sh".into(), "-c".into(), "echo \n".into()],
            env: vec![("A".into(), "b=c".into())],
            cwd: Some("/tmp".into()),
            tty: Some(WindowSize { rows: 24, cols: 80 }),
            stdin: true,
        };
        let plain = ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() };
        let messages = [
            HostMessage::Exec { id, request },
            HostMessage::Exec { id, request: plain },
            HostMessage::Stdin { id, bytes: &[0, 255] },
            HostMessage::StdinClosed { id },
            HostMessage::Signal { id, signo: 15 },
            HostMessage::Resize { id, size: WindowSize { rows: 1, cols: 65535 } },
            HostMessage::OutputCredit { id, stream: Stream::Stdout, bytes: 9 },
            HostMessage::OutputCredit { id, stream: Stream::Stderr, bytes: 9 },
            HostMessage::Sync { token: 5 },
            HostMessage::PowerOff,
            HostMessage::Resume { seed: [7; SEED], time: Duration::new(1 << 33, 999_999_999) },
        ];
        let mut decoder = Decoder::new();
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            decoder.push(&bytes);
            assert_eq!(HostMessage::decode(&mut decoder), Ok(Some(message)));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        let cases: [(u8, &[u8], FrameError); 6] = [
            (kind::EXEC, &[], FrameError::UnknownKind(kind::EXEC)),
            (kind::HELLO, b"{\"version\":", FrameError::Malformed(kind::HELLO)),
            (kind::STARTED, &[1, 2], FrameError::Malformed(kind::STARTED)),
            (kind::EXITED, &[2, 0, 0, 0, 0, 0, 0, 0], FrameError::Malformed(kind::EXITED)),
            (kind::EXITED, &[0, 0, 0, 0, 0, 1, 0, 0], FrameError::Malformed(kind::EXITED)),
            (0, &[], FrameError::UnknownKind(0)),
        ];
        for (kind, payload, error) in cases {
            let mut bytes = Vec::new();
            encode(&mut bytes, kind, 0, payload);
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            assert_eq!(GuestMessage::decode(&mut decoder), Err(error));
        }
    }

    #[test]
    fn exit_statuses_look_like_a_shells() {
        assert_eq!(ExitStatus::Code(3).shell_code(), 3);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    }
}
