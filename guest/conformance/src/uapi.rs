//! Numbers and sizes of the binder UAPI: 64-bit, protocol 8 (BINDER.md section 14).
//!
//! The command words are built from their payload sizes as the kernel's `_IO*` macros do, and a test compares
//! them with the literal values of BINDER.md.

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// An ioctl-style number: direction, type letter, sequence number and payload size.
const fn word(direction: u32, letter: u8, number: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | (letter as u32) << 8 | number
}

/// The payload size that a command, return or ioctl number carries in bits 16 to 29.
pub const fn payload_size(word: u32) -> usize {
    (word >> 16 & 0x3fff) as usize
}

/// ioctl numbers (14.1).
pub mod ioctl {
    use super::{NONE, READ, WRITE, word};
    pub const WRITE_READ: u32 = word(READ | WRITE, b'b', 1, 48);
    pub const SET_IDLE_TIMEOUT: u32 = word(WRITE, b'b', 3, 8);
    pub const SET_MAX_THREADS: u32 = word(WRITE, b'b', 5, 4);
    pub const SET_IDLE_PRIORITY: u32 = word(WRITE, b'b', 6, 4);
    pub const SET_CONTEXT_MGR: u32 = word(WRITE, b'b', 7, 4);
    pub const THREAD_EXIT: u32 = word(WRITE, b'b', 8, 4);
    pub const VERSION: u32 = word(READ | WRITE, b'b', 9, 4);
    pub const GET_NODE_DEBUG_INFO: u32 = word(READ | WRITE, b'b', 11, 24);
    pub const GET_NODE_INFO_FOR_REF: u32 = word(READ | WRITE, b'b', 12, 24);
    pub const SET_CONTEXT_MGR_EXT: u32 = word(WRITE, b'b', 13, 24);
    pub const FREEZE: u32 = word(WRITE, b'b', 14, 12);
    pub const GET_FROZEN_INFO: u32 = word(READ | WRITE, b'b', 15, 12);
    pub const ENABLE_ONEWAY_SPAM_DETECTION: u32 = word(WRITE, b'b', 16, 4);
    pub const GET_EXTENDED_ERROR: u32 = word(READ | WRITE, b'b', 17, 12);
    /// A number of type 'b' that no kernel uses.
    pub const UNUSED: u32 = word(NONE, b'b', 4, 0);
}

/// Commands of the write buffer (14.2).
pub mod bc {
    use super::{NONE, WRITE, word};
    pub const TRANSACTION: u32 = word(WRITE, b'c', 0, 64);
    pub const REPLY: u32 = word(WRITE, b'c', 1, 64);
    pub const ACQUIRE_RESULT: u32 = word(WRITE, b'c', 2, 4);
    pub const FREE_BUFFER: u32 = word(WRITE, b'c', 3, 8);
    pub const INCREFS: u32 = word(WRITE, b'c', 4, 4);
    pub const ACQUIRE: u32 = word(WRITE, b'c', 5, 4);
    pub const RELEASE: u32 = word(WRITE, b'c', 6, 4);
    pub const DECREFS: u32 = word(WRITE, b'c', 7, 4);
    pub const INCREFS_DONE: u32 = word(WRITE, b'c', 8, 16);
    pub const ACQUIRE_DONE: u32 = word(WRITE, b'c', 9, 16);
    pub const ATTEMPT_ACQUIRE: u32 = word(WRITE, b'c', 10, 8);
    pub const REGISTER_LOOPER: u32 = word(NONE, b'c', 11, 0);
    pub const ENTER_LOOPER: u32 = word(NONE, b'c', 12, 0);
    pub const EXIT_LOOPER: u32 = word(NONE, b'c', 13, 0);
    /// The payload is the packed 12-byte `binder_handle_cookie` (B103).
    pub const REQUEST_DEATH_NOTIFICATION: u32 = word(WRITE, b'c', 14, 12);
    pub const CLEAR_DEATH_NOTIFICATION: u32 = word(WRITE, b'c', 15, 12);
    pub const DEAD_BINDER_DONE: u32 = word(WRITE, b'c', 16, 8);
    pub const TRANSACTION_SG: u32 = word(WRITE, b'c', 17, 72);
    pub const REPLY_SG: u32 = word(WRITE, b'c', 18, 72);
    pub const REQUEST_FREEZE_NOTIFICATION: u32 = word(WRITE, b'c', 19, 12);
    pub const CLEAR_FREEZE_NOTIFICATION: u32 = word(WRITE, b'c', 20, 12);
    pub const FREEZE_NOTIFICATION_DONE: u32 = word(WRITE, b'c', 21, 8);

    /// Every command with its name.
    pub const NAMES: [(u32, &str); 22] = [
        (TRANSACTION, "BC_TRANSACTION"),
        (REPLY, "BC_REPLY"),
        (ACQUIRE_RESULT, "BC_ACQUIRE_RESULT"),
        (FREE_BUFFER, "BC_FREE_BUFFER"),
        (INCREFS, "BC_INCREFS"),
        (ACQUIRE, "BC_ACQUIRE"),
        (RELEASE, "BC_RELEASE"),
        (DECREFS, "BC_DECREFS"),
        (INCREFS_DONE, "BC_INCREFS_DONE"),
        (ACQUIRE_DONE, "BC_ACQUIRE_DONE"),
        (ATTEMPT_ACQUIRE, "BC_ATTEMPT_ACQUIRE"),
        (REGISTER_LOOPER, "BC_REGISTER_LOOPER"),
        (ENTER_LOOPER, "BC_ENTER_LOOPER"),
        (EXIT_LOOPER, "BC_EXIT_LOOPER"),
        (REQUEST_DEATH_NOTIFICATION, "BC_REQUEST_DEATH_NOTIFICATION"),
        (CLEAR_DEATH_NOTIFICATION, "BC_CLEAR_DEATH_NOTIFICATION"),
        (DEAD_BINDER_DONE, "BC_DEAD_BINDER_DONE"),
        (TRANSACTION_SG, "BC_TRANSACTION_SG"),
        (REPLY_SG, "BC_REPLY_SG"),
        (REQUEST_FREEZE_NOTIFICATION, "BC_REQUEST_FREEZE_NOTIFICATION"),
        (CLEAR_FREEZE_NOTIFICATION, "BC_CLEAR_FREEZE_NOTIFICATION"),
        (FREEZE_NOTIFICATION_DONE, "BC_FREEZE_NOTIFICATION_DONE"),
    ];
}

/// Returns of the read buffer (14.3).
pub mod br {
    use super::{NONE, READ, word};
    pub const ERROR: u32 = word(READ, b'r', 0, 4);
    pub const OK: u32 = word(NONE, b'r', 1, 0);
    pub const TRANSACTION_SEC_CTX: u32 = word(READ, b'r', 2, 72);
    pub const TRANSACTION: u32 = word(READ, b'r', 2, 64);
    pub const REPLY: u32 = word(READ, b'r', 3, 64);
    pub const ACQUIRE_RESULT: u32 = word(READ, b'r', 4, 4);
    pub const DEAD_REPLY: u32 = word(NONE, b'r', 5, 0);
    pub const TRANSACTION_COMPLETE: u32 = word(NONE, b'r', 6, 0);
    pub const INCREFS: u32 = word(READ, b'r', 7, 16);
    pub const ACQUIRE: u32 = word(READ, b'r', 8, 16);
    pub const RELEASE: u32 = word(READ, b'r', 9, 16);
    pub const DECREFS: u32 = word(READ, b'r', 10, 16);
    pub const ATTEMPT_ACQUIRE: u32 = word(READ, b'r', 11, 24);
    pub const NOOP: u32 = word(NONE, b'r', 12, 0);
    pub const SPAWN_LOOPER: u32 = word(NONE, b'r', 13, 0);
    pub const FINISHED: u32 = word(NONE, b'r', 14, 0);
    pub const DEAD_BINDER: u32 = word(READ, b'r', 15, 8);
    pub const CLEAR_DEATH_NOTIFICATION_DONE: u32 = word(READ, b'r', 16, 8);
    pub const FAILED_REPLY: u32 = word(NONE, b'r', 17, 0);
    pub const FROZEN_REPLY: u32 = word(NONE, b'r', 18, 0);
    pub const ONEWAY_SPAM_SUSPECT: u32 = word(NONE, b'r', 19, 0);
    pub const TRANSACTION_PENDING_FROZEN: u32 = word(NONE, b'r', 20, 0);
    pub const FROZEN_BINDER: u32 = word(READ, b'r', 21, 16);
    pub const CLEAR_FREEZE_NOTIFICATION_DONE: u32 = word(READ, b'r', 22, 8);

    /// Every return with its name.
    pub const NAMES: [(u32, &str); 24] = [
        (ERROR, "BR_ERROR"),
        (OK, "BR_OK"),
        (TRANSACTION_SEC_CTX, "BR_TRANSACTION_SEC_CTX"),
        (TRANSACTION, "BR_TRANSACTION"),
        (REPLY, "BR_REPLY"),
        (ACQUIRE_RESULT, "BR_ACQUIRE_RESULT"),
        (DEAD_REPLY, "BR_DEAD_REPLY"),
        (TRANSACTION_COMPLETE, "BR_TRANSACTION_COMPLETE"),
        (INCREFS, "BR_INCREFS"),
        (ACQUIRE, "BR_ACQUIRE"),
        (RELEASE, "BR_RELEASE"),
        (DECREFS, "BR_DECREFS"),
        (ATTEMPT_ACQUIRE, "BR_ATTEMPT_ACQUIRE"),
        (NOOP, "BR_NOOP"),
        (SPAWN_LOOPER, "BR_SPAWN_LOOPER"),
        (FINISHED, "BR_FINISHED"),
        (DEAD_BINDER, "BR_DEAD_BINDER"),
        (CLEAR_DEATH_NOTIFICATION_DONE, "BR_CLEAR_DEATH_NOTIFICATION_DONE"),
        (FAILED_REPLY, "BR_FAILED_REPLY"),
        (FROZEN_REPLY, "BR_FROZEN_REPLY"),
        (ONEWAY_SPAM_SUSPECT, "BR_ONEWAY_SPAM_SUSPECT"),
        (TRANSACTION_PENDING_FROZEN, "BR_TRANSACTION_PENDING_FROZEN"),
        (FROZEN_BINDER, "BR_FROZEN_BINDER"),
        (CLEAR_FREEZE_NOTIFICATION_DONE, "BR_CLEAR_FREEZE_NOTIFICATION_DONE"),
    ];
}

/// The name of a command or return word, if the protocol has one.
pub fn name(word: u32) -> Option<&'static str> {
    bc::NAMES.iter().chain(&br::NAMES).find(|(number, _)| *number == word).map(|(_, name)| *name)
}

/// Transaction flags (B139).
pub mod tf {
    pub const ONE_WAY: u32 = 0x01;
    pub const ROOT_OBJECT: u32 = 0x04;
    pub const STATUS_CODE: u32 = 0x08;
    pub const ACCEPT_FDS: u32 = 0x10;
    pub const CLEAR_BUF: u32 = 0x20;
    pub const UPDATE_TXN: u32 = 0x40;
}

/// Flags of a flat object (B160).
pub mod flat {
    pub const ACCEPTS_FDS: u32 = 0x100;
    pub const TXN_SECURITY_CTX: u32 = 0x1000;
    /// AOSP's: callees may get the caller's real-time policy (B327).
    pub const INHERIT_RT: u32 = 0x800;
    /// AOSP's: where the node's own policy stands, with its priority in the lowest byte.
    pub const SCHED_POLICY_SHIFT: u32 = 9;
}

/// Object types (B155).
pub mod kind {
    const fn letters(a: u8, b: u8, c: u8) -> u32 {
        (a as u32) << 24 | (b as u32) << 16 | (c as u32) << 8 | 0x85
    }
    pub const BINDER: u32 = letters(b's', b'b', b'*');
    pub const WEAK_BINDER: u32 = letters(b'w', b'b', b'*');
    pub const HANDLE: u32 = letters(b's', b'h', b'*');
    pub const WEAK_HANDLE: u32 = letters(b'w', b'h', b'*');
    pub const FD: u32 = letters(b'f', b'd', b'*');
    pub const FDA: u32 = letters(b'f', b'd', b'a');
    pub const PTR: u32 = letters(b'p', b't', b'*');
}

/// A PTR object that patches a word of its parent (B158).
pub const HAS_PARENT: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_catalogue() {
        assert_eq!(ioctl::WRITE_READ, 0xc030_6201);
        assert_eq!(ioctl::SET_MAX_THREADS, 0x4004_6205);
        assert_eq!(ioctl::SET_CONTEXT_MGR, 0x4004_6207);
        assert_eq!(ioctl::SET_CONTEXT_MGR_EXT, 0x4018_620d);
        assert_eq!(ioctl::VERSION, 0xc004_6209);
        assert_eq!(ioctl::GET_NODE_DEBUG_INFO, 0xc018_620b);
        assert_eq!(ioctl::GET_NODE_INFO_FOR_REF, 0xc018_620c);
        assert_eq!(ioctl::FREEZE, 0x400c_620e);
        assert_eq!(ioctl::GET_FROZEN_INFO, 0xc00c_620f);
        assert_eq!(ioctl::GET_EXTENDED_ERROR, 0xc00c_6211);
        assert_eq!(bc::TRANSACTION, 0x4040_6300);
        assert_eq!(bc::ATTEMPT_ACQUIRE, 0x4008_630a);
        assert_eq!(bc::ENTER_LOOPER, 0x0000_630c);
        assert_eq!(bc::REQUEST_DEATH_NOTIFICATION, 0x400c_630e);
        assert_eq!(bc::TRANSACTION_SG, 0x4048_6311);
        assert_eq!(bc::FREEZE_NOTIFICATION_DONE, 0x4008_6315);
        assert_eq!(br::TRANSACTION_SEC_CTX, 0x8048_7202);
        assert_eq!(br::TRANSACTION, 0x8040_7202);
        assert_eq!(br::DECREFS, 0x8010_720a);
        assert_eq!(br::FROZEN_BINDER, 0x8010_7215);
        assert_eq!(kind::BINDER, 0x7362_2a85);
        assert_eq!(kind::FDA, 0x6664_6185);
        assert_eq!(kind::PTR, 0x7074_2a85);
    }

    #[test]
    fn names_are_found_by_the_whole_word() {
        assert_eq!(name(br::TRANSACTION), Some("BR_TRANSACTION"));
        assert_eq!(name(br::TRANSACTION_SEC_CTX), Some("BR_TRANSACTION_SEC_CTX"));
        assert_eq!(name(word(WRITE, b'c', 14, 16)), None);
        assert_eq!(payload_size(bc::CLEAR_DEATH_NOTIFICATION), 12);
    }
}
