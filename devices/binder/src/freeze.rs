//! The freezer and its notifications (BINDER.md 9 and 5.5).

use serde::{Deserialize, Serialize};

use crate::arena::{FreezeId, ThreadId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, Pid, ProcId};
use crate::proc::first_ticket;
use crate::trace::TraceEvent;
use crate::work::{Place, Queue, Work};

/// A registration of one ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freeze {
    pub guest: GuestId,
    pub proc: ProcId,
    pub cookie: u64,
    pub is_frozen: bool,
    /// Delivered and not acknowledged.
    pub sent: bool,
    /// The state changed after it was sent.
    pub resend: bool,
    /// BR_CLEAR_FREEZE_NOTIFICATION_DONE is due.
    pub cleared: bool,
    pub place: Option<Place>,
}

impl Domain {
    /// B281, B282, B289.
    pub(crate) fn request_freeze(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        handle: u32,
        cookie: u64,
    ) -> Result<(), Errno> {
        let (proc, id) = self.ref_for_registration(cx, thread, handle).ok_or(Errno::EINVAL)?;
        let entry = self.refs.get(id).ok_or(Errno::EINVAL)?;
        if entry.freeze.is_some() {
            return Err(Errno::EINVAL);
        }
        let owner = self.nodes.get(entry.node).and_then(|node| node.owner).and_then(|id| self.procs.get(&id));
        let (guest, state) = (entry.guest, owner.map(|owner| owner.frozen));
        if !self.count_registration(guest) {
            return Err(Errno::ENOMEM);
        }
        if let Some(usage) = self.guests.get_mut(&guest) {
            usage.totals.freezes = usage.totals.freezes.wrapping_add(1);
        }
        let freeze = self.freezes.insert(Freeze {
            guest,
            proc,
            cookie,
            is_frozen: state.unwrap_or(false),
            sent: false,
            resend: false,
            cleared: false,
            place: None,
        });
        if let Some(entry) = self.refs.get_mut(id) {
            entry.freeze = Some(freeze);
        }
        if state.is_some() {
            self.enqueue(Queue::Proc(proc), Work::Freeze(freeze));
            self.wake_proc(cx, proc);
        }
        Ok(())
    }

    /// B288.
    pub(crate) fn clear_freeze(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        handle: u32,
        cookie: u64,
    ) -> Result<(), Errno> {
        let (proc, id) = self.ref_for_registration(cx, thread, handle).ok_or(Errno::EINVAL)?;
        let entry = self.refs.get_mut(id).ok_or(Errno::EINVAL)?;
        let freeze_id = entry.freeze.ok_or(Errno::EINVAL)?;
        let freeze = self.freezes.get_mut(freeze_id).filter(|f| f.cookie == cookie).ok_or(Errno::EINVAL)?;
        entry.freeze = None;
        freeze.cleared = true;
        if !freeze.sent && freeze.place.is_none() {
            self.enqueue(Queue::Proc(proc), Work::Freeze(freeze_id));
            self.wake_proc(cx, proc);
        }
        Ok(())
    }

    /// BC_FREEZE_NOTIFICATION_DONE (B284, B286).
    pub(crate) fn freeze_done(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        cookie: u64,
    ) -> Result<(), Errno> {
        let proc = self.thread_proc(thread).ok_or(Errno::EINVAL)?;
        let object = self.procs.get(&proc).ok_or(Errno::EINVAL)?;
        let ticket = first_ticket(&object.freeze_cookies, cookie).ok_or(Errno::EINVAL)?;
        let Some(Work::Freeze(id)) = object.delivered_freezes.get(ticket) else { return Err(Errno::EINVAL) };
        self.dequeue_freeze(id);
        let Some(freeze) = self.freezes.get_mut(id) else { return Ok(()) };
        freeze.sent = false;
        if freeze.cleared || std::mem::take(&mut freeze.resend) {
            self.enqueue(Queue::Proc(proc), Work::Freeze(id));
            self.wake_proc(cx, proc);
        }
        Ok(())
    }

    fn dequeue_freeze(&mut self, id: FreezeId) {
        let Some(freeze) = self.freezes.get_mut(id) else { return };
        let Some(place) = freeze.place.take() else { return };
        if let Queue::DeliveredFreezes(proc) = place.queue
            && let Some(proc) = self.procs.get_mut(&proc)
        {
            proc.freeze_cookies.remove(&(freeze.cookie, place.ticket));
        }
        self.remove_from_queue(place);
    }

    /// Ends a registration silently (B292).
    pub(crate) fn drop_freeze(&mut self, id: FreezeId) {
        self.dequeue_freeze(id);
        self.remove_freeze(id);
    }

    /// Forgets a registration that is in no queue.
    pub(crate) fn remove_freeze(&mut self, id: FreezeId) {
        if let Some(freeze) = self.freezes.remove(id) {
            self.uncount_registration(freeze.guest);
        }
    }

    /// Tells everybody who watches nodes of a process (B285, B287, B291).
    fn announce_frozen(&mut self, cx: &mut Cx<'_>, proc: ProcId, frozen: bool) {
        let nodes = self.procs.get(&proc).into_iter().flat_map(|proc| proc.nodes.values());
        let refs = nodes.filter_map(|id| self.nodes.get(*id)).flat_map(|node| node.refs.iter());
        let watchers: Vec<FreezeId> = refs.filter_map(|id| self.refs.get(id)?.freeze).collect();
        for id in watchers {
            let Some(freeze) = self.freezes.get_mut(id) else { continue };
            let changed = std::mem::replace(&mut freeze.is_frozen, frozen) != frozen;
            let watcher = freeze.proc;
            if freeze.place.is_none() {
                self.enqueue(Queue::Proc(watcher), Work::Freeze(id));
                self.wake_proc(cx, watcher);
            } else if freeze.sent && changed {
                freeze.resend = true;
            }
        }
    }

    /// Processes opened by a pid of a guest (B367), the most recently opened first (B375).
    pub(crate) fn procs_of(&self, guest: GuestId, pid: Pid) -> Vec<ProcId> {
        let of_pid = self.procs.iter().filter(|(_, proc)| proc.guest == guest && proc.pid == pid);
        of_pid.map(|(id, _)| id).rev().collect()
    }

    /// B369, B380: something is under way, or a thread is in a call.
    fn is_busy(&self, proc: ProcId) -> bool {
        self.procs.get(&proc).is_some_and(|proc| {
            let mut threads = proc.threads.values().filter_map(|id| self.threads.get(*id));
            proc.outstanding > 0 || threads.any(|thread| thread.stack.is_some())
        })
    }

    /// enable=1, before the wait (B368). True: the wait may be skipped.
    pub(crate) fn begin_freeze(&mut self, proc: ProcId) -> bool {
        let Some(object) = self.procs.get_mut(&proc) else { return true };
        object.sync_received = false;
        object.async_received = false;
        object.frozen = true;
        object.outstanding == 0
    }

    /// The last check of enable=1 (B369).
    pub(crate) fn end_freeze(&mut self, cx: &mut Cx<'_>, proc: ProcId) -> Result<(), Errno> {
        if self.is_busy(proc) {
            self.thaw(proc);
            return Err(Errno::EAGAIN);
        }
        cx.trace(move || TraceEvent::Frozen { proc, frozen: true });
        self.announce_frozen(cx, proc, true);
        Ok(())
    }

    /// Undoes an attempt, which tells nobody (B290).
    pub(crate) fn thaw(&mut self, proc: ProcId) {
        if let Some(object) = self.procs.get_mut(&proc) {
            object.frozen = false;
        }
    }

    /// enable=0 (B373).
    pub(crate) fn unfreeze(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        if let Some(object) = self.procs.get_mut(&proc) {
            object.sync_received = false;
            object.async_received = false;
            object.frozen = false;
        }
        cx.trace(move || TraceEvent::Frozen { proc, frozen: false });
        self.announce_frozen(cx, proc, false);
    }

    /// BINDER_GET_FROZEN_INFO (B380): sync_recv and async_recv.
    pub(crate) fn frozen_info(&self, procs: &[ProcId]) -> (u32, u32) {
        procs.iter().filter_map(|id| Some((*id, self.procs.get(id)?))).fold(
            (0, 0),
            |(sync, oneway), (id, proc)| {
                let sync = sync | u32::from(proc.sync_received) | u32::from(self.is_busy(id)) << 1;
                (sync, oneway | u32::from(proc.async_received))
            },
        )
    }
}
