//! How tests and runs end.

use std::fmt;

use serde::Serialize;

/// How a test ended. Ordered: of several roles, and for the exit code of a run, the greatest speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What was expected happened.
    Passed,
    /// It was not run: the machine lacks what it requires, or the program said so.
    Skipped,
    /// It ended in another way than was expected.
    Failed,
    /// It broke a rule of its binder policy.
    PolicyViolated,
    /// It was still running when its time was over.
    TimedOut,
    /// Its guest's kernel panicked.
    GuestPanic,
    /// Its guest went away: switched off, reset, or the process that runs it died.
    GuestLost,
    /// Its guest did not come up.
    BootFailed,
    /// It could not be run at all: no image, no KVM, no disk space.
    Infrastructure,
    /// The run was interrupted, or its time was over, before the test ended.
    Interrupted,
}

impl Verdict {
    /// Whether the run is well as far as this test is concerned.
    pub fn is_good(self) -> bool {
        matches!(self, Verdict::Passed | Verdict::Skipped)
    }

    /// Whether trying again may help.
    pub fn may_be_retried(self) -> bool {
        !self.is_good() && self != Verdict::Interrupted
    }

    /// The exit code of a run whose worst test ended so.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed | Verdict::Skipped => exit::OK,
            Verdict::Failed => exit::FAILED,
            Verdict::PolicyViolated => exit::POLICY,
            Verdict::TimedOut => exit::TIMED_OUT,
            Verdict::GuestPanic => exit::GUEST_PANIC,
            Verdict::GuestLost => exit::GUEST_LOST,
            Verdict::BootFailed => exit::BOOT_FAILED,
            Verdict::Infrastructure => exit::INFRASTRUCTURE,
            Verdict::Interrupted => exit::INTERRUPTED,
        }
    }

    /// Word for a list of results.
    pub fn label(self) -> &'static str {
        match self {
            Verdict::Passed => "PASS",
            Verdict::Skipped => "SKIP",
            Verdict::Failed => "FAIL",
            Verdict::PolicyViolated => "POLICY",
            Verdict::TimedOut => "TIMEOUT",
            Verdict::GuestPanic => "PANIC",
            Verdict::GuestLost => "LOST",
            Verdict::BootFailed => "BOOT",
            Verdict::Infrastructure => "INFRA",
            Verdict::Interrupted => "STOPPED",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Passed => "passed",
            Verdict::Skipped => "skipped",
            Verdict::Failed => "failed",
            Verdict::PolicyViolated => "policy violated",
            Verdict::TimedOut => "timed out",
            Verdict::GuestPanic => "guest panic",
            Verdict::GuestLost => "guest lost",
            Verdict::BootFailed => "boot failed",
            Verdict::Infrastructure => "infrastructure",
            Verdict::Interrupted => "interrupted",
        })
    }
}

/// Exit codes of `bindervm test`. Those of `bindervm run` (240 to 249) never come from it, because no
/// guest command's status passes through, unless `--exit-code-from-guest` asks for that.
pub mod exit {
    /// All tests passed.
    pub const OK: u8 = 0;
    /// A test failed.
    pub const FAILED: u8 = 1;
    /// The command line, the plan or a filter is wrong.
    pub const USAGE: u8 = 2;
    /// The machine: no KVM, no image, a full disk.
    pub const INFRASTRUCTURE: u8 = 3;
    /// A guest did not come up.
    pub const BOOT_FAILED: u8 = 4;
    /// A test did not end in its time.
    pub const TIMED_OUT: u8 = 5;
    /// A guest's kernel panicked.
    pub const GUEST_PANIC: u8 = 6;
    /// A guest went away.
    pub const GUEST_LOST: u8 = 7;
    /// A test broke its binder policy.
    pub const POLICY: u8 = 8;
    /// `--fail-flaky`: some test passed only when it was tried again.
    pub const FLAKY: u8 = 9;
    /// Interrupted, or the time of the whole run was over.
    pub const INTERRUPTED: u8 = 130;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_that_says_most_wins() {
        let worst = |verdicts: &[Verdict]| verdicts.iter().max().unwrap().exit_code();
        assert_eq!(worst(&[Verdict::Passed, Verdict::Skipped]), 0);
        assert_eq!(worst(&[Verdict::Failed, Verdict::Passed, Verdict::TimedOut]), 5);
        assert_eq!(worst(&[Verdict::GuestPanic, Verdict::Infrastructure, Verdict::GuestLost]), 3);
        assert_eq!(worst(&[Verdict::Interrupted, Verdict::Infrastructure]), 130);
    }
}
