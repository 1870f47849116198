//! The loop that serves the host: one thread, one `poll`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_protocol::window::WindowError;
use agent_protocol::{
    ExecId, ExecRequest, FrameError, GuestMessage, HostMessage, STREAM_CHUNK, Stream, WindowSize,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::command::{Command, Read};
use crate::port::{Port, PortError};
use crate::reaper::{Ended, Reaper};

/// Commands that run at once. The host has no use for more, and each costs file descriptors.
const MAX_COMMANDS: usize = 64;

/// How long the last words may take to reach the host.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the loop ended.
#[derive(Debug)]
pub enum Outcome {
    /// The host asked for it.
    PowerOff,
    /// The host cannot be reached or understood.
    Broken(ServeError),
}

/// The host cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The channel failed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// What came over it made no sense.
    #[error("the host sent nonsense: {0}")]
    Frame(#[from] FrameError),
    /// The host sent more than it may.
    #[error("the host broke flow control: {0}")]
    Window(#[from] WindowError),
    /// `poll` failed, which no argument of ours explains.
    #[error("poll: {0}")]
    Poll(Errno),
}

/// What the agent serves.
pub struct Server<'a> {
    port: Port,
    reaper: &'a Reaper,
    commands: BTreeMap<ExecId, Command>,
    /// Boot services by process id.
    services: BTreeMap<u32, String>,
}

/// What a polled file descriptor is.
#[derive(Clone, Copy)]
enum Source {
    Port,
    Children,
    Output(ExecId, Stream),
    Stdin(ExecId),
}

impl<'a> Server<'a> {
    /// A server without commands. `services` are the process ids and names of what boot started.
    pub fn new(port: Port, reaper: &'a Reaper, services: BTreeMap<u32, String>) -> Self {
        Server { port, reaper, commands: BTreeMap::new(), services }
    }

    /// Says Ready and serves until the host has had enough.
    pub fn run(&mut self) -> Outcome {
        self.port.send(&GuestMessage::Ready);
        let outcome = loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => break Outcome::PowerOff,
                Err(error) => break Outcome::Broken(error),
            }
        };
        if let Outcome::Broken(error) = &outcome {
            self.port.send(&GuestMessage::Fatal(error.to_string().into()));
        }
        // The host may be gone.
        let _ = self.port.flush_until(Instant::now() + LAST_WORDS);
        outcome
    }

    /// Waits for something to happen and handles it. False: the host wants the guest to go down.
    fn turn(&mut self) -> Result<bool, ServeError> {
        self.port.flush()?;
        for source in self.wait()? {
            match source {
                Source::Port => {
                    self.port.fill()?;
                    if !self.take_messages()? {
                        return Ok(false);
                    }
                }
                Source::Children => {
                    for ended in self.reaper.reap() {
                        self.bury(ended);
                    }
                }
                Source::Output(id, stream) => self.forward(id, stream),
                Source::Stdin(id) => self.feed(id),
            }
        }
        self.finish();
        Ok(true)
    }

    /// Polls everything that can go on; returns what is ready.
    fn wait(&self) -> Result<Vec<Source>, ServeError> {
        let mut sources = vec![Source::Port, Source::Children];
        let mut polled =
            vec![PollFd::new(&self.port, self.port.interest()), PollFd::new(self.reaper, PollFlags::IN)];
        for (&id, command) in &self.commands {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(output) = &command.outputs[stream as usize]
                    && output.window.room() > 0
                    && !self.port.is_full()
                {
                    sources.push(Source::Output(id, stream));
                    polled.push(PollFd::new(&output.fd, PollFlags::IN));
                }
            }
            if let Some(fd) = &command.stdin.fd
                && !command.stdin.waiting.is_empty()
            {
                sources.push(Source::Stdin(id));
                polled.push(PollFd::new(fd, PollFlags::OUT));
            }
        }
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(ServeError::Poll(error)),
        }
        let ready = sources.into_iter().zip(&polled).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn take_messages(&mut self) -> Result<bool, ServeError> {
        while let Some(message) = HostMessage::decode(self.port.decoder())? {
            match message {
                HostMessage::Exec { id, request } => self.exec(id, &request),
                HostMessage::Stdin { id, bytes } => {
                    // Commands that have ended are none of the host's fault: the messages crossed.
                    if let Some(command) = self.commands.get_mut(&id) {
                        command.write(bytes)?;
                    }
                    self.feed(id);
                }
                HostMessage::StdinClosed { id } => {
                    if let Some(command) = self.commands.get_mut(&id) {
                        command.end_stdin();
                    }
                    self.feed(id);
                }
                HostMessage::Signal { id, signo } => self.signal(id, signo),
                HostMessage::Resize { id, size } => self.resize(id, size),
                HostMessage::OutputCredit { id, stream, bytes } => {
                    let command = self.commands.get_mut(&id);
                    if let Some(output) =
                        command.and_then(|command| command.outputs[stream as usize].as_mut())
                    {
                        output.window.grant(bytes)?;
                    }
                }
                HostMessage::Sync { token } => self.port.send(&GuestMessage::Synced { token }),
                HostMessage::PowerOff => return Ok(false),
                HostMessage::Resume { seed, time } => {
                    if let Err(error) = crate::resume::resume(&seed, time) {
                        let text = format!("after the restore: {error}");
                        self.port.send(&GuestMessage::Log(text.into()));
                    }
                }
            }
        }
        Ok(true)
    }

    fn exec(&mut self, id: ExecId, request: &ExecRequest) {
        let spawned = if self.commands.len() >= MAX_COMMANDS {
            let text = format!("{MAX_COMMANDS} commands run already");
            Err(agent_protocol::ExecFailure { errno: libc::EAGAIN, text })
        } else {
            Command::spawn(request)
        };
        match spawned {
            Ok(command) => {
                self.port.send(&GuestMessage::Started { id, pid: command.pid });
                self.commands.insert(id, command);
            }
            Err(failure) => self.port.send(&GuestMessage::ExecFailed { id, failure }),
        }
    }

    fn signal(&mut self, id: ExecId, signo: u32) {
        let Some(command) = self.commands.get(&id) else { return };
        if let Err(error) = command.signal(signo) {
            let text = format!("signal {signo} to command {}: {error}", id.0);
            self.port.send(&GuestMessage::Log(text.into()));
        }
    }

    fn resize(&mut self, id: ExecId, size: WindowSize) {
        if let Some(command) = self.commands.get(&id) {
            command.resize(size);
        }
    }

    fn feed(&mut self, id: ExecId) {
        if let Some(bytes) = self.commands.get_mut(&id).and_then(Command::feed) {
            self.port.send(&GuestMessage::StdinCredit { id, bytes });
        }
    }

    /// Sends one piece of what a command wrote.
    fn forward(&mut self, id: ExecId, stream: Stream) {
        let mut buffer = [0; STREAM_CHUNK];
        let Some(command) = self.commands.get_mut(&id) else { return };
        if let Read::Bytes(length) = command.read(stream, &mut buffer) {
            self.port.send(&GuestMessage::Output { id, stream, bytes: &buffer[..length] });
        }
    }

    fn bury(&mut self, ended: Ended) {
        if let Some(name) = self.services.remove(&ended.pid) {
            let text = format!("service {name} ended: {:?}", ended.status);
            self.port.send(&GuestMessage::Fatal(text.into()));
        }
        let runs = |command: &&mut Command| command.pid == ended.pid && command.status.is_none();
        if let Some(command) = self.commands.values_mut().find(runs) {
            command.ended(ended.status);
        }
    }

    /// Sends the last output of commands that ended, and their status.
    fn finish(&mut self) {
        let ended: Vec<ExecId> =
            self.commands.iter().filter(|(_, command)| command.status.is_some()).map(|(&id, _)| id).collect();
        for id in ended {
            for stream in [Stream::Stdout, Stream::Stderr] {
                self.drain(id, stream);
            }
            if let Some(status) = self.commands.get(&id).and_then(Command::finished) {
                self.commands.remove(&id);
                self.port.send(&GuestMessage::Exited { id, status });
            }
        }
    }

    /// Sends what is left in the pipe of a command that ended, as far as windows allow.
    fn drain(&mut self, id: ExecId, stream: Stream) {
        let is_open = |server: &Server<'_>| {
            let output =
                server.commands.get(&id).and_then(|command| command.outputs[stream as usize].as_ref());
            output.is_some_and(|output| output.window.room() > 0)
        };
        while is_open(self) && !self.port.is_full() {
            self.forward(id, stream);
        }
    }
}
