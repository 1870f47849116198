//! Numbers that name things, each with its own type.
//!
//! [`ProcId`], [`Tid`], [`Pid`] and [`Pfn`] come from or go to the guest. The ids of
//! [`arena`](crate::arena) never leave the host.

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $repr);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A guest attached to a domain; the host numbers them.
    GuestId(u32)
}
number! {
    /// One open of a binder device (BINDER.md B001). Never 0, never reused.
    ProcId(u32)
}
number! {
    /// A thread id in the guest's initial pid namespace; 0 where a message has no thread.
    Tid(u32)
}
number! {
    /// A thread group id in the guest's initial pid namespace.
    Pid(u32)
}
number! {
    /// A user id in the guest's initial user namespace.
    Kuid(u32)
}
number! {
    /// Counts the ioctls of a thread from 1; everything that belongs to one ioctl carries its number.
    Seq(u64)
}
number! {
    /// A guest-physical page number: the page starts at `pfn * 4096`.
    Pfn(u64)
}
number! {
    /// Names an open file that the shim holds on behalf of the core.
    Token(u32)
}
number! {
    /// The kernel's "debug id": one increasing counter for nodes, refs, transactions and buffers (B433).
    DebugId(u32)
}
