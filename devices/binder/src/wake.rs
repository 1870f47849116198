//! Queues and waking (PROTOCOL.md rule 14).
//!
//! Waking takes a thread off the waiting list and puts it on the list of runnable threads. They
//! run at the end of the message, when everything it does is done: an owner hears of the sum of
//! the changes, not of each one.

use crate::arena::ThreadId;
use crate::domain::{Cx, Domain};
use crate::ids::{GuestId, ProcId};
use crate::poll::PollCheck;
use crate::thread::Activity;
use crate::trace::TraceEvent;
use crate::work::{Place, Queue, Work, WorkQueue};

impl Domain {
    fn queue_mut(&mut self, queue: Queue) -> Option<&mut WorkQueue> {
        match queue {
            Queue::Thread(id) => self.threads.get_mut(id).map(|thread| &mut thread.todo),
            Queue::Proc(id) => self.procs.get_mut(&id).map(|proc| &mut proc.todo),
            Queue::DeliveredDeaths(id) => self.procs.get_mut(&id).map(|proc| &mut proc.delivered_deaths),
            Queue::DeliveredFreezes(id) => self.procs.get_mut(&id).map(|proc| &mut proc.delivered_freezes),
            Queue::Backlog(id) => self.nodes.get_mut(id).map(|node| &mut node.backlog),
        }
    }

    /// Appends work. On a thread's queue it is deferred (B082): it does not make the thread run.
    pub(crate) fn enqueue(&mut self, queue: Queue, work: Work) {
        if let Queue::Thread(thread) = queue {
            return self.enqueue_thread(thread, work, false);
        }
        let Some(ticket) = self.queue_mut(queue).map(|queue| queue.push(work)) else { return };
        self.set_place(work, Some(Place { queue, ticket }));
    }

    /// Appends work that makes the thread run.
    pub(crate) fn enqueue_ready(&mut self, thread: ThreadId, work: Work) {
        self.enqueue_thread(thread, work, true);
    }

    fn enqueue_thread(&mut self, id: ThreadId, work: Work, ready: bool) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let ticket = thread.todo.push(work);
        if ready {
            thread.todo_ready = true;
            if thread.poll_armed {
                self.poll_check.push(PollCheck::Thread(id));
            }
        }
        match work {
            Work::Complete(_) => {
                let guest = thread.guest;
                self.count_completion(guest, true);
            }
            _ => self.set_place(work, Some(Place { queue: Queue::Thread(id), ticket })),
        }
    }

    /// Takes the first item of a queue.
    pub(crate) fn dequeue(&mut self, queue: Queue) -> Option<Work> {
        let Queue::Thread(id) = queue else {
            let work = self.queue_mut(queue)?.pop_first()?;
            self.set_place(work, None);
            return Some(work);
        };
        let thread = self.threads.get_mut(id)?;
        let (work, guest) = (thread.take_first()?, thread.guest);
        self.dequeued(work, guest);
        Some(work)
    }

    /// An item was taken from the queue of a thread, which is of this guest, or of its process.
    #[inline(always)]
    pub(crate) fn dequeued(&mut self, work: Work, guest: GuestId) {
        match work {
            Work::Complete(_) => self.count_completion(guest, false),
            _ => self.set_place(work, None),
        }
    }

    pub(crate) fn remove_from_queue(&mut self, place: Place) {
        if let Some(queue) = self.queue_mut(place.queue) {
            queue.remove(place.ticket);
        }
        if let Queue::Thread(id) = place.queue
            && let Some(thread) = self.threads.get_mut(id)
        {
            thread.todo_ready &= !thread.todo.is_empty();
        }
    }

    /// Completions count against the quota of transactions: they stay until they are read.
    fn count_completion(&mut self, guest: GuestId, more: bool) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            let count = guest.completions;
            guest.completions = if more { count + 1 } else { count.saturating_sub(1) };
            if more {
                guest.totals.completions = guest.totals.completions.wrapping_add(1);
            }
        }
    }

    #[inline(always)]
    fn set_place(&mut self, work: Work, place: Option<Place>) {
        match work {
            Work::Transaction(id) => {
                if let Some(transaction) = self.transactions.get_mut(id) {
                    transaction.place = place;
                }
            }
            Work::Node(id) => {
                if let Some(node) = self.nodes.get_mut(id) {
                    node.place = place;
                }
            }
            Work::Death(id) => {
                if let Some(death) = self.deaths.get_mut(id) {
                    death.place = place;
                    if let Some(Place { queue: Queue::DeliveredDeaths(proc), ticket }) = place
                        && let Some(proc) = self.procs.get_mut(&proc)
                    {
                        proc.death_cookies.insert((death.cookie, ticket));
                    }
                }
            }
            Work::Freeze(id) => {
                if let Some(freeze) = self.freezes.get_mut(id) {
                    freeze.place = place;
                    if let Some(Place { queue: Queue::DeliveredFreezes(proc), ticket }) = place
                        && let Some(proc) = self.procs.get_mut(&proc)
                    {
                        proc.freeze_cookies.insert((freeze.cookie, ticket));
                    }
                }
            }
            Work::ReturnError | Work::ReplyError | Work::Complete(_) => {}
        }
    }

    /// Makes a thread run if it sleeps in a read.
    pub(crate) fn wake_thread(&mut self, cx: &mut Cx<'_>, thread: ThreadId) {
        let Some(object) = self.threads.get_mut(thread) else { return };
        if !matches!(object.activity, Activity::Parked(_)) || std::mem::replace(&mut object.runnable, true) {
            return;
        }
        let ticket = object.waiting.take();
        if let (Some(ticket), Some(proc)) = (ticket, self.procs.get_mut(&object.proc)) {
            proc.waiting.remove(ticket);
        }
        self.runnable.push_back(thread);
        self.trace_thread(cx, thread, move |thread| TraceEvent::Woken { thread });
    }

    /// The most recently parked thread that may take process work (B083).
    fn select_waiting(&mut self, cx: &mut Cx<'_>, proc: ProcId) -> Option<ThreadId> {
        let chosen = if self.faults.is_some() { self.choose_waiting(cx, proc) } else { None };
        let waiting = &mut self.procs.get_mut(&proc)?.waiting;
        let thread = match chosen {
            Some(ticket) => waiting.remove(ticket)?,
            None => waiting.pop_last()?,
        };
        if let Some(object) = self.threads.get_mut(thread) {
            object.waiting = None;
        }
        self.wake_thread(cx, thread);
        Some(thread)
    }

    /// After work was put on a process queue.
    pub(crate) fn wake_proc(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        if self.select_waiting(cx, proc).is_none() {
            self.poll_proc_changed(proc);
        }
    }

    /// Hands work to a waiting thread's own queue, or to the process queue (B083, B084).
    pub(crate) fn offer(&mut self, cx: &mut Cx<'_>, proc: ProcId, work: Work) {
        match self.select_waiting(cx, proc) {
            Some(thread) => self.enqueue_ready(thread, work),
            None => {
                self.enqueue(Queue::Proc(proc), work);
                self.poll_proc_changed(proc);
            }
        }
    }

    /// Whether a read of the thread has something to return (B085).
    pub(crate) fn has_work(&self, thread: ThreadId, wait_for_proc: bool) -> bool {
        let Some(object) = self.threads.get(thread) else { return false };
        let proc_work = || self.procs.get(&object.proc).is_some_and(|proc| !proc.todo.is_empty());
        object.todo_ready || object.need_return || (wait_for_proc && proc_work())
    }

    /// End of the message: the woken threads read, in wake order.
    pub(crate) fn settle(&mut self, cx: &mut Cx<'_>) {
        while let Some(thread) = self.runnable.pop_front() {
            self.run_woken(cx, thread);
        }
        self.send_poll_events();
    }
}
