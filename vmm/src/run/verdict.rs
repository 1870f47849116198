//! How a run ended, as its exit status and its message say it.

use std::io;

use agent_protocol::ExitStatus;
use binder_trace::recording;
use machine::{End, MachineError, Outcome};

use super::input::Interrupted;
use super::session::{CommandEnd, Session};
use super::standing::Voice;
use crate::args::RunArgs;
use crate::exit::{Code, Failure, Status};

/// How a run without an agent ended.
pub fn bare_status(
    session: &Session,
    outcome: &Outcome,
    interrupted: &Interrupted,
    voice: &Voice,
) -> Result<Status, Failure> {
    let told = |code, outcome, while_booting| told(code, outcome, while_booting, voice);
    match &outcome.end {
        End::PoweredOff | End::Reset => Ok(Status::PoweredOff),
        End::Panic(_) => Err(told(Code::GuestPanic, outcome, false)),
        End::Timeout => Err(told(Code::Timeout, outcome, false)),
        End::Halted | End::TripleFault(_) => Err(told(Code::GuestLost, outcome, false)),
        End::EngineFailed(_) | End::DeviceFailed(_) | End::InputLog(_) => {
            Err(told(Code::Internal, outcome, false))
        }
        End::Stopped => match interrupted.signal() {
            Some(signal) => Ok(Status::Signaled { signal }),
            None if session.is_stopping() => Ok(Status::Stopped),
            None => Err(told(Code::Internal, outcome, false)),
        },
    }
}

/// How a run with an agent ended.
pub fn agent_status(
    session: &Session,
    outcome: &Outcome,
    interrupted: &Interrupted,
    args: &RunArgs,
    voice: &Voice,
) -> Result<Status, Failure> {
    if let End::InputLog(_) = outcome.end {
        // What the command came to is not what was asked about.
        return Err(told(Code::Internal, outcome, false, voice));
    }
    if let (Some(error), None) = (session.unwritten(), interrupted.signal()) {
        return Err(Failure::because(Code::Internal, "cannot write the command's output", error));
    }
    if session.is_hung_up() && matches!(outcome.end, End::PoweredOff | End::Reset) {
        return Ok(Status::HungUp);
    }
    match session.ended() {
        Some(CommandEnd::Exited(ExitStatus::Code(code))) => return Ok(Status::Exited { code }),
        Some(CommandEnd::Exited(ExitStatus::Signal(signal))) => return Ok(Status::Signaled { signal }),
        Some(CommandEnd::NotStarted { errno, text }) => {
            // As a shell has it: 127 where there is no such program, 126 where it cannot run.
            let program = args.command.first().map_or("/bin/sh", |c| c);
            voice.say(format_args!("the guest cannot run {program}: {text}"));
            return Ok(Status::Exited { code: if errno == 2 { 127 } else { 126 } });
        }
        None => {}
    }
    if let Some(signal) = interrupted.signal() {
        return Ok(Status::Signaled { signal });
    }
    match &outcome.end {
        End::PoweredOff | End::Stopped if args.serve && session.is_stopping() => return Ok(Status::Stopped),
        End::PoweredOff | End::Reset if args.serve && session.ready().is_some() => {
            return Ok(Status::PoweredOff);
        }
        End::PoweredOff | End::Stopped if session.is_stopping() => {
            let message = "the guest was stopped from outside while the command ran";
            return Err(Failure::new(Code::GuestLost, message));
        }
        _ => {}
    }
    let code = match &outcome.end {
        End::Panic(_) => Code::GuestPanic,
        End::Timeout => Code::Timeout,
        End::EngineFailed(_) | End::DeviceFailed(_) => Code::Internal,
        _ if session.ready().is_none() => Code::BootFailed,
        _ => Code::GuestLost,
    };
    let failure = told(code, outcome, session.ready().is_none(), voice);
    for note in session.notes() {
        voice.say(format_args!("the guest said: {note}"));
    }
    match (&outcome.end, session.lost()) {
        // What stopped the run.
        (End::Stopped, Some(reason)) => Err(Failure::new(code, reason.to_string())),
        _ => Err(failure),
    }
}

/// A failure with the guest's last words before it.
fn told(code: Code, outcome: &Outcome, while_booting: bool, voice: &Voice) -> Failure {
    if !outcome.console.is_empty() {
        voice.say("the last lines of the guest's console:");
        for line in outcome.console.iter().rev().take(20).rev() {
            voice.more(format_args!("| {line}"));
        }
    }
    for failure in &outcome.device_failures {
        voice.say(format_args!("a device gave up: {failure}"));
    }
    let message = match (&outcome.end, while_booting) {
        (End::Timeout, true) => "the time of --timeout passed before the guest was up".to_owned(),
        (End::Timeout, false) => "the time of --timeout passed".to_owned(),
        (End::Stopped, true) => {
            "the guest's agent was not ready within --boot-timeout; see its console with --console".to_owned()
        }
        (end, true) => format!("the guest did not come up: {end}"),
        (end, false) => end.to_string(),
    };
    Failure::new(code, message)
}

/// The machine could not be made or started.
pub fn machine_failure(error: MachineError) -> Failure {
    let code = match &error {
        MachineError::MemoryTooSmall { .. }
        | MachineError::MemoryTooLarge { .. }
        | MachineError::MemoryNotPages { .. }
        | MachineError::CommandLineTooLong { .. }
        | MachineError::CommandLineZero
        | MachineError::DoesNotRepeat => Code::Usage,
        MachineError::Read { .. }
        | MachineError::NotElf { .. }
        | MachineError::LoadKernel { .. }
        | MachineError::KernelDoesNotFit { .. }
        | MachineError::InitrdDoesNotFit { .. } => Code::Image,
        MachineError::Snapshot(_) => Code::Image,
        MachineError::Engine(_) => Code::BootFailed,
        _ => Code::Internal,
    };
    Failure::because(code, "cannot start the guest", error)
}

/// The recording could not be made or written.
pub fn trace_failure(error: recording::RecordingError) -> Failure {
    let code = match error {
        // The path is the command line's.
        recording::RecordingError::Open { .. } => Code::Usage,
        _ => Code::Internal,
    };
    Failure::because(code, "cannot record the trace", error)
}

/// A thread could not be started.
pub fn thread_failure(error: io::Error) -> Failure {
    Failure::because(Code::Internal, "cannot start a thread", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_cannot_be_made_is_a_wrong_command_line() {
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let open = recording::RecordingError::Open { path: "/no/such/folder/x".into(), source: source() };
        assert_eq!(trace_failure(open).code, Code::Usage);
        assert_eq!(trace_failure(recording::RecordingError::Write(source())).code, Code::Internal);
    }
}
