//! Bytes typed for a command, and the signals that a person sends it.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use agent_protocol::{AgentLink, ExecId, WindowSize};
use machine::Handle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::record::Recording;
use super::session::Session;
use crate::serve::Guest;
use crate::terminal;

/// The command that input is for.
#[derive(Clone)]
pub struct Target {
    /// The guest's agent.
    pub link: AgentLink,
    /// The command.
    pub id: ExecId,
    /// Tells the machine that the agent has something to send.
    pub handle: Handle,
    /// What is known of the run.
    pub session: Session,
}

/// How often a reader that waits for stdin looks whether the run is over.
const LOOK: Duration = Duration::from_millis(200);

/// How long a guest that serves may take to go down when a signal asks for it.
const GRACE: Duration = Duration::from_secs(10);

/// Sends stdin to the command, from a thread of its own, until either ends. The thread is not
/// joined: it may sit in a read that never ends, and the process ends without it.
pub fn pump_stdin(target: Target) -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while target.session.wait_stdin_room() {
            if !readable() {
                continue;
            }
            let read = io::stdin().read(&mut buffer).unwrap_or(0);
            if read == 0 {
                let _ = target.link.close_stdin(target.id);
                target.session.stdin_ended();
                target.handle.wake();
                return;
            }
            let mut sent = 0;
            while sent < read && target.session.wait_stdin_room() {
                let offer = || target.link.stdin(target.id, &buffer[sent..read]);
                let Ok(taken) = target.session.offer_stdin(offer) else { return };
                sent += taken;
                target.handle.wake();
            }
        }
    })?;
    Ok(())
}

/// Whether stdin has bytes or an end, after a short wait.
fn readable() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let limit = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
    poll(&mut fds, Some(&limit)).is_ok_and(|count| count > 0)
}

/// Whom a first signal is for.
pub enum Addressee {
    /// The command of the run: SIGINT goes to it.
    Command(Target),
    /// A guest that serves: it is asked to go down.
    Guest(Arc<Guest>),
    /// Nobody: the run ends.
    Machine,
}

/// Handles the signals of a run: a first one goes to its `addressee`, a second one ends the run (as
/// do SIGTERM and SIGHUP where a command runs), SIGWINCH resizes the command's terminal. Whoever
/// repeats himself after that is not kept waiting for a run that does not end; what `recording` holds
/// by then is kept. Returns what tells the signal that ended the run.
pub fn watch_signals(
    handle: Handle,
    addressee: Addressee,
    recording: Arc<OnceLock<Recording>>,
) -> io::Result<Arc<Interrupted>> {
    let interrupted = Arc::new(Interrupted::default());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    let shared = interrupted.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            match (signal, &addressee) {
                (SIGWINCH, Addressee::Command(target)) => {
                    if let Some(size) = terminal::size() {
                        let size = WindowSize { rows: size.ws_row, cols: size.ws_col };
                        let _ = target.link.resize(target.id, size);
                        target.handle.wake();
                    }
                }
                (SIGWINCH, _) => {}
                (SIGINT, Addressee::Command(target)) if !asked && target.session.ready().is_some() => {
                    asked = true;
                    let _ = target.link.signal(target.id, SIGINT as u32);
                    target.handle.wake();
                }
                (signal, Addressee::Guest(guest)) if !asked && guest.session.ready().is_some() => {
                    asked = true;
                    shared.set(signal);
                    guest.stop(GRACE);
                }
                (signal, _) if shared.ends() => {
                    if let Some(recording) = recording.get() {
                        recording.save();
                    }
                    terminal::restore();
                    std::process::exit(128 + signal);
                }
                (signal, _) => {
                    shared.set(signal);
                    shared.set_ends();
                    handle.stop();
                }
            }
        }
    })?;
    Ok(interrupted)
}

/// The signal that ended the run; 0: none did.
#[derive(Debug, Default)]
pub struct Interrupted {
    signal: AtomicU8,
    /// The machine was told to stop, and only a run that cannot is still there.
    ends: AtomicBool,
}

impl Interrupted {
    fn set(&self, signal: i32) {
        let _ = self.signal.compare_exchange(0, signal as u8, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn set_ends(&self) {
        self.ends.store(true, Ordering::SeqCst);
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }

    /// The signal, if one did.
    pub fn signal(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}
