//! `bindervm trace`: prints a recording.

use std::io::{self, BufWriter, Write};

use binder_trace::calls::Calls;
use binder_trace::recording::{Reader, RecordingError};
use binder_trace::tally::Tally;
use binder_trace::text;

use crate::args::TraceArgs;
use crate::exit::{Code, Failure};
use crate::output;

/// Prints the recording in the form that was asked for.
pub fn run(args: &TraceArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match print(args, &mut out) {
        Ok(()) => Ok(()),
        Err(PrintError::Output(error)) => output::judge(Err(error)),
        Err(PrintError::Trace(error)) => {
            // What was read is printed before what is wrong is told.
            let _ = out.flush();
            let message = format!("cannot print {}", args.file.display());
            Err(Failure::because(Code::Image, message, error))
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PrintError {
    #[error(transparent)]
    Output(#[from] io::Error),
    #[error(transparent)]
    Trace(#[from] RecordingError),
}

fn print(args: &TraceArgs, out: &mut impl Write) -> Result<(), PrintError> {
    let reader = Reader::open(&args.file)?;
    let mut calls = Calls::default();
    let mut tally = Tally::default();
    for event in reader {
        let event = event?;
        if args.jsonl {
            serde_json::to_writer(&mut *out, &event).map_err(io::Error::from)?;
            writeln!(out)?;
        } else if args.calls {
            if let Some(line) = calls.event(&event) {
                writeln!(out, "{line}")?;
            }
        } else if args.counts {
            tally.event(&event.event);
        } else {
            writeln!(out, "{}", text::line(&event))?;
        }
    }
    for line in calls.finish() {
        writeln!(out, "{line}")?;
    }
    for line in tally.count_lines() {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
