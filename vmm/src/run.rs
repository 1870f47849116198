//! `bindervm run`: from the arguments to the exit status.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_protocol::{AgentLink, ExecRequest};
use control::events::Event;
use control::place::{self, Bound};
use devices::input::InputQueue;
use devices::virtio::console::{Console, StreamPort};
use devices::virtio::rng::{Entropy, HostEntropy, Rng, SeededEntropy};
use machine::{
    Activity, ClockMode, ConsoleLog, End, Execution, Handle, Kind, Machine, MachineConfig, Outcome,
    SerialConsole, SnapshotRequest,
};
use rustix::pipe::{PipeFlags, pipe_with};

use self::binder::add_binder;
use self::fast::Fast;
use self::input::{Addressee, Interrupted, Target};
use self::input_log::{AgentInput, Logging, Terminal};
use self::limit::enforce_timeout;
use self::listener::{Listener, ready_at};
use self::report::Report;
use self::source::Source;
use self::standing::Voice;
use self::verdict::{agent_status, bare_status, machine_failure, thread_failure, trace_failure};
use crate::args::{ClockArg, EngineArg, JitArg, RunArgs};
use crate::exit::{Code, Failure, Status};
use crate::last;
use crate::serve::commands::Commands;
use crate::serve::console::ConsoleTap;
use crate::serve::events::Events;
use crate::serve::saver::Saver;
use crate::serve::watchers::Watchers;
use crate::serve::{self, Clients, Server};
use crate::snapshot;
use crate::terminal::{self, RawMode};

mod binder;
pub mod confine;
mod console;
mod debugger;
mod detach;
pub mod disk;
mod fast;
mod input;
mod input_log;
mod limit;
mod listener;
mod record;
pub mod report;
mod restore;
mod session;
pub mod share;
mod signal;
mod source;
pub mod standing;
mod verdict;
pub mod vsock;
pub mod world;

pub use self::binder::Binder;
pub use self::session::Session;
pub use self::standing::Standing;

/// Runs, tells how it ended, and gives the exit status of the process.
pub fn run(args: &RunArgs) -> u8 {
    if let Some(parent) = args.die_with {
        die_with(parent);
    }
    if args.detach {
        return detach::run(args);
    }
    if args.detached {
        detach::leave_session();
    }
    match Guest::prepare(args, Standing::alone()) {
        Ok(guest) => match confine::apply(args.sandbox, args.memory) {
            Ok(()) => guest.run(),
            Err(failure) => guest.refuse(failure),
        },
        Err(code) => code,
    }
}

/// A guest that is ready to run, with what is told of it when it has.
pub struct Guest {
    args: RunArgs,
    standing: Standing,
    report: Report,
    server: Option<Server>,
    events: Events,
    machine: Prepared,
}

impl Guest {
    /// Makes a guest ready. One that cannot be is told of, and its exit status given.
    pub fn prepare(args: &RunArgs, standing: Standing) -> Result<Guest, u8> {
        if let Some(path) = &args.status
            && let Err(error) = Report::prepare(path)
        {
            standing.voice.say(format_args!("cannot write the status file {}: {error}", path.display()));
            return Err(Code::Usage as u8);
        }
        let events = match Events::new(Instant::now(), args.events.as_ref()) {
            Ok(events) => events,
            Err(error) => {
                standing.voice.say(format_args!("cannot write the file of --events: {error}"));
                return Err(Code::Usage as u8);
            }
        };
        let mut report = Report::default();
        let mut server = None;
        match prepare(args, &standing, &mut report, &mut server, &events) {
            Ok(machine) => Ok(Guest { args: args.clone(), standing, report, server, events, machine }),
            Err(failure) => Err(conclude(args, &standing, report, server, &events, Err(failure))),
        }
    }

    /// Runs it on this thread, tells how it ended, and gives the exit status.
    pub fn run(self) -> u8 {
        let Guest { args, standing, mut report, server, events, machine } = self;
        let status = machine.run(&mut report, &standing, &events);
        conclude(&args, &standing, report, server, &events, status)
    }

    /// Ends it unrun.
    pub fn refuse(self, failure: Failure) -> u8 {
        conclude(&self.args, &self.standing, self.report, self.server, &self.events, Err(failure))
    }

    /// What it was made from.
    pub fn args(&self) -> &RunArgs {
        &self.args
    }

    /// Where its words go.
    pub fn voice(&self) -> Voice {
        self.standing.voice.clone()
    }
}

/// Tells how a run ended, and gives its exit status.
pub fn conclude(
    args: &RunArgs,
    standing: &Standing,
    report: Report,
    server: Option<Server>,
    events: &Events,
    status: Result<Status, Failure>,
) -> u8 {
    let voice = &standing.voice;
    voice.finish();
    let status = status.unwrap_or_else(|failure| {
        terminal::restore();
        voice.say(failure.chain());
        Status::Failed { reason: failure.code, message: failure.chain() }
    });
    if args.summary {
        report.print(voice);
    }
    let mut exit_code = status.exit_code();
    if let Some(path) = &args.status
        && let Err(error) = report.write(&status, path)
    {
        voice.say(format_args!("cannot write the status file {}: {error}", path.display()));
        exit_code = Code::Internal as u8;
    }
    if exit_code != 0 && args.seed != 0 && report.engine == Some(Kind::Soft) {
        voice.say(format_args!("the seed was {}; to repeat: {}", args.seed, last::command_line()));
    }
    report.last_run(exit_code).keep();
    events.end(exit_code, report.json(&status));
    if let Some(server) = server {
        server.finish(report.json(&status), exit_code);
    }
    exit_code
}

/// A machine with everything around it.
struct Prepared {
    machine: Machine,
    args: RunArgs,
    session: Session,
    interrupted: Arc<Interrupted>,
    binder: Leaving,
    link: Option<AgentLink>,
    raw_mode: Option<RawMode>,
    has_command: bool,
    is_replay: bool,
    /// The snapshot of `--fast`, while it is in use.
    _fast: Option<Fast>,
}

/// A guest that leaves the world that it shares when its machine is gone, however that came about.
struct Leaving(Binder);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn prepare(
    args: &RunArgs,
    standing: &Standing,
    report: &mut Report,
    server: &mut Option<Server>,
    events: &Events,
) -> Result<Prepared, Failure> {
    let began = Instant::now();
    let voice = &standing.voice;
    let logging = Logging::of(args)?;
    let (is_logged, is_replay) = (logging.is_on(), logging.is_replay());
    let fast = if args.fast { fast::prepare(args, voice)? } else { None };
    let args = fast.as_ref().map_or(args, |fast| &fast.args);
    let source = Source::find(args)?;
    // Without a command, `--snapshot-to` saves a guest that is up and does nothing.
    let only_saved = args.command.is_empty() && args.snapshot_to.is_some();
    let bound = bind(args)?;
    let interactive = args.command.is_empty()
        && !args.serve
        && !only_saved
        && source.has_agent()
        && standing.is_alone()
        && !is_replay
        && terminal::is_interactive();
    let terminal = logging.terminal(interactive.then(Terminal::own));
    let engine = choose_engine(args.engine, voice)?;
    let clock = match args.clock {
        // KVM has no other, whatever was asked for: neither its date nor its entropy is made to repeat.
        _ if engine == Kind::Kvm => ClockMode::Host,
        Some(ClockArg::Virtual) => ClockMode::Virtual,
        Some(ClockArg::Host) => ClockMode::Host,
        None if is_logged => ClockMode::Virtual,
        // Guests of one world wait for each other.
        None if interactive || standing.world.is_some() => ClockMode::Host,
        None => ClockMode::Virtual,
    };
    let session = Session::default();
    let trace_file = Arc::new(OnceLock::new());
    if let Some(timeout) = args.timeout {
        enforce_timeout(args, timeout, session.clone(), trace_file.clone(), standing.clone())?;
    }

    let log = ConsoleLog::new();
    let activity = Activity::new();
    let (serial, tap) = serial_console(args, &source, bound.is_some(), voice)?;
    let (memory_bytes, cpus) = source.size(args);
    let config = MachineConfig {
        memory_bytes,
        start: source.start(args),
        engine,
        cpus,
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
        serial,
        log: log.clone(),
        activity: activity.clone(),
        inputs: logging.inputs(args, &source, engine, terminal.as_ref())?,
        debugger: debugger::listen(args)?,
    };
    let mut machine = Machine::new(config).map_err(machine_failure)?;
    report.engine = Some(machine.engine());
    events.begin(&machine, source.start_event(args, machine.engine(), clock));

    let news = events.clone();
    machine.on_news(Box::new(move |told| news.went_wrong(told)));

    let mut entropy: Box<dyn Entropy> = match clock {
        ClockMode::Virtual if source.restores().is_some() => Box::new(restore::entropy(args.seed)),
        ClockMode::Virtual => Box::new(SeededEntropy::new(args.seed)),
        ClockMode::Host => {
            let host = HostEntropy::open();
            Box::new(host.map_err(|e| Failure::because(Code::Internal, "cannot open the host's entropy", e))?)
        }
    };
    let resume = match source.restores() {
        Some(_) => Some(restore::Resume::new(&mut *entropy, clock)?),
        None => None,
    };
    machine.add_virtio(Box::new(Rng::new(entropy))).map_err(machine_failure)?;
    let binder = add_binder(args, &source, &mut machine, standing.world.as_ref())?;
    if let Some(every) = args.events.as_ref().and_then(|target| target.metrics) {
        machine.observe(events.metrics(every, &machine, binder.clone()));
    }
    disk::add(args, &mut machine)?;
    share::add(args, &mut machine)?;
    vsock::add(args, &mut machine, &activity)?;
    // A pipe may have nobody who reads it.
    if args.trace.as_ref().is_some_and(|target| target.path.is_file()) {
        let _ = trace_file.set(binder.recording.clone());
    }

    let has_command = source.has_agent() && !args.serve && !only_saved;
    let (commands, watchers) = (Commands::default(), Watchers::default());
    let link = source.has_agent().then(|| {
        AgentLink::new(Box::new(Listener {
            session: session.clone(),
            voice: voice.clone(),
            activity: activity.clone(),
            handle: machine.handle(),
            clock: machine.clock(),
            began,
            save: args.snapshot_to.as_ref().map(|path| SnapshotRequest {
                path: path.clone(),
                labels: source.labels(args),
                stop: true,
            }),
            stdin_file: if interactive || !has_command || is_logged { None } else { regular_stdin(standing) },
            has_command,
            commands: commands.clone(),
            watchers: watchers.clone(),
            events: events.clone(),
        }))
    });
    if let Some(link) = &link {
        let console_port = StreamPort::new(log.tee(Box::new(io::sink())), InputQueue::new());
        machine
            .add_virtio(Box::new(Console::new(Box::new(console_port), Box::new(link.clone()))))
            .map_err(machine_failure)?;
    }
    if let (Some(resume), Some(link)) = (resume, &link) {
        resume.tell(link)?;
        session.set_ready(ready_at(began, machine.clock().now()));
        watchers.ready();
        events.tell(Event::AgentReady);
        // What is asked of the agent now is there from the first moment on.
        activity.set_busy(has_command);
        machine.handle().wake();
    }
    if let Some(link) = &link {
        let signals =
            signal::start(link.clone(), commands.clone(), machine.handle()).map_err(thread_failure)?;
        binder.recording.signals_by(signals);
    }
    let guest = Arc::new(serve::Guest {
        name: args.guest_name(),
        image: source.image_name.clone(),
        restored: source.restores().is_some(),
        engine: machine.engine(),
        clock_mode: clock,
        memory: memory_bytes,
        began,
        session: session.clone(),
        has_command,
        commands,
        watchers,
        events: events.clone(),
        console: tap,
        link: link.clone(),
        saver: Saver::new(machine.handle(), source.labels(args), events.clone()),
        handle: machine.handle(),
        clock: machine.clock(),
        gauges: machine.gauges(),
        binder: binder.clone(),
        clients: Clients::default(),
    });
    if let Some(bound) = bound {
        *server = Some(Server::start(bound, guest.clone()).map_err(thread_failure)?);
    }

    let target = match &link {
        Some(link) if has_command => {
            let request = exec_request(args, terminal);
            let id =
                link.exec(request).map_err(|e| Failure::because(Code::Usage, "cannot run the command", e))?;
            Some(Target { link: link.clone(), id, handle: machine.handle(), session: session.clone() })
        }
        _ => None,
    };
    if let Some(link) = link.as_ref().filter(|_| is_logged) {
        machine.add_input(Box::new(AgentInput::of(link)));
    }
    if is_replay {
        // Nobody outside says anything.
        session.stdin_ended();
    }
    let addressee = match &target {
        _ if is_replay => Addressee::Machine,
        Some(target) => Addressee::Command(target.clone()),
        None if args.serve => Addressee::Guest(guest),
        None => Addressee::Machine,
    };
    let interrupted =
        input::watch_signals(machine.handle(), addressee, trace_file).map_err(thread_failure)?;
    if let Some(target) = target
        && !is_replay
        && (interactive || is_logged || regular_stdin(standing).is_none())
    {
        input::pump_stdin(target).map_err(thread_failure)?;
    }
    let raw_mode = match interactive {
        true => {
            let raw = RawMode::enter();
            Some(raw.map_err(|e| Failure::because(Code::Internal, "cannot set up the terminal", e))?)
        }
        false => None,
    };

    let args = args.clone();
    let binder = Leaving(binder);
    Ok(Prepared {
        machine,
        args,
        session,
        interrupted,
        binder,
        link,
        raw_mode,
        has_command,
        is_replay,
        _fast: fast,
    })
}

impl Prepared {
    /// Runs it to its end.
    fn run(self, report: &mut Report, standing: &Standing, events: &Events) -> Result<Status, Failure> {
        let voice = &standing.voice;
        let boot_watch = match &self.link {
            // A debugger takes its time.
            Some(_) if self.args.gdb.is_some() => None,
            Some(_) => Some(watch_boot(self.machine.handle(), self.session.clone(), self.args.boot_timeout)?),
            None => None,
        };
        let outcome = self.machine.run();
        drop(self.raw_mode);
        self.session.finish();
        let binder = self.binder.0.clone();
        drop(self.binder);
        if let Some(watch) = boot_watch {
            // It cannot panic, and it has nothing to say.
            let _ = watch.join();
        }
        let outcome = outcome.map_err(machine_failure)?;
        if self.is_replay {
            tell_replay(&outcome, voice);
        }
        let tally = binder.recording.finish().map_err(trace_failure)?;
        report.fill(&outcome, binder.counters(), tally, self.session.ready());
        report.faults = binder.faults();
        report.handling = binder.handling();
        if let (Some(saved), Some(path)) = (self.session.saved(), &self.args.snapshot_to) {
            events.saved(path, saved.as_ref().err());
            saved.map_err(|error| snapshot::not_made(path, error))?;
            return Ok(if self.has_command { Status::Exited { code: 0 } } else { Status::Saved });
        }
        match self.link {
            Some(_) => agent_status(&self.session, &outcome, &self.interrupted, &self.args, voice),
            None => bare_status(&self.session, &outcome, &self.interrupted, voice),
        }
    }
}

/// The control socket of this run, if it has a name or a place. Bound before anything else is made:
/// a name that is taken is told at once.
fn bind(args: &RunArgs) -> Result<Option<Bound>, Failure> {
    let failed = |error| Failure::because(Code::Usage, "cannot make the control socket", error);
    let path = match (&args.control, &args.name) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => place::socket(name).map_err(failed)?,
        (None, None) => return Ok(None),
    };
    Bound::new(&path).map(Some).map_err(failed)
}

/// Says what a replay was, unless it went astray: that is told as the run's end.
fn tell_replay(outcome: &Outcome, voice: &Voice) {
    match (&outcome.end, outcome.stats.instructions) {
        (End::InputLog(_), _) => {}
        (End::Stopped | End::Timeout, _) => {
            voice.say("the replay ends where the recorded run was ended, or this one was")
        }
        (_, instructions) => voice.say(format_args!(
            "the replay is the recorded run: it ended after the same {} instructions",
            instructions.unwrap_or_default()
        )),
    }
}

/// Ends a run whose agent is not ready in time.
fn watch_boot(handle: Handle, session: Session, limit: Duration) -> Result<JoinHandle<()>, Failure> {
    let watch = move || {
        if !session.wait_ready(limit) {
            handle.stop();
        }
    };
    thread::Builder::new().name("boot-watch".into()).spawn(watch).map_err(thread_failure)
}

/// Ends this process when the thread that started it ends, even by a signal that it cannot catch.
pub fn die_with(parent: u32) {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    // It cannot fail with a signal that exists.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // It may have ended before that took hold.
    if getppid().is_none_or(|now| now.as_raw_nonzero().get() as u32 != parent) {
        std::process::exit(i32::from(Code::Internal as u8));
    }
}

/// Says in one line which engine runs the guest, where the choice was ours.
fn choose_engine(asked: EngineArg, voice: &Voice) -> Result<Kind, Failure> {
    let kind = match asked {
        EngineArg::Auto => Kind::Auto,
        EngineArg::Kvm => Kind::Kvm,
        EngineArg::Soft => Kind::Soft,
    };
    let choice = machine::choose(kind).map_err(|e| Failure::because(Code::BootFailed, "no engine", e))?;
    if kind == Kind::Auto {
        voice.say(format_args!("engine {}", choice.reason));
    }
    Ok(choice.kind)
}

/// With an agent the serial port is the guest's log; without one it is all the guest has. Clients of
/// the control socket see it in any case, and type into it where nobody else does.
fn serial_console(
    args: &RunArgs,
    source: &Source,
    has_socket: bool,
    voice: &Voice,
) -> Result<(SerialConsole, ConsoleTap), Failure> {
    let output = console::output(args, source, voice)?;
    let (input, typed) = match source.has_agent() || args.serve {
        false if !voice.is_alone() => (None, None),
        false => (rustix::io::dup(io::stdin()).ok(), None),
        true if has_socket => {
            let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
            let (input, typed) =
                pipe.map_err(|e| Failure::because(Code::Internal, "cannot make a pipe", e))?;
            (Some(input), Some(File::from(typed)))
        }
        true => (None, None),
    };
    let tap = ConsoleTap::new(typed);
    Ok((SerialConsole { output: tap.tee(output), input }, tap))
}

fn exec_request(args: &RunArgs, terminal: Option<Terminal>) -> ExecRequest {
    let argv = if args.command.is_empty() { vec!["/bin/sh".to_owned()] } else { args.command.clone() };
    let Terminal { size: tty, kind } = terminal.unwrap_or(Terminal { size: None, kind: None });
    let env = kind.map(|kind| ("TERM".to_owned(), kind)).into_iter().collect();
    ExecRequest { argv, env, cwd: None, tty, stdin: true }
}

/// Stdin where it is a regular file or /dev/null: what always has its bytes ready. In a group there is none.
fn regular_stdin(standing: &Standing) -> Option<Box<dyn io::Read + Send>> {
    if !standing.is_alone() {
        return Some(Box::new(io::empty()));
    }
    let file = File::from(rustix::io::dup(io::stdin()).ok()?);
    let kind = file.metadata().ok()?.file_type();
    let null = std::fs::metadata("/dev/null").ok()?;
    let is_null = {
        use std::os::unix::fs::MetadataExt;
        file.metadata().ok()?.rdev() == null.rdev() && null.rdev() != 0
    };
    if kind.is_file() || is_null { Some(Box::new(file)) } else { None }
}
