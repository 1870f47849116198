//! The command line of `bindervm trace`.

use std::path::PathBuf;

use binder_trace::filter::{Field, Filter};
use clap::Args;

/// Arguments of `bindervm trace`.
#[derive(Debug, Args)]
#[command(after_long_help = fields_help())]
pub struct TraceArgs {
    /// Recordings, as `bindervm run --trace` wrote them; several are shown in order of time. With
    /// --follow also names of running guests.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One line a call, not one an event: who called whom, what, the result, and the guest time it took.
    #[arg(long)]
    pub calls: bool,
    /// JSON lines instead of text (devices/binder-trace/schema/trace.schema.json).
    #[arg(long, group = "form")]
    pub jsonl: bool,
    /// How many commands and returns of each kind each process had.
    #[arg(long, group = "form", conflicts_with = "filter")]
    pub counts: bool,
    /// Counts, errors, bytes and latencies of each method.
    #[arg(long, group = "form")]
    pub summary: bool,
    /// The same in a terminal, while it happens (with --follow) or as it was; q ends it.
    #[arg(long, group = "form")]
    pub top: bool,
    /// Write a trace for ui.perfetto.dev and trace_processor; all guests in one file.
    #[arg(long, value_name = "OUT", group = "form")]
    pub perfetto: Option<PathBuf>,
    /// Write a report as one HTML page: timeline, call graph, latencies, failures.
    #[arg(long, value_name = "OUT", group = "form")]
    pub html: Option<PathBuf>,
    /// Give what was recorded to a fresh core and compare all that it does (with --trace FILE,replay every event, too).
    #[arg(long, group = "form", conflicts_with_all = ["filter", "calls"])]
    pub check: bool,
    /// Print the driver's state (nodes, refs, threads, stacks, buffers) at this event, counted from 1
    /// as the lines of `bindervm trace FILE`.
    #[arg(long, value_name = "EVENT", group = "form", conflicts_with_all = ["filter", "calls"])]
    pub at: Option<u64>,
    /// Go on with what is recorded from now on, until interrupted. A FILE may be a guest that runs (its
    /// name, or the path of its control socket): what it does from now on is shown, until it ends.
    #[arg(long, conflicts_with_all = ["check", "at", "perfetto", "html", "counts"])]
    pub follow: bool,
    /// Only what this expression picks, for example 'iface=~IPackage && dur>2ms || result!=ok'
    /// (--help lists the fields).
    #[arg(long, short, value_name = "EXPRESSION", value_parser = Filter::parse)]
    pub filter: Option<Filter>,
    /// Take method names and arguments from the .aidl files in this folder; may be repeated.
    #[arg(long, value_name = "DIR")]
    pub aidl: Vec<PathBuf>,
    /// AOSP version that the guest's method codes are of, where the recording does not say it.
    #[arg(long, value_name = "VERSION")]
    pub android: Option<u32>,
    /// Show host times beside guest times, if the recording has them.
    #[arg(long)]
    pub host_times: bool,
}

/// The fields of a filter, for the long help.
fn fields_help() -> String {
    let mut help = "Fields of --filter:\n".to_owned();
    for field in Field::ALL {
        help.push_str(&format!("  {:<13} {}\n", field.name(), field.meaning()));
    }
    help.push_str(
        "\nOperators: == != < <= > >=, for text also =~ !~ (regular expression), && || ! ( ).\n\
         Times have a unit (ns us ms s m), sizes may have one (K M G). A comparison with a field that\n\
         an item does not have is false. Text with spaces and the like goes in double quotes.",
    );
    help
}
