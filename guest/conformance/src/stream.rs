//! The two streams of BINDER_WRITE_READ: commands are written (`W`), returns are read (`R`).
//!
//! A command is data: it knows its words, and the memory that its words point to. [`encode`] lays both out in an
//! [`Arena`], a piece of the sender's memory, so that a whole step can be poked into a process with one write.
//! [`decode`] is the way back, for what the driver wrote into the read buffer.

use crate::object::Object;
use crate::uapi::{bc, br};

/// Where the bytes of a transaction are.
#[derive(Clone, Debug)]
pub enum Source {
    /// They are placed in the sender's arena.
    Inline(Vec<u8>),
    /// The command names this range, whatever is there.
    At { address: u64, size: u64 },
}

/// BC_TRANSACTION, BC_REPLY and their SG forms.
#[derive(Clone, Debug)]
pub struct Call {
    pub reply: bool,
    /// `buffers_size` of the SG form; the plain form without it.
    pub extra: Option<u64>,
    pub target: u64,
    pub cookie: u64,
    pub code: u32,
    pub flags: u32,
    pub data: Source,
    pub offsets: Source,
}

/// A transaction to a handle with a code, empty until more is said.
pub fn call(handle: u32, code: u32) -> Call {
    Call {
        reply: false,
        extra: None,
        target: handle.into(),
        cookie: 0,
        code,
        flags: 0,
        data: Source::Inline(vec![]),
        offsets: Source::Inline(vec![]),
    }
}

/// A reply, empty until more is said.
pub fn reply() -> Call {
    Call { reply: true, ..call(0, 0) }
}

impl Call {
    /// Sets transaction flags.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    /// Sets TF_ONE_WAY.
    pub fn oneway(self) -> Self {
        self.flags(crate::uapi::tf::ONE_WAY)
    }

    /// Appends plain bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        if let Source::Inline(data) = &mut self.data {
            data.extend_from_slice(bytes);
        }
        self
    }

    /// Appends `length` bytes of a pattern that starts with `seed`.
    pub fn pattern(self, length: usize, seed: u8) -> Self {
        self.bytes(&pattern(length, seed))
    }

    /// Appends an object and its offset.
    pub fn object(mut self, object: Object) -> Self {
        if let (Source::Inline(data), Source::Inline(offsets)) = (&mut self.data, &mut self.offsets) {
            offsets.extend((data.len() as u64).to_le_bytes());
            data.extend(object.encode());
        }
        self
    }

    /// Replaces the offsets.
    pub fn offsets(mut self, offsets: &[u64]) -> Self {
        self.offsets = Source::Inline(offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect());
        self
    }

    /// Replaces the offsets by a range that may be anything.
    pub fn offsets_at(mut self, address: u64, size: u64) -> Self {
        self.offsets = Source::At { address, size };
        self
    }

    /// Replaces the data by a range that may be anything.
    pub fn data_at(mut self, address: u64, size: u64) -> Self {
        self.data = Source::At { address, size };
        self
    }

    /// Uses the SG form with this much room for PTR buffers.
    pub fn extra(mut self, size: u64) -> Self {
        self.extra = Some(size);
        self
    }

    /// The command word.
    pub fn word(&self) -> u32 {
        match (self.reply, self.extra) {
            (false, None) => bc::TRANSACTION,
            (false, Some(_)) => bc::TRANSACTION_SG,
            (true, None) => bc::REPLY,
            (true, Some(_)) => bc::REPLY_SG,
        }
    }
}

/// `length` bytes that differ from page to page: each is its index times 7, plus its page number, plus `seed`.
pub fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(7).wrapping_add((i >> 12) as u8).wrapping_add(seed)).collect()
}

/// One command of the write stream.
#[derive(Clone, Debug)]
pub enum Command {
    Call(Call),
    /// A command that is its word and a few numbers: u64 arguments.
    Words(u32, Vec<u64>),
    /// INCREFS, ACQUIRE, RELEASE, DECREFS.
    Count(u32, u32),
    /// Requests and clears of notifications: handle and cookie, packed.
    Watch(u32, u32, u64),
    /// Bytes that are no well-formed command.
    Raw(Vec<u8>),
}

impl From<Call> for Command {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

/// BC_FREE_BUFFER.
pub fn free(buffer: u64) -> Command {
    Command::Words(bc::FREE_BUFFER, vec![buffer])
}
/// BC_INCREFS.
pub fn increfs(handle: u32) -> Command {
    Command::Count(bc::INCREFS, handle)
}
/// BC_ACQUIRE.
pub fn acquire(handle: u32) -> Command {
    Command::Count(bc::ACQUIRE, handle)
}
/// BC_RELEASE.
pub fn release(handle: u32) -> Command {
    Command::Count(bc::RELEASE, handle)
}
/// BC_DECREFS.
pub fn decrefs(handle: u32) -> Command {
    Command::Count(bc::DECREFS, handle)
}
/// BC_INCREFS_DONE.
pub fn increfs_done(ptr: u64, cookie: u64) -> Command {
    Command::Words(bc::INCREFS_DONE, vec![ptr, cookie])
}
/// BC_ACQUIRE_DONE.
pub fn acquire_done(ptr: u64, cookie: u64) -> Command {
    Command::Words(bc::ACQUIRE_DONE, vec![ptr, cookie])
}
/// BC_ENTER_LOOPER.
pub fn enter_looper() -> Command {
    Command::Words(bc::ENTER_LOOPER, vec![])
}
/// BC_REGISTER_LOOPER.
pub fn register_looper() -> Command {
    Command::Words(bc::REGISTER_LOOPER, vec![])
}
/// BC_EXIT_LOOPER.
pub fn exit_looper() -> Command {
    Command::Words(bc::EXIT_LOOPER, vec![])
}
/// BC_REQUEST_DEATH_NOTIFICATION.
pub fn watch(handle: u32, cookie: u64) -> Command {
    Command::Watch(bc::REQUEST_DEATH_NOTIFICATION, handle, cookie)
}
/// BC_CLEAR_DEATH_NOTIFICATION.
pub fn unwatch(handle: u32, cookie: u64) -> Command {
    Command::Watch(bc::CLEAR_DEATH_NOTIFICATION, handle, cookie)
}
/// BC_DEAD_BINDER_DONE.
pub fn dead_done(cookie: u64) -> Command {
    Command::Words(bc::DEAD_BINDER_DONE, vec![cookie])
}

/// Memory of the sender that is filled here and poked into the process as one piece.
#[derive(Debug, Default)]
pub struct Arena {
    base: u64,
    bytes: Vec<u8>,
}

impl Arena {
    /// An arena that will stand at `base` in the sender's memory.
    pub fn new(base: u64) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// Places bytes at the next multiple of 8 and says where they will be.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        address
    }

    /// What is to be poked at the base.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The write stream of `commands`; what they point to goes into the arena.
pub fn encode(commands: &[Command], arena: &mut Arena) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        match command {
            Command::Call(call) => encode_call(call, arena, &mut out),
            Command::Words(word, arguments) => {
                out.extend(word.to_le_bytes());
                arguments.iter().for_each(|argument| out.extend(argument.to_le_bytes()));
            }
            Command::Count(word, handle) => {
                out.extend(word.to_le_bytes());
                out.extend(handle.to_le_bytes());
            }
            Command::Watch(word, handle, cookie) => {
                out.extend(word.to_le_bytes());
                out.extend(handle.to_le_bytes());
                out.extend(cookie.to_le_bytes());
            }
            Command::Raw(bytes) => out.extend(bytes),
        }
    }
    out
}

fn encode_call(call: &Call, arena: &mut Arena, out: &mut Vec<u8>) {
    let mut range = |source: &Source| match source {
        Source::Inline(bytes) => (arena.place(bytes), bytes.len() as u64),
        Source::At { address, size } => (*address, *size),
    };
    let (data, data_size) = range(&call.data);
    let (offsets, offsets_size) = range(&call.offsets);
    out.extend(call.word().to_le_bytes());
    out.extend(call.target.to_le_bytes());
    out.extend(call.cookie.to_le_bytes());
    out.extend(call.code.to_le_bytes());
    out.extend(call.flags.to_le_bytes());
    out.extend([0; 8]); // sender_pid and sender_euid are the driver's to fill
    for word in [data_size, offsets_size, data, offsets] {
        out.extend(word.to_le_bytes());
    }
    if let Some(extra) = call.extra {
        out.extend(extra.to_le_bytes());
    }
}

/// A transaction or reply as its receiver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// BR_TRANSACTION, BR_TRANSACTION_SEC_CTX or BR_REPLY.
    pub word: u32,
    pub target: u64,
    pub cookie: u64,
    pub code: u32,
    pub flags: u32,
    pub sender_pid: i32,
    pub sender_euid: u32,
    pub data_size: u64,
    pub offsets_size: u64,
    pub buffer: u64,
    pub offsets: u64,
    pub secctx: Option<u64>,
}

/// One item of the read stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// An item without payload.
    Bare(u32),
    /// A transaction or a reply.
    Delivery(Delivery),
    /// An item with ptr and cookie, or with a cookie alone, or anything else made of 64-bit words or of one 32-bit word.
    Words(u32, Vec<u64>),
    /// Bytes that are no item of the protocol.
    Garbage(Vec<u8>),
}

impl Return {
    /// The item's word; 0 for garbage.
    pub fn word(&self) -> u32 {
        match self {
            Self::Bare(word) | Self::Words(word, _) => *word,
            Self::Delivery(delivery) => delivery.word,
            Self::Garbage(_) => 0,
        }
    }
}

/// Takes a read stream apart.
pub fn decode(mut bytes: &[u8]) -> Vec<Return> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        match decode_one(bytes) {
            Some((item, length)) => {
                items.push(item);
                bytes = &bytes[length..];
            }
            None => {
                items.push(Return::Garbage(bytes.to_vec()));
                break;
            }
        }
    }
    items
}

fn decode_one(bytes: &[u8]) -> Option<(Return, usize)> {
    let word = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    crate::uapi::name(word)?;
    // BR_ERROR's number speaks of four bytes that the driver never writes (B106).
    let size = if word == br::ERROR { 0 } else { crate::uapi::payload_size(word) };
    let payload = bytes.get(4..4 + size)?;
    let half = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("four bytes"));
    let full = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    let item = match word {
        br::TRANSACTION | br::TRANSACTION_SEC_CTX | br::REPLY => Return::Delivery(Delivery {
            word,
            target: full(0),
            cookie: full(8),
            code: half(16),
            flags: half(20),
            sender_pid: half(24) as i32,
            sender_euid: half(28),
            data_size: full(32),
            offsets_size: full(40),
            buffer: full(48),
            offsets: full(56),
            secctx: (word == br::TRANSACTION_SEC_CTX).then(|| full(64)),
        }),
        _ if size == 0 => Return::Bare(word),
        _ if size == 4 => Return::Words(word, vec![half(0).into()]),
        _ if size % 8 == 0 => Return::Words(word, (0..size).step_by(8).map(full).collect()),
        _ => return None,
    };
    Some((item, 4 + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_packed_into_sixteen_bytes() {
        let bytes = encode(&[watch(7, 0x1122_3344_5566_7788)], &mut Arena::new(0));
        assert_eq!(bytes.len(), 16);
        assert_eq!(&bytes[4..8], &7u32.to_le_bytes());
        assert_eq!(&bytes[8..], &0x1122_3344_5566_7788u64.to_le_bytes());
    }

    #[test]
    fn a_call_points_into_the_arena() {
        let mut arena = Arena::new(0x1000);
        let stream = encode(&[call(5, 9).bytes(&[1, 2, 3]).object(Object::handle(2)).into()], &mut arena);
        assert_eq!(stream.len(), 68);
        let at = |offset: usize| u64::from_le_bytes(stream[offset..offset + 8].try_into().unwrap());
        assert_eq!((at(4), at(36), at(44)), (5, 27, 8));
        assert_eq!((at(52), at(60)), (0x1000, 0x1000 + 32));
        assert_eq!(&arena.bytes()[32..40], &3u64.to_le_bytes());
        assert_eq!(encode(&[reply().extra(16).into()], &mut arena).len(), 76);
    }

    #[test]
    fn a_read_stream_is_taken_apart_item_by_item() {
        let mut bytes = Vec::new();
        bytes.extend(br::NOOP.to_le_bytes());
        bytes.extend(br::INCREFS.to_le_bytes());
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(br::REPLY.to_le_bytes());
        bytes.extend([0; 64]);
        let items = decode(&bytes);
        assert_eq!(items[0], Return::Bare(br::NOOP));
        assert_eq!(items[1], Return::Words(br::INCREFS, vec![3, 4]));
        assert_eq!(items[2].word(), br::REPLY);
        assert_eq!(items.len(), 3);
        bytes.truncate(60);
        assert!(matches!(decode(&bytes).last(), Some(Return::Garbage(rest)) if rest.len() == 36));
    }
}
