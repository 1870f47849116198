//! A folder of the host in the guest: the 9P transport device (Linux `net/9p/trans_virtio.c`,
//! virtio device id 9) before an in-process 9P2000.L server.
//!
//! The server is the `p9` crate, written for crosvm, where it runs in a process that has the folder
//! as its root. Here it shares a process with everything else, so a [`guard`] stands before it that
//! judges each request on the host's copy of its bytes: names are names and not paths, an open
//! never waits, a folder that is shared for reading stays as it is, and the number of open files is
//! bounded. A link on the host is read by the guest and never followed by the server.

use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use p9::Server;

use super::ring::{ChainReader, ChainWriter, Ring};
use super::{ActivateError, ActiveQueues, DeviceError, NotSaved, SavedDevice, VirtioDevice};
use guard::{Guard, Verdict};

mod guard;
#[cfg(test)]
mod tests;

/// The 9P transport's device id.
pub const DEVICE_ID: u32 = 9;

/// Feature: the configuration holds the mount tag.
pub const F_MOUNT_TAG: u64 = 1 << 0;

/// Longest mount tag.
pub const MAX_TAG: usize = 64;

const QUEUE_SIZES: &[u16] = &[128];

/// Longest request: the server takes 64 KiB of payload and a header. Linux asks for the message
/// size first (Tversion), and then keeps to the server's.
const MAX_REQUEST: usize = (64 << 10) + 64;

/// What a guest may do with a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look at it.
    ReadOnly,
    /// Change it, as the user who runs the host process.
    ReadWrite,
}

/// The 9P device.
pub struct Share {
    root: PathBuf,
    tag: String,
    access: Access,
    session: Option<Session>,
    ring: Option<Ring>,
}

/// What a driver's requests build up; a reset forgets it, and closes all files.
struct Session {
    server: Server,
    guard: Guard,
}

impl Session {
    fn new(root: &Path, access: Access) -> io::Result<Session> {
        let server = Server::new(root, Default::default(), Default::default())?;
        Ok(Session { server, guard: Guard::new(access) })
    }
}

impl Share {
    /// A device that shows the folder `root` under the mount tag `tag`. Fails where `root` is no
    /// folder, or the tag is empty or longer than [`MAX_TAG`].
    pub fn new(root: &Path, tag: &str, access: Access) -> io::Result<Share> {
        if !root.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mount tag has 1 to 64 bytes"));
        }
        let root = root.canonicalize()?;
        Ok(Share { root, tag: tag.to_owned(), access, session: None, ring: None })
    }
}

impl VirtioDevice for Share {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// Length of the tag (16 bits), then the tag.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let length = (self.tag.len() as u16).to_le_bytes();
        let config = length.iter().chain(self.tag.as_bytes()).copied().chain(std::iter::repeat(0));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX).min(MAX_TAG + 2);
        for (byte, value) in data.iter_mut().zip(config.skip(skipped)) {
            *byte = value;
        }
    }

    fn activate(&mut self, mut guest: ActiveQueues) -> Result<(), ActivateError> {
        let session = Session::new(&self.root, self.access);
        let failed = |e| ActivateError::Host(format!("cannot share {}: {e}", self.root.display()));
        self.session = Some(session.map_err(failed)?);
        self.ring = Some(guest.take_ring(0)?);
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        let (Some(ring), Some(session)) = (&mut self.ring, &mut self.session) else { return Ok(()) };
        ring.answer(|request, answer| session.serve(request, answer))
    }

    fn reset(&mut self) {
        self.ring = None;
        self.session = None;
    }

    /// The files that it has open are the host's.
    fn save(&self) -> Result<SavedDevice, NotSaved> {
        Err(NotSaved("a guest with a folder of the host cannot be saved".to_owned()))
    }
}

impl Session {
    /// Serves one chain. What is no request that could be answered stops the device.
    fn serve(&mut self, mut chain: ChainReader<'_>, mut room: ChainWriter<'_>) -> Result<u32, DeviceError> {
        let broken = |problem| DeviceError::Driver { queue: 0, problem };
        let length = chain.available_bytes();
        if length > MAX_REQUEST {
            return Err(broken("a request longer than was agreed on"));
        }
        let mut request = vec![0; length];
        chain.read_exact(&mut request).map_err(|_| broken("a request outside of RAM"))?;
        let mut answer = Vec::new();
        match self.guard.judge(&mut request) {
            Verdict::Malformed => return Err(broken("a request that is no 9P message")),
            Verdict::Refuse(refusal) => answer.extend(refusal),
            Verdict::Serve => {
                let served = self.server.handle_message(&mut Cursor::new(&request), &mut answer);
                served.map_err(|_| broken("a request that cannot be answered"))?;
                self.guard.note(&request, &answer);
            }
        }
        // An answer that the driver left too little room for is cut, which the driver reports.
        let length = answer.len().min(room.available_bytes());
        room.write_all(&answer[..length]).map_err(|_| broken("an answer outside of RAM"))?;
        Ok(length as u32)
    }
}
