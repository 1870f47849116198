//! A binder device opened and mapped by this process itself, for the workloads that run at full speed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::uapi::{flat, ioctl};

/// An open and mapped device; shared by the threads of a process.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    start: usize,
    size: usize,
}

/// The argument of BINDER_WRITE_READ (B041).
#[repr(C)]
struct WriteRead {
    write_size: u64,
    write_consumed: u64,
    write_buffer: u64,
    read_size: u64,
    read_consumed: u64,
    read_buffer: u64,
}

impl Device {
    /// Opens `/dev/<name>` and maps `size` bytes of it.
    pub fn open(name: &str, size: usize) -> io::Result<Self> {
        let path = CString::new(format!("/dev/{name}"))?;
        // SAFETY: a NUL-terminated path; the descriptor is owned from here on; the mapping is a new one.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = OwnedFd::from_raw_fd(fd);
            let start =
                libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_PRIVATE, fd.as_raw_fd(), 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd, start: start as usize, size })
        }
    }

    /// Becomes the context manager of a node that takes file descriptors.
    pub fn become_manager_with_fds(&self) -> io::Result<()> {
        self.become_manager_with(flat::ACCEPTS_FDS)
    }

    /// Becomes the context manager of a node with these flags.
    pub fn become_manager_with(&self, flags: u32) -> io::Result<()> {
        let mut object = [0u64; 3];
        object[0] = u64::from(flags) << 32;
        // SAFETY: the argument is a flat_binder_object, which lives through the call.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), ioctl::SET_CONTEXT_MGR_EXT as _, object.as_ptr()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Freezes or thaws a process; false where it was busy for longer than the timeout.
    pub fn freeze(&self, pid: i32, freeze: bool, timeout_ms: u32) -> io::Result<bool> {
        let words = [pid as u32, u32::from(freeze), timeout_ms];
        // SAFETY: the argument is a binder_freeze_info, which lives through the call.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), ioctl::FREEZE as _, words.as_ptr()) };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(true),
            busy if busy.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
            error => Err(error),
        }
    }

    /// Becomes the context manager; retries for a while if another is still going away.
    pub fn become_manager(&self) -> io::Result<()> {
        for _ in 0..200 {
            // SAFETY: this ioctl ignores its argument.
            let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), ioctl::SET_CONTEXT_MGR as _, 0) };
            match io::Error::last_os_error() {
                _ if result == 0 => return Ok(()),
                busy if busy.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                error => return Err(error),
            }
        }
        Err(io::Error::other("there is a context manager already"))
    }

    /// Writes commands and reads into `read`, unless that is empty: (bytes of commands done, bytes read).
    /// A signal ends the wait with nothing read.
    pub fn write_read(&self, write: &[u8], read: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut argument = WriteRead {
            write_size: write.len() as u64,
            write_consumed: 0,
            write_buffer: write.as_ptr() as u64,
            read_size: read.len() as u64,
            read_consumed: 0,
            read_buffer: read.as_mut_ptr() as u64,
        };
        // SAFETY: both buffers live through the call, and the commands' own pointers are the caller's live arenas.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), ioctl::WRITE_READ as _, &raw mut argument) };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok((argument.write_consumed as usize, argument.read_consumed as usize)),
            // What was written is done, and told (B077).
            signal if signal.kind() == io::ErrorKind::Interrupted => {
                Ok((argument.write_consumed as usize, 0))
            }
            error => Err(error),
        }
    }

    /// BINDER_VERSION: a message that changes nothing.
    pub fn version(&self) -> io::Result<i32> {
        let mut version = 0;
        // SAFETY: the argument is a local of the size that the ioctl writes.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), ioctl::VERSION as _, &raw mut version) } {
            0 => Ok(version),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Closes a duplicate of the descriptor, at which every waiting thread returns (B028).
    pub fn flush(&self) -> io::Result<()> {
        self.fd.try_clone().map(drop)
    }

    /// The descriptor's number.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Where the mapping is, and its size.
    pub fn area(&self) -> (usize, usize) {
        (self.start, self.size)
    }

    /// A delivered buffer, copied out of the mapping; `None` if it is not inside it.
    pub fn copy(&self, address: u64, size: u64) -> Option<Vec<u8>> {
        self.bytes(address, size).map(<[u8]>::to_vec)
    }

    /// A delivered buffer where it lies, which is not to be freed meanwhile; `None` if it is not inside the mapping.
    pub fn bytes(&self, address: u64, size: u64) -> Option<&[u8]> {
        let offset = usize::try_from(address).ok()?.checked_sub(self.start)?;
        let size = usize::try_from(size).ok()?;
        if offset.checked_add(size)? > self.size {
            return None;
        }
        // SAFETY: inside our own mapping, which lives as long as `self`; the driver has put the pages there.
        Some(unsafe { std::slice::from_raw_parts(address as *const u8, size) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nothing borrows from it.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.size) };
    }
}
