//! Linux error numbers as the protocol carries them: 0 or negative.

use serde::{Deserialize, Serialize};

/// Result of an ioctl or of one need: 0, or a negated errno.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl Errno {
    /// No error.
    pub const OK: Errno = Errno(0);
    /// Operation not permitted.
    pub const EPERM: Errno = Errno(-1);
    /// No such process.
    pub const ESRCH: Errno = Errno(-3);
    /// Interrupted by a signal.
    pub const EINTR: Errno = Errno(-4);
    /// The device is gone or out of order.
    pub const EIO: Errno = Errno(-5);
    /// Bad file descriptor; from the device: a stale or unknown id.
    pub const EBADF: Errno = Errno(-9);
    /// Nothing to read without waiting.
    pub const EAGAIN: Errno = Errno(-11);
    /// Out of memory, or over a limit.
    pub const ENOMEM: Errno = Errno(-12);
    /// Bad address.
    pub const EFAULT: Errno = Errno(-14);
    /// Busy.
    pub const EBUSY: Errno = Errno(-16);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(-22);
    /// No space.
    pub const ENOSPC: Errno = Errno(-28);
    /// A message that does not follow the protocol.
    pub const EPROTO: Errno = Errno(-71);
    /// Operation not supported.
    pub const EOPNOTSUPP: Errno = Errno(-95);
    /// The kernel's own "restart the system call" (not visible to programs).
    pub const ERESTARTSYS: Errno = Errno(-512);

    /// True for 0.
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
