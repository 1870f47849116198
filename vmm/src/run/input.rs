//! Bytes typed for a command, and the signals that a person sends it.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use agent_protocol::{AgentLink, ExecId, WindowSize};
use machine::Handle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::session::Session;
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

/// Handles the signals of a run: SIGINT goes to the command, a second one and SIGTERM or SIGHUP
/// end the run, SIGWINCH resizes its terminal. Whoever repeats himself after that is not kept
/// waiting for a run that does not end. Returns the number of the signal that ended the run.
pub fn watch_signals(handle: Handle, target: Option<Target>) -> io::Result<Arc<Interrupted>> {
    let interrupted = Arc::new(Interrupted::default());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    let shared = interrupted.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            match (signal, &target) {
                (SIGWINCH, Some(target)) => {
                    if let Some(size) = terminal::size() {
                        let size = WindowSize { rows: size.ws_row, cols: size.ws_col };
                        let _ = target.link.resize(target.id, size);
                        target.handle.wake();
                    }
                }
                (SIGWINCH, None) => {}
                (SIGINT, Some(target)) if !asked && target.session.ready().is_some() => {
                    asked = true;
                    let _ = target.link.signal(target.id, SIGINT as u32);
                    target.handle.wake();
                }
                (signal, _) => {
                    if shared.signal().is_some() {
                        terminal::restore();
                        std::process::exit(128 + signal);
                    }
                    shared.set(signal);
                    handle.stop();
                }
            }
        }
    })?;
    Ok(interrupted)
}

/// The signal that ended the run; 0: none did.
#[derive(Debug, Default)]
pub struct Interrupted(AtomicU8);

impl Interrupted {
    fn set(&self, signal: i32) {
        self.0.store(signal as u8, Ordering::SeqCst);
    }

    /// The signal, if one did.
    pub fn signal(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}
