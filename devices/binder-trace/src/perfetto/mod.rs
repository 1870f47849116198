//! A trace for ui.perfetto.dev and trace_processor: slices, flows, process names, several guests.
//!
//! Written as a device's own trace looks: ftrace binder events, from which trace_processor's binder
//! tracker makes slices and flows, a process tree for names, and AIDL slices (atrace prints inside the
//! server's slice) for interface and method. What the tracker wants (USES.md A.4):
//!
//! - A clock snapshot comes first, without a machine, so that no guest is taken for the host.
//! - Every packet of a guest has its machine's number; its events ascend strictly in time.
//! - A synchronous call is `binder_transaction` at the client, `received` at the server, the reply's
//!   `binder_transaction` at the server with a new id, `received` of that at the client.
//! - A call that fails after it was accepted is closed by the `BR_*_REPLY` that the client reads; one
//!   that was refused before has no slice, as with the kernel's driver. Both are shown as instants on a
//!   track of their own.
//! - Slices of a thread close in the order of a stack: an AIDL slice ends before the reply.

pub mod proto;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use binder::protocol::tf;
use binder::trace::{Party, TraceEvent, TransactionRecord};
use binder::{DebugId, GuestId, Pid, ProcId, Tid};

use self::proto::{
    Message, alloc_buf, builtin_clock, bundle, clock, event_type, ftrace, packet, print, process_free,
    received, system, trace, track, track_event, transaction, tree, word,
};
use crate::Stamped;
use crate::constants::is_failure;
use crate::model::{Call, Model};
use crate::recording::{HostClock, Lost, Record};

/// Events of a bundle: large enough to be compact, small enough to be read in pieces.
const BUNDLE: usize = 512;

/// `SEQ_INCREMENTAL_STATE_CLEARED`.
const STATE_CLEARED: u64 = 1;

/// Writes a Perfetto trace.
pub struct Exporter<W> {
    out: W,
    guests: BTreeMap<u32, Guest>,
}

/// What was written of one guest.
struct Guest {
    machine: u32,
    /// Host time less guest time, if host times are used; else timestamps are guest times.
    last: u64,
    events: Message,
    pending: usize,
    known: BTreeSet<(Pid, Tid)>,
    names: BTreeMap<(Pid, Tid), Option<Arc<str>>>,
    /// Open files of each process.
    files: BTreeMap<ProcId, Pid>,
    /// AIDL slices that are open on a thread, the innermost last.
    slices: BTreeMap<Tid, Vec<Slice>>,
}

/// An open AIDL slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    call: DebugId,
    oneway: bool,
    /// Whose thread it is on.
    party: Party,
}

impl<W: Write> Exporter<W> {
    /// Begins a trace. `host` is the host's clocks at one moment, if timestamps are host times.
    pub fn new(mut out: W, host: Option<HostClock>) -> io::Result<Exporter<W>> {
        // Without host times all clocks are the guest's time since power-on.
        let zero =
            HostClock { boottime: Duration::ZERO, monotonic: Duration::ZERO, realtime: Duration::ZERO };
        let host = host.unwrap_or(zero);
        let reading = |id: u32, time: Duration| {
            Message::default().number(clock::ID, id.into()).number(clock::TIMESTAMP, nanos(time))
        };
        let snapshot = Message::default()
            .message(clock::CLOCKS, reading(builtin_clock::BOOTTIME, host.boottime))
            .message(clock::CLOCKS, reading(builtin_clock::MONOTONIC, host.monotonic))
            .message(clock::CLOCKS, reading(builtin_clock::REALTIME, host.realtime))
            .number(clock::PRIMARY, builtin_clock::BOOTTIME.into());
        let first = Message::default()
            .message(packet::CLOCK_SNAPSHOT, snapshot)
            .number(packet::SEQUENCE, 1)
            .number(packet::SEQUENCE_FLAGS, STATE_CLEARED);
        write(&mut out, first)?;
        Ok(Exporter { out, guests: BTreeMap::new() })
    }

    /// Writes what a record tells. `model` took it already; `ended` is the call that it ended.
    /// `picked` says whether a call is to be written; its commands are written always.
    pub fn record(
        &mut self,
        model: &Model,
        record: &Record,
        ended: Option<&Call>,
        picked: impl Fn(&Call) -> bool,
    ) -> io::Result<()> {
        let event = match record {
            Record::Event(event) => event,
            Record::Lost(lost) => return self.lost(model, lost),
            _ => return Ok(()),
        };
        let id = model.home(event, proc_of(&event.event));
        let (out, guest) = self.guest(model, id)?;
        guest.event(out, model, id, event, ended, picked)
    }

    /// Something is missing from here on: what is open has no end that is known, and ends with what was seen last.
    fn lost(&mut self, model: &Model, lost: &Lost) -> io::Result<()> {
        // Behind their AIDL slices, and in any order: all slices of a thread end.
        for call in model.open_calls().filter(|call| !call.record.oneway) {
            let waits = call.reply.as_ref().is_none_or(|reply| reply.received.is_none());
            let serves = call.delivered.is_some() && call.reply.is_none();
            let server = call.server.as_ref().filter(|_| serves);
            for peer in server.into_iter().chain(waits.then_some(&call.client)) {
                if let Some(guest) = self.guests.get_mut(&model.machine(peer.guest)) {
                    guest.end(&mut self.out, model, peer.guest, guest.last, &peer.party)?;
                }
            }
        }
        for machine in model.machines() {
            if let Some(guest) = self.guests.get_mut(&machine) {
                guest.end_all(&mut self.out, model)?;
            }
        }
        let Some(id) = lost.guest else { return Ok(()) };
        let (out, guest) = self.guest(model, id)?;
        guest.lost(out, lost)
    }

    /// A guest, which is told of when it is first heard of.
    fn guest(&mut self, model: &Model, id: GuestId) -> io::Result<(&mut W, &mut Guest)> {
        let machine = model.machine(id);
        if let Entry::Vacant(entry) = self.guests.entry(machine) {
            entry.insert(Guest::new(machine));
            let name = model.guest(id);
            let system = Message::default()
                .message(system::UTSNAME, Message::default().text(system::SYSNAME, "Linux"))
                .text(system::MACHINE_NAME, &name);
            write(&mut self.out, guest_packet(machine).message(packet::SYSTEM_INFO, system))?;
            let failures = Message::default()
                .number(track::UUID, failure_track(machine))
                .text(track::NAME, &format!("{name}: binder failures"));
            let descriptor = guest_packet(machine)
                .number(packet::SEQUENCE_FLAGS, STATE_CLEARED)
                .message(packet::TRACK_DESCRIPTOR, failures);
            write(&mut self.out, descriptor)?;
        }
        Ok((&mut self.out, self.guests.get_mut(&machine).expect("it was put there")))
    }

    /// Writes what is pending.
    pub fn finish(mut self) -> io::Result<W> {
        for guest in self.guests.values_mut() {
            guest.flush(&mut self.out)?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn write(out: &mut impl Write, message: Message) -> io::Result<()> {
    out.write_all(Message::default().message(trace::PACKET, message).as_bytes())
}

/// A packet of a guest.
fn guest_packet(machine: u32) -> Message {
    Message::default()
        .number(packet::SEQUENCE, u64::from(machine) + 1)
        .number(packet::MACHINE, machine.into())
}

fn failure_track(machine: u32) -> u64 {
    0x6269_6e64_0000_0000 | u64::from(machine)
}

/// The file whose process an event is about.
fn proc_of(event: &TraceEvent) -> Option<ProcId> {
    match event {
        TraceEvent::ProcOpened { proc, .. }
        | TraceEvent::ProcReleased { proc }
        | TraceEvent::BufferFreed { proc, .. } => Some(*proc),
        TraceEvent::Command { thread, .. } | TraceEvent::Return { thread, .. } => Some(thread.proc),
        TraceEvent::Transaction(record) => Some(record.from.proc),
        TraceEvent::TransactionDelivered { to, .. } => Some(to.proc),
        _ => None,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Guest {
    fn new(machine: u32) -> Guest {
        Guest {
            machine,
            last: 0,
            events: Message::default(),
            pending: 0,
            known: BTreeSet::new(),
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            slices: BTreeMap::new(),
        }
    }

    fn event(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        id: GuestId,
        event: &Stamped,
        ended: Option<&Call>,
        picked: impl Fn(&Call) -> bool,
    ) -> io::Result<()> {
        let at = nanos(model.host_time().unwrap_or(event.at));
        // The call that a transaction's event belongs to.
        let call = |transaction: DebugId| {
            let of = |call: &&Call| {
                call.record.id == transaction
                    || call.reply.as_ref().is_some_and(|reply| reply.id == transaction)
            };
            ended.filter(of).or_else(|| model.open(transaction)).filter(|call| picked(call))
        };
        match &event.event {
            TraceEvent::ProcOpened { proc, pid, .. } => {
                self.files.insert(*proc, *pid);
                self.name(out, model, id, at, *pid, Tid(pid.0))?;
            }
            TraceEvent::ProcReleased { proc } => self.released(out, model, id, at, *proc)?,
            TraceEvent::Command { thread, command } => {
                let cmd = Message::default().number(word::CMD, command.code().into());
                self.ftrace(out, model, id, at, thread, ftrace::COMMAND, cmd)?;
            }
            TraceEvent::Return { thread, item } => {
                let cmd = Message::default().number(word::CMD, item.code().into());
                self.ftrace(out, model, id, at, thread, ftrace::RETURN, cmd)?;
            }
            TraceEvent::Transaction(record) => {
                if let Some(call) = call(record.id) {
                    self.sent(out, model, id, at, record, call)?;
                }
            }
            TraceEvent::TransactionDelivered { id: transaction, to, .. } => {
                if let Some(call) = call(*transaction) {
                    self.delivered(out, model, id, at, *transaction, to, call)?;
                }
            }
            TraceEvent::TransactionFailed { .. } => {
                if let Some(call) = ended.filter(|call| picked(call)) {
                    self.failure(out, at, call)?;
                }
            }
            TraceEvent::BufferFreed { id: transaction, .. } => {
                if let Some((party, name)) = ended.and_then(|call| Some((call.server.as_ref()?.party, call)))
                    && name.record.id == *transaction
                {
                    self.end_oneways(out, model, id, at, &party)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A call, oneway or reply was sent.
    fn sent(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        record: &TransactionRecord,
        call: &Call,
    ) -> io::Result<()> {
        let is_reply = record.reply_to.is_some();
        if is_reply {
            self.end_slice(out, model, guest, at, &record.from, call.record.id)?;
        }
        if is_failure(record.result) {
            self.failure(out, at, call)?;
        }
        // The kernel's event comes when the target is known, which is before all later checks.
        let Some(to) = record.to else { return Ok(()) };
        // A thread of another guest of the domain is named on that one's machine.
        if model.names().home(to.proc).is_none_or(|home| home == guest) {
            self.name(out, model, guest, at, to.pid, to.tid)?;
        }
        let flags = if record.oneway { record.flags | tf::ONE_WAY } else { record.flags };
        let fields = Message::default()
            .signed(transaction::ID, record.id.0.into())
            .signed(transaction::NODE, record.node.map_or(0, |node| node.0.into()))
            .signed(transaction::TO_PROC, to.pid.0.into())
            .signed(transaction::TO_THREAD, to.tid.0.into())
            .signed(transaction::REPLY, is_reply.into())
            .number(transaction::CODE, record.code.into())
            .number(transaction::FLAGS, flags.into());
        self.ftrace(out, model, guest, at, &record.from, ftrace::TRANSACTION, fields)?;
        if !is_reply && !record.oneway {
            let sizes = Message::default()
                .number(alloc_buf::DATA, record.data_size)
                .signed(alloc_buf::ID, record.id.0.into())
                .number(alloc_buf::OFFSETS, record.offsets_size)
                .number(alloc_buf::EXTRA, record.buffers_size);
            self.ftrace(out, model, guest, at, &record.from, ftrace::ALLOC_BUF, sizes)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn delivered(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        id: DebugId,
        to: &Party,
        call: &Call,
    ) -> io::Result<()> {
        // Who takes new work is done with the last oneway call, also if its buffer is not freed yet.
        self.end_oneways(out, model, guest, at, to)?;
        let fields = Message::default().signed(received::ID, id.0.into());
        self.ftrace(out, model, guest, at, to, ftrace::RECEIVED, fields)?;
        if id == call.record.id
            && let Some(name) = slice_name(call)
        {
            let text = format!("B|{}|{name}", to.pid);
            self.ftrace(
                out,
                model,
                guest,
                at,
                to,
                ftrace::PRINT,
                Message::default().text(print::BUF, &text),
            )?;
            let slice = Slice { call: id, oneway: call.record.oneway, party: *to };
            self.slices.entry(to.tid).or_default().push(slice);
        }
        Ok(())
    }

    /// Ends the AIDL slice of a call, and what is still open inside it.
    fn end_slice(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        party: &Party,
        call: DebugId,
    ) -> io::Result<()> {
        if self.slices.get(&party.tid).is_none_or(|open| open.iter().all(|slice| slice.call != call)) {
            return Ok(());
        }
        while let Some(slice) = self.slices.get_mut(&party.tid).and_then(Vec::pop) {
            self.end(out, model, guest, at, party)?;
            if slice.call == call {
                break;
            }
        }
        Ok(())
    }

    /// Ends the oneway slices on top of a thread's stack.
    fn end_oneways(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        party: &Party,
    ) -> io::Result<()> {
        while self.slices.get_mut(&party.tid).is_some_and(|open| open.pop_if(|slice| slice.oneway).is_some())
        {
            self.end(out, model, guest, at, party)?;
        }
        Ok(())
    }

    fn end(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        party: &Party,
    ) -> io::Result<()> {
        let text = format!("E|{}", party.pid);
        self.ftrace(out, model, guest, at, party, ftrace::PRINT, Message::default().text(print::BUF, &text))
    }

    /// Ends all slices, with the last event that was seen.
    fn end_all(&mut self, out: &mut impl Write, model: &Model) -> io::Result<()> {
        for open in std::mem::take(&mut self.slices).into_values() {
            for slice in open.iter().rev() {
                let guest = model.names().home(slice.party.proc).unwrap_or_default();
                self.end(out, model, guest, self.last, &slice.party)?;
            }
        }
        Ok(())
    }

    /// An instant on the guest's track of failures: something is missing behind it.
    fn lost(&mut self, out: &mut impl Write, lost: &Lost) -> io::Result<()> {
        let event = Message::default()
            .number(track_event::TYPE, event_type::INSTANT.into())
            .number(track_event::TRACK, failure_track(self.machine))
            .text(track_event::NAME, &format!("{lost} lost"));
        let at = self.next_time(self.last);
        write(
            out,
            guest_packet(self.machine).number(packet::TIMESTAMP, at).message(packet::TRACK_EVENT, event),
        )
    }

    /// An instant on the guest's track of failures.
    fn failure(&mut self, out: &mut impl Write, at: u64, call: &Call) -> io::Result<()> {
        let method = call.method_label();
        let target = call.interface.as_deref().map_or(method.clone(), |name| format!("{name}.{method}"));
        let note = |name: &str, text: &str| {
            Message::default()
                .text(track_event::ANNOTATION_NAME, name)
                .text(track_event::ANNOTATION_STRING, text)
        };
        let client = call.client.party;
        let event = Message::default()
            .number(track_event::TYPE, event_type::INSTANT.into())
            .number(track_event::TRACK, failure_track(self.machine))
            .text(track_event::NAME, &format!("{} {target}", call.result()))
            .message(track_event::ANNOTATION, note("client", &format!("{}/{}", client.pid, client.tid)))
            .message(track_event::ANNOTATION, note("id", &call.record.id.to_string()));
        let at = self.next_time(at);
        write(
            out,
            guest_packet(self.machine).number(packet::TIMESTAMP, at).message(packet::TRACK_EVENT, event),
        )
    }

    /// Appends an ftrace event of a thread.
    #[allow(clippy::too_many_arguments)]
    fn ftrace(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        party: &Party,
        kind: u32,
        fields: Message,
    ) -> io::Result<()> {
        self.name(out, model, guest, at, party.pid, party.tid)?;
        let at = self.next_time(at);
        let event = Message::default()
            .number(ftrace::TIMESTAMP, at)
            .number(ftrace::PID, party.tid.0.into())
            .message(kind, fields);
        self.events.append(&Message::default().message(bundle::EVENT, event));
        self.pending += 1;
        if self.pending >= BUNDLE { self.flush(out) } else { Ok(()) }
    }

    /// Strictly ascending, so that what happened in an order stays in it.
    fn next_time(&mut self, at: u64) -> u64 {
        self.last = at.max(self.last + 1);
        self.last
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        self.pending = 0;
        let mut events = Message::default().number(bundle::CPU, 0);
        events.append(&std::mem::take(&mut self.events));
        write(out, guest_packet(self.machine).message(packet::FTRACE, events))
    }

    /// Tells the process tree of a thread that is new, or has a new name.
    fn name(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        pid: Pid,
        tid: Tid,
    ) -> io::Result<()> {
        if tid == Tid(0) {
            return Ok(());
        }
        let names = model.names();
        let thread = names.thread(guest, tid).cloned();
        if self.known.contains(&(pid, tid)) && self.names.get(&(pid, tid)) == Some(&thread) {
            return Ok(());
        }
        self.known.insert((pid, tid));
        self.names.insert((pid, tid), thread.clone());
        let process = names.process(guest, pid).map_or_else(|| format!("pid {pid}"), ToString::to_string);
        let process = Message::default()
            .number(tree::PID, pid.0.into())
            .number(tree::PPID, 1)
            .text(tree::CMDLINE, &process);
        let mut entry = Message::default().number(tree::TID, tid.0.into());
        if let Some(thread) = &thread {
            entry = entry.text(tree::NAME, thread);
        }
        let entry = entry.number(tree::TGID, pid.0.into());
        let tree = Message::default().message(tree::PROCESSES, process).message(tree::THREADS, entry);
        let at = self.last.max(at);
        write(
            out,
            guest_packet(self.machine).number(packet::TIMESTAMP, at).message(packet::PROCESS_TREE, tree),
        )
    }

    /// A file was closed; with the last one of a process the process is taken for gone, so that a later
    /// one with its number is another.
    fn released(
        &mut self,
        out: &mut impl Write,
        model: &Model,
        guest: GuestId,
        at: u64,
        proc: ProcId,
    ) -> io::Result<()> {
        let Some(pid) = self.files.remove(&proc) else { return Ok(()) };
        if self.files.values().any(|other| *other == pid) {
            return Ok(());
        }
        let comm = model.names().process(guest, pid).map_or_else(String::new, ToString::to_string);
        let fields =
            Message::default().text(process_free::COMM, &comm).number(process_free::PID, pid.0.into());
        let party = Party { proc, pid, tid: Tid(pid.0) };
        self.ftrace(out, model, guest, at, &party, ftrace::PROCESS_FREE, fields)?;
        self.known.retain(|(known, _)| *known != pid);
        Ok(())
    }
}

/// The name of an AIDL slice: `trace_processor` splits it at `::`.
fn slice_name(call: &Call) -> Option<String> {
    let interface = call.interface.as_deref()?;
    let method = call.method_label();
    Some(if call.context.as_deref() == Some("hwbinder") {
        format!("HIDL::hwbinder::{}::{method}::server", interface.replace("::", "."))
    } else {
        format!("AIDL::cpp::{}::{method}::server", interface.replace("::", "."))
    })
}

#[cfg(test)]
mod tests;
