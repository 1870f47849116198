//! One JSON object an event or a call, for programs.
//!
//! `schema/trace.schema.json` is the contract: names and meanings stay, fields may be added. Times are
//! integers in nanoseconds, addresses and cookies hexadecimal text, bytes hexadecimal digits. What is
//! not known is absent.

use std::time::Duration;

use binder::trace::{ObjectRecord, SentObject};
use serde_json::{Map, Value as Json, json};

use crate::aidl::Table;
use crate::constants::flags;
use crate::event::Value;
use crate::item::Event;
use crate::model::{Call, Model, Outcome, Peer};
use crate::parcel::decode::{Data, Decoded};
use crate::recording::{Header, Lost};

/// The version of the lines' form.
pub const SCHEMA: u32 = 1;

/// The schema of a line, as JSON Schema (draft 2020-12).
pub const SCHEMA_TEXT: &str = include_str!("../schema/trace.schema.json");

/// The first line of every recording.
pub fn header(header: &Header) -> Json {
    let guests: Vec<&str> = header.guests.iter().map(|guest| guest.name.as_str()).collect();
    known(json!({
        "kind": "header",
        "schema": SCHEMA,
        "guests": guests,
        "image": header.image,
        "engine": header.engine,
        "command": header.command,
        "android": header.android,
        "payload": header.payload,
    }))
}

/// Where something is missing.
pub fn lost(model: &Model, lost: &Lost) -> Json {
    known(json!({
        "kind": "lost",
        "guest": lost.guest.map(|guest| model.guest(guest).to_string()),
        "messages": lost.messages,
        "events": lost.events,
    }))
}

/// The line of an event.
pub fn event(event: &Event) -> Json {
    let described = &event.described;
    let value = |value: &Value| match value {
        Value::Number(number) => json!(number),
        Value::Hex(number) => json!(format!("{number:#x}")),
        Value::Text(text) => json!(text),
        Value::Bool(value) => json!(value),
    };
    let fields: Map<String, Json> =
        described.fields.iter().map(|(name, field)| ((*name).to_owned(), value(field))).collect();
    known(json!({
        "kind": "event",
        "at_ns": nanos(event.at),
        "host_ns": event.host.map(nanos),
        "guest": &*event.guest,
        "event": described.event,
        "cmd": described.cmd,
        "pid": event.pid.map(|pid| pid.0),
        "tid": described.tid.map(|tid| tid.0),
        "proc": event.process.as_deref(),
        "thread": event.thread.as_deref(),
        "proc_id": described.proc.map(|proc| proc.0),
        "iface": event.method.as_ref().and_then(|(interface, _)| interface.as_deref()),
        "method": event.method.as_ref().map(|(_, method)| method),
        "service": event.service.as_deref(),
        "fields": fields,
    }))
}

/// The line of a call.
pub fn call(call: &Call, table: &Table) -> Json {
    let record = &call.record;
    let (errno, exception) = match &call.outcome {
        Outcome::Failed(_, errno) => (Some(*errno), None),
        Outcome::Exception(exception) => {
            let told = json!({
                "code": exception.code,
                "service_specific": exception.specific,
                "message": exception.message,
            });
            (None, Some(known(told)))
        }
        _ => (None, None),
    };
    let reply = call.reply.as_ref().map(|reply| {
        json!({
            "id": reply.record.id.0,
            "flags": flags(reply.record.flags),
            "data_size": reply.record.data_size,
            "offsets_size": reply.record.offsets_size,
            "objects": objects(&reply.record.objects),
        })
    });
    known(json!({
        "kind": "call",
        "at_ns": nanos(call.sent),
        "host_ns": call.host.map(nanos),
        "guest": &*call.guest,
        "machine": call.machine,
        "id": record.id.0,
        "context": call.context.as_deref(),
        "client": peer(call, &call.client),
        "server": call.server.as_ref().map(|server| peer(call, server)),
        "iface": call.interface.as_deref(),
        "method": call.method.as_ref().map(|method| &*method.name),
        "method_sure": call.method.as_ref().map(|method| method.sure),
        "service": call.service.as_deref(),
        "code": record.code,
        "flags": flags(record.flags),
        "oneway": record.oneway,
        "handle": record.handle,
        "node": record.node.map(|node| node.0),
        "data_size": record.data_size,
        "offsets_size": record.offsets_size,
        "objects": objects(&record.objects),
        "parent": call.parent.map(|parent| parent.0),
        "depth": call.depth,
        "queue_ns": call.queued().map(nanos),
        "service_ns": call.served().map(nanos),
        "dur_ns": call.duration().map(nanos),
        "result": call.result(),
        "errno": errno,
        "exception": exception,
        "reply": reply,
        "arguments": call.arguments(table).as_ref().map(decoded),
        "returns": call.result_values(table).as_ref().map(decoded),
    }))
}

fn peer(call: &Call, peer: &Peer) -> Json {
    let tid = peer.party.tid.0;
    known(json!({
        "guest": (peer.guest_name != call.guest).then_some(&*peer.guest_name),
        "pid": peer.party.pid.0,
        "tid": if tid == 0 { None } else { Some(tid) },
        "proc": peer.process.as_deref(),
        "thread": peer.thread.as_deref(),
    }))
}

fn objects(objects: &[ObjectRecord]) -> Vec<Json> {
    let line = |object: &ObjectRecord| {
        let mut line = object_json(&object.object);
        line["offset"] = json!(object.offset);
        line
    };
    objects.iter().map(line).collect()
}

fn object_json(object: &SentObject) -> Json {
    known(match object {
        SentObject::Binder { strong, node, .. } => {
            json!({ "object": "binder", "strong": strong, "node": node.map(|node| node.0) })
        }
        SentObject::Handle { strong, handle, node } => {
            json!({ "object": "handle", "strong": strong, "handle": handle, "node": node.map(|node| node.0) })
        }
        SentObject::Fd { fd } => json!({ "object": "fd", "fd": fd }),
        SentObject::Ptr { length } => json!({ "object": "ptr", "length": length }),
        SentObject::FdArray { count } => json!({ "object": "fd_array", "count": count }),
    })
}

fn decoded(decoded: &Decoded) -> Json {
    let values: Vec<Json> =
        decoded.values.iter().map(|(name, value)| json!({ "name": name, "value": data(value) })).collect();
    let rest = decoded
        .rest
        .as_ref()
        .map(|rest| json!({ "why": rest.why.to_string(), "at": rest.at, "bytes": hex(&rest.bytes) }));
    known(json!({ "values": values, "rest": rest }))
}

fn data(value: &Data) -> Json {
    match value {
        Data::Null => Json::Null,
        Data::Bool(value) => json!(value),
        Data::Integer(value) => json!(value),
        // JSON has no NaN.
        Data::Float(value) if value.is_finite() => json!(value),
        Data::Float(value) => json!(value.to_string()),
        Data::Text(text) => json!(text),
        Data::Length(length) => json!({ "length": length }),
        Data::Bytes(bytes) => json!({ "bytes": hex(bytes) }),
        Data::Object(object) => object_json(object),
        Data::List(elements, 0) => elements.iter().map(data).collect(),
        Data::List(elements, left_out) => {
            json!({ "first": elements.iter().map(data).collect::<Vec<_>>(), "left_out": left_out })
        }
        Data::Fields(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), data(value))).collect::<Map<_, _>>().into()
        }
        Data::Constant(name, value) => json!({ "constant": name, "value": value }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The object without what is not known.
fn known(mut object: Json) -> Json {
    if let Json::Object(fields) = &mut object {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

#[cfg(test)]
mod tests;
