//! One line an event or a call, in the manner of strace.
//!
//! ```text
//!      0.442586967 g0 demo_client 87/87 BC_TRANSACTION handle=0 code=2 flags=ACCEPT_FDS data=92 offsets=0 at=0x7f..
//!      0.442586967 g0 demo_client 87/87 -> servicemanager 84/84 android.os.IServiceManager.checkService(name="x")
//!          = binder(node 29) <total 25us, queue 8us, service 9us> handle=0 node=1 code=2 size=92 reply_size=40
//! ```
//!
//! (a call is on one line). Guest time in seconds, guest, process name, pid/tid, then what happened.
//! What is not known is not there.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::aidl::Table;
use crate::constants::{STATUS_CODE, flags};
use crate::event::{Value, objects};
use crate::item::Event;
use crate::model::{Call, Model, Outcome, Peer};
use crate::recording::Lost;

/// What lines show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Host times stand beside guest times.
    pub host_times: bool,
}

/// The line of an event, without a line end.
pub fn event(event: &Event, style: Style) -> String {
    let mut line = head(event.at, event.host, &event.guest, style);
    let described = &event.described;
    if let Some(process) = &event.process {
        put(&mut line, format_args!(" {process}"));
    }
    match (event.pid, described.tid) {
        (Some(pid), Some(tid)) => put(&mut line, format_args!(" {pid}/{tid}")),
        (Some(pid), None) => put(&mut line, format_args!(" {pid}")),
        (None, Some(tid)) => put(&mut line, format_args!(" -/{tid}")),
        (None, None) => {}
    }
    if let Some(proc) = described.proc {
        put(&mut line, format_args!(" p{proc}"));
    }
    // A command or return says by its name what it is.
    match &described.cmd {
        Some(cmd) if matches!(described.event, "command" | "return") => {
            put(&mut line, format_args!(" {cmd}"))
        }
        Some(cmd) => put(&mut line, format_args!(" {} {cmd}", described.event)),
        None => put(&mut line, format_args!(" {}", described.event)),
    }
    if let Some((interface, method)) = &event.method {
        let interface = interface.as_deref().unwrap_or("?");
        put(&mut line, format_args!(" {interface}.{method}"));
    }
    for (name, value) in &described.fields {
        match value {
            Value::Number(value) => put(&mut line, format_args!(" {name}={value}")),
            Value::Hex(value) => put(&mut line, format_args!(" {name}={value:#x}")),
            Value::Text(value) => put(&mut line, format_args!(" {name}={value}")),
            Value::Bool(value) => put(&mut line, format_args!(" {name}={value}")),
        }
    }
    if let Some(service) = &event.service {
        put(&mut line, format_args!(" service={service}"));
    }
    line
}

/// The line that stands where something is missing, without a line end.
pub fn lost(model: &Model, lost: &Lost) -> String {
    let of = lost.guest.map_or_else(String::new, |guest| format!(" of {}", model.guest(guest)));
    format!("... {lost}{of} lost ...")
}

/// The line of a call, without a line end.
pub fn call(call: &Call, table: &Table, style: Style) -> String {
    let record = &call.record;
    let mut line = head(call.sent, call.host, &call.guest, style);
    line.push(' ');
    line.extend(std::iter::repeat_n("  ", call.depth.min(16) as usize));
    peer(&mut line, call, &call.client);
    line.push_str(if record.oneway { " => " } else { " -> " });
    match &call.server {
        Some(server) => peer(&mut line, call, server),
        None => line.push_str("nobody"),
    }
    let interface = call.interface.as_deref().unwrap_or("?");
    put(&mut line, format_args!(" {interface}.{}(", call.method_label()));
    if let Some(arguments) = call.arguments(table) {
        put(&mut line, format_args!("{arguments}"));
    } else if record.code <= 0x00ff_ffff && record.data_size > 0 {
        line.push_str("...");
    }
    line.push_str(") = ");
    result(&mut line, call, table);
    let times = [("total", call.duration()), ("queue", call.queued()), ("service", call.served())];
    let times: Vec<String> =
        times.iter().filter_map(|(name, time)| Some(format!("{name} {}", short((*time)?)))).collect();
    if !times.is_empty() {
        put(&mut line, format_args!(" <{}>", times.join(", ")));
    }
    put(&mut line, format_args!(" id={} handle={}", record.id, record.handle));
    if let Some(node) = record.node {
        put(&mut line, format_args!(" node={node}"));
    }
    if let Some(service) = &call.service {
        put(&mut line, format_args!(" service={service}"));
    }
    put(&mut line, format_args!(" code={} flags={} size={}", record.code, flags(record.flags), call.size()));
    if !record.objects.is_empty() {
        put(&mut line, format_args!(" objects={}", objects(&record.objects)));
    }
    if let Some(reply) = &call.reply {
        put(&mut line, format_args!(" reply_size={}", call.reply_size().unwrap_or(0)));
        if !reply.record.objects.is_empty() {
            put(&mut line, format_args!(" reply_objects={}", objects(&reply.record.objects)));
        }
    }
    if let Some(parent) = call.parent {
        put(&mut line, format_args!(" in={parent}"));
    }
    line
}

fn result(line: &mut String, call: &Call, table: &Table) {
    let is_status = call.reply.as_ref().is_some_and(|reply| reply.record.flags & STATUS_CODE != 0);
    match &call.outcome {
        Outcome::Ok => match call.result_values(table) {
            Some(values) if !values.values.is_empty() || values.rest.is_some() => {
                put(line, format_args!("{values}"));
            }
            // It may carry an exception, which only who knows the method can tell from its values.
            None if call.reply.is_some() && !is_status => line.push_str("replied"),
            _ => line.push_str("ok"),
        },
        Outcome::Failed(_, errno) => put(line, format_args!("{} (errno {errno})", call.result())),
        Outcome::Exception(exception) => put(line, format_args!("{exception}")),
        Outcome::Open | Outcome::Unknown | Outcome::Status(_) => line.push_str(&call.result()),
    }
}

fn peer(line: &mut String, call: &Call, peer: &Peer) {
    if peer.guest_name != call.guest {
        put(line, format_args!("{}: ", peer.guest_name));
    }
    if let Some(process) = &peer.process {
        put(line, format_args!("{process} "));
    }
    put(line, format_args!("{}/{}", peer.party.pid, peer.party.tid));
}

fn head(at: Duration, host: Option<Duration>, guest: &Arc<str>, style: Style) -> String {
    let mut line = time(at);
    if style.host_times {
        match host {
            Some(host) => put(&mut line, format_args!(" [{}.{:09}]", host.as_secs(), host.subsec_nanos())),
            None => line.push_str(" [-]"),
        }
    }
    put(&mut line, format_args!(" {guest}"));
    line
}

/// Guest time as seconds with nine places, right-aligned for runs of up to 11 days.
pub fn time(at: Duration) -> String {
    format!("{:6}.{:09}", at.as_secs(), at.subsec_nanos())
}

/// A span of time with three digits or so.
pub fn short(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        0..10_000 => format!("{}ns", nanos),
        10_000..10_000_000 => format!("{}us", nanos / 1_000),
        10_000_000..10_000_000_000 => format!("{}ms", nanos / 1_000_000),
        _ => format!("{:.1}s", time.as_secs_f64()),
    }
}

fn put(line: &mut String, text: fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a String takes any text");
}
