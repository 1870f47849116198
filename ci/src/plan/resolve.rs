//! From what a plan says to what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use images::did_you_mean;

use self::test::TestDefaults;
use super::error::{PlanError, Text};
use super::file::{BinderDriver, Clock, GuestEntry, Keep, PlanFile, RunEntry, Start};
use super::value::{Memory, Time};
use super::{GuestSpec, MAX_TESTS, Plan, Settings};

mod role;
mod test;

/// Reads the meaning.
pub(super) fn resolve(
    text: &Text<'_>,
    file: PlanFile,
    profile: Option<&str>,
    over: &RunEntry,
) -> Result<Plan, PlanError> {
    let mut run = file.run;
    if let Some(name) = profile {
        let Some(chosen) = file.profile.get(name) else {
            let hint = did_you_mean(name, file.profile.keys().map(String::as_str));
            let message = format!("there is no profile `{name}`");
            return Err(text.wrong(None, &message, hint));
        };
        run = laid_over(run, chosen);
    }
    let run = laid_over(run, over);
    let defaults = TestDefaults {
        timeout: run.test_timeout.unwrap_or(DEFAULT_TEST_TIMEOUT),
        retries: run.retries.unwrap_or(0),
    };
    let settings = settings(text, run)?;

    let folder = text.path.parent().unwrap_or(Path::new("")).to_owned();
    let mut guests = BTreeMap::new();
    for (name, entry) in file.guest {
        let span = entry.span();
        let at = At { text, span, folder: &folder };
        at.check_name("guest", &name)?;
        guests.insert(name, at.guest(entry.into_inner())?);
    }

    let mut tests = Vec::new();
    let mut names = BTreeSet::new();
    for entry in file.test {
        let at = At { text, span: entry.span(), folder: &folder };
        for test in at.tests(entry.into_inner(), &guests, &defaults)? {
            if !names.insert(test.name.clone()) {
                return Err(at.wrong(format!("there is another test `{}`", test.name)));
            }
            if tests.len() == MAX_TESTS {
                return Err(at.wrong(format!("a plan has at most {MAX_TESTS} tests, shards included")));
            }
            tests.push(test);
        }
    }
    Ok(Plan { path: text.path.to_owned(), settings, guests, tests })
}

const DEFAULT_TEST_TIMEOUT: Time = Time(std::time::Duration::from_secs(300));
const DEFAULT_BOOT_TIMEOUT: Time = Time(std::time::Duration::from_secs(180));

/// `over` where it says something, else `under`.
fn laid_over(under: RunEntry, over: &RunEntry) -> RunEntry {
    RunEntry {
        jobs: over.jobs.or(under.jobs),
        results: over.results.clone().or(under.results),
        junit: over.junit.clone().or(under.junit),
        boot_timeout: over.boot_timeout.or(under.boot_timeout),
        test_timeout: over.test_timeout.or(under.test_timeout),
        run_timeout: over.run_timeout.or(under.run_timeout),
        timeout_scale: over.timeout_scale.or(under.timeout_scale),
        retries: over.retries.or(under.retries),
        fail_fast: over.fail_fast.or(under.fail_fast),
        fail_flaky: over.fail_flaky.or(under.fail_flaky),
        engine: over.engine.or(under.engine),
        seed: over.seed.or(under.seed),
        filter: over.filter.clone().or(under.filter),
    }
}

fn settings(text: &Text<'_>, run: RunEntry) -> Result<Settings, PlanError> {
    let jobs = match run.jobs {
        Some(jobs @ 1..=1024) => jobs as usize,
        Some(jobs) => return Err(text.wrong(None, &format!("jobs must be 1 to 1024, not {jobs}"), None)),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let timeout_scale = run.timeout_scale.unwrap_or(1.0);
    if !(0.001..=1000.0).contains(&timeout_scale) {
        let message = format!("timeout-scale must be 0.001 to 1000, not {timeout_scale}");
        return Err(text.wrong(None, &message, None));
    }
    Ok(Settings {
        jobs,
        results: run.results.map_or_else(|| PathBuf::from("bindervm-results"), PathBuf::from),
        junit: run.junit.map(PathBuf::from),
        boot_timeout: run.boot_timeout.unwrap_or(DEFAULT_BOOT_TIMEOUT),
        run_timeout: run.run_timeout,
        timeout_scale,
        fail_fast: run.fail_fast.unwrap_or(false),
        fail_flaky: run.fail_flaky.unwrap_or(false),
        engine: run.engine.unwrap_or_default(),
        seed: run.seed.unwrap_or(0),
        filter: run.filter,
    })
}

/// A place in the plan, to say what is wrong there.
struct At<'a> {
    text: &'a Text<'a>,
    span: Range<usize>,
    folder: &'a Path,
}

impl At<'_> {
    fn wrong(&self, message: impl AsRef<str>) -> PlanError {
        self.text.wrong(Some(self.span.clone()), message.as_ref(), None)
    }

    /// Names become names of folders, and of guests.
    fn check_name(&self, what: &str, name: &str) -> Result<(), PlanError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(fits) {
            return Err(self.wrong(format!(
                "`{}` is no name of a {what}: write 1 to 100 letters, digits, '-', '_', '.' or '+', with no dot \
                 at the start",
                name.escape_debug()
            )));
        }
        Ok(())
    }

    fn guest(&self, entry: GuestEntry) -> Result<GuestSpec, PlanError> {
        if entry.image.is_empty() {
            return Err(self.wrong("the guest's image has no name"));
        }
        let cpus = entry.cpus.unwrap_or(1);
        if !(1..=64).contains(&cpus) {
            return Err(self.wrong(format!("a guest has 1 to 64 cpus, not {cpus}")));
        }
        if entry.instances == Some(0) {
            return Err(self.wrong("instances must be at least 1"));
        }
        // A path is the plan's; a bare word names an image.
        let image = match entry.image.contains('/') {
            true => self.folder.join(&entry.image).to_string_lossy().into_owned(),
            false => entry.image,
        };
        Ok(GuestSpec {
            image,
            cpus,
            memory: entry.memory.unwrap_or(Memory(512 << 20)),
            seed: entry.seed.unwrap_or(0),
            clock: entry.clock.unwrap_or(Clock::Virtual),
            binder: entry.binder.unwrap_or(BinderDriver::Host),
            binder_profile: entry.binder_profile,
            append: entry.append,
            trace: entry.trace.unwrap_or(Keep::OnFailure),
            console: entry.console.unwrap_or(Keep::Always),
            start: entry.start.unwrap_or(Start::Snapshot),
            instances: entry.instances,
        })
    }
}
