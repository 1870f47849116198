//! Whether a domain that was loaded is one that could have been saved.
//!
//! A snapshot is input like any other: it may be damaged, or made to do harm. The code of this crate
//! relies on what its own messages keep true: tables that mirror each other, counts that follow from
//! objects, chains that end. [`Domain::check`] looks at all of it, so that no later message of the
//! guest can panic, hang or read out of bounds because of a state that no message made.
//!
//! Ids need not be checked where they are only looked up: a stale one finds nothing. They are
//! checked where a loop ends by removing what it found, and where two tables must agree.
//!
//! Every object is taken apart without `..`: a field that is added must be judged here, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::arena::{Arena, NodeId, ThreadId, TransactionId};
use crate::buffer::{Buffer, Held, align8};
use crate::death::Death;
use crate::domain::{Domain, Guest};
use crate::freeze::Freeze;
use crate::ids::{GuestId, ProcId};
use crate::lifecycle::{MAX_CONTEXTS, MAX_NAME, MAX_SECCTX};
use crate::limits::{Limits, LsmMode};
use crate::message::MAX_INSTALL_FILES;
use crate::node::Node;
use crate::proc::{Context, ContextId, Proc};
use crate::refs::Ref;
use crate::thread::{Activity, Delivery, Thread};
use crate::trace::TransactionRecord;
use crate::transaction::Transaction;
use crate::transaction::send::{MAX_REGISTERED, REGISTRATION};
use crate::work::{Place, Queue, Work, WorkQueue};

mod call;

/// A domain that no sequence of messages makes. The text says what is wrong first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the binder world contradicts itself: {0}")]
pub struct Inconsistent(pub(crate) &'static str);

/// `what` is wrong unless the condition holds.
pub(crate) fn holds(condition: bool, what: &'static str) -> Result<(), Inconsistent> {
    if condition { Ok(()) } else { Err(Inconsistent(what)) }
}

/// No count comes near this: there are quotas on what it counts.
const MAX_COUNT: u32 = 1 << 30;
/// Bytes of each payload that a trace carries, at most: a whole mapping.
const MAX_TRACE_PAYLOAD: u32 = 4 << 20;

impl Domain {
    /// Judges a domain that was loaded. `allowed` are the greatest quotas that it may bring along.
    pub fn check(&self, allowed: &Limits) -> Result<(), Inconsistent> {
        let Domain {
            limits,
            profile: _,
            guests,
            contexts,
            procs,
            threads,
            nodes,
            refs,
            transactions,
            buffers,
            deaths,
            freezes,
            last_proc,
            last_debug_id: _,
            last_context,
            node_deaths: _,
            runnable,
            poll_check,
            spare: _,
            faults,
        } = self;
        faults.iter().try_for_each(|faults| faults.check(|id| buffers.get(id)))?;
        check_limits(limits, allowed)?;
        holds(runnable.is_empty() && poll_check.is_empty(), "it was saved inside a message")?;
        threads.check()?;
        nodes.check()?;
        refs.check()?;
        transactions.check()?;
        buffers.check()?;
        deaths.check()?;
        freezes.check()?;

        self.check_contexts(contexts, *last_context)?;
        for (id, proc) in procs.iter() {
            holds(id != ProcId(0) && id <= *last_proc, "a process has a number that was not given yet")?;
            self.check_proc(id, proc)?;
        }
        threads.entries().try_for_each(|(id, thread)| self.check_thread(id, thread))?;
        nodes.entries().try_for_each(|(id, node)| self.check_node(id, node))?;
        refs.iter().try_for_each(|entry| self.check_ref(entry))?;
        transactions.entries().try_for_each(|(id, transaction)| self.check_transaction(id, transaction))?;
        buffers.iter().try_for_each(|buffer| self.check_buffer(buffer))?;
        deaths.iter().try_for_each(|death| self.check_death(death))?;
        freezes.iter().try_for_each(|freeze| self.check_freeze(freeze))?;
        self.check_places()?;
        self.check_totals()?;
        ends(transactions, |transaction| transaction.from_parent)?;
        ends(transactions, |transaction| transaction.to_parent)?;
        guests.check()?;
        guests.iter().try_for_each(|(id, guest)| self.check_guest(*id, guest))
    }

    fn check_contexts(
        &self,
        contexts: &BTreeMap<ContextId, Context>,
        last: ContextId,
    ) -> Result<(), Inconsistent> {
        let (mut shared, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for (id, Context { name, device, manager, manager_uid: _ }) in contexts {
            holds(*id <= last, "a context has a number that was not given yet")?;
            let fresh = match device {
                None => shared.insert(name),
                Some((_, number)) => *number != 0 && devices.insert(device),
            };
            holds(fresh, "two contexts are one device")?;
            holds(name.len() <= MAX_NAME, "a context's name is too long")?;
            let there = manager.is_none_or(|node| self.nodes.get(node).is_some());
            holds(there, "a context's manager is not there")?;
        }
        holds(shared.len() <= MAX_CONTEXTS, "there are too many contexts")
    }

    fn check_proc(&self, id: ProcId, proc: &Proc) -> Result<(), Inconsistent> {
        let Proc {
            guest,
            pid: _,
            context,
            default_sched: _,
            secctx,
            secctx_error: _,
            threads,
            nodes,
            refs,
            todo,
            waiting,
            delivered_deaths,
            delivered_freezes,
            death_cookies,
            freeze_cookies,
            max_threads: _,
            requested_threads: _,
            started_threads: _,
            mapping,
            frozen: _,
            sync_received: _,
            async_received: _,
            outstanding,
            spam_detection: _,
            lsm,
            freezers,
            poll_due,
            counters: _,
        } = proc;
        holds(self.guests.contains_key(guest), "a process is of a guest that is not attached")?;
        holds(self.contexts.contains_key(context), "a process is of a context that is not there")?;
        holds(secctx.len() <= MAX_SECCTX, "a security context is too long")?;
        holds(*outstanding < MAX_COUNT, "a process's outstanding transactions are too many")?;
        holds(!poll_due, "a process is in the middle of a message")?;
        for (tid, thread) in threads {
            let thread = self.threads.get(*thread);
            let own = thread.is_some_and(|thread| thread.proc == id && thread.tid == *tid);
            holds(own, "a process lists a thread that is not its own")?;
        }
        for (ptr, node) in nodes {
            let node = self.nodes.get(*node);
            let own = node.is_some_and(|node| node.owner == Some(id) && node.ptr == *ptr);
            holds(own, "a process lists a node that is not its own")?;
        }
        refs.check()?;
        for (handle, entry_id) in refs.entries() {
            let entry = self.refs.get(entry_id);
            let found = entry.filter(|entry| entry.proc == id && entry.handle == handle);
            let own = found.is_some_and(|entry| refs.find(entry.node) == Some(entry_id));
            holds(own, "a handle is not of the process that lists it")?;
        }
        for (ticket, thread) in waiting.entries() {
            let thread = self.threads.get(thread);
            let waits = thread.is_some_and(|thread| thread.proc == id && thread.waiting == Some(ticket));
            holds(waits, "a thread is on a waiting list and does not wait")?;
        }
        waiting.check()?;
        todo.check()?;
        check_delivered(delivered_deaths, death_cookies, |work| match work {
            Work::Death(death) => self.deaths.get(death).filter(|it| it.proc == id).map(|it| it.cookie),
            _ => None,
        })?;
        check_delivered(delivered_freezes, freeze_cookies, |work| match work {
            Work::Freeze(freeze) => self.freezes.get(freeze).filter(|it| it.proc == id).map(|it| it.cookie),
            _ => None,
        })?;
        lsm.check(|target| self.procs.contains_key(&target))?;
        for thread in freezers {
            let activity = self.threads.get(*thread).map(|thread| &thread.activity);
            let waits = matches!(activity, Some(Activity::Freezing(wait)) if wait.target == id);
            holds(waits, "a thread that freezes a process does not wait for it")?;
        }
        let Some(mapping) = mapping else { return Ok(()) };
        holds(mapping.guest == *guest, "a mapping is of another guest than its process")?;
        mapping.check(|buffer| self.buffers.get(buffer).filter(|buffer| buffer.proc == id))
    }

    fn check_thread(&self, id: ThreadId, thread: &Thread) -> Result<(), Inconsistent> {
        let Thread {
            proc,
            guest,
            tid: _,
            looper: _,
            need_return: _,
            stack: _,
            todo,
            todo_ready,
            return_error: _,
            reply_error: _,
            extended_error: _,
            poll_armed: _,
            seq: _,
            activity,
            waiting,
            runnable,
            notices: _,
            last_delivery,
        } = thread;
        let owner = self.procs.get(proc).ok_or(Inconsistent("a thread is of a process that is not there"))?;
        holds(owner.guest == *guest, "a thread is of another guest than its process")?;
        todo.check()?;
        // A read goes on until it has taken what made the thread ready.
        holds(!todo_ready || !todo.is_empty(), "a thread is to read what is not there")?;
        holds(!runnable, "a thread is in the middle of a message")?;
        let parked = matches!(activity, Activity::Parked(_));
        holds(waiting.is_none() || parked, "a thread that does not sleep is on a waiting list")?;
        if let Some(Delivery { seq: _, transaction, buffer }) = last_delivery {
            let buffer = buffer.and_then(|buffer| self.buffers.get(buffer));
            let buffer = buffer.is_none_or(|buffer| buffer.proc == *proc);
            let call = transaction.and_then(|call| self.transactions.get(call));
            let call = call.is_none_or(|call| call.to_thread.is_none_or(|to| to == id));
            holds(buffer && call, "a thread was delivered what is not its own")?;
        }
        self.check_activity(id, thread, activity)
    }

    fn check_node(&self, id: NodeId, node: &Node) -> Result<(), Inconsistent> {
        let Node {
            debug_id: _,
            guest,
            owner,
            context,
            ptr: _,
            cookie: _,
            internal_strong,
            local_strong,
            local_weak,
            surplus,
            refs,
            told_strong: _,
            told_weak: _,
            pending_strong: _,
            pending_weak: _,
            place: _,
            accepts_fds: _,
            wants_secctx: _,
            minimum: _,
            has_async: _,
            registered,
            died: _,
            backlog,
        } = node;
        holds(self.guests.contains_key(guest), "a node is of a guest that is not attached")?;
        let owner = owner.map(|owner| self.procs.get(&owner));
        let owned = owner.is_none_or(|owner| owner.is_some_and(|owner| owner.guest == *guest));
        holds(owned, "a node's owner is not there")?;
        holds(self.contexts.contains_key(context), "a node is of a context that is not there")?;
        let counts = [internal_strong, local_strong, local_weak, surplus];
        holds(counts.iter().all(|count| **count < MAX_COUNT), "a node's counts are too high")?;
        let small =
            |it: &TransactionRecord| it.payload.len() <= REGISTRATION as usize && it.objects.len() <= 1;
        holds(registered.as_deref().is_none_or(small), "a node's registration is too long")?;
        for (ticket, entry) in refs.entries() {
            let entry = self.refs.get(entry);
            let own = entry.is_some_and(|entry| entry.node == id && entry.ticket == ticket);
            holds(own, "a node lists a handle that is not on it")?;
        }
        refs.check()?;
        backlog.check()
    }

    fn check_ref(&self, entry: &Ref) -> Result<(), Inconsistent> {
        let Ref { debug_id: _, guest, proc, node, ticket: _, handle: _, strong: _, weak: _, death, freeze } =
            entry;
        let owner = self.procs.get(proc).ok_or(Inconsistent("a handle is of a process that is not there"))?;
        holds(owner.guest == *guest, "a handle is of another guest than its process")?;
        holds(self.nodes.get(*node).is_some(), "a handle is on a node that is not there")?;
        let death = death.is_none_or(|id| self.deaths.get(id).is_some_and(|death| death.proc == *proc));
        holds(death, "a handle's death registration is not its own")?;
        let freeze = freeze.is_none_or(|id| self.freezes.get(id).is_some_and(|freeze| freeze.proc == *proc));
        holds(freeze, "a handle's freeze registration is not its own")
    }

    fn check_transaction(&self, id: TransactionId, transaction: &Transaction) -> Result<(), Inconsistent> {
        let Transaction {
            debug_id: _,
            guest,
            kind: _,
            from: _,
            sender: _,
            from_parent: _,
            to_proc: _,
            to_thread: _,
            to_parent: _,
            buffer,
            node: _,
            code: _,
            flags: _,
            sender_euid: _,
            sched: _,
            saved_sched: _,
            secctx: _,
            files,
            place: _,
            started: _,
        } = transaction;
        holds(self.guests.contains_key(guest), "a transaction is of a guest that is not attached")?;
        holds(files.len() <= MAX_INSTALL_FILES as usize, "a transaction carries too many files")?;
        let Some(buffer) = buffer.and_then(|buffer| self.buffers.get(buffer)) else { return Ok(()) };
        holds(buffer.transaction == Some(id), "a transaction's buffer is not its own")?;
        let inside = |offset: u64| offset.checked_add(4).is_some_and(|end| end <= buffer.size);
        holds(files.iter().all(|file| inside(file.offset)), "a file's place is outside of its buffer")
    }

    fn check_buffer(&self, buffer: &Buffer) -> Result<(), Inconsistent> {
        let Buffer {
            debug_id: _,
            proc,
            offset: _,
            size,
            data_size,
            offsets_size,
            extra_size: _,
            is_async: _,
            sender: _,
            spam_suspect: _,
            clear_on_free: _,
            user_free: _,
            transaction: _,
            target_node: _,
            held,
            close,
        } = buffer;
        holds(self.procs.contains_key(proc), "a buffer is of a process that is not there")?;
        let parts = [data_size, offsets_size];
        holds(parts.iter().all(|part| *part <= size), "a buffer is smaller than its data")?;
        holds(align8(*data_size) + align8(*offsets_size) <= *size, "a buffer is smaller than its data")?;
        holds(close.len() <= MAX_INSTALL_FILES as usize, "a buffer closes too many files")?;
        let own = held.iter().all(|held| match held {
            // A node is looked at with its owner when it is let go.
            Held::Node { .. } => true,
            Held::Ref { id, strong: _ } => self.refs.get(*id).is_none_or(|entry| entry.proc == *proc),
        });
        holds(own, "a buffer holds a handle of another process")
    }

    fn check_death(&self, death: &Death) -> Result<(), Inconsistent> {
        let Death { guest, proc, cookie: _, state: _, place: _ } = death;
        let owner = self.procs.get(proc);
        holds(owner.is_some_and(|owner| owner.guest == *guest), "a death registration has no process")
    }

    fn check_freeze(&self, freeze: &Freeze) -> Result<(), Inconsistent> {
        let Freeze { guest, proc, cookie: _, is_frozen: _, sent: _, resend: _, cleared: _, place: _ } =
            freeze;
        let owner = self.procs.get(proc);
        holds(owner.is_some_and(|owner| owner.guest == *guest), "a freeze registration has no process")
    }

    /// Whatever is queued knows where, and nothing else believes that it is queued.
    fn check_places(&self) -> Result<(), Inconsistent> {
        let mut queued = 0;
        for (queue, items) in self.queues() {
            for (ticket, work) in items.entries() {
                let place = match work {
                    Work::Transaction(id) => self.transactions.get(id).map(|it| it.place),
                    Work::Node(id) => self.nodes.get(id).map(|it| it.place),
                    Work::Death(id) => self.deaths.get(id).map(|it| it.place),
                    Work::Freeze(id) => self.freezes.get(id).map(|it| it.place),
                    Work::ReturnError | Work::ReplyError | Work::Complete(_) => {
                        holds(matches!(queue, Queue::Thread(_)), "a thread's own work is in another queue")?;
                        continue;
                    }
                };
                holds(place == Some(Some(Place { queue, ticket })), "queued work does not know its place")?;
                queued += 1;
            }
        }
        let placed = self.transactions.iter().filter(|it| it.place.is_some()).count()
            + self.nodes.iter().filter(|it| it.place.is_some()).count()
            + self.deaths.iter().filter(|it| it.place.is_some()).count()
            + self.freezes.iter().filter(|it| it.place.is_some()).count();
        holds(placed == queued, "work believes that it is queued")
    }

    fn queues(&self) -> impl Iterator<Item = (Queue, &WorkQueue)> {
        let threads = self.threads.entries().map(|(id, thread)| (Queue::Thread(id), &thread.todo));
        let procs = self.procs.iter().flat_map(|(id, proc)| {
            [
                (Queue::Proc(id), &proc.todo),
                (Queue::DeliveredDeaths(id), &proc.delivered_deaths),
                (Queue::DeliveredFreezes(id), &proc.delivered_freezes),
            ]
        });
        let nodes = self.nodes.entries().map(|(id, node)| (Queue::Backlog(id), &node.backlog));
        threads.chain(procs).chain(nodes)
    }

    /// Every object is in the tables of those it belongs to: that what is listed belongs there was
    /// found already, so the sums tell.
    fn check_totals(&self) -> Result<(), Inconsistent> {
        let sum = |count: fn(&Proc) -> usize| self.procs.values().map(count).sum::<usize>();
        let threads = sum(|proc| proc.threads.len());
        holds(threads == self.threads.iter().count(), "a thread is not listed")?;
        let owned = self.nodes.iter().filter(|node| node.owner.is_some()).count();
        holds(sum(|proc| proc.nodes.len()) == owned, "a node is not listed")?;
        let refs = self.refs.iter().count();
        holds(sum(|proc| proc.refs.entries().count()) == refs, "a handle is not listed")?;
        let on_nodes: usize = self.nodes.iter().map(|node| node.refs.len()).sum();
        holds(on_nodes == refs, "a handle is not listed at its node")?;
        let mapped = sum(|proc| proc.mapping.as_ref().map_or(0, |mapping| mapping.buffers.len()));
        holds(mapped == self.buffers.iter().count(), "a buffer is not listed")?;
        let waiting = self.threads.iter().filter(|thread| thread.waiting.is_some()).count();
        holds(sum(|proc| proc.waiting.entries().count()) == waiting, "a waiting thread is not listed")?;
        let freezing = |thread: &&Thread| matches!(thread.activity, Activity::Freezing(_));
        let freezing = self.threads.iter().filter(freezing).count();
        holds(sum(|proc| proc.freezers.len()) == freezing, "a freezing thread is not listed")
    }

    fn check_guest(&self, id: GuestId, guest: &Guest) -> Result<(), Inconsistent> {
        let Guest {
            procs,
            threads,
            nodes,
            refs,
            transactions,
            buffers,
            buffer_objects,
            completions,
            registrations,
            registered,
            tokens,
            suspended_bytes,
            idle_pages,
            fputs: _,
            events,
            contexts,
            attempt_acquire: _,
            counters: _,
            totals: _,
            log,
            failed_log,
        } = guest;
        log.check()?;
        failed_log.check()?;
        let devices = self.contexts.values().filter_map(|context| context.device);
        let devices = devices.filter(|(guest, _)| *guest == id).count();
        holds(*contexts as usize == devices, "a guest's devices are counted wrong")?;
        let census = self.census(id);
        holds(
            [*procs, *threads, *nodes, *refs, *transactions, *buffers, *registrations]
                == [
                    census.procs,
                    census.threads,
                    census.nodes,
                    census.refs,
                    census.transactions,
                    census.buffers,
                    census.deaths,
                ],
            "a guest's objects are counted wrong",
        )?;
        let there = |buffer: &&Buffer| self.procs.get(&buffer.proc).is_some_and(|proc| proc.guest == id);
        let objects = self.buffers.iter().filter(there).map(Buffer::objects);
        let objects = objects.fold(0u64, u64::saturating_add);
        holds(*buffer_objects == objects, "the objects in a guest's buffers are counted wrong")?;
        let known = self.nodes.iter().filter(|node| node.guest == id && node.registered.is_some()).count();
        let counted = *registered as usize == known && *registered <= MAX_REGISTERED;
        holds(counted, "a guest's registered nodes are counted wrong")?;
        let own = || self.threads.iter().filter(|thread| thread.guest == id);
        let complete = |work: &Work| matches!(work, Work::Complete(_));
        let unread: usize = own().map(|thread| thread.todo.iter().filter(complete).count()).sum();
        holds(*completions as usize == unread, "a guest's completions are counted wrong")?;
        let idle =
            self.procs.values().filter(|proc| proc.guest == id).filter_map(|proc| proc.mapping.as_ref());
        let idle: u64 = idle.map(|mapping| u64::from(mapping.idle())).sum();
        holds(u64::from(*idle_pages) == idle, "a guest's idle pages are counted wrong")?;
        let (mut bytes, mut held) = (0u64, 0usize);
        for thread in own() {
            match &thread.activity {
                Activity::Suspended { sending, bytes: more, .. } => {
                    bytes = bytes.saturating_add(*more);
                    held += sending.gathered().tokens.len();
                }
                Activity::Filling { bytes: more, .. } => bytes = bytes.saturating_add(*more),
                _ => {}
            }
        }
        holds(bytes == *suspended_bytes, "a guest's suspended bytes are counted wrong")?;
        holds(bytes <= self.limits.max_suspended_bytes, "a guest's suspended commands are too large")?;
        held += self.transactions.iter().filter(|it| it.guest == id).map(|it| it.files.len()).sum::<usize>();
        holds(*tokens as usize == held, "a guest's files are counted wrong")?;

        let mut told: BTreeMap<ThreadId, u8> = BTreeMap::new();
        for (thread, notice) in events {
            let bits = told.entry(*thread).or_default();
            holds(*bits & notice.bit() == 0, "an event waits twice")?;
            *bits |= notice.bit();
        }
        let notices = own_entries(&self.threads, id).filter(|(_, thread)| thread.notices != 0);
        holds(
            told.into_iter().eq(notices.map(|(id, thread)| (id, thread.notices))),
            "an event is of no thread",
        )
    }
}

fn own_entries(
    threads: &Arena<ThreadId, Thread>,
    guest: GuestId,
) -> impl Iterator<Item = (ThreadId, &Thread)> {
    let mut own: Vec<_> = threads.entries().filter(|(_, thread)| thread.guest == guest).collect();
    own.sort_by_key(|(id, _)| *id);
    own.into_iter()
}

/// Quotas are the host's to give: a snapshot has what its maker was given, and no more than is allowed.
fn check_limits(limits: &Limits, allowed: &Limits) -> Result<(), Inconsistent> {
    let Limits {
        max_procs,
        max_threads,
        max_nodes,
        max_refs,
        max_transactions,
        max_buffers,
        max_buffer_objects,
        max_contexts,
        max_files,
        max_tokens,
        max_suspended_bytes,
        max_objects,
        lsm: LsmMode::Off | LsmMode::Cache | LsmMode::Ask,
        default_secctx,
        trace_payload,
    } = limits;
    let within = *max_procs <= allowed.max_procs
        && *max_threads <= allowed.max_threads
        && *max_nodes <= allowed.max_nodes
        && *max_refs <= allowed.max_refs
        && *max_transactions <= allowed.max_transactions
        && *max_buffers <= allowed.max_buffers
        && *max_buffer_objects <= allowed.max_buffer_objects
        && *max_contexts <= allowed.max_contexts
        && *max_files <= allowed.max_files.min(MAX_INSTALL_FILES)
        && *max_tokens <= allowed.max_tokens
        && *max_suspended_bytes <= allowed.max_suspended_bytes
        && *max_objects <= allowed.max_objects
        && *trace_payload <= allowed.trace_payload.max(MAX_TRACE_PAYLOAD);
    holds(within, "its quotas are more than allowed")?;
    let secctx = default_secctx.as_ref().is_none_or(|secctx| secctx.len() <= MAX_SECCTX);
    holds(secctx, "the default security context is too long")
}

/// A queue of delivered registrations and the table that finds them by cookie agree.
fn check_delivered(
    queue: &WorkQueue,
    cookies: &BTreeSet<(u64, u64)>,
    cookie: impl Fn(Work) -> Option<u64>,
) -> Result<(), Inconsistent> {
    queue.check()?;
    let listed: Option<BTreeSet<(u64, u64)>> =
        queue.entries().map(|(ticket, work)| Some((cookie(work)?, ticket))).collect();
    holds(listed.as_ref() == Some(cookies), "delivered registrations are in two tables that differ")
}

/// Whether every chain of transactions comes to an end: who follows one never looks back.
fn ends(
    transactions: &Arena<TransactionId, Transaction>,
    next: impl Fn(&Transaction) -> Option<TransactionId>,
) -> Result<(), Inconsistent> {
    let mut known_to_end = BTreeSet::new();
    for (id, _) in transactions.entries() {
        let mut path = BTreeSet::new();
        let mut at = Some(id);
        while let Some((id, transaction)) = at.and_then(|id| Some((id, transactions.get(id)?))) {
            if known_to_end.contains(&id) {
                break;
            }
            holds(path.insert(id), "a chain of calls has no end")?;
            at = next(transaction);
        }
        known_to_end.append(&mut path);
    }
    Ok(())
}
