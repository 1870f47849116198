//! googletest: its text output, and the report of `--gtest_output=json:FILE`.
//!
//! The report says all, but a program that dies writes none; the text says as far as it got. Formats:
//! googletest's `PrettyUnitTestResultPrinter` and `JsonUnitTestResultPrinter` (googletest.cc, 1.11 to 1.15).

use std::time::Duration;

use serde::Deserialize;

use super::{Case, CaseStatus, Cases, add_line};

const RUN: &str = "[ RUN      ] ";
const OK: &str = "[       OK ] ";
const FAILED: &str = "[  FAILED  ] ";
const SKIPPED: &str = "[  SKIPPED ] ";
const BANNER: &str = "[==========] ";

/// Reads the text.
pub fn text(output: &str) -> Cases {
    let mut cases = Cases::default();
    let mut running: Option<Running> = None;
    let mut announced: Option<usize> = None;
    let mut ended = false;
    for line in output.lines() {
        let line = line.trim_end_matches('\r');
        // A case may print half a line before googletest goes on in it.
        if let Some(name) = marked(line, RUN) {
            if let Some(unfinished) = running.take() {
                cases.push(unfinished.end(CaseStatus::Unfinished));
            }
            let (group, name) = split(name);
            running = Some(Running { case: Case::new(group, name, CaseStatus::Unfinished) });
            continue;
        }
        if let Some(current) = &mut running {
            let end =
                [(OK, CaseStatus::Passed), (FAILED, CaseStatus::Failed), (SKIPPED, CaseStatus::Skipped)]
                    .into_iter()
                    .find_map(|(mark, status)| Some((marked(line, mark)?, mark, status)))
                    .filter(|(rest, ..)| current.is(rest));
            match end {
                Some((rest, mark, status)) => {
                    let before = &line[..line.len() - rest.len() - mark.len()];
                    if !before.is_empty() {
                        add_line(&mut current.case.message, before);
                    }
                    current.case.time = milliseconds(rest);
                    if let Some(ended) = running.take() {
                        cases.push(ended.end(status));
                    }
                }
                None => add_line(&mut current.case.message, line),
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix(BANNER) {
            // "Running 3 tests from 1 test suite.", "3 tests from 1 test suite ran. (5 ms total)"
            match rest.strip_prefix("Running ").map(first_number) {
                Some(count) => announced = count.or(announced),
                None if rest.contains(" ran.") => ended = true,
                None => {}
            }
        }
    }
    if let Some(unfinished) = running.take() {
        cases.fault(format!("the program ended inside {}", unfinished.case.full_name()));
        cases.push(unfinished.end(CaseStatus::Unfinished));
    } else if announced.is_none() {
        cases.fault("the output is not googletest's");
    } else if !ended {
        cases.fault("the program ended before googletest's summary");
    }
    let ran = cases.cases.len();
    if let Some(announced) = announced
        && announced != ran
        && ended
        && ran < super::MAX_CASES
    {
        cases.fault(format!("googletest announced {announced} tests, and {ran} have a result"));
    }
    cases
}

struct Running {
    case: Case,
}

impl Running {
    /// Whether `rest`, which follows a mark, is about this case: "Suite.Name (0 ms)", or
    /// "Suite.Name, where GetParam() = 1 (0 ms)".
    fn is(&self, rest: &str) -> bool {
        let name = self.case.full_name();
        rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
    }

    fn end(mut self, status: CaseStatus) -> Case {
        self.case.status = status;
        if status == CaseStatus::Passed {
            self.case.message.clear();
        }
        self.case
    }
}

/// What follows `mark`, if the line has it.
fn marked<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.rfind(mark).map(|at| &line[at + mark.len()..])
}

/// "Suite.Name" in its two parts. Suite names have no dot.
fn split(name: &str) -> (&str, &str) {
    name.trim_end().split_once('.').unwrap_or(("", name.trim_end()))
}

/// The time in "... (12 ms)".
fn milliseconds(rest: &str) -> Option<Duration> {
    let (_, time) = rest.rsplit_once('(')?;
    time.strip_suffix(" ms)")?.parse().ok().map(Duration::from_millis)
}

fn first_number(text: &str) -> Option<usize> {
    text.split(' ').next()?.parse().ok()
}

/// Reads a JSON report. The error says why it is none.
pub fn json(report: &str) -> Result<Cases, String> {
    let report: Report = serde_json::from_str(report).map_err(|error| error.to_string())?;
    let mut cases = Cases::default();
    let mut said = 0;
    for suite in report.testsuites {
        said += suite.testsuite.len();
        for test in suite.testsuite {
            // What a filter or a shard left out is listed, but not run.
            let status = match (test.status.as_deref(), test.result.as_deref()) {
                (Some("NOTRUN"), _) | (_, Some("SUPPRESSED")) => continue,
                (_, Some("SKIPPED")) => CaseStatus::Skipped,
                _ if test.failures.is_empty() => CaseStatus::Passed,
                _ => CaseStatus::Failed,
            };
            let mut case = Case::new(&suite.name, &test.name, status);
            case.time = test.time.as_deref().and_then(seconds);
            for said in test.failures.iter().chain(&test.skipped) {
                let text = said.failure.as_deref().or(said.message.as_deref()).unwrap_or_default();
                add_line(&mut case.message, text);
            }
            cases.push(case);
        }
        for failure in suite.ad_hoc_failures {
            cases.fault(format!("outside of a test: {}", failure.failure.unwrap_or_default()));
        }
    }
    if report.failures > 0 && cases.bad() == 0 {
        cases.fault(format!("the report counts {} failures and names none", report.failures));
    }
    if report.tests > said {
        cases.fault(format!("the report counts {} tests and names {said}", report.tests));
    }
    Ok(cases)
}

#[derive(Deserialize)]
struct Report {
    tests: usize,
    #[serde(default)]
    failures: usize,
    testsuites: Vec<Suite>,
}

#[derive(Deserialize)]
struct Suite {
    name: String,
    #[serde(default)]
    testsuite: Vec<Test>,
    #[serde(default, rename = "failures_outside_tests")]
    ad_hoc_failures: Vec<Said>,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    status: Option<String>,
    result: Option<String>,
    time: Option<String>,
    #[serde(default)]
    failures: Vec<Said>,
    #[serde(default)]
    skipped: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    failure: Option<String>,
    message: Option<String>,
}

/// "0.003s".
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
Running main() from gmock_main.cc
[==========] Running 5 tests from 3 test suites.
[----------] Global test environment set-up.
[----------] 2 tests from BinderLibTest
[ RUN      ] BinderLibTest.NopTransaction
[       OK ] BinderLibTest.NopTransaction (3 ms)
[ RUN      ] BinderLibTest.Freeze
frameworks/native/libs/binder/tests/binderLibTest.cpp:512: Failure
Expected equality of these values:
  NO_ERROR
  ret
    Which is: -22
half a line[  FAILED  ] BinderLibTest.Freeze (12 ms)
[----------] 2 tests from BinderLibTest (15 ms total)

[----------] 2 tests from Range/Param
[ RUN      ] Range/Param.Works/0
[       OK ] Range/Param.Works/0 (0 ms)
[ RUN      ] Range/Param.Works/1
x.cc:1: Failure
[  FAILED  ] Range/Param.Works/1, where GetParam() = 1 (0 ms)
[ RUN      ] Other.Later
x.cc:2: Skipped
no device
[  SKIPPED ] Other.Later (1 ms)
[----------] Global test environment tear-down
[==========] 5 tests from 3 test suites ran. (20 ms total)
[  PASSED  ] 2 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Other.Later
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] BinderLibTest.Freeze
[  FAILED  ] Range/Param.Works/1, where GetParam() = 1

 2 FAILED TESTS
";

    #[test]
    fn text_is_read_case_by_case() {
        let cases = text(SAMPLE);
        assert_eq!(cases.faults, Vec::<String>::new());
        let told: Vec<(String, CaseStatus)> =
            cases.cases.iter().map(|case| (case.full_name(), case.status)).collect();
        let expected = [
            ("BinderLibTest.NopTransaction", CaseStatus::Passed),
            ("BinderLibTest.Freeze", CaseStatus::Failed),
            ("Range/Param.Works/0", CaseStatus::Passed),
            ("Range/Param.Works/1", CaseStatus::Failed),
            ("Other.Later", CaseStatus::Skipped),
        ];
        assert_eq!(told, expected.map(|(name, status)| (name.to_owned(), status)));
        assert!(cases.cases[1].message.contains("Which is: -22\nhalf a line"));
        assert_eq!(cases.cases[1].time, Some(Duration::from_millis(12)));
        assert_eq!(cases.cases[4].message, "x.cc:2: Skipped\nno device");
    }

    #[test]
    fn a_program_that_dies_leaves_its_case_unfinished() {
        let cut = SAMPLE.find("half a line").unwrap();
        let cases = text(&SAMPLE[..cut]);
        assert_eq!(cases.cases.last().unwrap().status, CaseStatus::Unfinished);
        assert_eq!(cases.faults, ["the program ended inside BinderLibTest.Freeze"]);
        // exit(0) between two tests.
        let cut = SAMPLE.find("[----------] 2 tests from Range").unwrap();
        assert_eq!(text(&SAMPLE[..cut]).faults, ["the program ended before googletest's summary"]);
    }

    #[test]
    fn a_case_cannot_speak_for_another() {
        let cases = text(
            "[==========] Running 2 tests from 1 test suite.\n[ RUN      ] A.One\n[       OK ] A.Two (0 ms)\n\
             [  FAILED  ] A.One (0 ms)\n[==========] 1 test from 1 test suite ran. (0 ms total)\n",
        );
        assert_eq!(cases.cases.len(), 1);
        assert_eq!(cases.cases[0].status, CaseStatus::Failed);
        assert_eq!(cases.faults, ["googletest announced 2 tests, and 1 have a result"]);
    }

    #[test]
    fn other_text_is_a_fault_not_a_pass() {
        assert_eq!(text("").faults, ["the output is not googletest's"]);
        assert_eq!(text("sh: no such program\n").faults, ["the output is not googletest's"]);
    }

    #[test]
    fn nothing_to_run_is_a_pass() {
        let none = "[==========] Running 0 tests from 0 test suites.\n\
                    [==========] 0 tests from 0 test suites ran. (0 ms total)\n[  PASSED  ] 0 tests.\n";
        assert!(text(none).passed());
    }

    const REPORT: &str = r#"{
  "tests": 4, "failures": 1, "disabled": 1, "errors": 0, "timestamp": "2024-01-01T00:00:00Z",
  "time": "0.02s", "name": "AllTests",
  "testsuites": [{
    "name": "BinderLibTest", "tests": 4, "failures": 1, "disabled": 1, "errors": 0, "time": "0.02s",
    "testsuite": [
      {"name": "Nop", "file": "x.cpp", "line": 4, "status": "RUN", "result": "COMPLETED", "time": "0.003s", "classname": "BinderLibTest"},
      {"name": "Freeze", "status": "RUN", "result": "COMPLETED", "time": "0s", "classname": "BinderLibTest",
       "failures": [{"failure": "x.cpp:1\nwrong", "type": ""}, {"failure": "x.cpp:2\nmore", "type": ""}]},
      {"name": "Later", "status": "RUN", "result": "SKIPPED", "time": "0s", "skipped": [{"message": "x.cpp:3\nno device"}]},
      {"name": "DISABLED_x", "status": "NOTRUN", "result": "SUPPRESSED", "time": "0s"}
    ]}]}"#;

    #[test]
    fn a_report_is_read() {
        let cases = json(REPORT).unwrap();
        assert_eq!(cases.faults, Vec::<String>::new());
        let statuses: Vec<CaseStatus> = cases.cases.iter().map(|case| case.status).collect();
        assert_eq!(statuses, [CaseStatus::Passed, CaseStatus::Failed, CaseStatus::Skipped]);
        assert_eq!(cases.cases[1].message, "x.cpp:1\nwrong\nx.cpp:2\nmore");
        assert_eq!(cases.cases[0].time, Some(Duration::from_millis(3)));
        assert_eq!(cases.cases[2].message, "x.cpp:3\nno device");
    }

    #[test]
    fn a_report_that_hides_something_is_a_fault() {
        let hides = r#"{"tests": 7, "failures": 2, "testsuites": []}"#;
        assert_eq!(json(hides).unwrap().faults.len(), 2);
        for broken in
            ["", "{", "[]", r#"{"tests": -1, "testsuites": []}"#, "{\"tests\":1e99,\"testsuites\":[]}"]
        {
            assert!(json(broken).is_err(), "{broken}");
        }
        // Deep nesting ends in an error, not in a stack overflow.
        assert!(json(&"[".repeat(1_000_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(parts in proptest::collection::vec(
            proptest::sample::select(vec![RUN, OK, FAILED, SKIPPED, BANNER, "A.b", " (1 ms)", "\n", "\r", "ż", "(", "Running 3 ", "ran."]), 0..60)) {
            let cases = text(&parts.concat());
            proptest::prop_assert!(cases.cases.len() <= parts.len());
        }
    }
}
