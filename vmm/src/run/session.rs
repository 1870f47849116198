//! What is known of a run: of its guest, and of the command it is for.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use agent_protocol::{ExitStatus, LostReason};
use machine::{Header, Listening, SnapshotError};
use rustix::io::Errno;

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
    /// While the command runs and its stdin may bring bytes at any moment.
    listening: Option<Listening>,
    stdin_ended: bool,
    lost: Option<LostReason>,
    stopping: bool,
    over: bool,
    notes: Vec<String>,
    unwritten: Option<Errno>,
    hung_up: Option<Duration>,
    saving: Option<Saving>,
}

/// A snapshot that was asked for.
type Saving = mpsc::Receiver<Result<Header, SnapshotError>>;

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

    /// A snapshot was asked for.
    pub(super) fn set_saving(&self, answer: Saving) {
        self.update(|state| state.saving = Some(answer));
    }

    /// What became of the snapshot, after the run, if one was asked for.
    pub fn saved(&self) -> Option<Result<Header, SnapshotError>> {
        let saving = self.lock().saving.take()?;
        Some(saving.recv().unwrap_or(Err(SnapshotError::Ended)))
    }

    /// How the command ended, if it did.
    pub fn ended(&self) -> Option<CommandEnd> {
        self.lock().ended.clone()
    }

    /// The agent is ready.
    pub(super) fn set_ready(&self, at: ReadyAt) {
        self.update(|state| state.ready = Some(at));
    }

    /// The command runs. Unless its stdin has ended already, `listening` is kept until it does.
    pub(super) fn started(&self, listening: Listening) {
        self.update(|state| state.listening = (!state.stdin_ended).then_some(listening));
    }

    /// Nothing more comes for the command's stdin. [Wake](machine::Handle::wake) the guest.
    pub fn stdin_ended(&self) {
        self.update(|state| {
            state.stdin_ended = true;
            state.listening = None;
        });
    }

    /// The command's stdin has room, or not.
    pub(super) fn set_room(&self, room: bool) {
        self.update(|state| state.room = room);
    }

    /// The command has ended.
    pub(super) fn command_ended(&self, end: CommandEnd) {
        self.update(|state| {
            state.ended = Some(end);
            state.listening = None;
            state.stopping = true;
        });
    }

    /// The agent is gone.
    pub(super) fn set_lost(&self, reason: LostReason) {
        self.update(|state| {
            state.lost = Some(reason);
            state.listening = None;
        });
    }

    /// The agent complains.
    pub(super) fn note(&self, text: String) {
        self.update(|state| {
            if state.notes.len() < MAX_NOTES {
                state.notes.push(text);
            }
        });
    }

    /// Output of the command could not be written.
    pub(super) fn set_unwritten(&self, error: Errno) {
        self.update(|state| {
            state.unwritten.get_or_insert(error);
        });
    }

    /// Nobody reads the command's output any more, at this guest time. Gives the time when that was first so.
    pub(super) fn hang_up(&self, now: Duration) -> Duration {
        *self.lock().hung_up.get_or_insert(now)
    }

    /// Whether the command was hung up since nobody reads its output.
    pub fn is_hung_up(&self) -> bool {
        self.lock().hung_up.is_some()
    }

    /// The guest was asked to go down.
    pub fn stopping(&self) {
        self.update(|state| state.stopping = true);
    }

    /// Whether the guest was asked to go down.
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
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
