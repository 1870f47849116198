//! A command that the host asked for: its process, its terminal or pipes, and their windows.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, Stdio};

use agent_protocol::window::{ReceiveWindow, SendWindow, WindowError};
use agent_protocol::{ExecFailure, ExecRequest, ExitStatus, Stream, WindowSize};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Where programs are looked for.
pub const PATH: &str = "/system/bin:/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin";

/// What a terminal's line discipline takes for end of file.
const END_OF_TRANSMISSION: u8 = 4;

/// A command that runs, or whose last output is on its way.
pub struct Command {
    pub pid: u32,
    /// Set once the process has ended.
    pub status: Option<ExitStatus>,
    pub stdin: Stdin,
    /// By [`Stream`]. `None` once closed.
    pub outputs: [Option<Output>; 2],
    is_terminal: bool,
}

/// The agent's end of an output stream.
pub struct Output {
    pub fd: OwnedFd,
    pub window: SendWindow,
    /// Bytes to come before it is closed, where the process has ended and left its pipe to children.
    left: Option<usize>,
}

/// The agent's end of stdin.
pub struct Stdin {
    /// `None` once closed.
    pub fd: Option<OwnedFd>,
    pub waiting: VecDeque<u8>,
    window: ReceiveWindow,
    ends: bool,
}

/// What reading an output brought.
pub enum Read {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// Nothing more.
    End,
}

impl Command {
    /// Starts a process in its own group, or in its own session if it gets a terminal.
    pub fn spawn(request: &ExecRequest) -> Result<Self, ExecFailure> {
        let program = request.argv.first().map_or("", String::as_str);
        let failed = |what: &str, error: io::Error| ExecFailure {
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            text: format!("{what}: {error}"),
        };
        let mut process = process(program, request.argv.get(1..).unwrap_or_default());
        process.envs(request.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = &request.cwd {
            // Looked at here: the process could not say which of the two was missing.
            std::fs::metadata(cwd).map_err(|error| failed(cwd, error))?;
            process.current_dir(cwd);
        }
        let spawned = match request.tty {
            Some(size) => spawn_on_terminal(process, size),
            None => spawn_on_pipes(process, request.stdin),
        };
        spawned.map_err(|error| failed(program, error))
    }

    /// Whether the process has ended and nothing of its output is left.
    pub fn finished(&self) -> Option<ExitStatus> {
        if self.outputs.iter().all(Option::is_none) { self.status } else { None }
    }

    /// The process has ended. What its pipes hold now is the last that is read of them: a child that
    /// it left behind may go on writing for ever. A terminal needs no such bound, for it is hung up
    /// when its session's leader ends.
    pub fn ended(&mut self, status: ExitStatus) {
        self.status = Some(status);
        // What it left unread goes with it; the host may go on sending for a moment.
        self.stdin.fd = None;
        if self.is_terminal {
            return;
        }
        for slot in &mut self.outputs {
            let Some(output) = slot else { continue };
            match ioctl_fionread(&output.fd) {
                Ok(left) if left > 0 => output.left = Some(left as usize),
                _ => *slot = None,
            }
        }
    }

    /// Sends signal `signo` to the process group.
    pub fn signal(&self, signo: u32) -> Result<(), Errno> {
        let signal = i32::try_from(signo).ok().and_then(Signal::from_named_raw).ok_or(Errno::INVAL)?;
        if self.status.is_some() {
            return Err(Errno::SRCH);
        }
        kill_process_group(Pid::from_raw(self.pid as i32).ok_or(Errno::SRCH)?, signal)
    }

    /// Tells the terminal its size. Without a terminal there is nobody to tell.
    pub fn resize(&self, size: WindowSize) {
        if let (true, Some(output)) = (self.is_terminal, &self.outputs[Stream::Stdout as usize]) {
            let _ = tcsetwinsize(&output.fd, winsize(size));
        }
    }

    /// Reads what the process wrote, as far as the window and `buffer` allow.
    pub fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Read {
        let Some(output) = &mut self.outputs[stream as usize] else { return Read::Nothing };
        let length = buffer.len().min(output.window.room()).min(output.left.unwrap_or(usize::MAX));
        if length == 0 {
            return Read::Nothing;
        }
        match rustix::io::read(&output.fd, &mut buffer[..length]) {
            Ok(length) if length > 0 => {
                output.window.spend(length);
                output.left = output.left.map(|left| left - length);
                if output.left == Some(0) {
                    self.outputs[stream as usize] = None;
                }
                Read::Bytes(length)
            }
            // The process is gone, so what is not there now was written by nobody we wait for.
            Err(Errno::AGAIN) if self.status.is_none() => Read::Nothing,
            Err(Errno::INTR) => Read::Nothing,
            // A terminal without a process answers EIO.
            _ => {
                self.outputs[stream as usize] = None;
                Read::End
            }
        }
    }

    /// Bytes for stdin.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WindowError> {
        self.stdin.window.arrived(bytes.len())?;
        self.stdin.waiting.extend(bytes);
        Ok(())
    }

    /// No more bytes for stdin.
    pub fn end_stdin(&mut self) {
        if self.is_terminal {
            self.stdin.waiting.push_back(END_OF_TRANSMISSION);
        } else {
            self.stdin.ends = true;
        }
    }

    /// Gives the process as much of its stdin as it takes now; returns the credit to send.
    pub fn feed(&mut self) -> Option<u32> {
        self.stdin.feed()
    }
}

impl Stdin {
    fn feed(&mut self) -> Option<u32> {
        let mut taken = 0;
        while let (Some(fd), bytes @ [_, ..]) = (&self.fd, self.waiting.as_slices().0) {
            match rustix::io::write(fd, bytes) {
                Ok(length) => {
                    self.waiting.drain(..length);
                    taken += length;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The process does not read any more.
                Err(_) => self.fd = None,
            }
        }
        if self.fd.is_none() {
            taken += self.waiting.len();
            self.waiting.clear();
        }
        if self.ends && self.waiting.is_empty() {
            self.fd = None;
        }
        self.window.taken(taken)
    }
}

/// A process with the agent's environment, arguments, and nothing on its stdin.
pub fn process(program: &str, arguments: &[String]) -> Process {
    let mut process = Process::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/"), ("TERM", "linux")])
        .current_dir("/")
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe {
        process.pre_exec(|| {
            default_signals();
            Ok(())
        });
    }
    process
}

/// Undoes what whoever started the agent ignored (a shell's background job ignores SIGINT): a program
/// that starts with an ignored signal keeps it ignored.
fn default_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
        // SAFETY: SIG_DFL is a valid disposition of these signals, and no handler is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Starts a boot service: its output goes to the console.
pub fn spawn_service(argv: &[String], env: &BTreeMap<String, String>) -> io::Result<u32> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(process(program, arguments).envs(env).process_group(0).spawn()?.id())
}

/// Starts a command whose output nobody wants.
pub fn spawn_silent(argv: &[String]) -> io::Result<u32> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut process = process(program, arguments);
    Ok(process.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()?.id())
}

fn spawn_on_pipes(mut process: Process, stdin: bool) -> io::Result<Command> {
    process.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdin {
        process.stdin(Stdio::piped());
    }
    let mut child = process.spawn()?;
    let stdin = child.stdin.take().map(|pipe| nonblocking(pipe.into())).transpose()?;
    let stdout = child.stdout.take().map(|pipe| output(pipe.into())).transpose()?;
    let stderr = child.stderr.take().map(|pipe| output(pipe.into())).transpose()?;
    Ok(command(child.id(), stdin, [stdout, stderr], false))
}

fn spawn_on_terminal(mut process: Process, size: WindowSize) -> io::Result<Command> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    tcsetwinsize(&master, winsize(size))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = File::from(ioctl_tiocgptpeer(&master, flags)?);
    process.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe {
        process.pre_exec(|| {
            rustix::process::setsid()?;
            // Standard input is the terminal by now.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    let child = process.spawn()?;
    // `process` holds our copies of the slave, which would keep the terminal from ever ending.
    drop(process);
    let master = nonblocking(master)?;
    let stdin = master.try_clone()?;
    Ok(command(child.id(), Some(stdin), [Some(output(master)?), None], true))
}

fn command(pid: u32, stdin: Option<OwnedFd>, outputs: [Option<Output>; 2], is_terminal: bool) -> Command {
    let stdin = Stdin { fd: stdin, waiting: VecDeque::new(), window: ReceiveWindow::new(), ends: false };
    Command { pid, status: None, stdin, outputs, is_terminal }
}

fn output(fd: OwnedFd) -> io::Result<Output> {
    Ok(Output { fd: nonblocking(fd)?, window: SendWindow::new(), left: None })
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}
