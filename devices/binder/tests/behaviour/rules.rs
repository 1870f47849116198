//! Worlds with faults.

use binder::TraceEvent;
use binder::faults::{ALWAYS, Action, Faults, Kind, Rule};
use binder::trace::FaultKind;

use crate::trio::*;
use crate::world::*;

/// A rule for the first transaction of a kind.
pub fn rule(kind: Kind, action: Action) -> Rule {
    Rule {
        kind,
        code: None,
        interface: None,
        manager: None,
        sender: None,
        receiver: None,
        skip: 0,
        times: 1,
        chance: ALWAYS,
        action,
    }
}

/// Manager, owner and client under these rules.
pub fn with(rules: Vec<Rule>) -> Trio {
    let mut trio = trio();
    trio.w.domain.set_faults(Some(Faults::new(rules, false, 1).unwrap()));
    trio
}

/// What was done to transactions so far.
pub fn injected(w: &World) -> Vec<FaultKind> {
    let faults = w.trace.iter().filter_map(|event| match event {
        TraceEvent::Fault { fault, .. } => Some(*fault),
        _ => None,
    });
    faults.collect()
}
