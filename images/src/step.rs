//! Steps: the units of a build that a person sees begin, end and fail.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::cache::Cache;
use crate::command::StepLog;
use crate::error::{BuildError, Failure, Purpose};
use crate::progress::{Event, Progress};

/// Runs steps one after another.
pub(crate) struct Steps<'a> {
    cache: &'a Cache,
    progress: &'a mut dyn Progress,
}

/// What a step gives back: its value, and whether that was in the cache.
pub(crate) struct Outcome<T> {
    pub value: T,
    pub cached: bool,
}

impl<'a> Steps<'a> {
    pub fn new(cache: &'a Cache, progress: &'a mut dyn Progress) -> Self {
        Self { cache, progress }
    }

    /// Runs `body` as the step `name`.
    pub fn run<T>(
        &mut self,
        name: &str,
        detail: &str,
        body: impl FnOnce(&mut Step<'_>) -> Result<Outcome<T>, Failure>,
    ) -> Result<T, BuildError> {
        let begin = Instant::now();
        self.progress.event(Event::Started { step: name, detail });
        let mut step =
            Step { cache: self.cache, log_path: self.cache.log(name), log: None, progress: self.progress };
        let result = body(&mut step);
        let log = step.log.is_some().then_some(step.log_path);
        let Outcome { value, cached } = result.map_err(|failure| BuildError::Step {
            step: name.to_owned(),
            log,
            failure: Box::new(failure),
        })?;
        self.progress.event(Event::Finished { step: name, cached, took: begin.elapsed() });
        Ok(value)
    }

    pub fn notice(&mut self, text: &str) {
        self.progress.event(Event::Notice(text));
    }
}

/// A running step: where its programs run and report.
pub(crate) struct Step<'a> {
    pub cache: &'a Cache,
    log_path: PathBuf,
    /// Made with the first program, so that a step served from the cache keeps its last log.
    log: Option<StepLog>,
    progress: &'a mut dyn Progress,
}

impl Step<'_> {
    /// Runs a program to its end, its lines going to the log and the progress.
    pub fn run(&mut self, command: &mut Command, purpose: Purpose) -> Result<(), Failure> {
        self.run_with_share(command, purpose, |_| None)
    }

    /// As [`Step::run`]; lines for which `share` gives a number are progress, not text.
    pub fn run_with_share(
        &mut self,
        command: &mut Command,
        purpose: Purpose,
        mut share: impl FnMut(&str) -> Option<f32>,
    ) -> Result<(), Failure> {
        let log = open(&mut self.log, &self.log_path)?;
        log.run(command, purpose, |line| {
            self.progress.event(match share(line) {
                Some(share) => Event::Share(share.clamp(0.0, 1.0)),
                None => Event::Line(line),
            });
        })
    }

    /// Runs a program for its standard output.
    pub fn output(&mut self, command: &mut Command, purpose: Purpose) -> Result<String, Failure> {
        open(&mut self.log, &self.log_path)?.output(command, purpose)
    }

    pub fn notice(&mut self, text: &str) {
        self.progress.event(Event::Notice(text));
    }
}

fn open<'a>(log: &'a mut Option<StepLog>, path: &std::path::Path) -> Result<&'a mut StepLog, Failure> {
    match log {
        Some(log) => Ok(log),
        None => Ok(log.insert(StepLog::create(path)?)),
    }
}
