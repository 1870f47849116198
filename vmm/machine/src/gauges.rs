//! How far a running machine is, for those who look on.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::AccessCounts;
use crate::outcome::ExitCounts;

/// Counters of a machine, as of the last time that its CPU came out of the engine. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Mutex<Reading>>);

/// What the counters were at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Guest instructions, where the engine counts them.
    pub instructions: Option<u64>,
    /// Returns of the engine before that one.
    pub exits: ExitCounts,
    /// Accesses to devices.
    pub accesses: AccessCounts,
}

impl Gauges {
    /// What they show now.
    pub fn read(&self) -> Reading {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self, instructions: Option<u64>, exits: ExitCounts, accesses: AccessCounts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading { instructions, exits, accesses };
    }
}
