//! One client: its requests, from the first to the hang-up.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_protocol::window::WindowError;
use agent_protocol::{ExecRequest, LinkError, WindowSize};
use control::PROTOCOL;
use control::frame::{FrameError, Messages};
use control::wire::{ErrorCode, Greeting, Reply, Request, Stream, ToServer};

use super::Guest;
use super::exec::RemoteExec;
use super::peer::{Active, Peer};

/// Serves one client until it goes.
pub struct Connection {
    guest: Arc<Guest>,
    peer: Arc<Peer>,
    /// The client said who it is.
    greeted: bool,
}

/// The client cannot be served any more.
struct HangUp(Option<(ErrorCode, String)>);

impl Connection {
    /// Greets the client at the other end of `socket` and serves it.
    pub fn serve(guest: Arc<Guest>, peer: Arc<Peer>, socket: UnixStream) -> io::Result<()> {
        let writer = peer.clone();
        let writer = thread::Builder::new().name("control-out".into()).spawn(move || writer.write())?;
        let mut connection = Connection { guest, peer, greeted: false };
        connection.peer.reply(0, Reply::Hello(connection.guest.greeting()));
        connection.run(Messages::new(socket));
        // It cannot panic.
        let _ = writer.join();
        Ok(())
    }

    fn run(&mut self, mut messages: Messages<UnixStream>) {
        let why = loop {
            if !self.peer.wait_for_room() {
                break None;
            }
            match messages.take::<ToServer>() {
                Ok(Some((message, data))) => {
                    if let Err(HangUp(why)) = self.take(message, &data) {
                        break why;
                    }
                }
                Ok(None) | Err(FrameError::Read(_)) => break None,
                Err(error) => break Some((ErrorCode::Malformed, error.to_string())),
            }
        };
        if let Some((code, text)) = why {
            self.peer.fail(0, code, text);
        }
        for active in self.peer.close().into_values() {
            match active {
                Active::Exec(exec) => exec.hang_up(),
                Active::Console | Active::Trace | Active::Events | Active::Snapshot | Active::Waiting => {}
            }
        }
        self.guest.console.detach(&self.peer, None);
        self.guest.binder.recording.followers().detach(&self.peer, None);
        self.guest.events.followers().detach(&self.peer, None);
        self.guest.watchers.forget(&self.peer, None);
    }

    fn take(&mut self, message: ToServer, data: &[u8]) -> Result<(), HangUp> {
        let ToServer { id, request } = message;
        match request {
            Request::Hello { protocol } if protocol == PROTOCOL => {
                self.greeted = true;
                self.peer.reply(id, Reply::Hello(self.guest.greeting()));
            }
            Request::Hello { protocol } => {
                let text =
                    format!("protocol version {protocol} is not known here; this is version {PROTOCOL}");
                return Err(HangUp(Some((ErrorCode::Version, text))));
            }
            _ if !self.greeted => {
                let text = "say hello first".to_owned();
                return Err(HangUp(Some((ErrorCode::Version, text))));
            }
            Request::Status => self.peer.reply(id, Reply::Status(self.guest.status())),
            Request::Metrics => self.peer.reply(id, Reply::Metrics(Box::new(self.guest.metrics()))),
            Request::Ready => self.begin(id, Active::Waiting, |c| c.guest.watchers.wait_ready(&c.peer, id)),
            Request::Wait => self.begin(id, Active::Waiting, |c| c.guest.watchers.wait_end(&c.peer, id)),
            Request::Exec(request) => self.exec(id, request),
            Request::Console => {
                self.begin(id, Active::Console, |c| c.guest.console.attach(c.peer.clone(), id))
            }
            Request::Trace => self.trace(id),
            Request::Events { follow } => self.begin(id, Active::Events, |connection| {
                connection.guest.events.follow(connection.peer.clone(), id, follow);
            }),
            Request::Snapshot { path } => self.snapshot(id, &path),
            Request::Stop { grace_ms } => {
                self.guest.stop(Duration::from_millis(grace_ms));
                self.peer.reply(id, Reply::Done);
            }
            Request::Kill => {
                self.guest.kill();
                self.peer.reply(id, Reply::Done);
            }
            Request::Data { .. }
            | Request::Credit { .. }
            | Request::Close
            | Request::Signal { .. }
            | Request::Resize { .. }
            | Request::Cancel => {
                // Where there is none, it has just ended, and the client does not know yet.
                if let Some(active) = self.peer.active(id) {
                    self.about(id, active, request, data)?;
                }
            }
        }
        Ok(())
    }

    /// A message about a request that is under way.
    fn about(&mut self, id: u32, active: Active, request: Request, data: &[u8]) -> Result<(), HangUp> {
        let overrun = |error: WindowError| HangUp(Some((ErrorCode::BadRequest, error.to_string())));
        match (active, request) {
            (Active::Exec(exec), request) => match request {
                Request::Data { stream: Stream::Stdin, .. } => exec.data(data).map_err(overrun)?,
                Request::Credit { stream: Stream::Stdout, bytes } => {
                    exec.credit(agent_protocol::Stream::Stdout, bytes).map_err(overrun)?;
                }
                Request::Credit { stream: Stream::Stderr, bytes } => {
                    exec.credit(agent_protocol::Stream::Stderr, bytes).map_err(overrun)?;
                }
                Request::Close => exec.close_stdin(),
                Request::Signal { signo } => exec.signal(signo),
                Request::Resize { rows, cols } => exec.resize(WindowSize { rows, cols }),
                Request::Cancel => exec.hang_up(),
                _ => return Err(no_such_stream()),
            },
            (Active::Console, Request::Data { stream: Stream::Stdin, bytes }) => {
                self.guest.console.typed(data);
                // Taken or lost: either way the client may go on.
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.peer.reply(id, Reply::Credit { stream: Stream::Stdin, bytes });
            }
            (Active::Console, Request::Credit { stream: Stream::Console, bytes }) => {
                self.guest.console.credit(&self.peer, id, bytes).map_err(overrun)?;
            }
            (Active::Console, Request::Cancel) => {
                self.guest.console.detach(&self.peer, Some(id));
                self.peer.reply(id, Reply::Done);
            }
            (Active::Waiting, Request::Cancel) => {
                self.guest.watchers.forget(&self.peer, Some(id));
                // Unless it was told just now.
                if self.peer.active(id).is_some() {
                    self.peer.reply(id, Reply::Done);
                }
            }
            (Active::Trace, Request::Credit { stream: Stream::Trace, bytes }) => {
                let followers = self.guest.binder.recording.followers();
                followers.credit(&self.peer, id, bytes).map_err(overrun)?;
            }
            (Active::Trace, Request::Cancel) => {
                self.guest.binder.recording.followers().detach(&self.peer, Some(id));
                self.peer.reply(id, Reply::Done);
            }
            (Active::Events, Request::Credit { stream: Stream::Events, bytes }) => {
                self.guest.events.followers().credit(&self.peer, id, bytes).map_err(overrun)?;
            }
            (Active::Events, Request::Cancel) => {
                self.guest.events.followers().detach(&self.peer, Some(id));
                self.peer.reply(id, Reply::Done);
            }
            // Its end is told when it comes.
            (Active::Snapshot, Request::Cancel) => {}
            (_, _) => {
                return Err(no_such_stream());
            }
        }
        Ok(())
    }

    /// Takes note of a request that goes on, and starts it.
    fn begin(&self, id: u32, active: Active, start: impl FnOnce(&Self)) {
        match self.peer.begin(id, active) {
            Ok(()) => start(self),
            Err((code, text)) => self.peer.fail(0, code, text),
        }
    }

    fn exec(&self, id: u32, request: ExecRequest) {
        let guest = &self.guest;
        let Some(link) = &guest.link else {
            let text = "this guest has no agent of ours: nothing in it runs commands";
            return self.peer.fail(id, ErrorCode::Unsupported, text);
        };
        let has_stdin = request.stdin || request.tty.is_some();
        let exec = Arc::new(RemoteExec::new(id, self.peer.clone(), guest.handle.clone(), has_stdin));
        self.begin(id, Active::Exec(exec.clone()), |connection| {
            match guest.commands.ask(link, request, &exec) {
                Ok(()) => guest.handle.begin_work(),
                Err(error) => {
                    let code = match error {
                        LinkError::Lost => ErrorCode::GuestLost,
                        LinkError::Busy => ErrorCode::Busy,
                        LinkError::BadCommand | LinkError::TooLong | LinkError::NotRunning => {
                            ErrorCode::BadRequest
                        }
                    };
                    connection.peer.fail(id, code, error.to_string());
                }
            }
        });
    }

    fn trace(&self, id: u32) {
        if self.guest.binder.objects().is_none() {
            let text = "the guest's own kernel has the binder driver: there is nothing to record here";
            return self.peer.fail(id, ErrorCode::Unsupported, text);
        }
        self.begin(id, Active::Trace, |connection| {
            connection.guest.binder.follow(&connection.peer, id);
        });
    }

    fn snapshot(&self, id: u32, path: &str) {
        if !Path::new(path).is_absolute() {
            return self.peer.fail(id, ErrorCode::BadRequest, "the path must be absolute");
        }
        self.begin(id, Active::Snapshot, |connection| {
            connection.guest.saver.save(PathBuf::from(path), connection.peer.clone(), id);
        });
    }
}

fn no_such_stream() -> HangUp {
    HangUp(Some((ErrorCode::BadRequest, "the request has no such stream".to_owned())))
}

impl Guest {
    fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL,
            bindervm: env!("CARGO_PKG_VERSION").to_owned(),
            guest: self.name.clone(),
            pid: std::process::id(),
        }
    }
}
