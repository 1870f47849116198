//! The control socket of a run: who may connect, and what clients see of the guest.
//!
//! Threads: one accepts; each client has one that reads its requests and one that writes its replies.
//! The vCPU's thread only leaves bytes with a [`peer::Peer`], and never waits for a client.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::AgentLink;
use control::frame;
use control::place::{self, Bound};
use control::wire::{ErrorCode, Metrics, Reply, State, Status, ToClient};
use machine::{ClockMode, Gauges, GuestClock, Handle, Kind};
use serde_json::json;

use self::commands::Commands;
use self::connection::Connection;
use self::console::ConsoleTap;
use self::events::Events;
use self::peer::Peer;
use self::saver::Saver;
use self::watchers::Watchers;
use crate::run::{Binder, Session};

pub mod commands;
mod connection;
pub mod console;
pub mod events;
mod exec;
pub mod follow;
pub mod peer;
pub mod saver;
pub mod watchers;

/// Clients at once. Each costs two threads.
const MAX_CLIENTS: usize = 64;

/// How long the last words to the clients may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The guest of a run, as its clients see it.
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Image, if one was booted.
    pub image: Option<String>,
    /// It goes on from a snapshot.
    pub restored: bool,
    /// Engine that runs it.
    pub engine: Kind,
    /// How its time passes.
    pub clock_mode: ClockMode,
    /// Its memory, in bytes.
    pub memory: u64,
    /// When the run began.
    pub began: Instant,
    /// What the agent said.
    pub session: Session,
    /// Whether the run has a command of its own.
    pub has_command: bool,
    /// Commands of clients.
    pub commands: Commands,
    /// Who waits for what.
    pub watchers: Watchers,
    /// What happens.
    pub events: Events,
    /// The serial port.
    pub console: ConsoleTap,
    /// The agent, if the guest has ours.
    pub link: Option<AgentLink>,
    /// Saves it to files.
    pub saver: Saver,
    /// Controls the machine.
    pub handle: Handle,
    /// Guest time.
    pub clock: GuestClock,
    /// Counters of the machine.
    pub gauges: Gauges,
    /// The binder world.
    pub binder: Binder,
    /// Clients that are connected.
    pub clients: Clients,
}

/// The clients that are connected. Clones share them.
#[derive(Clone, Default)]
pub struct Clients(Arc<Mutex<BTreeMap<u64, Arc<Peer>>>>);

impl Guest {
    /// Asks the guest to go down, and ends it where it does not within `grace`.
    pub fn stop(&self, grace: Duration) {
        self.session.stopping();
        let asked = self.link.as_ref().map(|link| link.power_off().is_ok());
        if asked != Some(true) {
            return self.handle.stop();
        }
        self.handle.begin_work();
        let (session, handle) = (self.session.clone(), self.handle.clone());
        let watch = move || {
            if !session.wait_over(grace) {
                handle.stop();
            }
        };
        // Without a thread to wait on there is no grace.
        if thread::Builder::new().name("stop".into()).spawn(watch).is_err() {
            self.handle.stop();
        }
    }

    /// Ends the run at once.
    pub fn kill(&self) {
        self.session.stopping();
        self.handle.stop();
    }

    fn status(&self) -> Status {
        Status {
            guest: self.name.clone(),
            pid: std::process::id(),
            image: self.image.clone(),
            restored: self.restored,
            engine: self.engine.to_string(),
            clock: match self.clock_mode {
                ClockMode::Virtual => "virtual".to_owned(),
                ClockMode::Host => "host".to_owned(),
            },
            state: self.state(),
            commands: self.running(),
            uptime_ms: millis(self.began.elapsed()),
            guest_ms: millis(self.clock.now()),
            memory: self.memory,
        }
    }

    fn state(&self) -> State {
        match () {
            () if self.session.is_stopping() => State::Stopping,
            () if self.link.is_none() => State::NoAgent,
            () if self.session.lost().is_some() => State::Lost,
            () if self.session.ready().is_some() => State::Ready,
            () => State::Booting,
        }
    }

    /// Commands that run, or wait for the agent.
    fn running(&self) -> u32 {
        let own = self.has_command && self.session.ended().is_none();
        self.commands.count() as u32 + u32::from(own)
    }

    fn metrics(&self) -> Metrics {
        let reading = self.gauges.read();
        Metrics {
            guest: self.name.clone(),
            uptime_ms: millis(self.began.elapsed()),
            guest_ns: u64::try_from(self.clock.now().as_nanos()).unwrap_or(u64::MAX),
            instructions: reading.instructions,
            exits: json!(reading.exits),
            accesses: json!(reading.accesses),
            binder: json!(self.binder.counters()),
            objects: json!(self.binder.objects()),
            clients: self.clients.lock().len() as u32,
            followers: self.binder.recording.followers().count() as u32,
            commands: self.running(),
        }
    }
}

/// The socket and everybody who is connected to it. [`finish`](Self::finish) or dropping it takes the
/// socket away.
pub struct Server {
    guest: Arc<Guest>,
    quit: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    path: std::path::PathBuf,
}

impl Server {
    /// Serves `guest` at `bound`.
    pub fn start(bound: Bound, guest: Arc<Guest>) -> io::Result<Server> {
        let quit = Arc::new(AtomicBool::new(false));
        let path = bound.path().to_owned();
        let (served, over) = (guest.clone(), quit.clone());
        let accepting =
            thread::Builder::new().name("control".into()).spawn(move || accept(&bound, &served, &over))?;
        Ok(Server { guest, quit, accepting: Some(accepting), path })
    }

    /// Tells all clients how the run ended, and hangs up.
    pub fn finish(mut self, status: serde_json::Value, exit_code: u8) {
        self.stop_accepting();
        for exec in self.guest.commands.take() {
            exec.lost(status["message"].as_str());
        }
        self.guest.binder.recording.followers().finish();
        self.guest.watchers.ended(status, exit_code);
        let peers: Vec<_> = self.guest.clients.lock().values().cloned().collect();
        let until = Instant::now() + LAST_WORDS;
        for peer in peers {
            peer.finish(until.saturating_duration_since(Instant::now()));
        }
    }

    fn stop_accepting(&mut self) {
        if let Some(thread) = self.accepting.take() {
            self.quit.store(true, Ordering::SeqCst);
            // Wakes the thread out of its accept.
            let _ = UnixStream::connect(&self.path);
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

fn accept(bound: &Bound, guest: &Arc<Guest>, quit: &AtomicBool) {
    let mut number = 0;
    for socket in bound.listener.incoming() {
        if quit.load(Ordering::SeqCst) {
            return;
        }
        match socket {
            Ok(socket) => {
                number += 1;
                welcome(guest, number, socket);
            }
            // Out of file descriptors, most likely: some will be free again.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Lets a client in, if it may and if there is room.
fn welcome(guest: &Arc<Guest>, number: u64, socket: UnixStream) {
    if !place::is_allowed(&socket) {
        return refuse(&socket, ErrorCode::Denied, "this guest belongs to another user");
    }
    let mut clients = guest.clients.lock();
    if clients.len() >= MAX_CLIENTS {
        return refuse(&socket, ErrorCode::Busy, "too many clients are connected");
    }
    let Ok(writing) = socket.try_clone() else { return };
    let peer = Peer::new(writing);
    clients.insert(number, peer.clone());
    drop(clients);
    let served = guest.clone();
    let spawned = thread::Builder::new().name("control-in".into()).spawn(move || {
        let _ = Connection::serve(served.clone(), peer, socket);
        served.clients.lock().remove(&number);
    });
    if spawned.is_err() {
        guest.clients.lock().remove(&number);
    }
}

fn refuse(mut socket: &UnixStream, code: ErrorCode, text: &str) {
    let reply = Reply::Error { code, text: text.to_owned() };
    let _ = socket.set_nonblocking(true);
    let _ = socket.write_all(&frame::encode(&ToClient { id: 0, reply }, &[]));
    let _ = socket.shutdown(Shutdown::Both);
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Peer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
