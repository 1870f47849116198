//! One line an event, in the manner of strace.
//!
//! ```text
//!    0.412345678 g0 p3 213/217 BC_TRANSACTION handle=0 code=1 flags=ACCEPT_FDS data=96 offsets=0
//! ```
//!
//! Guest time in seconds, guest, open file (proc), pid/tid, then what happened. Every event has a
//! line, and every field of a command or return is in it.

use std::fmt::Write;

use binder::protocol::{Command, Return, TransactionData, bc, br, ioctl, tf};
use binder::trace::{Party, TraceEvent, TransactionRecord};

use crate::{Stamped, parcel};

/// The line of one event, without a line end.
pub fn line(event: &Stamped) -> String {
    let mut line = format!("{} g{} ", time(event.at), event.guest);
    match &event.event {
        TraceEvent::Message { proc, tid, seq, kind, .. } => {
            put(&mut line, format_args!("p{proc} -/{tid} > {kind:?} seq={seq}"));
        }
        TraceEvent::Answered { proc, tid, seq, status, errno } => {
            put(&mut line, format_args!("p{proc} -/{tid} < {status:?} seq={seq} errno={errno}"));
        }
        TraceEvent::ProcOpened { proc, pid, context, euid, .. } => {
            let context = String::from_utf8_lossy(context);
            put(&mut line, format_args!("p{proc} {pid} open context={context} euid={euid}"));
        }
        TraceEvent::ProcReleased { proc } => put(&mut line, format_args!("p{proc} released")),
        TraceEvent::ThreadCreated { thread } => {
            put(&mut line, format_args!("{} thread created", who(thread)))
        }
        TraceEvent::ThreadReleased { thread, active_transactions } => {
            put(&mut line, format_args!("{} thread released active={active_transactions}", who(thread)));
        }
        TraceEvent::Ioctl { thread, cmd, .. } => {
            put(&mut line, format_args!("{} ioctl {}", who(thread), ioctl_name(*cmd)));
        }
        TraceEvent::IoctlDone { thread, cmd, errno, write_consumed, read_consumed } => {
            let name = ioctl_name(*cmd);
            put(&mut line, format_args!("{} ioctl {name} = {errno}", who(thread)));
            if *cmd == ioctl::WRITE_READ {
                put(&mut line, format_args!(" wc={write_consumed} rc={read_consumed}"));
            }
        }
        TraceEvent::Command { thread, command } => {
            put(&mut line, format_args!("{} {}", who(thread), command_name(command.code())));
            command_fields(&mut line, command);
        }
        TraceEvent::UnknownCommand { thread, word } => {
            put(&mut line, format_args!("{} unknown command {word:#x}", who(thread)));
        }
        TraceEvent::Return { thread, item } => {
            put(&mut line, format_args!("{} {}", who(thread), return_name(item.code())));
            return_fields(&mut line, item);
        }
        TraceEvent::UserError { thread, error } => {
            put(&mut line, format_args!("{} user error {error:?}", who(thread)));
        }
        TraceEvent::Transaction(record) => transaction(&mut line, record),
        TraceEvent::TransactionDelivered { id, to, address } => {
            put(&mut line, format_args!("{} transaction {id} delivered at {address:#x}", who(to)));
        }
        TraceEvent::TransactionFailed { id, code, to } => {
            put(&mut line, format_args!("transaction {id} ended with {}", return_name(*code)));
            if let Some(to) = to {
                put(&mut line, format_args!(" for {}", who(to)));
            }
        }
        TraceEvent::BufferFreed { proc, id, address, size } => {
            put(
                &mut line,
                format_args!("p{proc} buffer of transaction {id} freed at {address:#x} size={size}"),
            );
        }
        TraceEvent::NodeCreated { proc, node, ptr, cookie } => {
            put(&mut line, format_args!("p{proc} node {node} created ptr={ptr:#x} cookie={cookie:#x}"));
        }
        TraceEvent::NodeReleased { node } => put(&mut line, format_args!("node {node} released")),
        TraceEvent::RefCreated { proc, id, handle, node } => {
            put(&mut line, format_args!("p{proc} ref {id} created handle={handle} node={node}"));
        }
        TraceEvent::RefReleased { proc, handle, node } => {
            put(&mut line, format_args!("p{proc} ref released handle={handle} node={node}"));
        }
        TraceEvent::Death { node, watcher, cookie } => {
            put(&mut line, format_args!("p{watcher} death of node {node} cookie={cookie:#x}"));
        }
        TraceEvent::Parked { thread, park } => {
            put(&mut line, format_args!("{} parked {park:?}", who(thread)))
        }
        TraceEvent::Woken { thread } => put(&mut line, format_args!("{} woken", who(thread))),
        TraceEvent::Cancelled { thread } => put(&mut line, format_args!("{} interrupted", who(thread))),
        TraceEvent::ContextManager { proc, node } => {
            put(&mut line, format_args!("p{proc} is context manager node={node}"));
        }
        TraceEvent::Frozen { proc, frozen } => {
            put(&mut line, format_args!("p{proc} {}", if *frozen { "frozen" } else { "thawed" }));
        }
    }
    line
}

/// Guest time as seconds with nine places, right-aligned for runs of up to 11 days.
pub(crate) fn time(at: std::time::Duration) -> String {
    format!("{:6}.{:09}", at.as_secs(), at.subsec_nanos())
}

fn put(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a String takes any text");
}

fn who(party: &Party) -> String {
    format!("p{} {}/{}", party.proc, party.pid, party.tid)
}

fn transaction(line: &mut String, record: &TransactionRecord) {
    let kind = match (record.reply_to, record.oneway) {
        (Some(_), _) => "reply",
        (None, true) => "oneway",
        (None, false) => "call",
    };
    put(line, format_args!("{} {kind} {}", who(&record.from), record.id));
    match &record.to {
        Some(to) => put(line, format_args!(" to {}", who(to))),
        None => line.push_str(" to nobody"),
    }
    match record.reply_to {
        Some(call) => put(line, format_args!(" answers={call}")),
        None => put(line, format_args!(" handle={}", record.handle)),
    }
    if let Some(node) = record.node {
        put(line, format_args!(" node={node}"));
    }
    let sizes = (record.data_size, record.offsets_size);
    put(
        line,
        format_args!(
            " code={} flags={} data={} offsets={}",
            record.code,
            flags(record.flags),
            sizes.0,
            sizes.1
        ),
    );
    if record.buffers_size > 0 {
        put(line, format_args!(" buffers={}", record.buffers_size));
    }
    if record.reply_to.is_none()
        && let Some(interface) = parcel::interface(&record.payload)
    {
        put(line, format_args!(" iface={interface}"));
    }
    put(line, format_args!(" = {}", return_name(record.result)));
    if !record.errno.is_ok() {
        put(line, format_args!(" errno={}", record.errno));
    }
}

fn command_fields(line: &mut String, command: &Command) {
    match command {
        Command::Transaction(data) => sent(line, data, true),
        Command::Reply(data) => sent(line, data, false),
        Command::TransactionSg(data, buffers) => {
            sent(line, data, true);
            put(line, format_args!(" buffers={buffers}"));
        }
        Command::ReplySg(data, buffers) => {
            sent(line, data, false);
            put(line, format_args!(" buffers={buffers}"));
        }
        Command::AcquireResult(value) => put(line, format_args!(" {value}")),
        Command::FreeBuffer { data } => put(line, format_args!(" {data:#x}")),
        Command::Increfs { handle }
        | Command::Acquire { handle }
        | Command::Release { handle }
        | Command::Decrefs { handle } => put(line, format_args!(" handle={handle}")),
        Command::IncrefsDone { ptr, cookie } | Command::AcquireDone { ptr, cookie } => {
            object(line, *ptr, *cookie)
        }
        Command::AttemptAcquire { priority, handle } => {
            put(line, format_args!(" handle={handle} priority={priority}"));
        }
        Command::RegisterLooper | Command::EnterLooper | Command::ExitLooper => {}
        Command::RequestDeathNotification { handle, cookie }
        | Command::ClearDeathNotification { handle, cookie }
        | Command::RequestFreezeNotification { handle, cookie }
        | Command::ClearFreezeNotification { handle, cookie } => {
            put(line, format_args!(" handle={handle} cookie={cookie:#x}"));
        }
        Command::DeadBinderDone { cookie } | Command::FreezeNotificationDone { cookie } => {
            put(line, format_args!(" cookie={cookie:#x}"));
        }
    }
}

fn return_fields(line: &mut String, item: &Return) {
    match item {
        Return::Transaction(data) => received(line, data, true),
        Return::TransactionSecCtx(data, secctx) => {
            received(line, data, true);
            put(line, format_args!(" secctx={secctx:#x}"));
        }
        Return::Reply(data) => received(line, data, false),
        Return::Increfs { ptr, cookie }
        | Return::Acquire { ptr, cookie }
        | Return::Release { ptr, cookie }
        | Return::Decrefs { ptr, cookie } => object(line, *ptr, *cookie),
        Return::DeadBinder { cookie }
        | Return::ClearDeathNotificationDone { cookie }
        | Return::ClearFreezeNotificationDone { cookie } => put(line, format_args!(" cookie={cookie:#x}")),
        Return::FrozenBinder { cookie, is_frozen } => {
            put(line, format_args!(" cookie={cookie:#x} frozen={is_frozen}"));
        }
        Return::Error
        | Return::DeadReply
        | Return::TransactionComplete
        | Return::Noop
        | Return::SpawnLooper
        | Return::FailedReply
        | Return::FrozenReply
        | Return::OnewaySpamSuspect
        | Return::TransactionPendingFrozen => {}
    }
}

fn sent(line: &mut String, data: &TransactionData, call: bool) {
    if call {
        put(line, format_args!(" handle={}", data.target as u32));
    }
    payload(line, data);
}

fn received(line: &mut String, data: &TransactionData, call: bool) {
    if call {
        object(line, data.target, data.cookie);
        put(line, format_args!(" from={}", data.sender_pid));
    }
    put(line, format_args!(" euid={}", data.sender_euid));
    payload(line, data);
}

fn object(line: &mut String, ptr: u64, cookie: u64) {
    put(line, format_args!(" ptr={ptr:#x} cookie={cookie:#x}"));
}

fn payload(line: &mut String, data: &TransactionData) {
    let flags = flags(data.flags);
    put(line, format_args!(" code={} flags={flags} data={}", data.code, data.data_size));
    put(line, format_args!(" offsets={} at {:#x}", data.offsets_size, data.data));
}

/// `TF_*` names joined by `|`, unknown bits in hex, 0 for none.
pub(crate) fn flags(bits: u32) -> String {
    let known = [
        (tf::ONE_WAY, "ONE_WAY"),
        (0x04, "ROOT_OBJECT"),
        (0x08, "STATUS_CODE"),
        (tf::ACCEPT_FDS, "ACCEPT_FDS"),
        (tf::CLEAR_BUF, "CLEAR_BUF"),
        (tf::UPDATE_TXN, "UPDATE_TXN"),
    ];
    let mut names: Vec<String> =
        known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let rest = known.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    if rest != 0 || names.is_empty() {
        names.push(if rest == 0 { "0".to_owned() } else { format!("{rest:#x}") });
    }
    names.join("|")
}

/// Defines a function from numbers of a module of `binder::protocol` to their names in the UAPI.
macro_rules! names {
    ($(#[$doc:meta])* $function:ident, $module:ident, $prefix:literal: $($name:ident)*) => {
        $(#[$doc])*
        pub fn $function(number: u32) -> String {
            match number {
                $($module::$name => concat!($prefix, stringify!($name)).to_owned(),)*
                other => format!("{other:#x}"),
            }
        }
    };
}

names! {
    /// Name of an ioctl, or its number in hex.
    ioctl_name, ioctl, "BINDER_":
    WRITE_READ SET_MAX_THREADS SET_CONTEXT_MGR THREAD_EXIT VERSION GET_NODE_DEBUG_INFO
    GET_NODE_INFO_FOR_REF SET_CONTEXT_MGR_EXT FREEZE GET_FROZEN_INFO ENABLE_ONEWAY_SPAM_DETECTION
    GET_EXTENDED_ERROR
}

names! {
    /// Name of a command word, or its number in hex.
    command_name, bc, "BC_":
    TRANSACTION REPLY ACQUIRE_RESULT FREE_BUFFER INCREFS ACQUIRE RELEASE DECREFS INCREFS_DONE ACQUIRE_DONE
    ATTEMPT_ACQUIRE REGISTER_LOOPER ENTER_LOOPER EXIT_LOOPER REQUEST_DEATH_NOTIFICATION
    CLEAR_DEATH_NOTIFICATION DEAD_BINDER_DONE TRANSACTION_SG REPLY_SG REQUEST_FREEZE_NOTIFICATION
    CLEAR_FREEZE_NOTIFICATION FREEZE_NOTIFICATION_DONE
}

names! {
    /// Name of a return word, or its number in hex.
    return_name, br, "BR_":
    ERROR OK TRANSACTION_SEC_CTX TRANSACTION REPLY DEAD_REPLY TRANSACTION_COMPLETE INCREFS ACQUIRE RELEASE
    DECREFS NOOP SPAWN_LOOPER DEAD_BINDER CLEAR_DEATH_NOTIFICATION_DONE FAILED_REPLY FROZEN_REPLY
    ONEWAY_SPAM_SUSPECT TRANSACTION_PENDING_FROZEN FROZEN_BINDER CLEAR_FREEZE_NOTIFICATION_DONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use binder::{GuestId, Pid, ProcId, Tid};
    use std::time::Duration;

    fn stamped(event: TraceEvent) -> Stamped {
        Stamped { at: Duration::from_nanos(1_500_000_042), guest: GuestId(0), event }
    }

    fn party() -> Party {
        Party { proc: ProcId(3), pid: Pid(213), tid: Tid(217) }
    }

    #[test]
    fn a_command_has_all_its_fields() {
        let data = TransactionData {
            target: 5,
            code: 7,
            flags: 0x11,
            data_size: 96,
            data: 0x1000,
            ..Default::default()
        };
        let event = TraceEvent::Command { thread: party(), command: Command::Transaction(data) };
        assert_eq!(
            line(&stamped(event)),
            "     1.500000042 g0 p3 213/217 BC_TRANSACTION handle=5 code=7 flags=ONE_WAY|ACCEPT_FDS data=96 \
             offsets=0 at 0x1000"
        );
    }

    #[test]
    fn unknown_numbers_stay_numbers() {
        assert_eq!(flags(0), "0");
        assert_eq!(flags(0x81), "ONE_WAY|0x80");
        assert_eq!(command_name(0x1234), "0x1234");
        assert_eq!(ioctl_name(ioctl::VERSION), "BINDER_VERSION");
    }
}
