//! From the events of a recording to calls with names.
//!
//! A [`Model`] takes the records of one recording in order and gives each [`Call`] when it is over:
//! a synchronous call when its client has the reply, a oneway one when its receiver frees the buffer.
//! What the traffic tells on the way (who is called what, which node has which interface and was
//! registered under which name) is used for all calls after it. Nothing is guessed: what was not seen
//! stays a number.

mod call;
mod names;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use binder::trace::{Party, SentObject, TraceEvent, TransactionRecord};
use binder::{DebugId, GuestId, ProcId, Tid};

pub use call::{Call, MethodName, Outcome, Peer, Reply};
pub use names::Names;

use crate::Stamped;
use crate::aidl::Table;
use crate::parcel::cursor::Cursor;
use crate::parcel::decode::Data;
use crate::parcel::{plain, token};
use crate::recording::{Header, Known, Lost, Record};

/// `INTERFACE_TRANSACTION`: asks a binder for the name of its interface.
const INTERFACE_TRANSACTION: u32 = u32::from_be_bytes(*b"_NTF");

/// The last code that a method of an interface can have.
const LAST_CALL: u32 = 0x00ff_ffff;

/// Calls that are open at one time at most; of more, the oldest are given up. A recording of a guest
/// that is attacked must not take all memory of its reader.
const MAX_OPEN: usize = 1 << 20;

/// Puts calls together.
pub struct Model {
    guests: BTreeMap<GuestId, (Arc<str>, u32)>,
    android: Option<u32>,
    table: Arc<Table>,
    names: Names,
    host: Option<Duration>,
    open: BTreeMap<DebugId, Call>,
    /// Replies on their way: to which call.
    replies: BTreeMap<DebugId, DebugId>,
    /// What each thread serves, the innermost last.
    serving: BTreeMap<(GuestId, Tid), Vec<DebugId>>,
    lost: Lost,
}

impl Model {
    /// For a recording with this header; its first guest gets the number `machine`.
    pub fn new(header: &Header, machine: u32, table: Arc<Table>) -> Model {
        let numbered = header.guests.iter().zip(machine..);
        let guests =
            numbered.map(|(guest, machine)| (guest.id, (plain(&guest.name).into(), machine))).collect();
        Model {
            guests,
            android: header.android,
            table,
            names: Names::default(),
            host: None,
            open: BTreeMap::new(),
            replies: BTreeMap::new(),
            serving: BTreeMap::new(),
            lost: Lost::default(),
        }
    }

    /// Takes the next record, and gives the call that it ends.
    pub fn record(&mut self, record: &Record) -> Option<Call> {
        match record {
            Record::Event(event) => return self.event(event),
            Record::Name(name) => self.names.thread_named(name),
            Record::HostTime { boottime } => self.host = Some(*boottime),
            Record::Lost(lost) => self.lose(lost),
            Record::Known(Known::Registered { guest, record }) => self.registered(*guest, record),
            Record::Known(known) => self.names.known(known),
            Record::Step { .. } | Record::End => {}
        }
        None
    }

    /// What is known of names so far.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The declarations that calls are looked up in.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Host time of the events that come now, if the recording has it.
    pub fn host_time(&self) -> Option<Duration> {
        self.host
    }

    /// What is missing so far.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// The numbers of its guests.
    pub fn machines(&self) -> impl Iterator<Item = u32> {
        self.guests.values().map(|(_, machine)| *machine)
    }

    /// A guest's name.
    pub fn guest(&self, guest: GuestId) -> Arc<str> {
        self.guests.get(&guest).map_or_else(|| format!("g{guest}").into(), |(name, _)| name.clone())
    }

    /// A guest's number.
    pub fn machine(&self, guest: GuestId) -> u32 {
        self.guests.get(&guest).map_or(guest.0 + 1, |(_, machine)| *machine)
    }

    /// A call that is not over.
    pub fn open(&self, id: DebugId) -> Option<&Call> {
        self.open.get(self.replies.get(&id).unwrap_or(&id))
    }

    /// All calls that are not over, oldest first.
    pub fn open_calls(&self) -> impl Iterator<Item = &Call> {
        self.open.values()
    }

    /// The guest of the process that an event is about: `proc` is its file. What a message of one guest caused in
    /// another of its domain is recorded with the message.
    pub fn home(&self, event: &Stamped, proc: Option<ProcId>) -> GuestId {
        proc.and_then(|proc| self.names.home(proc)).unwrap_or(event.guest)
    }

    /// The calls that have not ended, oldest first.
    pub fn finish(self) -> Vec<Call> {
        self.open.into_values().map(delivered_is_ok).collect()
    }

    /// What calls that are open came to is told only if it is seen, and nobody knows what threads serve now.
    fn lose(&mut self, lost: &Lost) {
        self.lost.add(lost);
        self.serving.clear();
        for call in self.open.values_mut().filter(|call| call.outcome == Outcome::Open) {
            call.outcome = Outcome::Unknown;
        }
    }

    fn event(&mut self, event: &Stamped) -> Option<Call> {
        match &event.event {
            TraceEvent::Transaction(record) => match record.reply_to {
                None => self.sent(event, record),
                Some(call) => self.replied(event, call, record),
            },
            TraceEvent::TransactionDelivered { id, to, .. } => self.delivered(event, *id, to),
            TraceEvent::TransactionFailed { id, code, .. } => {
                let mut call = self.close(*id)?;
                call.outcome = Outcome::Failed(*code, 0);
                Some(call)
            }
            TraceEvent::BufferFreed { id, .. } => {
                let oneway = |call: &Call| call.record.oneway && call.delivered.is_some();
                self.open.get(id).filter(|call| oneway(call))?;
                let mut call = self.close(*id)?;
                call.freed = Some(event.at);
                Some(delivered_is_ok(call))
            }
            other => {
                self.names.event(event.guest, other);
                None
            }
        }
    }

    fn sent(&mut self, event: &Stamped, record: &TransactionRecord) -> Option<Call> {
        let guest = self.home(event, Some(record.from.proc));
        let context = self.names.context(record.from.proc).cloned();
        let hwbinder = context.as_deref() == Some("hwbinder");
        let token = token::read(&record.payload, hwbinder).filter(|_| hwbinder || record.code <= LAST_CALL);
        let told = record.node.and_then(|node| self.names.interface(node)).cloned();
        let interface: Option<Arc<str>> =
            token.as_ref().map(|token| token.interface.as_str().into()).or(told);
        let method = interface.as_deref().and_then(|name| self.method(name, record.code)).or_else(|| {
            built_in(record.code, hwbinder).map(|name| MethodName { name: name.into(), sure: true })
        });
        let stack = self.serving.get(&(guest, record.from.tid));
        let parent = stack.and_then(|stack| stack.last()).copied();
        let depth = stack.map_or(0, |stack| stack.len() as u32);
        let mut call = Call {
            guest: self.guest(guest),
            machine: self.machine(guest),
            context,
            sent: event.at,
            host: self.host,
            client: self.peer(guest, &record.from),
            server: record.to.as_ref().map(|to| self.peer(guest, to)),
            service: record.node.and_then(|node| self.names.service(node)),
            interface,
            method,
            layout: token.map(|token| (token.layout, token.arguments)),
            android: self.android,
            parent,
            depth,
            record: record.clone(),
            delivered: None,
            freed: None,
            reply: None,
            outcome: Outcome::Open,
        };
        if let Some(outcome) = call::refused(record) {
            call.outcome = outcome;
            return Some(call);
        }
        self.open.insert(record.id, call);
        let oldest = if self.open.len() > MAX_OPEN { self.open.keys().next().copied() } else { None };
        oldest.and_then(|id| self.close(id))
    }

    fn method(&self, interface: &str, code: u32) -> Option<MethodName> {
        let found = self.table.method(interface, code, self.android)?;
        Some(MethodName { name: found.method.name.as_str().into(), sure: found.sure })
    }

    fn delivered(&mut self, event: &Stamped, id: DebugId, to: &Party) -> Option<Call> {
        if let Some(call) = self.replies.remove(&id) {
            let mut call = self.close(call)?;
            if let Some(reply) = &mut call.reply {
                reply.received = Some(event.at);
            }
            return Some(call);
        }
        let guest = self.home(event, Some(to.proc));
        let peer = self.peer(guest, to);
        let call = self.open.get_mut(&id)?;
        call.delivered = Some(event.at);
        call.server = Some(peer);
        self.serving.entry((guest, to.tid)).or_default().push(id);
        None
    }

    fn replied(&mut self, event: &Stamped, id: DebugId, record: &TransactionRecord) -> Option<Call> {
        let table = self.table.clone();
        let call = self.open.get_mut(&id)?;
        call.outcome = call.judge(record, &table);
        call.reply = Some(Reply { id: record.id, sent: event.at, received: None, record: record.clone() });
        let call = call.clone();
        self.learn(&call);
        self.stop_serving(&call);
        if matches!(call.outcome, Outcome::Failed(..)) {
            return self.close(id);
        }
        self.replies.insert(record.id, id);
        None
    }

    /// Takes a call out of the books.
    fn close(&mut self, id: DebugId) -> Option<Call> {
        let call = self.open.remove(&id)?;
        self.stop_serving(&call);
        if let Some(reply) = &call.reply {
            self.replies.remove(&reply.id);
        }
        Some(call)
    }

    fn stop_serving(&mut self, call: &Call) {
        let Some(server) = &call.server else { return };
        let thread = (server.guest, server.party.tid);
        if let Some(stack) = self.serving.get_mut(&thread) {
            stack.retain(|id| *id != call.record.id);
            if stack.is_empty() {
                self.serving.remove(&thread);
            }
        }
    }

    /// One end of a call that `guest` tells of.
    fn peer(&self, guest: GuestId, party: &Party) -> Peer {
        let guest = self.names.home(party.proc).unwrap_or(guest);
        let process = self.names.process(guest, party.pid).cloned();
        let thread = self.names.thread(guest, party.tid).cloned();
        Peer { guest, guest_name: self.guest(guest), party: *party, process, thread }
    }

    /// Learns names from a call that was answered.
    fn learn(&mut self, call: &Call) {
        let (Some(node), Some(reply), Outcome::Ok) = (call.record.node, &call.reply, &call.outcome) else {
            return;
        };
        if call.record.code == INTERFACE_TRANSACTION {
            let record = &reply.record;
            let told = Cursor::new(&record.payload, record.data_size, &[], 0, false).string16();
            if let Ok(Some(name)) = told
                && !name.is_empty()
            {
                self.names.interface_told(node, &plain(&name));
            }
            return;
        }
        if call.interface.as_deref() == Some("android.os.IServiceManager") && self.names.is_manager(node) {
            self.learn_service(call);
        }
    }

    /// Learns the name of a service from the call that registered it, before the recording.
    fn registered(&mut self, guest: GuestId, record: &TransactionRecord) {
        let event = Stamped { at: Duration::ZERO, guest, event: TraceEvent::Transaction(record.clone()) };
        let seen = self.open.remove(&record.id);
        self.sent(&event, record);
        if let Some(call) = self.close(record.id)
            && call.interface.as_deref() == Some("android.os.IServiceManager")
            && record.node.is_some_and(|node| self.names.is_manager(node))
        {
            self.learn_service(&call);
        }
        // Where it is told again after something was lost, the call may be known, and not over.
        if let Some(seen) = seen {
            self.open.insert(record.id, seen);
        }
    }

    /// A name and a binder passed through the service manager.
    fn learn_service(&mut self, call: &Call) {
        let Some(method) = call.method.as_ref().filter(|method| method.sure) else { return };
        let Some(arguments) = call.arguments(&self.table) else { return };
        let name = arguments.values.iter().find_map(|(field, value)| match value {
            Data::Text(name) if field == "name" => Some(name.clone()),
            _ => None,
        });
        let values = match &*method.name {
            "addService" => Some(arguments),
            "getService" | "checkService" => call.result_values(&self.table),
            _ => None,
        };
        let node = values.iter().flat_map(|values| &values.values).find_map(|(_, value)| match value {
            Data::Object(SentObject::Binder { node, .. } | SentObject::Handle { node, .. }) => *node,
            _ => None,
        });
        if let (Some(name), Some(node)) = (name, node) {
            self.names.service_named(node, &name);
        }
    }
}

/// A oneway call that was delivered went as well as one can.
fn delivered_is_ok(mut call: Call) -> Call {
    if call.record.oneway
        && call.delivered.is_some()
        && matches!(call.outcome, Outcome::Open | Outcome::Unknown)
    {
        call.outcome = Outcome::Ok;
    }
    call
}

/// Methods that every binder has (libbinder's IBinder.h; libhwbinder's IBinder and hidl's IBase).
fn built_in(code: u32, hwbinder: bool) -> Option<&'static str> {
    if hwbinder {
        return Some(match &code.to_be_bytes() {
            b"\x0fPNG" => "ping",
            b"\x0fCHN" => "interfaceChain",
            b"\x0fDSC" => "interfaceDescriptor",
            b"\x0fSYS" => "notifySyspropsChanged",
            b"\x0fLTD" => "linkToDeath",
            b"\x0fUTD" => "unlinkToDeath",
            b"\x0fINT" => "setHALInstrumentation",
            b"\x0fREF" => "getDebugInfo",
            b"\x0fDBG" => "debug",
            b"\x0fHSH" => "getHashChain",
            _ => return None,
        });
    }
    Some(match &code.to_be_bytes() {
        b"_PNG" => "PING_TRANSACTION",
        b"_DMP" => "DUMP_TRANSACTION",
        b"_CMD" => "SHELL_COMMAND_TRANSACTION",
        b"_NTF" => "INTERFACE_TRANSACTION",
        b"_SPR" => "SYSPROPS_TRANSACTION",
        b"_EXT" => "EXTENSION_TRANSACTION",
        b"_PID" => "DEBUG_PID_TRANSACTION",
        b"_RPC" => "SET_RPC_CLIENT_TRANSACTION",
        b"_SRD" => "START_RECORDING_TRANSACTION",
        b"_ERD" => "STOP_RECORDING_TRANSACTION",
        b"_TWT" => "TWEET_TRANSACTION",
        b"_LIK" => "LIKE_TRANSACTION",
        // Stable AIDL's own methods, counted from the first code as all others.
        b"\x00\xff\xff\xff" => "getInterfaceVersion",
        b"\x00\xff\xff\xfe" => "getInterfaceHash",
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
