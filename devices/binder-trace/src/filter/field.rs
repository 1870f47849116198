//! The fields that a filter knows.

/// What values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number.
    Number,
    /// Bytes.
    Size,
    /// A time, with a unit.
    Time,
    /// Yes or no.
    Bool,
}

macro_rules! fields {
    ($($variant:ident $name:literal $kind:ident $meaning:literal,)*) => {
        /// A field of calls and events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $(#[doc = $meaning] $variant,)* }

        impl Field {
            /// All of them, in the order of the help.
            pub const ALL: &'static [Field] = &[$(Field::$variant,)*];

            /// As it is written.
            pub fn name(self) -> &'static str {
                match self { $(Field::$variant => $name,)* }
            }

            /// What its values are.
            pub fn kind(self) -> Kind {
                match self { $(Field::$variant => Kind::$kind,)* }
            }

            /// What it is, for the help.
            pub fn meaning(self) -> &'static str {
                match self { $(Field::$variant => $meaning,)* }
            }
        }
    };
}

fields! {
    At "at" Time "guest time since power-on",
    Guest "guest" Text "name of the guest",
    Pid "pid" Number "process of the caller, or that an event is about",
    Tid "tid" Number "thread of the caller, or that an event is about",
    Proc "proc" Text "name of that process",
    Thread "thread" Text "name of that thread",
    ToPid "to_pid" Number "process that is called",
    ToTid "to_tid" Number "thread that serves the call",
    ToProc "to_proc" Text "name of the process that is called",
    Context "context" Text "binder, hwbinder, vndbinder",
    Iface "iface" Text "interface of a call",
    Method "method" Text "method of a call, or #CODE where it is not known",
    Service "service" Text "name that the called node is registered under",
    Code "code" Number "transaction code",
    Handle "handle" Number "the caller's handle",
    Node "node" Number "debug id of the node",
    Id "id" Number "debug id of the transaction",
    Size "size" Size "bytes of data and offsets of the call",
    ReplySize "reply_size" Size "bytes of data and offsets of the reply",
    Oneway "oneway" Bool "nobody waits for an answer",
    Depth "depth" Number "how many calls a call is nested in",
    Dur "dur" Time "from the call to its reply; oneway: to its delivery",
    Queue "queue" Time "until a thread of the server took it",
    ServiceTime "service_time" Time "from there to the reply; oneway: to the free of its buffer",
    Result "result" Text "ok, open, BR_DEAD_REPLY, BR_FAILED_REPLY, status=N, EX_SECURITY, ...",
    Errno "errno" Number "errno beside a failure or of an ioctl",
    Cmd "cmd" Text "BC_..., BR_..., BINDER_...: command, return or ioctl of an event",
    Event "event" Text "kind of an event: call, command, return, ioctl, delivered, death, ...",
}

impl Field {
    /// The field of that name.
    pub fn named(name: &str) -> Option<Field> {
        Field::ALL.iter().copied().find(|field| field.name() == name)
    }
}
