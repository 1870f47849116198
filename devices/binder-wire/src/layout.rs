//! The byte layout of virtio-binder: a mirror of `guest/shim/virtio_binder.h`, and nothing else.
//!
//! A test compiles the header and compares every size and offset with these types.

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Virtio device id: unassigned by the standard, small enough for Linux's virtio-pci.
pub const DEVICE_ID: u32 = 63;
/// `vb_config.version`.
pub const VERSION: u32 = 1;
/// Bytes of each of the two pages of a message.
pub const PAGE: usize = 4096;
/// Entries of either queue.
pub const QUEUE_SIZE: u16 = 256;
/// Index of the request queue.
pub const REQUEST_QUEUE: u16 = 0;
/// Index of the event queue.
pub const EVENT_QUEUE: u16 = 1;
/// Bytes of an event buffer.
pub const EVENT_SIZE: usize = 256;
/// Bytes of a result that an event carries itself.
pub const EVENT_BYTES: usize = 192;
/// Feature bit: served inside the doorbell write.
pub const F_INLINE: u32 = 0;
/// Feature bit: devices of binderfs, LOG, `vb_config.driver`.
pub const F_BINDERFS: u32 = 1;
/// Feature bit: BC_ATTEMPT_ACQUIRE and what belongs to it.
pub const F_ATTEMPT_ACQUIRE: u32 = 2;
/// Feature bit: `vb_config.post`, and events inside answers.
pub const F_DIRECT: u32 = 3;
/// Bytes of an event before its `bytes`.
pub const EVENT_HEAD: usize = EVENT_SIZE - EVENT_BYTES;
/// `creds_offset` where there are none.
pub const NO_CREDS: u32 = u32::MAX;

/// `vb_header.kind`.
pub mod kind {
    #![allow(missing_docs)]
    pub const OPEN: u16 = 1;
    pub const IOCTL: u16 = 2;
    pub const CONTINUE: u16 = 3;
    pub const CANCEL: u16 = 4;
    pub const TIMEOUT: u16 = 5;
    pub const FETCH: u16 = 6;
    pub const POLL: u16 = 7;
    pub const TRIM: u16 = 8;
    pub const READ_FAULT: u16 = 9;
    pub const POLICY: u16 = 10;
    pub const CTX_DEL: u16 = 11;
    pub const LOG: u16 = 12;
    pub const MMAP: u16 = 32;
    pub const UNMAP: u16 = 33;
    pub const FLUSH: u16 = 34;
    pub const RELEASE: u16 = 36;
}

/// `vb_header.flags`.
pub mod flag {
    #![allow(missing_docs)]
    pub const NONBLOCK: u16 = 1;
    pub const FOREIGN: u16 = 2;
    pub const RBAD: u16 = 4;
    pub const OTHER_SID: u16 = 8;
}

/// `vb_config.driver`.
pub mod driver {
    #![allow(missing_docs)]
    pub const FREEZE_NOTIFICATION: u32 = 1;
    pub const HASHED_LOGS: u32 = 2;
}

/// `vb_log.text`.
pub mod text {
    #![allow(missing_docs)]
    pub const STATE: u32 = 1;
    pub const STATE_HASHED: u32 = 2;
    pub const STATS: u32 = 3;
    pub const TRANSACTIONS: u32 = 4;
    pub const TRANSACTIONS_HASHED: u32 = 5;
    pub const TRANSACTION_LOG: u32 = 6;
    pub const FAILED_TRANSACTION_LOG: u32 = 7;
    pub const PROC: u32 = 8;
}

/// `vb_chunk.end`.
pub mod chunk_end {
    #![allow(missing_docs)]
    pub const LAST: u32 = 0;
    pub const CUT: u32 = 1;
    pub const UNREADABLE: u32 = 2;
}

/// `vb_range.form` and `vb_range.flags`.
pub mod range {
    #![allow(missing_docs)]
    pub const NONE: u16 = 0;
    pub const INLINE: u16 = 1;
    pub const PFNS: u16 = 2;
    pub const FAULT: u16 = 1;
}

/// `vb_continue.reason`.
pub mod reason {
    #![allow(missing_docs)]
    pub const MORE: u32 = 1;
    pub const NEEDS: u32 = 2;
    pub const INSTALL: u32 = 3;
}

/// `vb_answer.status`.
pub mod status {
    #![allow(missing_docs)]
    pub const DONE: u16 = 1;
    pub const MORE: u16 = 2;
    pub const NEEDS: u16 = 3;
    pub const INSTALL: u16 = 4;
    pub const PARKED: u16 = 5;
    pub const TOO_LATE: u16 = 6;
}

/// `vb_answer.park`.
pub mod park {
    #![allow(missing_docs)]
    pub const READ: u16 = 1;
    pub const FREEZE: u16 = 2;
}

/// `vb_need.kind` and `vb_need.lsm`.
pub mod need {
    #![allow(missing_docs)]
    pub const DATA: u16 = 1;
    pub const PAGES: u16 = 2;
    pub const FILES: u16 = 3;
    pub const LSM: u16 = 4;
    pub const LSM_TRANSACTION: u16 = 1;
    pub const LSM_TRANSFER_BINDER: u16 = 2;
}

/// `vb_action.kind`.
pub mod action {
    #![allow(missing_docs)]
    pub const NICE_SET: u32 = 1;
    pub const NICE_RAISE: u32 = 2;
    pub const CLOSE_FD: u32 = 3;
    pub const FPUT: u32 = 4;
    pub const SCHED: u32 = 5;
    pub const SCHED_CHECKED: u32 = 1 << 16;
}

/// `vb_event.kind` and `vb_event.flags`.
pub mod event {
    #![allow(missing_docs)]
    pub const DONE: u16 = 1;
    pub const INSTALL: u16 = 2;
    pub const POLL: u16 = 3;
    pub const MORE_EVENTS: u16 = 1;
    pub const FETCH: u16 = 2;
}

/// Fields with their offsets, in declaration order.
pub(crate) type Layout = Vec<(&'static str, usize)>;

/// Declares a wire struct with public fields and the derives all of them share.
macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty),* }

        impl $name {
            // A test compares all of them with the C header, `tell` names fields of some.
            #[cfg_attr(not(test), allow(dead_code))]
            pub(crate) fn layout() -> Layout {
                vec![$((stringify!($field), std::mem::offset_of!($name, $field))),*]
            }
        }
    )*};
}

wire! {
    /// The device's config space.
    Config {
        version: U32, epoch: U32, lsm: U32, max_procs: U32, max_threads: U32, max_files: U32, driver: U32,
        post: U32,
    }
    /// First bytes of every message.
    Header {
        kind: U16, flags: U16, epoch: U32, proc: U32, tid: U32, seq: U64, leader_euid: U32,
        thread_euid: U32, policy: U32, prio: I32, length: U32, time: U32, comm: [u8; 16],
    }
    /// Body of OPEN.
    Open {
        tgid: U32, default_nice: I32, name_offset: U32, name_length: U32, secctx_offset: U32,
        secctx_length: U32, secctx_error: I32, device: U32,
    }
    /// A piece of the write stream.
    Chunk {
        position: U64, offset: U32, length: U32, end: U32, range_offset: U32, range_count: U32, reserved: U32,
    }
    /// Sender's memory that a command of the chunk names.
    Range { address: U64, length: U64, readable: U64, form: U16, flags: U16, offset: U32 }
    /// Body of IOCTL.
    Ioctl { cmd: U32, arg_error: I32, arg: [u8; 48], lsm_error: I32, reserved: U32, chunk: Chunk }
    /// Body of CONTINUE.
    Continue { reason: U32, result_offset: U32, result_count: U32, reserved: U32, chunk: Chunk }
    /// What became of one need.
    NeedResult { error: I32, count: U32, offset: U32, reserved: U32, range: Range }
    /// Body of TRIM.
    Trim { max: U32, reserved: U32 }
    /// Body of CTX_DEL.
    CtxDel { device: U32, reserved: U32 }
    /// Body of LOG.
    Log { text: U32, pid: U32, skip: U64, page_offset: U32, page_count: U32, reserved: U64 }
    /// Body of READ_FAULT.
    ReadFault { offset: U64 }
    /// Body of MMAP.
    Mmap { address: U64, length: U64 }
    /// First bytes of every answer page.
    Answer {
        status: U16, park: U16, epoch: U32, error: I32, proc: U32, write_consumed: U64, read_consumed: U64,
        value: U64, result_position: U64, result_offset: U32, result_length: U32, first_word: U32,
        creds_offset: U32, creds_proc: U32, timeout_ms: U32, list_offset: U32, list_count: U32,
        action_offset: U32, action_count: U32, idle_pages: U32, event_offset: U16, event_count: U16,
    }
    /// One thing the core misses.
    Need { kind: U16, lsm: U16, proc: U32, address: U64, length: U64, offset: U32, count: U32 }
    /// One thing the owner of an answer does before it returns to its caller.
    Action { kind: U32, value: I32 }
    /// One buffer of the event queue.
    Event {
        kind: U16, flags: U16, epoch: U32, proc: U32, tid: U32, seq: U64, error: I32, length: U32,
        read_consumed: U64, creds_offset: U32, creds_proc: U32, first_word: U32, nice_kind: U32, nice: I32,
        idle_pages: U32, bytes: [u8; EVENT_BYTES],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;
    use std::process::Command;

    /// What the compiled C header says equals what the types above say.
    #[test]
    fn the_types_match_the_compiled_header() {
        let structs: &[(&str, usize, Layout)] = &[
            ("vb_config", size_of::<Config>(), Config::layout()),
            ("vb_header", size_of::<Header>(), Header::layout()),
            ("vb_open", size_of::<Open>(), Open::layout()),
            ("vb_chunk", size_of::<Chunk>(), Chunk::layout()),
            ("vb_range", size_of::<Range>(), Range::layout()),
            ("vb_ioctl", size_of::<Ioctl>(), Ioctl::layout()),
            ("vb_continue", size_of::<Continue>(), Continue::layout()),
            ("vb_result", size_of::<NeedResult>(), NeedResult::layout()),
            ("vb_trim", size_of::<Trim>(), Trim::layout()),
            ("vb_ctx_del", size_of::<CtxDel>(), CtxDel::layout()),
            ("vb_log", size_of::<Log>(), Log::layout()),
            ("vb_read_fault", size_of::<ReadFault>(), ReadFault::layout()),
            ("vb_mmap", size_of::<Mmap>(), Mmap::layout()),
            ("vb_answer", size_of::<Answer>(), Answer::layout()),
            ("vb_need", size_of::<Need>(), Need::layout()),
            ("vb_action", size_of::<Action>(), Action::layout()),
            ("vb_event", size_of::<Event>(), Event::layout()),
        ];
        let constants: &[(&str, u64)] = &[
            ("VB_DEVICE_ID", DEVICE_ID.into()),
            ("VB_VERSION", VERSION.into()),
            ("VB_PAGE_SIZE", PAGE as u64),
            ("VB_QUEUE_SIZE", QUEUE_SIZE.into()),
            ("VB_REQUEST_QUEUE", REQUEST_QUEUE.into()),
            ("VB_EVENT_QUEUE", EVENT_QUEUE.into()),
            ("VB_EVENT_SIZE", EVENT_SIZE as u64),
            ("VB_F_INLINE", F_INLINE.into()),
            ("VB_F_BINDERFS", F_BINDERFS.into()),
            ("VB_F_ATTEMPT_ACQUIRE", F_ATTEMPT_ACQUIRE.into()),
            ("VB_F_DIRECT", F_DIRECT.into()),
            ("VB_EVENT_HEAD", EVENT_HEAD as u64),
            ("VB_DRIVER_FREEZE_NOTIFICATION", driver::FREEZE_NOTIFICATION.into()),
            ("VB_DRIVER_HASHED_LOGS", driver::HASHED_LOGS.into()),
            ("VB_CTX_DEL", kind::CTX_DEL.into()),
            ("VB_POLICY", kind::POLICY.into()),
            ("VB_LOG", kind::LOG.into()),
            ("VB_LOG_PAGES", binder::logs::MAX_TEXT_PAGES as u64),
            ("VB_TEXT_STATE", text::STATE.into()),
            ("VB_TEXT_STATE_HASHED", text::STATE_HASHED.into()),
            ("VB_TEXT_STATS", text::STATS.into()),
            ("VB_TEXT_TRANSACTIONS", text::TRANSACTIONS.into()),
            ("VB_TEXT_TRANSACTIONS_HASHED", text::TRANSACTIONS_HASHED.into()),
            ("VB_TEXT_TRANSACTION_LOG", text::TRANSACTION_LOG.into()),
            ("VB_TEXT_FAILED_TRANSACTION_LOG", text::FAILED_TRANSACTION_LOG.into()),
            ("VB_TEXT_PROC", text::PROC.into()),
            ("VB_NO_CREDS", NO_CREDS.into()),
            ("VB_OPEN", kind::OPEN.into()),
            ("VB_IOCTL", kind::IOCTL.into()),
            ("VB_CONTINUE", kind::CONTINUE.into()),
            ("VB_CANCEL", kind::CANCEL.into()),
            ("VB_TIMEOUT", kind::TIMEOUT.into()),
            ("VB_FETCH", kind::FETCH.into()),
            ("VB_POLL", kind::POLL.into()),
            ("VB_TRIM", kind::TRIM.into()),
            ("VB_READ_FAULT", kind::READ_FAULT.into()),
            ("VB_MMAP", kind::MMAP.into()),
            ("VB_UNMAP", kind::UNMAP.into()),
            ("VB_FLUSH", kind::FLUSH.into()),
            ("VB_RELEASE", kind::RELEASE.into()),
            ("VB_MSG_NONBLOCK", flag::NONBLOCK.into()),
            ("VB_MSG_FOREIGN", flag::FOREIGN.into()),
            ("VB_MSG_RBAD", flag::RBAD.into()),
            ("VB_MSG_OTHER_SID", flag::OTHER_SID.into()),
            ("VB_CHUNK_LAST", chunk_end::LAST.into()),
            ("VB_CHUNK_CUT", chunk_end::CUT.into()),
            ("VB_CHUNK_UNREADABLE", chunk_end::UNREADABLE.into()),
            ("VB_RANGE_NONE", range::NONE.into()),
            ("VB_RANGE_INLINE", range::INLINE.into()),
            ("VB_RANGE_PFNS", range::PFNS.into()),
            ("VB_RANGE_FAULT", range::FAULT.into()),
            ("VB_CONT_MORE", reason::MORE.into()),
            ("VB_CONT_NEEDS", reason::NEEDS.into()),
            ("VB_CONT_INSTALL", reason::INSTALL.into()),
            ("VB_DONE", status::DONE.into()),
            ("VB_MORE", status::MORE.into()),
            ("VB_NEEDS", status::NEEDS.into()),
            ("VB_INSTALL", status::INSTALL.into()),
            ("VB_PARKED", status::PARKED.into()),
            ("VB_TOO_LATE", status::TOO_LATE.into()),
            ("VB_PARK_READ", park::READ.into()),
            ("VB_PARK_FREEZE", park::FREEZE.into()),
            ("VB_NEED_DATA", need::DATA.into()),
            ("VB_NEED_PAGES", need::PAGES.into()),
            ("VB_NEED_FILES", need::FILES.into()),
            ("VB_NEED_LSM", need::LSM.into()),
            ("VB_LSM_TRANSACTION", need::LSM_TRANSACTION.into()),
            ("VB_LSM_TRANSFER_BINDER", need::LSM_TRANSFER_BINDER.into()),
            ("VB_ACT_NICE_SET", action::NICE_SET.into()),
            ("VB_ACT_NICE_RAISE", action::NICE_RAISE.into()),
            ("VB_ACT_CLOSE_FD", action::CLOSE_FD.into()),
            ("VB_ACT_FPUT", action::FPUT.into()),
            ("VB_ACT_SCHED", action::SCHED.into()),
            ("VB_SCHED_CHECKED", action::SCHED_CHECKED.into()),
            ("VB_EV_DONE", event::DONE.into()),
            ("VB_EV_INSTALL", event::INSTALL.into()),
            ("VB_EV_POLL", event::POLL.into()),
            ("VB_EV_MORE_EVENTS", event::MORE_EVENTS.into()),
            ("VB_EV_FETCH", event::FETCH.into()),
        ];

        let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/shim/virtio_binder.h");
        let mut program = format!("#include \"{header}\"\n#include <stddef.h>\n");
        for (name, size, fields) in structs {
            writeln!(program, "_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");").unwrap();
            for (field, offset) in fields {
                let what = format!("{name}.{field}");
                writeln!(
                    program,
                    "_Static_assert(offsetof(struct {name}, {field}) == {offset}, \"{what}\");"
                )
                .unwrap();
            }
        }
        for (name, value) in constants {
            writeln!(program, "_Static_assert({name} == {value}ULL, \"{name}\");").unwrap();
        }

        let out = std::env::temp_dir().join(format!("virtio-binder-layout-{}.c", std::process::id()));
        std::fs::write(&out, program).unwrap();
        let gcc = Command::new("gcc").args(["-std=c11", "-fsyntax-only"]).arg(&out).output().unwrap();
        std::fs::remove_file(&out).unwrap();
        assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
    }
}
