//! One event as a name and fields: what text, JSON and filters are made of.
//!
//! Every field of a command or return is here, so nothing is lost in any of the three.

use binder::protocol::{Command, Return, TransactionData, ioctl};
use binder::trace::{ObjectRecord, Party, SentObject, TraceEvent, TransactionRecord};
use binder::{Pid, ProcId, Tid};

use crate::constants::{command_name, flags, ioctl_name, return_name};
use crate::parcel::printable;

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count, id or size.
    Number(i64),
    /// An address or a cookie: hexadecimal, also in JSON, where a number has only 53 bits.
    Hex(u64),
    /// Text without control characters.
    Text(String),
    /// Yes or no.
    Bool(bool),
}

/// An event, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What it is, in one lower-case word; the schema lists them.
    pub event: &'static str,
    /// The open file that it is about.
    pub proc: Option<ProcId>,
    /// The process, where the event tells it.
    pub pid: Option<Pid>,
    /// The thread, where the event tells it.
    pub tid: Option<Tid>,
    /// The UAPI's name of the command, return or ioctl.
    pub cmd: Option<String>,
    /// The rest, in the order in which text shows it.
    pub fields: Vec<(&'static str, Value)>,
}

impl Described {
    fn new(event: &'static str) -> Described {
        Described { event, proc: None, pid: None, tid: None, cmd: None, fields: Vec::new() }
    }

    fn of(event: &'static str, party: &Party) -> Described {
        let tid = (party.tid != Tid(0)).then_some(party.tid);
        Described { proc: Some(party.proc), pid: Some(party.pid), tid, ..Described::new(event) }
    }

    fn of_proc(event: &'static str, proc: ProcId) -> Described {
        Described { proc: Some(proc), ..Described::new(event) }
    }

    fn cmd(mut self, name: String) -> Described {
        self.cmd = Some(name);
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Described {
        self.fields.push((name, value.into()));
        self
    }

    fn hex(self, name: &'static str, value: u64) -> Described {
        self.with(name, Value::Hex(value))
    }

    fn object(self, ptr: u64, cookie: u64) -> Described {
        self.hex("ptr", ptr).hex("cookie", cookie)
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::Number(value.into())
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::Number(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        i64::try_from(value).map_or(Value::Hex(value), Value::Number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Text(value)
    }
}

/// Takes an event apart.
pub fn describe(event: &TraceEvent) -> Described {
    match event {
        TraceEvent::Message { proc, tid, seq, kind, .. } => {
            let about = Described { tid: (*tid != Tid(0)).then_some(*tid), ..Described::new("message") };
            let about = Described { proc: (*proc != 0).then_some(ProcId(*proc)), ..about };
            about.with("kind", format!("{kind:?}")).with("seq", seq.0)
        }
        TraceEvent::Answered { proc, tid, seq, status, errno } => {
            let about = Described { tid: (*tid != Tid(0)).then_some(*tid), ..Described::new("answer") };
            let about = Described { proc: (*proc != 0).then_some(ProcId(*proc)), ..about };
            about.with("status", format!("{status:?}")).with("seq", seq.0).with("errno", errno.0)
        }
        TraceEvent::ProcOpened { proc, pid, context, euid, .. } => {
            let about = Described { pid: Some(*pid), ..Described::of_proc("open", *proc) };
            about.with("context", printable(context)).with("euid", euid.0)
        }
        TraceEvent::ProcReleased { proc } => Described::of_proc("released", *proc),
        TraceEvent::ThreadCreated { thread } => Described::of("thread_created", thread),
        TraceEvent::ThreadReleased { thread, active_transactions } => {
            Described::of("thread_released", thread).with("active", *active_transactions)
        }
        TraceEvent::Ioctl { thread, cmd, .. } => Described::of("ioctl", thread).cmd(ioctl_name(*cmd)),
        TraceEvent::IoctlDone { thread, cmd, errno, write_consumed, read_consumed } => {
            let about = Described::of("ioctl_done", thread).cmd(ioctl_name(*cmd)).with("errno", errno.0);
            if *cmd != ioctl::WRITE_READ {
                return about;
            }
            about.with("write_consumed", *write_consumed).with("read_consumed", *read_consumed)
        }
        TraceEvent::Command { thread, command } => {
            command_fields(Described::of("command", thread).cmd(command_name(command.code())), command)
        }
        TraceEvent::UnknownCommand { thread, word } => {
            Described::of("unknown_command", thread).hex("word", u64::from(*word))
        }
        TraceEvent::Return { thread, item } => {
            return_fields(Described::of("return", thread).cmd(return_name(item.code())), item)
        }
        TraceEvent::UserError { thread, error } => {
            Described::of("user_error", thread).with("error", format!("{error:?}"))
        }
        TraceEvent::Transaction(record) => transaction(record),
        TraceEvent::TransactionDelivered { id, to, address } => {
            Described::of("delivered", to).with("id", id.0).hex("at", *address)
        }
        TraceEvent::TransactionFailed { id, code, to } => {
            let about = to.as_ref().map_or(Described::new("failed"), |to| Described::of("failed", to));
            about.with("id", id.0).with("result", return_name(*code))
        }
        TraceEvent::BufferFreed { proc, id, address, size } => {
            Described::of_proc("buffer_freed", *proc).with("id", id.0).hex("at", *address).with("size", *size)
        }
        TraceEvent::NodeCreated { proc, node, ptr, cookie } => {
            Described::of_proc("node_created", *proc).with("node", node.0).object(*ptr, *cookie)
        }
        TraceEvent::NodeReleased { node } => Described::new("node_released").with("node", node.0),
        TraceEvent::RefCreated { proc, id, handle, node } => Described::of_proc("ref_created", *proc)
            .with("handle", *handle)
            .with("node", node.0)
            .with("ref", id.0),
        TraceEvent::RefReleased { proc, handle, node } => {
            Described::of_proc("ref_released", *proc).with("handle", *handle).with("node", node.0)
        }
        TraceEvent::Death { node, watcher, cookie } => {
            Described::of_proc("death", *watcher).with("node", node.0).hex("cookie", *cookie)
        }
        TraceEvent::Parked { thread, park } => {
            Described::of("parked", thread).with("park", format!("{park:?}"))
        }
        TraceEvent::Woken { thread } => Described::of("woken", thread),
        TraceEvent::Cancelled { thread } => Described::of("interrupted", thread),
        TraceEvent::ContextManager { proc, node } => {
            Described::of_proc("context_manager", *proc).with("node", node.0)
        }
        TraceEvent::Frozen { proc, frozen } => Described::of_proc("frozen", *proc).with("frozen", *frozen),
        TraceEvent::Fault { rule, thread, id, fault } => {
            let mut about = Described::of("fault", thread).with("fault", format!("{fault:?}"));
            if let Some(rule) = rule {
                about = about.with("rule", rule + 1);
            }
            if let Some(id) = id {
                about = about.with("id", id.0);
            }
            about
        }
    }
}

fn transaction(record: &TransactionRecord) -> Described {
    let kind = match (record.reply_to, record.oneway) {
        (Some(_), _) => "reply",
        (None, true) => "oneway",
        (None, false) => "call",
    };
    let mut about =
        Described::of("transaction", &record.from).with("kind", kind.to_owned()).with("id", record.id.0);
    if let Some(to) = &record.to {
        about = about.with("to_proc_id", to.proc.0).with("to_pid", to.pid.0);
        if to.tid != Tid(0) {
            about = about.with("to_tid", to.tid.0);
        }
    }
    about = match record.reply_to {
        Some(call) => about.with("answers", call.0),
        None => about.with("handle", record.handle),
    };
    if let Some(node) = record.node {
        about = about.with("node", node.0);
    }
    about = about
        .with("code", record.code)
        .with("flags", flags(record.flags))
        .with("data", record.data_size)
        .with("offsets", record.offsets_size);
    if record.buffers_size > 0 {
        about = about.with("buffers", record.buffers_size);
    }
    if !record.objects.is_empty() {
        about = about.with("objects", objects(&record.objects));
    }
    about = about.with("result", return_name(record.result));
    if !record.errno.is_ok() {
        about = about.with("errno", record.errno.0);
    }
    about
}

/// The objects of a transaction in a few words: `binder(node 5)@72,fd 3@96`.
pub fn objects(objects: &[ObjectRecord]) -> String {
    let names: Vec<String> = objects
        .iter()
        .map(|object| {
            let weak = |strong: bool| if strong { "" } else { "weak " };
            let node = |node: &Option<binder::DebugId>| {
                node.map_or("unknown node".to_owned(), |node| format!("node {node}"))
            };
            let what = match &object.object {
                SentObject::Binder { strong, node: id, .. } => {
                    format!("{}binder({})", weak(*strong), node(id))
                }
                SentObject::Handle { strong, handle, node: id } => {
                    format!("{}handle {handle}({})", weak(*strong), node(id))
                }
                SentObject::Fd { fd } => format!("fd {fd}"),
                SentObject::Ptr { length } => format!("ptr[{length}]"),
                SentObject::FdArray { count } => format!("fds[{count}]"),
            };
            format!("{what}@{}", object.offset)
        })
        .collect();
    names.join(",")
}

fn command_fields(about: Described, command: &Command) -> Described {
    match command {
        Command::Transaction(data) => sent(about, data, true),
        Command::Reply(data) => sent(about, data, false),
        Command::TransactionSg(data, buffers) => sent(about, data, true).with("buffers", *buffers),
        Command::ReplySg(data, buffers) => sent(about, data, false).with("buffers", *buffers),
        Command::AcquireResult(value) => about.with("value", *value),
        Command::FreeBuffer { data } => about.hex("at", *data),
        Command::Increfs { handle }
        | Command::Acquire { handle }
        | Command::Release { handle }
        | Command::Decrefs { handle } => about.with("handle", *handle),
        Command::IncrefsDone { ptr, cookie } | Command::AcquireDone { ptr, cookie } => {
            about.object(*ptr, *cookie)
        }
        Command::AttemptAcquire { priority, handle } => {
            about.with("handle", *handle).with("priority", *priority)
        }
        Command::RegisterLooper | Command::EnterLooper | Command::ExitLooper => about,
        Command::RequestDeathNotification { handle, cookie }
        | Command::ClearDeathNotification { handle, cookie }
        | Command::RequestFreezeNotification { handle, cookie }
        | Command::ClearFreezeNotification { handle, cookie } => {
            about.with("handle", *handle).hex("cookie", *cookie)
        }
        Command::DeadBinderDone { cookie } | Command::FreezeNotificationDone { cookie } => {
            about.hex("cookie", *cookie)
        }
    }
}

fn return_fields(about: Described, item: &Return) -> Described {
    match item {
        Return::Transaction(data) => received(about, data, true),
        Return::TransactionSecCtx(data, secctx) => received(about, data, true).hex("secctx", *secctx),
        Return::Reply(data) => received(about, data, false),
        Return::AcquireResult(value) => about.with("value", *value),
        Return::AttemptAcquire { priority, ptr, cookie } => {
            about.object(*ptr, *cookie).with("priority", *priority)
        }
        Return::Increfs { ptr, cookie }
        | Return::Acquire { ptr, cookie }
        | Return::Release { ptr, cookie }
        | Return::Decrefs { ptr, cookie } => about.object(*ptr, *cookie),
        Return::DeadBinder { cookie }
        | Return::ClearDeathNotificationDone { cookie }
        | Return::ClearFreezeNotificationDone { cookie } => about.hex("cookie", *cookie),
        Return::FrozenBinder { cookie, is_frozen } => about.hex("cookie", *cookie).with("frozen", *is_frozen),
        Return::Error
        | Return::DeadReply
        | Return::TransactionComplete
        | Return::Noop
        | Return::SpawnLooper
        | Return::FailedReply
        | Return::FrozenReply
        | Return::OnewaySpamSuspect
        | Return::TransactionPendingFrozen => about,
    }
}

fn sent(about: Described, data: &TransactionData, call: bool) -> Described {
    let about = if call { about.with("handle", data.target as u32) } else { about };
    payload(about, data)
}

fn received(about: Described, data: &TransactionData, call: bool) -> Described {
    let about = if call {
        about.object(data.target, data.cookie).with("sender_pid", data.sender_pid.0)
    } else {
        about
    };
    payload(about.with("sender_euid", data.sender_euid.0), data)
}

fn payload(about: Described, data: &TransactionData) -> Described {
    about
        .with("code", data.code)
        .with("flags", flags(data.flags))
        .with("data", data.data_size)
        .with("offsets", data.offsets_size)
        .hex("at", data.data)
}
