//! Objects inside transactions: how each is laid out, written and read (BINDER.md section 4.1).

use crate::uapi::{HAS_PARENT, kind};

/// One object of a transaction's data. Addresses are those of the process that holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A node of the sender.
    Binder { weak: bool, ptr: u64, cookie: u64, flags: u32 },
    /// A reference of the sender. `high` is the upper half of the union, which the driver zeroes.
    Handle { weak: bool, handle: u32, high: u32, cookie: u64, flags: u32 },
    /// A file descriptor.
    Fd { fd: u32, high: u32, cookie: u64, pad: u32 },
    /// A buffer to be copied behind the offsets; `parent` is (index of the parent, offset in it).
    Ptr { buffer: u64, length: u64, parent: Option<(u64, u64)>, flags: u32 },
    /// An array of file descriptors inside the buffer of a PTR.
    Fda { num_fds: u64, parent: u64, parent_offset: u64, pad: u32 },
    /// A type word that the driver does not know, in 24 bytes.
    Unknown { kind: u32 },
}

impl Object {
    /// A strong node without flags.
    pub fn binder(ptr: u64, cookie: u64) -> Self {
        Self::Binder { weak: false, ptr, cookie, flags: 0 }
    }

    /// A strong node with flags.
    pub fn binder_with(ptr: u64, cookie: u64, flags: u32) -> Self {
        Self::Binder { weak: false, ptr, cookie, flags }
    }

    /// A weak node without flags.
    pub fn weak_binder(ptr: u64, cookie: u64) -> Self {
        Self::Binder { weak: true, ptr, cookie, flags: 0 }
    }

    /// A strong reference.
    pub fn handle(handle: u32) -> Self {
        Self::Handle { weak: false, handle, high: 0, cookie: 0, flags: 0 }
    }

    /// A weak reference.
    pub fn weak_handle(handle: u32) -> Self {
        Self::Handle { weak: true, handle, high: 0, cookie: 0, flags: 0 }
    }

    /// A file descriptor.
    pub fn fd(fd: i64) -> Self {
        Self::Fd { fd: fd as u32, high: 0, cookie: 0, pad: 0 }
    }

    /// A buffer without a parent.
    pub fn ptr(buffer: u64, length: u64) -> Self {
        Self::Ptr { buffer, length, parent: None, flags: 0 }
    }

    /// A buffer whose address replaces the word at `offset` of the buffer of object number `index`.
    pub fn child(buffer: u64, length: u64, index: u64, offset: u64) -> Self {
        Self::Ptr { buffer, length, parent: Some((index, offset)), flags: 0 }
    }

    /// `num_fds` descriptors at `offset` of the buffer of object number `index`.
    pub fn fd_array(num_fds: u64, index: u64, offset: u64) -> Self {
        Self::Fda { num_fds, parent: index, parent_offset: offset, pad: 0 }
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Vec<u8> {
        let words = |type_: u32, second: u32, rest: &[u64]| {
            let mut bytes = Vec::with_capacity(8 + rest.len() * 8);
            bytes.extend(type_.to_le_bytes());
            bytes.extend(second.to_le_bytes());
            rest.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            bytes
        };
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        match *self {
            Self::Binder { weak, ptr, cookie, flags } => {
                words(if weak { kind::WEAK_BINDER } else { kind::BINDER }, flags, &[ptr, cookie])
            }
            Self::Handle { weak, handle, high, cookie, flags } => words(
                if weak { kind::WEAK_HANDLE } else { kind::HANDLE },
                flags,
                &[pair(handle, high), cookie],
            ),
            Self::Fd { fd, high, cookie, pad } => words(kind::FD, pad, &[pair(fd, high), cookie]),
            Self::Ptr { buffer, length, parent, flags } => {
                let (index, offset) = parent.unwrap_or((0, 0));
                let flags = flags | if parent.is_some() { HAS_PARENT } else { 0 };
                words(kind::PTR, flags, &[buffer, length, index, offset])
            }
            Self::Fda { num_fds, parent, parent_offset, pad } => {
                words(kind::FDA, pad, &[num_fds, parent, parent_offset])
            }
            Self::Unknown { kind } => words(kind, 0, &[0, 0]),
        }
    }

    /// Reads the object at the start of `bytes`; `None` if it is cut short or of no known type.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let second = half(4)?;
        Some(match half(0)? {
            weak @ (kind::BINDER | kind::WEAK_BINDER) => Self::Binder {
                weak: weak == kind::WEAK_BINDER,
                ptr: word(8)?,
                cookie: word(16)?,
                flags: second,
            },
            weak @ (kind::HANDLE | kind::WEAK_HANDLE) => Self::Handle {
                weak: weak == kind::WEAK_HANDLE,
                handle: half(8)?,
                high: half(12)?,
                cookie: word(16)?,
                flags: second,
            },
            kind::FD => Self::Fd { fd: half(8)?, high: half(12)?, cookie: word(16)?, pad: second },
            kind::PTR => Self::Ptr {
                buffer: word(8)?,
                length: word(16)?,
                parent: (second & HAS_PARENT != 0).then_some((word(24)?, word(32)?)),
                flags: second & !HAS_PARENT,
            },
            kind::FDA => {
                Self::Fda { num_fds: word(8)?, parent: word(16)?, parent_offset: word(24)?, pad: second }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_survive_a_round_trip_and_have_the_documented_sizes() {
        let all = [
            (Object::binder_with(0x10, 0x20, 0x17f), 24),
            (Object::weak_binder(0x10, 0x20), 24),
            (Object::Handle { weak: false, handle: 3, high: 7, cookie: 9, flags: 1 }, 24),
            (Object::weak_handle(4), 24),
            (Object::Fd { fd: 5, high: 1, cookie: 2, pad: 3 }, 24),
            (Object::ptr(0x1000, 16), 40),
            (Object::child(0x1000, 16, 2, 8), 40),
            (Object::fd_array(2, 1, 8), 32),
        ];
        for (object, size) in all {
            let bytes = object.encode();
            assert_eq!(bytes.len(), size, "{object:?}");
            assert_eq!(Object::decode(&bytes), Some(object));
            assert_eq!(Object::decode(&bytes[..size - 1]), None);
        }
        assert_eq!(Object::decode(&Object::Unknown { kind: 0x1234 }.encode()), None);
    }
}
