//! A connection to a guest.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::{ExecFailure, ExecRequest};

use crate::PROTOCOL;
use crate::frame::{self, FrameError, MAX_DATA, Messages};
use crate::place::{self, PlaceError};
use crate::running::{Room, Running};
use crate::trace::Following;
use crate::wire::{ErrorCode, Greeting, Metrics, Reply, Request, Status, Stream, ToClient, ToServer};

/// How long a guest may take to say who it is. Its process may be busy; it is not asked to do much.
const GREETING: Duration = Duration::from_secs(10);
/// How often a socket that is not there yet is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Messages with no data that a server may send ahead; more is no server of ours.
const MAX_WAITING: usize = 1024;

/// A request to a guest failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no place for sockets.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Nobody listens.
    #[error("no guest runs at {}; `bindervm ps` lists those that run", .0.display())]
    NoGuest(PathBuf),
    /// The socket cannot be reached.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other end is something else, or of another version.
    #[error("the guest's process speaks version {0} of the control protocol, this one {PROTOCOL}")]
    Version(u32),
    /// What came made no sense.
    #[error("the connection to the guest's process broke: {0}")]
    Broken(String),
    /// The connection ended: the run is over.
    #[error("the guest has gone")]
    Gone,
    /// The guest did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The guest's process says no.
    #[error("{text}")]
    Refused {
        /// What kind of failure.
        code: ErrorCode,
        /// In words.
        text: String,
    },
    /// A command did not start.
    #[error("{}", .0.text)]
    NotStarted(ExecFailure),
    /// An answer that does not belong to the question.
    #[error("an unexpected answer: {0}")]
    Unexpected(String),
}

impl ClientError {
    /// Whether it means that the guest is not there, or no longer.
    pub fn is_gone(&self) -> bool {
        let lost = matches!(self, ClientError::Refused { code: ErrorCode::GuestLost, .. });
        lost || matches!(self, ClientError::Gone | ClientError::NoGuest(_))
    }
}

/// A connection to the process that runs a guest. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    greeting: Arc<Greeting>,
    _hangup: Arc<HangUp>,
}

pub(crate) struct Shared {
    /// Written to by whole messages.
    out: Mutex<UnixStream>,
    requests: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    next: u32,
    open: BTreeMap<u32, Line>,
    /// Nothing comes any more, and why if it is not just the end.
    ended: Option<Option<String>>,
}

/// Where the replies of a request go.
struct Line {
    replies: Sender<Incoming>,
    /// What was sent, and not yet taken by its reader.
    waiting: Arc<Waiting>,
    /// What the request's stdin takes.
    room: Arc<Room>,
}

/// A reply and its stream bytes.
pub(crate) struct Incoming {
    pub reply: Reply,
    pub data: Vec<u8>,
}

/// Bounds what a server that minds no window could make us hold.
#[derive(Default)]
struct Waiting {
    counts: Mutex<(usize, usize)>,
}

impl Waiting {
    /// False: more than the windows of a request allow.
    fn arrived(&self, bytes: usize) -> bool {
        let mut counts = lock(&self.counts);
        counts.0 += usize::from(bytes == 0);
        counts.1 += bytes;
        let windows = 2 * Stream::Stdout.window().max(Stream::Trace.window());
        counts.0 <= MAX_WAITING && counts.1 <= windows as usize
    }

    fn taken(&self, bytes: usize) {
        let mut counts = lock(&self.counts);
        counts.0 -= usize::from(bytes == 0);
        counts.1 -= bytes;
    }
}

/// One request under way.
pub(crate) struct Call {
    pub id: u32,
    pub shared: Arc<Shared>,
    pub room: Arc<Room>,
    replies: Receiver<Incoming>,
    waiting: Arc<Waiting>,
    _hangup: Arc<HangUp>,
}

/// Closes the connection when nobody uses it any more, which also ends its reader.
struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Client {
    /// Connects to the guest `name` of this user.
    pub fn connect(name: &str) -> Result<Client, ClientError> {
        Client::connect_path(&place::socket(name)?)
    }

    /// Connects to the socket at `path`.
    pub fn connect_path(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoGuest(path.to_owned())
            }
            _ => ClientError::Connect { path: path.to_owned(), source },
        })?;
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        stream.set_read_timeout(Some(GREETING)).map_err(failed)?;
        let mut messages = Messages::new(stream.try_clone().map_err(failed)?);
        let greeting = match messages.take::<ToClient>() {
            Ok(Some((ToClient { reply: Reply::Hello(greeting), .. }, _))) => greeting,
            Ok(Some((ToClient { reply: Reply::Error { code, text }, .. }, _))) => {
                return Err(ClientError::Refused { code, text });
            }
            Ok(Some((other, _))) => return Err(ClientError::Unexpected(format!("{:?}", other.reply))),
            Ok(None) => return Err(ClientError::Gone),
            Err(FrameError::Read(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ClientError::TimedOut(GREETING));
            }
            Err(error) => return Err(ClientError::Broken(error.to_string())),
        };
        if greeting.protocol != PROTOCOL {
            return Err(ClientError::Version(greeting.protocol));
        }
        stream.set_read_timeout(None).map_err(failed)?;

        let hangup = Arc::new(HangUp(stream.try_clone().map_err(failed)?));
        let shared = Arc::new(Shared { out: Mutex::new(stream), requests: Mutex::default() });
        let reader = shared.clone();
        thread::Builder::new()
            .name("control-client".into())
            .spawn(move || reader.read(messages))
            .map_err(failed)?;
        let client = Client { shared, greeting: Arc::new(greeting), _hangup: hangup };
        client.call(Request::Hello { protocol: PROTOCOL })?.one(GREETING)?;
        Ok(client)
    }

    /// Connects to the socket at `path`, and waits up to `limit` for it to come.
    pub fn connect_within(path: &Path, limit: Duration) -> Result<Client, ClientError> {
        let until = Instant::now() + limit;
        loop {
            match Client::connect_path(path) {
                Err(ClientError::NoGuest(_)) if Instant::now() < until => thread::sleep(LOOK),
                result => return result,
            }
        }
    }

    /// Who is there.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// What the guest is and does.
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.call(Request::Status)?.one(GREETING)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Counters of the run.
    pub fn metrics(&self) -> Result<Metrics, ClientError> {
        match self.call(Request::Metrics)?.one(GREETING)? {
            Reply::Metrics(metrics) => Ok(*metrics),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the guest takes commands.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), ClientError> {
        self.call(Request::Ready)?.done(limit)
    }

    /// Runs a command. It does not outlive the connection: it is hung up with it.
    pub fn exec(&self, request: ExecRequest) -> Result<Running, ClientError> {
        Ok(Running::new(self.call(Request::Exec(request))?))
    }

    /// Attaches to the serial console. Its bytes come as [`Stream::Console`].
    pub fn console(&self) -> Result<Running, ClientError> {
        Ok(Running::new(self.call(Request::Console)?))
    }

    /// Follows the recording of binder from now on.
    pub fn trace(&self) -> Result<Following, ClientError> {
        Ok(Following::new(Running::new(self.call(Request::Trace)?)))
    }

    /// The run's events so far as lines of JSON ([`crate::events`]); with `follow` until the run is over.
    pub fn events(&self, follow: bool) -> Result<Following, ClientError> {
        Ok(Following::new(Running::new(self.call(Request::Events { follow })?)))
    }

    /// Saves the guest to the file `path` of the host.
    pub fn snapshot(&self, path: &Path, limit: Duration) -> Result<(), ClientError> {
        let path = path.to_string_lossy().into_owned();
        self.call(Request::Snapshot { path })?.done(limit)
    }

    /// Asks the guest to switch itself off; after `grace` it is ended. [`wait`](Self::wait) tells when.
    pub fn stop(&self, grace: Duration) -> Result<(), ClientError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.call(Request::Stop { grace_ms })?.done(GREETING)
    }

    /// Ends the run at once.
    pub fn kill(&self) -> Result<(), ClientError> {
        self.call(Request::Kill)?.done(GREETING)
    }

    /// Waits for the end of the run. Gives what `--status` would write, and the exit status of the
    /// process that ran the guest. [`ClientError::Gone`] where that process died without a word.
    pub fn wait(&self, limit: Option<Duration>) -> Result<(serde_json::Value, u8), ClientError> {
        let mut call = self.call(Request::Wait)?;
        match call.next(limit)?.reply {
            Reply::Ended { status, exit_code } => Ok((status, exit_code)),
            other => Err(refused(other)),
        }
    }

    pub(crate) fn call(&self, request: Request) -> Result<Call, ClientError> {
        let (sender, replies) = channel();
        let waiting = Arc::new(Waiting::default());
        let room = Arc::new(Room::new());
        let id = {
            let mut requests = lock(&self.shared.requests);
            if let Some(why) = &requests.ended {
                return Err(gone(why));
            }
            // Ids come round after four thousand million requests; those that are open stay theirs.
            loop {
                requests.next = requests.next.wrapping_add(1).max(1);
                if !requests.open.contains_key(&requests.next) {
                    break;
                }
            }
            let id = requests.next;
            let line = Line { replies: sender, waiting: waiting.clone(), room: room.clone() };
            requests.open.insert(id, line);
            id
        };
        let (shared, _hangup) = (self.shared.clone(), self._hangup.clone());
        let call = Call { id, shared, room, replies, waiting, _hangup };
        call.shared.send(id, request, &[])?;
        Ok(call)
    }
}

impl Shared {
    /// Takes what comes, until nothing does.
    fn read(&self, mut messages: Messages<UnixStream>) {
        let mut last_words = None;
        let why = loop {
            match messages.take::<ToClient>() {
                // Of no request, but of the connection, which ends with it.
                Ok(Some((ToClient { id: 0, reply: Reply::Error { text, .. } }, _))) => {
                    last_words = Some(text)
                }
                Ok(Some((message, data))) => {
                    let requests = lock(&self.requests);
                    // Others have ended: nobody waits for what is said of them.
                    if let Some(line) = requests.open.get(&message.id) {
                        if let Reply::Credit { stream: Stream::Stdin, bytes } = message.reply {
                            line.room.grant(bytes);
                            continue;
                        }
                        if message.reply.is_last() {
                            line.room.close();
                        }
                        if !line.waiting.arrived(data.len()) {
                            break Some("it sends more than it may".to_owned());
                        }
                        let _ = line.replies.send(Incoming { reply: message.reply, data });
                    }
                }
                Ok(None) | Err(FrameError::Read(_)) => break last_words,
                Err(error) => break Some(error.to_string()),
            }
        };
        let mut requests = lock(&self.requests);
        requests.ended = Some(why);
        for line in std::mem::take(&mut requests.open).into_values() {
            line.room.close();
        }
    }

    /// Sends a message about the request `id`.
    pub fn send(&self, id: u32, request: Request, data: &[u8]) -> Result<(), ClientError> {
        debug_assert!(data.len() <= MAX_DATA);
        let bytes = frame::encode(&ToServer { id, request }, data);
        lock(&self.out).write_all(&bytes).map_err(|_| gone(&None))
    }
}

impl Call {
    /// The next reply, whatever it is.
    pub fn next(&mut self, limit: Option<Duration>) -> Result<Incoming, ClientError> {
        let incoming = match limit {
            Some(limit) => self.replies.recv_timeout(limit),
            None => self.replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match incoming {
            Ok(incoming) => {
                self.waiting.taken(incoming.data.len());
                Ok(incoming)
            }
            Err(RecvTimeoutError::Timeout) => Err(ClientError::TimedOut(limit.unwrap_or_default())),
            Err(RecvTimeoutError::Disconnected) => {
                Err(gone(lock(&self.shared.requests).ended.as_ref().unwrap_or(&None)))
            }
        }
    }

    /// The one reply, unless it is an error.
    fn one(mut self, limit: Duration) -> Result<Reply, ClientError> {
        match self.next(Some(limit))?.reply {
            error @ Reply::Error { .. } => Err(refused(error)),
            reply => Ok(reply),
        }
    }

    fn done(self, limit: Duration) -> Result<(), ClientError> {
        match self.one(limit)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.shared.requests).open.remove(&self.id);
    }
}

/// What a reply that should have been another means.
pub(crate) fn refused(reply: Reply) -> ClientError {
    match reply {
        Reply::Error { code, text } => ClientError::Refused { code, text },
        other => unexpected(&other),
    }
}

fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Unexpected(format!("{reply:?}"))
}

fn gone(why: &Option<String>) -> ClientError {
    match why {
        Some(why) => ClientError::Broken(why.clone()),
        None => ClientError::Gone,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind them is valid whatever panicked while it was held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
