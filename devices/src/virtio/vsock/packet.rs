//! The header of every packet, and its constants (virtio 1.2, 5.10.6; Linux `include/uapi/linux/virtio_vsock.h`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();

/// `type`: a stream of bytes, as SOCK_STREAM.
pub const TYPE_STREAM: u16 = 1;

/// `op`.
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// `flags` of SHUTDOWN.
pub mod shutdown {
    /// The sender receives no more.
    pub const RECEIVE: u32 = 1;
    /// The sender sends no more.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = 3;
}

/// What stands before the bytes of a packet.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub source_cid: U64,
    pub target_cid: U64,
    pub source_port: U32,
    pub target_port: U32,
    /// Bytes that follow.
    pub length: U32,
    pub kind: U16,
    pub op: U16,
    pub flags: U32,
    /// Bytes that the sender of the packet has room for, in all.
    pub buffer: U32,
    /// Bytes that it took out of that room since the stream began, modulo 2^32.
    pub forwarded: U32,
}

/// The two ends of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub host: u32,
    pub guest: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_long_as_linux_has_it() {
        assert_eq!(HEADER, 44);
    }
}
