//! From what a plan says to what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use regex::{Regex, RegexBuilder};

use super::error::{PlanError, Text, did_you_mean};
use super::file::{
    BinderDriver, Clock, ExpectEntry, GuestEntry, Isolation, Keep, Parser, PlanFile, PushEntry, RoleEntry,
    RunEntry, Sharing, Start, TestEntry,
};
use super::value::{Memory, OneOrMany, Time};
use super::{
    Expect, ExpectedEnd, GuestSpec, MAX_TESTS, Plan, Program, Push, RoleSpec, Settings, Share, TestSpec,
};
use crate::policy::Rule;
use crate::start::plain;

/// The most bytes of a file that a plan feeds to a program.
const MAX_STDIN: u64 = 64 << 20;

/// The most bytes of a compiled regular expression.
const MAX_REGEX: usize = 1 << 20;

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

/// What a test takes from the run.
struct TestDefaults {
    timeout: Time,
    retries: u32,
}

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

    /// The tests that an entry stands for.
    fn tests(
        &self,
        entry: TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
        defaults: &TestDefaults,
    ) -> Result<Vec<TestSpec>, PlanError> {
        self.check_name("test", &entry.name)?;
        let of = |what: &str| format!("test `{}`: {what}", entry.name);
        if let Some(faults) = &entry.faults {
            faults.resolve(0).map_err(|error| self.wrong(of(&format!("faults: {error}"))))?;
        }
        let shards = entry.shards.unwrap_or(1);
        if !(1..=1024).contains(&shards) {
            return Err(self.wrong(of("shards must be 1 to 1024")));
        }
        let retries = entry.retries.unwrap_or(defaults.retries);
        if retries > 100 {
            return Err(self.wrong(of("retries must be at most 100")));
        }
        let mut variants: Vec<(String, Vec<RoleSpec>)> = Vec::new();
        if entry.roles.is_empty() {
            for guest in self.guests_of(&entry, guests)? {
                let name = match &entry.guest {
                    Some(OneOrMany::Many(_)) => format!("{}@{guest}", entry.name),
                    _ => entry.name.clone(),
                };
                let role = self.role(&entry.name, String::new(), only_role(&entry, guest))?;
                variants.push((name, vec![role]));
            }
        } else {
            variants.push((entry.name.clone(), self.roles(&entry, guests)?));
        }
        let isolation = entry.isolation.unwrap_or(Isolation::Fresh);
        if isolation == Isolation::Shared && variants.iter().any(|(_, roles)| roles.len() > 1) {
            return Err(
                self.wrong(of("a test with roles gets guests of its own; isolation cannot be shared"))
            );
        }
        if isolation == Isolation::Shared && entry.faults.is_some() {
            return Err(self.wrong(of("faults are for guests of a test's own; isolation cannot be shared")));
        }
        let own_driver =
            |role: &RoleSpec| guests.get(&role.guest).is_some_and(|spec| spec.binder == BinderDriver::Kernel);
        if entry.faults.is_some() && variants.iter().any(|(_, roles)| roles.iter().any(own_driver)) {
            return Err(
                self.wrong(of("there is nothing to inject faults into where the kernel has the driver"))
            );
        }
        let judged = |role: &RoleSpec| !role.expect.policy.is_empty();
        let recorded = |role: &RoleSpec| {
            let spec = guests.get(&role.guest).filter(|_| role.domain.is_none());
            spec.is_some_and(|spec| spec.binder == BinderDriver::Host && spec.trace != Keep::Never)
        };
        let mut all_roles = variants.iter().flat_map(|(_, roles)| roles);
        if all_roles.any(|role| judged(role) && (isolation == Isolation::Shared || !recorded(role))) {
            return Err(self.wrong(of(
                "a policy is judged by the recording: it needs a guest of the test's own, in no domain, the driver of the host, and a \
                 trace that is not `never`",
            )));
        }
        if isolation == Isolation::Shared && entry.seed.is_some() {
            return Err(self.wrong(of("a shared guest has a seed of its own; the test cannot have one")));
        }
        let process = self.process(&entry, &variants, guests)?;
        let mut tests = Vec::new();
        for (name, roles) in variants {
            for index in 1..=shards {
                let shard = (shards > 1).then_some(Share { index, total: shards });
                tests.push(TestSpec {
                    name: match shard {
                        Some(_) => format!("{name}#{index}of{shards}"),
                        None => name.clone(),
                    },
                    plan_name: entry.name.clone(),
                    shard,
                    roles: roles.clone(),
                    timeout: entry.timeout.unwrap_or(defaults.timeout),
                    retries,
                    seed: entry.seed,
                    faults: entry.faults.clone(),
                    round: 0,
                    tags: entry.tags.clone(),
                    requires: entry.requires.clone(),
                    isolation,
                    process,
                });
            }
        }
        Ok(tests)
    }

    /// Whether the guests of a test share a process, and whether those of its domains can.
    fn process(
        &self,
        entry: &TestEntry,
        variants: &[(String, Vec<RoleSpec>)],
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Sharing, PlanError> {
        let of = |what: &str| self.wrong(format!("test `{}`: {what}", entry.name));
        let roles: &[RoleSpec] = if entry.roles.is_empty() { &[] } else { &variants[0].1 };
        let mut domains: BTreeMap<&str, Vec<&RoleSpec>> = BTreeMap::new();
        for role in roles {
            if let Some(domain) = &role.domain {
                self.check_name("domain", domain)?;
                domains.entry(domain).or_default().push(role);
            }
        }
        for (domain, members) in &domains {
            let specs = || members.iter().filter_map(|role| guests.get(&role.guest));
            if members.len() < 2 {
                return Err(of(&format!("domain `{domain}` is shared by nobody: name it in two roles")));
            }
            if specs().any(|spec| spec.binder == BinderDriver::Kernel) {
                return Err(of(&format!(
                    "domain `{domain}`: a guest with `binder = \"kernel\"` has its own kernel's driver, and can share none"
                )));
            }
            if specs()
                .any(|spec| Some(spec.binder_profile) != specs().next().map(|first| first.binder_profile))
            {
                return Err(of(&format!(
                    "domain `{domain}` is one driver: its guests need the same binder-profile"
                )));
            }
        }
        let process = match (entry.process, domains.is_empty()) {
            (Some(Sharing::Own), false) => {
                return Err(of("guests of a domain are in one process; process cannot be own"));
            }
            (Some(process), _) => process,
            (None, true) => Sharing::Own,
            (None, false) => Sharing::Shared,
        };
        if process == Sharing::Own {
            return Ok(process);
        }
        if roles.len() < 2 {
            return Err(of(
                "one guest shares a process with nobody; process = \"shared\" is for tests with roles",
            ));
        }
        let mut names = BTreeMap::new();
        for role in roles {
            if let Some(other) = names.insert(plain(&role.name), &role.name) {
                return Err(of(&format!("roles `{other}` and `{}` have the same guest name", role.name)));
            }
        }
        Ok(process)
    }

    /// The guests that a test without roles runs on.
    fn guests_of(
        &self,
        entry: &TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Vec<String>, PlanError> {
        let named = match &entry.guest {
            Some(named) => named.to_vec(),
            None => vec![self.default_guest(&entry.name, guests)?],
        };
        if named.is_empty() {
            return Err(self.wrong(format!("test `{}`: the list of guests is empty", entry.name)));
        }
        for name in &named {
            self.check_guest(&entry.name, name, guests)?;
        }
        Ok(named)
    }

    fn default_guest(&self, test: &str, guests: &BTreeMap<String, GuestSpec>) -> Result<String, PlanError> {
        if guests.contains_key("default") {
            return Ok("default".to_owned());
        }
        match guests.keys().next() {
            Some(only) if guests.len() == 1 => Ok(only.clone()),
            None => Err(self.wrong(format!(
                "test `{test}` names no guest, and the plan has none; write [guest.default] with image = \"...\""
            ))),
            Some(_) => Err(self.wrong(format!(
                "test `{test}` names no guest, and none of the plan's is called default"
            ))),
        }
    }

    fn check_guest(
        &self,
        test: &str,
        name: &str,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<(), PlanError> {
        if guests.contains_key(name) {
            return Ok(());
        }
        let hint = did_you_mean(name, guests.keys().map(String::as_str));
        let message = format!("test `{test}`: there is no [guest.{}]", name.escape_debug());
        Err(self.text.wrong(Some(self.span.clone()), &message, hint))
    }

    fn roles(
        &self,
        entry: &TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Vec<RoleSpec>, PlanError> {
        let of = |what: &str| format!("test `{}`: {what}", entry.name);
        if entry.command.is_some()
            || entry.script.is_some()
            || entry.script_file.is_some()
            || entry.gtest.is_some()
            || entry.guest.is_some()
            || entry.stdin.is_some()
            || entry.stdin_file.is_some()
            || entry.parser.is_some()
            || entry.cwd.is_some()
            || !(entry.env.is_empty() && entry.artifacts.is_empty() && entry.push.is_empty())
        {
            return Err(self.wrong(of("with roles, what runs and where stands in each role")));
        }
        if entry.roles.len() > 16 {
            return Err(self.wrong(of("at most 16 roles")));
        }
        let mut roles = Vec::new();
        for (name, role) in &entry.roles {
            self.check_name("role", name)?;
            let guest = match &role.guest {
                Some(guest) => guest.clone(),
                None => self.default_guest(&entry.name, guests)?,
            };
            self.check_guest(&entry.name, &guest, guests)?;
            let role = RoleEntry { guest: Some(guest), ..role.clone() };
            roles.push(self.role(&entry.name, name.clone(), role)?);
        }
        for (guest, spec) in guests {
            let needed = roles.iter().filter(|role| role.guest == *guest).count();
            if spec.instances.is_some_and(|instances| needed > instances as usize) {
                let message = format!("it needs {needed} guests `{guest}`, more than the instances of that");
                return Err(self.wrong(of(&message)));
            }
        }
        if roles.iter().all(|role| role.background) {
            return Err(self.wrong(of("every role is in the background; nothing would end the test")));
        }
        Ok(roles)
    }

    fn role(&self, test: &str, name: String, entry: RoleEntry) -> Result<RoleSpec, PlanError> {
        let of = |what: String| match name.is_empty() {
            true => format!("test `{test}`: {what}"),
            false => format!("test `{test}`, role `{name}`: {what}"),
        };
        let mut stdin = match (&entry.stdin, &entry.stdin_file) {
            (Some(_), Some(_)) => return Err(self.wrong(of("stdin or stdin-file, not both".into()))),
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(self.read(file, &of)?),
            (None, None) => None,
        };
        let script = match (&entry.script, &entry.script_file) {
            (Some(_), Some(_)) => return Err(self.wrong(of("script or script-file, not both".into()))),
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(self.read(file, &of)?),
            (None, None) => None,
        };
        let program = match (entry.command, script, entry.gtest) {
            (Some(argv), None, None) => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(self.wrong(of("the command is empty".into())));
                }
                Program::Command(argv)
            }
            (None, Some(script), None) => {
                if stdin.is_some() {
                    return Err(self.wrong(of("a script is its shell's stdin; there is no other".into())));
                }
                stdin = Some(script);
                Program::Script
            }
            (None, None, Some(path)) => {
                Program::Gtest { path, filter: entry.gtest_filter.clone(), args: entry.gtest_args.clone() }
            }
            (None, None, None) => {
                return Err(self.wrong(of("nothing to run; write command, script or gtest".into())));
            }
            _ => return Err(self.wrong(of("one of command, script and gtest, not several".into()))),
        };
        let is_gtest = matches!(program, Program::Gtest { .. });
        if !is_gtest && (entry.gtest_filter.is_some() || !entry.gtest_args.is_empty()) {
            return Err(self.wrong(of("gtest-filter and gtest-args go with gtest".into())));
        }
        if program.words().any(|word| word.contains('\0')) {
            return Err(self.wrong(of("an argument contains a NUL".into())));
        }
        for (key, value) in &entry.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(self.wrong(of(format!("`{}` is no environment variable", key.escape_debug()))));
            }
        }
        for glob in &entry.artifacts {
            if !glob.starts_with('/') || globset::Glob::new(glob).is_err() {
                return Err(self.wrong(of(format!("`{glob}` is not a glob of absolute paths"))));
            }
        }
        let push = entry.push.iter().map(|push| self.push(push, &of)).collect::<Result<_, _>>()?;
        Ok(RoleSpec {
            guest: entry.guest.unwrap_or_default(),
            domain: entry.domain,
            program,
            parser: entry.parser.unwrap_or(if is_gtest { Parser::Gtest } else { Parser::Exit }),
            env: entry.env,
            cwd: entry.cwd,
            stdin: stdin.unwrap_or_default(),
            expect: self.expect(entry.expect, &of)?,
            artifacts: entry.artifacts,
            push,
            background: entry.background,
            name,
        })
    }

    fn push(&self, entry: &PushEntry, of: &dyn Fn(String) -> String) -> Result<Push, PlanError> {
        let from = self.folder.join(&entry.from);
        if !from.is_file() {
            return Err(self.wrong(of(format!("there is no file {} to push", from.display()))));
        }
        if !entry.to.starts_with('/') {
            return Err(self.wrong(of(format!("`{}` is not an absolute path of the guest", entry.to))));
        }
        let mode = match &entry.mode {
            None => None,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Some(mode),
                _ => return Err(self.wrong(of(format!("`{text}` is not a mode; write for example \"755\"")))),
            },
        };
        Ok(Push { from, to: entry.to.clone(), mode })
    }

    fn expect(&self, entry: ExpectEntry, of: &dyn Fn(String) -> String) -> Result<Expect, PlanError> {
        let ends = [entry.exit.is_some(), entry.signal.is_some(), entry.panic, entry.lost]
            .map(usize::from)
            .iter()
            .sum::<usize>();
        if ends > 1 {
            return Err(self.wrong(of("expect one of exit, signal, panic and lost".into())));
        }
        let end = match (entry.exit, entry.signal) {
            (Some(codes), _) => ExpectedEnd::Exit(codes.to_vec()),
            (_, Some(signal @ 1..=64)) => ExpectedEnd::Signal(signal),
            (_, Some(signal)) => return Err(self.wrong(of(format!("{signal} is not a signal")))),
            _ if entry.panic => ExpectedEnd::Panic,
            _ if entry.lost => ExpectedEnd::Lost,
            _ => ExpectedEnd::Exit(vec![0]),
        };
        if end == ExpectedEnd::Exit(Vec::new()) {
            return Err(self.wrong(of("expect.exit is an empty list".into())));
        }
        let patterns = |patterns: OneOrMany<String>| -> Result<Vec<Regex>, PlanError> {
            let compile = |pattern: &String| {
                RegexBuilder::new(pattern)
                    .multi_line(true)
                    .size_limit(MAX_REGEX)
                    .build()
                    .map_err(|error| self.wrong(of(format!("in expect: {error}"))))
            };
            patterns.to_vec().iter().map(compile).collect()
        };
        let rules = |rules: OneOrMany<String>| -> Result<Vec<Rule>, PlanError> {
            let parse = |text: &String| {
                Rule::parse(text).map_err(|error| self.wrong(of(format!("in expect.policy: {error}"))))
            };
            rules.to_vec().iter().map(parse).collect()
        };
        Ok(Expect {
            end,
            stdout: patterns(entry.stdout)?,
            stderr: patterns(entry.stderr)?,
            console: patterns(entry.console)?,
            never: patterns(entry.never)?,
            policy: rules(entry.policy)?,
        })
    }

    fn read(&self, file: &str, of: &dyn Fn(String) -> String) -> Result<Vec<u8>, PlanError> {
        let path = self.folder.join(file);
        let wrong = |error: &dyn std::fmt::Display| {
            self.wrong(of(format!("cannot read {}: {error}", path.display())))
        };
        let metadata = fs::metadata(&path).map_err(|error| wrong(&error))?;
        if !metadata.is_file() {
            return Err(wrong(&"it is not a regular file"));
        }
        if metadata.len() > MAX_STDIN {
            return Err(wrong(&format!("it is larger than {MAX_STDIN} bytes")));
        }
        fs::read(&path).map_err(|error| wrong(&error))
    }
}

impl Program {
    /// Every word of it.
    fn words(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Program::Command(argv) => Box::new(argv.iter()),
            Program::Script => Box::new(std::iter::empty()),
            Program::Gtest { path, filter, args } => {
                Box::new(std::iter::once(path).chain(filter).chain(args))
            }
        }
    }
}

/// The one role of a test without roles.
fn only_role(entry: &TestEntry, guest: String) -> RoleEntry {
    let entry = entry.clone();
    RoleEntry {
        guest: Some(guest),
        domain: None,
        command: entry.command,
        script: entry.script,
        script_file: entry.script_file,
        gtest: entry.gtest,
        gtest_filter: entry.gtest_filter,
        gtest_args: entry.gtest_args,
        parser: entry.parser,
        env: entry.env,
        cwd: entry.cwd,
        stdin: entry.stdin,
        stdin_file: entry.stdin_file,
        expect: entry.expect,
        artifacts: entry.artifacts,
        push: entry.push,
        background: false,
    }
}
