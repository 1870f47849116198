//! What a run took and did: the closing summary for people, and the same in the status file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use binder::faults::Counts as FaultCounts;
use binder_trace::tally::Tally;
use devices::virtio::binder::{Counters, Handling};
use machine::{Kind, Outcome, RunStats, is_special};
use serde::Serialize;

use super::session::ReadyAt;
use super::standing::Voice;
use crate::exit::Status;
use crate::last::{self, LastRun};

/// What is known at the end of a run; empty where it did not get that far.
#[derive(Default)]
pub struct Report {
    /// Which engine ran the guest.
    pub engine: Option<Kind>,
    stats: Option<RunStats>,
    counters: Counters,
    tally: Option<Tally>,
    ready: Option<ReadyAt>,
    /// What became of the rules of `--faults`, in order.
    pub faults: Vec<FaultCounts>,
    /// What handling binder's messages took.
    pub handling: Handling,
}

/// The status file. `status` is what matters; the rest may grow.
#[derive(Serialize)]
struct StatusFile<'a> {
    #[serde(flatten)]
    status: &'a Status,
    engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunFigures>,
    binder: &'a Counters,
    handling: Handling,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    faults: &'a [FaultCounts],
}

#[derive(Serialize)]
struct RunFigures {
    instructions: Option<u64>,
    boot_cpu_ms: Option<u64>,
    boot_guest_ms: Option<u64>,
    guest_ms: u64,
    cpu_ms: u64,
    wall_ms: u64,
}

impl Report {
    /// Takes what a finished run left.
    pub fn fill(
        &mut self,
        outcome: &Outcome,
        counters: Counters,
        tally: Option<Tally>,
        ready: Option<ReadyAt>,
    ) {
        self.stats = Some(outcome.stats.clone());
        self.counters = counters;
        self.tally = tally;
        self.ready = ready;
    }

    /// Prints the summary on stderr.
    pub fn print(&self, voice: &Voice) {
        let Some(stats) = &self.stats else { return };
        voice.say("summary");
        if let Some(ready) = self.ready {
            voice.more(format_args!(
                "boot          {} CPU, {} wall, {} guest time to agent ready",
                seconds(ready.cpu),
                seconds(ready.wall),
                seconds(ready.guest)
            ));
        }
        if let Some(tally) = &self.tally {
            voice.more(format_args!(
                "transactions  {} calls, {} oneways, {} replies, {} failed, {} bytes",
                tally.calls, tally.oneways, tally.replies, tally.failed, tally.bytes
            ));
        }
        let counters = &self.counters;
        voice.more(format_args!(
            "binder device {} doorbells, {} messages, {} events, {} interrupts, {} pages trimmed, {} malformed",
            counters.doorbells,
            counters.messages,
            counters.events,
            counters.interrupts,
            counters.trimmed_pages,
            counters.malformed
        ));
        let accesses = &stats.accesses;
        voice.more(format_args!(
            "exits         {} MMIO, {} port, {} idle",
            accesses.mmio_reads + accesses.mmio_writes,
            accesses.port_reads + accesses.port_writes,
            stats.exits.idle
        ));
        if let Some(instructions) = stats.instructions {
            voice.more(format_args!("instructions  {instructions}"));
        }
        voice.more(format_args!(
            "time          {} guest, {} CPU, {} wall",
            seconds(stats.guest_time),
            seconds(stats.cpu_time),
            seconds(stats.wall_time)
        ));
    }

    /// Finds out whether the file of `--status` can be written, before a run that it is to tell of.
    /// Leaves what stands there alone.
    pub fn prepare(path: &Path) -> io::Result<()> {
        match is_special(path) {
            true => File::options().write(true).open(path)?,
            false => File::create(part(path))?,
        };
        Ok(())
    }

    /// Writes the file of `--status`: a regular file by rename, so that a reader never sees half of
    /// it; a device or a pipe as it is.
    pub fn write(&self, status: &Status, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(&self.file(status))?;
        text.push('\n');
        if is_special(path) {
            return fs::write(path, text);
        }
        fs::write(part(path), text)?;
        fs::rename(part(path), path)
    }

    /// What the file of `--status` says.
    pub fn json(&self, status: &Status) -> serde_json::Value {
        serde_json::json!(self.file(status))
    }

    /// What is kept for `bindervm doctor --last-run`.
    pub fn last_run(&self, status: &Status, exit_code: u8) -> LastRun {
        let stats = self.stats.as_ref();
        let reason = match status {
            Status::Failed { message, .. } => Some(message.clone()),
            _ => None,
        };
        LastRun {
            command: last::command_line(),
            exit_code,
            reason,
            engine: self.engine.map(|kind| kind.to_string()),
            instructions: stats.and_then(|stats| stats.instructions),
            missing: stats.and_then(|stats| stats.soft.clone()).map(|soft| soft.unknown).unwrap_or_default(),
        }
    }

    fn file<'a>(&'a self, status: &'a Status) -> StatusFile<'a> {
        let run = self.stats.as_ref().map(|stats| RunFigures {
            instructions: stats.instructions,
            boot_cpu_ms: self.ready.map(|ready| ready.cpu.as_millis() as u64),
            boot_guest_ms: self.ready.map(|ready| ready.guest.as_millis() as u64),
            guest_ms: stats.guest_time.as_millis() as u64,
            cpu_ms: stats.cpu_time.as_millis() as u64,
            wall_ms: stats.wall_time.as_millis() as u64,
        });
        let engine = self.engine.map(|kind| kind.to_string());
        StatusFile {
            status,
            engine,
            run,
            binder: &self.counters,
            handling: self.handling,
            faults: &self.faults,
        }
    }
}

/// Where the status file is written before it gets its name.
fn part(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_that_cannot_be_written_is_found_before_the_run() {
        let folder = std::env::temp_dir().join(format!("bindervm-status-{}", std::process::id()));
        let path = folder.join("status.json");
        assert_eq!(Report::prepare(&path).unwrap_err().kind(), io::ErrorKind::NotFound);

        fs::create_dir(&folder).unwrap();
        assert_eq!(Report::prepare(&folder).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        Report::prepare(&path).unwrap();
        assert!(!path.exists());
        Report::default().write(&Status::Exited { code: 3 }, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""code": 3"#), "{text}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_device_stays_a_device_and_a_folder_is_refused() {
        let null = Path::new("/dev/null");
        Report::prepare(null).unwrap();
        Report::default().write(&Status::PoweredOff, null).unwrap();
        assert!(is_special(null));
        assert!(Report::prepare(Path::new("/")).is_err());
        assert!(Report::prepare(Path::new("/nonexistent/folder/status")).is_err());
    }
}
