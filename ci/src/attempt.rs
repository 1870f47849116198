//! One attempt at a test: its guests are started, its programs run, what they did is judged.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use control::ExecRequest;
use control::wire::Stream;
use serde::Serialize;

use crate::capture::{Capture, Captured, OUTPUT};
use crate::cases::Cases;
use crate::evidence;
use crate::files;
use crate::guest::{Beginning, CONSOLE, Cut, Guest, GuestEnd, STATUS, TRACE};
use crate::judge::{Judgement, Left, RoleEnd, STDERR, STDOUT, judge};
use crate::plan::{Keep, Parser, Program, RoleSpec, Sharing, TestSpec};
use crate::start::{Starter, domain_trace};
use crate::verdict::Verdict;

/// What an attempt gave.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attempt {
    /// What it means.
    pub verdict: Verdict,
    /// Why, if it is not well: the first is the one that the verdict follows from.
    pub reasons: Vec<String>,
    /// What the roles did.
    pub roles: Vec<RoleResult>,
    /// Wall time of starting the guests.
    #[serde(serialize_with = "seconds")]
    pub boot: Duration,
    /// Wall time of the programs.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
}

/// What a role did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RoleResult {
    /// Its name; empty for the only one.
    pub name: String,
    /// Its guest's kind.
    pub guest: String,
    /// The binder world that it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// How that began, if it did.
    #[serde(flatten)]
    pub beginning: Option<Beginning>,
    /// How it ended.
    pub ended: RoleEnd,
    /// The cases of its output.
    pub cases: Option<Cases>,
    /// How much it printed.
    pub stdout: Captured,
    /// How much it said.
    pub stderr: Captured,
    /// Files that were kept, by their paths in the guest.
    pub artifacts: Vec<String>,
    /// What could not be kept, and why.
    pub notes: Vec<String>,
    /// What the guest's process says of its run: engine, instructions, CPU time, binder counters.
    pub run: Option<serde_json::Value>,
}

/// Times as JSON has them.
pub fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((time.as_secs_f64() * 1e3).round() / 1e3)
}

/// A role in its guest, while an attempt runs.
struct Actor<'a> {
    role: &'a RoleSpec,
    /// Where what it prints goes.
    folder: PathBuf,
    guest: Option<Guest>,
    /// Where the guest's own files are.
    guest_folder: PathBuf,
    /// Where the guest's console stood when the role began.
    console_from: u64,
    result: RoleResult,
    report: Option<String>,
}

/// What the roles of an attempt share.
struct Stage<'a> {
    starter: &'a Starter<'a>,
    test: &'a TestSpec,
    barrier: Barrier,
    /// Roles that others wait for, still running.
    foreground: AtomicUsize,
    timeout: Duration,
}

/// Runs the test once. What it prints and leaves goes into `folder`. `shared` is a guest that is used
/// instead of a fresh one, and left there if it is still well.
pub fn attempt(
    starter: &Starter<'_>,
    test: &TestSpec,
    folder: &Path,
    shared: Option<&mut Option<Guest>>,
) -> Attempt {
    let began = Instant::now();
    let mut actors: Vec<Actor<'_>> = Vec::new();
    let is_shared = shared.is_some();
    let mut kept = shared;
    let mut together = match test.process {
        Sharing::Own => None,
        Sharing::Shared => Some(starter.start_together(test, folder).map(VecDeque::from)),
    };
    for role in &test.roles {
        let folder = match role.name.is_empty() {
            true => folder.to_owned(),
            false => folder.join(&role.name),
        };
        let reused = kept.as_mut().and_then(|slot| slot.take());
        let started = match (reused, &mut together) {
            (Some(guest), _) => Ok(guest),
            (None, None) => starter.start(test, role, &folder, is_shared),
            (None, Some(Err(error))) => Err(error.clone()),
            (None, Some(Ok(guests))) => guests.pop_front().ok_or_else(|| "it was not started".to_owned()),
        };
        let (guest, ended) = match started {
            Ok(guest) => (Some(guest), RoleEnd::Interrupted),
            Err(error) => (None, RoleEnd::Infrastructure(error)),
        };
        let result = RoleResult {
            name: role.name.clone(),
            guest: role.guest.clone(),
            domain: role.domain.clone(),
            beginning: guest.as_ref().map(Guest::beginning),
            ended,
            cases: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
            artifacts: Vec::new(),
            notes: Vec::new(),
            run: None,
        };
        let guest_folder = guest.as_ref().map_or(folder.as_path(), Guest::folder).to_owned();
        actors.push(Actor { role, folder, guest, guest_folder, console_from: 0, result, report: None });
    }

    // Guests come up side by side.
    thread::scope(|scope| {
        for actor in &mut actors {
            scope.spawn(|| actor.come_up(starter));
        }
    });
    let boot = began.elapsed();
    let began = Instant::now();
    let all_up = actors.iter().all(|actor| actor.guest.is_some());
    if all_up {
        let stage = Stage {
            starter,
            test,
            barrier: Barrier::new(actors.len()),
            foreground: AtomicUsize::new(test.roles.iter().filter(|role| !role.background).count()),
            timeout: starter.settings.scaled(test.timeout),
        };
        thread::scope(|scope| {
            for actor in &mut actors {
                scope.spawn(|| actor.play(&stage));
            }
        });
    }
    let time = began.elapsed();

    let mut faults: Vec<(Verdict, String)> = Vec::new();
    let mut skipped = None;
    let mut roles = Vec::new();
    for mut actor in actors {
        if is_shared {
            if let (Some(slot), Some(guest)) = (kept.as_mut(), actor.guest.take()) {
                **slot = Some(guest);
            }
        } else if let Some(mut guest) = actor.guest.take() {
            guest.end();
        }
        let judgement = actor.judge(all_up);
        let prefix = match actor.role.name.is_empty() {
            true => String::new(),
            false => format!("{}: ", actor.role.name),
        };
        faults.extend(judgement.faults.into_iter().map(|(verdict, text)| (verdict, prefix.clone() + &text)));
        skipped = skipped.or(judgement.skipped);
        actor.result.cases = judgement.cases;
        roles.push(actor.result);
    }
    // The gravest first; among equals, in the order of the roles.
    faults.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let (verdict, reasons) = match (faults.first(), skipped) {
        (Some((verdict, _)), _) => (*verdict, faults.into_iter().map(|(_, text)| text).collect()),
        (None, Some(why)) => (Verdict::Skipped, vec![why]),
        (None, None) => (Verdict::Passed, Vec::new()),
    };
    if !is_shared {
        for (role, result) in test.roles.iter().zip(&roles) {
            let folder = match role.name.is_empty() {
                true => folder.to_owned(),
                false => folder.join(&result.name),
            };
            keep_or_not(starter, role, &folder, verdict);
        }
        keep_domains_or_not(starter, test, folder, verdict);
    }
    Attempt { verdict, reasons, roles, boot, time }
}

/// Removes what is kept only of failures.
fn keep_or_not(starter: &Starter<'_>, role: &RoleSpec, folder: &Path, verdict: Verdict) {
    let Some(spec) = starter.guests.get(&role.guest) else { return };
    for (keep, name) in [(spec.trace, TRACE), (spec.console, CONSOLE)] {
        if keep == Keep::OnFailure && verdict.is_good() {
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

/// Removes recordings of domains, of which no guest is kept in any case.
fn keep_domains_or_not(starter: &Starter<'_>, test: &TestSpec, folder: &Path, verdict: Verdict) {
    let keeps =
        |role: &&RoleSpec| starter.guests.get(&role.guest).is_some_and(|spec| spec.trace == Keep::Always);
    let kept: BTreeSet<_> = test.roles.iter().filter(keeps).filter_map(|role| role.domain.as_ref()).collect();
    for domain in test.roles.iter().filter_map(|role| role.domain.as_ref()) {
        if verdict.is_good() && !kept.contains(domain) {
            let _ = fs::remove_file(folder.join(domain_trace(domain)));
        }
    }
}

impl Actor<'_> {
    /// Waits for the guest, and gives it its files.
    fn come_up(&mut self, starter: &Starter<'_>) {
        let Some(guest) = &mut self.guest else { return };
        let result = guest.wait_ready(starter.stop).and_then(|()| {
            self.console_from =
                fs::metadata(self.guest_folder.join(CONSOLE)).map_or(0, |console| console.len());
            for push in &self.role.push {
                files::push(guest, push, starter.stop)?;
            }
            Ok(())
        });
        self.result.beginning = Some(guest.beginning());
        if let Err(cut) = result {
            self.cut(cut);
        }
    }

    /// Runs the program to its end, and fetches what is to be kept.
    fn play(&mut self, stage: &Stage<'_>) {
        stage.barrier.wait();
        let until = Instant::now() + stage.timeout;
        let result = self.run(stage, until);
        if !self.role.background {
            stage.foreground.fetch_sub(1, Ordering::SeqCst);
        }
        match result {
            Ok(()) => self.fetch(stage),
            Err(Cut::TimedOut) => {
                self.fetch(stage);
                self.cut(Cut::TimedOut);
                evidence::of_trace(stage.starter.bindervm, &self.guest_folder.join(TRACE), &self.folder);
            }
            Err(Cut::Dismissed) => {
                self.fetch(stage);
                self.result.ended = RoleEnd::Dismissed;
            }
            Err(cut) => self.cut(cut),
        }
    }

    fn run(&mut self, stage: &Stage<'_>, until: Instant) -> Result<(), Cut> {
        let Some(guest) = &mut self.guest else { return Ok(()) };
        let infra = |error: std::io::Error| {
            let text = format!("cannot write the output to {}: {error}", self.folder.display());
            Cut::Ended(GuestEnd::Infrastructure(text))
        };
        fs::create_dir_all(&self.folder).map_err(infra)?;
        let mut stdout = Capture::create(&self.folder.join(STDOUT), OUTPUT).map_err(infra)?;
        let mut stderr = Capture::create(&self.folder.join(STDERR), OUTPUT).map_err(infra)?;
        let report = format!("/tmp/{}.gtest.json", stage.test.plan_name);
        let request = request(self.role, stage.test, &report);
        if let Program::Gtest { .. } = self.role.program {
            // A shared guest may have the report of an earlier test.
            let _ = guest.ask(&["/bin/rm", "-f", &report], Vec::new(), Duration::from_secs(10), 1024);
        }
        let (background, stop) = (self.role.background, stage.starter.stop);
        let (mut notes, folder) = (Vec::new(), &self.folder);
        let end = guest.run(
            request,
            self.role.stdin.clone(),
            |stream, bytes| match stream {
                Stream::Stderr => stderr.take(bytes),
                _ => stdout.take(bytes),
            },
            || match () {
                _ if stop.why().is_some() => Some(Cut::Stopped),
                _ if background && stage.foreground.load(Ordering::SeqCst) == 0 => Some(Cut::Dismissed),
                _ => (Instant::now() >= until).then_some(Cut::TimedOut),
            },
            |guest, cut| {
                if let Cut::TimedOut = cut {
                    notes.extend(evidence::of_hang(guest, folder));
                }
            },
        );
        self.result.notes.extend(notes);
        self.result.stdout = stdout.finish().map_err(infra)?;
        self.result.stderr = stderr.finish().map_err(infra)?;
        self.result.ended = end?.into();
        if let Program::Gtest { .. } = self.role.program {
            self.report = files::read(guest, &report, files::MAX_REPORT).ok();
        }
        Ok(())
    }

    fn fetch(&mut self, stage: &Stage<'_>) {
        let Some(guest) = &mut self.guest else { return };
        if self.role.artifacts.is_empty() || stage.starter.stop.why().is_some() {
            return;
        }
        let (artifacts, notes) = files::pull(guest, &self.role.artifacts, &self.folder.join("artifacts"));
        self.result.artifacts = artifacts;
        self.result.notes.extend(notes);
    }

    /// The role is over before its program is.
    fn cut(&mut self, cut: Cut) {
        self.result.ended = match cut {
            Cut::Ended(end) => end.into(),
            Cut::TimedOut => RoleEnd::TimedOut,
            Cut::Stopped => RoleEnd::Interrupted,
            Cut::Dismissed => RoleEnd::Dismissed,
        };
        // It may be in any state: nobody uses it after this.
        if let Some(mut guest) = self.guest.take() {
            guest.kill();
        }
    }

    /// Judges it, once its guest has ended or serves others.
    fn judge(&mut self, all_up: bool) -> Judgement {
        self.result.run = fs::read(self.guest_folder.join(STATUS))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if !all_up && self.result.ended == RoleEnd::Interrupted {
            // Its guest was well; another's was not, and says so.
            self.result.ended = RoleEnd::Dismissed;
        }
        if self.result.ended == RoleEnd::Dismissed && !self.role.background {
            return Judgement::default();
        }
        let left = Left {
            folder: &self.folder,
            guest: &self.guest_folder,
            console_from: self.console_from,
            report: self.report.as_deref(),
        };
        judge(self.role, &self.result.ended, left)
    }
}

/// What is asked of the guest's agent.
fn request(role: &RoleSpec, test: &TestSpec, report: &str) -> ExecRequest {
    let mut env: Vec<(String, String)> = Vec::new();
    if let Some(shard) = test.shard {
        let (index, total) = ((shard.index - 1).to_string(), shard.total.to_string());
        env.push(("TEST_TOTAL_SHARDS".into(), total.clone()));
        env.push(("TEST_SHARD_INDEX".into(), index.clone()));
        if let Program::Gtest { .. } = role.program {
            env.push(("GTEST_TOTAL_SHARDS".into(), total));
            env.push(("GTEST_SHARD_INDEX".into(), index));
        }
    }
    let argv = match &role.program {
        Program::Command(argv) => argv.clone(),
        Program::Script => vec!["/bin/sh".to_owned(), "-s".to_owned()],
        Program::Gtest { path, filter, args } => {
            env.push(("GTEST_OUTPUT".into(), format!("json:{report}")));
            let filter = filter.as_ref().map(|filter| format!("--gtest_filter={filter}"));
            std::iter::once(path.clone()).chain(filter).chain(args.iter().cloned()).collect()
        }
    };
    env.extend(role.env.clone());
    ExecRequest { argv, env, cwd: role.cwd.clone(), tty: None, stdin: true }
}

/// Whether a parser reads cases.
pub fn has_cases(role: &RoleSpec) -> bool {
    role.parser != Parser::Exit
}
