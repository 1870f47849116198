//! A run: the tests of a plan, several at once, each tried as often as it may be.
//!
//! Workers take work from a [`Feed`] and tell of it through a channel; the thread that started them
//! writes it down. A worker starts guests from its own thread, which the kernel takes as their parent.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::attempt::attempt;
use crate::guest::Guest;
use crate::plan::{GuestSpec, Isolation, Plan, TestSpec};
use crate::repro::Repro;
use crate::requires;
use crate::results::{Event, TestResult, folder_of};
use crate::start::Starter;
use crate::stop::{Stop, Why};
use crate::verdict::Verdict;

/// How often the tests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// So often.
    Times(u32),
    /// Until one of them does not pass.
    UntilFailure,
}

impl std::str::FromStr for Repeat {
    type Err = String;

    fn from_str(text: &str) -> Result<Repeat, String> {
        match text.parse() {
            Ok(times @ 1..=1_000_000) => Ok(Repeat::Times(times)),
            _ if text == "until-failure" => Ok(Repeat::UntilFailure),
            _ => Err(format!("'{text}' is neither a number from 1 nor until-failure")),
        }
    }
}

/// What a run needs beside its plan.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The tests of it that are run.
    pub tests: Vec<TestSpec>,
    /// How often.
    pub repeat: Repeat,
    /// The `bindervm` program.
    pub bindervm: &'a Path,
    /// The folder of the results.
    pub results: &'a Path,
    /// Where sockets stand.
    pub sockets: &'a Path,
    /// Guests that cannot be started, and why.
    pub unusable: BTreeMap<String, String>,
    /// Makes `repro.sh`.
    pub repro: Repro,
    /// When to end.
    pub stop: &'a Stop,
}

/// Runs the tests. `tell` is called with what happens, in one thread.
pub fn run(context: Context<'_>, mut tell: impl FnMut(Event)) {
    let plan = context.plan;
    let feed = Feed::new(&context);
    let starter = Starter {
        bindervm: context.bindervm,
        settings: &plan.settings,
        guests: &plan.guests,
        unusable: context.unusable,
        stop: context.stop,
        sockets: context.sockets,
        shared: context.results.join("guests"),
        count: AtomicU64::new(0),
    };
    let (events, told) = channel();
    thread::scope(|scope| {
        for _ in 0..plan.settings.jobs {
            let worker = Worker {
                starter: &starter,
                feed: &feed,
                events: events.clone(),
                results: context.results,
                repro: &context.repro,
            };
            scope.spawn(move || worker.work());
        }
        drop(events);
        for event in told {
            tell(event);
        }
    });
    for (test, name) in feed.left() {
        let (verdict, why) = match context.stop.why() {
            Some(Why::Signal(_)) => (Verdict::Interrupted, "not run: the run was interrupted"),
            Some(Why::Deadline) => (Verdict::Interrupted, "not run: the time of the run was over"),
            None => (Verdict::Skipped, "not run: an earlier test did not pass"),
        };
        tell(Event::TestFinished(Box::new(TestResult::not_run(&test, name, verdict, why.to_owned()))));
    }
}

/// Work for one worker.
enum Work {
    /// A test with guests of its own.
    Alone(Box<TestSpec>, String),
    /// Tests that share a guest, one after the other.
    Lane(Vec<(TestSpec, String)>),
}

impl Work {
    fn tests(&self) -> &[(TestSpec, String)] {
        match self {
            Work::Alone(..) => &[],
            Work::Lane(tests) => tests,
        }
    }

    /// How many guests of a kind it needs.
    fn needs(&self, guest: &str) -> usize {
        match self {
            Work::Alone(test, _) => test.roles.iter().filter(|role| role.guest == guest).count(),
            Work::Lane(tests) => {
                usize::from(tests.iter().any(|(test, _)| test.roles.iter().any(|role| role.guest == guest)))
            }
        }
    }
}

/// Deals out work.
struct Feed<'a> {
    state: Mutex<State>,
    changed: Condvar,
    tests: Vec<TestSpec>,
    guests: &'a BTreeMap<String, GuestSpec>,
    repeat: Repeat,
    fail_fast: bool,
    stop: &'a Stop,
    /// Nothing more is to be started.
    halted: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Repetitions that were dealt out.
    rounds: u32,
    /// Guests in use by kind.
    in_use: BTreeMap<String, usize>,
}

impl<'a> Feed<'a> {
    fn new(context: &Context<'a>) -> Feed<'a> {
        Feed {
            state: Mutex::default(),
            changed: Condvar::new(),
            tests: context.tests.clone(),
            guests: &context.plan.guests,
            repeat: context.repeat,
            fail_fast: context.plan.settings.fail_fast,
            stop: context.stop,
            halted: AtomicBool::new(false),
        }
    }

    /// The next work whose guests may be started now. `None`: there is no more.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if self.stop.why().is_some() || self.halted.load(Ordering::SeqCst) {
                return None;
            }
            if state.waiting.is_empty() && !self.deal(&mut state) {
                return None;
            }
            let fits = |work: &Work| {
                self.guests.iter().all(|(name, spec)| {
                    let used = state.in_use.get(name).copied().unwrap_or(0);
                    spec.instances.is_none_or(|most| used + work.needs(name) <= most as usize)
                })
            };
            if let Some(at) = state.waiting.iter().position(fits)
                && let Some(work) = state.waiting.remove(at)
            {
                for name in self.guests.keys() {
                    *state.in_use.entry(name.clone()).or_default() += work.needs(name);
                }
                return Some(work);
            }
            let wait = self.changed.wait_timeout(state, Duration::from_millis(100));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Deals out the next repetition, if there is one.
    fn deal(&self, state: &mut State) -> bool {
        let more = match self.repeat {
            Repeat::Times(times) => state.rounds < times,
            Repeat::UntilFailure => state.rounds < u32::MAX,
        };
        if !more || self.tests.is_empty() {
            return false;
        }
        state.rounds += 1;
        let round = state.rounds;
        let named = |test: &TestSpec| match round {
            1 => test.name.clone(),
            _ => format!("{}~{round}", test.name),
        };
        let in_round = |test: &TestSpec| (TestSpec { round: round - 1, ..test.clone() }, named(test));
        let mut lanes: BTreeMap<&str, Vec<Vec<(TestSpec, String)>>> = BTreeMap::new();
        for test in &self.tests {
            match (test.isolation, test.roles.first()) {
                (Isolation::Shared, Some(role)) => {
                    let width = self.guests.get(&role.guest).and_then(|spec| spec.instances).unwrap_or(1);
                    let lanes = lanes.entry(&role.guest).or_insert_with(|| vec![Vec::new(); width as usize]);
                    if let Some(shortest) = lanes.iter_mut().min_by_key(|lane| lane.len()) {
                        shortest.push(in_round(test));
                    }
                }
                _ => {
                    let (test, name) = in_round(test);
                    state.waiting.push_back(Work::Alone(Box::new(test), name));
                }
            }
        }
        let lanes = lanes.into_values().flatten().filter(|lane| !lane.is_empty());
        state.waiting.extend(lanes.map(Work::Lane));
        true
    }

    /// The work is done.
    fn done(&self, work: &Work) {
        let mut state = self.lock();
        for name in self.guests.keys() {
            if let Some(used) = state.in_use.get_mut(name) {
                *used -= work.needs(name);
            }
        }
        self.changed.notify_all();
    }

    /// A test has its result.
    fn learn(&self, verdict: Verdict) {
        if !verdict.is_good() && (self.fail_fast || self.repeat == Repeat::UntilFailure) {
            self.halted.store(true, Ordering::SeqCst);
        }
    }

    /// What was dealt out, or still would have been in the first round, and was not taken.
    fn left(&self) -> Vec<(TestSpec, String)> {
        let mut state = self.lock();
        if state.rounds == 0 {
            self.deal(&mut state);
        }
        let waiting = state.waiting.drain(..);
        waiting
            .flat_map(|work| match work {
                Work::Alone(test, name) => vec![(*test, name)],
                Work::Lane(tests) => tests,
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker<'a> {
    starter: &'a Starter<'a>,
    feed: &'a Feed<'a>,
    events: Sender<Event>,
    results: &'a Path,
    repro: &'a Repro,
}

impl Worker<'_> {
    fn work(&self) {
        while let Some(work) = self.feed.next() {
            match &work {
                Work::Alone(test, name) => {
                    let result = self.test(test, name, None);
                    self.finish(result);
                }
                Work::Lane(_) => self.lane(work.tests()),
            }
            self.feed.done(&work);
        }
    }

    fn lane(&self, tests: &[(TestSpec, String)]) {
        let mut guest: Option<Guest> = None;
        for (test, name) in tests {
            let result = match self.starter.stop.why() {
                Some(_) => {
                    let why = "not run: the run was to end".to_owned();
                    TestResult::not_run(test, name.clone(), Verdict::Interrupted, why)
                }
                None if self.feed.halted.load(Ordering::SeqCst) => {
                    let why = "not run: an earlier test did not pass".to_owned();
                    TestResult::not_run(test, name.clone(), Verdict::Skipped, why)
                }
                None => self.test(test, name, Some(&mut guest)),
            };
            self.finish(result);
        }
        if let Some(mut guest) = guest {
            guest.end();
        }
    }

    fn finish(&self, result: TestResult) {
        self.feed.learn(result.verdict);
        // The receiver outlives all workers.
        let _ = self.events.send(Event::TestFinished(Box::new(result)));
    }

    /// Runs a test until it passes or may not be tried again.
    fn test(&self, test: &TestSpec, name: &str, mut shared: Option<&mut Option<Guest>>) -> TestResult {
        if let Some(why) = requires::missing(&test.requires) {
            return TestResult::not_run(test, name.to_owned(), Verdict::Skipped, why);
        }
        let folder = folder_of(name);
        let path = self.results.join(&folder);
        let (started, began) = (Utc::now(), Instant::now());
        let mut attempts = Vec::new();
        for number in 1.. {
            let _ = self.events.send(Event::AttemptStarted { name: name.to_owned(), attempt: number });
            let last = attempt(self.starter, test, &path, shared.as_deref_mut());
            let again =
                last.verdict.may_be_retried() && number <= test.retries && self.starter.stop.why().is_none();
            attempts.push(last);
            let Some(last) = attempts.last() else { break };
            if !again {
                break;
            }
            let _ = self.events.send(Event::AttemptFailed {
                name: name.to_owned(),
                attempt: number,
                verdict: last.verdict,
                reasons: last.reasons.clone(),
            });
            set_aside(&path, number);
        }
        let (verdict, reasons) = match attempts.last() {
            Some(last) => (last.verdict, last.reasons.clone()),
            None => (Verdict::Infrastructure, Vec::new()),
        };
        // A result without it is still a result.
        let _ = self.repro.write(&path, test);
        TestResult {
            name: name.to_owned(),
            plan_name: test.plan_name.clone(),
            shard: test.shard,
            tags: test.tags.clone(),
            verdict,
            flaky: verdict == Verdict::Passed && attempts.len() > 1,
            reasons,
            folder,
            started,
            time: began.elapsed(),
            attempts,
        }
    }
}

/// Moves what an attempt left into a folder of its own.
fn set_aside(folder: &Path, attempt: u32) {
    let aside = folder.join(format!("attempt-{attempt}"));
    let Ok(entries) = fs::read_dir(folder) else { return };
    let files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("attempt-"))
        .map(|entry| entry.path())
        .collect();
    if fs::create_dir_all(&aside).is_ok() {
        for file in files {
            if let Some(name) = file.file_name() {
                // What stays is written over.
                let _ = fs::rename(&file, aside.join(name));
            }
        }
    }
}
