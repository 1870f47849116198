//! JUnit XML, as Jenkins, GitLab, GitHub actions and Bazel read it: `junit.xsd` here is the form.
//!
//! One `testsuite` a test. A test that is one case has one `testcase`; one whose output was read into
//! cases has those, and one named `(program)` where something is wrong that no case tells. Attempts
//! before the last are `flakyFailure` or `rerunFailure`, as Surefire has them.

use std::path::Path;

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use crate::attempt::{Attempt, RoleResult};
use crate::cases::{Case, CaseStatus};
use crate::guest::Started;
use crate::judge::{STDERR, STDOUT, read};
use crate::results::{RunResult, TestResult};
use crate::verdict::Verdict;

/// The most characters of output in the file, from the end; all of it is in the results.
const MOST: usize = 4000;

/// The file's text. Output is read from the results in `root`.
pub fn xml(run: &RunResult, root: &Path) -> Result<String, quick_junit::SerializeError> {
    let name = run.plan.file_stem().unwrap_or_default().to_string_lossy();
    let mut report = Report::new(name.clone());
    report.set_time(run.time);
    for test in &run.tests {
        report.add_test_suite(suite(test, run, &name, root));
    }
    // quick-junit drops control characters, but not these two, which XML 1.0 does not have either.
    Ok(report.to_string()?.replace(['\u{fffe}', '\u{ffff}'], ""))
}

fn suite(test: &TestResult, run: &RunResult, plan: &str, root: &Path) -> TestSuite {
    let mut suite = TestSuite::new(test.name.as_str());
    suite.set_time(test.time);
    suite.set_timestamp(test.started.fixed_offset());
    let roles = || test.last().into_iter().flat_map(|attempt| &attempt.roles);
    suite.add_property(Property::new("attempts", test.attempts.len().to_string()));
    suite.add_property(Property::new("results", test.folder.to_string_lossy()));
    for tag in &test.tags {
        suite.add_property(Property::new("tag", tag.as_str()));
    }
    for role in roles() {
        suite.add_property(Property::new("guest", role.guest.as_str()));
        if let Some(domain) = &role.domain {
            suite.add_property(Property::new("domain", domain.as_str()));
        }
        if let Some(beginning) = role.beginning {
            suite.add_property(Property::new("seed", beginning.seed.to_string()));
            suite.add_property(Property::new("start", beginning.start.map_or("none", Started::word)));
        }
        if let Some(image) = run.images.get(&role.guest) {
            suite.add_property(Property::new("image", format!("{} {}", image.name, image.digest)));
            suite.add_property(Property::new("kernel", image.kernel.as_str()));
        }
        if let Some(engine) = role.run.as_ref().and_then(|run| run["engine"].as_str()) {
            suite.add_property(Property::new("engine", engine));
        }
    }
    let mut told = false;
    for role in roles() {
        for case in role.cases.iter().flat_map(|cases| &cases.cases) {
            told |= case.status.is_bad();
            suite.add_test_case(case_of(test, role, case));
        }
    }
    // What no case tells: the program's own end, and the test that is one case.
    let has_cases = !suite.test_cases.is_empty();
    let only_cases_failed = test.verdict == Verdict::Failed && told && test.reasons.len() == 1;
    if !has_cases || (!test.verdict.is_good() && !only_cases_failed) || test.attempts.len() > 1 {
        let name = if has_cases { "(program)" } else { &test.name };
        let mut case = TestCase::new(name, status(test));
        case.set_classname(plan);
        case.set_time(test.last().map_or(test.time, |attempt| attempt.time));
        for role in roles() {
            let folder = match role.name.is_empty() {
                true => root.join(&test.folder),
                false => root.join(&test.folder).join(&role.name),
            };
            case.set_system_out(tail(
                case.system_out.as_ref().map(|out| out.as_str()),
                role,
                &folder.join(STDOUT),
            ));
            case.set_system_err(tail(
                case.system_err.as_ref().map(|err| err.as_str()),
                role,
                &folder.join(STDERR),
            ));
        }
        suite.add_test_case(case);
    }
    suite
}

fn case_of(test: &TestResult, role: &RoleResult, case: &Case) -> TestCase {
    let (group, name) = match case.group.is_empty() {
        true => (test.name.clone(), case.name.clone()),
        false => (format!("{}.{}", test.name, case.group), case.name.clone()),
    };
    let group = if role.name.is_empty() { group } else { format!("{group}.{}", role.name) };
    let mut status = match case.status {
        CaseStatus::Passed => TestCaseStatus::success(),
        CaseStatus::Skipped => TestCaseStatus::skipped(),
        CaseStatus::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        CaseStatus::Unfinished => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    match case.status {
        CaseStatus::Passed => {}
        CaseStatus::Skipped => {
            status.set_message(first_line(&case.message));
        }
        CaseStatus::Failed => {
            status
                .set_type("failed")
                .set_message(first_line(&case.message))
                .set_description(case.message.as_str());
        }
        CaseStatus::Unfinished => {
            status.set_type("unfinished").set_message("the program ended inside this case");
            status.set_description(case.message.as_str());
        }
    }
    let mut junit = TestCase::new(name, status);
    junit.set_classname(group);
    if let Some(time) = case.time {
        junit.set_time(time);
    }
    junit
}

/// The status of the test as a whole.
fn status(test: &TestResult) -> TestCaseStatus {
    let mut status = match test.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Skipped => TestCaseStatus::skipped(),
        verdict => TestCaseStatus::non_success(kind(verdict)),
    };
    match test.verdict {
        Verdict::Passed => {}
        Verdict::Skipped => {
            status.set_message(test.reasons.join("; "));
        }
        verdict => {
            let first = test.reasons.first().map(String::as_str).unwrap_or_default();
            status.set_message(first_line(first)).set_type(verdict.to_string());
            status.set_description(format!(
                "{}\nrun it again: {}/repro.sh",
                test.reasons.join("\n"),
                test.folder.display()
            ));
        }
    }
    if test.verdict != Verdict::Skipped
        && let Some((_, earlier)) = test.attempts.split_last()
    {
        status.add_reruns(earlier.iter().map(rerun));
    }
    status
}

/// What went wrong with what is tested is a failure, the rest is an error.
fn kind(verdict: Verdict) -> NonSuccessKind {
    match verdict {
        Verdict::Failed | Verdict::PolicyViolated | Verdict::TimedOut => NonSuccessKind::Failure,
        _ => NonSuccessKind::Error,
    }
}

fn rerun(attempt: &Attempt) -> TestRerun {
    let mut rerun = TestRerun::new(kind(attempt.verdict));
    rerun.set_type(attempt.verdict.to_string());
    rerun.set_message(first_line(attempt.reasons.first().map(String::as_str).unwrap_or_default()));
    rerun.set_stack_trace(attempt.reasons.join("\n"));
    rerun
}

/// `before`, and the end of a role's output.
fn tail(before: Option<&str>, role: &RoleResult, path: &Path) -> String {
    let text = read(path, 0);
    let mut begin = text.len().saturating_sub(MOST);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    let mut out = before.unwrap_or_default().to_owned();
    if !role.name.is_empty() {
        out += &format!("== {}\n", role.name);
    }
    if begin > 0 {
        out += &format!("[... the rest is in {}]\n", path.file_name().unwrap_or_default().to_string_lossy());
    }
    out + &text[begin..]
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::process::Command;
    use std::time::Duration;

    use chrono::Utc;

    use super::*;
    use crate::capture::Captured;
    use crate::cases::Cases;
    use crate::guest::Beginning;
    use crate::judge::RoleEnd;
    use crate::results::{Counts, ImageFacts, VERSION, folder_of};

    fn attempt(verdict: Verdict, reasons: &[&str], cases: Option<Cases>) -> Attempt {
        let role = RoleResult {
            name: String::new(),
            guest: "default".into(),
            domain: None,
            beginning: Some(Beginning { start: Some(Started::Restored), seed: 7, process: 1 }),
            ended: RoleEnd::Exited(0),
            cases,
            stdout: Captured::default(),
            stderr: Captured::default(),
            artifacts: Vec::new(),
            notes: Vec::new(),
            run: Some(serde_json::json!({"engine": "soft"})),
        };
        let reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
        Attempt {
            verdict,
            reasons,
            roles: vec![role],
            boot: Duration::ZERO,
            time: Duration::from_millis(1500),
        }
    }

    fn test(name: &str, attempts: Vec<Attempt>) -> TestResult {
        let last = attempts.last().unwrap();
        TestResult {
            name: name.into(),
            plan_name: name.into(),
            shard: None,
            tags: vec!["smoke".into()],
            verdict: last.verdict,
            flaky: attempts.len() > 1 && last.verdict == Verdict::Passed,
            reasons: last.reasons.clone(),
            folder: folder_of(name),
            started: Utc::now(),
            time: Duration::from_secs(2),
            attempts,
        }
    }

    fn run() -> RunResult {
        use Verdict::{Failed, GuestLost, GuestPanic, Infrastructure, Passed, Skipped, TimedOut};
        let gtest = crate::cases::gtest::text(
            "[==========] Running 3 tests from 1 test suite.\n[ RUN      ] A.a\n[       OK ] A.a (3 ms)\n[ RUN      ] A.b\n\
             x <&> \"y\" ]]> \u{1b}[31m \u{0} \u{fffe}\n[  FAILED  ] A.b (0 ms)\n[ RUN      ] A.c\n[  SKIPPED ] A.c (0 ms)\n\
             [==========] 3 tests from 1 test suite ran. (4 ms total)\n",
        );
        let unfinished =
            crate::cases::gtest::text("[==========] Running 1 test from 1 test suite.\n[ RUN      ] A.a\n");
        let failed = || attempt(Failed, &["exit code 1", "and\nmore"], None);
        let tests = vec![
            test("plain", vec![attempt(Passed, &[], None)]),
            test("gtest", vec![attempt(Failed, &["1 of 3 cases failed"], Some(gtest))]),
            test(
                "crash",
                vec![attempt(
                    Failed,
                    &["killed by signal 11 (SIGSEGV)", "the program ended inside A.a"],
                    Some(unfinished),
                )],
            ),
            test("flaky", vec![failed(), attempt(GuestPanic, &["oops"], None), attempt(Passed, &[], None)]),
            test("stubborn", vec![failed(), failed()]),
            test("hang", vec![attempt(TimedOut, &["still running"], None)]),
            test("lost", vec![attempt(GuestLost, &["\u{1b}gone\u{7}"], None)]),
            test("infra#1of2", vec![attempt(Infrastructure, &["no image"], None)]),
            test("none", vec![attempt(Skipped, &["nothing to run"], None)]),
        ];
        let facts = ImageFacts { name: "minimal".into(), digest: "ab".into(), kernel: "6.1".into() };
        RunResult {
            version: VERSION,
            bindervm: "0".into(),
            plan: "/x/plan.toml".into(),
            profile: None,
            partition: None,
            images: BTreeMap::from([("default".into(), facts)]),
            started: Utc::now(),
            time: Duration::from_secs(3),
            counts: Counts::of(&tests),
            exit_code: 3,
            stopped: None,
            tests,
        }
    }

    #[test]
    fn every_kind_of_result_keeps_its_meaning() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("tests/plain")).unwrap();
        let long = format!("{}\u{1b}[0m<end>&\n", "ż".repeat(10_000));
        fs::write(root.path().join("tests/plain/stdout"), long).unwrap();
        let text = xml(&run(), root.path()).unwrap();
        let read = Report::deserialize_from_str(&text).unwrap();
        // crash: its case and its program; gtest: 3 cases; the others one each.
        assert_eq!((read.tests, read.failures, read.errors, read.skipped), (12, 4, 3, 2), "{text}");
        let case = |suite: usize, case: usize| &read.test_suites[suite].test_cases[case];
        assert_eq!(case(1, 1).classname.as_ref().unwrap().as_str(), "gtest.A");
        assert!(
            matches!(&case(3, 0).status, TestCaseStatus::Success { flaky_runs } if flaky_runs.len() == 2)
        );
        assert!(
            matches!(&case(4, 0).status, TestCaseStatus::NonSuccess { reruns, .. } if reruns.runs.len() == 1)
        );
        let out = case(0, 0).system_out.as_ref().unwrap().as_str();
        assert!(
            out.len() < MOST + 100
                && out.starts_with("[... the rest is in stdout]")
                && out.contains("<end>&")
        );
        assert!(!text.contains(['\u{1b}', '\0', '\u{7}', '\u{fffe}']));
    }

    #[test]
    fn it_has_the_form_that_is_promised() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("junit.xml");
        fs::write(&file, xml(&run(), folder.path()).unwrap()).unwrap();
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/junit.xsd");
        match Command::new("xmllint").args(["--noout", "--nonet", "--schema", schema]).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                eprintln!("not checked against the schema: xmllint: {error} (ci/setup libxml2-utils)")
            }
        }
    }
}
