//! Where debuggers come in.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

/// Most bytes of a debugger that wait for the guest's thread.
const WAITING: usize = 64 << 10;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of the loopback interface.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
}

/// Not an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a port nor a path.
    #[error("it is neither [HOST]:PORT nor a path with a '/'")]
    Form,
    /// Whoever connects owns the guest.
    #[error("a debugger may do anything to the guest, so only addresses of the loopback interface are taken")]
    NotLoopback,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| AddressError::Form)?;
        let ip = match host {
            "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.trim_matches(['[', ']']).parse().map_err(|_| AddressError::Form)?,
        };
        if !ip.is_loopback() {
            return Err(AddressError::NotLoopback);
        }
        Ok(Address::Tcp(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    fn hang_up(&self) {
        // It may have hung up itself.
        let _ = shutdown(self, Shutdown::Both);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A place to listen at, before and while a guest runs. Dropping it ends its thread.
pub struct Server {
    listener: Listener,
    wait: bool,
    running: Option<Running>,
}

struct Running {
    debuggers: Receiver<Connection>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens at an address. With `wait`, the guest is to execute nothing before the first debugger
    /// lets it.
    pub fn bind(address: &Address, wait: bool) -> io::Result<Server> {
        let listener = match address {
            Address::Tcp(address) => Listener::Tcp(TcpListener::bind(address)?),
            Address::Unix(path) => Listener::Unix(UnixListener::bind(path)?, path.clone()),
        };
        Ok(Server { listener, wait, running: None })
    }

    /// Where it listens; the port that was found for port 0.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Listener::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    /// Whether the guest is to wait for the first debugger.
    pub fn waits(&self) -> bool {
        self.wait
    }

    /// Begins to accept debuggers. `wake` is called on another thread whenever one came, said something
    /// or left.
    pub fn start(&mut self, wake: Box<dyn Fn() + Send>) -> io::Result<()> {
        let (new, debuggers) = mpsc::sync_channel(1);
        let builder = thread::Builder::new().name("gdb".into());
        let thread = match &self.listener {
            Listener::Tcp(listener) => {
                let listener = listener.try_clone()?;
                let accept = move || {
                    let (stream, _) = listener.accept()?;
                    // Packets are small, and each waits for its answer.
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                };
                builder.spawn(move || serve(accept, &new, &*wake))?
            }
            Listener::Unix(listener, _) => {
                let listener = listener.try_clone()?;
                let accept = move || listener.accept().map(|(stream, _)| Stream::Unix(stream));
                builder.spawn(move || serve(accept, &new, &*wake))?
            }
        };
        self.running = Some(Running { debuggers, thread });
        Ok(())
    }

    /// The debugger that came, waiting for one at most for `limit`.
    pub fn debugger(&self, limit: Duration) -> Option<Connection> {
        self.running.as_ref()?.debuggers.recv_timeout(limit).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `accept` and `read` return then, and the thread with them.
        match &self.listener {
            Listener::Tcp(listener) => {
                let _ = shutdown(listener, Shutdown::Both);
            }
            Listener::Unix(listener, path) => {
                let _ = shutdown(listener, Shutdown::Both);
                let _ = std::fs::remove_file(path);
            }
        }
        if let Some(Running { debuggers, thread }) = self.running.take() {
            drop(debuggers);
            let _ = thread.join();
        }
    }
}

/// Serves one debugger after the other until the listener is shut down.
fn serve(
    mut accept: impl FnMut() -> io::Result<Stream>,
    debuggers: &SyncSender<Connection>,
    wake: &(dyn Fn() + Send),
) {
    while let Ok(mut stream) = accept() {
        let (send, bytes) = mpsc::sync_channel(WAITING);
        let Ok(writer) = stream.try_clone() else { continue };
        if debuggers.send(Connection { bytes, writer }).is_err() {
            return;
        }
        wake();
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut chunk) {
            if chunk[..len].iter().any(|byte| send.send(*byte).is_err()) {
                break;
            }
            wake();
        }
        drop(send);
        wake();
    }
}

/// A debugger. Dropping it hangs up.
pub struct Connection {
    bytes: Receiver<u8>,
    writer: Stream,
}

/// Why there is no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// There may be one later.
    Yet,
    /// The debugger is gone.
    More,
}

impl Connection {
    /// What the debugger said, if it said something.
    pub(crate) fn look(&self) -> Result<u8, Nothing> {
        self.bytes.try_recv().map_err(|error| match error {
            TryRecvError::Empty => Nothing::Yet,
            TryRecvError::Disconnected => Nothing::More,
        })
    }

    /// Waits for the debugger to say something, at most for `limit`.
    pub(crate) fn listen(&self, limit: Duration) -> Result<u8, Nothing> {
        self.bytes.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => Nothing::Yet,
            RecvTimeoutError::Disconnected => Nothing::More,
        })
    }
}

impl gdbstub::conn::Connection for Connection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.writer.write_all(&[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.hang_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_paths_are_told_apart() {
        let tcp = |port| Ok(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
        assert_eq!("1234".parse::<Address>(), tcp(1234));
        assert_eq!(":1234".parse::<Address>(), tcp(1234));
        assert_eq!("localhost:1".parse::<Address>(), tcp(1));
        assert_eq!("[::1]:7".parse::<Address>().unwrap().to_string(), "[::1]:7");
        assert_eq!("./gdb.sock".parse::<Address>(), Ok(Address::Unix("./gdb.sock".into())));
        assert_eq!("gdb".parse::<Address>(), Err(AddressError::Form));
        assert_eq!("0.0.0.0:1234".parse::<Address>(), Err(AddressError::NotLoopback));
    }

    #[test]
    fn a_server_ends_while_a_debugger_is_connected_and_while_none_is() {
        let folder = std::env::temp_dir().join(format!("bindervm-gdb-{}", std::process::id()));
        for connect in [false, true] {
            let mut server = Server::bind(&Address::Unix(folder.clone()), false).unwrap();
            server.start(Box::new(|| ())).unwrap();
            let client = connect.then(|| UnixStream::connect(&folder).unwrap());
            let connection = connect.then(|| server.debugger(Duration::from_secs(60)).unwrap());
            drop(connection);
            drop(server);
            drop(client);
            assert!(!folder.exists());
        }
    }
}
