//! Recordings as one stream: several are merged by time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use binder_trace::aidl::Table;
use binder_trace::model::{Call, Model};
use binder_trace::recording::{Header, HostClock, Reader, Record, RecordingError};
use binder_trace::told::Told;

use super::follow::Growing;
use super::live;

/// Bytes of a recording, wherever they come from.
type Input = Box<dyn Read + Send>;

/// A recording that is being read.
pub struct Source {
    reader: Told<Input>,
    /// What its records tell.
    pub model: Model,
    path: PathBuf,
    /// Read already, to know the next event's time.
    ahead: VecDeque<Record>,
    host: Option<Duration>,
    ended: bool,
}

/// All recordings of a command line.
pub struct Sources {
    sources: Vec<Source>,
    /// Why a recording ended early; told after all that could be read.
    problems: Vec<(PathBuf, RecordingError)>,
    by_host_time: bool,
}

impl Sources {
    /// Opens recordings. Their guests are numbered in this order, from 1. `follow`: they may be guests
    /// that run, and the ends of files are waited at, until it is set.
    pub fn open(
        paths: &[PathBuf],
        follow: Option<&Arc<AtomicBool>>,
        table: &Arc<Table>,
        android: Option<u32>,
    ) -> Result<Sources, (PathBuf, RecordingError)> {
        let mut sources = Vec::new();
        let mut machine = 1;
        for path in paths {
            let reader = open(path, follow).map_err(|error| (path.clone(), error))?;
            let header = Header { android: reader.header().android.or(android), ..reader.header().clone() };
            let model = Model::new(&header, machine, table.clone());
            machine += header.guests.len().max(1) as u32;
            let path = path.clone();
            sources.push(Source { reader, model, path, ahead: VecDeque::new(), host: None, ended: false });
        }
        // Guests have no time in common but the host's.
        let by_host_time = sources.iter().all(|source| source.reader.header().host_clock.is_some());
        Ok(Sources { sources, problems: Vec::new(), by_host_time })
    }

    /// The headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = &Header> {
        self.sources.iter().map(|source| source.reader.header())
    }

    /// The host's clocks, if all recordings have host times: the first one's.
    pub fn host_clock(&self) -> Option<HostClock> {
        self.sources.first().filter(|_| self.by_host_time)?.reader.header().host_clock
    }

    /// The next record in time with the call that it ends, and its source's number.
    pub fn next(&mut self) -> Option<(usize, Record, Option<Call>)> {
        let index = if self.sources.len() == 1 { 0 } else { self.earliest()? };
        let record = self.take(index)?;
        let ended = self.sources[index].model.record(&record);
        Some((index, record, ended))
    }

    /// What a source's records told.
    pub fn model(&self, index: usize) -> &Model {
        &self.sources[index].model
    }

    /// The calls that did not end, and what went wrong with reading.
    pub fn finish(self) -> (Vec<Call>, Vec<(PathBuf, RecordingError)>) {
        let open = self.sources.into_iter().flat_map(|source| source.model.finish()).collect();
        (open, self.problems)
    }

    /// The source whose next event is the earliest.
    fn earliest(&mut self) -> Option<usize> {
        let mut earliest: Option<(Duration, usize)> = None;
        for index in 0..self.sources.len() {
            if let Some(at) = self.next_time(index)
                && earliest.is_none_or(|(first, _)| at < first)
            {
                earliest = Some((at, index));
            }
        }
        earliest.map(|(_, index)| index)
    }

    /// When the next event of a source happens; what stands before it is read ahead.
    fn next_time(&mut self, index: usize) -> Option<Duration> {
        loop {
            let source = &self.sources[index];
            let mut host = source.host;
            for record in &source.ahead {
                match record {
                    Record::HostTime { boottime } => host = Some(*boottime),
                    Record::Event(event) => {
                        let by_host = if self.by_host_time { host } else { None };
                        return Some(by_host.unwrap_or(event.at));
                    }
                    _ => {}
                }
            }
            match self.read(index) {
                Some(record) => self.sources[index].ahead.push_back(record),
                // Names and the like at the end.
                None if self.sources[index].ahead.is_empty() => return None,
                None => return Some(Duration::MAX),
            }
        }
    }

    fn take(&mut self, index: usize) -> Option<Record> {
        let record = match self.sources[index].ahead.pop_front() {
            Some(record) => record,
            None => self.read(index)?,
        };
        if let Record::HostTime { boottime } = record {
            self.sources[index].host = Some(boottime);
        }
        Some(record)
    }

    fn read(&mut self, index: usize) -> Option<Record> {
        let source = &mut self.sources[index];
        if source.ended {
            return None;
        }
        match source.reader.next() {
            Some(Ok(record)) => return Some(record),
            Some(Err(error)) => self.problems.push((source.path.clone(), error)),
            None => {}
        }
        source.ended = true;
        None
    }
}

fn open(path: &Path, follow: Option<&Arc<AtomicBool>>) -> Result<Told<Input>, RecordingError> {
    let failed = |source| RecordingError::Open { path: path.to_owned(), source };
    let Some(stop) = follow else {
        let file = File::open(path).map_err(failed)?;
        return Reader::new(Box::new(BufReader::with_capacity(1 << 16, file)) as Input).map(Told::new);
    };
    let input: Input = match live::find(path) {
        Some(live) => Box::new(BufReader::new(live.map_err(failed)?.until(stop.clone()))),
        None => {
            if !path.exists() {
                eprintln!("bindervm: {0} is no guest that runs; waiting for a file {0}", path.display());
            }
            Box::new(BufReader::new(Growing::open(path, stop.clone()).map_err(failed)?))
        }
    };
    Reader::new(input).map(Told::new)
}
