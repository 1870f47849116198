//! What a flooding neighbour does to the handling of a guest's messages, beside one that only burns CPU.
//!
//! A quiet guest makes calls between two processes of its own (`conformance bench`). Its neighbour, with a binder world of
//! its own, either floods binder from many threads (`conformance stress`) or does nothing but loop. What is compared is
//! what handling one message of the quiet guest took the host: CPU time of its thread, of one message in 64, as its
//! status file has it. Both neighbours cost the machine a CPU; what a flood adds is what the two guests share beyond
//! that. The neighbours take turns, and the median of all pairs counts, once with a process for each guest and once with
//! one for both.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::load;
use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::output;

/// Calls of the quiet guest: three messages each, so some thousand are timed.
const CALLS: &str = "50000";
/// Bytes each way.
const BYTES: &str = "128";
/// Longer than a run takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What the neighbour does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    Burns,
    Floods,
}

/// Where the two guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Place {
    /// Each in a process of its own.
    Apart,
    /// Both in one.
    Together,
}

#[derive(Debug, Serialize)]
struct Row {
    place: Place,
    /// Median CPU time of a message, in nanoseconds, beside a neighbour that burns CPU.
    burns_ns: f64,
    /// The same beside one that floods binder.
    floods_ns: f64,
    /// Median of the pairs' ratios.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    image: String,
    pairs: u32,
    load: f64,
    rows: Vec<Row>,
}

/// Measures, and prints a table or JSON.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let load = load();
    let mut rows = Vec::new();
    for place in [Place::Apart, Place::Together] {
        let (mut burns, mut floods) = (Vec::new(), Vec::new());
        for pair in 1..=args.runs.get() {
            eprintln!("bindervm: {place:?}, pair {pair} of {}", args.runs);
            burns.push(play(&args.image, place, Neighbour::Burns)?);
            floods.push(play(&args.image, place, Neighbour::Floods)?);
        }
        let ratios = floods.iter().zip(&burns).map(|(floods, burns)| floods / burns).collect();
        rows.push(Row { place, burns_ns: median(burns), floods_ns: median(floods), ratio: median(ratios) });
    }
    let report = Report { image: args.image.clone(), pairs: args.runs.get(), load, rows };
    output::print(|out| if args.json { report.json(out) } else { report.table(out) })
}

/// The one in the middle; the mean of the two there of an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len().saturating_sub(1) / 2) + at(values.len() / 2)) / 2.0
}

/// Runs the two guests until the quiet one is done: nanoseconds of a message of it.
fn play(image: &str, place: Place, neighbour: Neighbour) -> Result<f64, Failure> {
    let cannot = |what: &str, error: io::Error| Failure::because(Code::Internal, what.to_owned(), error);
    let folder = tempfile::tempdir().map_err(|error| cannot("cannot make a temporary folder", error))?;
    let status = folder.path().join("status.json");
    let mut processes = Processes(Vec::new());
    let mut start = |arguments: Vec<String>| {
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        command.args(arguments).env("XDG_RUNTIME_DIR", folder.path());
        processes.0.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    };
    let started = match place {
        Place::Apart => start(loud(image, neighbour)).and_then(|()| start(quiet(image, &status))),
        Place::Together => {
            let file = folder.path().join("group.toml");
            fs::write(&file, group(image, neighbour, &status))
                .and_then(|()| start(vec!["group".to_owned(), file.display().to_string()]))
        }
    };
    started.map_err(|error| cannot("cannot start the guests", error))?;
    let until = Instant::now() + LIMIT;
    while !status.exists() {
        let message =
            "the guests ended or did not begin; they need an image with /bin/conformance, such as `minimal`";
        if Instant::now() > until || processes.have_all_ended() {
            return Err(Failure::new(Code::Internal, message));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read(&status).map_err(|error| cannot("cannot read how a run ended", error))?;
    let status: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::because(Code::Internal, "a run's status is not JSON", error))?;
    let number = |name: &str| status["handling"][name].as_f64().unwrap_or_default();
    match (status["ended"].as_str(), number("messages")) {
        (Some("exited"), messages @ 1000.0..) => Ok(number("cpu_ns") / messages),
        _ => Err(Failure::new(Code::Internal, format!("the quiet guest did not make its calls: {status}"))),
    }
}

/// Processes that end with this.
struct Processes(Vec<Child>);

impl Processes {
    fn have_all_ended(&mut self) -> bool {
        self.0.iter_mut().all(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // What has ended cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Neighbour {
    fn command(self) -> [&'static str; 3] {
        match self {
            Neighbour::Burns => ["/bin/sh", "-c", "while :; do :; done"],
            Neighbour::Floods => ["/bin/conformance", "stress", "100000"],
        }
    }
}

const QUIET: [&str; 4] = ["/bin/conformance", "bench", CALLS, BYTES];

fn loud(image: &str, neighbour: Neighbour) -> Vec<String> {
    let words = ["run", image, "--engine", "soft", "--clock", "virtual", "--timeout", "300s", "--"];
    words.into_iter().chain(neighbour.command()).map(str::to_owned).collect()
}

fn quiet(image: &str, status: &Path) -> Vec<String> {
    let status = status.display().to_string();
    let words = [
        "run",
        image,
        "--engine",
        "soft",
        "--clock",
        "virtual",
        "--timeout",
        "300s",
        "--status",
        &status,
        "--",
    ];
    words.into_iter().chain(QUIET).map(str::to_owned).collect()
}

/// The file of a group of the same two.
fn group(image: &str, neighbour: Neighbour, status: &Path) -> String {
    let guest = |command: &[&str], status: Option<&Path>| {
        let mut table = toml::Table::new();
        for (key, value) in [("image", image), ("engine", "soft"), ("clock", "virtual"), ("timeout", "300s")]
        {
            table.insert(key.to_owned(), value.into());
        }
        table.insert("command".to_owned(), command.to_vec().into());
        if let Some(status) = status {
            table.insert("status".to_owned(), status.display().to_string().into());
        }
        table
    };
    let guests: toml::Table = [
        ("quiet".to_owned(), guest(&QUIET, Some(status)).into()),
        ("loud".to_owned(), guest(&neighbour.command(), None).into()),
    ]
    .into_iter()
    .collect();
    toml::Table::from_iter([("guest".to_owned(), guests.into())]).to_string()
}

impl Report {
    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:<13} {:>14} {:>14} {:>6}", "guests", "burns, ns", "floods, ns", "ratio")?;
        for row in &self.rows {
            let place = match row.place {
                Place::Apart => "a process each",
                Place::Together => "in one process",
            };
            writeln!(out, "{place:<13} {:>13.0} {:>14.0} {:>6.2}", row.burns_ns, row.floods_ns, row.ratio)?;
        }
        writeln!(
            out,
            "image {}, host CPU time of a message beside such a neighbour, median of {} pairs; load {:.1}",
            self.image, self.pairs, self.load
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_one_that_can_be_read() {
        let text = group("minimal", Neighbour::Floods, Path::new("/tmp/s.json"));
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["guest"]["quiet"]["status"].as_str(), Some("/tmp/s.json"));
        assert_eq!(table["guest"]["loud"]["command"][1].as_str(), Some("stress"));
        assert_eq!(median(vec![3.0, 1.0, 2.0, 9.0]), 2.5);
    }
}
