//! What a binder call costs: our driver on the host beside the kernel's own, in the same image.
//!
//! A run boots the image and makes calls between two processes of the guest (`conformance bench`). What a call costs is
//! the CPU time of the whole `bindervm` process for a run with calls less that of one without, by the number of calls.
//! The two drivers take turns, and the median of all pairs counts; of ratios, that of each pair's own, for a machine's
//! speed changes from minute to minute. Doorbells, interrupts and instructions are counted
//! and not measured: they are the same on every machine.
//!
//! What recording costs is measured the same way: calls of 4 bytes through our driver, with and without `--trace`. The
//! difference is small, so a pair is measured there and back: a machine that becomes slower meanwhile does so for both.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::load;
use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::output;

/// Bytes each way.
const SIZES: [usize; 6] = [4, 128, 1024, 4096, 16 << 10, 64 << 10];
/// Calls of a run: enough to be seen beside the boot.
const CALLS: u64 = 50_000;
const DRIVERS: [&str; 2] = ["host", "kernel"];
/// Calls of a run with or without a trace, of which each pair has two of either.
const TRACED_CALLS: u64 = 50_000;
/// Which run of a pair follows which: without, with, with, without.
const THERE_AND_BACK: [usize; 4] = [0, 1, 1, 0];
/// Bytes each way of a traced call.
const TRACED_BYTES: usize = 4;

/// What one run took and did.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    cpu: Duration,
    instructions: u64,
    doorbells: u64,
    interrupts: u64,
}

impl Run {
    /// Counts another one in.
    fn add(&mut self, other: &Run) {
        self.cpu += other.cpu;
        self.instructions += other.instructions;
        self.doorbells += other.doorbells;
        self.interrupts += other.interrupts;
    }
}

/// A call of one driver.
#[derive(Clone, Debug, Default, Serialize)]
struct Call {
    /// Median of the CPU time.
    cpu_us: f64,
    instructions: f64,
    doorbells: f64,
    interrupts: f64,
}

/// The calls of one size.
#[derive(Debug, Serialize)]
struct Row {
    bytes: usize,
    host: Call,
    kernel: Call,
    /// CPU time of ours by the kernel's, the median of all pairs.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    image: String,
    calls: u64,
    pairs: u32,
    load: f64,
    rows: Vec<Row>,
}

/// Measures, and prints a table or JSON.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let load = load();
    for bytes in SIZES {
        eprintln!("bindervm: {bytes} bytes, {} pairs", args.runs);
        let mut calls: [Vec<Call>; 2] = Default::default();
        for _ in 0..args.runs.get() {
            for (driver, calls) in DRIVERS.iter().zip(&mut calls) {
                let without = play(&args.image, driver, 0, bytes, None)?;
                let with = play(&args.image, driver, CALLS, bytes, None)?;
                calls.push(Call::between(&without, &with, CALLS));
            }
        }
        let ratio = ratio(&calls);
        let [host, kernel] = calls.map(median);
        rows.push(Row { bytes, host, kernel, ratio });
    }
    let report = Report { image: args.image.clone(), calls: CALLS, pairs: args.runs.get(), load, rows };
    output::print(|out| if args.json { json(&report, out) } else { report.table(out) })
}

/// Measures what recording costs, and prints a table or JSON.
pub fn run_trace(args: &BenchArgs) -> Result<(), Failure> {
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::because(Code::Internal, "cannot make a temporary folder", error))?;
    let file = folder.path().join("bench.trace");
    let load = load();
    let mut calls: [Vec<Call>; 2] = Default::default();
    let mut bytes_a_call = 0.0;
    for pair in 0..args.runs.get() {
        eprintln!("bindervm: pair {} of {}", pair + 1, args.runs);
        let mut runs = [[Run::default(); 2]; 2];
        for turn in THERE_AND_BACK {
            let trace = [None, Some(file.as_path())][turn];
            let size = || std::fs::metadata(&file).map_or(0, |file| file.len());
            runs[turn][0].add(&play(&args.image, "host", 0, TRACED_BYTES, trace)?);
            let begun = size();
            runs[turn][1].add(&play(&args.image, "host", TRACED_CALLS, TRACED_BYTES, trace)?);
            if trace.is_some() {
                bytes_a_call = size().saturating_sub(begun) as f64 / TRACED_CALLS as f64;
            }
        }
        for ([without, with], calls) in runs.iter().zip(&mut calls) {
            calls.push(Call::between(without, with, 2 * TRACED_CALLS));
        }
    }
    let cost = 1.0 / ratio(&calls) - 1.0;
    let [plain, traced] = calls.map(median);
    let pairs = args.runs.get();
    let report = TraceReport {
        image: args.image.clone(),
        calls: 2 * TRACED_CALLS,
        pairs,
        load,
        plain,
        traced,
        cost,
        bytes_a_call,
    };
    output::print(|out| if args.json { json(&report, out) } else { report.text(out) })
}

/// What recording a call costs.
#[derive(Debug, Serialize)]
struct TraceReport {
    image: String,
    calls: u64,
    pairs: u32,
    load: f64,
    plain: Call,
    traced: Call,
    /// CPU time that a call takes more, by what it takes without a trace: the median of all pairs.
    cost: f64,
    /// What a call adds to the file.
    bytes_a_call: f64,
}

impl TraceReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let TraceReport { image, calls, pairs, load, plain, traced, cost, bytes_a_call } = self;
        writeln!(
            out,
            "a call of {TRACED_BYTES} bytes: {:.2} us, recorded {:.2} us",
            plain.cpu_us, traced.cpu_us
        )?;
        writeln!(out, "recording costs {:.1} % and {bytes_a_call:.0} bytes a call", cost * 100.0)?;
        writeln!(out, "image {image}, CPU time, median of {pairs} pairs of {calls} calls; load {load:.1}")
    }
}

fn json(report: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

impl Call {
    /// What each of `count` calls took.
    fn between(without: &Run, with: &Run, count: u64) -> Call {
        let each = |with: u64, without: u64| with.saturating_sub(without) as f64 / count as f64;
        Call {
            cpu_us: with.cpu.saturating_sub(without.cpu).as_secs_f64() * 1e6 / count as f64,
            instructions: each(with.instructions, without.instructions),
            doorbells: each(with.doorbells, without.doorbells),
            interrupts: each(with.interrupts, without.interrupts),
        }
    }
}

/// The first call of a pair by the second, in CPU time; the median of all pairs.
fn ratio([first, second]: &[Vec<Call>; 2]) -> f64 {
    let mut ratios: Vec<f64> = first.iter().zip(second).map(|(a, b)| a.cpu_us / b.cpu_us).collect();
    middle(&mut ratios, |ratio| *ratio)
}

/// The call of median CPU time.
fn median(mut calls: Vec<Call>) -> Call {
    let cpu_us = middle(&mut calls, |call| call.cpu_us);
    Call { cpu_us, ..calls.get(calls.len() / 2).cloned().unwrap_or_default() }
}

/// Sorts `items` by a number and gives the median; the mean of the two in the middle of an even number of items.
fn middle<T>(items: &mut [T], number: impl Fn(&T) -> f64) -> f64 {
    items.sort_by(|a, b| number(a).total_cmp(&number(b)));
    let (low, high) = (items.len().saturating_sub(1) / 2, items.len() / 2);
    let at = |index: usize| items.get(index).map_or(0.0, &number);
    (at(low) + at(high)) / 2.0
}

/// One run of this very program, recorded if there is a file for it.
fn play(image: &str, driver: &str, calls: u64, bytes: usize, trace: Option<&Path>) -> Result<Run, Failure> {
    let cannot = |what: &str, error: io::Error| Failure::because(Code::Internal, what.to_owned(), error);
    let own = std::env::current_exe().map_err(|error| cannot("cannot find bindervm itself", error))?;
    let status = tempfile::NamedTempFile::new().map_err(|error| cannot("cannot make a file", error))?;
    let mut command = Command::new(own);
    command.args(["run", image, "--engine", "soft", "--clock", "virtual", "--timeout", "300s"]);
    command.args(["--binder", driver, "--lsm", "cache", "--status"]).arg(status.path());
    if let Some(trace) = trace {
        command.arg("--trace").arg(trace);
    }
    command.args(["--", "/bin/conformance", "bench", &calls.to_string(), &bytes.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let before = children_cpu_time();
    let ended = command.status().map_err(|error| cannot("cannot start a run", error))?;
    let cpu = children_cpu_time().saturating_sub(before);
    if !ended.success() {
        let message = format!(
            "the guest of the {driver}'s driver did not make its calls ({ended}); it needs an image with \
             /bin/conformance, such as `minimal`"
        );
        return Err(Failure::new(Code::Internal, message));
    }
    let text = std::fs::read(status.path()).map_err(|error| cannot("cannot read how a run ended", error))?;
    let status: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::because(Code::Internal, "a run's status is not JSON", error))?;
    let number = |of: &str, name: &str| status[of][name].as_u64().unwrap_or_default();
    Ok(Run {
        cpu,
        instructions: number("run", "instructions"),
        doorbells: number("binder", "doorbells"),
        interrupts: number("binder", "interrupts"),
    })
}

/// CPU time of all children that have ended.
fn children_cpu_time() -> Duration {
    // SAFETY: zeroes are a valid `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let time = |it: libc::timeval| Duration::new(it.tv_sec as u64, it.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

impl Report {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>8} {:>11} {:>11} {:>6} {:>11} {:>11} {:>10} {:>11}",
            "bytes", "host us", "kernel us", "ratio", "host ins", "kernel ins", "doorbells", "interrupts"
        )?;
        for row in &self.rows {
            writeln!(
                out,
                "{:>8} {:>11.2} {:>11.2} {:>6.2} {:>11.0} {:>11.0} {:>10.3} {:>11.3}",
                row.bytes,
                row.host.cpu_us,
                row.kernel.cpu_us,
                row.ratio,
                row.host.instructions,
                row.kernel.instructions,
                row.host.doorbells,
                row.host.interrupts
            )?;
        }
        writeln!(
            out,
            "image {}, CPU time of a call, median of {} pairs of {} calls; load {:.1}",
            self.image, self.pairs, self.calls, self.load
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(cpu_us: f64) -> Call {
        Call { cpu_us, ..Call::default() }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(vec![call(9.0), call(1.0), call(2.0)]).cpu_us, 2.0);
        assert_eq!(median(vec![call(9.0), call(1.0), call(2.0), call(4.0)]).cpu_us, 3.0);
        assert_eq!(median(vec![]).cpu_us, 0.0);
    }

    #[test]
    fn a_pair_is_compared_in_itself() {
        // The machine became slower meanwhile.
        let pairs = [vec![call(7.0), call(21.0), call(8.0)], vec![call(10.0), call(30.0), call(12.0)]];
        assert_eq!(ratio(&pairs), 0.7);
    }

    #[test]
    fn a_call_is_what_a_run_with_calls_took_more() {
        let run = |cpu, instructions, doorbells| Run {
            cpu: Duration::from_millis(cpu),
            instructions,
            doorbells,
            interrupts: 0,
        };
        let call = Call::between(&run(100, 1000, 16), &run(300, 1000 + 7 * CALLS, 16 + 3 * CALLS), CALLS);
        assert_eq!((call.cpu_us, call.instructions, call.doorbells), (2e5 / CALLS as f64, 7.0, 3.0));
    }
}
