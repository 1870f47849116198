//! `bindervm bench`: how fast the soft engine is, beside QEMU's TCG where that is installed.
//!
//! Each contender boots the image's kernel with the image's initramfs and command line, and as first
//! process a program of ours (`vmm/bench/guest.rs`) that prints a line before and behind each piece
//! of work and waits for an answer. While it waits the contender's CPU time is read, so what is
//! measured is CPU time of the contender's process and of nothing else. The runs of the contenders
//! take turns, and the least of each counts. The soft engine also goes on from a snapshot of the booted
//! image: `restore` is from the start of its process to the first output of its command. What a binder
//! call costs, and recording it, is measured otherwise, in [`binder`], and what a neighbour does to it in [`flood`].

mod binder;
mod contender;
mod flood;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use images::cpio::{Archive, Node};

use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::output;
use contender::{Contender, Guest};
use report::Report;

/// The program, compiled by `build.rs`; empty where that failed.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bench-guest"));

/// Where the program is in the guest.
const PROGRAM_PATH: &str = "bindervm-bench";

/// What a contender took for a piece of work, and what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// CPU time of its process.
    pub time: Duration,
    /// The result, the same for all contenders.
    pub result: Option<String>,
}

/// Pieces of work by name, in the order in which they were done.
pub type Measurements = Vec<(String, Measurement)>;

/// Does what the arguments say.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    if args.binder {
        return binder::run(args);
    }
    if args.trace {
        return binder::run_trace(args);
    }
    if args.flood {
        return flood::run(args);
    }
    if PROGRAM.is_empty() {
        let message =
            "this bindervm was built without the guest program of its benchmarks (x86-64 Linux only)";
        return Err(Failure::new(Code::Internal, message));
    }
    let image = images::open(&args.image)
        .map_err(|error| Failure::because(Code::Image, "cannot open the image", error))?;
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::because(Code::Internal, "cannot make a temporary folder", error))?;
    let initrd = folder.path().join("initramfs.cpio");
    let program = folder.path().join(PROGRAM_PATH);
    make_files(&image, &initrd, &program)
        .map_err(|error| Failure::because(Code::Internal, "cannot prepare the guest", error))?;
    let guest = Guest {
        kernel: image.vmlinux(),
        initrd,
        command_line: format!("{} rdinit=/{PROGRAM_PATH}", image.manifest.command_line),
        program,
    };

    let snapshot = folder.path().join("ready.snapshot");
    contender::save(&args.image, &snapshot)?;
    let contenders = Contender::available(args.qemu.as_deref());
    let mut least: BTreeMap<Contender, Measurements> = BTreeMap::new();
    for round in 0..args.runs.get() {
        for contender in &contenders {
            eprintln!("bindervm: run {} of {}: {}", round + 1, args.runs, contender.name());
            let mut measured = contender.run(&guest, args.qemu.as_deref())?;
            let restored = contender.restore(&snapshot)?;
            measured.extend(restored.map(|restored| ("restore".to_owned(), restored)));
            match least.get_mut(contender) {
                Some(least) => keep_least(least, measured),
                None => {
                    least.insert(*contender, measured);
                }
            }
        }
    }
    let report = Report::new(&args.image, args.runs.get(), &least)?;
    output::print(|out| if args.json { report.json(out) } else { report.table(out) })
}

/// The image's initramfs with the program behind it (the kernel unpacks both), and the program.
fn make_files(
    image: &images::Image,
    initrd: &std::path::Path,
    program: &std::path::Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::os::unix::fs::PermissionsExt;
    let mut archive = Archive::default();
    archive.add(PROGRAM_PATH, Node::File { mode: 0o755, data: PROGRAM.to_vec() })?;
    let mut bytes = fs::read(image.initramfs())?;
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive.write(0)?);
    fs::write(initrd, bytes)?;
    fs::write(program, PROGRAM)?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The host's load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn keep_least(least: &mut Measurements, measured: Measurements) {
    for ((_, least), (_, new)) in least.iter_mut().zip(measured) {
        least.time = least.time.min(new.time);
    }
}
