//! The domain: one binder world, and the way of a message through it.

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryBackend;

use crate::errno::Errno;
use crate::ids::{GuestId, Pid, ProcId, Tid};
use crate::limits::{Limits, Profile};
use crate::message::{Answer, Event, Expects, Message};
use crate::trace::TraceSink;

/// The RAM of the guests of a domain. Only RAM: no ROM, no device memory.
pub trait GuestRams {
    /// One guest's memory.
    type Ram: GuestMemoryBackend;

    /// The RAM of that guest, if it is there.
    fn ram(&self, guest: GuestId) -> Option<&Self::Ram>;
}

/// How many objects of a guest exist. All zero once every process of the guest is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Open files.
    pub procs: u32,
    /// Thread objects.
    pub threads: u32,
    /// Nodes, the dead ones included.
    pub nodes: u32,
    /// Handles.
    pub refs: u32,
    /// Transactions that its processes sent or that are under way to them.
    pub transactions: u32,
    /// Buffers in mappings of its processes.
    pub buffers: u32,
    /// Death and freeze registrations.
    pub deaths: u32,
    /// Ioctls that wait for a CONTINUE.
    pub suspended: u32,
    /// Files held by the shim for the core.
    pub tokens: u32,
    /// Events that no buffer was found for yet.
    pub events: u32,
}

/// One binder world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Domain {
    limits: Limits,
    profile: Profile,
}

impl Domain {
    /// An empty world.
    pub fn new(limits: Limits, profile: Profile) -> Domain {
        Domain { limits, profile }
    }

    /// Lets a guest take part. A guest that is not attached gets `EBADF` for everything.
    pub fn attach(&mut self, guest: GuestId) {
        let _ = guest;
    }

    /// Handles one message to its end.
    pub fn handle<R: GuestRams>(
        &mut self,
        rams: &R,
        guest: GuestId,
        message: Message,
        sink: &mut dyn TraceSink,
    ) -> Answer {
        let _ = (rams, guest, message, sink, &self.limits, self.profile);
        Answer { errno: Errno::EBADF, ..Answer::default() }
    }

    /// The next event of a guest, in wake order. Call it only when a buffer is free.
    pub fn next_event(&mut self, guest: GuestId) -> Option<Event> {
        let _ = guest;
        None
    }

    /// Whether [`next_event`](Self::next_event) has one.
    pub fn has_events(&self, guest: GuestId) -> bool {
        let _ = guest;
        false
    }

    /// Guests that have events, ascending.
    pub fn guests_with_events(&self) -> Vec<GuestId> {
        Vec::new()
    }

    /// Which CONTINUE the core waits for from a thread: how the lists in it are to be decoded.
    pub fn expects(&self, guest: GuestId, proc: u32, tid: Tid) -> Expects {
        let _ = (guest, proc, tid);
        Expects::Nothing
    }

    /// The opener's thread group of a process, for traces.
    pub fn pid(&self, proc: ProcId) -> Option<Pid> {
        let _ = proc;
        None
    }

    /// Releases every process of a guest without touching its memory (device reset).
    pub fn reset(&mut self, guest: GuestId, sink: &mut dyn TraceSink) {
        let _ = (guest, sink);
    }

    /// Counts a guest's objects.
    pub fn census(&self, guest: GuestId) -> Census {
        let _ = guest;
        Census::default()
    }
}
