//! The CI harness: runs the tests of a plan in guests, several at once, and tells how they ended.
//!
//! # Model
//!
//! A *plan* ([`plan`]) is a TOML file: kinds of guest, and tests, each a program to run in a guest
//! and what is expected of it. A *selection* ([`select`], [`filter`]) takes some of the tests. A *run*
//! ([`run`]) gives them to workers; a worker makes *attempts* ([`attempt`]) at a test until one passes
//! or no more are allowed:
//!
//! ```text
//! plan -> selection -> run: workers -> attempt: guests start -> files are put in -> all at once:
//!         programs run -> artifacts are fetched -> guests end -> judge: end, patterns, cases -> verdict
//! ```
//!
//! A guest ([`guest`]) is a process of its own, this program's `run --serve`, or where the plan says so one of
//! several in a process ([`group`]), and spoken to over its control socket; whatever it does harms no other. Output goes to files of bounded size ([`capture`]); what a
//! program prints may be read into *cases* ([`cases`]); how it ended is compared with what was expected
//! ([`judge`]). What comes of it stands in the folder of the results ([`results`]), as JUnit ([`junit`]), on
//! the terminal ([`console`]) and in the exit code ([`verdict`]).
//!
//! [`execute`] is all of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::Utc;

use crate::console::Console;
use crate::environment::Environment;
use crate::filter::{Filter, FilterError};
use crate::plan::file::RunEntry;
use crate::plan::{Plan, PlanError, TestSpec};
use crate::repro::Repro;
use crate::results::{Counts, Event, ImageFacts, Results, ResultsError, RunResult, VERSION};
use crate::run::{Context, Repeat};
use crate::select::{Partition, Selection};
use crate::stop::{Stop, Why};
use crate::verdict::{Verdict, exit};

pub mod attempt;
pub mod capture;
pub mod cases;
pub mod console;
pub mod environment;
mod evidence;
pub mod faults;
mod files;
pub mod filter;
mod github;
pub mod group;
pub mod guest;
pub mod judge;
pub mod junit;
pub mod plan;
mod policy;
pub mod process;
mod repro;
mod requires;
pub mod results;
pub mod run;
pub mod select;
mod start;
pub mod stop;
pub mod verdict;

/// What is asked of the harness: the command line of `bindervm test`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The plan's file.
    pub plan: PathBuf,
    /// One of its profiles.
    pub profile: Option<String>,
    /// Settings over those of the plan.
    pub over: RunEntry,
    /// Name globs or filter expressions; a test is taken that any of them takes.
    pub filters: Vec<String>,
    /// Only tests with one of these tags.
    pub tags: Vec<String>,
    /// A share of the tests.
    pub partition: Option<Partition>,
    /// How often.
    pub repeat: Repeat,
    /// End with the exit code of the one program that runs.
    pub exit_code_from_guest: bool,
    /// The `bindervm` program, which runs the guests.
    pub bindervm: PathBuf,
}

/// The harness cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// The plan is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The environment, or a combination of options, is wrong.
    #[error("{0}")]
    Usage(String),
    /// The results cannot be written.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The machine does not let us.
    #[error("{what}: {source}")]
    Machine {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl HarnessError {
    /// The exit code of `bindervm test` that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            HarnessError::Plan(_) | HarnessError::Filter(_) | HarnessError::Usage(_) => exit::USAGE,
            HarnessError::Results(_) | HarnessError::Machine { .. } => exit::INFRASTRUCTURE,
        }
    }
}

/// A plan with what the command line and the environment make of it.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The tests that are taken.
    pub tests: Vec<TestSpec>,
    /// What the environment asks for.
    pub environment: Environment,
    partition: Option<Partition>,
}

/// Reads the plan, lays options and environment over it, and selects the tests.
pub fn prepare(options: &Options) -> Result<Prepared, HarnessError> {
    let environment = Environment::read(|name| std::env::var(name).ok()).map_err(HarnessError::Usage)?;
    let mut over = options.over.clone();
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    over.results = over.results.or(environment.results.as_ref().map(text));
    over.fail_fast = over.fail_fast.or(environment.fail_fast.then_some(true));
    let plan = Plan::load(&options.plan, options.profile.as_deref(), &over)?;
    let mut filters = options.filters.clone();
    if filters.is_empty() {
        filters.extend(environment.filter.clone().or(plan.settings.filter.clone()));
    }
    let partition = options.partition.or(environment.partition);
    let selection = Selection {
        filters: filters.iter().map(|filter| Filter::parse(filter)).collect::<Result<_, _>>()?,
        tags: options.tags.clone(),
        partition,
    };
    let tests = selection.of(&plan);
    if tests.is_empty() && !plan.tests.is_empty() && partition.is_none() {
        return Err(HarnessError::Usage(format!(
            "none of the {} tests of {} is selected; --list shows them",
            plan.tests.len(),
            plan.path.display()
        )));
    }
    if options.exit_code_from_guest && (tests.len() != 1 || options.repeat != Repeat::Times(1)) {
        return Err(HarnessError::Usage(format!(
            "--exit-code-from-guest is for one test, run once; {} are selected",
            tests.len()
        )));
    }
    Ok(Prepared { plan, tests, environment, partition })
}

/// Prepares and runs, tells about it on stderr, and gives the exit code.
pub fn execute(options: &Options, stop: &Stop) -> Result<u8, HarnessError> {
    let prepared = prepare(options)?;
    let Prepared { plan, tests, environment, partition } = &prepared;
    let (started, began) = (Utc::now(), Instant::now());
    if let Some(limit) = plan.settings.run_timeout {
        stop.at(began + plan.settings.scaled(limit));
    }
    if let Some(path) = &environment.shard_status {
        fs::write(path, b"").map_err(|source| machine(format!("cannot touch {}", path.display()), source))?;
    }
    let mut results = Results::create(&plan.settings.results, plan)?;
    let root = results.root().to_owned();
    let sockets = sockets(environment)?;
    let plan_path = plan.path.canonicalize().unwrap_or_else(|_| plan.path.clone());
    let (images, unusable) = images(plan, tests);

    let mut console = Console::new();
    let mut finished = Vec::new();
    // A full disk must not end the run half-way: it is told at the end.
    let mut failed: Option<ResultsError> = None;
    let mut tell = |event: Event| {
        console.event(&event);
        if let Err(error) = results.event(&event) {
            failed.get_or_insert(error);
        }
        if let Event::TestFinished(test) = event {
            finished.push(*test);
        }
    };
    tell(Event::RunStarted {
        version: VERSION,
        plan: plan_path.clone(),
        tests: match options.repeat {
            Repeat::Times(times) => Some(tests.len() * times as usize),
            Repeat::UntilFailure => None,
        },
        jobs: plan.settings.jobs,
    });
    let context = Context {
        plan,
        tests: tests.clone(),
        repeat: options.repeat,
        bindervm: &options.bindervm,
        results: &root,
        sockets: sockets.path(),
        unusable,
        repro: Repro {
            bindervm: options.bindervm.clone(),
            plan: plan_path.clone(),
            profile: options.profile.clone(),
            engine: plan.settings.engine,
            timeout_scale: plan.settings.timeout_scale,
            seed: plan.settings.seed,
        },
        stop,
    };
    run::run(context, &mut tell);

    let counts = Counts::of(&finished);
    let exit_code = exit_code(options, plan, &finished, stop);
    let end = Event::RunFinished { exit_code, counts };
    let ended = results.event(&end);
    let mut run = RunResult {
        version: VERSION,
        bindervm: env!("CARGO_PKG_VERSION").to_owned(),
        plan: plan_path,
        profile: options.profile.clone(),
        partition: partition.map(|partition| partition.to_string()),
        images,
        started,
        time: began.elapsed(),
        counts,
        exit_code,
        stopped: stop.why().map(|why| match why {
            Why::Signal(signal) => format!("signal {signal}"),
            Why::Deadline => "run-timeout was over".to_owned(),
        }),
        tests: finished,
    };
    let written = ended.map_err(HarnessError::from).and_then(|()| write(&results, &run, plan, environment));
    if let Some(error) = failed.map(HarnessError::from).or(written.err()) {
        run.exit_code = exit::INFRASTRUCTURE;
        console.finish(&run, &root);
        return Err(error);
    }
    console.finish(&run, &root);
    Ok(exit_code)
}

/// What is written when a run is over.
fn write(
    results: &Results,
    run: &RunResult,
    plan: &Plan,
    environment: &Environment,
) -> Result<(), HarnessError> {
    results.finish(run)?;
    let junit = junit::xml(run, results.root())
        .map_err(|error| machine("cannot write JUnit".to_owned(), std::io::Error::other(error)))?;
    results.write("junit.xml", junit.as_bytes())?;
    for path in plan.settings.junit.iter().chain(&environment.junit) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(path, &junit))
            .map_err(|source| machine(format!("cannot write {}", path.display()), source))?;
    }
    if environment.github {
        // Annotations are read from stdout. One that is closed has no reader to miss them.
        let _ = std::io::stdout().write_all(github::annotations(run).as_bytes());
    }
    if let Some(path) = &environment.github_summary {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(github::summary(run).as_bytes()))
            .map_err(|source| machine(format!("cannot write {}", path.display()), source))?;
    }
    Ok(())
}

fn exit_code(options: &Options, plan: &Plan, tests: &[results::TestResult], stop: &Stop) -> u8 {
    if stop.why().is_some() {
        return exit::INTERRUPTED;
    }
    if options.exit_code_from_guest
        && let Some(role) =
            tests.first().and_then(|test| test.last()).and_then(|attempt| attempt.roles.first())
    {
        match role.ended {
            judge::RoleEnd::Exited(code) => return code,
            judge::RoleEnd::Signaled(signal) => return 128u8.saturating_add(signal),
            _ => {}
        }
    }
    let worst = tests.iter().map(|test| test.verdict).max().unwrap_or(Verdict::Passed);
    match worst.exit_code() {
        exit::OK if plan.settings.fail_flaky && tests.iter().any(|test| test.flaky) => exit::FLAKY,
        code => code,
    }
}

/// A folder for sockets, whose paths must be short (108 bytes).
fn sockets(environment: &Environment) -> Result<tempfile::TempDir, HarnessError> {
    let make = |folder: &Path| tempfile::Builder::new().prefix("bindervm-").tempdir_in(folder);
    let wanted = environment.temporary.clone().unwrap_or_else(std::env::temp_dir);
    let fits = wanted.as_os_str().len() <= 70;
    let folder = if fits { wanted } else { PathBuf::from("/tmp") };
    make(&folder).map_err(|source| machine(format!("cannot make a folder in {}", folder.display()), source))
}

/// Looks at the images of the guests that the tests use, before any is started.
fn images(plan: &Plan, tests: &[TestSpec]) -> (BTreeMap<String, ImageFacts>, BTreeMap<String, String>) {
    let (mut facts, mut unusable) = (BTreeMap::new(), BTreeMap::new());
    let used = |guest: &str| tests.iter().any(|test| test.roles.iter().any(|role| role.guest == guest));
    for (name, spec) in plan.guests.iter().filter(|(name, _)| used(name)) {
        match images::open(&spec.image) {
            Ok(image) => {
                let manifest = image.manifest;
                facts.insert(
                    name.clone(),
                    ImageFacts {
                        name: manifest.name,
                        digest: manifest.image.to_string(),
                        kernel: manifest.kernel,
                    },
                );
            }
            Err(error) => {
                unusable.insert(name.clone(), error.to_string());
            }
        }
    }
    (facts, unusable)
}

fn machine(what: String, source: std::io::Error) -> HarnessError {
    HarnessError::Machine { what, source }
}
