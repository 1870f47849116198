//! `trace --check` and `trace --at`: the recording given to a fresh core.

use std::io::Write;
use std::path::Path;

use binder::logs::{self, Scope};
use binder_trace::recording::{Lost, Reader, RecordingError};
use binder_trace::replay::{Replay, ReplayError};

use crate::exit::{Code, Failure};

/// Replays the recording and says how much of it was the same.
pub fn check(path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let replay = replay(path, None)?;
    let made = replay.events();
    let compared = replay.finish().map_err(|error| differs(path, error))?;
    let events = match compared.events {
        0 => format!("which make {made} events"),
        events => format!("{events} events"),
    };
    let lost = match compared.lost {
        Lost { messages: 0, events: 0, .. } => String::new(),
        lost => format!("; {lost} were lost and cannot be compared"),
    };
    let _ = writeln!(
        out,
        "{}: the same: {} messages and their answers, {} completions of sleeping threads, {events}{lost}",
        path.display(),
        compared.messages,
        compared.completions,
    );
    Ok(())
}

/// Prints the domain as it was at an event, counted as `bindervm trace` prints them, from 1.
pub fn state_at(path: &Path, event: u64, out: &mut impl Write) -> Result<(), Failure> {
    let replay = replay(path, Some(event))?;
    if replay.events() < event {
        let message = format!("{} has {} events; there is no event {event}", path.display(), replay.events());
        return Err(Failure::new(Code::Usage, message));
    }
    let Some(domain) = replay.domain() else { return Err(differs(path, ReplayError::NoSteps)) };
    let mut text = String::new();
    let scope = Scope { guest: None, now: None };
    // A String takes any text.
    let _ = logs::state(domain, scope, false, &mut text);
    let _ = writeln!(out, "after the message that event {event} belongs to:\n{text}");
    Ok(())
}

/// Replays up to the end of the message that `event` belongs to, or to the end.
fn replay(path: &Path, event: Option<u64>) -> Result<Replay, Failure> {
    let unreadable = |error: RecordingError| {
        Failure::because(Code::Image, format!("cannot read {}", path.display()), error)
    };
    let reader = Reader::open(path).map_err(unreadable)?;
    let mut replay = Replay::of(reader.header());
    for record in reader {
        replay.record(&record.map_err(unreadable)?).map_err(|error| differs(path, error))?;
        if event.is_some_and(|event| replay.events() >= event) && !replay.is_inside_message() {
            break;
        }
    }
    Ok(replay)
}

fn differs(path: &Path, error: ReplayError) -> Failure {
    let code = match error {
        ReplayError::Divergence(_) => Code::Internal,
        ReplayError::NoSteps | ReplayError::Invalid(_) => Code::Image,
    };
    Failure::because(code, format!("cannot replay {}", path.display()), error)
}
