//! `transactions`: what is under way (B427); the two logs of sends that ended (B430 to B432).

use std::fmt::{self, Write};

use crate::domain::Domain;
use crate::logs::lines::Printer;
use crate::logs::{LogEntry, LogKind, LogRing, Scope, name};

/// Only processes and threads with something in flight.
pub fn transactions(domain: &Domain, scope: Scope, hashed: bool, out: &mut dyn Write) -> fmt::Result {
    out.write_str("binder transactions:\n")?;
    let mut printer = Printer { domain, scope, hashed, out };
    domain.listed(scope).try_for_each(|proc| printer.proc(proc, false))
}

/// The last sends of each guest.
pub fn transaction_log(domain: &Domain, scope: Scope, out: &mut dyn Write) -> fmt::Result {
    let guests = domain.guests.iter().filter(|(id, _)| scope.covers(**id));
    guests.map(|(_, guest)| &guest.log).try_for_each(|ring| entries(ring, out))
}

/// The last sends of each guest that failed.
pub fn failed_transaction_log(domain: &Domain, scope: Scope, out: &mut dyn Write) -> fmt::Result {
    let guests = domain.guests.iter().filter(|(id, _)| scope.covers(**id));
    guests.map(|(_, guest)| &guest.failed_log).try_for_each(|ring| entries(ring, out))
}

fn entries(ring: &LogRing, out: &mut dyn Write) -> fmt::Result {
    ring.iter().try_for_each(|LogEntry { context: _, name: context, send }| {
        let kind = match send.kind {
            LogKind::Call => "call ",
            LogKind::Async => "async",
            LogKind::Reply => "reply",
        };
        // The kernel keeps handle and sizes as int, and the line of its own source: we have none.
        writeln!(
            out,
            "{}: {kind} from {}:{} to {}:{} context {} node {} handle {} size {}:{} ret {}/{} l=0{}",
            send.id,
            send.from.0,
            send.from.1,
            send.to.0,
            send.to.1,
            name(context),
            send.node,
            send.handle as i32,
            send.data_size as i32,
            send.offsets_size as i32,
            send.result,
            send.errno.0,
            if send.complete { "" } else { " (incomplete)" },
        )
    })
}
