//! `bindervm run`: from the arguments to the exit status.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_protocol::{AgentLink, ExecRequest, ExitStatus, WindowSize};
use binder::{Census, Domain, GuestId, Limits, LsmMode, Profile};
use binder_trace::recording::{self, Writer};
use devices::input::InputQueue;
use devices::virtio::binder::{BinderDevice, Counters, SharedDomain, Timing};
use devices::virtio::console::{Console, StreamPort};
use devices::virtio::rng::{Entropy, HostEntropy, Rng, SeededEntropy};
use machine::{
    Activity, ClockMode, ConsoleLog, End, Kind, Machine, MachineConfig, MachineError, Outcome, SerialConsole,
};

use self::input::{Interrupted, Target};
use self::record::Recording;
use self::report::Report;
use self::session::{CommandEnd, Listener, Session};
use self::source::Source;
use crate::args::{BinderArg, BinderDeviceArg, ClockArg, EngineArg, ProfileArg, RunArgs};
use crate::exit::{Code, Failure, Status};
use crate::terminal::{self, RawMode};

mod input;
mod record;
mod report;
mod session;
mod source;

/// Wall time that a run has to end after its `--timeout`. The thread that runs the guest may sit in
/// a write to a pipe that nobody reads; nothing ends that but the end of the process.
const GRACE: Duration = Duration::from_secs(10);

/// The one guest of a run.
const GUEST: GuestId = GuestId(0);

/// Runs, tells how it ended, and gives the exit status of the process.
pub fn run(args: &RunArgs) -> u8 {
    if let Some(path) = &args.status
        && let Err(error) = Report::prepare(path)
    {
        eprintln!("bindervm: cannot write the status file {}: {error}", path.display());
        return Code::Usage as u8;
    }
    let mut report = Report::default();
    let status = match execute(args, &mut report) {
        Ok(status) => status,
        Err(failure) => {
            terminal::restore();
            eprintln!("bindervm: {}", failure.chain());
            Status::Failed { reason: failure.code, message: failure.chain() }
        }
    };
    if args.summary {
        report.print();
    }
    if let Some(path) = &args.status
        && let Err(error) = report.write(&status, path)
    {
        eprintln!("bindervm: cannot write the status file {}: {error}", path.display());
        return Code::Internal as u8;
    }
    status.exit_code()
}

fn execute(args: &RunArgs, report: &mut Report) -> Result<Status, Failure> {
    let began = Instant::now();
    let source = Source::find(args)?;
    let interactive = args.command.is_empty() && source.has_agent() && terminal::is_interactive();
    let engine = choose_engine(args.engine)?;
    let clock = match args.clock {
        // KVM has no other, whatever was asked for: neither its date nor its entropy is made to repeat.
        _ if engine == Kind::Kvm => ClockMode::Host,
        Some(ClockArg::Virtual) => ClockMode::Virtual,
        Some(ClockArg::Host) => ClockMode::Host,
        None if interactive => ClockMode::Host,
        None => ClockMode::Virtual,
    };
    let session = Session::default();
    let trace_file = Arc::new(OnceLock::new());
    if let Some(timeout) = args.timeout {
        enforce_timeout(args, timeout, session.clone(), trace_file.clone())?;
    }

    let log = ConsoleLog::new();
    let activity = Activity::new();
    let config = MachineConfig {
        memory_bytes: args.memory,
        kernel: source.kernel.clone(),
        initrd: source.initrd.clone(),
        cmdline: source.command_line(args),
        engine,
        clock,
        seed: args.seed,
        timeout: args.timeout,
        rtc_base: match clock {
            ClockMode::Virtual => source.build_date,
            ClockMode::Host => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        },
        serial: serial_console(args, &source),
        log: log.clone(),
        activity: activity.clone(),
    };
    let mut machine = Machine::new(config).map_err(machine_failure)?;
    report.engine = Some(machine.engine());

    let entropy: Box<dyn Entropy> = match clock {
        ClockMode::Virtual => Box::new(SeededEntropy::new(args.seed)),
        ClockMode::Host => {
            let host = HostEntropy::open();
            Box::new(host.map_err(|e| Failure::because(Code::Internal, "cannot open the host's entropy", e))?)
        }
    };
    machine.add_virtio(Box::new(Rng::new(entropy))).map_err(machine_failure)?;
    let binder = add_binder(args, &source, &mut machine)?;
    // A pipe may have nobody who reads it.
    if args.trace.as_ref().is_some_and(|path| path.is_file()) {
        let _ = trace_file.set(binder.recording.clone());
    }

    if !source.has_agent() {
        let interrupted = input::watch_signals(machine.handle(), None).map_err(thread_failure)?;
        let outcome = machine.run();
        session.finish();
        let outcome = outcome.map_err(machine_failure)?;
        report.fill(&outcome, binder.counters(), binder.recording.finish().map_err(trace_failure)?, None);
        return bare_status(&outcome, &interrupted);
    }

    let listener = Listener {
        session: session.clone(),
        activity,
        handle: machine.handle(),
        clock: machine.clock(),
        began,
        stdin_file: if interactive { None } else { regular_stdin() },
    };
    let sends_from_thread = listener.stdin_file.is_none();
    let link = AgentLink::new(Box::new(listener));
    let console_port = StreamPort::new(log.tee(Box::new(io::sink())), InputQueue::new());
    machine
        .add_virtio(Box::new(Console::new(Box::new(console_port), Box::new(link.clone()))))
        .map_err(machine_failure)?;

    let request = exec_request(args, interactive);
    let id = link.exec(request).map_err(|e| Failure::because(Code::Usage, "cannot run the command", e))?;
    let target = Target { link, id, handle: machine.handle(), session: session.clone() };
    let interrupted = input::watch_signals(machine.handle(), Some(target.clone())).map_err(thread_failure)?;
    if sends_from_thread {
        input::pump_stdin(target).map_err(thread_failure)?;
    }
    let raw_mode = if interactive {
        Some(
            RawMode::enter()
                .map_err(|e| Failure::because(Code::Internal, "cannot set up the terminal", e))?,
        )
    } else {
        None
    };

    let (handle, watched, boot_limit) = (machine.handle(), session.clone(), args.boot_timeout);
    let boot_watch = thread::Builder::new().name("boot-watch".into()).spawn(move || {
        if !watched.wait_ready(boot_limit) {
            handle.stop();
        }
    });
    let boot_watch = boot_watch.map_err(thread_failure)?;
    let outcome = machine.run();
    drop(raw_mode);
    session.finish();
    // It cannot panic, and it has nothing to say.
    let _ = boot_watch.join();
    let outcome = outcome.map_err(machine_failure)?;
    let tally = binder.recording.finish().map_err(trace_failure)?;
    report.fill(&outcome, binder.counters(), tally, session.ready());
    agent_status(&session, &outcome, &interrupted, args)
}

/// Says in one line which engine runs the guest, where the choice was ours.
fn choose_engine(asked: EngineArg) -> Result<Kind, Failure> {
    let kind = match asked {
        EngineArg::Auto => Kind::Auto,
        EngineArg::Kvm => Kind::Kvm,
        EngineArg::Soft => Kind::Soft,
    };
    let choice = machine::choose(kind).map_err(|e| Failure::because(Code::BootFailed, "no engine", e))?;
    if kind == Kind::Auto {
        eprintln!("bindervm: engine {}", choice.reason);
    }
    Ok(choice.kind)
}

/// With an agent the serial port is the guest's log; without one it is all the guest has.
fn serial_console(args: &RunArgs, source: &Source) -> SerialConsole {
    if source.has_agent() {
        let output: Box<dyn io::Write + Send> =
            if args.console { Box::new(io::stderr()) } else { Box::new(io::sink()) };
        SerialConsole { output, input: None }
    } else {
        let stdin: Option<OwnedFd> = rustix::io::dup(io::stdin()).ok();
        SerialConsole { output: Box::new(io::stdout()), input: stdin }
    }
}

/// Ends the process where a run outlives its `--timeout` by [`GRACE`]. What `recording` holds by then
/// is kept.
fn enforce_timeout(
    args: &RunArgs,
    timeout: Duration,
    session: Session,
    recording: Arc<OnceLock<Recording>>,
) -> Result<(), Failure> {
    let status_file = args.status.clone();
    let watch = move || {
        if session.wait_over(timeout.saturating_add(GRACE)) {
            return;
        }
        terminal::restore();
        let message =
            "the time of --timeout passed, and the run did not end (is our output read?)".to_owned();
        eprintln!("bindervm: {message}");
        let status = Status::Failed { reason: Code::Timeout, message };
        if let Some(path) = status_file {
            let _ = Report::default().write(&status, &path);
        }
        if let Some(recording) = recording.get() {
            recording.save();
        }
        std::process::exit(i32::from(status.exit_code()));
    };
    thread::Builder::new().name("timeout".into()).spawn(watch).map_err(thread_failure)?;
    Ok(())
}

/// The guest's binder world, as the end of the run needs it.
struct Binder {
    recording: Recording,
    counters: Arc<Mutex<Counters>>,
    domain: Option<SharedDomain>,
}

impl Binder {
    /// The device's counters. What the guest left is what the device found when it was last reset,
    /// or, where a guest went without a word, what is there now.
    fn counters(&self) -> Counters {
        let mut counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(domain) = &self.domain {
            let now = domain.lock().unwrap_or_else(PoisonError::into_inner).census(GUEST);
            if now != Census::default() {
                counters.left = now;
            }
        }
        counters
    }
}

fn add_binder(args: &RunArgs, source: &Source, machine: &mut Machine) -> Result<Binder, Failure> {
    let writer = match &args.trace {
        None => None,
        Some(path) => {
            let header = recording::Header {
                version: recording::VERSION,
                guest: args.name.clone().unwrap_or_else(|| "g0".to_owned()),
                image: source.image_name.clone(),
                engine: machine.engine().to_string(),
                command: args.command.clone(),
            };
            Some(Writer::create(path, &header).map_err(trace_failure)?)
        }
    };
    let recording = Recording::new(machine.clock(), writer, args.summary || args.status.is_some());
    if args.binder == BinderArg::Kernel {
        return Ok(Binder { recording, counters: Arc::default(), domain: None });
    }
    let profile = match args.binder_profile {
        ProfileArg::Linux6_1 => Profile::Linux6_1,
        ProfileArg::Linux6_12 => Profile::Linux6_12,
        ProfileArg::Linux7_2 => Profile::Linux7_2,
    };
    let limits = Limits { lsm: LsmMode::Cache, ..Limits::default() };
    let domain = Arc::new(Mutex::new(Domain::new(limits.clone(), profile)));
    let timing = match args.binder_device {
        BinderDeviceArg::Inline => Timing::Inline,
        BinderDeviceArg::Late => {
            let handle = machine.handle();
            Timing::Late { seed: args.seed, waker: Box::new(move || handle.wake()) }
        }
    };
    let device = BinderDevice::new(domain.clone(), GUEST, &limits, timing, Box::new(recording.clone()));
    let counters = device.counters();
    machine.add_virtio(Box::new(device)).map_err(machine_failure)?;
    Ok(Binder { recording, counters, domain: Some(domain) })
}

fn exec_request(args: &RunArgs, interactive: bool) -> ExecRequest {
    let argv = if args.command.is_empty() { vec!["/bin/sh".to_owned()] } else { args.command.clone() };
    let tty = if interactive {
        terminal::size().map(|size| WindowSize { rows: size.ws_row, cols: size.ws_col })
    } else {
        None
    };
    let env = match (interactive, std::env::var("TERM")) {
        (true, Ok(term)) => vec![("TERM".to_owned(), term)],
        _ => Vec::new(),
    };
    ExecRequest { argv, env, cwd: None, tty, stdin: true }
}

/// Stdin where it is a regular file or /dev/null: what always has its bytes ready.
fn regular_stdin() -> Option<Box<dyn io::Read + Send>> {
    let file = File::from(rustix::io::dup(io::stdin()).ok()?);
    let kind = file.metadata().ok()?.file_type();
    let null = std::fs::metadata("/dev/null").ok()?;
    let is_null = {
        use std::os::unix::fs::MetadataExt;
        file.metadata().ok()?.rdev() == null.rdev() && null.rdev() != 0
    };
    if kind.is_file() || is_null { Some(Box::new(file)) } else { None }
}

/// How a run without an agent ended.
fn bare_status(outcome: &Outcome, interrupted: &Interrupted) -> Result<Status, Failure> {
    match &outcome.end {
        End::PoweredOff | End::Reset => Ok(Status::PoweredOff),
        End::Panic(_) => Err(told(Code::GuestPanic, outcome, false)),
        End::Timeout => Err(told(Code::Timeout, outcome, false)),
        End::Halted | End::TripleFault(_) => Err(told(Code::GuestLost, outcome, false)),
        End::EngineFailed(_) => Err(told(Code::Internal, outcome, false)),
        End::Stopped => match interrupted.signal() {
            Some(signal) => Ok(Status::Signaled { signal }),
            None => Err(told(Code::Internal, outcome, false)),
        },
    }
}

/// How a run with an agent ended.
fn agent_status(
    session: &Session,
    outcome: &Outcome,
    interrupted: &Interrupted,
    args: &RunArgs,
) -> Result<Status, Failure> {
    if let (Some(error), None) = (session.unwritten(), interrupted.signal()) {
        return Err(Failure::because(Code::Internal, "cannot write the command's output", error));
    }
    match session.ended() {
        Some(CommandEnd::Exited(ExitStatus::Code(code))) => return Ok(Status::Exited { code }),
        Some(CommandEnd::Exited(ExitStatus::Signal(signal))) => return Ok(Status::Signaled { signal }),
        Some(CommandEnd::NotStarted { errno, text }) => {
            // As a shell has it: 127 where there is no such program, 126 where it cannot run.
            eprintln!(
                "bindervm: the guest cannot run {}: {text}",
                args.command.first().map_or("/bin/sh", |c| c)
            );
            return Ok(Status::Exited { code: if errno == 2 { 127 } else { 126 } });
        }
        None => {}
    }
    if let Some(signal) = interrupted.signal() {
        return Ok(Status::Signaled { signal });
    }
    let code = match &outcome.end {
        End::Panic(_) => Code::GuestPanic,
        End::Timeout => Code::Timeout,
        End::EngineFailed(_) => Code::Internal,
        _ if session.ready().is_none() => Code::BootFailed,
        _ => Code::GuestLost,
    };
    let failure = told(code, outcome, session.ready().is_none());
    for note in session.notes() {
        eprintln!("bindervm: the guest said: {note}");
    }
    match (&outcome.end, session.lost()) {
        // What stopped the run.
        (End::Stopped, Some(reason)) => Err(Failure::new(code, reason.to_string())),
        _ => Err(failure),
    }
}

/// A failure with the guest's last words before it.
fn told(code: Code, outcome: &Outcome, while_booting: bool) -> Failure {
    if !outcome.console.is_empty() {
        eprintln!("bindervm: the last lines of the guest's console:");
        for line in outcome.console.iter().rev().take(20).rev() {
            eprintln!("  | {line}");
        }
    }
    for failure in &outcome.device_failures {
        eprintln!("bindervm: a device gave up: {failure}");
    }
    let message = match (&outcome.end, while_booting) {
        (End::Timeout, true) => "the time of --timeout passed before the guest was up".to_owned(),
        (End::Timeout, false) => "the time of --timeout passed".to_owned(),
        (End::Stopped, true) => {
            "the guest's agent was not ready within --boot-timeout; see its console with --console".to_owned()
        }
        (end, true) => format!("the guest did not come up: {end}"),
        (end, false) => end.to_string(),
    };
    Failure::new(code, message)
}

fn machine_failure(error: MachineError) -> Failure {
    let code = match &error {
        MachineError::MemoryTooSmall { .. }
        | MachineError::MemoryTooLarge { .. }
        | MachineError::MemoryNotPages { .. }
        | MachineError::CommandLineTooLong { .. }
        | MachineError::CommandLineZero => Code::Usage,
        MachineError::Read { .. }
        | MachineError::NotElf { .. }
        | MachineError::LoadKernel { .. }
        | MachineError::KernelDoesNotFit { .. }
        | MachineError::InitrdDoesNotFit { .. } => Code::Image,
        MachineError::Engine(_) => Code::BootFailed,
        _ => Code::Internal,
    };
    Failure::because(code, "cannot start the guest", error)
}

fn trace_failure(error: recording::RecordingError) -> Failure {
    let code = match error {
        // The path is the command line's.
        recording::RecordingError::Open { .. } => Code::Usage,
        _ => Code::Internal,
    };
    Failure::because(code, "cannot record the trace", error)
}

fn thread_failure(error: io::Error) -> Failure {
    Failure::because(Code::Internal, "cannot start a thread", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_cannot_be_made_is_a_wrong_command_line() {
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let open = recording::RecordingError::Open { path: "/no/such/folder/x".into(), source: source() };
        assert_eq!(trace_failure(open).code, Code::Usage);
        assert_eq!(trace_failure(recording::RecordingError::Write(source())).code, Code::Internal);
    }
}
