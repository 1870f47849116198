//! The command line, as data. Nothing here does anything.

use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::trace::args::TraceArgs;

mod bench;
mod choice;
mod guests;
mod run;
mod snapshot;
mod value;

pub use bench::BenchArgs;
pub use choice::{BinderArg, BinderDeviceArg, ClockArg, EngineArg, JitArg, LsmArg, ProfileArg, SandboxArg};
pub use guests::{
    ConsoleArgs, EventsArgs, ExecArgs, PsArgs, PullArgs, PushArgs, ShellArgs, StopArgs, WaitArgs,
};
pub use run::{RunArgs, TraceTarget, parse_trace_target};
pub use snapshot::{SnapshotArgs, SnapshotCommand};
pub use value::parse_name;

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

/// A shell that completions can be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
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

/// Adds the way on to what clap says of a guest's command that is not behind `--`.
pub fn with_advice(mut error: clap::Error) -> clap::Error {
    let of_command =
        ["run", "exec"].iter().any(|name| std::env::args_os().nth(1).is_some_and(|arg| arg == *name));
    let is_word = matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(word)) if !word.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument && of_command && is_word {
        let advice =
            StyledStr::from("the guest's command comes after `--`: bindervm run aosp14 -- service list");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice]));
    }
    error
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
    fn a_command_follows_two_dashes() {
        let cli = Cli::try_parse_from(["bindervm", "run", "aosp14", "--", "service", "list"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["service", "list"]);
        assert!(Cli::try_parse_from(["bindervm", "run"]).is_err());
        assert!(Cli::try_parse_from(["bindervm", "run", "a", "--kernel", "k"]).is_err());
        assert!(Cli::try_parse_from(["bindervm", "run", "a", "--name", "../x"]).is_err());
    }
}
