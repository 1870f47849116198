//! `bindervm run`: from the arguments to the exit status.

use std::time::Instant;

use machine::Kind;

use self::prepare::prepare;
use self::prepared::Prepared;
use self::report::Report;
use self::standing::Voice;
use crate::args::RunArgs;
use crate::exit::{Code, Failure, Status};
use crate::last;
use crate::serve::Server;
use crate::serve::events::Events;
use crate::terminal;

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
mod prepare;
mod prepared;
mod record;
pub mod report;
mod restore;
mod session;
pub mod share;
mod signal;
mod sink;
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
        Ok(guest) => match confine::apply(args.sandbox, args.memory.0) {
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
    let unwritten = |error| Failure::because(Code::Internal, "cannot write the file of --events", error);
    let status = match (status, events.unwritten().map(unwritten)) {
        (Ok(_), Some(failure)) => Err(failure),
        (status, _) => status,
    };
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
    report.last_run(&status, exit_code).keep();
    events.end(exit_code, report.json(&status));
    if events.unwritten().is_some() {
        exit_code = Code::Internal as u8;
    }
    if let Some(server) = server {
        server.finish(report.json(&status), exit_code);
    }
    exit_code
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
