//! Who is measured, and how one run of it goes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Measurement, Measurements};
use crate::exit::{Code, Failure};

/// No run takes longer, even interpreted on a slow host.
const LIMIT: Duration = Duration::from_secs(300);

/// The CPU that QEMU is to offer: the one nearest to ours that TCG has.
const QEMU_CPU: &str = "Nehalem,+rdrand,+erms,-spec-ctrl";

/// The machine that QEMU is to be. Without the PC's own timers and with ACPI the stock kernel finds
/// no clock to calibrate TCG's by, and hangs.
const QEMU_MACHINE: &str = "microvm,pic=on,pit=on,rtc=on,acpi=off";

/// What is booted.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub command_line: String,
    /// The program alone, for the host.
    pub program: PathBuf,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The soft engine, compiling.
    Jit,
    /// The soft engine, interpreting.
    Interpreter,
    /// QEMU's TCG.
    Qemu,
    /// The host's CPU, without a guest.
    Native,
}

impl Contender {
    /// All that this host has.
    pub fn available(qemu: Option<&Path>) -> Vec<Contender> {
        let mut all = vec![Contender::Jit, Contender::Interpreter];
        if qemu_version(qemu).is_some() {
            all.push(Contender::Qemu);
        }
        all.push(Contender::Native);
        all
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Jit => "jit",
            Contender::Interpreter => "interpreter",
            Contender::Qemu => "qemu",
            Contender::Native => "native",
        }
    }

    /// One run.
    pub fn run(self, guest: &Guest, qemu: Option<&Path>) -> Result<Measurements, Failure> {
        let mut command = match self {
            Contender::Jit => soft(guest, "on")?,
            Contender::Interpreter => soft(guest, "off")?,
            Contender::Qemu => tcg(guest, qemu),
            Contender::Native => Command::new(&guest.program),
        };
        let (_running, mut talk) = self.start(&mut command)?;
        talk.listen(self == Contender::Native).map_err(|what| self.failed(&what))
    }

    /// From the start of a process that goes on from `snapshot` to the first output of its command. Only the
    /// soft engine does.
    pub fn restore(self, snapshot: &Path) -> Result<Option<Measurement>, Failure> {
        let jit = match self {
            Contender::Jit => "on",
            Contender::Interpreter => "off",
            Contender::Qemu | Contender::Native => return Ok(None),
        };
        let mut command = own()?;
        command.args(["run", "--engine", "soft", "--cpu-jit", jit, "--from"]).arg(snapshot);
        // While it waits for its input, the clock is read.
        command.args(["--", "sh", "-c", "echo restored; read line"]);
        let (_running, talk) = self.start(&mut command)?;
        let line = talk.lines.recv_timeout(LIMIT).unwrap_or_default();
        if line != "restored" {
            return Err(self.failed(&format!("the restored guest said '{line}'")));
        }
        let time = talk.cpu_time().map_err(|what| self.failed(&what))?;
        Ok(Some(Measurement { time, result: None }))
    }

    fn start(self, command: &mut Command) -> Result<(Running, Talk), Failure> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| {
            Failure::because(Code::Internal, format!("cannot start {}", self.name()), error)
        })?;
        let mut running = Running { child };
        let stdin = running.child.stdin.take().ok_or_else(|| self.failed("it has no input"))?;
        let stdout = running.child.stdout.take().ok_or_else(|| self.failed("it has no output"))?;
        let talk = Talk { pid: running.child.id(), stdin, lines: follow(stdout) };
        Ok((running, talk))
    }

    fn failed(self, what: &str) -> Failure {
        Failure::new(Code::Internal, format!("{}: {what}", self.name()))
    }
}

/// The version line of QEMU, if it is installed.
pub fn qemu_version(qemu: Option<&Path>) -> Option<String> {
    let output = Command::new(qemu_program(qemu)).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned).filter(|_| output.status.success())
}

fn qemu_program(qemu: Option<&Path>) -> &Path {
    qemu.unwrap_or(Path::new("qemu-system-x86_64"))
}

/// This program.
fn own() -> Result<Command, Failure> {
    let own = std::env::current_exe();
    own.map(Command::new)
        .map_err(|error| Failure::because(Code::Internal, "cannot find bindervm itself", error))
}

/// Boots `image` and saves the guest to `snapshot` when it takes commands.
pub fn save(image: &str, snapshot: &Path) -> Result<(), Failure> {
    let mut command = own()?;
    command.args(["run", image, "--engine", "soft", "--snapshot-to"]).arg(snapshot);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status.is_ok_and(|status| status.success()) {
        true => Ok(()),
        false => Err(Failure::new(Code::BootFailed, format!("{image} could not be booted and saved"))),
    }
}

fn soft(guest: &Guest, jit: &str) -> Result<Command, Failure> {
    let mut command = own()?;
    // With the host's clock, as QEMU: a guest that waits for its line sleeps.
    command.args(["run", "--engine", "soft", "--clock", "host", "--memory", "512M", "--cpu-jit", jit]);
    command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
    command.arg("--append").arg(&guest.command_line);
    Ok(command)
}

fn tcg(guest: &Guest, qemu: Option<&Path>) -> Command {
    let mut command = Command::new(qemu_program(qemu));
    command.args(["-M", QEMU_MACHINE, "-accel", "tcg", "-cpu", QEMU_CPU, "-m", "512M"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
    command.arg("-append").arg(&guest.command_line);
    command
}

/// A process that ends with this value.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a process's output.
fn follow(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if send.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receive
}

/// A conversation with the program.
struct Talk {
    pid: u32,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Talk {
    /// Answers each of the program's lines, once the CPU time is known.
    fn listen(&mut self, native: bool) -> Result<Measurements, String> {
        let mut measured = Measurements::new();
        let mut began = Duration::ZERO;
        loop {
            let line = self.lines.recv_timeout(LIMIT).map_err(|_| {
                let last = measured.last().map_or("nothing", |(name, _): &(String, _)| name.as_str());
                format!("it went silent; the last it finished was {last}")
            })?;
            // The kernel's lines, and the echo of the answers.
            let Some(said) = line.strip_prefix("bench: ") else { continue };
            let now = self.cpu_time()?;
            let words: Vec<&str> = said.split(' ').collect();
            match words[..] {
                ["ready", "boot"] if native => {}
                ["ready", "boot"] => measured.push(("boot".into(), Measurement { time: now, result: None })),
                ["ready", _] => began = now,
                ["done", name, result] => {
                    let result = Some(result.to_owned());
                    measured.push((name.into(), Measurement { time: now - began, result }));
                }
                ["end", _] => return Ok(measured),
                _ => return Err(format!("the program said '{line}'")),
            }
            self.stdin.write_all(b"\n").map_err(|error| format!("it takes no input: {error}"))?;
        }
    }

    /// CPU time of the process, when it has come to rest.
    fn cpu_time(&self) -> Result<Duration, String> {
        let mut last = process_cpu_time(self.pid)?;
        // The line may be here before its writer sleeps.
        loop {
            thread::sleep(Duration::from_millis(20));
            let now = process_cpu_time(self.pid)?;
            if now - last < Duration::from_millis(1) {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// CPU time of all threads of a process, also of those that ended.
fn process_cpu_time(pid: u32) -> Result<Duration, String> {
    let gone = || "it ended".to_owned();
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to the variable that they are given and to nothing else.
    let good = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) == 0
            && libc::clock_gettime(clock, &mut time) == 0
    };
    good.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32)).ok_or_else(gone)
}
