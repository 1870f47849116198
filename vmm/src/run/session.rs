//! The host's end of a run: what the agent says, and what it means for the command.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use agent_protocol::{
    AgentEvent, AgentEvents, AgentLink, ExecId, ExitStatus, LostReason, STREAM_CHUNK, Stream,
};
use machine::{Activity, Handle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::terminal;

/// The most complaints of the guest that are kept for the end of the run.
const MAX_NOTES: usize = 20;

/// What is known of the run so far. Clones share it.
#[derive(Clone, Default)]
pub struct Session {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

#[derive(Default)]
struct State {
    ready: Option<ReadyAt>,
    ended: Option<CommandEnd>,
    /// The command's stdin may take bytes.
    room: bool,
    lost: Option<LostReason>,
    over: bool,
    notes: Vec<String>,
    unwritten: Option<Errno>,
}

/// When the agent was ready to run commands.
#[derive(Clone, Copy, Debug)]
pub struct ReadyAt {
    /// CPU time of the whole process until then.
    pub cpu: Duration,
    /// Wall time since the process began its run.
    pub wall: Duration,
    /// Guest time.
    pub guest: Duration,
}

/// How the command ended.
#[derive(Clone, Debug)]
pub enum CommandEnd {
    /// By itself.
    Exited(ExitStatus),
    /// It was never started.
    NotStarted {
        /// Linux's error number.
        errno: i32,
        /// In words.
        text: String,
    },
}

impl Session {
    /// When the agent became ready, if it did.
    pub fn ready(&self) -> Option<ReadyAt> {
        self.lock().ready
    }

    /// How the command ended, if it did.
    pub fn ended(&self) -> Option<CommandEnd> {
        self.lock().ended.clone()
    }

    /// What the agent complained about.
    pub fn notes(&self) -> Vec<String> {
        self.lock().notes.clone()
    }

    /// Why the agent was lost, if it was.
    pub fn lost(&self) -> Option<LostReason> {
        self.lock().lost.clone()
    }

    /// Why output of the command could not be written, if some could not.
    pub fn unwritten(&self) -> Option<Errno> {
        self.lock().unwritten
    }

    /// Nothing more will happen: whoever waits may stop.
    pub fn finish(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Waits until the agent is ready or the run is over. False when `limit` passed first.
    pub fn wait_ready(&self, limit: Duration) -> bool {
        let waits = |state: &mut State| state.ready.is_none() && state.lost.is_none() && !state.over;
        let (_state, result) = self
            .changed
            .wait_timeout_while(self.lock(), limit, waits)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        !result.timed_out()
    }

    /// Waits until the run is over. False when `limit` passed first.
    pub fn wait_over(&self, limit: Duration) -> bool {
        let (_state, result) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| !state.over)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        !result.timed_out()
    }

    /// Waits until the command's stdin takes bytes. False when it never will again.
    pub fn wait_stdin_room(&self) -> bool {
        let takes = |state: &State| state.lost.is_none() && !state.over && state.ended.is_none();
        let waits = |state: &mut State| !state.room && takes(state);
        let state =
            self.changed.wait_while(self.lock(), waits).unwrap_or_else(|poisoned| poisoned.into_inner());
        takes(&state)
    }

    /// Offers bytes to the command's stdin: `offer` says how many it took. Where it took none, there
    /// is room again when the agent says so, even if it does while the offer is made.
    pub fn offer_stdin<E>(&self, offer: impl FnOnce() -> Result<usize, E>) -> Result<usize, E> {
        self.lock().room = false;
        let taken = offer()?;
        if taken > 0 {
            self.lock().room = true;
        }
        Ok(taken)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every field is valid by itself, whatever panicked while they were held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Listens to the agent, on the vCPU's thread.
pub struct Listener {
    /// What is learnt goes here.
    pub session: Session,
    /// Guest time stands still while nothing is busy.
    pub activity: Activity,
    /// Ends the run where the agent cannot be understood.
    pub handle: Handle,
    /// Guest time.
    pub clock: engine::GuestClock,
    /// When the process began.
    pub began: Instant,
    /// A regular file as stdin is sent from here, at moments that guest time defines, so that a run
    /// with it repeats; anything else is sent by a thread.
    pub stdin_file: Option<Box<dyn io::Read + Send>>,
}

impl AgentEvents for Listener {
    fn event(&mut self, link: &AgentLink, event: AgentEvent<'_>) {
        match event {
            AgentEvent::Ready => {
                let at =
                    ReadyAt { cpu: process_cpu_time(), wall: self.began.elapsed(), guest: self.clock.now() };
                self.session.update(|state| state.ready = Some(at));
            }
            AgentEvent::StdinRoom(id, room) => match &mut self.stdin_file {
                Some(_) => self.send_file(link, id, room),
                None => self.session.update(|state| state.room = room > 0),
            },
            AgentEvent::Exited(_, status) => self.command_ended(link, CommandEnd::Exited(status)),
            AgentEvent::Failed(_, failure) => {
                let end = CommandEnd::NotStarted { errno: failure.errno, text: failure.text.clone() };
                self.command_ended(link, end);
            }
            AgentEvent::Log(text) => tell(&plain(text)),
            AgentEvent::Fatal(text) => {
                let text = plain(text);
                tell(&text);
                self.session.update(|state| {
                    if state.notes.len() < MAX_NOTES {
                        state.notes.push(text);
                    }
                });
            }
            AgentEvent::Lost(reason) => {
                self.session.update(|state| state.lost = Some(reason.clone()));
                // A guest whose agent closed its port goes down, and says why. One that speaks
                // another protocol would wait for ever.
                if *reason != LostReason::Closed {
                    self.handle.stop();
                }
            }
            AgentEvent::Hello(_) | AgentEvent::Started(..) | AgentEvent::Synced(_) => {}
        }
    }

    fn output(&mut self, _id: ExecId, stream: Stream, bytes: &[u8]) -> usize {
        // Written through at once; a slow reader holds the guest back. One that went away (a closed
        // pipe) loses the bytes, not the run.
        let written = match stream {
            Stream::Stdout => write_all(io::stdout(), bytes),
            Stream::Stderr => write_all(io::stderr(), bytes),
        };
        if let Err(error) = written
            && error != Errno::PIPE
        {
            self.session.update(|state| {
                state.unwritten.get_or_insert(error);
            });
        }
        bytes.len()
    }
}

/// Writes all of `bytes`, and waits for a file that is full and does not block.
fn write_all(file: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says what the guest said, maybe while the terminal is raw.
fn tell(text: &str) {
    eprint!("bindervm: guest: {text}{}", terminal::newline());
}

/// Text of the guest without what would control the terminal it is shown on.
fn plain(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

impl Listener {
    fn command_ended(&mut self, link: &AgentLink, end: CommandEnd) {
        self.session.update(|state| state.ended = Some(end));
        // A guest that is already going down needs no asking.
        let _ = link.power_off();
        self.activity.set_busy(true);
    }

    /// Fills the room that the command's stdin has, or ends it where the file ends.
    fn send_file(&mut self, link: &AgentLink, id: ExecId, mut room: usize) {
        let Some(file) = &mut self.stdin_file else { return };
        let mut bytes = vec![0; room.min(STREAM_CHUNK)];
        while room > 0 {
            let most = bytes.len().min(room);
            let read = file.read(&mut bytes[..most]).unwrap_or(0);
            if read == 0 {
                let _ = link.close_stdin(id);
                return;
            }
            // The link takes it all: the window has room for it.
            let _ = link.stdin(id, &bytes[..read]);
            room -= read;
        }
    }
}

fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
