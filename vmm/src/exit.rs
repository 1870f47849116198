//! How a run ended: the exit code, and the same as JSON for `--status`.

use serde::Serialize;

/// Exit codes of bindervm's own; a guest command's status passes through unchanged (128 + n for
/// signal n), which is why these start at 240.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The command line is wrong, or a file that it names.
    Usage = 240,
    /// An image, kernel, initrd, recipe, trace or snapshot file is missing or damaged.
    Image = 241,
    /// The guest did not come up.
    BootFailed = 242,
    /// The guest's kernel panicked.
    GuestPanic = 243,
    /// `--timeout` ran out.
    Timeout = 244,
    /// The guest went away while the command ran.
    GuestLost = 245,
    /// A fault of bindervm itself.
    Internal = 249,
}

impl Code {
    /// The code that a process of ours ended with.
    pub fn of_exit(exit: u8) -> Option<Code> {
        use Code::{BootFailed, GuestLost, GuestPanic, Image, Internal, Timeout, Usage};
        [Usage, Image, BootFailed, GuestPanic, Timeout, GuestLost, Internal]
            .into_iter()
            .find(|code| *code as u8 == exit)
    }
}

/// An error that knows its exit code. The chain of causes is printed once, in `main`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which code.
    pub code: Code,
    message: String,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure told in full by its message.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), cause: None }
    }

    /// A failure with the error that caused it.
    pub fn because(
        code: Code,
        message: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Failure {
        Failure { code, message: message.into(), cause: Some(cause.into()) }
    }

    /// The message and its causes on one line, each said once.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            cause = error.source();
        }
        text
    }
}

/// What `--status FILE` holds: `ended` says who speaks, so a guest's 243 is never taken for a panic.
#[derive(Debug, Serialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum Status {
    /// The guest command ended by itself.
    Exited {
        /// Its exit status.
        code: u8,
    },
    /// The guest command died of a signal.
    Signaled {
        /// The signal's number.
        signal: u8,
    },
    /// The guest powered off without a command.
    PoweredOff,
    /// A guest without a command was stopped from outside: `bindervm stop`.
    Stopped,
    /// Nobody read the command's output any more (`| head`), and it was hung up.
    HungUp,
    /// The guest was saved (`--snapshot-to` without a command).
    Saved,
    /// bindervm ended the run.
    Failed {
        /// Why.
        reason: Code,
        /// The message that was printed.
        message: String,
    },
}

impl Status {
    /// The exit code of the `bindervm` process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Status::Exited { code } => *code,
            Status::Signaled { signal } => 128u8.saturating_add(*signal),
            Status::PoweredOff | Status::Stopped | Status::HungUp | Status::Saved => 0,
            Status::Failed { reason, .. } => *reason as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_status_is_told_apart_from_ours() {
        let guest = Status::Exited { code: 243 };
        let ours = Status::Failed { reason: Code::GuestPanic, message: "x".into() };
        assert_eq!((guest.exit_code(), ours.exit_code()), (243, 243));
        assert_eq!(serde_json::to_string(&guest).unwrap(), r#"{"ended":"exited","code":243}"#);
        let json = serde_json::to_string(&ours).unwrap();
        assert_eq!(json, r#"{"ended":"failed","reason":"guest-panic","message":"x"}"#);
        assert_eq!(Status::Signaled { signal: 9 }.exit_code(), 137);
    }
}
