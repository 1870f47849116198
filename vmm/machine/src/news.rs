//! What goes wrong in a guest, told when it does.

use std::collections::{BTreeMap, BTreeSet};

use engine::Engine;

use crate::bus::Board;
use crate::console::ConsoleLog;
use crate::outcome::End;

/// A guest can make devices fail again and again: that many different failures are told.
const MAX_FAILURES: usize = 100;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The kernel says that it panicked, and why. Told once.
    Panic(String),
    /// A device gave up on its driver, or failed by itself: which, and why.
    DeviceFailed(String),
    /// The software CPU lacks this instruction. Told when it was executed first, and once more at the end of
    /// the run where it was executed again.
    MissingInstruction {
        /// Its mnemonic.
        instruction: String,
        /// How often it was executed so far.
        count: u64,
    },
}

/// Whom to tell, and what was told.
pub(crate) struct Watch {
    tell: Box<dyn FnMut(News) + Send>,
    panicked: bool,
    failures: BTreeSet<String>,
    missing: BTreeMap<String, u64>,
}

impl Watch {
    pub(crate) fn new(tell: Box<dyn FnMut(News) + Send>) -> Watch {
        Watch { tell, panicked: false, failures: BTreeSet::new(), missing: BTreeMap::new() }
    }

    /// Looks after the engine returned. It does so thousands of times a second.
    pub(crate) fn look(&mut self, log: &ConsoleLog, board: &mut Board, engine: &Engine) {
        if !self.panicked
            && let Some(panic) = log.panic()
        {
            self.panic(panic.message);
        }
        if board.has_failures() {
            self.devices(board);
        }
        if engine.missing_instructions() > self.missing.len() {
            self.instructions(engine, false);
        }
    }

    /// The run is over.
    pub(crate) fn finish(&mut self, end: &End, board: &mut Board, engine: &Engine) {
        if let End::Panic(message) = end
            && !self.panicked
        {
            self.panic(message.clone());
        }
        self.devices(board);
        self.instructions(engine, true);
    }

    fn panic(&mut self, message: String) {
        self.panicked = true;
        (self.tell)(News::Panic(message));
    }

    fn devices(&mut self, board: &mut Board) {
        for reason in board.failures() {
            if self.failures.len() < MAX_FAILURES && self.failures.insert(reason.clone()) {
                (self.tell)(News::DeviceFailed(reason));
            }
        }
    }

    /// Those that were not told, and with `again` those that were executed since.
    fn instructions(&mut self, engine: &Engine, again: bool) {
        for (instruction, count) in engine.stats().into_iter().flat_map(|stats| stats.unknown) {
            let told = self.missing.get(&instruction);
            if told.is_none() || (again && told != Some(&count)) {
                self.missing.insert(instruction.clone(), count);
                (self.tell)(News::MissingInstruction { instruction, count });
            }
        }
    }
}
