//! Refs: the entries of a process's handle table (BINDER.md 5.2, 5.3).

use serde::{Deserialize, Serialize};

use crate::arena::{DeathId, FreezeId, NodeId, RefId, ThreadId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{DebugId, GuestId, ProcId};
use crate::node::Side;
use crate::trace::{TraceEvent, UserError};

/// A handle of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ref {
    pub debug_id: DebugId,
    pub guest: GuestId,
    pub proc: ProcId,
    pub node: NodeId,
    /// Its place among the refs of the node.
    pub ticket: u64,
    pub handle: u32,
    pub strong: u32,
    pub weak: u32,
    pub death: Option<DeathId>,
    pub freeze: Option<FreezeId>,
}

impl Domain {
    /// A process's ref by number; with `strong`, only one with a strong count.
    pub(crate) fn find_ref(&self, proc: ProcId, handle: u32, strong: bool) -> Option<RefId> {
        let id = self.procs.get(&proc)?.refs.get(handle)?;
        let entry = self.refs.get(id)?;
        (!strong || entry.strong > 0).then_some(id)
    }

    /// Adds a count to the process's ref on a node, which is made if needed.
    pub(crate) fn inc_ref_for_node(
        &mut self,
        cx: &mut Cx<'_>,
        proc: ProcId,
        node: NodeId,
        strong: bool,
        sender: Option<ThreadId>,
    ) -> Result<RefId, Errno> {
        let owner = self.procs.get(&proc).ok_or(Errno::ESRCH)?;
        let known = owner.refs.find(node);
        let id = match known {
            Some(id) => id,
            None => self.new_ref(cx, proc, node)?,
        };
        let result = self.inc_ref(id, strong, sender);
        if result.is_err() && known.is_none() {
            self.remove_ref(cx, id);
        }
        result.map(|()| id)
    }

    fn new_ref(&mut self, cx: &mut Cx<'_>, proc: ProcId, node: NodeId) -> Result<RefId, Errno> {
        let manager = self.is_manager(node);
        let max = self.limits.max_refs;
        let owner = self.procs.get_mut(&proc).ok_or(Errno::ESRCH)?;
        let guest = owner.guest;
        let usage = self.guests.get_mut(&guest).ok_or(Errno::ESRCH)?;
        if usage.refs >= max {
            return Err(Errno::ENOMEM);
        }
        let handle = owner.refs.reserve(manager).ok_or(Errno::ENOMEM)?;
        usage.refs += 1;
        usage.totals.refs = usage.totals.refs.wrapping_add(1);
        let debug_id = self.next_debug_id();
        let id = self.refs.insert(Ref {
            debug_id,
            guest,
            proc,
            node,
            ticket: 0,
            handle,
            strong: 0,
            weak: 0,
            death: None,
            freeze: None,
        });
        if let Some(owner) = self.procs.get_mut(&proc) {
            owner.refs.insert(handle, node, id);
        }
        let mut node_id = DebugId(0);
        if let (Some(node), Some(entry)) = (self.nodes.get_mut(node), self.refs.get_mut(id)) {
            entry.ticket = node.refs.push(id);
            node_id = node.debug_id;
        }
        cx.trace(move || TraceEvent::RefCreated { proc, id: debug_id, handle, node: node_id });
        Ok(id)
    }

    fn inc_ref(&mut self, id: RefId, strong: bool, sender: Option<ThreadId>) -> Result<(), Errno> {
        let entry = self.refs.get(id).ok_or(Errno::EINVAL)?;
        let node = entry.node;
        let count = if strong { entry.strong } else { entry.weak };
        let more = count.checked_add(1).ok_or(Errno::ENOMEM)?;
        if count == 0 {
            self.inc_node(node, strong, Side::Internal, sender)?;
        }
        if let Some(entry) = self.refs.get_mut(id) {
            *(if strong { &mut entry.strong } else { &mut entry.weak }) = more;
        }
        Ok(())
    }

    /// Takes a count back; a ref without any count disappears (B254). False: there was none.
    pub(crate) fn dec_ref(&mut self, cx: &mut Cx<'_>, id: RefId, strong: bool) -> bool {
        let Some(entry) = self.refs.get_mut(id) else { return false };
        let count = if strong { &mut entry.strong } else { &mut entry.weak };
        let Some(less) = count.checked_sub(1) else { return false };
        *count = less;
        let (node, gone) = (entry.node, entry.strong == 0 && entry.weak == 0);
        if strong && less == 0 {
            self.dec_node(cx, node, true, Side::Internal);
        }
        if gone {
            self.remove_ref(cx, id);
        }
        true
    }

    /// Removes a ref with all its counts and registrations.
    pub(crate) fn remove_ref(&mut self, cx: &mut Cx<'_>, id: RefId) {
        let Some(entry) = self.refs.remove(id) else { return };
        if let Some(proc) = self.procs.get_mut(&entry.proc) {
            proc.refs.remove(entry.handle, entry.node);
        }
        if let Some(guest) = self.guests.get_mut(&entry.guest) {
            guest.refs = guest.refs.saturating_sub(1);
        }
        let mut node_id = DebugId(0);
        if let Some(node) = self.nodes.get_mut(entry.node) {
            node.refs.remove(entry.ticket);
            node_id = node.debug_id;
        }
        cx.trace(move || TraceEvent::RefReleased { proc: entry.proc, handle: entry.handle, node: node_id });
        if entry.strong > 0 {
            self.dec_node(cx, entry.node, true, Side::Internal);
        }
        self.dec_node(cx, entry.node, false, Side::Internal);
        if let Some(death) = entry.death {
            self.drop_death(death);
        }
        if let Some(freeze) = entry.freeze {
            self.drop_freeze(freeze);
        }
    }

    /// BC_INCREFS, BC_ACQUIRE. Misuse is silent, but for the manager's own 0 (B257).
    pub(crate) fn inc_handle(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        handle: u32,
        strong: bool,
    ) -> Result<(), Errno> {
        let Some(proc) = self.thread_proc(thread) else { return Ok(()) };
        if handle == 0 && self.inc_manager(cx, proc, strong)? {
            return Ok(());
        }
        let done = match self.find_ref(proc, handle, strong) {
            Some(id) => self.inc_ref(id, strong, None).is_ok(),
            None => false,
        };
        if !done {
            self.user_error(cx, thread, UserError::BadHandle(handle));
        }
        Ok(())
    }

    /// Adds a count on the manager, which every process knows as 0. False: there is none. `EINVAL`: it is the
    /// process's own.
    pub(crate) fn inc_manager(&mut self, cx: &mut Cx<'_>, proc: ProcId, strong: bool) -> Result<bool, Errno> {
        let Some(manager) = self.manager_of(proc) else { return Ok(false) };
        if self.nodes.get(manager).is_some_and(|node| node.owner == Some(proc)) {
            return Err(Errno::EINVAL);
        }
        Ok(self.inc_ref_for_node(cx, proc, manager, strong, None).is_ok())
    }

    /// BC_RELEASE, BC_DECREFS. Misuse is silent (B259).
    pub(crate) fn dec_handle(&mut self, cx: &mut Cx<'_>, thread: ThreadId, handle: u32, strong: bool) {
        let Some(proc) = self.thread_proc(thread) else { return };
        match self.find_ref(proc, handle, strong) {
            None => self.user_error(cx, thread, UserError::BadHandle(handle)),
            Some(id) => {
                if !self.dec_ref(cx, id, strong) {
                    self.user_error(cx, thread, UserError::BadCount(handle));
                }
            }
        }
    }
}
