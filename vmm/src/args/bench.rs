//! `bindervm bench`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

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
