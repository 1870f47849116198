//! Signals that faults want sent to processes of the guest: its own kernel does it, asked by the agent.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use agent_protocol::{AgentLink, ExecRequest};
use binder::Pid;
use binder::faults::Signal;
use machine::Handle;

use crate::serve::commands::Commands;

/// Starts the thread that asks; it ends with the sender. The vCPU's thread, where faults happen, waits
/// for nobody.
pub fn start(link: AgentLink, commands: Commands, handle: Handle) -> io::Result<Sender<(Pid, Signal)>> {
    let (sender, signals) = channel::<(Pid, Signal)>();
    let ask = move || {
        for (pid, signal) in signals {
            let request = ExecRequest { argv: command(pid, signal), ..ExecRequest::default() };
            match commands.ask_for_nobody(&link, request) {
                Ok(()) => handle.begin_work(),
                Err(error) => eprintln!("bindervm: cannot have process {} get a signal: {error}", pid.0),
            }
        }
    };
    thread::Builder::new().name("signal".into()).spawn(ask)?;
    Ok(sender)
}

/// What sends it. A stopped process gets the time to stop: all its threads leave what they wait in.
fn command(pid: Pid, signal: Signal) -> Vec<String> {
    let script = match signal {
        Signal::Kill => "kill -KILL $0",
        Signal::StopAndContinue => "kill -STOP $0 && usleep 1000; kill -CONT $0",
    };
    ["/bin/sh", "-c", script, &pid.0.to_string()].map(str::to_owned).to_vec()
}
