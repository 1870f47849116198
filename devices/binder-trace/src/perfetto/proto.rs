//! As much of protobuf's wire format as a Perfetto trace needs, and the numbers of its fields.
//!
//! Facts from perfetto's `protos/perfetto/trace/*.proto` (v59).

/// A message that is being written.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A variable-length number: int32/64, uint32/64, bool, enum.
    pub fn number(mut self, field: u32, value: u64) -> Message {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// A signed number as int32 and int64 have it: negative ones take ten bytes.
    pub fn signed(self, field: u32, value: i64) -> Message {
        self.number(field, value as u64)
    }

    /// Text or bytes.
    pub fn text(mut self, field: u32, text: &str) -> Message {
        self.bytes(field, text.as_bytes());
        self
    }

    /// A message in this one.
    pub fn message(mut self, field: u32, message: Message) -> Message {
        self.bytes(field, &message.0);
        self
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded fields.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends the fields of another message of the same type.
    pub fn append(&mut self, other: &Message) {
        self.0.extend(&other.0);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $module:ident: $($name:ident = $value:literal)*;)*) => {$(
        $(#[$doc])*
        pub mod $module {
            $(#[allow(missing_docs)] pub const $name: u32 = $value;)*
        }
    )*};
}

numbers! {
    /// `Trace`.
    trace: PACKET = 1;
    /// `TracePacket`.
    packet: FTRACE = 1 PROCESS_TREE = 2 CLOCK_SNAPSHOT = 6 TIMESTAMP = 8 SEQUENCE = 10 TRACK_EVENT = 11
        SEQUENCE_FLAGS = 13 SYSTEM_INFO = 45 TRACK_DESCRIPTOR = 60 MACHINE = 98;
    /// `ClockSnapshot` and its `Clock`.
    clock: CLOCKS = 1 PRIMARY = 2 ID = 1 TIMESTAMP = 2;
    /// `BuiltinClock`.
    builtin_clock: REALTIME = 1 MONOTONIC = 3 BOOTTIME = 6;
    /// `SystemInfo` and its `Utsname`.
    system: UTSNAME = 1 MACHINE_NAME = 17 SYSNAME = 1;
    /// `ProcessTree`, its `Process` and `Thread`.
    tree: PROCESSES = 1 THREADS = 2 PID = 1 PPID = 2 CMDLINE = 3 TID = 1 NAME = 2 TGID = 3;
    /// `FtraceEventBundle`.
    bundle: CPU = 1 EVENT = 2;
    /// `FtraceEvent`.
    ftrace: TIMESTAMP = 1 PID = 2 PRINT = 3 TRANSACTION = 50 RECEIVED = 51 PROCESS_FREE = 240 ALLOC_BUF = 323
        COMMAND = 485 RETURN = 486;
    /// `PrintFtraceEvent`.
    print: BUF = 2;
    /// `BinderTransactionFtraceEvent`.
    transaction: ID = 1 NODE = 2 TO_PROC = 3 TO_THREAD = 4 REPLY = 5 CODE = 6 FLAGS = 7;
    /// `BinderTransactionReceivedFtraceEvent`.
    received: ID = 1;
    /// `BinderTransactionAllocBufFtraceEvent`.
    alloc_buf: DATA = 1 ID = 2 OFFSETS = 3 EXTRA = 4;
    /// `BinderCommandFtraceEvent` and `BinderReturnFtraceEvent`.
    word: CMD = 1;
    /// `SchedProcessFreeFtraceEvent`.
    process_free: COMM = 1 PID = 2;
    /// `TrackDescriptor`.
    track: UUID = 1 NAME = 2;
    /// `TrackEvent` and its `DebugAnnotation`.
    track_event: ANNOTATION = 4 TYPE = 9 TRACK = 11 NAME = 23 ANNOTATION_STRING = 6 ANNOTATION_NAME = 10;
    /// `TrackEvent.Type`.
    event_type: INSTANT = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_encoded_as_protobuf_does() {
        let inner = Message::default().number(1, 150);
        assert_eq!(inner.as_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").as_bytes(), b"\x12\x07testing");
        assert_eq!(Message::default().message(3, inner).as_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().signed(1, -1).as_bytes().len(), 11);
        assert_eq!(Message::default().number(98, 1).as_bytes(), [0x90, 0x06, 0x01]);
    }
}
