//! What a guest may use, and which kernel the core behaves like.

use serde::{Deserialize, Serialize};

/// When the guest's LSM is asked about calls and transferred binders (`vb_config.lsm`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LsmMode {
    /// Never.
    #[default]
    Off,
    /// Every (sender, target, question) once, until the policy changes.
    Cache,
    /// Every time.
    Ask,
}

/// Quotas of one guest. The kernel has none of them (B253); over a quota the core answers as the
/// kernel does when memory is short: `ENOMEM`, or `BR_FAILED_REPLY` with -12 for a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open binder files.
    pub max_procs: u32,
    /// Thread objects.
    pub max_threads: u32,
    /// Local objects (nodes).
    pub max_nodes: u32,
    /// Handles, all processes together. Twice as many death and freeze registrations may exist,
    /// cleared ones that are not read yet included.
    pub max_refs: u32,
    /// Transactions sent and neither answered nor (oneway) read, and completions not read.
    pub max_transactions: u32,
    /// Buffers in the mappings of its processes.
    pub max_buffers: u32,
    /// Objects in those buffers: so many counts on nodes and handles may be remembered for them.
    pub max_buffer_objects: u32,
    /// binderfs devices that were opened and still exist.
    pub max_contexts: u32,
    /// File descriptors in one transaction; at most [`crate::message::MAX_INSTALL_FILES`].
    pub max_files: u32,
    /// Files that the shim holds for the core.
    pub max_tokens: u32,
    /// Bytes that commands keep which wait for the guest.
    pub max_suspended_bytes: u64,
    /// Objects in one transaction.
    pub max_objects: u32,
    /// Whether the guest's LSM is asked.
    pub lsm: LsmMode,
    /// Security context given to senders whose guest has none (B340). `None`: such calls fail (B339).
    pub default_secctx: Option<Vec<u8>>,
    /// Bytes of each payload that the trace carries.
    pub trace_payload: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_procs: 4096,
            max_threads: 65536,
            max_nodes: 262144,
            max_refs: 524288,
            max_transactions: 131072,
            max_buffers: 262144,
            max_buffer_objects: 4 << 20,
            max_contexts: 4096,
            max_files: 512,
            max_tokens: 65536,
            max_suspended_bytes: 64 << 20,
            max_objects: 65536,
            lsm: LsmMode::Off,
            default_secctx: None,
            trace_payload: 128,
        }
    }
}

/// The kernel whose driver is followed where versions differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The C driver of Linux 6.1: no freeze notifications, group leader's euid (B332).
    Linux6_1,
    /// The C driver of Linux 6.12: freeze notifications, group leader's euid.
    Linux6_12,
    /// The C driver of Linux 7.2: freeze notifications, calling thread's euid.
    #[default]
    Linux7_2,
    /// The C driver of the Android common kernel (android14-6.1 and later): freeze notifications, group leader's
    /// euid, and AOSP's own: policies and priorities of nodes, real time inherited (B327), process work
    /// for loopers only (B457).
    Aosp,
}

impl Profile {
    /// Whether the freeze notification commands and `BR_TRANSACTION_PENDING_FROZEN` exist (B114, B137).
    pub fn freeze_notifications(self) -> bool {
        self != Profile::Linux6_1
    }

    /// Whether a oneway that is placed counts when its sender is suspected of spam (B153). The allocator of
    /// Android 14's common kernel is that of 6.1.
    pub fn spam_counts_itself(self) -> bool {
        matches!(self, Profile::Linux6_1 | Profile::Aosp)
    }

    /// Whether there are logs with hashed pointers (B415).
    pub fn has_hashed_logs(self) -> bool {
        self == Profile::Linux7_2
    }

    /// Whether `sender_euid` is the calling thread's euid and not the group leader's (B332).
    pub fn thread_euid(self) -> bool {
        self == Profile::Linux7_2
    }
}
