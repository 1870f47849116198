//! The host's end: the UNIX sockets, and the thread that waits for them.
//!
//! The thread reads and writes nothing. It notes which sockets something happened to, and has the device
//! serviced; all bytes move on the CPU's thread, at moments that guest time defines.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// A socket that is waited for, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The listener's.
pub const LISTENER: Token = Token(0);
/// What ends the thread.
const QUIT: u64 = u64::MAX;
/// Events taken from the kernel at a time.
const EVENTS: usize = 64;
/// `CONNECT 4294967295` and a newline, and some.
const MAX_GREETING: usize = 32;

/// What the device needs of the machine around it.
pub trait VsockHost: Send + Sync {
    /// Something happened to a socket: the device is to be serviced. Called on any thread.
    fn wake(&self);

    /// So many streams are open now. Called on the CPU's thread.
    fn streams(&self, open: usize);
}

/// The sockets of one device: the listener at a path, and whatever is [watched](Self::watch).
pub struct Sockets {
    path: PathBuf,
    listener: UnixListener,
    poll: Arc<Poll>,
    quit: OwnedFd,
    thread: Option<JoinHandle<()>>,
    next_token: u64,
}

struct Poll {
    epoll: OwnedFd,
    happened: Mutex<BTreeMap<Token, EventFlags>>,
}

impl Sockets {
    /// Listens at `path`. A socket there that nobody listens at is replaced.
    pub fn bind(path: &Path, host: Arc<dyn VsockHost>) -> io::Result<Sockets> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        listener.set_nonblocking(true)?;
        let poll = Arc::new(Poll { epoll: epoll::create(CreateFlags::CLOEXEC)?, happened: Mutex::default() });
        let quit = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&poll.epoll, &listener, EventData::new_u64(LISTENER.0), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&poll.epoll, &quit, EventData::new_u64(QUIT), EventFlags::IN)?;
        let waiting = poll.clone();
        let thread = thread::Builder::new().name("vsock".into()).spawn(move || waiting.run(&*host))?;
        let path = path.to_owned();
        Ok(Sockets { path, listener, poll, quit, thread: Some(thread), next_token: LISTENER.0 + 1 })
    }

    /// Says from now on when something happens to `socket`. To drop it ends that.
    pub fn watch(&mut self, socket: &UnixStream) -> io::Result<Token> {
        let token = Token(self.next_token);
        self.next_token += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.poll.epoll, socket, EventData::new_u64(token.0), flags)?;
        Ok(token)
    }

    /// What happened since the last call.
    pub fn happened(&self) -> BTreeMap<Token, EventFlags> {
        std::mem::take(&mut *self.poll.happened.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next client of the listener, if there is one.
    pub fn accept(&self) -> Option<UnixStream> {
        let (socket, _) = self.listener.accept().ok()?;
        socket.set_nonblocking(true).ok().map(|()| socket)
    }

    /// Connects to the socket of the host for `port`: the listener's path, `_`, and the port.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        // Without waiting: where the listener's queue is full, the guest is refused.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(PathBuf::from(path))?)?;
        Ok(UnixStream::from(socket))
    }
}

/// Whether `path` is a socket that nobody listens at.
fn is_dead(path: &Path) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.quit, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

impl Poll {
    fn run(&self, host: &dyn VsockHost) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let mut happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                if event.data.u64() == QUIT {
                    return;
                }
                *happened.entry(Token(event.data.u64())).or_insert(EventFlags::empty()) |= event.flags;
            }
            drop(happened);
            if !events.is_empty() {
                host.wake();
            }
        }
    }
}

/// A client that has not said which port it wants.
pub struct Caller {
    socket: UnixStream,
    line: Vec<u8>,
}

/// What a caller has said so far.
pub enum Said {
    /// Not all.
    More(Caller),
    /// `CONNECT port`.
    Port(UnixStream, u32),
    /// Something else, or nothing more: it is hung up on.
    Nonsense,
}

impl Caller {
    /// Somebody who just called.
    pub fn new(socket: UnixStream) -> Caller {
        Caller { socket, line: Vec::new() }
    }

    /// Reads up to the end of the line, and nothing of what follows it.
    pub fn listen(mut self) -> Said {
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) if self.line.len() < MAX_GREETING => self.line.push(byte[0]),
                Ok(_) => return Said::Nonsense,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Said::More(self),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Said::Nonsense,
            }
        }
        let port = std::str::from_utf8(&self.line).ok().and_then(|line| line.strip_prefix("CONNECT "));
        match port.and_then(|port| port.trim_end().parse().ok()) {
            Some(port) => Said::Port(self.socket, port),
            None => Said::Nonsense,
        }
    }
}
