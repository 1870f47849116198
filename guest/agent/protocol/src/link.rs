//! The host's end of the channel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::frame::{Decoder, FrameError, HEADER, MAX_PAYLOAD};
use crate::message::SEED;
use crate::message::{
    ExecFailure, ExecId, ExecRequest, ExitStatus, GuestMessage, Hello, HostMessage, Stream, WindowSize,
};
use crate::saved::{BadLink, NotSaved, SavedCommand, SavedLink};
use crate::window::{ReceiveWindow, SendWindow, WindowError};
use crate::{STREAM_CHUNK, VERSION};

/// The most bytes that wait for the guest to take them: a few of the largest commands.
const MAX_OUTBOX: usize = 4 * MAX_PAYLOAD;

/// How much of that is for stdin, so that signals and commands get through whatever is piped.
const MAX_STDIN_OUTBOX: usize = MAX_OUTBOX / 4;

/// How far the agent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing heard yet.
    Waiting,
    /// Hello was heard; modules and services are being started.
    Booting,
    /// Commands run.
    Ready,
    /// The agent is gone, or talks nonsense. Final.
    Lost,
}

/// Why the agent was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostReason {
    /// It closed the port: it died or the guest goes down.
    #[error("the agent closed its port")]
    Closed,
    /// It speaks another version.
    #[error("the agent speaks protocol version {0}, this program {VERSION}: rebuild the image")]
    Version(u32),
    /// Its frames make no sense.
    #[error("the agent sent nonsense: {0}")]
    Frame(#[from] FrameError),
    /// It broke flow control.
    #[error("the agent broke flow control: {0}")]
    Window(#[from] WindowError),
    /// It spoke of a command that does not run.
    #[error("the agent spoke of command {}, which does not run", .0.0)]
    UnknownCommand(ExecId),
    /// It sent something at the wrong time.
    #[error("the agent sent {0} at the wrong time")]
    OutOfOrder(&'static str),
}

/// A request to the link was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The agent is gone.
    #[error("the guest's agent is gone")]
    Lost,
    /// There is no program in the request, or a NUL in one of its strings.
    #[error("not a command: no program, or a NUL character in it")]
    BadCommand,
    /// The command line and environment are longer than a frame.
    #[error("the command line and its environment are longer than {MAX_PAYLOAD} bytes")]
    TooLong,
    /// The command has ended, was never started, or has no open stdin.
    #[error("the command does not run or does not take this")]
    NotRunning,
    /// Too much waits for the guest already.
    #[error("the guest does not take what was sent to it")]
    Busy,
}

/// What the agent reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent<'a> {
    /// It is there.
    Hello(&'a Hello),
    /// Commands run from now on; those queued are on their way.
    Ready,
    /// A command runs under this process id.
    Started(ExecId, u32),
    /// A command's stdin has room for this many bytes in all: told after Started, and again
    /// when the command took much of what was sent.
    StdinRoom(ExecId, usize),
    /// A command ended; all its output was delivered before.
    Exited(ExecId, ExitStatus),
    /// A command did not start.
    Failed(ExecId, &'a ExecFailure),
    /// The answer to [`AgentLink::sync`].
    Synced(u32),
    /// For a person to read.
    Log(&'a str),
    /// The guest is not what its image promises; it goes on where it can.
    Fatal(&'a str),
    /// No more events come. Commands that ran have no exit status.
    Lost(&'a LostReason),
}

/// Who listens. Called inline where the guest's bytes arrive, on the vCPU's thread; `link` may be
/// used from inside.
pub trait AgentEvents: Send {
    /// Something happened.
    fn event(&mut self, link: &AgentLink, event: AgentEvent<'_>);

    /// A command wrote `bytes`. Returns how many of them were disposed of; who keeps some says so
    /// later with [`AgentLink::grant`], and the guest is held back until then.
    fn output(&mut self, id: ExecId, stream: Stream, bytes: &[u8]) -> usize;
}

/// A handle on the agent of one guest. Clones reach the same agent.
///
/// What is asked for before the agent is ready waits and is sent in the same doorbell that brought
/// the Ready, and what a listener asks for from inside an event is sent in the doorbell that brought
/// the event. What any other thread asks for later is sent when the console device is next serviced,
/// so that the moment is the machine's to choose and not the host scheduler's.
#[derive(Clone)]
pub struct AgentLink {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Locked before `state`, and while the listener runs; `state` is not.
    ear: Mutex<Ear>,
}

struct Ear {
    decoder: Decoder,
    events: Box<dyn AgentEvents>,
}

struct State {
    phase: LinkState,
    /// The agent knows what to do after a restore.
    can_resume: bool,
    next_id: u32,
    commands: BTreeMap<ExecId, Command>,
    /// The agent's to take.
    outbox: VecDeque<u8>,
    /// Asked for by other threads since the last service.
    asked: Vec<u8>,
    /// See [`AgentLink::hold`].
    held: bool,
    /// Commands whose stdin waits for room in the outbox.
    starved: BTreeSet<ExecId>,
    /// The thread that is delivering the guest's bytes to the listener.
    listening: Option<ThreadId>,
}

struct Command {
    /// It ran when a snapshot was taken: nobody listens to it any more.
    orphan: bool,
    started: bool,
    /// `None`: closed, or never there.
    stdin: Option<SendWindow>,
    output: [ReceiveWindow; 2],
}

impl AgentLink {
    /// A link to a guest that has not started.
    pub fn new(events: Box<dyn AgentEvents>) -> Self {
        let state = State {
            phase: LinkState::Waiting,
            can_resume: false,
            next_id: 1,
            commands: BTreeMap::new(),
            outbox: VecDeque::new(),
            asked: Vec::new(),
            held: false,
            starved: BTreeSet::new(),
            listening: None,
        };
        let ear = Ear { decoder: Decoder::new(), events };
        AgentLink { shared: Arc::new(Shared { state: Mutex::new(state), ear: Mutex::new(ear) }) }
    }

    /// How far the agent has come.
    pub fn state(&self) -> LinkState {
        self.lock().phase
    }

    /// Runs a command, as soon as the agent is ready.
    pub fn exec(&self, request: ExecRequest) -> Result<ExecId, LinkError> {
        check(&request)?;
        let mut state = self.lock();
        let id = ExecId(state.next_id);
        // A terminal is always listened to.
        let stdin = (request.stdin || request.tty.is_some()).then(SendWindow::new);
        state.send(&HostMessage::Exec { id, request })?;
        state.next_id += 1;
        let output = [ReceiveWindow::new(), ReceiveWindow::new()];
        state.commands.insert(id, Command { orphan: false, started: false, stdin, output });
        Ok(id)
    }

    /// Sends as much of `bytes` to a command's stdin as its window has room for, and returns how
    /// much that was. [`AgentEvent::StdinRoom`] tells when there is more room.
    pub fn stdin(&self, id: ExecId, bytes: &[u8]) -> Result<usize, LinkError> {
        let mut state = self.lock();
        let room = state.stdin(id)?.room();
        let taken = &bytes[..bytes.len().min(room)];
        let mut sent = 0;
        for chunk in taken.chunks(STREAM_CHUNK) {
            if state.outbox.len() + state.asked.len() > MAX_STDIN_OUTBOX {
                state.starved.insert(id);
                break;
            }
            state.send(&HostMessage::Stdin { id, bytes: chunk })?;
            state.stdin(id)?.spend(chunk.len());
            sent += chunk.len();
        }
        Ok(sent)
    }

    /// Ends a command's stdin.
    pub fn close_stdin(&self, id: ExecId) -> Result<(), LinkError> {
        let mut state = self.lock();
        state.stdin(id)?;
        state.send(&HostMessage::StdinClosed { id })?;
        if let Some(command) = state.commands.get_mut(&id) {
            command.stdin = None;
        }
        Ok(())
    }

    /// Sends signal `signo` to a command's process group.
    pub fn signal(&self, id: ExecId, signo: u32) -> Result<(), LinkError> {
        self.lock().send_to(id, &HostMessage::Signal { id, signo })
    }

    /// Tells a command's terminal its new size.
    pub fn resize(&self, id: ExecId, size: WindowSize) -> Result<(), LinkError> {
        self.lock().send_to(id, &HostMessage::Resize { id, size })
    }

    /// `bytes` of output that [`AgentEvents::output`] had kept are disposed of. No error where the
    /// command has ended meanwhile.
    pub fn grant(&self, id: ExecId, stream: Stream, bytes: usize) -> Result<(), LinkError> {
        self.lock().taken(id, stream, bytes)
    }

    /// Asks for [`AgentEvent::Synced`] with `token` once everything sent before was acted upon.
    pub fn sync(&self, token: u32) -> Result<(), LinkError> {
        self.lock().send(&HostMessage::Sync { token })
    }

    /// Asks the agent to switch the guest off.
    pub fn power_off(&self) -> Result<(), LinkError> {
        self.lock().send(&HostMessage::PowerOff)
    }

    /// Tells the agent that its guest goes on from a snapshot: `seed` is mixed into the kernel's random
    /// numbers, and the clock is set to `time` since 1970, if that is not zero.
    pub fn resume(&self, seed: [u8; SEED], time: Duration) -> Result<(), LinkError> {
        self.lock().send(&HostMessage::Resume { seed, time })
    }

    /// The link as plain data. To be called on the thread that services it, between two of its calls.
    pub fn save(&self) -> Result<SavedLink, NotSaved> {
        let ear = self.ear();
        let state = self.lock();
        match state.phase {
            LinkState::Ready if state.can_resume => {}
            LinkState::Ready => return Err(NotSaved::CannotResume),
            _ => return Err(NotSaved::NotReady),
        }
        let saved = |(id, command): (&ExecId, &Command)| SavedCommand {
            id: id.0,
            started: command.started,
            output: [0, 1].map(|stream: usize| command.output[stream].saved()),
        };
        Ok(SavedLink {
            next_id: state.next_id,
            commands: state.commands.iter().map(saved).collect(),
            outbox: state.outbox.iter().chain(&state.asked).copied().collect(),
            heard: ear.decoder.rest().to_vec(),
        })
    }

    /// Makes a new link what another one was saved as. Its commands run on without a listener.
    pub fn restore(&self, saved: &SavedLink) -> Result<(), BadLink> {
        saved.check(MAX_OUTBOX)?;
        let mut ear = self.ear();
        let mut state = self.lock();
        let orphan = |command: &SavedCommand| Command {
            orphan: true,
            started: command.started,
            stdin: None,
            output: command.output.map(ReceiveWindow::restore),
        };
        state.phase = LinkState::Ready;
        state.can_resume = true;
        state.next_id = saved.next_id;
        state.commands = saved.commands.iter().map(|it| (ExecId(it.id), orphan(it))).collect();
        state.outbox = saved.outbox.iter().copied().collect();
        state.asked.clear();
        ear.decoder = Decoder::new();
        ear.decoder.push(&saved.heard);
        Ok(())
    }

    /// The agent opened or closed its port.
    pub fn opened(&self, open: bool) {
        if !open && self.state() != LinkState::Waiting {
            let mut ear = self.ear();
            self.lose(&mut ear, LostReason::Closed);
        }
    }

    /// Bytes from the agent.
    pub fn receive(&self, bytes: &[u8]) {
        let mut ear = self.ear();
        if self.state() == LinkState::Lost {
            return;
        }
        let Ear { decoder, events } = &mut *ear;
        decoder.push(bytes);
        self.lock().listening = Some(thread::current().id());
        let outcome = loop {
            match GuestMessage::decode(decoder) {
                Ok(Some(message)) => {
                    if let Err(reason) = self.take_message(&mut **events, message) {
                        break Err(reason);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        if let Err(reason) = outcome {
            self.lose(&mut ear, reason);
        }
        self.lock().listening = None;
    }

    /// What other threads asked for may be taken from now on.
    pub fn service(&self) {
        let mut state = self.lock();
        if !state.held {
            let asked = std::mem::take(&mut state.asked);
            state.outbox.extend(asked);
        }
    }

    /// Fills `buffer` with what is to be sent to the agent, and returns how much that is: nothing
    /// before the agent is ready.
    pub fn send_into(&self, buffer: &mut [u8]) -> usize {
        let mut state = self.lock();
        if state.phase != LinkState::Ready {
            return 0;
        }
        let length = buffer.len().min(state.outbox.len());
        for (to, from) in buffer.iter_mut().zip(state.outbox.drain(..length)) {
            *to = from;
        }
        let has_room = state.outbox.len() + state.asked.len() <= MAX_STDIN_OUTBOX / 2;
        let starved = if has_room { std::mem::take(&mut state.starved) } else { BTreeSet::new() };
        drop(state);
        if !starved.is_empty() {
            self.tell_room(starved);
        }
        length
    }

    /// Says that there is room again to those whose bytes the outbox had none for.
    fn tell_room(&self, starved: BTreeSet<ExecId>) {
        let mut ear = self.ear();
        self.lock().listening = Some(thread::current().id());
        for id in starved {
            let room = self.lock().stdin(id).map(|window| window.room());
            if let Ok(room) = room {
                ear.events.event(self, AgentEvent::StdinRoom(id, room));
            }
        }
        self.lock().listening = None;
    }

    fn take_message(
        &self,
        events: &mut dyn AgentEvents,
        message: GuestMessage<'_>,
    ) -> Result<(), LostReason> {
        let event = {
            let mut state = self.lock();
            match &message {
                GuestMessage::Hello(hello) => {
                    state.step(LinkState::Waiting, LinkState::Booting, "Hello")?;
                    if hello.version != VERSION {
                        return Err(LostReason::Version(hello.version));
                    }
                    state.can_resume = hello.can_resume;
                    AgentEvent::Hello(hello)
                }
                GuestMessage::Ready => {
                    state.step(LinkState::Booting, LinkState::Ready, "Ready")?;
                    AgentEvent::Ready
                }
                GuestMessage::Log(text) => AgentEvent::Log(text),
                GuestMessage::Fatal(text) => AgentEvent::Fatal(text),
                GuestMessage::Synced { token } => AgentEvent::Synced(*token),
                GuestMessage::Started { id, pid } => {
                    let command = state.command(*id)?;
                    if std::mem::replace(&mut command.started, true) {
                        return Err(LostReason::OutOfOrder("a second Started"));
                    }
                    if command.orphan {
                        return Ok(());
                    }
                    let room = command.stdin.as_ref().map(SendWindow::room);
                    drop(state);
                    events.event(self, AgentEvent::Started(*id, *pid));
                    match room {
                        Some(room) => AgentEvent::StdinRoom(*id, room),
                        None => return Ok(()),
                    }
                }
                GuestMessage::StdinCredit { id, bytes } => match &mut state.command(*id)?.stdin {
                    Some(window) => {
                        window.grant(*bytes)?;
                        AgentEvent::StdinRoom(*id, window.room())
                    }
                    // It crossed our StdinClosed.
                    None => return Ok(()),
                },
                GuestMessage::Output { id, stream, bytes } => {
                    let command = state.command(*id)?;
                    if !command.started {
                        return Err(LostReason::OutOfOrder("output before Started"));
                    }
                    command.output[*stream as usize].arrived(bytes.len())?;
                    let orphan = command.orphan;
                    drop(state);
                    let taken = if orphan { bytes.len() } else { events.output(*id, *stream, bytes) };
                    // It fails only where the link is lost.
                    let _ = self.lock().taken(*id, *stream, taken);
                    return Ok(());
                }
                GuestMessage::Exited { id, status } => {
                    let command = state.remove(*id)?;
                    if !command.started {
                        return Err(LostReason::OutOfOrder("Exited before Started"));
                    }
                    if command.orphan {
                        return Ok(());
                    }
                    AgentEvent::Exited(*id, *status)
                }
                GuestMessage::ExecFailed { id, failure } => {
                    let command = state.remove(*id)?;
                    if command.started {
                        return Err(LostReason::OutOfOrder("ExecFailed after Started"));
                    }
                    if command.orphan {
                        return Ok(());
                    }
                    AgentEvent::Failed(*id, failure)
                }
            }
        };
        events.event(self, event);
        Ok(())
    }

    fn lose(&self, ear: &mut Ear, reason: LostReason) {
        {
            let mut state = self.lock();
            if state.phase == LinkState::Lost {
                return;
            }
            state.phase = LinkState::Lost;
            state.commands.clear();
            state.outbox.clear();
            state.asked.clear();
        }
        ear.events.event(self, AgentEvent::Lost(&reason));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ear(&self) -> MutexGuard<'_, Ear> {
        self.shared.ear.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn step(&mut self, from: LinkState, to: LinkState, message: &'static str) -> Result<(), LostReason> {
        if self.phase != from {
            return Err(LostReason::OutOfOrder(message));
        }
        self.phase = to;
        Ok(())
    }

    fn command(&mut self, id: ExecId) -> Result<&mut Command, LostReason> {
        self.commands.get_mut(&id).ok_or(LostReason::UnknownCommand(id))
    }

    fn remove(&mut self, id: ExecId) -> Result<Command, LostReason> {
        self.commands.remove(&id).ok_or(LostReason::UnknownCommand(id))
    }

    fn stdin(&mut self, id: ExecId) -> Result<&mut SendWindow, LinkError> {
        self.commands.get_mut(&id).and_then(|command| command.stdin.as_mut()).ok_or(LinkError::NotRunning)
    }

    fn send_to(&mut self, id: ExecId, message: &HostMessage<'_>) -> Result<(), LinkError> {
        if !self.commands.contains_key(&id) {
            return Err(LinkError::NotRunning);
        }
        self.send(message)
    }

    fn send(&mut self, message: &HostMessage<'_>) -> Result<(), LinkError> {
        if self.phase == LinkState::Lost {
            return Err(LinkError::Lost);
        }
        let mut frame = Vec::new();
        message.encode(&mut frame);
        if frame.len() > HEADER + MAX_PAYLOAD {
            return Err(LinkError::TooLong);
        }
        // These are few for each command by nature, and one that got lost would never be made up for.
        let must_go = matches!(
            message,
            HostMessage::OutputCredit { .. } | HostMessage::StdinClosed { .. } | HostMessage::PowerOff
        );
        if !must_go && self.outbox.len() + self.asked.len() + frame.len() > MAX_OUTBOX {
            return Err(LinkError::Busy);
        }
        // Nothing is taken before Ready, so until then the order alone matters. It always does: what the
        // listener sends does not overtake what other threads asked for before.
        let is_listener = self.listening == Some(thread::current().id());
        let at_once = match self.held {
            true => is_listener,
            false => self.phase != LinkState::Ready || (is_listener && self.asked.is_empty()),
        };
        match at_once {
            true => self.outbox.extend(frame),
            false => self.asked.extend(frame),
        }
        Ok(())
    }

    fn taken(&mut self, id: ExecId, stream: Stream, bytes: usize) -> Result<(), LinkError> {
        let Some(command) = self.commands.get_mut(&id) else { return Ok(()) };
        match command.output[stream as usize].taken(bytes) {
            Some(bytes) => self.send(&HostMessage::OutputCredit { id, stream, bytes }),
            None => Ok(()),
        }
    }
}

fn check(request: &ExecRequest) -> Result<(), LinkError> {
    let mut strings = request.argv.iter().chain(request.cwd.as_ref());
    let env_is_plain = request
        .env
        .iter()
        .all(|(name, value)| !name.is_empty() && !name.contains(['\0', '=']) && !value.contains('\0'));
    let has_program = request.argv.first().is_some_and(|program| !program.is_empty());
    let plain = strings.all(|string| !string.contains('\0')) && env_is_plain;
    if has_program && plain { Ok(()) } else { Err(LinkError::BadCommand) }
}

mod logged;
#[cfg(test)]
mod tests;

pub use logged::BadFrames;
