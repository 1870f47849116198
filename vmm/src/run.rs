//! `bindervm run`: from the arguments to the exit status.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_protocol::{AgentLink, ExecRequest, WindowSize};
use devices::input::InputQueue;
use devices::virtio::console::{Console, StreamPort};
use devices::virtio::rng::{Entropy, HostEntropy, Rng, SeededEntropy};
use machine::{Activity, ClockMode, ConsoleLog, Execution, Kind, Machine, MachineConfig, SerialConsole};

use self::binder::add_binder;
use self::input::Target;
use self::limit::enforce_timeout;
use self::report::Report;
use self::session::{Listener, Session};
use self::source::Source;
use self::verdict::{agent_status, bare_status, machine_failure, thread_failure, trace_failure};
use crate::args::{ClockArg, EngineArg, JitArg, RunArgs};
use crate::exit::{Code, Failure, Status};
use crate::terminal::{self, RawMode};

mod binder;
pub mod disk;
mod input;
mod limit;
mod record;
mod report;
mod session;
pub mod share;
mod source;
mod verdict;

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
        cpus: args.cpus,
        clock,
        seed: args.seed,
        execution: match args.cpu_jit {
            JitArg::On => Execution::COMPILE,
            JitArg::Off => Execution::Interpret,
        },
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
    disk::add(args, &mut machine)?;
    share::add(args, &mut machine)?;
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
