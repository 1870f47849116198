//! The command line, as data. Nothing here does anything.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use binder_trace::recording::{DEFAULT_PAYLOAD, MAX_PAYLOAD};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::run::disk::DiskArg;
use crate::run::share::ShareArg;
use crate::run::vsock::VsockArg;
use crate::serve::events::EventsTarget;
use crate::trace::args::TraceArgs;

/// Boots Android/Linux guests whose binder driver lives on the host.
#[derive(Debug, Parser)]
#[command(name = "bindervm", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot an image and run a command in it, with this command's stdin, stdout and exit status.
    Run(Box<RunArgs>),
    /// Run several guests in this one process, as a file says.
    Group(crate::group::GroupArgs),
    /// List the running guests.
    Ps(PsArgs),
    /// Run a command in a running guest, with this command's stdin, stdout and exit status.
    Exec(ExecArgs),
    /// A shell in a running guest, on this terminal.
    Shell(ShellArgs),
    /// Copy files and folders into a running guest.
    Push(PushArgs),
    /// Copy a file or folder out of a running guest.
    Pull(PullArgs),
    /// Print what happened in a running guest's run, as JSON lines.
    Events(EventsArgs),
    /// Attach to the serial console of a running guest. Ctrl-] detaches.
    Console(ConsoleArgs),
    /// Switch guests off.
    Stop(StopArgs),
    /// Wait until a guest's run is over, and exit as it did.
    Wait(WaitArgs),
    /// Build and list images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print the completion script of a shell; `bindervm completions bash > .../bindervm` installs it.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the man pages into a folder.
    Man {
        /// The folder; it is made if it is not there.
        folder: PathBuf,
    },
    /// Say what this machine offers, which engine `auto` takes and why, and what to do about gaps.
    Doctor(DoctorArgs),
    /// Measure the soft engine: boot, programs, exits; beside QEMU where it is installed.
    Bench(BenchArgs),
    /// Print, summarise, export or follow recorded traces.
    Trace(Box<TraceArgs>),
    /// Run the tests of a plan in guests, and report.
    Test(Box<crate::test::TestArgs>),
    /// Save a running guest to a file, from which any number of guests go on (`run --from`).
    Snapshot(SnapshotArgs),
}

/// Arguments of `bindervm snapshot`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
pub struct SnapshotArgs {
    /// Look at a snapshot instead.
    #[command(subcommand)]
    pub command: Option<SnapshotCommand>,
    /// Name of a running guest (`bindervm ps`), or the path of its control socket.
    #[arg(value_name = "GUEST", required = true)]
    pub guest: Option<String>,
    /// Where to save it. What stands there is replaced when all of it is written.
    #[arg(value_name = "FILE", required = true)]
    pub file: Option<PathBuf>,
    /// Give up waiting after this time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10m")]
    pub timeout: Duration,
}

/// `bindervm snapshot ...`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Say what a snapshot is of, and whether it can be used.
    Info {
        /// The snapshot.
        file: PathBuf,
        /// Read all of it and compare it with its checksums.
        #[arg(long)]
        verify: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `bindervm run`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("socket").args(["name", "control"]).multiple(true)))]
pub struct RunArgs {
    /// Image: the name of a built one (`bindervm image list`) or its folder.
    #[arg(required_unless_present_any = ["kernel", "from"], conflicts_with = "kernel")]
    pub image: Option<String>,
    /// Go on from this snapshot instead of booting an image. Memory, CPUs and the binder driver are
    /// those of the guest that was saved.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["image", "kernel", "append", "memory", "cpus", "binder", "binder_profile", "fast"]
    )]
    pub from: Option<PathBuf>,
    /// Save the guest to this file and end: when it is up, or when COMMAND has ended well.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "fast"])]
    pub snapshot_to: Option<PathBuf>,
    /// Go on from a snapshot of the booted image, which is made on first use and kept in the cache.
    #[arg(long, requires = "image", conflicts_with_all = ["disk", "share", "vsock"])]
    pub fast: bool,
    /// Boot this kernel (ELF vmlinux or bzImage) instead of an image.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for --kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Words to add to the kernel command line.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Give the guest a disk (/dev/vda, /dev/vdb, ...): a raw file, or a block device. With `,ro` writes
    /// are errors; with `,overlay=memory` they are forgotten, with `,overlay=FILE` they go to FILE.
    #[arg(long, value_name = "FILE[,ro][,overlay=TO]", value_parser = crate::run::disk::parse)]
    pub disk: Vec<DiskArg>,
    /// Mount a folder of the host in the guest; with `,ro` the guest cannot change it.
    #[arg(long, value_name = "FOLDER=PATH[,ro]", value_parser = crate::run::share::parse)]
    pub share: Vec<ShareArg>,
    /// Give the guest sockets to the host: a client of PATH writes `CONNECT PORT` and is joined to that port
    /// of the guest; what the guest connects to on CID 2, port P, is the socket PATH_P.
    #[arg(long, value_name = "cid=N,path=PATH", value_parser = crate::run::vsock::parse)]
    pub vsock: Option<VsockArg>,
    /// What executes the guest.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,
    /// Guest memory, for example 512M or 2G.
    #[arg(long, value_parser = parse_memory, default_value = "512M")]
    pub memory: u64,
    /// CPUs of the guest.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(machine::MAX_CPUS)), default_value_t = 1)]
    pub cpus: u8,
    /// End the run after this wall time, for example 60s or 5m.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Give up when the guest's agent is not ready after this wall time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "180s")]
    pub boot_timeout: Duration,
    /// Name of the guest: in traces and reports, and for `ps`, `exec`, `shell`, `stop` and the like.
    #[arg(long, value_parser = parse_name)]
    pub name: Option<String>,
    /// Listen for those at this socket instead of the one of the name.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Keep the guest up for `bindervm exec`, without a command of its own, until `bindervm stop`.
    #[arg(long, requires = "socket", conflicts_with = "command")]
    pub serve: bool,
    /// Like --serve, in the background: returns when the guest takes commands.
    #[arg(long, requires = "socket", conflicts_with = "command")]
    pub detach: bool,
    /// Set by --detach for the process in the background.
    #[arg(long, hide = true, requires = "serve")]
    pub detached: bool,
    /// Record every binder command to this file. `payload=N` keeps up to N bytes of each payload
    /// (256 otherwise), `host-times` adds the host's clock, `replay` adds what `trace --check` needs.
    #[arg(long, value_parser = parse_trace_target, value_name = "FILE[,payload=N][,host-times][,replay]")]
    pub trace: Option<TraceTarget>,
    /// Write what happens to this file, or to descriptor N with `fd:N`: a JSON object a line. `metrics=TIME`
    /// adds the counters so often, in guest time.
    #[arg(long, value_parser = parse_events_target, value_name = "FILE[,metrics=TIME]")]
    pub events: Option<EventsTarget>,
    /// Guest clock: `virtual` repeats exactly, `host` follows the wall clock.
    /// [default: virtual with COMMAND, host on a terminal]
    #[arg(long, value_enum)]
    pub clock: Option<ClockArg>,
    /// Seed of the guest's entropy (soft engine, virtual clock).
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Compile hot code of the guest to the host's (soft engine); a run is the same either way, but
    /// slower without.
    #[arg(long, value_enum, value_name = "ON_OFF", default_value_t = JitArg::On)]
    pub cpu_jit: JitArg,
    /// Which binder driver the guest gets: ours on the host, or its own kernel's.
    #[arg(long, value_enum, default_value_t = BinderArg::Host)]
    pub binder: BinderArg,
    /// The kernel whose binder driver is followed where versions differ.
    #[arg(long, value_enum, default_value_t = ProfileArg::Linux7_2)]
    pub binder_profile: ProfileArg,
    /// Inject faults into binder by the rules of this file (TOML; ci/README.md): calls that fail, processes
    /// that die or freeze, interrupted waits. `--seed` decides where chance does.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "snapshot_to"])]
    pub faults: Option<PathBuf>,
    /// When our driver asks the guest's security module about calls and transferred binders.
    /// [default: what the image says]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub lsm: Option<LsmArg>,
    /// How the binder device answers; `late` is for tests of the shim.
    #[arg(long, value_enum, default_value_t = BinderDeviceArg::Inline, hide = true)]
    pub binder_device: BinderDeviceArg,
    /// Whether the process gives up what it does not need before the guest runs: other programs, the
    /// network, memory beyond the guest's.
    #[arg(long, value_enum, default_value_t = SandboxArg::Auto)]
    pub sandbox: SandboxArg,
    /// Write what reaches the guest from outside (stdin, signals, sizes of the terminal) to this file, with the
    /// instruction at which it did, so that the run can be repeated. Soft engine, virtual clock.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["serve", "detach"])]
    pub record_input: Option<PathBuf>,
    /// Repeat a run from what --record-input wrote: the same goes in at the same instructions, and nothing that
    /// is sent now. All other options are to be those of the recorded run.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["serve", "detach", "record_input"])]
    pub replay_input: Option<PathBuf>,
    /// Write how the run ended to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub status: Option<PathBuf>,
    /// Show the guest's console on stderr.
    #[arg(long)]
    pub console: bool,
    /// Keep the guest's console in this file: its first 8 MiB and its last one.
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
    /// End with the process that started this one, which is this.
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with: Option<u32>,
    /// Let gdb debug the guest: a port of this host ("1234") or the path of a UNIX socket.
    #[arg(long, value_name = "[HOST:]PORT|PATH")]
    pub gdb: Option<gdb::Address>,
    /// Execute nothing before the first debugger says so.
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// Print a summary of the run on stderr: transactions, bytes, exits, time.
    #[arg(long)]
    pub summary: bool,
    /// Command to run in the guest; without it, an interactive shell.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `bindervm ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// A JSON list instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Only the names; for completions.
    #[arg(long, conflicts_with = "json")]
    pub names: bool,
}

/// A running guest.
#[derive(Debug, Args)]
pub struct GuestArg {
    /// Name of a running guest (`bindervm ps`), or the path of its control socket.
    #[arg(value_name = "GUEST")]
    pub guest: String,
}

/// Arguments of `bindervm exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArg,
    /// Run it on a terminal of its own, joined to this one.
    #[arg(short, long)]
    pub tty: bool,
    /// Leave stdin alone: the command reads its end at once.
    #[arg(short, long, conflicts_with = "tty")]
    pub no_stdin: bool,
    /// A variable of the command's environment.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// The command's working directory.
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Hang the command up after this wall time, for example 60s or 5m; exit code 244.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `bindervm shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArg,
}

/// Arguments of `bindervm push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Files and folders of this machine.
    #[arg(required = true, value_name = "FROM")]
    pub from: Vec<PathBuf>,
    /// Where to: into a folder of the guest, or under a new name.
    #[arg(value_name = "GUEST:PATH")]
    pub to: String,
    /// Give up after this time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10m")]
    pub timeout: Duration,
}

/// Arguments of `bindervm pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// A file or folder of the guest.
    #[arg(value_name = "GUEST:PATH")]
    pub from: String,
    /// Where to: into a folder, or under a new name. [default: the current folder]
    #[arg(value_name = "TO")]
    pub to: Option<PathBuf>,
    /// The most bytes to take from the guest.
    #[arg(long, value_parser = parse_memory, value_name = "SIZE", default_value = "1G")]
    pub limit: u64,
    /// Give up after this time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10m")]
    pub timeout: Duration,
}

/// Arguments of `bindervm events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArg,
    /// Go on until its run is over.
    #[arg(short, long)]
    pub follow: bool,
}

/// Arguments of `bindervm console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArg,
}

/// Arguments of `bindervm stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Names of running guests, or paths of their control sockets.
    #[arg(value_name = "GUEST", required_unless_present = "all")]
    pub guests: Vec<String>,
    /// All guests of this user.
    #[arg(long, conflicts_with = "guests")]
    pub all: bool,
    /// End them at once, without asking.
    #[arg(long)]
    pub kill: bool,
    /// Time that a guest has to go down before it is ended.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10s")]
    pub grace: Duration,
}

/// Arguments of `bindervm wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArg,
    /// Only until it takes commands.
    #[arg(long)]
    pub ready: bool,
    /// Give up after this time, with exit code 244.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
}

impl RunArgs {
    /// Name of the guest, given or not.
    pub fn guest_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "g0".to_owned())
    }
}

/// `--trace`: where a recording goes, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceTarget {
    /// The file.
    pub path: PathBuf,
    /// Bytes of each payload at most.
    pub payload: u32,
    /// The host's clock beside guest time.
    pub host_times: bool,
    /// All that goes into the core and comes out of it.
    pub replay: bool,
}

/// A shell that completions can be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// KVM where the hardware has it, else the built-in CPU.
    Auto,
    /// Hardware virtualization through /dev/kvm.
    Kvm,
    /// The CPU in software, built in.
    Soft,
}

/// `--clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockArg {
    /// Time is counted in executed instructions; a run repeats exactly.
    Virtual,
    /// Time is the host's.
    Host,
}

/// `--cpu-jit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JitArg {
    /// Compile what is executed often.
    On,
    /// Interpret everything.
    Off,
}

/// `--binder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BinderArg {
    /// The driver on the host, through the shim.
    Host,
    /// The guest kernel's own `binder_linux` module.
    Kernel,
}

/// `--lsm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LsmArg {
    /// Every time.
    Ask,
    /// Once for each pair of processes, until the policy changes.
    Cache,
    /// Never.
    Off,
}

/// `--binder-profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// The C driver of Linux 6.1.
    #[value(name = "linux-6.1")]
    Linux6_1,
    /// The C driver of Linux 6.12.
    #[value(name = "linux-6.12")]
    Linux6_12,
    /// The C driver of Linux 7.2.
    #[value(name = "linux-7.2")]
    Linux7_2,
    /// The C driver of the Android common kernels: real-time priorities, policies of nodes.
    Aosp,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxArg {
    /// Where the host's kernel allows it; else a line says so.
    Auto,
    /// Always; a run that cannot be confined does not begin.
    On,
    /// Never.
    Off,
}

/// `--binder-device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BinderDeviceArg {
    /// Answers inside the doorbell write.
    Inline,
    /// Answers later, from another thread, with interrupts.
    Late,
    /// Inline, with queues of four entries.
    Tight,
    /// Late, with queues of four entries.
    TightLate,
    /// Inline, and fails for good after 2000 messages.
    Failing,
}

/// Arguments of `bindervm doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Tell of the last run instead: how it ended, and which instructions the software CPU lacked.
    #[arg(long)]
    pub last_run: bool,
}

/// `bindervm image ...`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image from a recipe.
    Build {
        /// Name of a recipe in images/ or path of a recipe file.
        recipe: String,
    },
    /// List the built images.
    List,
}

/// Arguments of `bindervm bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Image whose kernel, initramfs and command line are used.
    #[arg(default_value = "minimal")]
    pub image: String,
    /// Runs of each contender; the least counts.
    #[arg(long, default_value = "5")]
    pub runs: NonZeroU32,
    /// Measure binder calls instead: our driver on the host beside the kernel's own. Each run is a pair then, and the
    /// median counts.
    #[arg(long, conflicts_with = "qemu")]
    pub binder: bool,
    /// Measure what recording a trace costs instead: binder calls with and without `run --trace`, in pairs as with
    /// `--binder`.
    #[arg(long, conflicts_with_all = ["qemu", "binder"])]
    pub trace: bool,
    /// Measure what a neighbour that floods binder does to the handling of a guest's messages, beside one that only burns
    /// CPU. Each run is a pair then, and the median counts.
    #[arg(long, conflicts_with_all = ["qemu", "binder", "trace"])]
    pub flood: bool,
    /// QEMU's program, if it is not `qemu-system-x86_64`.
    #[arg(long, value_name = "FILE")]
    pub qemu: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A file name, then options: only what follows the last commas and reads like an option is one.
pub fn parse_trace_target(text: &str) -> Result<TraceTarget, String> {
    let mut target =
        TraceTarget { path: PathBuf::new(), payload: DEFAULT_PAYLOAD, host_times: false, replay: false };
    let mut path = text;
    while let Some((before, option)) = path.rsplit_once(',') {
        match option {
            "host-times" => target.host_times = true,
            "replay" => target.replay = true,
            _ => {
                let Some(number) = option.strip_prefix("payload=") else { break };
                target.payload = u32::try_from(parse_memory(number)?)
                    .ok()
                    .filter(|bytes| *bytes <= MAX_PAYLOAD)
                    .ok_or_else(|| "no payload is longer than 4M".to_owned())?;
            }
        }
        path = before;
    }
    if path.is_empty() {
        return Err("a file name comes first: FILE,payload=4K".to_owned());
    }
    target.path = PathBuf::from(path);
    Ok(target)
}

/// A file name, then how often the counters are to be there.
fn parse_events_target(text: &str) -> Result<EventsTarget, String> {
    let (to, metrics) = match text.rsplit_once(",metrics=") {
        Some((to, time)) => (to, Some(parse_duration(time)?)),
        None => (text, None),
    };
    Ok(EventsTarget { to: to.parse()?, metrics })
}

/// Bytes with an optional K, M or G suffix.
fn parse_memory(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err(format!("'{unit}' is not a unit; write for example 512M or 2G")),
    };
    let number: u64 =
        digits.parse().map_err(|_| "write a whole number with a unit, for example 512M".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is more than 64 bits of bytes".to_owned())
}

/// A time with a unit: ms, s, m or h; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let number: u64 =
        digits.parse().map_err(|_| "write a whole number with a unit, for example 60s".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("'{unit}' is not a unit; use ms, s, m or h")),
    };
    match millis {
        Some(0) => Err("the time must be more than zero".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err("that is too long".to_owned()),
    }
}

/// A variable of an environment.
fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// A guest name is used in file names: letters, digits, `-`, `_` and `.`, not starting with a dot.
pub fn parse_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(fits) {
        return Err("a name has 1 to 64 letters, digits, '-', '_' or '.', and no dot at its start".to_owned());
    }
    Ok(text.to_owned())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_trace_file_may_have_options() {
        let target = parse_trace_target("a,b.bvt,payload=4K,host-times").unwrap();
        assert_eq!(target.path, PathBuf::from("a,b.bvt"));
        assert_eq!((target.payload, target.host_times, target.replay), (4096, true, false));
        assert_eq!(parse_trace_target("t").unwrap().payload, DEFAULT_PAYLOAD);
        assert!(parse_trace_target(",replay").is_err());
        assert!(parse_trace_target("t,payload=8M").is_err());
        assert!(parse_trace_target("t,payload=x").is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_memory("512M"), Ok(512 << 20));
        assert_eq!(parse_memory("2g"), Ok(2 << 30));
        assert!(parse_memory("lots").is_err());
        assert!(parse_memory("99999999999G").is_err());
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("0").is_err());
        assert!(parse_duration("5 parsecs").is_err());
    }

    #[test]
    fn a_command_follows_two_dashes() {
        let cli = Cli::try_parse_from(["bindervm", "run", "aosp14", "--", "service", "list"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["service", "list"]);
        assert!(Cli::try_parse_from(["bindervm", "run"]).is_err());
        assert!(Cli::try_parse_from(["bindervm", "run", "a", "--kernel", "k"]).is_err());
        assert!(Cli::try_parse_from(["bindervm", "run", "a", "--name", "../x"]).is_err());
    }
}
