//! A forked process that runs one function, for the workloads that are not played step by step.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A child process; killed and waited for when dropped.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    /// The wait status, once it has been collected.
    status: Option<libc::c_int>,
}

impl Child {
    /// Forks and runs `body` in the child, whose exit status it returns. The caller must have no other threads.
    pub fn fork(body: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        // SAFETY: the caller is single-threaded, so the child may use everything it inherits; it never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: plain calls; the second ends the process without its parent's exit handlers.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    let status = match body() {
                        Ok(()) => 0,
                        Err(error) => {
                            eprintln!("conformance: child: {error}");
                            1
                        }
                    };
                    libc::_exit(status)
                }
            }
            pid => Ok(Self { pid, status: None }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Sends a signal.
    pub fn signal(&self, number: libc::c_int) {
        if self.status.is_none() {
            // SAFETY: our child, not yet waited for.
            unsafe { libc::kill(self.pid, number) };
        }
    }

    /// True once the child has ended, without waiting.
    pub fn ended(&mut self) -> bool {
        self.collect(libc::WNOHANG);
        self.status.is_some()
    }

    /// Waits for the end; true if it exited with status 0.
    pub fn wait(&mut self) -> bool {
        self.collect(0);
        self.status.is_some_and(|status| libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
    }

    fn collect(&mut self, flags: libc::c_int) {
        let mut status = 0;
        // SAFETY: our child, whose end is collected once.
        if self.status.is_none() && unsafe { libc::waitpid(self.pid, &mut status, flags) } == self.pid {
            self.status = Some(status);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        self.wait();
    }
}

/// Runs `body` on several threads; the first failure is told.
pub fn threads(count: usize, body: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    std::thread::scope(|scope| {
        let body = &body;
        let handles: Vec<_> = (0..count).map(|index| scope.spawn(move || body(index))).collect();
        handles
            .into_iter()
            .try_for_each(|handle| handle.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))))
    })
}

/// A value in memory that children forked later share.
///
/// # Safety
///
/// A `T` of zeroes must be valid, and one that several processes use at once.
pub unsafe fn shared<T: Sync>() -> io::Result<&'static T> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh zeroed mapping, never unmapped, large enough; what is in it, the caller answers for.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, -1, 0);
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(&*start.cast::<T>()),
        }
    }
}

/// A pipe through which one process tells another that it is ready.
#[derive(Debug)]
pub struct Signal {
    read: OwnedFd,
    write: OwnedFd,
}

impl Signal {
    /// A signal that nobody has given yet. Make it before the fork.
    pub fn new() -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors, which are owned from here on.
        unsafe {
            match libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) {
                0 => Ok(Self { read: OwnedFd::from_raw_fd(ends[0]), write: OwnedFd::from_raw_fd(ends[1]) }),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Gives the signal once.
    pub fn give(&self) {
        // SAFETY: one byte of a constant.
        unsafe { libc::write(self.write.as_raw_fd(), c"+".as_ptr().cast(), 1) };
    }

    /// Waits for it once, 30 seconds at most.
    pub fn wait(&self) -> io::Result<()> {
        let mut entry = libc::pollfd { fd: self.read.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut byte = 0u8;
        // SAFETY: one entry and one byte, which live through the calls.
        unsafe {
            match libc::poll(&mut entry, 1, 30_000) {
                1 if libc::read(self.read.as_raw_fd(), (&raw mut byte).cast(), 1) == 1 => Ok(()),
                _ => Err(io::Error::other("the other process did not get ready")),
            }
        }
    }
}
