//! The binder protocol's commands and returns as data: one variant each, which knows its number
//! and its bytes (BINDER.md 14, 64-bit layout, protocol version 8).

use serde::{Deserialize, Serialize};

use crate::ids::{Kuid, Pid};

/// `BINDER_CURRENT_PROTOCOL_VERSION`.
pub const PROTOCOL_VERSION: i32 = 8;

/// Numbers of the ioctls (14.1).
pub mod ioctl {
    #![allow(missing_docs)]
    pub const WRITE_READ: u32 = 0xc030_6201;
    pub const SET_MAX_THREADS: u32 = 0x4004_6205;
    pub const SET_CONTEXT_MGR: u32 = 0x4004_6207;
    pub const THREAD_EXIT: u32 = 0x4004_6208;
    pub const VERSION: u32 = 0xc004_6209;
    pub const GET_NODE_DEBUG_INFO: u32 = 0xc018_620b;
    pub const GET_NODE_INFO_FOR_REF: u32 = 0xc018_620c;
    pub const SET_CONTEXT_MGR_EXT: u32 = 0x4018_620d;
    pub const FREEZE: u32 = 0x400c_620e;
    pub const GET_FROZEN_INFO: u32 = 0xc00c_620f;
    pub const ENABLE_ONEWAY_SPAM_DETECTION: u32 = 0x4004_6210;
    pub const GET_EXTENDED_ERROR: u32 = 0xc00c_6211;
}

/// Numbers of the commands (14.2).
pub mod bc {
    #![allow(missing_docs)]
    pub const TRANSACTION: u32 = 0x4040_6300;
    pub const REPLY: u32 = 0x4040_6301;
    pub const ACQUIRE_RESULT: u32 = 0x4004_6302;
    pub const FREE_BUFFER: u32 = 0x4008_6303;
    pub const INCREFS: u32 = 0x4004_6304;
    pub const ACQUIRE: u32 = 0x4004_6305;
    pub const RELEASE: u32 = 0x4004_6306;
    pub const DECREFS: u32 = 0x4004_6307;
    pub const INCREFS_DONE: u32 = 0x4010_6308;
    pub const ACQUIRE_DONE: u32 = 0x4010_6309;
    pub const ATTEMPT_ACQUIRE: u32 = 0x4008_630a;
    pub const REGISTER_LOOPER: u32 = 0x0000_630b;
    pub const ENTER_LOOPER: u32 = 0x0000_630c;
    pub const EXIT_LOOPER: u32 = 0x0000_630d;
    pub const REQUEST_DEATH_NOTIFICATION: u32 = 0x400c_630e;
    pub const CLEAR_DEATH_NOTIFICATION: u32 = 0x400c_630f;
    pub const DEAD_BINDER_DONE: u32 = 0x4008_6310;
    pub const TRANSACTION_SG: u32 = 0x4048_6311;
    pub const REPLY_SG: u32 = 0x4048_6312;
    pub const REQUEST_FREEZE_NOTIFICATION: u32 = 0x400c_6313;
    pub const CLEAR_FREEZE_NOTIFICATION: u32 = 0x400c_6314;
    pub const FREEZE_NOTIFICATION_DONE: u32 = 0x4008_6315;
}

/// Numbers of the returns (14.3).
pub mod br {
    #![allow(missing_docs)]
    pub const ERROR: u32 = 0x8004_7200;
    pub const OK: u32 = 0x0000_7201;
    pub const TRANSACTION_SEC_CTX: u32 = 0x8048_7202;
    pub const TRANSACTION: u32 = 0x8040_7202;
    pub const REPLY: u32 = 0x8040_7203;
    pub const ACQUIRE_RESULT: u32 = 0x8004_7204;
    pub const DEAD_REPLY: u32 = 0x0000_7205;
    pub const TRANSACTION_COMPLETE: u32 = 0x0000_7206;
    pub const INCREFS: u32 = 0x8010_7207;
    pub const ACQUIRE: u32 = 0x8010_7208;
    pub const RELEASE: u32 = 0x8010_7209;
    pub const DECREFS: u32 = 0x8010_720a;
    pub const ATTEMPT_ACQUIRE: u32 = 0x8018_720b;
    pub const NOOP: u32 = 0x0000_720c;
    pub const SPAWN_LOOPER: u32 = 0x0000_720d;
    pub const DEAD_BINDER: u32 = 0x8008_720f;
    pub const CLEAR_DEATH_NOTIFICATION_DONE: u32 = 0x8008_7210;
    pub const FAILED_REPLY: u32 = 0x0000_7211;
    pub const FROZEN_REPLY: u32 = 0x0000_7212;
    pub const ONEWAY_SPAM_SUSPECT: u32 = 0x0000_7213;
    pub const TRANSACTION_PENDING_FROZEN: u32 = 0x0000_7214;
    pub const FROZEN_BINDER: u32 = 0x8010_7215;
    pub const CLEAR_FREEZE_NOTIFICATION_DONE: u32 = 0x8008_7216;
}

/// Flags of a transaction (B139).
pub mod tf {
    #![allow(missing_docs)]
    pub const ONE_WAY: u32 = 0x01;
    pub const ACCEPT_FDS: u32 = 0x10;
    pub const CLEAR_BUF: u32 = 0x20;
    pub const UPDATE_TXN: u32 = 0x40;
}

/// Types and flags of the objects in a transaction (B155, B160).
pub mod object {
    #![allow(missing_docs)]
    pub const BINDER: u32 = 0x7362_2a85;
    pub const WEAK_BINDER: u32 = 0x7762_2a85;
    pub const HANDLE: u32 = 0x7368_2a85;
    pub const WEAK_HANDLE: u32 = 0x7768_2a85;
    pub const FD: u32 = 0x6664_2a85;
    pub const FDA: u32 = 0x6664_6185;
    pub const PTR: u32 = 0x7074_2a85;
    pub const FLAG_PRIORITY_MASK: u32 = 0xff;
    pub const FLAG_ACCEPTS_FDS: u32 = 0x100;
    /// AOSP kernels: the policy of the minimum priority.
    pub const FLAG_SCHED_POLICY_SHIFT: u32 = 9;
    pub const FLAG_SCHED_POLICY_MASK: u32 = 3 << FLAG_SCHED_POLICY_SHIFT;
    /// AOSP kernels: real-time callers lend their priority.
    pub const FLAG_INHERIT_RT: u32 = 0x800;
    pub const FLAG_TXN_SECURITY_CTX: u32 = 0x1000;
    pub const PTR_FLAG_HAS_PARENT: u32 = 0x01;
}

/// `struct binder_transaction_data`, 64 bytes (B104).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionData {
    /// Commands: the handle in the low half. Returns: the node's pointer; 0 for a reply.
    pub target: u64,
    /// Returns: the node's cookie. Ignored in commands (B107).
    pub cookie: u64,
    /// The method, for the two sides to agree on.
    pub code: u32,
    /// `TF_*` bits.
    pub flags: u32,
    /// Returns: who sent it (B330).
    pub sender_pid: Pid,
    /// Returns: effective uid of the sender.
    pub sender_euid: Kuid,
    /// Bytes of data.
    pub data_size: u64,
    /// Bytes of the offsets array.
    pub offsets_size: u64,
    /// User address of the data.
    pub data: u64,
    /// User address of the offsets array.
    pub offsets: u64,
}

/// Bytes of [`TransactionData`].
pub const TRANSACTION_DATA_SIZE: usize = 64;
/// Offset of `sender_pid` in [`TransactionData`]; `sender_euid` follows.
pub const SENDER_PID_OFFSET: usize = 24;

impl TransactionData {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let bytes: [u8; TRANSACTION_DATA_SIZE] = reader.array()?;
        let [target, cookie, code, sender, data_size, offsets_size, data, offsets] = words(&bytes);
        Some(TransactionData {
            target,
            cookie,
            code: code as u32,
            flags: (code >> 32) as u32,
            sender_pid: Pid(sender as u32),
            sender_euid: Kuid((sender >> 32) as u32),
            data_size,
            offsets_size,
            data,
            offsets,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let words = [
            self.target,
            self.cookie,
            pair(self.code, self.flags),
            pair(self.sender_pid.0, self.sender_euid.0),
            self.data_size,
            self.offsets_size,
            self.data,
            self.offsets,
        ];
        let mut bytes = [0; TRANSACTION_DATA_SIZE];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&bytes);
    }
}

/// A command of the write stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Command {
    Transaction(TransactionData),
    Reply(TransactionData),
    /// Reserves `buffers_size` bytes for PTR payloads.
    TransactionSg(TransactionData, u64),
    /// Reserves `buffers_size` bytes for PTR payloads.
    ReplySg(TransactionData, u64),
    AcquireResult(i32),
    FreeBuffer {
        data: u64,
    },
    Increfs {
        handle: u32,
    },
    Acquire {
        handle: u32,
    },
    Release {
        handle: u32,
    },
    Decrefs {
        handle: u32,
    },
    IncrefsDone {
        ptr: u64,
        cookie: u64,
    },
    AcquireDone {
        ptr: u64,
        cookie: u64,
    },
    AttemptAcquire {
        priority: i32,
        handle: u32,
    },
    RegisterLooper,
    EnterLooper,
    ExitLooper,
    RequestDeathNotification {
        handle: u32,
        cookie: u64,
    },
    ClearDeathNotification {
        handle: u32,
        cookie: u64,
    },
    DeadBinderDone {
        cookie: u64,
    },
    RequestFreezeNotification {
        handle: u32,
        cookie: u64,
    },
    ClearFreezeNotification {
        handle: u32,
        cookie: u64,
    },
    FreezeNotificationDone {
        cookie: u64,
    },
}

/// A piece of the write stream that is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotACommand {
    /// Nothing is left, or fewer than four bytes.
    End,
    /// The payload is cut short.
    Short {
        /// The command word.
        word: u32,
    },
    /// No such command.
    Unknown {
        /// The command word.
        word: u32,
    },
}

impl Command {
    /// Decodes the command at the start of `bytes`; also tells how many bytes it takes.
    pub fn decode(bytes: &[u8]) -> Result<(Command, usize), NotACommand> {
        let mut reader = Reader(bytes);
        let word = reader.u32().ok_or(NotACommand::End)?;
        match Self::payload(word, &mut reader) {
            Some(command) => Ok((command, bytes.len() - reader.0.len())),
            None if Self::is_known(word) => Err(NotACommand::Short { word }),
            None => Err(NotACommand::Unknown { word }),
        }
    }

    /// A command is known if there is one for bytes enough.
    #[cold]
    fn is_known(word: u32) -> bool {
        Self::payload(word, &mut Reader(&[0; 2 * TRANSACTION_DATA_SIZE])).is_some()
    }

    #[inline(always)]
    fn payload(word: u32, r: &mut Reader<'_>) -> Option<Command> {
        fn handle_cookie(r: &mut Reader<'_>) -> Option<(u32, u64)> {
            Some((r.u32()?, r.u64()?))
        }
        fn ptr_cookie(r: &mut Reader<'_>) -> Option<(u64, u64)> {
            Some((r.u64()?, r.u64()?))
        }
        fn with_size(r: &mut Reader<'_>) -> Option<(TransactionData, u64)> {
            Some((TransactionData::read(r)?, r.u64()?))
        }
        match word {
            bc::TRANSACTION => TransactionData::read(r).map(Command::Transaction),
            bc::REPLY => TransactionData::read(r).map(Command::Reply),
            bc::TRANSACTION_SG => with_size(r).map(|(data, size)| Command::TransactionSg(data, size)),
            bc::REPLY_SG => with_size(r).map(|(data, size)| Command::ReplySg(data, size)),
            bc::ACQUIRE_RESULT => r.u32().map(|value| Command::AcquireResult(value as i32)),
            bc::FREE_BUFFER => r.u64().map(|data| Command::FreeBuffer { data }),
            bc::INCREFS => r.u32().map(|handle| Command::Increfs { handle }),
            bc::ACQUIRE => r.u32().map(|handle| Command::Acquire { handle }),
            bc::RELEASE => r.u32().map(|handle| Command::Release { handle }),
            bc::DECREFS => r.u32().map(|handle| Command::Decrefs { handle }),
            bc::INCREFS_DONE => ptr_cookie(r).map(|(ptr, cookie)| Command::IncrefsDone { ptr, cookie }),
            bc::ACQUIRE_DONE => ptr_cookie(r).map(|(ptr, cookie)| Command::AcquireDone { ptr, cookie }),
            bc::ATTEMPT_ACQUIRE => {
                let mut fields = || Some((r.u32()? as i32, r.u32()?));
                fields().map(|(priority, handle)| Command::AttemptAcquire { priority, handle })
            }
            bc::REGISTER_LOOPER => Some(Command::RegisterLooper),
            bc::ENTER_LOOPER => Some(Command::EnterLooper),
            bc::EXIT_LOOPER => Some(Command::ExitLooper),
            bc::REQUEST_DEATH_NOTIFICATION => {
                handle_cookie(r).map(|(handle, cookie)| Command::RequestDeathNotification { handle, cookie })
            }
            bc::CLEAR_DEATH_NOTIFICATION => {
                handle_cookie(r).map(|(handle, cookie)| Command::ClearDeathNotification { handle, cookie })
            }
            bc::DEAD_BINDER_DONE => r.u64().map(|cookie| Command::DeadBinderDone { cookie }),
            bc::REQUEST_FREEZE_NOTIFICATION => {
                handle_cookie(r).map(|(handle, cookie)| Command::RequestFreezeNotification { handle, cookie })
            }
            bc::CLEAR_FREEZE_NOTIFICATION => {
                handle_cookie(r).map(|(handle, cookie)| Command::ClearFreezeNotification { handle, cookie })
            }
            bc::FREEZE_NOTIFICATION_DONE => r.u64().map(|cookie| Command::FreezeNotificationDone { cookie }),
            _ => None,
        }
    }

    /// Its command word.
    pub fn code(&self) -> u32 {
        match self {
            Command::Transaction(_) => bc::TRANSACTION,
            Command::Reply(_) => bc::REPLY,
            Command::TransactionSg(..) => bc::TRANSACTION_SG,
            Command::ReplySg(..) => bc::REPLY_SG,
            Command::AcquireResult(_) => bc::ACQUIRE_RESULT,
            Command::FreeBuffer { .. } => bc::FREE_BUFFER,
            Command::Increfs { .. } => bc::INCREFS,
            Command::Acquire { .. } => bc::ACQUIRE,
            Command::Release { .. } => bc::RELEASE,
            Command::Decrefs { .. } => bc::DECREFS,
            Command::IncrefsDone { .. } => bc::INCREFS_DONE,
            Command::AcquireDone { .. } => bc::ACQUIRE_DONE,
            Command::AttemptAcquire { .. } => bc::ATTEMPT_ACQUIRE,
            Command::RegisterLooper => bc::REGISTER_LOOPER,
            Command::EnterLooper => bc::ENTER_LOOPER,
            Command::ExitLooper => bc::EXIT_LOOPER,
            Command::RequestDeathNotification { .. } => bc::REQUEST_DEATH_NOTIFICATION,
            Command::ClearDeathNotification { .. } => bc::CLEAR_DEATH_NOTIFICATION,
            Command::DeadBinderDone { .. } => bc::DEAD_BINDER_DONE,
            Command::RequestFreezeNotification { .. } => bc::REQUEST_FREEZE_NOTIFICATION,
            Command::ClearFreezeNotification { .. } => bc::CLEAR_FREEZE_NOTIFICATION,
            Command::FreezeNotificationDone { .. } => bc::FREEZE_NOTIFICATION_DONE,
        }
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.code().to_le_bytes());
        match *self {
            Command::Transaction(data) | Command::Reply(data) => data.write(out),
            Command::TransactionSg(data, size) | Command::ReplySg(data, size) => {
                data.write(out);
                out.extend(size.to_le_bytes());
            }
            Command::AcquireResult(value) => out.extend(value.to_le_bytes()),
            Command::Increfs { handle }
            | Command::Acquire { handle }
            | Command::Release { handle }
            | Command::Decrefs { handle } => out.extend(handle.to_le_bytes()),
            Command::IncrefsDone { ptr, cookie } | Command::AcquireDone { ptr, cookie } => {
                out.extend(ptr.to_le_bytes());
                out.extend(cookie.to_le_bytes());
            }
            Command::AttemptAcquire { priority, handle } => {
                out.extend(priority.to_le_bytes());
                out.extend(handle.to_le_bytes());
            }
            Command::RegisterLooper | Command::EnterLooper | Command::ExitLooper => {}
            Command::RequestDeathNotification { handle, cookie }
            | Command::ClearDeathNotification { handle, cookie }
            | Command::RequestFreezeNotification { handle, cookie }
            | Command::ClearFreezeNotification { handle, cookie } => {
                out.extend(handle.to_le_bytes());
                out.extend(cookie.to_le_bytes());
            }
            Command::FreeBuffer { data: value }
            | Command::DeadBinderDone { cookie: value }
            | Command::FreezeNotificationDone { cookie: value } => out.extend(value.to_le_bytes()),
        }
    }
}

/// A return in the read stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Return {
    /// The bare word without a payload (B106).
    Error,
    Transaction(TransactionData),
    /// The second field is the user address of the sender's security context.
    TransactionSecCtx(TransactionData, u64),
    Reply(TransactionData),
    /// What became of BC_ATTEMPT_ACQUIRE: 1 or 0.
    AcquireResult(i32),
    DeadReply,
    TransactionComplete,
    Increfs {
        ptr: u64,
        cookie: u64,
    },
    Acquire {
        ptr: u64,
        cookie: u64,
    },
    Release {
        ptr: u64,
        cookie: u64,
    },
    Decrefs {
        ptr: u64,
        cookie: u64,
    },
    /// `struct binder_pri_ptr_cookie`: the owner is to say whether the object can be held strongly.
    AttemptAcquire {
        priority: i32,
        ptr: u64,
        cookie: u64,
    },
    Noop,
    SpawnLooper,
    DeadBinder {
        cookie: u64,
    },
    ClearDeathNotificationDone {
        cookie: u64,
    },
    FailedReply,
    FrozenReply,
    OnewaySpamSuspect,
    TransactionPendingFrozen,
    FrozenBinder {
        cookie: u64,
        is_frozen: bool,
    },
    ClearFreezeNotificationDone {
        cookie: u64,
    },
}

impl Return {
    /// Bytes that follow a return word.
    pub(crate) fn payload_size(word: u32) -> usize {
        // As every ioctl number does, it tells its size; but BR_ERROR comes without.
        if word == br::ERROR { 0 } else { (word >> 16 & 0x3fff) as usize }
    }

    /// Its return word.
    pub fn code(&self) -> u32 {
        match self {
            Return::Error => br::ERROR,
            Return::Transaction(_) => br::TRANSACTION,
            Return::TransactionSecCtx(..) => br::TRANSACTION_SEC_CTX,
            Return::Reply(_) => br::REPLY,
            Return::AcquireResult(_) => br::ACQUIRE_RESULT,
            Return::DeadReply => br::DEAD_REPLY,
            Return::TransactionComplete => br::TRANSACTION_COMPLETE,
            Return::Increfs { .. } => br::INCREFS,
            Return::Acquire { .. } => br::ACQUIRE,
            Return::Release { .. } => br::RELEASE,
            Return::Decrefs { .. } => br::DECREFS,
            Return::AttemptAcquire { .. } => br::ATTEMPT_ACQUIRE,
            Return::Noop => br::NOOP,
            Return::SpawnLooper => br::SPAWN_LOOPER,
            Return::DeadBinder { .. } => br::DEAD_BINDER,
            Return::ClearDeathNotificationDone { .. } => br::CLEAR_DEATH_NOTIFICATION_DONE,
            Return::FailedReply => br::FAILED_REPLY,
            Return::FrozenReply => br::FROZEN_REPLY,
            Return::OnewaySpamSuspect => br::ONEWAY_SPAM_SUSPECT,
            Return::TransactionPendingFrozen => br::TRANSACTION_PENDING_FROZEN,
            Return::FrozenBinder { .. } => br::FROZEN_BINDER,
            Return::ClearFreezeNotificationDone { .. } => br::CLEAR_FREEZE_NOTIFICATION_DONE,
        }
    }

    /// Appends its bytes.
    #[inline(always)]
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code().to_le_bytes());
        match *self {
            Return::Transaction(data) | Return::Reply(data) => data.write(out),
            Return::TransactionSecCtx(data, secctx) => {
                data.write(out);
                out.extend(secctx.to_le_bytes());
            }
            Return::Increfs { ptr, cookie }
            | Return::Acquire { ptr, cookie }
            | Return::Release { ptr, cookie }
            | Return::Decrefs { ptr, cookie } => {
                out.extend(ptr.to_le_bytes());
                out.extend(cookie.to_le_bytes());
            }
            Return::DeadBinder { cookie }
            | Return::ClearDeathNotificationDone { cookie }
            | Return::ClearFreezeNotificationDone { cookie } => out.extend(cookie.to_le_bytes()),
            Return::FrozenBinder { cookie, is_frozen } => {
                out.extend(cookie.to_le_bytes());
                out.extend(u64::from(is_frozen).to_le_bytes());
            }
            Return::AcquireResult(value) => out.extend(value.to_le_bytes()),
            Return::AttemptAcquire { priority, ptr, cookie } => {
                // The structure has a hole after its first field.
                out.extend(u64::from(priority as u32).to_le_bytes());
                out.extend(ptr.to_le_bytes());
                out.extend(cookie.to_le_bytes());
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

    /// Decodes the return at the start of `bytes`; also tells how many bytes it takes. For tools and tests.
    pub fn decode(bytes: &[u8]) -> Option<(Return, usize)> {
        let mut reader = Reader(bytes);
        let r = &mut reader;
        let value = match r.u32()? {
            br::ERROR => Return::Error,
            br::TRANSACTION => Return::Transaction(TransactionData::read(r)?),
            br::TRANSACTION_SEC_CTX => Return::TransactionSecCtx(TransactionData::read(r)?, r.u64()?),
            br::REPLY => Return::Reply(TransactionData::read(r)?),
            br::ACQUIRE_RESULT => Return::AcquireResult(r.u32()? as i32),
            br::DEAD_REPLY => Return::DeadReply,
            br::TRANSACTION_COMPLETE => Return::TransactionComplete,
            br::INCREFS => Return::Increfs { ptr: r.u64()?, cookie: r.u64()? },
            br::ACQUIRE => Return::Acquire { ptr: r.u64()?, cookie: r.u64()? },
            br::RELEASE => Return::Release { ptr: r.u64()?, cookie: r.u64()? },
            br::DECREFS => Return::Decrefs { ptr: r.u64()?, cookie: r.u64()? },
            br::ATTEMPT_ACQUIRE => {
                Return::AttemptAcquire { priority: r.u64()? as u32 as i32, ptr: r.u64()?, cookie: r.u64()? }
            }
            br::NOOP => Return::Noop,
            br::SPAWN_LOOPER => Return::SpawnLooper,
            br::DEAD_BINDER => Return::DeadBinder { cookie: r.u64()? },
            br::CLEAR_DEATH_NOTIFICATION_DONE => Return::ClearDeathNotificationDone { cookie: r.u64()? },
            br::FAILED_REPLY => Return::FailedReply,
            br::FROZEN_REPLY => Return::FrozenReply,
            br::ONEWAY_SPAM_SUSPECT => Return::OnewaySpamSuspect,
            br::TRANSACTION_PENDING_FROZEN => Return::TransactionPendingFrozen,
            br::FROZEN_BINDER => Return::FrozenBinder { cookie: r.u64()?, is_frozen: r.u64()? & 1 != 0 },
            br::CLEAR_FREEZE_NOTIFICATION_DONE => Return::ClearFreezeNotificationDone { cookie: r.u64()? },
            _ => return None,
        };
        Some((value, bytes.len() - reader.0.len()))
    }
}

/// The little-endian numbers of a byte string; what is missing reads as zeros.
pub(crate) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| words.get(index).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// Takes little-endian numbers off the front of a byte string.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
