//! What a recording's traffic says about names: threads, contexts, services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use binder::trace::TraceEvent;
use binder::{DebugId, GuestId, Pid, ProcId, Tid};

use crate::parcel::printable;
use crate::recording::{Known, ThreadName};

/// An open file: whose it is.
#[derive(Debug)]
struct File {
    guest: GuestId,
    context: Arc<str>,
    pid: Pid,
}

/// Names of one recording. Files, nodes and transactions are numbered by the driver, so their numbers mean one thing in
/// all guests of a domain; threads and processes are numbered by each guest's kernel.
#[derive(Debug, Default)]
pub struct Names {
    threads: BTreeMap<(GuestId, Tid), (Pid, Arc<str>)>,
    /// What the process called itself when it was first seen; its main thread's name comes before it.
    processes: BTreeMap<(GuestId, Pid), Arc<str>>,
    procs: BTreeMap<ProcId, File>,
    /// Nodes that are context managers.
    managers: BTreeSet<DebugId>,
    services: BTreeMap<DebugId, Arc<str>>,
    interfaces: BTreeMap<DebugId, Arc<str>>,
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
                self.opened(*guest, *proc, *pid, context);
            }
            Known::Manager { node, .. } => {
                self.managers.insert(*node);
            }
            // It is read as the call that it was.
            Known::Registered { .. } => {}
        }
    }

    /// Learns what an event tells.
    pub fn event(&mut self, guest: GuestId, event: &TraceEvent) {
        match event {
            TraceEvent::ProcOpened { proc, pid, context, .. } => {
                self.opened(guest, *proc, *pid, context);
            }
            TraceEvent::ContextManager { node, .. } => {
                self.managers.insert(*node);
            }
            TraceEvent::NodeReleased { node } => {
                self.services.remove(node);
                self.interfaces.remove(node);
                self.managers.remove(node);
            }
            TraceEvent::ProcReleased { proc } => {
                self.procs.remove(proc);
            }
            _ => {}
        }
    }

    fn opened(&mut self, guest: GuestId, proc: ProcId, pid: Pid, context: &[u8]) {
        self.procs.insert(proc, File { guest, context: printable(context).into(), pid });
    }

    /// A node was registered or found under this name. The first name stays.
    pub fn service_named(&mut self, node: DebugId, name: &str) {
        self.services.entry(node).or_insert_with(|| name.into());
    }

    /// A node said that it has this interface.
    pub fn interface_told(&mut self, node: DebugId, interface: &str) {
        self.interfaces.insert(node, interface.into());
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
    pub fn context(&self, proc: ProcId) -> Option<&Arc<str>> {
        self.procs.get(&proc).map(|file| &file.context)
    }

    /// The process that opened a file.
    pub fn pid(&self, proc: ProcId) -> Option<Pid> {
        self.procs.get(&proc).map(|file| file.pid)
    }

    /// The guest of the process that opened a file.
    pub fn home(&self, proc: ProcId) -> Option<GuestId> {
        self.procs.get(&proc).map(|file| file.guest)
    }

    /// What a node is called.
    pub fn service(&self, node: DebugId) -> Option<Arc<str>> {
        let manager = || self.managers.contains(&node).then(|| "context-manager".into());
        self.services.get(&node).cloned().or_else(manager)
    }

    /// Whether a node is a context manager.
    pub fn is_manager(&self, node: DebugId) -> bool {
        self.managers.contains(&node)
    }

    /// The interface that a node said it has.
    pub fn interface(&self, node: DebugId) -> Option<&Arc<str>> {
        self.interfaces.get(&node)
    }
}
