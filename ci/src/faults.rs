//! Faults as a plan or a file of `bindervm run --faults` has them.
//!
//! ```toml
//! shuffle-loopers = true
//! [[rules]]
//! interface = "android.os.IServiceManager"
//! receiver = "servicemanager"
//! nth = 2
//! action = "dead-reply"
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use binder::Errno;
use binder::faults::{ALWAYS, Action, Faults, Impossible, Kind, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most bytes of a file.
const MAX_FILE: u64 = 1 << 20;

/// Faults that are injected into binder. The guest's seed decides where chance does.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FaultsEntry {
    /// Any of a process's waiting threads takes work, not always the one that waits for the shortest time.
    #[serde(default)]
    pub shuffle_loopers: bool,
    /// What happens to which transactions. Each rule is looked at in order; the first that fails a
    /// transaction is the last.
    #[serde(default)]
    pub rules: Vec<FaultEntry>,
}

/// A rule: which transactions, and what happens to them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FaultEntry {
    /// `call`, `oneway`, `reply`, or `freeze`. Default: call.
    #[serde(default)]
    pub on: On,
    /// Name of the interface: a string in the first 512 bytes of the payload, as libbinder writes it.
    pub interface: Option<String>,
    /// Code of the method.
    pub code: Option<u32>,
    /// To (of a reply: from) the context manager, or to others.
    pub manager: Option<bool>,
    /// Name of the sending process, of at most 15 characters.
    pub sender: Option<String>,
    /// Name of the receiving process.
    pub receiver: Option<String>,
    /// The first of those that fit that it happens to. Default: 1.
    #[schemars(range(min = 1))]
    pub nth: Option<u32>,
    /// How often it happens at most. Default: 1.
    #[schemars(range(min = 1))]
    pub times: Option<u32>,
    /// How likely each time is, more than 0 to 1. Default: 1.
    pub chance: Option<f64>,
    /// What happens.
    pub action: ActionEntry,
    /// With `failed-reply`: the error that BINDER_GET_EXTENDED_ERROR tells. Default: einval.
    pub errno: Option<ErrnoEntry>,
    /// With `freeze-receiver`: it is thawed by this many more transactions that fit. Default: 1.
    #[schemars(range(min = 1))]
    pub thaw_after: Option<u32>,
    /// With `delay`: it is delivered after this many more transactions that fit. Default: 1.
    #[schemars(range(min = 1))]
    pub deliver_after: Option<u32>,
    /// With `exhaust`: this many sends find the buffer full. Default: 1.
    #[schemars(range(min = 1))]
    pub free_after: Option<u32>,
}

/// A kind of transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// Its sender waits for an answer.
    #[default]
    Call,
    /// Nobody waits.
    Oneway,
    /// The answer to a call.
    Reply,
    /// No transaction: a BINDER_FREEZE that has to wait; `receiver` is whom it is to freeze.
    Freeze,
}

/// What happens to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActionEntry {
    /// It fails: BR_FAILED_REPLY.
    FailedReply,
    /// It fails as if the receiver had just died: BR_DEAD_REPLY.
    DeadReply,
    /// It fails as if the receiver were frozen: BR_FROZEN_REPLY. For calls.
    FrozenReply,
    /// It fails as if the receiver's buffer were full: BR_FAILED_REPLY, ENOSPC.
    NoSpace,
    /// The sender's wait for the answer ends with EINTR, as by a signal. For calls.
    Interrupt,
    /// The receiver gets it, and is killed before it can answer.
    KillReceiver,
    /// The sender is killed when it was sent.
    KillSender,
    /// The receiver is frozen, unless it is busy. For calls.
    FreezeReceiver,
    /// The sender is stopped and continued by real signals while it waits. For calls and freezes.
    SignalSender,
    /// It is delivered late, and so are later ones of the same node. For oneways.
    Delay,
    /// It is delivered after the next transaction for the receiver that may pass it. For oneways.
    Reorder,
    /// The receiver's buffer is full from now on: later sends fail with ENOSPC.
    Exhaust,
}

/// An error that the driver gives for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ErrnoEntry {
    Einval,
    Eperm,
    Enomem,
    Enospc,
    Efault,
    Eproto,
    Ebadf,
}

/// Faults cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A rule makes no sense.
    #[error("rule {number}: {what}")]
    Rule {
        /// From 1.
        number: usize,
        /// What is wrong.
        what: String,
    },
}

/// Reads a file.
pub fn load(path: &Path) -> Result<FaultsEntry, FaultsError> {
    let read = |source| FaultsError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(read)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(read(io::Error::other("it is no regular file of at most 1 MiB")));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    let malformed = |source| FaultsError::Malformed { path: path.to_owned(), source: Box::new(source) };
    toml::from_str(&text).map_err(malformed)
}

impl FaultsEntry {
    /// What the core takes.
    pub fn resolve(&self, seed: u64) -> Result<Faults, FaultsError> {
        let rules =
            self.rules.iter().enumerate().map(|(index, entry)| {
                entry.rule().map_err(|what| FaultsError::Rule { number: index + 1, what })
            });
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        Faults::new(rules, self.shuffle_loopers, seed).map_err(|(index, why): (usize, Impossible)| {
            FaultsError::Rule { number: index + 1, what: why.to_string() }
        })
    }
}

impl FaultEntry {
    fn rule(&self) -> Result<Rule, String> {
        if self.errno.is_some() && self.action != ActionEntry::FailedReply {
            return Err("errno goes with failed-reply".to_owned());
        }
        if self.thaw_after.is_some() && self.action != ActionEntry::FreezeReceiver {
            return Err("thaw-after goes with freeze-receiver".to_owned());
        }
        if self.deliver_after.is_some() && self.action != ActionEntry::Delay {
            return Err("deliver-after goes with delay".to_owned());
        }
        if self.free_after.is_some() && self.action != ActionEntry::Exhaust {
            return Err("free-after goes with exhaust".to_owned());
        }
        if [self.nth, self.thaw_after, self.deliver_after, self.free_after].contains(&Some(0)) {
            return Err("nth, thaw-after, deliver-after and free-after count from 1".to_owned());
        }
        let chance = self.chance.unwrap_or(1.0);
        if !(chance > 0.0 && chance <= 1.0) {
            return Err(format!("chance must be more than 0 to 1, not {chance}"));
        }
        Ok(Rule {
            kind: match self.on {
                On::Call => Kind::Call,
                On::Oneway => Kind::Oneway,
                On::Reply => Kind::Reply,
                On::Freeze => Kind::Freeze,
            },
            code: self.code,
            interface: self.interface.clone(),
            manager: self.manager,
            sender: self.sender.clone(),
            receiver: self.receiver.clone(),
            skip: self.nth.unwrap_or(1) - 1,
            times: self.times.unwrap_or(1),
            // The smallest chance that there is, for one that is smaller.
            chance: ((chance * f64::from(ALWAYS)) as u32).max(1),
            action: match self.action {
                ActionEntry::FailedReply => Action::Failed(self.errno.unwrap_or(ErrnoEntry::Einval).value()),
                ActionEntry::DeadReply => Action::Dead,
                ActionEntry::FrozenReply => Action::Frozen,
                ActionEntry::NoSpace => Action::Failed(Errno::ENOSPC),
                ActionEntry::Interrupt => Action::Interrupt,
                ActionEntry::KillReceiver => Action::KillReceiver,
                ActionEntry::KillSender => Action::KillSender,
                ActionEntry::FreezeReceiver => Action::Freeze(self.thaw_after.unwrap_or(1)),
                ActionEntry::SignalSender => Action::SignalSender,
                ActionEntry::Delay => Action::Delay(self.deliver_after.unwrap_or(1)),
                ActionEntry::Reorder => Action::Reorder,
                ActionEntry::Exhaust => Action::Exhaust(self.free_after.unwrap_or(1)),
            },
        })
    }
}

impl ErrnoEntry {
    fn value(self) -> Errno {
        match self {
            ErrnoEntry::Einval => Errno::EINVAL,
            ErrnoEntry::Eperm => Errno::EPERM,
            ErrnoEntry::Enomem => Errno::ENOMEM,
            ErrnoEntry::Enospc => Errno::ENOSPC,
            ErrnoEntry::Efault => Errno::EFAULT,
            ErrnoEntry::Eproto => Errno::EPROTO,
            ErrnoEntry::Ebadf => Errno::EBADF,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Result<Faults, FaultsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(file.path())?.resolve(1)
    }

    #[test]
    fn what_could_never_happen_is_refused() {
        assert_eq!(faults("[[rules]]\naction = \"no-space\"\n").unwrap().counts().len(), 1);
        for (text, expected) in [
            ("[[rules]]\naction = \"explode\"\n", "unknown variant `explode`"),
            ("[[rules]]\nacton = \"no-space\"\n", "unknown field `acton`"),
            ("[[rules]]\non = \"oneway\"\naction = \"frozen-reply\"\n", "rule 1: only calls"),
            ("[[rules]]\nchance = 1.5\naction = \"no-space\"\n", "chance must be"),
            ("[[rules]]\nchance = nan\naction = \"no-space\"\n", "chance must be"),
            ("[[rules]]\nnth = 0\naction = \"no-space\"\n", "count from 1"),
            ("[[rules]]\ntimes = 0\naction = \"no-space\"\n", "it never happens"),
            ("[[rules]]\nerrno = \"eperm\"\naction = \"no-space\"\n", "errno goes with"),
            ("[[rules]]\naction = \"delay\"\n", "rule 1: only what is oneway"),
            (
                "[[rules]]\naction = \"reorder\"\ndeliver-after = 2\non = \"oneway\"\n",
                "deliver-after goes with",
            ),
            ("[[rules]]\naction = \"exhaust\"\nfree-after = 0\n", "count from 1"),
            ("[[rules]]\non = \"freeze\"\naction = \"dead-reply\"\n", "rule 1: a freeze can only"),
            ("[[rules]]\non = \"oneway\"\naction = \"signal-sender\"\n", "rule 1: a freeze can only"),
        ] {
            let error = faults(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
