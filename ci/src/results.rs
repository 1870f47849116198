//! What a run leaves: the folder of its results.
//!
//! ```text
//! RESULTS/
//!   run.json        everything, when the run is over
//!   events.jsonl    what happens, one JSON object a line, while it happens
//!   junit.xml       for CI systems
//!   report.tap      the tests as TAP 14
//!   plan.toml       the plan as it was
//!   tests/NAME/     of each test its last attempt: stdout, stderr, console.log, trace.bvt,
//!                   status.json, vmm.log, artifacts/, repro.sh; after a timeout evidence.txt and
//!                   trace-tail.txt. With roles, a folder for each.
//!   tests/NAME/attempt-1/   ... and earlier attempts
//!   guests/NAME-N/  console.log, trace.bvt, status.json, vmm.log of guests that tests shared
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::attempt::{Attempt, seconds};
use crate::plan::{Plan, Share, TestSpec};
use crate::verdict::Verdict;

/// The version of `run.json` and of `events.jsonl`.
pub const VERSION: u32 = 1;

/// Everything about a test.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TestResult {
    /// Its name; with `~K` in the K-th repetition.
    pub name: String,
    /// Its name in the plan.
    pub plan_name: String,
    /// Which share of it this is.
    pub shard: Option<Share>,
    /// Its tags.
    pub tags: Vec<String>,
    /// How it ended: as the last attempt did.
    pub verdict: Verdict,
    /// It passed only when it was tried again.
    pub flaky: bool,
    /// Why, if it is not well.
    pub reasons: Vec<String>,
    /// Where its files are, in the results.
    pub folder: PathBuf,
    /// When it began.
    #[serde(serialize_with = "stamp")]
    pub started: DateTime<Utc>,
    /// All of its attempts, with starting guests.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
    /// What was tried. Empty if it was not run.
    pub attempts: Vec<Attempt>,
}

impl TestResult {
    /// A test that was not run.
    pub fn not_run(test: &TestSpec, name: String, verdict: Verdict, why: String) -> TestResult {
        TestResult {
            folder: folder_of(&name),
            name,
            plan_name: test.plan_name.clone(),
            shard: test.shard,
            tags: test.tags.clone(),
            verdict,
            flaky: false,
            reasons: vec![why],
            started: Utc::now(),
            time: Duration::ZERO,
            attempts: Vec::new(),
        }
    }

    /// The attempt that decides.
    pub fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Cases of all roles of the attempt that decides.
    pub fn cases(&self) -> impl Iterator<Item = &crate::cases::Case> {
        self.last()
            .into_iter()
            .flat_map(|attempt| &attempt.roles)
            .filter_map(|role| role.cases.as_ref())
            .flat_map(|cases| &cases.cases)
    }
}

/// What happens in a run, as `events.jsonl` has it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first line.
    #[serde(rename_all = "kebab-case")]
    RunStarted {
        /// [`VERSION`].
        version: u32,
        /// The plan.
        plan: PathBuf,
        /// How many tests there will be; unknown when it goes on until one fails.
        tests: Option<usize>,
        /// How many run at once.
        jobs: usize,
    },
    /// A test begins, or is tried again.
    #[serde(rename_all = "kebab-case")]
    AttemptStarted {
        /// Which.
        name: String,
        /// From 1.
        attempt: u32,
    },
    /// It did not pass, and is tried again.
    #[serde(rename_all = "kebab-case")]
    AttemptFailed {
        /// Which.
        name: String,
        /// From 1.
        attempt: u32,
        /// How it ended.
        verdict: Verdict,
        /// Why.
        reasons: Vec<String>,
    },
    /// It has its result.
    TestFinished(Box<TestResult>),
    /// The last line.
    #[serde(rename_all = "kebab-case")]
    RunFinished {
        /// The exit code.
        exit_code: u8,
        /// How many tests ended how.
        counts: Counts,
    },
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// All of them.
    pub tests: usize,
    /// Passed, flaky ones too.
    pub passed: usize,
    /// Passed when tried again.
    pub flaky: usize,
    /// Not run, for a reason that is no failure.
    pub skipped: usize,
    /// Everything else.
    pub failed: usize,
}

impl Counts {
    /// Counts results.
    pub fn of(results: &[TestResult]) -> Counts {
        let count = |is: fn(&TestResult) -> bool| results.iter().filter(|result| is(result)).count();
        Counts {
            tests: results.len(),
            passed: count(|result| result.verdict == Verdict::Passed),
            flaky: count(|result| result.flaky),
            skipped: count(|result| result.verdict == Verdict::Skipped),
            failed: count(|result| !result.verdict.is_good()),
        }
    }
}

/// What is known of an image that guests were started from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageFacts {
    /// Its name.
    pub name: String,
    /// The digest of all that is in it.
    pub digest: String,
    /// The version of its kernel.
    pub kernel: String,
}

/// A finished run, as `run.json` has it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunResult {
    /// [`VERSION`].
    pub version: u32,
    /// The version of bindervm.
    pub bindervm: String,
    /// The plan.
    pub plan: PathBuf,
    /// The profile of it.
    pub profile: Option<String>,
    /// The share of the tests that this run took.
    pub partition: Option<String>,
    /// Images by guest.
    pub images: std::collections::BTreeMap<String, ImageFacts>,
    /// When it began.
    #[serde(serialize_with = "stamp")]
    pub started: DateTime<Utc>,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
    /// How many tests ended how.
    pub counts: Counts,
    /// Its exit code.
    pub exit_code: u8,
    /// Why it ended early, if it did.
    pub stopped: Option<String>,
    /// The tests in the order in which they ended.
    pub tests: Vec<TestResult>,
}

/// A time as it stands in files.
pub fn stamp<S: Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The results cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the results: {}: {source}", path.display())]
pub struct ResultsError {
    path: PathBuf,
    source: io::Error,
}

impl ResultsError {
    fn at(path: &Path) -> impl Fn(io::Error) -> ResultsError {
        move |source| ResultsError { path: path.to_owned(), source }
    }
}

/// The folder.
pub struct Results {
    root: PathBuf,
    events: File,
}

/// What a run makes in the folder. An earlier run's is removed, anything else is left alone.
const OURS: [&str; 7] =
    ["run.json", "events.jsonl", "junit.xml", "report.tap", "plan.toml", "tests", "guests"];

impl Results {
    /// Makes the folder, and removes the results of an earlier run from it. A folder with other things
    /// in it, and no results, is refused.
    pub fn create(root: &Path, plan: &Plan) -> Result<Results, ResultsError> {
        fs::create_dir_all(root).map_err(ResultsError::at(root))?;
        let root = root.canonicalize().map_err(ResultsError::at(root))?;
        let is_empty = fs::read_dir(&root).map_err(ResultsError::at(&root))?.next().is_none();
        if !is_empty && !root.join("events.jsonl").is_file() {
            let error = io::Error::other(
                "the folder has other files in it; name an empty or a new one with --results",
            );
            return Err(ResultsError::at(&root)(error));
        }
        for name in OURS {
            let path = root.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            removed.map_err(ResultsError::at(&path))?;
        }
        let path = root.join("events.jsonl");
        let events = File::create(&path).map_err(ResultsError::at(&path))?;
        let copy = root.join("plan.toml");
        fs::copy(&plan.path, &copy).map_err(ResultsError::at(&copy))?;
        Ok(Results { root, events })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Adds a line to `events.jsonl`.
    pub fn event(&mut self, event: &Event) -> Result<(), ResultsError> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(serialize_with = "stamp")]
            time: DateTime<Utc>,
            #[serde(flatten)]
            event: &'a Event,
        }
        let mut line = serde_json::to_vec(&Line { time: Utc::now(), event }).unwrap_or_default();
        line.push(b'\n');
        self.events.write_all(&line).map_err(ResultsError::at(&self.root.join("events.jsonl")))
    }

    /// Writes a file.
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<(), ResultsError> {
        let path = self.root.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(ResultsError::at(&path))?;
        }
        fs::write(&path, bytes).map_err(ResultsError::at(&path))
    }

    /// Writes `run.json`.
    pub fn finish(&self, run: &RunResult) -> Result<(), ResultsError> {
        let mut text = serde_json::to_vec_pretty(run).unwrap_or_default();
        text.push(b'\n');
        self.write("run.json", &text)?;
        self.write("report.tap", tap(run).as_bytes())
    }
}

/// The folder of a test in the results. Names are plain already.
pub fn folder_of(name: &str) -> PathBuf {
    Path::new("tests").join(name)
}

/// The tests as TAP 14.
fn tap(run: &RunResult) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", run.tests.len());
    for (number, test) in run.tests.iter().enumerate() {
        let (number, name) = (number + 1, test.name.replace('#', "\\#"));
        let why = test.reasons.join("; ").replace('\n', " ");
        match test.verdict {
            Verdict::Passed => text += &format!("ok {number} - {name}\n"),
            Verdict::Skipped => text += &format!("ok {number} - {name} # SKIP {why}\n"),
            verdict => text += &format!("not ok {number} - {name}\n# {verdict}: {why}\n"),
        }
    }
    text
}
