//! What a recording's traffic says about names: threads, contexts, services.

use std::collections::BTreeMap;
use std::sync::Arc;

use binder::trace::TraceEvent;
use binder::{DebugId, GuestId, Pid, ProcId, Tid};

use crate::parcel::printable;
use crate::recording::{Known, ThreadName};

/// Names of one recording.
#[derive(Debug, Default)]
pub struct Names {
    threads: BTreeMap<(GuestId, Tid), (Pid, Arc<str>)>,
    /// What the process called itself when it was first seen; its main thread's name comes before it.
    processes: BTreeMap<(GuestId, Pid), Arc<str>>,
    /// Context and opener of each open file.
    procs: BTreeMap<(GuestId, ProcId), (Arc<str>, Pid)>,
    /// Nodes that are context managers.
    managers: BTreeMap<(GuestId, DebugId), ()>,
    services: BTreeMap<(GuestId, DebugId), Arc<str>>,
    interfaces: BTreeMap<(GuestId, DebugId), Arc<str>>,
}

impl Names {
    /// A thread's name.
    pub fn thread_named(&mut self, name: &ThreadName) {
        let text: Arc<str> = printable(&name.name).into();
        if name.pid.0 == name.tid.0 {
            self.processes.insert((name.guest, name.pid), text.clone());
        } else {
            self.processes.entry((name.guest, name.pid)).or_insert_with(|| text.clone());
        }
        self.threads.insert((name.guest, name.tid), (name.pid, text));
    }

    /// Takes a fact from before the recording.
    pub fn known(&mut self, known: &Known) {
        match known {
            Known::File { guest, proc, pid, context } => {
                self.procs.insert((*guest, *proc), (printable(context).into(), *pid));
            }
            Known::Manager { guest, node } => {
                self.managers.insert((*guest, *node), ());
            }
            // It is read as the call that it was.
            Known::Registered { .. } => {}
        }
    }

    /// Learns what an event tells.
    pub fn event(&mut self, guest: GuestId, event: &TraceEvent) {
        match event {
            TraceEvent::ProcOpened { proc, pid, context, .. } => {
                self.procs.insert((guest, *proc), (printable(context).into(), *pid));
            }
            TraceEvent::ContextManager { node, .. } => {
                self.managers.insert((guest, *node), ());
            }
            TraceEvent::NodeReleased { node } => {
                self.services.remove(&(guest, *node));
                self.interfaces.remove(&(guest, *node));
                self.managers.remove(&(guest, *node));
            }
            TraceEvent::ProcReleased { proc } => {
                self.procs.remove(&(guest, *proc));
            }
            _ => {}
        }
    }

    /// A node was registered or found under this name. The first name stays.
    pub fn service_named(&mut self, guest: GuestId, node: DebugId, name: &str) {
        self.services.entry((guest, node)).or_insert_with(|| name.into());
    }

    /// A node said that it has this interface.
    pub fn interface_told(&mut self, guest: GuestId, node: DebugId, interface: &str) {
        self.interfaces.insert((guest, node), interface.into());
    }

    /// The name of a thread.
    pub fn thread(&self, guest: GuestId, tid: Tid) -> Option<&Arc<str>> {
        self.threads.get(&(guest, tid)).map(|(_, name)| name)
    }

    /// The name of a process.
    pub fn process(&self, guest: GuestId, pid: Pid) -> Option<&Arc<str>> {
        self.processes.get(&(guest, pid))
    }

    /// The context that an open file belongs to.
    pub fn context(&self, guest: GuestId, proc: ProcId) -> Option<&Arc<str>> {
        self.procs.get(&(guest, proc)).map(|(context, _)| context)
    }

    /// The process that opened a file.
    pub fn pid(&self, guest: GuestId, proc: ProcId) -> Option<Pid> {
        self.procs.get(&(guest, proc)).map(|(_, pid)| *pid)
    }

    /// What a node is called.
    pub fn service(&self, guest: GuestId, node: DebugId) -> Option<Arc<str>> {
        let manager = || self.managers.contains_key(&(guest, node)).then(|| "context-manager".into());
        self.services.get(&(guest, node)).cloned().or_else(manager)
    }

    /// Whether a node is a context manager.
    pub fn is_manager(&self, guest: GuestId, node: DebugId) -> bool {
        self.managers.contains_key(&(guest, node))
    }

    /// The interface that a node said it has.
    pub fn interface(&self, guest: GuestId, node: DebugId) -> Option<&Arc<str>> {
        self.interfaces.get(&(guest, node))
    }
}
