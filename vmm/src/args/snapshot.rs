//! `bindervm snapshot`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::parse_duration;

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
