//! `bindervm snapshot`: saving running guests, and looking at what was saved.

use std::path::Path;
use std::time::Duration;

use machine::{Header, Snapshot, SnapshotError};

use crate::args::{SnapshotArgs, SnapshotCommand};
use crate::exit::{Code, Failure};
use crate::{guests, output};

/// Names of what a snapshot's header says of the guest.
pub mod labels {
    /// Name of the image that was booted.
    pub const IMAGE: &str = "image";
    /// The hash of all that went into it.
    pub const DIGEST: &str = "image-digest";
    /// Which binder driver the guest has: [`HOST`] or [`KERNEL`].
    pub const BINDER: &str = "binder";
    /// The command that ran before it was saved.
    pub const COMMAND: &str = "command";
    /// The driver on the host.
    pub const HOST: &str = "host";
    /// The guest kernel's own.
    pub const KERNEL: &str = "kernel";
}

/// Runs `bindervm snapshot`.
pub fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    match (&args.command, &args.guest, &args.file) {
        (Some(SnapshotCommand::Info { file, verify, json }), ..) => info(file, *verify, *json),
        (None, Some(guest), Some(file)) => save(guest, file, args.timeout),
        (None, ..) => Err(Failure::new(Code::Usage, "name a running guest and a file")),
    }
}

/// Asks the process of `guest` to save it. The guest goes on.
fn save(guest: &str, path: &Path, limit: Duration) -> Result<(), Failure> {
    let unknown = |error| Failure::because(Code::Usage, "cannot find the current folder", error);
    let path = std::path::absolute(path).map_err(unknown)?;
    let client = guests::connect(guest)?;
    client.snapshot(&path, limit).map_err(|error| guests::failed(&format!("{guest} is not saved"), error))
}

/// Opens a snapshot.
pub fn open(path: &Path) -> Result<Snapshot, Failure> {
    Snapshot::open(path).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, error: SnapshotError) -> Failure {
    Failure::because(Code::Image, format!("cannot use the snapshot {}", path.display()), error)
}

/// A snapshot could not be made.
pub fn not_made(path: &Path, error: SnapshotError) -> Failure {
    let code = match error {
        SnapshotError::Write(_) | SnapshotError::Destination(_) => Code::Usage,
        SnapshotError::Ended => Code::GuestLost,
        _ => Code::Internal,
    };
    Failure::because(code, format!("cannot save the guest to {}", path.display()), error)
}

/// Whether a guest can be saved to `path`, before there is one.
pub fn check(path: &Path) -> Result<(), Failure> {
    machine::check_destination(path).map_err(|error| not_made(path, error))
}

fn info(path: &Path, verify: bool, json: bool) -> Result<(), Failure> {
    let snapshot = open(path)?;
    if verify {
        snapshot.verify().map_err(|error| unusable(path, error))?;
    }
    let header = snapshot.header();
    let text = match json {
        true => serde_json::to_string_pretty(header).expect("a header is plain data") + "\n",
        false => told(header),
    };
    output::print(|out| out.write_all(text.as_bytes()))
}

/// What a person wants to know of a snapshot.
fn told(header: &Header) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<13} {value}\n"));
    for (name, text) in &header.labels {
        // It comes from a file: nothing in it shall control the terminal.
        let plain = |text: &str| text.chars().filter(|char| !char.is_control()).collect::<String>();
        line(&plain(name), plain(text));
    }
    line("engine", header.engine.clone());
    line("cpus", header.cpus.to_string());
    line("memory", format!("{} MiB, {} MiB of them in use", header.memory_bytes >> 20, header.pages >> 8));
    line("guest time", format!("{:.3} s", header.guest_time_ms as f64 / 1000.0));
    line("bindervm", header.bindervm.clone());
    lines.concat()
}
