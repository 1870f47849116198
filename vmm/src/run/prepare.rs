//! Making a guest ready, step by step: what is decided first, then the machine and its devices, the
//! agent's channel, the control socket, and last the ways in for what a person types.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_protocol::{AgentLink, ExecRequest};
use control::events::Event;
use control::place::{self, Bound};
use devices::input::InputQueue;
use devices::virtio::console::{Console, StreamPort};
use devices::virtio::rng::{Entropy, HostEntropy, Rng, SeededEntropy};
use machine::{
    Activity, ClockMode, ConsoleLog, Execution, Kind, Machine, MachineConfig, SerialConsole, SnapshotRequest,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::binder::{Binder, add_binder};
use super::input::{Addressee, Interrupted, Target};
use super::input_log::{AgentInput, Logging, Terminal};
use super::limit::enforce_timeout;
use super::listener::{Listener, ready_at};
use super::prepared::{Leaving, Prepared};
use super::record::Recording;
use super::report::Report;
use super::session::Session;
use super::source::Source;
use super::standing::{Standing, Voice};
use super::verdict::{machine_failure, thread_failure};
use super::{console, debugger, disk, fast, input, restore, share, signal, vsock};
use crate::args::{ClockArg, EngineArg, JitArg, RunArgs};
use crate::exit::{Code, Failure};
use crate::serve::commands::Commands;
use crate::serve::console::ConsoleTap;
use crate::serve::events::Events;
use crate::serve::saver::Saver;
use crate::serve::watchers::Watchers;
use crate::serve::{self, Clients, Server};
use crate::snapshot;
use crate::terminal::{self, RawMode};

/// Makes a guest ready. `report` and `server` are filled in on the way, for a run that fails there.
pub fn prepare(
    args: &RunArgs,
    standing: &Standing,
    report: &mut Report,
    server: &mut Option<Server>,
    events: &Events,
) -> Result<Prepared, Failure> {
    let began = Instant::now();
    if let Some(path) = &args.snapshot_to {
        snapshot::check(path)?;
    }
    let logging = Logging::of(args)?;
    let fast = if args.fast { fast::prepare(args, &standing.voice)? } else { None };
    let args = fast.as_ref().map_or(args, |fast| &fast.args);
    let source = Source::find(args)?;
    let bound = bind(args)?;
    let making = Making::decide(args, standing, events, source, &logging, began)?;
    making.limit_time()?;

    let (serial, tap) = making.serial_console(bound.is_some())?;
    let mut machine = making.machine(serial, logging)?;
    report.engine = Some(machine.engine());
    making.tell_begin(&mut machine);
    let resume = making.add_entropy(&mut machine)?;
    let binder = making.add_devices(&mut machine)?;
    let link = making.add_agent(&mut machine)?;
    if let Some(link) = &link {
        if let Some(resume) = resume {
            making.go_on(resume, link, &machine)?;
        }
        let signals = signal::start(link.clone(), making.commands.clone(), machine.handle());
        binder.recording.signals_by(signals.map_err(thread_failure)?);
    }

    let guest = Arc::new(making.served(&machine, &binder, link.clone(), tap));
    if let Some(bound) = bound {
        *server = Some(Server::start(bound, guest.clone()).map_err(thread_failure)?);
    }
    let target = match &link {
        Some(link) if making.has_command => Some(making.ask_for_command(link, &machine)?),
        _ => None,
    };
    if let Some(link) = link.as_ref().filter(|_| making.is_logged) {
        machine.add_input(Box::new(AgentInput::of(link)));
    }
    let interrupted = making.listen(&machine, target, guest)?;
    let raw_mode = match making.is_interactive {
        true => {
            let raw = RawMode::enter();
            Some(raw.map_err(|e| Failure::because(Code::Internal, "cannot set up the terminal", e))?)
        }
        false => None,
    };
    Ok(Prepared {
        machine,
        args: args.clone(),
        interrupted,
        binder: Leaving(binder),
        link,
        raw_mode,
        has_command: making.has_command,
        is_replay: making.is_replay,
        console_log: making.console_log,
        session: making.session,
        _fast: fast,
    })
}

/// A guest in the making: what it is made from, what was decided, and what its parts share.
struct Making<'a> {
    args: &'a RunArgs,
    standing: &'a Standing,
    events: &'a Events,
    source: Source,
    began: Instant,
    engine: Kind,
    clock: ClockMode,
    /// A person at a terminal types for a shell.
    is_interactive: bool,
    /// The run has a command of its own (the shell of a terminal, too), and ends with it.
    has_command: bool,
    /// Input is written down, or comes from a log.
    is_logged: bool,
    /// Input comes from a log.
    is_replay: bool,
    /// What the command runs on, if that is a terminal.
    terminal: Option<Terminal>,
    session: Session,
    activity: Activity,
    log: ConsoleLog,
    /// The file of the serial console.
    console_log: console::Log,
    commands: Commands,
    watchers: Watchers,
    /// The recording, if its file is one that is to be saved in a hurry.
    trace_file: Arc<OnceLock<Recording>>,
}

impl<'a> Making<'a> {
    /// Decides what kind of run it is. Nothing is made yet.
    fn decide(
        args: &'a RunArgs,
        standing: &'a Standing,
        events: &'a Events,
        source: Source,
        logging: &Logging,
        began: Instant,
    ) -> Result<Making<'a>, Failure> {
        // Without a command, `--snapshot-to` saves a guest that is up and does nothing.
        let only_saved = args.command.is_empty() && args.snapshot_to.is_some();
        let has_command = source.has_agent() && !args.serve && !only_saved;
        let is_interactive = has_command
            && args.command.is_empty()
            && standing.is_alone()
            && !logging.is_replay()
            && terminal::is_interactive();
        let engine = choose_engine(args.engine, &standing.voice)?;
        let clock = match args.clock {
            // KVM has no other, whatever was asked for: neither its date nor its entropy is made to repeat.
            _ if engine == Kind::Kvm => ClockMode::Host,
            Some(ClockArg::Virtual) => ClockMode::Virtual,
            Some(ClockArg::Host) => ClockMode::Host,
            None if logging.is_on() => ClockMode::Virtual,
            // Guests of one world wait for each other.
            None if is_interactive || standing.world.is_some() => ClockMode::Host,
            None => ClockMode::Virtual,
        };
        Ok(Making {
            args,
            standing,
            events,
            source,
            began,
            engine,
            clock,
            is_interactive,
            has_command,
            is_logged: logging.is_on(),
            is_replay: logging.is_replay(),
            terminal: logging.terminal(is_interactive.then(Terminal::own)),
            session: Session::default(),
            activity: Activity::new(),
            log: ConsoleLog::new(),
            console_log: console::Log::default(),
            commands: Commands::default(),
            watchers: Watchers::default(),
            trace_file: Arc::default(),
        })
    }

    fn limit_time(&self) -> Result<(), Failure> {
        let Some(timeout) = self.args.timeout else { return Ok(()) };
        let (session, recording) = (self.session.clone(), self.trace_file.clone());
        enforce_timeout(self.args, timeout, session, recording, self.standing.clone())
    }

    /// With an agent the serial port is the guest's log; without one it is all the guest has. Clients of
    /// the control socket see it in any case, and type into it where nobody else does.
    fn serial_console(&self, has_socket: bool) -> Result<(SerialConsole, ConsoleTap), Failure> {
        let voice = &self.standing.voice;
        let output = console::output(self.args, &self.source, voice, &self.console_log)?;
        let (input, typed) = match self.source.has_agent() || self.args.serve {
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

    /// The machine, without what is on its bus.
    fn machine(&self, serial: SerialConsole, logging: Logging) -> Result<Machine, Failure> {
        let (memory_bytes, cpus) = self.source.size(self.args);
        let config = MachineConfig {
            memory_bytes,
            start: self.source.start(self.args),
            engine: self.engine,
            cpus,
            clock: self.clock,
            seed: self.args.seed,
            execution: match self.args.cpu_jit {
                JitArg::On => Execution::COMPILE,
                JitArg::Off => Execution::Interpret,
            },
            timeout: self.args.timeout,
            rtc_base: match self.clock {
                ClockMode::Virtual => self.source.build_date,
                ClockMode::Host => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            },
            serial,
            log: self.log.clone(),
            activity: self.activity.clone(),
            inputs: logging.inputs(self.args, &self.source, self.engine, self.terminal.as_ref())?,
            debugger: debugger::listen(self.args)?,
        };
        Machine::new(config).map_err(machine_failure)
    }

    /// Tells who looks on that there is a machine, and has it tell what goes wrong.
    fn tell_begin(&self, machine: &mut Machine) {
        let start = self.source.start_event(self.args, machine.engine(), self.clock);
        self.events.begin(machine, start);
        let news = self.events.clone();
        machine.on_news(Box::new(move |told| news.went_wrong(told)));
    }

    /// Adds the source of entropy. Gives what a guest that was saved is told when it goes on.
    fn add_entropy(&self, machine: &mut Machine) -> Result<Option<restore::Resume>, Failure> {
        let is_restored = self.source.restores().is_some();
        let mut entropy: Box<dyn Entropy> = match self.clock {
            ClockMode::Virtual if is_restored => Box::new(restore::entropy(self.args.seed)),
            ClockMode::Virtual => Box::new(SeededEntropy::new(self.args.seed)),
            ClockMode::Host => {
                let host = HostEntropy::open();
                Box::new(
                    host.map_err(|e| Failure::because(Code::Internal, "cannot open the host's entropy", e))?,
                )
            }
        };
        let resume = match is_restored {
            true => Some(restore::Resume::new(&mut *entropy, self.clock)?),
            false => None,
        };
        machine.add_virtio(Box::new(Rng::new(entropy))).map_err(machine_failure)?;
        Ok(resume)
    }

    /// Adds binder, disks, folders and sockets.
    fn add_devices(&self, machine: &mut Machine) -> Result<Binder, Failure> {
        let args = self.args;
        let binder = add_binder(args, &self.source, machine, self.standing.world.as_ref())?;
        if let Some(every) = args.events.as_ref().and_then(|target| target.metrics) {
            machine.observe(self.events.metrics(every, machine, binder.clone()));
        }
        disk::add(args, machine)?;
        share::add(args, machine)?;
        vsock::add(args, machine, &self.activity)?;
        // A pipe may have nobody who reads it.
        if args.trace.as_ref().is_some_and(|target| target.path.is_file()) {
            let _ = self.trace_file.set(binder.recording.clone());
        }
        Ok(binder)
    }

    /// Adds the console that the agent speaks through, if the guest has one.
    fn add_agent(&self, machine: &mut Machine) -> Result<Option<AgentLink>, Failure> {
        if !self.source.has_agent() {
            return Ok(None);
        }
        let link = AgentLink::new(Box::new(Listener {
            session: self.session.clone(),
            voice: self.standing.voice.clone(),
            activity: self.activity.clone(),
            handle: machine.handle(),
            clock: machine.clock(),
            began: self.began,
            save: self.args.snapshot_to.as_ref().map(|path| SnapshotRequest {
                path: path.clone(),
                labels: self.source.labels(self.args),
                stop: true,
            }),
            stdin_file: if self.has_command { self.stdin_file() } else { None },
            has_command: self.has_command,
            commands: self.commands.clone(),
            own: None,
            watchers: self.watchers.clone(),
            events: self.events.clone(),
        }));
        let port = StreamPort::new(self.log.tee(Box::new(io::sink())), InputQueue::new());
        let console = Console::new(Box::new(port), Box::new(link.clone()));
        machine.add_virtio(Box::new(console)).map_err(machine_failure)?;
        Ok(Some(link))
    }

    /// A guest that was saved is up at once.
    fn go_on(&self, resume: restore::Resume, link: &AgentLink, machine: &Machine) -> Result<(), Failure> {
        resume.tell(link)?;
        self.session.set_ready(ready_at(self.began, machine.clock().now()));
        self.watchers.ready();
        self.events.tell(Event::AgentReady);
        // What is asked of the agent now is there from the first moment on.
        self.activity.set_busy(self.has_command);
        machine.handle().wake();
        Ok(())
    }

    /// The guest as clients of the control socket see it.
    fn served(
        &self,
        machine: &Machine,
        binder: &Binder,
        link: Option<AgentLink>,
        console: ConsoleTap,
    ) -> serve::Guest {
        serve::Guest {
            name: self.args.guest_name(),
            image: self.source.image_name.clone(),
            restored: self.source.restores().is_some(),
            engine: machine.engine(),
            clock_mode: self.clock,
            memory: self.source.size(self.args).0,
            began: self.began,
            session: self.session.clone(),
            has_command: self.has_command,
            commands: self.commands.clone(),
            watchers: self.watchers.clone(),
            events: self.events.clone(),
            console,
            link,
            saver: Saver::new(machine.handle(), self.source.labels(self.args), self.events.clone()),
            handle: machine.handle(),
            clock: machine.clock(),
            gauges: machine.gauges(),
            binder: binder.clone(),
            clients: Clients::default(),
        }
    }

    /// Asks the agent for the command of the run.
    fn ask_for_command(&self, link: &AgentLink, machine: &Machine) -> Result<Target, Failure> {
        let argv = match self.args.command.is_empty() {
            true => vec!["/bin/sh".to_owned()],
            false => self.args.command.clone(),
        };
        let Terminal { size: tty, kind } =
            self.terminal.clone().unwrap_or(Terminal { size: None, kind: None });
        let env = kind.map(|kind| ("TERM".to_owned(), kind)).into_iter().collect();
        let id = link
            .exec(ExecRequest { argv, env, cwd: None, tty, stdin: true })
            .map_err(|e| Failure::because(Code::Usage, "cannot run the command", e))?;
        Ok(Target { link: link.clone(), id, handle: machine.handle(), session: self.session.clone() })
    }

    /// Listens to signals, and to a stdin whose bytes may come at any time.
    fn listen(
        &self,
        machine: &Machine,
        target: Option<Target>,
        guest: Arc<serve::Guest>,
    ) -> Result<Arc<Interrupted>, Failure> {
        let addressee = match &target {
            _ if self.is_replay => Addressee::Machine,
            Some(target) => Addressee::Command(target.clone()),
            None if self.args.serve => Addressee::Guest(guest),
            None => Addressee::Machine,
        };
        let signals = input::watch_signals(machine.handle(), addressee, self.trace_file.clone());
        let interrupted = signals.map_err(thread_failure)?;
        if self.is_replay {
            // Nobody outside says anything.
            self.session.stdin_ended();
        } else if let Some(target) = target
            && self.stdin_file().is_none()
        {
            input::pump_stdin(target).map_err(thread_failure)?;
        }
        Ok(interrupted)
    }

    /// Stdin, where all of its bytes are there from the beginning and nobody writes them down.
    fn stdin_file(&self) -> Option<Box<dyn io::Read + Send>> {
        if self.is_interactive || self.is_logged { None } else { regular_stdin(self.standing) }
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

/// Says in one line which engine runs the guest, where the choice was ours.
pub fn choose_engine(asked: EngineArg, voice: &Voice) -> Result<Kind, Failure> {
    let kind = match asked {
        EngineArg::Auto => Kind::Auto,
        EngineArg::Kvm => Kind::Kvm,
        EngineArg::Soft => Kind::Soft,
    };
    let choice = machine::choose(kind).map_err(|e| Failure::because(Code::BootFailed, "no engine", e))?;
    if let Some(doubt) = choice.doubt {
        voice.say(format_args!("--engine {kind}: {doubt}"));
    }
    if kind == Kind::Auto {
        voice.say(format_args!("engine {}", choice.reason));
    }
    Ok(choice.kind)
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
