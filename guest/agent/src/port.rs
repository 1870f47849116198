//! The channel to the host: the virtio-console port with the agent's name.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_protocol::{Decoder, GuestMessage, PORT_NAME};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const PORTS: &str = "/sys/class/virtio-ports";

/// How long the driver may take to make the port. Its handshake runs in a kernel worker.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(1);

/// Above this, no more output of commands is read and no more requests are taken.
const FULL: usize = 64 << 10;

/// The open channel.
pub struct Port {
    fd: OwnedFd,
    decoder: Decoder,
    outbox: Vec<u8>,
}

/// The host is gone.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Reading or writing failed.
    #[error("the agent port failed: {0}")]
    Io(#[from] Errno),
    /// The host closed its end.
    #[error("the host closed the agent port")]
    Closed,
}

impl Port {
    /// A channel over a file descriptor that does not block.
    pub fn new(fd: OwnedFd) -> Self {
        Port { fd, decoder: Decoder::new(), outbox: Vec::new() }
    }

    /// Waits for the port to appear and opens it.
    pub fn open() -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let path = wait_for(deadline, find)?;
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let fd = OwnedFd::from(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?);
        // The name comes one message before the news that the host's end is open.
        wait_for(deadline, || is_connected(&fd).then_some(()))?;
        Ok(Port::new(fd))
    }

    /// Queues a message; [`Port::flush`] sends it.
    pub fn send(&mut self, message: &GuestMessage<'_>) {
        message.encode(&mut self.outbox);
    }

    /// Whether so much is queued that nothing should be added.
    pub fn is_full(&self) -> bool {
        self.outbox.len() >= FULL
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        let write = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let read = if self.is_full() { PollFlags::empty() } else { PollFlags::IN };
        write | read
    }

    /// Sends as much as the host takes now.
    pub fn flush(&mut self) -> Result<(), PortError> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.outbox.len() {
                break Ok(());
            }
            match rustix::io::write(&self.fd, &self.outbox[sent..]) {
                Ok(length) => sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.outbox.drain(..sent);
        outcome
    }

    /// Sends everything, waiting for the host at most until `deadline`.
    pub fn flush_until(&mut self, deadline: Instant) -> Result<(), PortError> {
        loop {
            self.flush()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.outbox.is_empty() || left.is_zero() {
                return Ok(());
            }
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&crate::reaper::timespec(left)));
        }
    }

    /// Reads what has arrived into the decoder.
    pub fn fill(&mut self) -> Result<(), PortError> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => Err(PortError::Closed),
            Ok(length) => {
                self.decoder.push(&buffer[..length]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The messages that have arrived whole.
    pub fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn wait_for<T>(deadline: Instant, mut look: impl FnMut() -> Option<T>) -> io::Result<T> {
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(RETRY);
    }
}

fn is_connected(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    let now = crate::reaper::timespec(Duration::ZERO);
    poll(&mut polled, Some(&now)).is_ok() && !polled[0].revents().contains(PollFlags::HUP)
}

/// The device node of the port, once the driver knows its name.
fn find() -> Option<PathBuf> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
