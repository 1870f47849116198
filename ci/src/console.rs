//! What a person sees of a run: a line a test, with a bar below on a terminal, and at the end what
//! did not pass and where to look.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::guest::Started;
use crate::judge::{STDERR, STDOUT, read};
use crate::results::{Event, RunResult, TestResult};
use crate::verdict::Verdict;

/// The most lines of a failed test's output in the summary, of each stream.
const TAIL_LINES: usize = 12;
/// The most characters of such a line.
const LINE: usize = 200;
/// The most failed tests whose output is shown.
const SHOWN: usize = 20;

/// Writes on stderr.
pub struct Console {
    bar: Option<ProgressBar>,
    running: BTreeSet<String>,
    done: usize,
    total: Option<usize>,
    bad: usize,
}

impl Console {
    /// With a bar if stderr is a terminal.
    pub fn new() -> Console {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Console { bar, running: BTreeSet::new(), done: 0, total: None, bad: 0 }
    }

    /// Shows what happened.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted { plan, tests, jobs, .. } => {
                self.total = *tests;
                let count = tests.map_or("until one fails".to_owned(), counted);
                self.say(&format!("bindervm test: {}, {count}, {jobs} at once", plan.display()));
            }
            Event::AttemptStarted { name, .. } => {
                self.running.insert(name.clone());
            }
            Event::AttemptFailed { name, attempt, verdict, reasons } => {
                let why = reasons.first().map(|reason| plain(reason)).unwrap_or_default();
                self.say(&format!("{:<8} {name} (attempt {attempt}, {verdict}): {why}", "again"));
            }
            Event::TestFinished(test) => {
                self.running.remove(&test.name);
                self.done += 1;
                self.bad += usize::from(!test.verdict.is_good());
                self.say(&line(test));
            }
            Event::RunFinished { .. } => {}
        }
        if let Some(bar) = &self.bar {
            let total = self.total.map_or(String::new(), |total| format!("/{total}"));
            let bad = if self.bad > 0 { format!(", {} not well", self.bad) } else { String::new() };
            let running: Vec<&str> = self.running.iter().map(String::as_str).collect();
            bar.set_message(format!("{}{total}{bad}: {}", self.done, running.join(", ")));
        }
    }

    /// The end: what did not pass, and the count of all.
    pub fn finish(&mut self, run: &RunResult, root: &Path) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprint!("{}", summary(run, root));
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Console::new()
    }
}

fn line(test: &TestResult) -> String {
    let label = if test.flaky { "FLAKY" } else { test.verdict.label() };
    let mut line = format!("{label:<8} {:>7.2}s  {}", test.time.as_secs_f64(), test.name);
    let cases = test.cases().count();
    if cases > 0 {
        let _ = write!(line, "  ({cases} cases)");
    }
    if !test.verdict.is_good() || test.verdict == Verdict::Skipped {
        let why = test.reasons.first().map(|reason| plain(reason)).unwrap_or_default();
        let _ = write!(line, "  {why}");
    }
    line
}

fn summary(run: &RunResult, root: &Path) -> String {
    let mut text = String::new();
    let bad: Vec<&TestResult> = run.tests.iter().filter(|test| !test.verdict.is_good()).collect();
    for test in bad.iter().take(SHOWN).filter(|test| !test.attempts.is_empty()) {
        let _ = writeln!(text, "\n---- {} ({})", test.name, test.verdict);
        for reason in test.reasons.iter().take(10) {
            let _ = writeln!(text, "  {}", plain(reason));
        }
        for case in test.cases().filter(|case| case.status.is_bad()).take(10) {
            let _ = writeln!(text, "  case {}: {}", plain(&case.full_name()), plain(&case.message));
        }
        for role in test.last().into_iter().flat_map(|attempt| &attempt.roles) {
            let folder = match role.name.is_empty() {
                true => root.join(&test.folder),
                false => root.join(&test.folder).join(&role.name),
            };
            for name in [STDOUT, STDERR] {
                let output = read(&folder.join(name), 0);
                let lines: Vec<&str> = output.lines().collect();
                if !lines.is_empty() {
                    let of = if role.name.is_empty() { String::new() } else { format!(" of {}", role.name) };
                    let _ = writeln!(text, "  the end of {name}{of}:");
                }
                for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                    let _ = writeln!(text, "  | {}", plain(line));
                }
            }
        }
        let _ = writeln!(text, "  files: {0}\n  again: {0}/repro.sh", root.join(&test.folder).display());
    }
    if bad.len() > SHOWN {
        let _ = writeln!(text, "\nand {} more", bad.len() - SHOWN);
    }
    let counts = run.counts;
    let mut parts = vec![format!("{} passed", counts.passed)];
    for (count, word) in [(counts.flaky, "flaky"), (counts.skipped, "skipped"), (counts.failed, "not well")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    if let Some(why) = &run.stopped {
        let _ = writeln!(text, "\nthe run ended early: {why}");
    }
    let _ = writeln!(
        text,
        "\n{} in {:.1}s: {}{}; exit code {}; results in {}",
        counted(counts.tests),
        run.time.as_secs_f64(),
        parts.join(", "),
        starts(run),
        run.exit_code,
        root.display()
    );
    text
}

/// How the guests of all attempts came up.
fn starts(run: &RunResult) -> String {
    let roles = run.tests.iter().flat_map(|test| &test.attempts).flat_map(|attempt| &attempt.roles);
    let starts: Vec<Started> = roles.filter_map(|role| role.beginning?.start).collect();
    let parts: Vec<String> = [Started::Restored, Started::Booted]
        .into_iter()
        .map(|start| (starts.iter().filter(|other| **other == start).count(), start.word()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if parts.is_empty() { String::new() } else { format!("; guests: {}", parts.join(", ")) }
}

fn counted(tests: usize) -> String {
    match tests {
        1 => "1 test".to_owned(),
        tests => format!("{tests} tests"),
    }
}

/// A line of a guest's, without what would control the terminal.
fn plain(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut plain: String =
        line.chars().take(LINE).map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
    if line.chars().nth(LINE).is_some() {
        plain.push_str("...");
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_speak_to_the_terminal() {
        assert_eq!(plain("\x1b]0;x\x07\u{9b}31m\tred\rx\nsecond"), "?]0;x??31m\tred?x");
        assert_eq!(plain(&"x".repeat(500)).len(), LINE + 3);
    }
}
