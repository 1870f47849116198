//! A command that a client of the control socket runs, between the agent and that client.
//!
//! Output goes to the client's queue as far as the stream's window allows, at once and on the vCPU's
//! thread; what is beyond it is held, and the agent gets no credit for it until the client took some.
//! Stdin is held likewise until the agent has room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::window::{ReceiveWindow, SendWindow, WindowError};
use agent_protocol::{AgentLink, ExecFailure, ExecId, ExitStatus, WindowSize};
use control::wire::{ErrorCode, Reply, Stream};
use machine::{Activity, Handle, Listening};

use super::peer::Peer;

/// What a hung-up terminal sends.
const SIGHUP: u32 = 1;

/// A command of a client.
pub struct RemoteExec {
    /// The client's number for it.
    request: u32,
    peer: Arc<Peer>,
    handle: Handle,
    state: Mutex<State>,
}

struct State {
    /// The agent's number for it.
    command: Option<(AgentLink, ExecId)>,
    output: [Out; 2],
    stdin: In,
    exited: Option<ExitStatus>,
    /// The client has gone: what the command prints is nobody's.
    orphan: bool,
}

/// Output on its way to the client.
struct Out {
    window: SendWindow,
    held: VecDeque<u8>,
}

/// Stdin on its way to the agent.
struct In {
    window: ReceiveWindow,
    held: VecDeque<u8>,
    /// The client has said all.
    closed: bool,
    /// It may bring bytes at any moment, and the command runs.
    live: Option<Listening>,
    /// It is told to the agent that it has ended, or was none.
    ended: bool,
}

impl RemoteExec {
    /// A command that is about to be asked for.
    pub fn new(request: u32, peer: Arc<Peer>, handle: Handle, has_stdin: bool) -> RemoteExec {
        let output = || Out { window: SendWindow::of(Stream::Stdout.window()), held: VecDeque::new() };
        let stdin = In {
            window: ReceiveWindow::of(Stream::Stdin.window()),
            held: VecDeque::new(),
            closed: !has_stdin,
            live: None,
            ended: !has_stdin,
        };
        let state = State { command: None, output: [output(), output()], stdin, exited: None, orphan: false };
        RemoteExec { request, peer, handle, state: Mutex::new(state) }
    }

    /// It was asked for under this number.
    pub fn asked(&self, link: AgentLink, id: ExecId) {
        self.lock().command = Some((link, id));
    }

    /// It runs.
    pub fn started(&self, pid: u32, activity: &Activity) {
        let mut state = self.lock();
        if !state.stdin.ended {
            state.stdin.live = Some(activity.listen());
        }
        self.peer.reply(self.request, Reply::Started { pid });
    }

    /// It printed `bytes`. Returns how many of them are disposed of.
    pub fn output(&self, stream: agent_protocol::Stream, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        if state.orphan {
            return bytes.len();
        }
        let out = &mut state.output[stream as usize];
        // What is held goes first.
        let room = if out.held.is_empty() { out.window.room().min(bytes.len()) } else { 0 };
        let (now, later) = bytes.split_at(room);
        out.window.spend(now.len());
        out.held.extend(later);
        self.peer.data(self.request, name(stream), now);
        room
    }

    /// The agent has room for stdin.
    pub fn stdin_room(&self) {
        self.feed(&mut self.lock());
    }

    /// It ended.
    pub fn exited(&self, status: ExitStatus) {
        let mut state = self.lock();
        state.stdin.live = None;
        state.exited = Some(status);
        self.tell_end(&mut state);
    }

    /// It did not start.
    pub fn failed(&self, failure: &ExecFailure) {
        let reply = Reply::NotStarted { errno: failure.errno, text: failure.text.clone() };
        self.peer.reply(self.request, reply);
    }

    /// The guest has gone, for this reason if it is known.
    pub fn lost(&self, why: Option<&str>) {
        let mut state = self.lock();
        state.stdin.live = None;
        if !state.orphan {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let text = format!("the guest went away while the command ran{why}");
            self.peer.fail(self.request, ErrorCode::GuestLost, text);
        }
        state.orphan = true;
    }

    /// The client took bytes of its output.
    pub fn credit(&self, stream: agent_protocol::Stream, bytes: u32) -> Result<(), WindowError> {
        let mut state = self.lock();
        let out = &mut state.output[stream as usize];
        out.window.grant(bytes)?;
        let count = out.held.len().min(out.window.room());
        if count > 0 {
            out.window.spend(count);
            let now: Vec<u8> = out.held.drain(..count).collect();
            self.peer.data(self.request, name(stream), &now);
            state.took(stream, count);
            self.handle.wake();
        }
        self.tell_end(&mut state);
        Ok(())
    }

    /// The client sends bytes for stdin.
    pub fn data(&self, bytes: &[u8]) -> Result<(), WindowError> {
        let mut state = self.lock();
        state.stdin.window.arrived(bytes.len())?;
        if !state.stdin.closed {
            state.stdin.held.extend(bytes);
        }
        self.feed(&mut state);
        self.handle.wake();
        Ok(())
    }

    /// The client has no more for stdin.
    pub fn close_stdin(&self) {
        let mut state = self.lock();
        state.stdin.closed = true;
        self.feed(&mut state);
        self.handle.wake();
    }

    /// A signal of the client.
    pub fn signal(&self, signo: u32) {
        if let Some((link, id)) = &self.lock().command {
            // It may have ended meanwhile.
            let _ = link.signal(*id, signo);
        }
        self.handle.wake();
    }

    /// The client's terminal has another size.
    pub fn resize(&self, size: WindowSize) {
        if let Some((link, id)) = &self.lock().command {
            let _ = link.resize(*id, size);
        }
        self.handle.wake();
    }

    /// The client has gone: the command is hung up, and nobody reads what it still prints.
    pub fn hang_up(&self) {
        let mut state = self.lock();
        state.orphan = true;
        for stream in [agent_protocol::Stream::Stdout, agent_protocol::Stream::Stderr] {
            let count = std::mem::take(&mut state.output[stream as usize].held).len();
            state.took(stream, count);
        }
        state.stdin.held.clear();
        state.stdin.closed = true;
        if let Some((link, id)) = &state.command {
            let _ = link.signal(*id, SIGHUP);
        }
        self.feed(&mut state);
        self.handle.wake();
    }

    /// Gives the agent what it has room for, and the client the credit for it.
    fn feed(&self, state: &mut State) {
        let Some((link, id)) = &state.command else { return };
        let stdin = &mut state.stdin;
        let before = stdin.held.len();
        while !stdin.held.is_empty() {
            match link.stdin(*id, stdin.held.make_contiguous()) {
                // There is room again when the agent says so.
                Ok(0) => break,
                Ok(taken) => drop(stdin.held.drain(..taken)),
                // It has ended: nobody reads the rest.
                Err(_) => stdin.held.clear(),
            }
        }
        if let Some(bytes) = stdin.window.taken(before - stdin.held.len())
            && !state.orphan
        {
            self.peer.reply(self.request, Reply::Credit { stream: Stream::Stdin, bytes });
        }
        if stdin.closed && stdin.held.is_empty() && !std::mem::replace(&mut stdin.ended, true) {
            let _ = link.close_stdin(*id);
            stdin.live = None;
        }
    }

    /// Tells the client the end, after all output.
    fn tell_end(&self, state: &mut State) {
        if let Some(status) = state.exited
            && state.output.iter().all(|out| out.held.is_empty())
            && !std::mem::replace(&mut state.orphan, true)
        {
            self.peer.reply(self.request, Reply::Exited(status.into()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Bytes and numbers: valid whatever panicked while they were held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the agent that output which it has no credit for was taken.
    fn took(&self, stream: agent_protocol::Stream, bytes: usize) {
        if let Some((link, id)) = &self.command {
            let _ = link.grant(*id, stream, bytes);
        }
    }
}

fn name(stream: agent_protocol::Stream) -> Stream {
    match stream {
        agent_protocol::Stream::Stdout => Stream::Stdout,
        agent_protocol::Stream::Stderr => Stream::Stderr,
    }
}
