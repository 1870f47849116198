//! Cases: what a program's output says of the single tests in it.
//!
//! A parser gets all of the output and gives [`Cases`]: the cases in order, and what is wrong with the
//! output as a whole (a plan that was not kept, a case that began and did not end). Output comes from
//! a guest, so it may say anything: a parser takes any bytes, and its result is bounded.

use std::time::Duration;

use serde::Serialize;

pub mod gtest;
pub mod tap;

/// The most cases of one program; what comes after is dropped, and said.
pub const MAX_CASES: usize = 20_000;

/// The most bytes of a case's message.
const MAX_MESSAGE: usize = 16 << 10;

/// The most bytes of a name.
const MAX_NAME: usize = 512;

/// What a program's output says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cases {
    /// The cases in the order of the output.
    pub cases: Vec<Case>,
    /// What is wrong with the output, as a person would say it. Each makes the test fail.
    pub faults: Vec<String>,
    /// The program says that there was nothing to run, and why.
    pub skipped: Option<String>,
}

/// One test inside a program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The group it belongs to: a googletest suite, a TAP parent. May be empty.
    pub group: String,
    /// Its name in the group.
    pub name: String,
    /// How it ended.
    pub status: CaseStatus,
    /// What was said of it: the failure, or why it was skipped.
    pub message: String,
    /// How long it took, where the output says so.
    pub time: Option<Duration>,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseStatus {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It was not run, or its failure is expected.
    Skipped,
    /// It began, and the output ends.
    Unfinished,
}

impl CaseStatus {
    /// Whether it makes the test fail.
    pub fn is_bad(self) -> bool {
        matches!(self, CaseStatus::Failed | CaseStatus::Unfinished)
    }
}

impl Case {
    fn new(group: &str, name: &str, status: CaseStatus) -> Case {
        Case {
            group: bounded(group, MAX_NAME),
            name: bounded(name, MAX_NAME),
            status,
            message: String::new(),
            time: None,
        }
    }

    /// `group.name`, or the name alone.
    pub fn full_name(&self) -> String {
        match self.group.is_empty() {
            true => self.name.clone(),
            false => format!("{}.{}", self.group, self.name),
        }
    }
}

impl Cases {
    fn push(&mut self, case: Case) {
        match self.cases.len() {
            0..MAX_CASES => self.cases.push(case),
            MAX_CASES => self.fault(format!("there are more than {MAX_CASES} cases; the rest was dropped")),
            _ => {}
        }
    }

    fn fault(&mut self, fault: impl Into<String>) {
        // The first says what happened; a flood says nothing more.
        if self.faults.len() < 20 {
            let fault = fault.into();
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    /// Cases that make the test fail.
    pub fn bad(&self) -> usize {
        self.cases.iter().filter(|case| case.status.is_bad()).count()
    }

    /// Whether everything the output says is well.
    pub fn passed(&self) -> bool {
        self.faults.is_empty() && self.bad() == 0
    }
}

/// The first `most` bytes of `text`, whole characters.
fn bounded(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Appends a line to a message that stays bounded.
fn add_line(message: &mut String, line: &str) {
    if message.len() + line.len() < MAX_MESSAGE {
        if !message.is_empty() {
            message.push('\n');
        }
        message.push_str(line);
    } else if !message.ends_with("\n[cut]") {
        message.push_str("\n[cut]");
    }
}
