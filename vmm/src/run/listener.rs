//! The host's end of the agent's link: what it says, and what that means for the run and for the
//! clients of the control socket.

use std::io;
use std::time::{Duration, Instant};

use agent_protocol::{
    AgentEvent, AgentEvents, AgentLink, ExecId, ExitStatus, LostReason, STREAM_CHUNK, Stream,
};
use devices::cpu_time;
use machine::{Activity, Handle, SnapshotRequest};
use rustix::io::Errno;
use signal_hook::consts::SIGHUP;

use super::session::{CommandEnd, ReadyAt, Session};
use super::standing::Voice;
use crate::serve::commands::Commands;
use crate::serve::events::Events;
use crate::serve::watchers::Watchers;

/// Guest time that a command has to end when it was hung up.
const HANG_UP: Duration = Duration::from_secs(2);

/// Listens to the agent, on the vCPU's thread.
pub struct Listener {
    /// What is learnt goes here.
    pub session: Session,
    /// Where the guest's words and the output of its command go.
    pub voice: Voice,
    /// Guest time stands still while nothing is busy.
    pub activity: Activity,
    /// Ends the run where the agent cannot be understood.
    pub handle: Handle,
    /// Guest time.
    pub clock: engine::GuestClock,
    /// When the process began.
    pub began: Instant,
    /// Saves the guest, and ends the run: when it is up, or when its command has ended well if it has one.
    pub save: Option<SnapshotRequest>,
    /// A regular file as stdin is sent from here, at moments that guest time defines, so that a run
    /// with it repeats; anything else is sent by a thread.
    pub stdin_file: Option<Box<dyn io::Read + Send>>,
    /// The run has a command of its own, and ends with it.
    pub has_command: bool,
    /// Commands of the control socket's clients.
    pub commands: Commands,
    /// The run's own command, while it runs.
    pub own: Option<(AgentLink, ExecId)>,
    /// Clients that wait for the guest.
    pub watchers: Watchers,
    /// Who looks on.
    pub events: Events,
}

impl AgentEvents for Listener {
    fn event(&mut self, link: &AgentLink, event: AgentEvent<'_>) {
        self.events.heard(&event);
        match event {
            AgentEvent::Ready => {
                self.session.set_ready(ready_at(self.began, self.clock.now()));
                self.watchers.ready();
                if !self.has_command {
                    self.save_guest();
                }
                self.rest();
            }
            AgentEvent::Started(id, _) | AgentEvent::StdinRoom(id, _)
                if self.commands.is_nobodys(id, false) => {}
            AgentEvent::Exited(id, _) | AgentEvent::Failed(id, _) if self.commands.is_nobodys(id, true) => {
                self.rest();
            }
            AgentEvent::Started(id, pid) => match self.commands.find(id) {
                Some(exec) => exec.started(pid, &self.activity),
                None => {
                    self.own = Some((link.clone(), id));
                    // A file's bytes are there already; nobody says anything.
                    if self.stdin_file.is_none() {
                        self.session.started(self.activity.listen());
                    }
                }
            },
            AgentEvent::StdinRoom(id, room) => match (self.commands.find(id), &self.stdin_file) {
                (Some(exec), _) => exec.stdin_room(),
                (None, Some(_)) => self.send_file(link, id, room),
                (None, None) => self.session.set_room(room > 0),
            },
            AgentEvent::Exited(id, status) => match self.commands.remove(id) {
                Some(exec) => {
                    exec.exited(status);
                    self.rest();
                }
                None => self.command_ended(link, CommandEnd::Exited(status)),
            },
            AgentEvent::Failed(id, failure) => match self.commands.remove(id) {
                Some(exec) => {
                    exec.failed(failure);
                    self.rest();
                }
                None => {
                    let end = CommandEnd::NotStarted { errno: failure.errno, text: failure.text.clone() };
                    self.command_ended(link, end);
                }
            },
            AgentEvent::Log(text) => self.tell(&plain(text)),
            AgentEvent::Fatal(text) => {
                let text = plain(text);
                self.tell(&text);
                self.session.note(text);
            }
            AgentEvent::Lost(reason) => {
                self.own = None;
                self.session.set_lost(reason.clone());
                self.watchers.lost();
                self.commands.take().iter().for_each(|exec| exec.lost(Some(&reason.to_string())));
                // The guest goes down, and need not be kept waiting for that.
                self.activity.set_busy(true);
                // A guest whose agent closed its port goes down, and says why. One that speaks
                // another protocol would wait for ever.
                if *reason != LostReason::Closed {
                    self.handle.stop();
                }
            }
            AgentEvent::Hello(_) | AgentEvent::Synced(_) => {}
        }
    }

    fn output(&mut self, id: ExecId, stream: Stream, bytes: &[u8]) -> usize {
        if let Some(exec) = self.commands.find(id) {
            return exec.output(stream, bytes);
        }
        if self.commands.is_nobodys(id, false) {
            return bytes.len();
        }
        // Written through at once; a slow reader holds the guest back.
        match self.voice.output(stream, bytes) {
            Ok(()) => {}
            Err(Errno::PIPE) => self.hang_up(),
            Err(error) => self.session.set_unwritten(error),
        }
        bytes.len()
    }
}

/// Text of the guest without what would control the terminal it is shown on.
fn plain(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

impl Listener {
    /// Says what the guest said.
    fn tell(&self, text: &str) {
        self.voice.say(format_args!("guest: {text}"));
    }

    /// Lets guest time stand still where nobody asked for anything more.
    fn rest(&self) {
        let has_work = self.has_command || self.commands.count() > 0 || self.session.is_stopping();
        self.activity.set_busy(has_work);
    }

    /// Asks for the snapshot that is to be made: it is taken as soon as the guest is idle. False: there is
    /// none to be made.
    fn save_guest(&mut self) -> bool {
        let Some(request) = self.save.take() else { return false };
        self.session.set_saving(self.handle.snapshot(request));
        true
    }

    /// Nobody reads the command's output any more, as behind `| head`: it is hung up, as that of a client is
    /// who goes. One that does not listen, and prints on, ends with the guest.
    fn hang_up(&mut self) {
        let Some((link, id)) = &self.own else { return };
        let now = self.clock.now();
        match self.session.hang_up(now) {
            since if since == now => {
                let _ = link.signal(*id, SIGHUP as u32);
                let _ = link.close_stdin(*id);
                self.session.stdin_ended();
            }
            since if now - since > HANG_UP => {
                let _ = link.power_off();
                self.own = None;
            }
            _ => {}
        }
    }

    fn command_ended(&mut self, link: &AgentLink, end: CommandEnd) {
        self.own = None;
        let well = matches!(end, CommandEnd::Exited(ExitStatus::Code(0)));
        self.session.command_ended(end);
        if well && self.save_guest() {
            return;
        }
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

/// Now, in a process that began at `began`, at this guest time.
pub fn ready_at(began: Instant, guest: Duration) -> ReadyAt {
    ReadyAt { cpu: cpu_time::process(), wall: began.elapsed(), guest }
}
