//! What happens in a run, for programs that look on: one JSON object a line, from `bindervm run --events`
//! and `bindervm events`.
//!
//! `schema/events.schema.json` is the contract: names and meanings stay, events and fields may be added.
//! Times are integers, in nanoseconds of the guest and milliseconds of the host. What is not known is absent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::Exited;

/// The schema of a line, as JSON Schema (draft 2020-12).
pub const SCHEMA: &str = include_str!("../schema/events.schema.json");

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Guest time since power-on.
    pub guest_ns: u64,
    /// Wall time since the run began.
    pub wall_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The guest is about to execute its first instruction, or the first after its restore.
    MachineStart(Start),
    /// The guest takes commands.
    AgentReady,
    /// The agent is gone: no more is heard of commands.
    AgentLost {
        /// Why.
        reason: String,
    },
    /// The agent complains.
    GuestProblem {
        /// In its words.
        text: String,
    },
    /// A command runs.
    CommandStart {
        /// Its number in this run.
        command: u32,
        /// Its process id in the guest.
        pid: u32,
    },
    /// A command ended.
    CommandExit {
        /// Its number in this run.
        command: u32,
        /// How.
        status: Exited,
    },
    /// A command did not start.
    CommandFailed {
        /// Its number in this run.
        command: u32,
        /// Linux's error number.
        errno: i32,
        /// What was tried, and the error in words.
        text: String,
    },
    /// The guest was saved, or should have been.
    Snapshot {
        /// The file.
        path: String,
        /// Why it was not made, if it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Counters since power-on, where they were asked for.
    Metrics(Counters),
    /// The guest's kernel panicked; told when it says so.
    GuestPanic {
        /// The kernel's reason.
        message: String,
    },
    /// A device gave up on its driver, or failed by itself; told when it does.
    DeviceFailed {
        /// Which, and why.
        reason: String,
    },
    /// The software CPU lacks an instruction that the guest executed: told when it did first, and once more at
    /// the end of the run where it did again.
    MissingInstruction {
        /// Its mnemonic.
        instruction: String,
        /// How often so far.
        count: u64,
    },
    /// The run is over. The last line.
    End {
        /// Exit status of the process that ran the guest.
        exit_code: u8,
        /// What `--status` writes.
        status: serde_json::Value,
    },
}

/// Which guest, and how it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// Its name.
    pub guest: String,
    /// Process that runs it.
    pub pid: u32,
    /// Image, if one was booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `soft` or `kvm`.
    pub engine: String,
    /// `virtual` or `host`.
    pub clock: String,
    /// Its memory, in bytes.
    pub memory: u64,
    /// Its CPUs.
    pub cpus: u8,
    /// Whether it goes on from a snapshot.
    pub restored: bool,
}

/// Counters since power-on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// Guest instructions, where the engine counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// How often the engine returned, by reason.
    pub exits: serde_json::Value,
    /// Accesses to devices, by kind.
    pub accesses: serde_json::Value,
    /// The binder device's counters.
    pub binder: serde_json::Value,
    /// Objects of the guest in the binder core now; none with the kernel's own driver.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub objects: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_that_of_the_types() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Line)).unwrap() + "\n";
        if std::env::var_os("BINDERVM_WRITE_SCHEMA").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/events.schema.json");
            std::fs::write(path, &schema).unwrap();
        }
        assert!(SCHEMA == schema, "run this test with BINDERVM_WRITE_SCHEMA=1 and look at the difference");
    }

    #[test]
    fn lines_are_the_documented_json() {
        let line = Line {
            guest_ns: 5,
            wall_ms: 7,
            event: Event::CommandExit { command: 1, status: Exited::Code(3) },
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"guest_ns":5,"wall_ms":7,"event":"command-exit","command":1,"status":{"code":3}}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        let text = serde_json::to_string(&Line { event: Event::AgentReady, ..line }).unwrap();
        assert_eq!(text, r#"{"guest_ns":5,"wall_ms":7,"event":"agent-ready"}"#);
    }
}
