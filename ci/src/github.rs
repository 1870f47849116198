//! What GitHub shows: annotations on stdout, and a summary in Markdown.

use std::fmt::Write as _;

use crate::results::{RunResult, TestResult};

/// GitHub shows ten of each kind in a step; more are only in the log.
const MOST: usize = 10;

/// Workflow commands, a line each.
pub fn annotations(run: &RunResult) -> String {
    let mut text = String::new();
    for test in run.tests.iter().filter(|test| !test.verdict.is_good()).take(MOST) {
        let title = format!("{}: {}", test.name, test.verdict);
        let _ = writeln!(text, "::error title={}::{}", property(&title), data(&why(test)));
    }
    for test in run.tests.iter().filter(|test| test.flaky).take(MOST) {
        let title = format!("{}: flaky", test.name);
        let why = format!("passed at attempt {}", test.attempts.len());
        let _ = writeln!(text, "::warning title={}::{}", property(&title), data(&why));
    }
    text
}

/// A page for `GITHUB_STEP_SUMMARY`.
pub fn summary(run: &RunResult) -> String {
    let counts = run.counts;
    let mut text = format!(
        "## bindervm test: {}\n\n{} passed, {} flaky, {} skipped, {} not well, in {:.1} s\n",
        cell(&run.plan.file_name().unwrap_or_default().to_string_lossy()),
        counts.passed,
        counts.flaky,
        counts.skipped,
        counts.failed,
        run.time.as_secs_f64()
    );
    let noted = || run.tests.iter().filter(|test| test.flaky || !test.verdict.is_good());
    if noted().next().is_some() {
        text += "\n| test | result | why |\n|---|---|---|\n";
    }
    for test in noted().take(200) {
        let label = if test.flaky { "flaky".to_owned() } else { test.verdict.to_string() };
        let _ = writeln!(text, "| `{}` | {label} | {} |", test.name, cell(&why(test)));
    }
    text
}

fn why(test: &TestResult) -> String {
    let mut why = test.reasons.join("\n");
    for case in test.cases().filter(|case| case.status.is_bad()).take(5) {
        let _ = write!(why, "\n{}: {}", case.full_name(), case.message);
    }
    why.chars().take(2000).collect()
}

/// The value of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of one.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Text of a guest in a cell of a table, as text.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for char in text.chars().take(500) {
        match char {
            '\n' => cell += "<br>",
            '&' => cell += "&amp;",
            '<' => cell += "&lt;",
            '>' => cell += "&gt;",
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '!' | '#' | '@' | '~' => {
                let _ = write!(cell, "&#{};", char as u32);
            }
            char if char.is_control() => {}
            char => cell.push(char),
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_write_commands_or_markup() {
        assert_eq!(data("a\n::set-env name=x::y%"), "a%0A::set-env name=x::y%25");
        assert_eq!(property("a:b,c"), "a%3Ab%2Cc");
        assert_eq!(cell("a|b\n<img> [x](y)"), "a&#124;b<br>&lt;img&gt; &#91;x&#93;(y)");
    }
}
