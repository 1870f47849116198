//! One debugger's time with a guest.

use std::io;
use std::time::Duration;

use engine::{Engine, Stop, Watch};
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use guest_ram::GuestRam;

use crate::server::{Connection, Nothing};
use crate::target::{Debugged, thread};

/// While the guest stands still, how often it is looked at whether its run is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What became of a guest that ran for a while.
pub enum Turn<E> {
    /// Nothing that concerns a debugger.
    Goes,
    /// A CPU met what the debugger waits for.
    Stopped(u8, Stop),
    /// The run is over.
    Ended(E),
}

/// The guest, on its own thread.
pub trait Guest {
    /// How a run ends.
    type End;

    /// The CPUs.
    fn engine(&mut self) -> &mut Engine;
    /// The memory.
    fn ram(&self) -> &GuestRam;
    /// Lets the guest run for a while. Returns soon once the server's `wake` was called.
    fn advance(&mut self) -> Turn<Self::End>;
    /// The end of the run, if somebody else wants it to end.
    fn ended(&mut self) -> Option<Self::End>;
    /// The end for a guest that the debugger killed.
    fn killed(&self) -> Self::End;
}

/// Gives a guest to a debugger until that leaves or the run is over. The guest stands still at first.
pub fn attend<G: Guest>(connection: Connection, guest: &mut G) -> Option<G::End> {
    let mut target = Debugged::new(guest);
    let end = converse(connection, &mut target);
    target.leave();
    end.unwrap_or_else(|error| {
        eprintln!("bindervm: the debugger was let go: {error}");
        None
    })
}

/// `None`: the debugger is gone, by its own wish or by an error, and the guest goes on without it.
fn converse<G: Guest>(
    connection: Connection,
    target: &mut Debugged<'_, G>,
) -> Result<Option<G::End>, GdbStubError<&'static str, io::Error>> {
    let mut machine = GdbStub::new(connection).run_state_machine(target)?;
    loop {
        machine = match machine {
            GdbStubStateMachine::Idle(mut idle) => match idle.borrow_conn().listen(LOOK) {
                Ok(byte) => idle.incoming_data(target, byte)?,
                Err(Nothing::More) => return Ok(None),
                Err(Nothing::Yet) => {
                    if let Some(end) = target.guest.ended() {
                        return Ok(Some(end));
                    }
                    idle.into()
                }
            },
            GdbStubStateMachine::Running(mut running) => match running.borrow_conn().look() {
                Ok(byte) => running.incoming_data(target, byte)?,
                Err(Nothing::More) => return Ok(None),
                Err(Nothing::Yet) => match target.guest.advance() {
                    Turn::Goes => running.into(),
                    Turn::Stopped(cpu, stop) => {
                        target.stopped(cpu);
                        running.report_stop(target, reason(cpu, stop))?
                    }
                    Turn::Ended(end) => {
                        // The debugger may be gone; the end is the same.
                        let _ = running.report_stop(target, MultiThreadStopReason::Exited(0));
                        return Ok(Some(end));
                    }
                },
            },
            GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
                let tid = thread(target.current());
                let reason = MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGINT };
                interrupted.interrupt_handled(target, Some(reason))?
            }
            GdbStubStateMachine::Disconnected(disconnected) => {
                return Ok(match disconnected.get_reason() {
                    DisconnectReason::Kill => Some(target.guest.killed()),
                    _ => None,
                });
            }
        };
    }
}

fn reason(cpu: u8, stop: Stop) -> MultiThreadStopReason<u64> {
    let tid = thread(cpu);
    match stop {
        Stop::Step => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
        Stop::Int3 => MultiThreadStopReason::SwBreak(tid),
        Stop::Point(point) => match point.watch {
            Watch::Execute => MultiThreadStopReason::HwBreak(tid),
            Watch::Write => MultiThreadStopReason::Watch { tid, kind: WatchKind::Write, addr: point.address },
            Watch::Access => {
                MultiThreadStopReason::Watch { tid, kind: WatchKind::ReadWrite, addr: point.address }
            }
        },
    }
}
