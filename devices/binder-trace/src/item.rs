//! Calls and events as filters see them.

use std::sync::Arc;
use std::time::Duration;

use binder::trace::TraceEvent;
use binder::{DebugId, Pid, Tid};

use crate::Stamped;
use crate::event::{Described, Value as Described_, describe};
use crate::filter::{Field, Item, Value};
use crate::model::{Call, Model, Outcome};

/// An event with all names that are known for it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Guest time.
    pub at: Duration,
    /// Host time (`CLOCK_BOOTTIME`), if the recording has it.
    pub host: Option<Duration>,
    /// The guest's name.
    pub guest: Arc<str>,
    /// The process that the event is about.
    pub pid: Option<Pid>,
    /// Its name.
    pub process: Option<Arc<str>>,
    /// The thread's name.
    pub thread: Option<Arc<str>>,
    /// What the node that it is about is called.
    pub service: Option<Arc<str>>,
    /// What happened.
    pub described: Described,
    /// Of a transaction's events: interface and method.
    pub method: Option<(Option<Arc<str>>, String)>,
}

impl Event {
    /// Names an event. `model` took it already; `ended` is the call that it ended.
    pub fn new(model: &Model, event: &Stamped, ended: Option<&Call>) -> Event {
        let names = model.names();
        let described = describe(&event.event);
        let guest = model.home(event, described.proc);
        let pid = described.pid.or_else(|| names.pid(described.proc?));
        let call = transaction(&event.event).and_then(|id| {
            let of = |call: &&Call| {
                call.record.id == id || call.reply.as_ref().is_some_and(|reply| reply.id == id)
            };
            ended.filter(of).or_else(|| model.open(id))
        });
        let node = match described.get("node") {
            Some(Described_::Number(node)) => u32::try_from(*node).ok().map(DebugId),
            _ => None,
        };
        Event {
            at: event.at,
            host: model.host_time(),
            guest: model.guest(guest),
            process: pid.and_then(|pid| names.process(guest, pid)).cloned(),
            thread: described.tid.and_then(|tid| names.thread(guest, tid)).cloned(),
            service: node.and_then(|node| names.service(node)),
            method: call.map(|call| (call.interface.clone(), call.method_label())),
            pid,
            described,
        }
    }

    /// The thread that it is about.
    pub fn tid(&self) -> Option<Tid> {
        self.described.tid
    }
}

/// The transaction that an event is about.
fn transaction(event: &TraceEvent) -> Option<DebugId> {
    match event {
        TraceEvent::Transaction(record) => Some(record.id),
        TraceEvent::TransactionDelivered { id, .. } | TraceEvent::TransactionFailed { id, .. } => Some(*id),
        TraceEvent::BufferFreed { id, .. } => Some(*id),
        _ => None,
    }
}

fn text(text: &Option<Arc<str>>) -> Option<Value<'_>> {
    text.as_deref().map(Value::text)
}

fn number(number: u32) -> Option<Value<'static>> {
    Some(Value::Number(number.into()))
}

impl Item for Event {
    fn field(&self, field: Field) -> Option<Value<'_>> {
        let described = &self.described;
        let of_event = |name: &str| match described.get(name)? {
            Described_::Number(number) => Some(Value::Number((*number).into())),
            Described_::Hex(number) => Some(Value::Number((*number).into())),
            Described_::Text(text) => Some(Value::text(text.as_str())),
            Described_::Bool(value) => Some(Value::Bool(*value)),
        };
        match field {
            Field::At => Some(Value::time(self.at)),
            Field::Guest => Some(Value::text(&*self.guest)),
            Field::Pid => self.pid.and_then(|pid| number(pid.0)),
            Field::Tid => described.tid.and_then(|tid| number(tid.0)),
            Field::Proc => text(&self.process),
            Field::Thread => text(&self.thread),
            Field::Service => text(&self.service),
            Field::Cmd => described.cmd.as_deref().map(Value::text),
            Field::Event => Some(Value::text(described.event)),
            Field::Iface => text(&self.method.as_ref()?.0),
            Field::Method => Some(Value::text(self.method.as_ref()?.1.as_str())),
            Field::Size => match (of_event("data")?, of_event("offsets")?) {
                (Value::Number(data), Value::Number(offsets)) => Some(Value::Number(data + offsets)),
                _ => None,
            },
            Field::Oneway => match of_event("flags")? {
                Value::Text(flags) => Some(Value::Bool(flags.contains("ONE_WAY"))),
                _ => None,
            },
            Field::Result => match of_event("result")? {
                Value::Text(result) if result == "BR_TRANSACTION_COMPLETE" => Some(Value::text("ok")),
                other => Some(other),
            },
            Field::ToPid
            | Field::ToTid
            | Field::Code
            | Field::Handle
            | Field::Node
            | Field::Id
            | Field::Errno
            | Field::Context => of_event(field.name()),
            Field::ToProc
            | Field::ReplySize
            | Field::Depth
            | Field::Dur
            | Field::Queue
            | Field::ServiceTime => None,
        }
    }
}

impl Item for Call {
    fn field(&self, field: Field) -> Option<Value<'_>> {
        let record = &self.record;
        let server = self.server.as_ref();
        match field {
            Field::At => Some(Value::time(self.sent)),
            Field::Guest => Some(Value::text(&*self.guest)),
            Field::Pid => number(record.from.pid.0),
            Field::Tid => number(record.from.tid.0),
            Field::Proc => text(&self.client.process),
            Field::Thread => text(&self.client.thread),
            Field::ToPid => number(server?.party.pid.0),
            Field::ToTid => {
                server.filter(|peer| peer.party.tid != Tid(0)).and_then(|peer| number(peer.party.tid.0))
            }
            Field::ToProc => text(&server?.process),
            Field::Context => text(&self.context),
            Field::Iface => text(&self.interface),
            Field::Method => Some(Value::text(self.method_label())),
            Field::Service => text(&self.service),
            Field::Code => number(record.code),
            Field::Handle => number(record.handle),
            Field::Node => number(record.node?.0),
            Field::Id => number(record.id.0),
            Field::Size => Some(Value::Number(self.size().into())),
            Field::ReplySize => self.reply_size().map(|size| Value::Number(size.into())),
            Field::Oneway => Some(Value::Bool(record.oneway)),
            Field::Depth => number(self.depth),
            Field::Dur => self.duration().map(Value::time),
            Field::Queue => self.queued().map(Value::time),
            Field::ServiceTime => self.served().map(Value::time),
            Field::Result => Some(Value::text(self.result())),
            Field::Errno => match self.outcome {
                Outcome::Failed(_, errno) => Some(Value::Number(errno.into())),
                _ => None,
            },
            Field::Event => Some(Value::text("call")),
            Field::Cmd => None,
        }
    }
}
