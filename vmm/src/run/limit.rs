//! The end of a run that does not end by itself.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::record::Recording;
use super::report::Report;
use super::session::Session;
use super::standing::Standing;
use super::verdict::thread_failure;
use crate::args::RunArgs;
use crate::exit::{Code, Failure, Status};
use crate::terminal;

/// Wall time that a run has to end after its `--timeout`. The thread that runs the guest may sit in
/// a write to a pipe that nobody reads; nothing ends that but the end of the process.
const GRACE: Duration = Duration::from_secs(10);

/// Gives a run up (alone: ends the process) where it outlives its `--timeout` by [`GRACE`]. What `recording` holds by then
/// is kept.
pub fn enforce_timeout(
    args: &RunArgs,
    timeout: Duration,
    session: Session,
    recording: Arc<OnceLock<Recording>>,
    standing: Standing,
) -> Result<(), Failure> {
    let status_file = args.status.clone();
    let watch = move || {
        if session.wait_over(timeout.saturating_add(GRACE)) {
            return;
        }
        terminal::restore();
        let message =
            "the time of --timeout passed, and the run did not end (is our output read?)".to_owned();
        standing.voice.say(&message);
        let status = Status::Failed { reason: Code::Timeout, message };
        if let Some(path) = status_file {
            let _ = Report::default().write(&status, &path);
        }
        if let Some(recording) = recording.get() {
            recording.save();
        }
        (standing.give_up)(status.exit_code());
    };
    thread::Builder::new().name("timeout".into()).spawn(watch).map_err(thread_failure)?;
    Ok(())
}
