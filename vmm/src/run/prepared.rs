//! A guest that is ready, until its end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agent_protocol::AgentLink;
use machine::{End, Handle, Machine, Outcome};

use super::binder::Binder;
use super::console;
use super::fast::Fast;
use super::input::Interrupted;
use super::report::Report;
use super::session::Session;
use super::standing::{Standing, Voice};
use super::verdict::{agent_status, bare_status, machine_failure, thread_failure, trace_failure};
use crate::args::RunArgs;
use crate::exit::{Failure, Status};
use crate::serve::events::Events;
use crate::snapshot;
use crate::terminal::RawMode;

/// A machine with everything around it.
pub struct Prepared {
    pub machine: Machine,
    pub args: RunArgs,
    pub session: Session,
    pub interrupted: Arc<Interrupted>,
    pub binder: Leaving,
    pub link: Option<AgentLink>,
    pub raw_mode: Option<RawMode>,
    pub has_command: bool,
    pub is_replay: bool,
    pub console_log: console::Log,
    /// The snapshot of `--fast`, while it is in use.
    pub _fast: Option<Fast>,
}

/// A guest that leaves the world that it shares when its machine is gone, however that came about.
pub struct Leaving(pub Binder);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Prepared {
    /// Runs it to its end.
    pub fn run(self, report: &mut Report, standing: &Standing, events: &Events) -> Result<Status, Failure> {
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
        if let Some(lost) = binder.recording.lost() {
            voice.say(lost);
        }
        report.fill(&outcome, binder.counters(), tally, self.session.ready());
        report.faults = binder.faults();
        report.handling = binder.handling();
        self.console_log.finish(&self.args)?;
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
