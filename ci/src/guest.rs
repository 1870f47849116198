//! A guest in a process of its own, `bindervm run IMAGE --serve`, or one of several in a process
//! ([`crate::group`]), and its control socket.
//!
//! The process is this same program. It has a process group of its own, so that a terminal's Ctrl-C
//! reaches the harness alone, which ends its guests in order; should the harness die without that,
//! the kernel ends them (`--die-with`). Nothing of a guest is trusted: what it prints is bounded, and
//! whatever it does, its process is gone after [`Guest::end`], or when the last of its guests is.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use control::wire::Stream;
use control::{Client, ClientError, Event, ExecRequest, ExitStatus as CommandStatus};
use serde::Serialize;

use crate::capture::{Bounds, Capture};
use crate::faults::FaultsEntry;
use crate::plan::{BinderDriver, Clock, Engine, GuestSpec, Keep, Start};
use crate::process::{EXIT, Process};
use crate::stop::Stop;

/// How long waiting goes on between two looks at what may end it.
pub const LOOK: Duration = Duration::from_millis(100);

/// Bytes of a log's end in which complaints are looked for.
const MAX_WORDS: usize = 4096;

/// How long a guest may take to switch itself off before it is ended.
const GRACE: Duration = Duration::from_secs(5);

/// How long what it said may take to be written down, once it has exited.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What `bindervm run` prints is a few lines, unless a guest floods it.
pub(crate) const VMM_LOG: Bounds = Bounds { head: 1 << 20, tail: 64 << 10 };

/// What a guest is started from.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The `bindervm` program.
    pub bindervm: &'a Path,
    /// The guest's name, in traces and reports.
    pub name: String,
    /// What it is.
    pub spec: &'a GuestSpec,
    /// What is injected into its binder.
    pub faults: Option<&'a FaultsEntry>,
    /// Seed of its entropy.
    pub seed: u64,
    /// What executes it.
    pub engine: Engine,
    /// Where its files go.
    pub folder: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// Limit of its start.
    pub boot_timeout: Duration,
    /// The binder world that it shares with others of its process.
    pub domain: Option<&'a str>,
}

/// A guest that was started.
pub struct Guest {
    process: Arc<Process>,
    /// It is the only guest of the process, and ends with it.
    is_alone: bool,
    client: Option<Client>,
    folder: PathBuf,
    socket: PathBuf,
    started: Instant,
    ready_within: Duration,
    beginning: Beginning,
}

/// How a guest began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Beginning {
    /// Once it is up.
    pub start: Option<Started>,
    /// Of its entropy.
    pub seed: u64,
    /// Id of the process that runs it.
    pub process: u32,
}

/// How a guest came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Started {
    /// From power-on.
    Booted,
    /// From a snapshot.
    Restored,
}

impl Started {
    fn of(restored: bool) -> Started {
        if restored { Started::Restored } else { Started::Booted }
    }

    /// As results have it.
    pub fn word(self) -> &'static str {
        match self {
            Started::Booted => "booted",
            Started::Restored => "restored",
        }
    }
}

/// How a guest ended without being asked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "end", content = "message")]
pub enum GuestEnd {
    /// Its kernel panicked.
    Panic(String),
    /// It did not come up.
    BootFailed(String),
    /// It, or its process, went away.
    Lost(String),
    /// It could not be started: its image, its options, the machine.
    Infrastructure(String),
}

/// Why waiting for a guest ended without what was waited for.
#[derive(Clone, Debug)]
pub enum Cut {
    /// The guest has ended.
    Ended(GuestEnd),
    /// The time is over.
    TimedOut,
    /// The run is to end.
    Stopped,
    /// Nobody needs it any more.
    Dismissed,
}

/// How a command in a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// With this code.
    Exited(u8),
    /// Of this signal.
    Signaled(u8),
    /// It never started.
    NotStarted(String),
}

impl Launch<'_> {
    /// The options of `bindervm run`, which are also the keys of a `[guest.NAME]` of `bindervm group`. One
    /// without a value is a flag.
    pub fn options(&self) -> Vec<(&'static str, Option<OsString>)> {
        let file = |name: &str| Some(self.folder.join(name).into_os_string());
        let text = |text: String| Some(OsString::from(text));
        // Guests that share a world have no time of their own.
        let clock = if self.domain.is_some() { Clock::Host } else { self.spec.clock };
        let mut options = vec![
            ("engine", text(word(self.engine))),
            ("memory", text(self.spec.memory.to_string())),
            ("seed", text(self.seed.to_string())),
            ("clock", text(word(clock))),
            ("binder", text(word(self.spec.binder))),
            ("boot-timeout", text(format!("{}ms", self.boot_timeout.as_millis()))),
            ("status", file(STATUS)),
            ("control", Some(self.socket.clone().into_os_string())),
            ("serve", None),
        ];
        if self.spec.cpus != 1 {
            options.push(("cpus", text(self.spec.cpus.to_string())));
        }
        if let Some(profile) = self.spec.binder_profile {
            options.push(("binder-profile", text(word(profile))));
        }
        if let Some(append) = &self.spec.append {
            options.push(("append", text(append.clone())));
        }
        if self.goes_on() {
            options.push(("fast", None));
        }
        // Those of a domain are not one guest's.
        if self.faults.is_some() && self.domain.is_none() {
            options.push(("faults", file(FAULTS)));
        }
        if self.spec.trace != Keep::Never && self.spec.binder == BinderDriver::Host {
            options.push(("trace", file(TRACE)));
        }
        if self.spec.console != Keep::Never {
            options.push(("console-log", file(CONSOLE)));
        }
        options
    }

    /// The command line of the guest's process, without the program.
    fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["run".into(), self.spec.image.clone().into()];
        args.push(format!("--name={}", self.name).into());
        for (key, value) in self.options() {
            let mut arg = OsString::from(format!("--{key}"));
            if let Some(value) = value {
                arg.push("=");
                arg.push(value);
            }
            args.push(arg);
        }
        args
    }

    /// Whether it is to go on from a snapshot. The process decides: no guest on KVM can.
    pub(crate) fn goes_on(&self) -> bool {
        self.spec.start == Start::Snapshot && self.engine != Engine::Kvm && self.domain.is_none()
    }

    /// Makes its folder, with what it reads.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if self.domain.is_none() { write_faults(self.faults, &self.folder) } else { Ok(()) }
    }

    /// Starts it in a process of its own. It ends when the calling thread does, at the latest.
    pub fn start(&self) -> io::Result<Guest> {
        self.prepare()?;
        let mut command = Command::new(self.bindervm);
        command.args(self.arguments());
        let capture = Capture::create(&self.folder.join(LOG), VMM_LOG)?;
        let process = Process::start(command, move |stderr| {
            // What cannot be written is only missing in the log.
            let _ = capture.take_all(stderr);
        })?;
        // The snapshot may have to be made first.
        let ready_within = self.boot_timeout * if self.goes_on() { 2 } else { 1 };
        Ok(self.in_process(Arc::new(process), true, ready_within))
    }

    /// The guest, in a process that was started.
    pub(crate) fn in_process(&self, process: Arc<Process>, is_alone: bool, ready_within: Duration) -> Guest {
        let beginning = Beginning { start: None, seed: self.seed, process: process.id() };
        Guest {
            process,
            is_alone,
            client: None,
            folder: self.folder.clone(),
            socket: self.socket.clone(),
            started: Instant::now(),
            ready_within,
            beginning,
        }
    }
}

/// Writes down what is injected, if anything is.
pub(crate) fn write_faults(faults: Option<&FaultsEntry>, folder: &Path) -> io::Result<()> {
    let Some(faults) = faults else { return Ok(()) };
    fs::write(folder.join(FAULTS), toml::to_string(faults).map_err(io::Error::other)?)
}

/// How the run ended, as JSON.
pub const STATUS: &str = "status.json";
/// The recording of binder.
pub const TRACE: &str = "trace.bvt";
/// The guest's console.
pub const CONSOLE: &str = "console.log";
/// The faults that are injected.
pub const FAULTS: &str = "faults.toml";
/// What the guest's process said.
pub const LOG: &str = "vmm.log";

impl Guest {
    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How it began.
    pub fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until it takes commands.
    pub fn wait_ready(&mut self, stop: &Stop) -> Result<(), Cut> {
        // The process has its own limit; this one is for a process that does not keep it.
        let until = self.started + self.ready_within + EXIT;
        loop {
            if self.client.is_none() {
                self.client = Client::connect_within(&self.socket, LOOK).ok();
            }
            if let Some(client) = &self.client {
                match client.wait_ready(LOOK) {
                    Ok(()) => {
                        // A guest that is lost again by now will say so when it is used.
                        let restored = client.status().map(|status| status.restored);
                        self.beginning.start = restored.ok().map(Started::of);
                        return Ok(());
                    }
                    Err(ClientError::TimedOut(_)) => {}
                    Err(_) => return Err(Cut::Ended(self.how_it_ended())),
                }
            }
            if self.is_over() {
                return Err(Cut::Ended(self.how_it_ended()));
            }
            if stop.why().is_some() {
                return Err(Cut::Stopped);
            }
            if Instant::now() > until {
                let message = format!("not ready within {} s", self.ready_within.as_secs_f32());
                return Err(Cut::Ended(GuestEnd::BootFailed(message)));
            }
        }
    }

    /// Runs a command to its end. `until` is asked now and then, and may end the waiting; after
    /// `last_look` the command is hung up.
    pub fn run(
        &mut self,
        request: ExecRequest,
        stdin: Vec<u8>,
        mut output: impl FnMut(Stream, &[u8]),
        mut until: impl FnMut() -> Option<Cut>,
        last_look: impl FnOnce(&mut Guest, &Cut),
    ) -> Result<CommandEnd, Cut> {
        let Some(client) = &self.client else { return Err(Cut::Ended(self.how_it_ended())) };
        let mut running = match client.exec(request) {
            Ok(running) => running,
            Err(error) => return Err(Cut::Ended(self.ended_by(&error))),
        };
        let mut input = running.input();
        // Not joined: a command need not read what it is given.
        let feed = thread::Builder::new().name("stdin".into()).spawn(move || {
            // A command that ended, or reads no more, is no failure.
            let _ = io::Write::write_all(&mut input, &stdin);
            let _ = input.close();
        });
        if let Err(error) = feed {
            return Err(Cut::Ended(GuestEnd::Infrastructure(format!("cannot start a thread: {error}"))));
        }
        loop {
            match running.next(Some(LOOK)) {
                Ok(Event::Output(stream, bytes)) => output(stream, &bytes),
                Ok(Event::Exited(CommandStatus::Code(code))) => return Ok(CommandEnd::Exited(code)),
                Ok(Event::Exited(CommandStatus::Signal(signal))) => return Ok(CommandEnd::Signaled(signal)),
                Ok(Event::NotStarted(failure)) => return Ok(CommandEnd::NotStarted(failure.text)),
                Ok(Event::Started(_) | Event::Dropped(_)) => {}
                Ok(Event::Done) => return Err(Cut::Dismissed),
                Err(ClientError::TimedOut(_)) => {}
                Err(error) => return Err(Cut::Ended(self.ended_by(&error))),
            }
            // A command that prints without end is asked, too.
            if let Some(cut) = until() {
                last_look(self, &cut);
                return Err(cut);
            }
        }
    }

    /// Runs a small command of the harness's own, and gives what it printed, up to `most` bytes.
    pub fn ask(
        &mut self,
        argv: &[&str],
        stdin: Vec<u8>,
        limit: Duration,
        most: usize,
    ) -> Result<Answer, Cut> {
        let request = ExecRequest {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            stdin: true,
            ..ExecRequest::default()
        };
        let (mut stdout, mut stderr, mut cut) = (Vec::new(), Vec::new(), false);
        let until = Instant::now() + limit;
        let end = self.run(
            request,
            stdin,
            |stream, bytes| {
                let kept = if stream == Stream::Stderr { &mut stderr } else { &mut stdout };
                let room = bytes.len().min(most - kept.len());
                cut |= room < bytes.len();
                kept.extend_from_slice(&bytes[..room]);
            },
            || (Instant::now() > until).then_some(Cut::TimedOut),
            |_, _| {},
        )?;
        Ok(Answer { end, stdout, stderr, cut })
    }

    /// Asks the guest to switch itself off, and sees that it ends.
    pub fn end(&mut self) {
        if let Some(client) = &self.client
            && !self.is_over()
        {
            let _ = client.stop(GRACE);
            self.wait_over(GRACE + EXIT);
        }
        self.kill();
    }

    /// Ends the run at once; what was recorded is kept if its process is well. A process with other guests
    /// goes on, even where this one does not end: it is over when they are.
    pub fn kill(&mut self) {
        if !self.is_over() {
            if self.client.is_none() && !self.is_alone {
                self.client = Client::connect_within(&self.socket, LOOK).ok();
            }
            let told = match &self.client {
                Some(client) => client.kill().is_ok(),
                None => self.is_alone && self.process.terminate(),
            };
            if told {
                self.wait_over(EXIT);
            }
        }
        if self.is_alone {
            self.process.kill();
        }
        self.client = None;
        let _ = fs::remove_file(&self.socket);
    }

    /// Whether it has ended. One of several tells so by its status file, before its process has exited.
    pub fn is_over(&self) -> bool {
        self.process.exited().is_some() || (!self.is_alone && self.folder.join(STATUS).exists())
    }

    /// What a failed request means: mostly that the guest is gone.
    fn ended_by(&mut self, error: &ClientError) -> GuestEnd {
        match self.how_it_ended() {
            GuestEnd::Lost(message) if message.is_empty() => GuestEnd::Lost(error.to_string()),
            end => end,
        }
    }

    /// How the guest ended by itself. Waits until it has, which may take it a while: it still writes.
    fn how_it_ended(&mut self) -> GuestEnd {
        self.wait_over(EXIT);
        let exited = self.process.exited();
        self.kill();
        let status = self.folder.join(STATUS);
        let mut logs = vec![self.folder.join(LOG)];
        if !self.is_alone {
            // What is of no guest is said by the process, which has its log beside them.
            logs.extend(self.folder.parent().map(|folder| folder.join(LOG)));
        }
        if !status.exists() {
            self.process.wait_log(LAST_WORDS);
        }
        read_end(&status, exited, &logs)
    }

    fn wait_over(&self, limit: Duration) {
        self.process.wait_until(limit, || self.is_over());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a command of [`Guest::ask`] did.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it ended.
    pub end: CommandEnd,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: Vec<u8>,
    /// There was more.
    pub cut: bool,
}

impl Answer {
    /// What it printed, if it did what it was for.
    pub fn ok(self) -> Result<Vec<u8>, String> {
        match self.end {
            CommandEnd::Exited(0) if !self.cut => Ok(self.stdout),
            CommandEnd::Exited(0) => Err("it is too large".to_owned()),
            CommandEnd::NotStarted(text) => Err(text),
            CommandEnd::Exited(_) | CommandEnd::Signaled(_) => {
                Err(String::from_utf8_lossy(&self.stderr).trim().to_owned())
            }
        }
    }
}

/// Reads how a run ended from its status file; where there is none, from the exit status and the `logs` of the
/// process.
fn read_end(status: &Path, exited: Option<ExitStatus>, logs: &[PathBuf]) -> GuestEnd {
    let status: Option<serde_json::Value> =
        fs::read(status).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(status) = status else {
        return match exited {
            Some(status) => {
                let why = logs.iter().find_map(|log| last_words(log)).map(|words| format!(": {words}"));
                let message = format!("its process died: {status}{}", why.unwrap_or_default());
                match status.code() {
                    // A wrong command line or image, as where there is a status file.
                    Some(240 | 241) => GuestEnd::Infrastructure(message),
                    _ => GuestEnd::Lost(message),
                }
            }
            None => GuestEnd::Lost("it did not end in time, and was given up".to_owned()),
        };
    };
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let message = text("message");
    match (text("ended").as_str(), text("reason").as_str()) {
        ("failed", "guest-panic") => GuestEnd::Panic(message),
        ("failed", "boot-failed") => GuestEnd::BootFailed(message),
        ("failed", "usage" | "image") => GuestEnd::Infrastructure(message),
        ("failed", _) => GuestEnd::Lost(message),
        ("powered-off", _) => GuestEnd::Lost("the guest switched itself off".to_owned()),
        ("signaled", _) => GuestEnd::Lost("its process was told to end by a signal".to_owned()),
        (other, _) => GuestEnd::Lost(format!("its process ended ({other})")),
    }
}

/// What a process that left no status file complained about last, from the end of its log.
fn last_words(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(MAX_WORDS)..]);
    let lines: Vec<&str> = text.lines().collect();
    let is_complaint =
        |line: &&str| ["error: ", "bindervm: ", "thread '"].iter().any(|begin| line.starts_with(begin));
    let at = lines.iter().rposition(is_complaint)?;
    // A panic says why in the next line, and so does clap where it lists what is possible.
    let follows = |line: &&&str| lines[at].starts_with("thread '") || line.starts_with("  ");
    let words = std::iter::once(&lines[at]).chain(lines.get(at + 1).filter(follows));
    let words = words.map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    Some(words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// The word that the command line has for a value of the plan: the plan's own.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BinderProfile, Clock};

    fn end(json: &str) -> GuestEnd {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json).unwrap();
        read_end(file.path(), None, &[])
    }

    #[test]
    fn a_status_file_says_how_a_guest_ended() {
        let failed =
            |reason: &str| end(&format!(r#"{{"ended":"failed","reason":"{reason}","message":"m"}}"#));
        assert_eq!(failed("guest-panic"), GuestEnd::Panic("m".into()));
        assert_eq!(failed("boot-failed"), GuestEnd::BootFailed("m".into()));
        assert_eq!(failed("image"), GuestEnd::Infrastructure("m".into()));
        assert_eq!(failed("internal"), GuestEnd::Lost("m".into()));
        assert!(matches!(end(r#"{"ended":"powered-off"}"#), GuestEnd::Lost(_)));
        assert!(matches!(end("not json"), GuestEnd::Lost(_)));
    }

    #[test]
    fn a_process_that_leaves_no_status_is_heard() {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        let (log, status) = (folder.path().join(LOG), folder.path().join(STATUS));
        let end = |code: i32, said: &str| {
            fs::write(&log, said).unwrap();
            read_end(
                &status,
                Some(ExitStatus::from_raw(code << 8)),
                &[folder.path().join("none"), log.clone()],
            )
        };
        let said = "error: invalid value 'Aosp' for '--binder-profile <P>'\n  [possible values: aosp]\n\n  tip: x\n\n\
                    For more information, try '--help'.\n";
        let why = "error: invalid value 'Aosp' for '--binder-profile <P>' [possible values: aosp]";
        let died = |code: i32| format!("its process died: exit status: {code}");
        assert_eq!(end(240, said), GuestEnd::Infrastructure(format!("{}: {why}", died(240))));
        let panic =
            "bindervm: engine soft\nthread 'main' panicked at a.rs:1:2:\nno \u{1b}[1mway\nnote: run with\n";
        let why = "thread 'main' panicked at a.rs:1:2: no  [1mway";
        assert_eq!(end(101, panic), GuestEnd::Lost(format!("{}: {why}", died(101))));
        assert_eq!(end(1, "g1| nothing of ours\n"), GuestEnd::Lost(died(1)));
    }

    #[test]
    fn words_are_those_of_the_command_line() {
        assert_eq!(word(BinderProfile::Linux6_12), "linux-6.12");
        assert_eq!(word(BinderProfile::Aosp), "aosp");
        assert_eq!(word(Clock::Virtual), "virtual");
        assert_eq!(word(BinderDriver::Kernel), "kernel");
        assert_eq!(word(Engine::Soft), "soft");
    }
}
