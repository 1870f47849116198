//! Death notifications (BINDER.md 5.4).

use serde::{Deserialize, Serialize};

use crate::arena::{DeathId, RefId, ThreadId};
use crate::domain::{Cx, Domain};
use crate::ids::{GuestId, ProcId};
use crate::proc::first_ticket;
use crate::protocol::br;
use crate::trace::{TraceEvent, UserError};
use crate::work::{Place, Queue, Work};

/// What a queued registration says when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeathState {
    /// The node lives, or BR_DEAD_BINDER is queued or not acknowledged.
    Dead,
    /// The same, and the registration was cleared meanwhile (B272).
    DeadAndClear,
    /// BR_CLEAR_DEATH_NOTIFICATION_DONE.
    Cleared,
}

/// A registration of one ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Death {
    pub guest: GuestId,
    pub proc: ProcId,
    pub cookie: u64,
    pub state: DeathState,
    pub place: Option<Place>,
}

impl Domain {
    pub(crate) fn request_death(&mut self, cx: &mut Cx<'_>, thread: ThreadId, handle: u32, cookie: u64) {
        let Some((proc, id)) = self.ref_for_registration(cx, thread, handle) else { return };
        let Some(entry) = self.refs.get(id) else { return };
        if entry.death.is_some() {
            return self.user_error(cx, thread, UserError::BadDeath(cookie));
        }
        let dead = self.nodes.get(entry.node).is_none_or(|node| node.owner.is_none());
        let guest = entry.guest;
        if !self.count_registration(guest) {
            // B277: as where memory is short.
            return self.set_return_error(thread, br::ERROR);
        }
        if let Some(usage) = self.guests.get_mut(&guest) {
            usage.totals.deaths = usage.totals.deaths.wrapping_add(1);
        }
        let death = Death { guest, proc, cookie, state: DeathState::Dead, place: None };
        let death = self.deaths.insert(death);
        if let Some(entry) = self.refs.get_mut(id) {
            entry.death = Some(death);
        }
        if dead {
            self.queue_death(cx, death);
        }
    }

    /// Queues BR_DEAD_BINDER on the watcher's process.
    pub(crate) fn queue_death(&mut self, cx: &mut Cx<'_>, id: DeathId) {
        let Some(death) = self.deaths.get_mut(id) else { return };
        if death.place.is_some() {
            return;
        }
        death.state = DeathState::Dead;
        let proc = death.proc;
        self.enqueue(Queue::Proc(proc), Work::Death(id));
        self.wake_proc(cx, proc);
    }

    pub(crate) fn clear_death(&mut self, cx: &mut Cx<'_>, thread: ThreadId, handle: u32, cookie: u64) {
        let Some((_, id)) = self.ref_for_registration(cx, thread, handle) else { return };
        let found = self.refs.get(id).and_then(|entry| entry.death);
        let Some(id_death) = found.filter(|id| self.deaths.get(*id).is_some_and(|d| d.cookie == cookie))
        else {
            return self.user_error(cx, thread, UserError::BadDeath(cookie));
        };
        if let Some(entry) = self.refs.get_mut(id) {
            entry.death = None;
        }
        let Some(death) = self.deaths.get_mut(id_death) else { return };
        if death.place.is_some() {
            death.state = DeathState::DeadAndClear;
        } else {
            death.state = DeathState::Cleared;
            self.queue_for_looper(cx, thread, Work::Death(id_death));
        }
    }

    /// BC_DEAD_BINDER_DONE: the first delivered record with that cookie (B278).
    pub(crate) fn death_done(&mut self, cx: &mut Cx<'_>, thread: ThreadId, cookie: u64) {
        let delivered = self.thread_proc(thread).and_then(|proc| {
            let proc = self.procs.get(&proc)?;
            proc.delivered_deaths.get(first_ticket(&proc.death_cookies, cookie)?)
        });
        let Some(Work::Death(id)) = delivered else {
            return self.user_error(cx, thread, UserError::BadDeath(cookie));
        };
        self.dequeue_death(id);
        let Some(death) = self.deaths.get_mut(id) else { return };
        if death.state == DeathState::DeadAndClear {
            death.state = DeathState::Cleared;
            self.queue_for_looper(cx, thread, Work::Death(id));
        }
    }

    /// Takes a registration out of the queue that it is in.
    pub(crate) fn dequeue_death(&mut self, id: DeathId) {
        let Some(death) = self.deaths.get_mut(id) else { return };
        let Some(place) = death.place.take() else { return };
        if let Queue::DeliveredDeaths(proc) = place.queue
            && let Some(proc) = self.procs.get_mut(&proc)
        {
            proc.death_cookies.remove(&(death.cookie, place.ticket));
        }
        self.remove_from_queue(place);
    }

    /// Ends a registration silently (B274).
    pub(crate) fn drop_death(&mut self, id: DeathId) {
        self.dequeue_death(id);
        self.remove_death(id);
    }

    /// Forgets a registration that is in no queue.
    pub(crate) fn remove_death(&mut self, id: DeathId) {
        if let Some(death) = self.deaths.remove(id) {
            self.uncount_registration(death.guest);
        }
    }

    /// Counts a new registration of a guest; false: it has too many. One that is cleared lives until
    /// that is read, so the number of refs is no bound.
    pub(crate) fn count_registration(&mut self, guest: GuestId) -> bool {
        let max = self.limits.max_refs.saturating_mul(2);
        let usage = self.guests.get_mut(&guest).filter(|guest| guest.registrations < max);
        usage.map(|guest| guest.registrations += 1).is_some()
    }

    pub(crate) fn uncount_registration(&mut self, guest: GuestId) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.registrations = guest.registrations.saturating_sub(1);
        }
    }

    /// B271: to the thread itself if it is a looper, else to its process.
    pub(crate) fn queue_for_looper(&mut self, cx: &mut Cx<'_>, thread: ThreadId, work: Work) {
        let Some(object) = self.threads.get(thread) else { return };
        let proc = object.proc;
        if object.is_looper() {
            self.enqueue_ready(thread, work);
        } else {
            self.enqueue(Queue::Proc(proc), work);
            self.wake_proc(cx, proc);
        }
    }

    /// The ref that a registration names: any count will do (B263).
    pub(crate) fn ref_for_registration(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        handle: u32,
    ) -> Option<(ProcId, RefId)> {
        let proc = self.thread_proc(thread)?;
        let found = self.procs.get(&proc)?.refs.get(handle);
        if found.is_none() {
            self.user_error(cx, thread, UserError::BadHandle(handle));
        }
        Some((proc, found?))
    }

    /// Tells the trace of a death that is going to be reported.
    pub(crate) fn trace_death(&self, cx: &mut Cx<'_>, id: DeathId, node: crate::ids::DebugId) {
        if let Some(death) = self.deaths.get(id) {
            cx.trace(move || TraceEvent::Death { node, watcher: death.proc, cookie: death.cookie });
        }
    }
}
