//! What reached a guest from outside, and when: so that a run with live input can be repeated.
//!
//! With the virtual clock a guest that gets nothing from outside repeats by itself. Bytes that a person or
//! a pipe sends arrive when the host's clock wills; but the guest sees them only at a [`Moment`] between two
//! runs of its engine. There the machine's gate lets them through, and there it can write down what went
//! through, or let through what a log says instead and nothing else.
//!
//! ```text
//!   Live:    other threads ─▶ device's queue ─────────────────▶ guest
//!   Record:  other threads ─▶ InputPort::take ─▶ log, device ─▶ guest
//!   Replay:  log ─▶ InputPort::give ─▶ device ────────────────▶ guest     (real input is not looked at)
//! ```
//!
//! A replay that comes by a moment of the log without being there, or that ends elsewhere than the recorded
//! run, has gone another way; it says so and ends ([`End::InputLog`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::inbox::Wake;
use crate::outcome::End;

mod error;
mod file;
mod serial;
#[cfg(test)]
mod tests;

pub use error::InputLogError;
pub use file::{Reader, Settings, Writer};
pub(crate) use serial::SerialInput;

/// What is done about input from outside.
pub enum Inputs {
    /// It reaches the guest, and is forgotten.
    Live,
    /// It reaches the guest, and is written down. Virtual clock only, and only what comes through an
    /// [`InputPort`] is known; other devices with threads of their own must not be there.
    Record(Writer),
    /// What was written down reaches the guest, and nothing else.
    Replay(Reader),
}

/// A device's way in for bytes from outside. Called on the CPU's thread.
pub trait InputPort: Send {
    /// Lets through what other threads have brought, for the device to find when it is next serviced, and
    /// returns it. Nothing else lets anything through.
    fn take(&mut self) -> Vec<u8>;

    /// Lets through what `take` returned in another run. The bytes are from a file; where they make no sense
    /// the text says why.
    fn give(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// A point of a run at which input may be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Instructions executed, of all CPUs.
    pub instructions: u64,
    /// Guest time, in nanoseconds.
    pub guest_ns: u64,
    /// Whether all CPUs were halted.
    pub idle: bool,
}

impl Moment {
    pub(crate) fn new(instructions: Option<u64>, now: Duration, idle: bool) -> Moment {
        let guest_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Moment { instructions: instructions.unwrap_or_default(), guest_ns, idle }
    }

    /// What grows from moment to moment.
    fn counts(&self) -> (u64, u64) {
        (self.instructions, self.guest_ns)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "instruction {} ({} ns of guest time)", self.instructions, self.guest_ns)
    }
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// The guest was told that there is input; which, by port.
    Input { at: Moment, work: bool, inputs: Vec<(u8, Vec<u8>)> },
    /// The run was over. A log of a process that was killed has none.
    End { at: Moment, how: HowEnded },
}

impl Entry {
    fn at(&self) -> Moment {
        match self {
            Entry::Input { at, .. } | Entry::End { at, .. } => *at,
        }
    }
}

/// Why a recorded run was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HowEnded {
    /// The guest's own doing: a replay ends there by itself.
    ByItself,
    /// Somebody stopped it.
    Stopped,
    /// Its wall time was over.
    Timeout,
}

/// Where input goes through, of one machine.
pub(crate) struct Gate {
    inputs: Inputs,
    ports: Vec<Box<dyn InputPort>>,
    /// Why the run is to end.
    end: Option<End>,
}

impl Gate {
    pub(crate) fn new(inputs: Inputs) -> Gate {
        Gate { inputs, ports: Vec::new(), end: None }
    }

    /// Whether bytes come through ports at all.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.inputs, Inputs::Live)
    }

    /// Whether nobody outside is listened to.
    pub(crate) fn is_replay(&self) -> bool {
        matches!(self.inputs, Inputs::Replay(_))
    }

    /// Adds a port; their order is their name in the log.
    pub(crate) fn add(&mut self, port: Box<dyn InputPort>) {
        self.ports.push(port);
    }

    /// Why the run is to end, if the log says so.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.clone()
    }

    /// At a moment at which input may be let in: what the devices are to be told. `wake` is what other
    /// threads said.
    pub(crate) fn open(&mut self, at: Moment, wake: Option<Wake>) -> Option<Wake> {
        match &mut self.inputs {
            Inputs::Live => wake,
            Inputs::Record(log) => {
                let wake = wake?;
                let taken = (0..).zip(&mut self.ports).map(|(number, port)| (number, port.take()));
                let inputs = taken.filter(|(_, bytes)| !bytes.is_empty()).collect();
                if let Err(error) = log.write(&Entry::Input { at, work: wake.work, inputs }) {
                    self.end.get_or_insert(End::InputLog(error.chain()));
                }
                Some(wake)
            }
            Inputs::Replay(_) => self.replay(at).unwrap_or_else(|end| {
                self.end.get_or_insert(end);
                None
            }),
        }
    }

    /// In a replay: nothing but input can make anything happen in the guest now, and `open` had none.
    pub(crate) fn starve(&mut self, at: Moment) {
        if let Inputs::Replay(log) = &self.inputs
            && self.end.is_none()
        {
            let then = log.next().map(|entry| format!("; the next of it is for {}", entry.at()));
            let then = then.unwrap_or_default();
            self.end = Some(strayed(format!("at {at} the guest waits for input{then}")));
        }
    }

    /// The run is over at `at`. What is to be said instead, if the log says that it should not be.
    pub(crate) fn finish(&mut self, at: Moment, end: &End) -> Option<End> {
        let how = match end {
            End::InputLog(_) => return None,
            End::Stopped => HowEnded::Stopped,
            End::Timeout => HowEnded::Timeout,
            _ => HowEnded::ByItself,
        };
        match &mut self.inputs {
            Inputs::Live => None,
            Inputs::Record(log) => {
                log.write(&Entry::End { at, how }).err().map(|error| End::InputLog(error.chain()))
            }
            // Ended by the log, or by somebody who had seen enough.
            Inputs::Replay(_) if how != HowEnded::ByItself => None,
            Inputs::Replay(log) => match log.next() {
                Some(Entry::End { at: then, how: HowEnded::ByItself }) if then.counts() == at.counts() => {
                    None
                }
                Some(Entry::End { at: then, .. }) => {
                    Some(strayed(format!("it ended at {at}, the recorded one at {then}")))
                }
                Some(Entry::Input { at: then, .. }) => {
                    Some(strayed(format!("it ended at {at}, before input of {then}")))
                }
                None => Some(strayed(format!("it ended at {at}, and the recorded one had not"))),
            },
        }
    }

    fn replay(&mut self, at: Moment) -> Result<Option<Wake>, End> {
        let Inputs::Replay(log) = &mut self.inputs else { return Ok(None) };
        let passed = |then: &Moment| at.counts() > then.counts();
        match log.next() {
            Some(Entry::Input { at: then, .. }) if *then == at => {}
            Some(Entry::Input { at: then, .. }) if passed(then) => {
                return Err(strayed(format!("at {at} it had not been at {then}, where there was input")));
            }
            Some(Entry::End { at: then, how: HowEnded::ByItself }) if passed(then) => {
                return Err(strayed(format!("at {at} it goes on, the recorded one ended at {then}")));
            }
            Some(Entry::End { at: then, how }) if at.counts() >= then.counts() => match how {
                HowEnded::ByItself => return Ok(None),
                HowEnded::Stopped => return Err(End::Stopped),
                HowEnded::Timeout => return Err(End::Timeout),
            },
            Some(_) => return Ok(None),
            // Its process was killed, and nobody knows when.
            None => return Err(End::Stopped),
        }
        let unusable = |problem: &dyn std::fmt::Display| End::InputLog(problem.to_string());
        let entry = log.advance().map_err(|error| unusable(&error.chain()))?;
        let Some(Entry::Input { work, inputs, .. }) = entry else { return Ok(None) };
        for (number, bytes) in inputs {
            let port = self.ports.get_mut(usize::from(number));
            let port = port.ok_or_else(|| unusable(&"it has input of a device that is not there"))?;
            port.give(&bytes).map_err(|problem| unusable(&problem))?;
        }
        Ok(Some(Wake { work }))
    }
}

/// A replay that is not the recorded run.
fn strayed(how: String) -> End {
    End::InputLog(format!(
        "the replay went another way than the recorded run: {how}; was it recorded by another build of bindervm?"
    ))
}
