//! Events of a run: to a file of the run's own, and to the clients that follow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agent_protocol::AgentEvent;
use control::events::{Counters, Event, Line, Start};
use control::wire::{Reply, Stream};
use machine::{GuestClock, Machine, News, SnapshotError};
use serde_json::json;

use super::follow::Followers;
use super::millis;
use super::peer::Peer;
use crate::run::Binder;

/// Bytes of lines that are kept for clients that come later.
const KEPT: usize = 256 << 10;
/// Complaints of the guest that are told; it may have any number.
const MAX_PROBLEMS: u32 = 100;
/// Characters of one that are.
const MAX_TEXT: usize = 1000;

/// `--events`: where lines go, and what is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsTarget {
    /// Where to.
    pub to: EventsFile,
    /// Counters so often, in guest time.
    pub metrics: Option<Duration>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventsFile {
    /// A file, or a pipe with a name.
    Path(PathBuf),
    /// A descriptor that this process was given.
    Descriptor(u32),
}

impl EventsFile {
    fn open(&self) -> io::Result<File> {
        match self {
            EventsFile::Path(path) => File::create(path),
            // A copy, whatever kind of file it is.
            EventsFile::Descriptor(fd) => {
                File::options().append(true).open(Path::new("/proc/self/fd").join(fd.to_string()))
            }
        }
    }
}

impl FromStr for EventsFile {
    type Err = String;

    fn from_str(text: &str) -> Result<EventsFile, String> {
        match text.strip_prefix("fd:") {
            _ if text.is_empty() => Err("a file name comes first: FILE,metrics=1s".to_owned()),
            Some(fd) => {
                let number = fd.parse().map_err(|_| format!("'{fd}' is not a file descriptor's number"))?;
                Ok(EventsFile::Descriptor(number))
            }
            None => Ok(EventsFile::Path(text.into())),
        }
    }
}

/// The events of one run. Clones share them.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    began: Instant,
    /// Before there is a machine, guest time is zero.
    clock: OnceLock<GuestClock>,
    followers: Followers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    /// The latest lines, for those who begin to follow.
    kept: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    problems: u32,
    /// Why the file was given up.
    unwritten: Option<io::Error>,
    /// The last line was written.
    over: bool,
}

impl Events {
    /// Events of a run that began at `began`; they go to `target`, too.
    pub fn new(began: Instant, target: Option<&EventsTarget>) -> io::Result<Events> {
        let file = target.map(|target| target.to.open()).transpose()?;
        let state = Mutex::new(State { file, ..State::default() });
        let followers = Followers::of(Stream::Events);
        Ok(Events(Arc::new(Shared { began, clock: OnceLock::new(), followers, state })))
    }

    /// Guest time is that of `clock` from now on.
    fn set_clock(&self, clock: GuestClock) {
        let _ = self.0.clock.set(clock);
    }

    /// Clients that follow. [`follow`](Self::follow) adds one.
    pub fn followers(&self) -> &Followers {
        &self.0.followers
    }

    /// Tells a client the latest events, and if it is to `follow`, those to come.
    pub fn follow(&self, peer: Arc<Peer>, request: u32, follow: bool) {
        // Held over both, so that no event is told twice or not at all.
        let state = self.lock();
        let kept: Vec<u8> = state.kept.iter().flatten().copied().collect();
        if follow && !state.over {
            self.0.followers.attach(peer, request, &kept);
        } else {
            peer.data(request, Stream::Events, &kept);
            peer.reply(request, Reply::Done);
        }
    }

    /// The guest of `machine` is about to run.
    pub fn begin(&self, machine: &Machine, start: Start) {
        self.set_clock(machine.clock());
        self.tell(Event::MachineStart(start));
    }

    /// The agent says something.
    pub fn heard(&self, event: &AgentEvent<'_>) {
        self.tell(match event {
            AgentEvent::Ready => Event::AgentReady,
            AgentEvent::Started(id, pid) => Event::CommandStart { command: id.0, pid: *pid },
            AgentEvent::Exited(id, status) => Event::CommandExit { command: id.0, status: (*status).into() },
            AgentEvent::Failed(id, failure) => {
                Event::CommandFailed { command: id.0, errno: failure.errno, text: failure.text.clone() }
            }
            AgentEvent::Fatal(text) => {
                let mut state = self.lock();
                if state.problems == MAX_PROBLEMS {
                    return;
                }
                state.problems += 1;
                drop(state);
                Event::GuestProblem { text: text.chars().take(MAX_TEXT).collect() }
            }
            AgentEvent::Lost(reason) => Event::AgentLost { reason: reason.to_string() },
            AgentEvent::StdinRoom(..) | AgentEvent::Log(_) | AgentEvent::Hello(_) | AgentEvent::Synced(_) => {
                return;
            }
        });
    }

    /// The guest was saved to `path`, or was not.
    pub fn saved(&self, path: &Path, error: Option<&SnapshotError>) {
        let error = error.map(ToString::to_string);
        self.tell(Event::Snapshot { path: path.to_string_lossy().into_owned(), error });
    }

    /// Tells the counters of `machine` `every` so often: when the engine first returns after that.
    pub fn metrics(&self, every: Duration, machine: &Machine, binder: Binder) -> Box<dyn FnMut() + Send> {
        let (events, gauges, clock) = (self.clone(), machine.gauges(), machine.clock());
        let every = every.as_nanos().max(1);
        let mut periods = 0;
        Box::new(move || {
            let now = clock.now().as_nanos() / every;
            if now > std::mem::replace(&mut periods, now) {
                let reading = gauges.read();
                events.tell(Event::Metrics(Counters {
                    instructions: reading.instructions,
                    exits: json!(reading.exits),
                    accesses: json!(reading.accesses),
                    binder: json!(binder.counters()),
                    objects: json!(binder.objects()),
                }));
            }
        })
    }

    /// Something went wrong in the guest.
    pub fn went_wrong(&self, news: News) {
        self.tell(match news {
            News::Panic(message) => Event::GuestPanic { message },
            News::DeviceFailed(reason) => Event::DeviceFailed { reason },
            News::MissingInstruction { instruction, count } => {
                Event::MissingInstruction { instruction, count }
            }
        });
    }

    /// Something happened. Who reads the file slowly holds the run back; a file that cannot be written is
    /// given up, with a message.
    pub fn tell(&self, event: Event) {
        let guest = self.0.clock.get().map(GuestClock::now).unwrap_or_default();
        let guest_ns = u64::try_from(guest.as_nanos()).unwrap_or(u64::MAX);
        let line = Line { guest_ns, wall_ms: millis(self.0.began.elapsed()), event };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        let mut state = self.lock();
        if let Some(file) = &mut state.file
            && let Err(error) = file.write_all(&bytes)
        {
            eprintln!("bindervm: no more events are written: {error}");
            state.file = None;
            state.unwritten = Some(error);
        }
        self.0.followers.records(1, &bytes);
        state.keep(bytes);
    }

    /// Why the file of `--events` was given up, if it was. Told once.
    pub fn unwritten(&self) -> Option<io::Error> {
        self.lock().unwritten.take()
    }

    /// The run is over, and this is how.
    pub fn end(&self, exit_code: u8, status: serde_json::Value) {
        self.tell(Event::End { exit_code, status });
        self.lock().over = true;
        self.0.followers.finish();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole lines: valid whatever panicked while they were held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, line: Vec<u8>) {
        self.kept_bytes += line.len();
        self.kept.push_back(line);
        while self.kept_bytes > KEPT {
            self.kept_bytes -= self.kept.pop_front().map_or(0, |line| line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_file_as_they_happen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let target = EventsTarget { to: EventsFile::Path(path.clone()), metrics: None };
        let events = Events::new(Instant::now(), Some(&target)).unwrap();
        events.tell(Event::AgentReady);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        events.end(3, serde_json::json!({"ended": "exited"}));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0].event, Event::AgentReady);
        assert!(matches!(lines[1].event, Event::End { exit_code: 3, .. }));
        let missing = EventsTarget { to: EventsFile::Path(folder.path().join("no/x")), metrics: None };
        assert!(Events::new(Instant::now(), Some(&missing)).is_err());
        for _ in 0..KEPT / 20 {
            events.tell(Event::AgentReady);
        }
        let state = events.lock();
        assert_eq!(state.kept.iter().map(Vec::len).sum::<usize>(), state.kept_bytes);
        assert!((KEPT - 100..=KEPT).contains(&state.kept_bytes));
    }

    #[test]
    fn a_full_disk_ends_the_file_and_not_the_run() {
        let target = EventsTarget { to: EventsFile::Path("/dev/full".into()), metrics: None };
        let events = Events::new(Instant::now(), Some(&target)).unwrap();
        events.tell(Event::AgentReady);
        assert!(events.lock().file.is_none());
        events.tell(Event::AgentReady);
    }

    #[test]
    fn a_descriptor_has_a_number() {
        assert_eq!("fd:3".parse(), Ok(EventsFile::Descriptor(3)));
        assert_eq!("fd".parse(), Ok(EventsFile::Path("fd".into())));
        assert!("fd:x".parse::<EventsFile>().is_err());
        assert!("".parse::<EventsFile>().is_err());
    }
}
