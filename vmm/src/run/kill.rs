//! Processes of the guest that a fault is to kill: its own kernel does it, asked by the agent.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use agent_protocol::{AgentLink, ExecRequest};
use binder::Pid;
use machine::Handle;

use crate::serve::commands::Commands;

/// Starts the thread that asks; it ends with the sender. The vCPU's thread, where faults happen, waits
/// for nobody.
pub fn start(link: AgentLink, commands: Commands, handle: Handle) -> io::Result<Sender<Pid>> {
    let (killer, kills) = channel::<Pid>();
    let ask = move || {
        for pid in kills {
            let argv = ["/bin/kill", "-9"].map(str::to_owned).into_iter().chain([pid.0.to_string()]);
            let request = ExecRequest { argv: argv.collect(), ..ExecRequest::default() };
            match commands.ask_for_nobody(&link, request) {
                Ok(()) => handle.begin_work(),
                Err(error) => eprintln!("bindervm: cannot have process {} killed: {error}", pid.0),
            }
        }
    };
    thread::Builder::new().name("kill".into()).spawn(ask)?;
    Ok(killer)
}
