//! `bindervm run`.

use std::path::PathBuf;
use std::time::Duration;

use binder_trace::recording::{DEFAULT_PAYLOAD, MAX_PAYLOAD};
use ci::plan::value::Memory;
use clap::{ArgGroup, Args};

use super::choice::{
    BinderArg, BinderDeviceArg, ClockArg, EngineArg, JitArg, LsmArg, ProfileArg, SandboxArg,
};
use super::value::{parse_duration, parse_memory, parse_name};
use crate::run::disk::DiskArg;
use crate::run::share::ShareArg;
use crate::run::vsock::VsockArg;
use crate::serve::events::EventsTarget;

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
    /// Guest memory with its unit: 512M, 2G.
    #[arg(long, value_parser = Memory::parse, default_value = "512M")]
    pub memory: Memory,
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
    /// (256 otherwise), `host-times` adds the host's clock, `replay` adds the events, for `trace --check` to
    /// compare. On KVM what the disk is too slow for is left out, and the trace says where.
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
                let bytes = match number.parse() {
                    Ok(bytes) => bytes,
                    Err(_) => parse_memory(number)?,
                };
                target.payload = u32::try_from(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
