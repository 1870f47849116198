//! Whether what a role did is what was expected of it.

use std::fs;
use std::io::Read;
use std::path::Path;

use regex::Regex;
use serde::Serialize;

use crate::cases::{Cases, gtest, tap};
use crate::guest::{CONSOLE, CommandEnd, GuestEnd, TRACE};
use crate::plan::{ExpectedEnd, Parser, Program, RoleSpec};
use crate::policy;
use crate::verdict::Verdict;

/// What is written of a role's program.
pub const STDOUT: &str = "stdout";
/// What it said.
pub const STDERR: &str = "stderr";

/// The most bytes of a file that are judged; captures are smaller.
const MAX_READ: u64 = 64 << 20;

/// How a role ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "end", content = "detail")]
pub enum RoleEnd {
    /// Its program, with this code.
    Exited(u8),
    /// Its program, of this signal.
    Signaled(u8),
    /// Its program is none.
    NotStarted(String),
    /// Its guest's kernel panicked.
    GuestPanic(String),
    /// Its guest went away.
    GuestLost(String),
    /// Its guest did not come up.
    BootFailed(String),
    /// It could not be run.
    Infrastructure(String),
    /// It was running when the time was over.
    TimedOut,
    /// It served the others, which have ended.
    Dismissed,
    /// The run was interrupted.
    Interrupted,
}

impl From<CommandEnd> for RoleEnd {
    fn from(end: CommandEnd) -> RoleEnd {
        match end {
            CommandEnd::Exited(code) => RoleEnd::Exited(code),
            CommandEnd::Signaled(signal) => RoleEnd::Signaled(signal),
            CommandEnd::NotStarted(text) => RoleEnd::NotStarted(text),
        }
    }
}

impl From<GuestEnd> for RoleEnd {
    fn from(end: GuestEnd) -> RoleEnd {
        match end {
            GuestEnd::Panic(text) => RoleEnd::GuestPanic(text),
            GuestEnd::BootFailed(text) => RoleEnd::BootFailed(text),
            GuestEnd::Lost(text) => RoleEnd::GuestLost(text),
            GuestEnd::Infrastructure(text) => RoleEnd::Infrastructure(text),
        }
    }
}

/// What is thought of a role.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// What is wrong, each with the verdict it means.
    pub faults: Vec<(Verdict, String)>,
    /// The cases of its output.
    pub cases: Option<Cases>,
    /// The program says that there was nothing to do, and why.
    pub skipped: Option<String>,
}

/// What a role left behind.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// The folder of its output.
    pub folder: &'a Path,
    /// The folder of its guest, where the console is.
    pub guest: &'a Path,
    /// Where the console stood when the role began.
    pub console_from: u64,
    /// googletest's JSON report.
    pub report: Option<&'a str>,
}

/// Judges a role by how it ended and what it left.
pub fn judge(role: &RoleSpec, end: &RoleEnd, left: Left<'_>) -> Judgement {
    let mut judgement = Judgement::default();
    let mut fault = |verdict: Verdict, text: String| judgement.faults.push((verdict, text));
    let stdout = read(&left.folder.join(STDOUT), 0);
    if !role.background
        && let Some((verdict, text)) = judge_end(&role.program, &role.expect.end, end)
    {
        fault(verdict, text);
    }
    if let RoleEnd::Interrupted | RoleEnd::BootFailed(_) | RoleEnd::Infrastructure(_) = end {
        return judgement;
    }
    let cases = match role.parser {
        Parser::Exit => None,
        Parser::Gtest => Some(gtest_cases(&stdout, left.report)),
        Parser::Tap => Some(tap::tap(&stdout)),
        Parser::Ktap => Some(tap::ktap(&stdout)),
    };
    if let Some(cases) = &cases
        && !role.background
    {
        if cases.bad() > 0 {
            fault(Verdict::Failed, format!("{} of {} cases failed", cases.bad(), cases.cases.len()));
        }
        for text in &cases.faults {
            fault(Verdict::Failed, text.clone());
        }
    }
    let stderr = read(&left.folder.join(STDERR), 0);
    let console = read(&left.guest.join(CONSOLE), left.console_from);
    let expect = &role.expect;
    for (patterns, name, text) in [
        (&expect.stdout, "stdout", &stdout),
        (&expect.stderr, "stderr", &stderr),
        (&expect.console, "the console", &console),
    ] {
        for pattern in patterns.iter().filter(|pattern| !pattern.is_match(text)) {
            fault(Verdict::Failed, format!("`{pattern}` does not occur in {name}"));
        }
    }
    for (name, text) in [("stdout", &stdout), ("stderr", &stderr), ("the console", &console)] {
        for pattern in &expect.never {
            if let Some(line) = line_of(pattern, text) {
                fault(Verdict::Failed, format!("`{pattern}` occurs in {name}: {line}"));
            }
        }
    }
    for text in policy::violations(&expect.policy, &left.guest.join(TRACE)) {
        fault(Verdict::PolicyViolated, text);
    }
    judgement.skipped = cases.as_ref().and_then(|cases| cases.skipped.clone());
    judgement.cases = cases;
    judgement
}

/// What is wrong with how a program or its guest ended.
fn judge_end(program: &Program, expected: &ExpectedEnd, end: &RoleEnd) -> Option<(Verdict, String)> {
    let wanted = match expected {
        ExpectedEnd::Exit(codes) if codes == &[0] => String::new(),
        ExpectedEnd::Exit(codes) => format!(", expected {codes:?}"),
        ExpectedEnd::Signal(signal) => format!(", expected {}", signal_name(*signal)),
        ExpectedEnd::Panic => ", expected a panic of the guest".to_owned(),
        ExpectedEnd::Lost => ", expected the guest to go away".to_owned(),
    };
    let (verdict, text) = match (end, expected) {
        (RoleEnd::Exited(code), ExpectedEnd::Exit(codes)) if codes.contains(code) => return None,
        (RoleEnd::Signaled(signal), ExpectedEnd::Signal(expected)) if signal == expected => return None,
        // A shell tells of its command's signal like this.
        (RoleEnd::Exited(code), ExpectedEnd::Signal(signal))
            if *program == Program::Script && u16::from(*code) == 128 + u16::from(*signal) =>
        {
            return None;
        }
        (RoleEnd::GuestPanic(_), ExpectedEnd::Panic) | (RoleEnd::GuestLost(_), ExpectedEnd::Lost) => {
            return None;
        }
        (RoleEnd::Dismissed, _) => return None,
        (RoleEnd::Exited(code), _) => (Verdict::Failed, format!("exit code {code}")),
        (RoleEnd::Signaled(signal), _) => (Verdict::Failed, format!("killed by {}", signal_name(*signal))),
        (RoleEnd::NotStarted(text), _) => (Verdict::Failed, text.clone()),
        (RoleEnd::GuestPanic(text), _) => (Verdict::GuestPanic, text.clone()),
        (RoleEnd::GuestLost(text), _) => (Verdict::GuestLost, text.clone()),
        (RoleEnd::BootFailed(text), _) => (Verdict::BootFailed, text.clone()),
        (RoleEnd::Infrastructure(text), _) => (Verdict::Infrastructure, text.clone()),
        (RoleEnd::TimedOut, _) => (Verdict::TimedOut, "still running when its time was over".to_owned()),
        (RoleEnd::Interrupted, _) => (Verdict::Interrupted, "the run was interrupted".to_owned()),
    };
    Some((verdict, text + &wanted))
}

fn gtest_cases(stdout: &str, report: Option<&str>) -> Cases {
    let from_text = gtest::text(stdout);
    match report.map(gtest::json) {
        Some(Ok(cases)) => cases,
        Some(Err(error)) => {
            let mut cases = from_text;
            cases.faults.push(format!("googletest's report cannot be read: {error}"));
            cases
        }
        None => from_text,
    }
}

/// `signal 11 (SIGSEGV)`.
fn signal_name(signal: u8) -> String {
    match signal_hook::low_level::signal_name(i32::from(signal)) {
        Some(name) => format!("signal {signal} ({name})"),
        None => format!("signal {signal}"),
    }
}

/// The line in which a pattern matches, shortened.
fn line_of(pattern: &Regex, text: &str) -> Option<String> {
    let at = pattern.find(text)?.start();
    let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    Some(text[begin..].lines().next().unwrap_or_default().chars().take(200).collect())
}

/// A file of a role as text; what is not UTF-8 is replaced. Missing: empty.
pub fn read(path: &Path, from: u64) -> String {
    use std::io::{Seek, SeekFrom};
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_ok() {
        // What was read until an error is all there is to judge.
        let _ = file.take(MAX_READ).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::plan::file::RunEntry;

    fn role(rest: &str) -> RoleSpec {
        let text = format!("guest.default.image = \"x\"\n[[test]]\nname = \"t\"\n{rest}\n");
        let mut plan = Plan::parse("p".as_ref(), &text, None, &RunEntry::default()).unwrap();
        plan.tests.remove(0).roles.remove(0)
    }

    #[track_caller]
    fn verdicts(role: &RoleSpec, end: RoleEnd, stdout: &str, console: &str) -> Vec<(Verdict, String)> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(STDOUT), stdout).unwrap();
        fs::write(folder.path().join(CONSOLE), console).unwrap();
        let folder = folder.path();
        judge(role, &end, Left { folder, guest: folder, console_from: 0, report: None }).faults
    }

    #[test]
    fn ends_are_compared_with_what_is_expected() {
        use RoleEnd::{Exited, GuestLost, GuestPanic, Signaled, TimedOut};
        let panic = || GuestPanic("oops".into());
        let lost = || GuestLost("gone".into());
        let cases = [
            ("", Exited(0), None),
            ("", Exited(1), Some((Verdict::Failed, "exit code 1"))),
            ("expect.exit = [3, 4]", Exited(4), None),
            ("expect.exit = 3", Exited(0), Some((Verdict::Failed, "exit code 0, expected [3]"))),
            ("", Signaled(11), Some((Verdict::Failed, "killed by signal 11 (SIGSEGV)"))),
            ("expect.signal = 11", Signaled(11), None),
            ("expect.signal = 11", Exited(139), None),
            (
                "expect.signal = 11",
                Exited(11),
                Some((Verdict::Failed, "exit code 11, expected signal 11 (SIGSEGV)")),
            ),
            ("", panic(), Some((Verdict::GuestPanic, "oops"))),
            ("expect.panic = true", panic(), None),
            (
                "expect.panic = true",
                Exited(0),
                Some((Verdict::Failed, "exit code 0, expected a panic of the guest")),
            ),
            ("", lost(), Some((Verdict::GuestLost, "gone"))),
            ("expect.lost = true", lost(), None),
            ("", TimedOut, Some((Verdict::TimedOut, "still running when its time was over"))),
        ];
        for (expect, end, expected) in cases {
            let role = role(&format!("script = \"\"\n{expect}"));
            let expected: Vec<_> =
                expected.into_iter().map(|(verdict, text)| (verdict, text.to_owned())).collect();
            assert_eq!(verdicts(&role, end.clone(), "", ""), expected, "{expect} {end:?}");
        }
    }

    #[test]
    fn patterns_must_occur_or_must_not() {
        let role =
            role("script = \"\"\nexpect = { stdout = [\"^b$\"], console = \"Linux\", never = \"BUG:.*\" }");
        assert_eq!(verdicts(&role, RoleEnd::Exited(0), "a\nb\n", "Linux version\n"), []);
        let faults = verdicts(&role, RoleEnd::Exited(0), "ab\n", "x\n[1.0] BUG: y\n");
        let texts: Vec<&str> = faults.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "`^b$` does not occur in stdout",
                "`Linux` does not occur in the console",
                "`BUG:.*` occurs in the console: [1.0] BUG: y"
            ]
        );
    }

    #[test]
    fn a_good_exit_code_does_not_hide_a_failed_case() {
        let role = role("command = [\"x\"]\nparser = \"tap\"");
        let faults = verdicts(&role, RoleEnd::Exited(0), "1..3\nok 1\nnot ok 2\n", "");
        assert_eq!(
            faults,
            [
                (Verdict::Failed, "1 of 2 cases failed".to_owned()),
                (Verdict::Failed, "the plan says 3 tests, 2 have a result".to_owned())
            ]
        );
    }
}
