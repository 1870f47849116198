//! The commands for guests that are up: `ps`, `exec`, `shell`, `push`, `pull`, `events`, `console`, `stop`, `wait`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::value::{parse_duration, parse_memory, parse_variable};

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
