//! A request with streams: a command that runs, or a console.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_protocol::window::{ReceiveWindow, SendWindow};
use agent_protocol::{ExecFailure, ExitStatus, WindowSize};

use crate::client::{Call, ClientError, Shared, refused};
use crate::frame::MAX_DATA;
use crate::wire::{Reply, Request, Stream};

/// What happens to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It runs, with this process id in the guest.
    Started(u32),
    /// It printed something.
    Output(Stream, Vec<u8>),
    /// Records of a trace were lost here.
    Dropped(u64),
    /// It ended; nothing follows.
    Exited(ExitStatus),
    /// It did not start; nothing follows.
    NotStarted(ExecFailure),
    /// The request was cancelled; nothing follows.
    Done,
}

/// A finished command and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to file descriptor 1.
    pub stdout: Vec<u8>,
    /// What it wrote to file descriptor 2.
    pub stderr: Vec<u8>,
    /// It wrote more, which was not kept.
    pub truncated: bool,
}

/// A command that runs in the guest. Dropping it hangs it up.
pub struct Running {
    call: Call,
    windows: Vec<(Stream, ReceiveWindow)>,
    ended: bool,
}

impl Running {
    pub(crate) fn new(call: Call) -> Running {
        let streams = [Stream::Stdout, Stream::Stderr, Stream::Console, Stream::Trace, Stream::Events];
        let windows = streams.map(|stream| (stream, ReceiveWindow::of(stream.window()))).to_vec();
        Running { call, windows, ended: false }
    }

    /// What is sent to it, from any thread.
    pub fn input(&self) -> Input {
        Input { id: self.call.id, shared: self.call.shared.clone(), room: self.call.room.clone() }
    }

    /// What happens next. [`ClientError::TimedOut`] after `limit`, and nothing is lost by that.
    pub fn next(&mut self, limit: Option<Duration>) -> Result<Event, ClientError> {
        let incoming = self.call.next(limit)?;
        self.ended = incoming.reply.is_last();
        Ok(match incoming.reply {
            Reply::Started { pid } => Event::Started(pid),
            Reply::Data { stream, bytes } => {
                self.took(stream, bytes)?;
                Event::Output(stream, incoming.data)
            }
            Reply::Dropped { records } => Event::Dropped(records),
            Reply::Exited(exited) => Event::Exited(exited.into()),
            Reply::NotStarted { errno, text } => Event::NotStarted(ExecFailure { errno, text }),
            Reply::Done => Event::Done,
            other => return Err(refused(other)),
        })
    }

    /// Waits for the end and collects what is printed, up to `most` bytes of each stream.
    pub fn output(mut self, limit: Duration, most: usize) -> Result<Output, ClientError> {
        let until = Instant::now() + limit;
        let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.next(Some(left)).map_err(|error| match error {
                ClientError::TimedOut(_) => ClientError::TimedOut(limit),
                other => other,
            })? {
                Event::Output(stream, bytes) => {
                    let kept = if stream == Stream::Stderr { &mut stderr } else { &mut stdout };
                    let taken = bytes.len().min(most - kept.len());
                    truncated |= taken < bytes.len();
                    kept.extend_from_slice(&bytes[..taken]);
                }
                Event::Exited(status) => return Ok(Output { status, stdout, stderr, truncated }),
                Event::NotStarted(failure) => return Err(ClientError::NotStarted(failure)),
                Event::Done => return Err(ClientError::Gone),
                Event::Started(_) | Event::Dropped(_) => {}
            }
        }
    }

    /// Tells the server where it is worth it.
    fn took(&mut self, stream: Stream, bytes: usize) -> Result<(), ClientError> {
        let Some((_, window)) = self.windows.iter_mut().find(|(of, _)| *of == stream) else {
            return Err(ClientError::Unexpected("data of a stream that only goes to the guest".to_owned()));
        };
        window.arrived(bytes).map_err(|error| ClientError::Unexpected(error.to_string()))?;
        match window.taken(bytes) {
            Some(bytes) => self.call.shared.send(self.call.id, Request::Credit { stream, bytes }, &[]),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // Where the connection is gone, so is the command.
            let _ = self.call.shared.send(self.call.id, Request::Cancel, &[]);
        }
    }
}

/// What is sent to a command: bytes, signals, the size of its terminal. Clones reach the same one.
#[derive(Clone)]
pub struct Input {
    id: u32,
    shared: Arc<Shared>,
    room: Arc<Room>,
}

impl Input {
    /// Ends its stdin.
    pub fn close(&self) -> Result<(), ClientError> {
        self.send(Request::Close)
    }

    /// Sends a signal to its process group. `signo` is Linux's number.
    pub fn signal(&self, signo: u32) -> Result<(), ClientError> {
        self.send(Request::Signal { signo })
    }

    /// Tells its terminal a new size.
    pub fn resize(&self, size: WindowSize) -> Result<(), ClientError> {
        self.send(Request::Resize { rows: size.rows, cols: size.cols })
    }

    /// Hangs it up; its end is still told.
    pub fn cancel(&self) -> Result<(), ClientError> {
        self.send(Request::Cancel)
    }

    fn send(&self, request: Request) -> Result<(), ClientError> {
        self.shared.send(self.id, request, &[])
    }
}

impl Write for Input {
    /// Waits until the guest has room. A command that has ended is a broken pipe.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_DATA);
        if taken == 0 {
            return Ok(0);
        }
        let taken = self.room.take(taken).ok_or(io::ErrorKind::BrokenPipe)?;
        let data = Request::Data { stream: Stream::Stdin, bytes: taken };
        self.shared.send(self.id, data, &bytes[..taken]).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much a request's stdin takes.
pub(crate) struct Room {
    /// `None`: it takes nothing any more.
    window: Mutex<Option<SendWindow>>,
    changed: Condvar,
}

impl Room {
    pub fn new() -> Room {
        let window = SendWindow::of(Stream::Stdin.window());
        Room { window: Mutex::new(Some(window)), changed: Condvar::new() }
    }

    /// Waits for room and takes up to `most` bytes of it.
    fn take(&self, most: usize) -> Option<usize> {
        let full = |window: &mut Option<SendWindow>| window.as_ref().is_some_and(|w| w.room() == 0);
        let mut window = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        let window = window.as_mut()?;
        let taken = most.min(window.room());
        window.spend(taken);
        Some(taken)
    }

    pub fn grant(&self, bytes: u32) {
        if let Some(window) = &mut *self.lock() {
            // More than was sent is the server's fault, and does no harm here.
            let _ = window.grant(bytes);
        }
        self.changed.notify_all();
    }

    pub fn close(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendWindow>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
