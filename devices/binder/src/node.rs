//! Nodes: local objects, their true counts, and what their owner has been told.
//!
//! BINDER.md 5.1. The true counts change with every ref and buffer; the owner is told of a
//! difference when it reads the node's work item, so a gain and a loss in between cancel (B242).

use serde::{Deserialize, Serialize};

use crate::arena::{NodeId, RefId, ThreadId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{DebugId, GuestId, ProcId};
use crate::proc::ContextId;
use crate::protocol::{Return, object};
use crate::sched::Minimum;
use crate::tickets::Tickets;
use crate::trace::{TraceEvent, TransactionRecord, UserError};
use crate::work::{Place, Queue, Work, WorkQueue};

/// A local object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub debug_id: DebugId,
    /// Whose quota it counts against.
    pub guest: GuestId,
    /// `None`: the owner is dead.
    pub owner: Option<ProcId>,
    pub context: ContextId,
    pub ptr: u64,
    pub cookie: u64,
    /// Refs with a strong count.
    pub internal_strong: u32,
    pub local_strong: u32,
    pub local_weak: u32,
    /// Strong counts that the owner took for the driver beyond the one that it was told to take: BR_RELEASE is
    /// due for each ([`attempt`](crate::attempt)).
    pub surplus: u32,
    /// The latest last.
    pub refs: Tickets<RefId>,
    /// What the owner was told.
    pub told_strong: bool,
    pub told_weak: bool,
    /// The owner's DONE is due.
    pub pending_strong: bool,
    pub pending_weak: bool,
    /// Its work item is queued.
    pub place: Option<Place>,
    pub accepts_fds: bool,
    pub wants_secctx: bool,
    /// What its callees are to run with.
    pub minimum: Minimum,
    /// A oneway is in the hands of the owner (B146).
    pub has_async: bool,
    /// How its owner first passed it to the context manager: what it was registered as, for traces.
    pub registered: Option<Box<TransactionRecord>>,
    /// 0: the owner lives; else how many nodes' owners had died, this one's included.
    pub died: u64,
    pub backlog: WorkQueue,
}

impl Node {
    pub(crate) fn strong(&self) -> bool {
        self.internal_strong > 0 || self.local_strong > 0
    }

    fn weak(&self) -> bool {
        !self.refs.is_empty() || self.local_weak > 0 || self.strong()
    }
}

/// Whose count changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A ref's.
    Internal,
    /// A buffer's or the driver's own.
    Local,
}

impl Domain {
    /// Makes a node of a process; `ENOMEM` over the quota.
    pub(crate) fn new_node(
        &mut self,
        cx: &mut Cx<'_>,
        proc: ProcId,
        ptr: u64,
        cookie: u64,
        flags: u32,
    ) -> Result<NodeId, Errno> {
        let owner = self.procs.get(&proc).ok_or(Errno::ESRCH)?;
        let (guest, context) = (owner.guest, owner.context);
        let max = self.limits.max_nodes;
        let usage = self.guests.get_mut(&guest).ok_or(Errno::ESRCH)?;
        if usage.nodes >= max {
            return Err(Errno::ENOMEM);
        }
        usage.nodes += 1;
        usage.totals.nodes = usage.totals.nodes.wrapping_add(1);
        let debug_id = self.next_debug_id();
        let id = self.nodes.insert(Node {
            debug_id,
            guest,
            owner: Some(proc),
            context,
            ptr,
            cookie,
            internal_strong: 0,
            local_strong: 0,
            local_weak: 0,
            surplus: 0,
            refs: Tickets::default(),
            told_strong: false,
            told_weak: false,
            pending_strong: false,
            pending_weak: false,
            place: None,
            accepts_fds: flags & object::FLAG_ACCEPTS_FDS != 0,
            wants_secctx: flags & object::FLAG_TXN_SECURITY_CTX != 0,
            minimum: Minimum { flags },
            has_async: false,
            registered: None,
            died: 0,
            backlog: WorkQueue::default(),
        });
        if let Some(owner) = self.procs.get_mut(&proc) {
            owner.nodes.insert(ptr, id);
        }
        cx.trace(move || TraceEvent::NodeCreated { proc, node: debug_id, ptr, cookie });
        Ok(id)
    }

    /// Adds a count. `sender`: the thread of the owner that exports the node; it is told with the
    /// completion of what it sends (B232), because the work is deferred.
    pub(crate) fn inc_node(
        &mut self,
        id: NodeId,
        strong: bool,
        side: Side,
        sender: Option<ThreadId>,
    ) -> Result<(), Errno> {
        let is_manager = strong && side == Side::Internal && self.is_manager(id);
        let node = self.nodes.get_mut(id).ok_or(Errno::EINVAL)?;
        if strong {
            match side {
                Side::Internal => {
                    let known = is_manager && node.told_strong;
                    if sender.is_none() && node.internal_strong == 0 && !known {
                        return Err(Errno::EINVAL);
                    }
                    node.internal_strong = node.internal_strong.checked_add(1).ok_or(Errno::ENOMEM)?;
                }
                Side::Local => node.local_strong = node.local_strong.checked_add(1).ok_or(Errno::ENOMEM)?,
            }
            if let (false, Some(thread)) = (node.told_strong, sender) {
                self.dequeue_node(id);
                self.enqueue(Queue::Thread(thread), Work::Node(id));
            }
        } else {
            if side == Side::Local {
                node.local_weak = node.local_weak.checked_add(1).ok_or(Errno::ENOMEM)?;
            }
            if let (false, None, Some(thread)) = (node.told_weak, node.place, sender) {
                self.enqueue(Queue::Thread(thread), Work::Node(id));
            }
        }
        Ok(())
    }

    /// Takes a count back; the owner is told, or the node vanishes.
    pub(crate) fn dec_node(&mut self, cx: &mut Cx<'_>, id: NodeId, strong: bool, side: Side) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if strong {
            match side {
                Side::Internal => node.internal_strong = node.internal_strong.saturating_sub(1),
                Side::Local => node.local_strong = node.local_strong.saturating_sub(1),
            }
            if node.strong() {
                return;
            }
        } else {
            if side == Side::Local {
                node.local_weak = node.local_weak.saturating_sub(1);
            }
            if node.local_weak > 0 || !node.refs.is_empty() {
                return;
            }
        }
        self.settle_node(cx, id);
    }

    /// After a loss: queues the owner's work item, or removes a node that nobody needs.
    pub(crate) fn settle_node(&mut self, cx: &mut Cx<'_>, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        let told = node.told_strong || node.told_weak;
        if let Some(owner) = node.owner.filter(|_| told) {
            if node.place.is_none() {
                self.enqueue(Queue::Proc(owner), Work::Node(id));
                self.wake_proc(cx, owner);
            }
        } else if node.refs.is_empty() && node.local_strong == 0 && node.local_weak == 0 {
            self.remove_node(cx, id);
        }
    }

    /// Removes a node from every table.
    pub(crate) fn remove_node(&mut self, cx: &mut Cx<'_>, id: NodeId) {
        self.dequeue_node(id);
        let Some(node) = self.nodes.remove(id) else { return };
        if let Some(proc) = node.owner.and_then(|owner| self.procs.get_mut(&owner)) {
            proc.nodes.remove(&node.ptr);
        }
        if let Some(guest) = self.guests.get_mut(&node.guest) {
            guest.nodes = guest.nodes.saturating_sub(1);
            guest.registered = guest.registered.saturating_sub(u32::from(node.registered.is_some()));
        }
        cx.trace(move || TraceEvent::NodeReleased { node: node.debug_id });
    }

    pub(crate) fn dequeue_node(&mut self, id: NodeId) {
        if let Some(place) = self.nodes.get_mut(id).and_then(|node| node.place.take()) {
            self.remove_from_queue(place);
        }
    }

    /// The work item is read: what the owner is to be told, in B235's order.
    pub(crate) fn tell_owner(&mut self, cx: &mut Cx<'_>, id: NodeId) -> Vec<Return> {
        let Some(node) = self.nodes.get_mut(id) else { return Vec::new() };
        let (ptr, cookie) = (node.ptr, node.cookie);
        let (strong, weak) = (node.strong(), node.weak());
        let (told_strong, told_weak) = (node.told_strong, node.told_weak);
        if weak && !told_weak {
            node.pending_weak = true;
            node.local_weak += 1;
        }
        if strong && !told_strong {
            node.pending_strong = true;
            node.local_strong += 1;
        }
        node.told_strong = strong;
        node.told_weak = weak;
        if !strong && !weak {
            self.remove_node(cx, id);
        }
        [
            (weak && !told_weak, Return::Increfs { ptr, cookie }),
            (strong && !told_strong, Return::Acquire { ptr, cookie }),
            (!strong && told_strong, Return::Release { ptr, cookie }),
            (!weak && told_weak, Return::Decrefs { ptr, cookie }),
        ]
        .into_iter()
        .filter_map(|(due, item)| due.then_some(item))
        .collect()
    }

    /// BC_INCREFS_DONE and BC_ACQUIRE_DONE (B238, B241).
    pub(crate) fn node_done(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        ptr: u64,
        cookie: u64,
        strong: bool,
    ) {
        let found = self
            .thread_proc(thread)
            .and_then(|proc| self.procs.get(&proc))
            .and_then(|proc| proc.nodes.get(&ptr).copied());
        let pending = found.and_then(|id| {
            let node = self.nodes.get_mut(id).filter(|node| node.cookie == cookie)?;
            let pending = if strong { &mut node.pending_strong } else { &mut node.pending_weak };
            std::mem::take(pending).then_some(id)
        });
        match pending {
            Some(id) => self.dec_node(cx, id, strong, Side::Local),
            None => self.user_error(cx, thread, UserError::BadDone(ptr)),
        }
    }

    /// Whether the node is the present manager of its context.
    pub(crate) fn is_manager(&self, id: NodeId) -> bool {
        let context = self.nodes.get(id).and_then(|node| self.contexts.get(&node.context));
        context.is_some_and(|context| context.manager == Some(id))
    }

    /// The owner dies: what waits for the node fails, its watchers are told (B031, B266).
    pub(crate) fn release_node(&mut self, cx: &mut Cx<'_>, id: NodeId) {
        while let Some(work) = self.nodes.get_mut(id).and_then(|node| node.backlog.pop_first()) {
            self.release_work(cx, work);
        }
        self.dequeue_node(id);
        let Some(node) = self.nodes.get_mut(id) else { return };
        self.node_deaths += 1;
        node.died = self.node_deaths;
        node.owner = None;
        node.local_strong = 0;
        node.local_weak = 0;
        if node.registered.take().is_some()
            && let Some(guest) = self.guests.get_mut(&node.guest)
        {
            guest.registered = guest.registered.saturating_sub(1);
        }
        if node.refs.is_empty() {
            return self.remove_node(cx, id);
        }
        let debug_id = node.debug_id;
        let refs: Vec<RefId> = node.refs.iter().rev().collect();
        for id in refs {
            if let Some(death) = self.refs.get(id).and_then(|entry| entry.death) {
                self.trace_death(cx, death, debug_id);
                self.queue_death(cx, death);
            }
        }
    }
}
