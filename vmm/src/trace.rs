//! `bindervm trace`: prints, summarises and exports recordings.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use binder::DebugId;
use binder_trace::aidl::{AidlError, Table};
use binder_trace::filter::{Filter, Item};
use binder_trace::html::Report;
use binder_trace::item::Event;
use binder_trace::jsonl;
use binder_trace::model::Call;
use binder_trace::perfetto::Exporter;
use binder_trace::recording::{Record, RecordingError};
use binder_trace::summary::Summary;
use binder_trace::tally::Items;
use binder_trace::text::{self, Style};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::args::TraceArgs;
use self::input::Sources;
use crate::exit::{Code, Failure};
use crate::output;

pub mod args;
mod check;
mod follow;
mod input;
mod live;
mod top;

/// Shows the recordings in the form that was asked for.
pub fn run(args: &TraceArgs) -> Result<(), Failure> {
    if args.check || args.at.is_some() {
        return replay(args);
    }
    let table =
        table(&args.aidl).map_err(|error| Failure::because(Code::Usage, "cannot use --aidl", error))?;
    if args.follow && args.perfetto.is_none() && args.html.is_none() {
        output::end_with_reader()?;
    }
    match show(args, &table) {
        Ok(()) => Ok(()),
        Err(ShowError::Output(error)) => output::judge(Err(error)),
        Err(ShowError::Write(path, error)) => {
            Err(Failure::because(Code::Internal, format!("cannot write {}", path.display()), error))
        }
        Err(ShowError::Trace(path, error)) => {
            Err(Failure::because(Code::Image, format!("cannot print {}", path.display()), error))
        }
    }
}

/// `--check` and `--at`, for each recording.
fn replay(args: &TraceArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for path in &args.files {
        match args.at {
            Some(event) => check::state_at(path, event, &mut out)?,
            None => check::check(path, &mut out)?,
        }
    }
    Ok(())
}

/// The declarations that ship, and those of the user's folders.
fn table(folders: &[PathBuf]) -> Result<Arc<Table>, AidlError> {
    let mut table = Table::default();
    // The first folder that was named comes first.
    for folder in folders.iter().rev() {
        table.add(folder)?;
    }
    Ok(Arc::new(table))
}

#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error(transparent)]
    Output(#[from] io::Error),
    #[error("{1}")]
    Write(PathBuf, io::Error),
    #[error("{1}")]
    Trace(PathBuf, RecordingError),
}

impl From<(PathBuf, RecordingError)> for ShowError {
    fn from((path, error): (PathBuf, RecordingError)) -> ShowError {
        ShowError::Trace(path, error)
    }
}

fn show(args: &TraceArgs, table: &Arc<Table>) -> Result<(), ShowError> {
    // What is followed ends when it is interrupted, and is then shown as any other.
    let stop = Arc::new(AtomicBool::new(false));
    if args.follow && !args.top {
        for signal in [SIGINT, SIGTERM] {
            // A second one ends the process; without either handler the first does.
            let _ = flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
                .and_then(|_| flag::register(signal, stop.clone()));
        }
    }
    let sources = Sources::open(&args.files, args.follow.then_some(&stop), table, args.android)?;
    let filter = args.filter.as_ref();
    let problems = match (&args.perfetto, &args.html) {
        (Some(path), _) => perfetto(args, table, sources, path)?,
        (_, Some(path)) => {
            html(sources, filter, table, path).map_err(|e| ShowError::Write(path.clone(), e))?
        }
        _ if args.top => top::show(sources, filter.cloned())?,
        _ => {
            let mut out = BufWriter::new(io::stdout().lock());
            // What was read is printed before what is wrong is told.
            let problems = print(sources, args, table, &mut out)?;
            out.flush()?;
            problems
        }
    };
    let cut_by_us = |problem: &RecordingError| {
        let cut = matches!(problem, RecordingError::CutOff { .. } | RecordingError::Unfinished { .. });
        stop.load(Ordering::Relaxed) && cut
    };
    match problems.into_iter().find(|(_, problem)| !cut_by_us(problem)) {
        Some(problem) => Err(problem.into()),
        None => Ok(()),
    }
}

/// Why recordings ended before their end.
type Problems = Vec<(PathBuf, RecordingError)>;

fn picks(filter: Option<&Filter>, item: &impl Item) -> bool {
    filter.is_none_or(|filter| filter.picks(item))
}

fn create(path: &Path) -> io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 16, File::create(path)?))
}

/// Writes a Perfetto trace. Only its end tells whether a filter picks a call, so with one the
/// recordings are read twice.
fn perfetto(
    args: &TraceArgs,
    table: &Arc<Table>,
    mut sources: Sources,
    path: &Path,
) -> Result<Problems, ShowError> {
    let mut picked: Option<BTreeSet<(u32, DebugId)>> = None;
    if let Some(filter) = &args.filter {
        let name = |call: &Call| (call.machine, call.record.id);
        let mut names = BTreeSet::new();
        while let Some((_, _, ended)) = sources.next() {
            names.extend(ended.filter(|call| filter.picks(call)).as_ref().map(name));
        }
        names.extend(sources.finish().0.iter().filter(|call| filter.picks(*call)).map(name));
        picked = Some(names);
        sources = Sources::open(&args.files, None, table, args.android)?;
    }
    let picks =
        |call: &Call| picked.as_ref().is_none_or(|names| names.contains(&(call.machine, call.record.id)));
    let failed = |error| ShowError::Write(path.to_owned(), error);
    let mut exporter =
        create(path).and_then(|out| Exporter::new(out, sources.host_clock())).map_err(failed)?;
    while let Some((index, record, ended)) = sources.next() {
        exporter.record(sources.model(index), &record, ended.as_ref(), picks).map_err(failed)?;
    }
    exporter.finish().map_err(failed)?;
    Ok(sources.finish().1)
}

fn html(mut sources: Sources, filter: Option<&Filter>, table: &Table, path: &Path) -> io::Result<Problems> {
    let mut report = Report::new(sources.headers());
    while let Some((_, record, ended)) = sources.next() {
        if let Record::Lost(lost) = &record {
            report.lost(lost);
        }
        if let Some(call) = ended.filter(|call| picks(filter, call)) {
            report.call(&call, table);
        }
    }
    let (open, problems) = sources.finish();
    open.iter().filter(|call| picks(filter, *call)).for_each(|call| report.call(call, table));
    report.write(&mut create(path)?)?;
    Ok(problems)
}

fn print(
    mut sources: Sources,
    args: &TraceArgs,
    table: &Table,
    out: &mut impl Write,
) -> io::Result<Problems> {
    let mut printer = Printer { args, table, out, items: Items::default(), summary: Summary::default() };
    if args.jsonl {
        for header in sources.headers() {
            printer.json(&jsonl::header(header))?;
        }
    }
    let calls = args.calls || args.summary;
    while let Some((index, record, ended)) = sources.next() {
        match &record {
            Record::Event(_) if calls => {}
            Record::Event(event) if args.counts => printer.items.event(&event.event),
            Record::Event(event) => {
                printer.event(&Event::new(sources.model(index), event, ended.as_ref()))?;
            }
            Record::Lost(lost) if args.jsonl => printer.json(&jsonl::lost(sources.model(index), lost))?,
            Record::Lost(lost) => writeln!(printer.out, "{}", text::lost(sources.model(index), lost))?,
            _ => {}
        }
        if let Some(call) = ended.filter(|_| calls) {
            printer.call(&call)?;
        }
        if args.follow {
            printer.out.flush()?;
        }
    }
    let (open, problems) = sources.finish();
    if calls {
        open.iter().try_for_each(|call| printer.call(call))?;
    }
    for line in printer.items.lines() {
        writeln!(printer.out, "{line}")?;
    }
    if args.summary {
        for line in printer.summary.table() {
            writeln!(printer.out, "{line}")?;
        }
    }
    Ok(problems)
}

/// Prints items that the filter picks.
struct Printer<'a, W> {
    args: &'a TraceArgs,
    table: &'a Table,
    out: &'a mut W,
    items: Items,
    summary: Summary,
}

impl<W: Write> Printer<'_, W> {
    fn picks(&self, item: &impl Item) -> bool {
        picks(self.args.filter.as_ref(), item)
    }

    fn style(&self) -> Style {
        Style { host_times: self.args.host_times }
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        match self.picks(event) {
            true if self.args.jsonl => self.json(&jsonl::event(event)),
            true => writeln!(self.out, "{}", text::event(event, self.style())),
            false => Ok(()),
        }
    }

    fn call(&mut self, call: &Call) -> io::Result<()> {
        match self.picks(call) {
            true if self.args.summary => {
                self.summary.call(call);
                Ok(())
            }
            true if self.args.jsonl => self.json(&jsonl::call(call, self.table)),
            true => writeln!(self.out, "{}", text::call(call, self.table, self.style())),
            false => Ok(()),
        }
    }

    fn json(&mut self, line: &serde_json::Value) -> io::Result<()> {
        serde_json::to_writer(&mut *self.out, line)?;
        writeln!(self.out)
    }
}
