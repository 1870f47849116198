//! `state` and `proc/PID`: every process with all that belongs to it (B419 to B423, B418).

use std::fmt::{self, Write};

use crate::domain::Domain;
use crate::ids::Pid;
use crate::logs::Scope;
use crate::logs::lines::Printer;
use crate::node::Node;

/// Everything: dead nodes, then the processes. `hashed` hides the pointers that nodes carry.
pub fn state(domain: &Domain, scope: Scope, hashed: bool, out: &mut dyn Write) -> fmt::Result {
    out.write_str("binder state:\n")?;
    let mut dead: Vec<&Node> =
        domain.nodes.iter().filter(|node| node.died > 0 && scope.covers(node.guest)).collect();
    // The one whose owner died last comes first.
    dead.sort_by_key(|node| std::cmp::Reverse(node.died));
    let mut printer = Printer { domain, scope, hashed, out };
    if !dead.is_empty() {
        printer.out.write_str("dead nodes:\n")?;
    }
    dead.into_iter().try_for_each(|node| printer.node(node))?;
    domain.listed(scope).try_for_each(|proc| printer.proc(proc, true))
}

/// The processes that a pid opened.
pub fn proc(domain: &Domain, scope: Scope, pid: Pid, out: &mut dyn Write) -> fmt::Result {
    let mut printer = Printer { domain, scope, hashed: false, out };
    domain.listed(scope).filter(|proc| proc.pid == pid).try_for_each(|proc| {
        printer.out.write_str("binder proc state:\n")?;
        printer.proc(proc, true)
    })
}
