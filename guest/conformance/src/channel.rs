//! Processes and threads that do what the coordinator says, one system call at a time.
//!
//! An actor is a thread that serves one end of a socket: it reads a [`Request`], makes that system call, and
//! writes the result back. Everything a case does, opening the device, mapping it, filling memory, calling ioctl,
//! is a request, so cases are written as straight lines in one place, and every hand-off between actors is
//! explicit. A request that blocks in the kernel blocks only its actor; the coordinator can go on, wait for the
//! answer with a time limit, or interrupt the call with a signal.
//!
//! Bytes travel through one memory file that all processes inherit: the actor copies between it and its own
//! memory with `pread` and `pwrite`, so an address that is not accessible gives EFAULT and kills nobody.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The number an actor's first channel has in its process; below it, descriptor numbers are the case's own.
const CHANNEL_BASE: RawFd = 200;
/// The number of the memory file in every actor process.
pub const MEMORY_FILE: RawFd = CHANNEL_BASE - 1;
/// How many actors one process can have, forked children included.
pub const CHANNELS: usize = 8;

/// Start a thread that serves the channel in the first argument.
pub const SPAWN: i64 = -1;
/// Fork; the child serves the channel in the first argument.
pub const FORK: i64 = -2;
/// Read one byte at the address in the first argument, with an ordinary load.
pub const TOUCH: i64 = -3;
/// End this thread without telling the binder driver.
pub const LEAVE: i64 = -4;
/// Call the function at the address in the first argument as often as the second one says; its last result.
pub const RUN: i64 = -5;

/// A system call, or one of the negative numbers above.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Request {
    number: i64,
    arguments: [u64; 6],
}

const REQUEST_SIZE: usize = size_of::<Request>();

/// Why no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The time limit passed.
    Timeout,
    /// The actor's process is gone.
    Gone,
}

fn last_errno() -> i64 {
    -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn system_call(number: i64, a: [u64; 6]) -> i64 {
    // SAFETY: this process exists to make the calls its coordinator asks for, in memory that the coordinator
    // mapped by earlier requests; it keeps nothing of its own that such a call could reach except its stack.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == -1 { last_errno() } else { result }
}

/// Calls machine code, `times` times; the last result.
fn run(address: u64, times: u64) -> i64 {
    // SAFETY: as with TOUCH; a case that names anything but a function without arguments kills its own process.
    let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(address as usize) };
    (0..times).fold(0, |_, _| function().into())
}

/// Reads requests from `channel` and answers them until the other end closes.
fn serve(channel: RawFd) {
    loop {
        let mut request = Request { number: 0, arguments: [0; 6] };
        // SAFETY: the buffer is a local of exactly this size, and any bytes make a valid `Request`.
        let got = unsafe { libc::read(channel, (&raw mut request).cast(), REQUEST_SIZE) };
        if got == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if got != REQUEST_SIZE as isize {
            return;
        }
        let [first, second, ..] = request.arguments;
        let answer: i64 = match request.number {
            SPAWN => {
                let channel = CHANNEL_BASE + first as RawFd;
                match std::thread::Builder::new().stack_size(64 << 10).spawn(move || serve(channel)) {
                    Ok(_) => 0,
                    Err(_) => -i64::from(libc::EAGAIN),
                }
            }
            FORK => fork_actor(CHANNEL_BASE + first as RawFd),
            // SAFETY: not safe at all, and meant so: a bad address kills this process, which the case wants to see.
            TOUCH => unsafe { std::ptr::read_volatile(first as *const u8) }.into(),
            LEAVE => 0,
            RUN => run(first, second),
            number => system_call(number, request.arguments),
        };
        // SAFETY: the buffer is a local of eight bytes.
        let sent = unsafe { libc::write(channel, (&raw const answer).cast(), 8) };
        if sent != 8 || request.number == LEAVE {
            return;
        }
    }
}

/// Forks an actor that serves `channel` and is a child of the coordinator, not of this process.
fn fork_actor(channel: RawFd) -> i64 {
    // SAFETY: a plain fork by another name. The child runs only the serving loop, which allocates nothing unless it
    // is asked to spawn a thread, and keeps none of its parent's channels, so that each end is noticed.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0);
        match pid {
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::syscall(libc::SYS_close_range, CHANNEL_BASE, channel - 1, 0);
                libc::syscall(libc::SYS_close_range, channel + 1, u32::MAX, 0);
                serve(channel);
                libc::_exit(0)
            }
            -1 => last_errno(),
            pid => {
                libc::close(channel);
                pid
            }
        }
    }
}

extern "C" fn on_signal(_: libc::c_int) {}

/// Prepares the process that `fork` has just made, and serves its first channel until the end.
fn live(ends: &[OwnedFd], memory: RawFd) -> ! {
    // SAFETY: plain calls on our own descriptors and signal dispositions; the handler does nothing.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(memory, MEMORY_FILE);
        for (index, end) in ends.iter().enumerate() {
            libc::dup2(end.as_raw_fd(), CHANNEL_BASE + index as RawFd);
        }
        libc::syscall(libc::SYS_close_range, 3, MEMORY_FILE - 1, 0);
        libc::syscall(libc::SYS_close_range, CHANNEL_BASE + ends.len() as RawFd, u32::MAX, 0);
        // No SA_RESTART: the signal's only use is to interrupt a blocked call.
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
    serve(CHANNEL_BASE);
    // SAFETY: ends this process without running the coordinator's exit handlers.
    unsafe { libc::_exit(0) }
}

/// The coordinator's end of an actor's channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Asks the actor to make a call.
    pub fn send(&self, number: i64, arguments: [u64; 6]) -> Result<(), NoAnswer> {
        let request = Request { number, arguments };
        // SAFETY: the buffer is a local of exactly this size. MSG_NOSIGNAL: a dead actor is an error, not a signal.
        let sent = unsafe {
            libc::send(self.0.as_raw_fd(), (&raw const request).cast(), REQUEST_SIZE, libc::MSG_NOSIGNAL)
        };
        if sent == REQUEST_SIZE as isize { Ok(()) } else { Err(NoAnswer::Gone) }
    }

    /// True once an answer, or the end of the actor, can be received without waiting.
    pub fn ready(&self, limit: Duration) -> bool {
        let mut entry = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
            // SAFETY: one entry, which lives through the call.
            match unsafe { libc::poll(&mut entry, 1, left) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
                count => return count > 0,
            }
        }
    }

    /// The answer to the oldest unanswered request: a result, or minus an errno.
    pub fn receive(&self, limit: Duration) -> Result<i64, NoAnswer> {
        if !self.ready(limit) {
            return Err(NoAnswer::Timeout);
        }
        let mut answer = 0i64;
        // SAFETY: the buffer is a local of eight bytes.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), (&raw mut answer).cast(), 8, 0) };
        if got == 8 { Ok(answer) } else { Err(NoAnswer::Gone) }
    }
}

/// A forked process and the channels on which its actors will be served.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    pub channels: Vec<Channel>,
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors, which are owned from here on.
    unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        if libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Forks a process whose first actor serves the first channel. The caller must have no other threads.
pub fn spawn(memory: &impl AsRawFd) -> io::Result<Spawned> {
    let pairs = (0..CHANNELS).map(|_| pair()).collect::<io::Result<Vec<_>>>()?;
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    // SAFETY: the coordinator is single-threaded, so the child may use everything it inherits.
    match unsafe { libc::fork() } {
        0 => live(&theirs, memory.as_raw_fd()),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Spawned { pid, channels: ours.into_iter().map(Channel).collect() }),
    }
}

/// The file through which bytes go to and from the actors' memory.
pub fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: a constant name; the descriptor is owned from here on.
    unsafe {
        match libc::memfd_create(c"conformance".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// True if the thread sleeps interruptibly inside system call `number`.
pub fn sleeps_in(pid: i32, tid: i32, number: i64) -> bool {
    let task = format!("/proc/{pid}/task/{tid}");
    let stat = std::fs::read_to_string(format!("{task}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    let call = std::fs::read_to_string(format!("{task}/syscall")).unwrap_or_default();
    state == Some('S') && call.split(' ').next() == Some(number.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// One process with one actor, without any other thread in the way of `fork`: the child only serves.
    #[test]
    fn an_actor_makes_calls_moves_bytes_and_reports_its_end() {
        let memory = memory_file().unwrap();
        let actor = spawn(&memory).unwrap();
        let ask = |number, arguments| {
            actor.channels[0].send(number, arguments).unwrap();
            actor.channels[0].receive(LIMIT)
        };
        assert_eq!(ask(libc::SYS_getpid, [0; 6]), Ok(actor.pid.into()));
        assert_eq!(ask(libc::SYS_close, [77, 0, 0, 0, 0, 0]), Ok(-i64::from(libc::EBADF)));
        let fault = ask(libc::SYS_pwrite64, [MEMORY_FILE as u64, 8, 4, 0, 0, 0]);
        assert_eq!(fault, Ok(-i64::from(libc::EFAULT)));
        assert_eq!(ask(TOUCH, [8, 0, 0, 0, 0, 0]), Err(NoAnswer::Gone));
        // SAFETY: reaps our own child.
        unsafe { libc::waitpid(actor.pid, std::ptr::null_mut(), 0) };
    }
}
