//! The lines of the state texts: processes, threads, nodes, refs, buffers, transactions, queue items.

use std::fmt::{self, Write};

use crate::death::DeathState;
use crate::domain::Domain;
use crate::logs::{Scope, hidden, name};
use crate::node::Node;
use crate::proc::Proc;
use crate::thread::{Activity, Thread};
use crate::transaction::Transaction;
use crate::work::{Completion, Work};

/// `WAITING` among the looper bits: asleep in a read (B094).
const WAITING: u8 = 0x10;

/// Prints objects of one domain.
pub(super) struct Printer<'a> {
    pub domain: &'a Domain,
    pub scope: Scope,
    /// Pointers of nodes are hidden.
    pub hashed: bool,
    pub out: &'a mut dyn Write,
}

impl Printer<'_> {
    /// A process; with `all` false only what is in flight, and nothing at all where nothing is.
    pub(super) fn proc(&mut self, proc: &Proc, all: bool) -> fmt::Result {
        if !all && self.is_quiet(proc) {
            return Ok(());
        }
        let domain = self.domain;
        let context = domain.contexts.get(&proc.context).map_or(&b""[..], |context| &context.name);
        write!(self.out, "proc {}\ncontext {}\n", proc.pid, name(context))?;
        let threads = proc.threads.values().filter_map(|id| domain.threads.get(*id));
        threads.filter(|thread| all || !is_idle(thread)).try_for_each(|thread| self.thread(proc, thread))?;
        let nodes = proc.nodes.values().filter_map(|id| domain.nodes.get(*id));
        nodes.filter(|node| all || node.has_async).try_for_each(|node| self.node(node))?;
        if all {
            self.refs(proc)?;
        }
        self.buffers(proc)?;
        proc.todo.iter().try_for_each(|work| self.work(proc, "  ", "  pending transaction", work))?;
        if !proc.delivered_deaths.is_empty() {
            self.out.write_str("  has delivered dead binder\n")?;
        }
        if !proc.delivered_freezes.is_empty() {
            self.out.write_str("  has delivered freeze binder\n")?;
        }
        Ok(())
    }

    fn is_quiet(&self, proc: &Proc) -> bool {
        proc.todo.is_empty()
            && proc.delivered_deaths.is_empty()
            && proc.delivered_freezes.is_empty()
            && proc.mapping.as_ref().is_none_or(|mapping| mapping.buffers.is_empty())
            && proc.threads.values().filter_map(|id| self.domain.threads.get(*id)).all(is_idle)
            && !proc.nodes.values().filter_map(|id| self.domain.nodes.get(*id)).any(|node| node.has_async)
    }

    fn thread(&mut self, proc: &Proc, thread: &Thread) -> fmt::Result {
        let waiting = if matches!(thread.activity, Activity::Parked(_)) { WAITING } else { 0 };
        writeln!(
            self.out,
            "  thread {}: l {:02x} need_return {} tr 0",
            thread.tid,
            thread.looper | waiting,
            u8::from(thread.need_return),
        )?;
        let own = self.domain.find_thread(thread.proc, thread.tid);
        let mut next = thread.stack;
        // A stack has at most all transactions; a damaged domain may have one that comes back to itself.
        for _ in 0..self.domain.guests.iter().map(|(_, guest)| guest.transactions).sum::<u32>() {
            let Some(call) = next.and_then(|id| self.domain.transactions.get(id)) else { break };
            let prefix;
            (prefix, next) = if call.from == own {
                ("    outgoing transaction", call.from_parent)
            } else if call.to_thread == own {
                ("    incoming transaction", call.to_parent)
            } else {
                ("    bad transaction", None)
            };
            self.transaction(proc, prefix, call)?;
        }
        let todo = thread.todo.iter();
        todo.map(|work| (work, thread)).try_for_each(|(work, thread)| match work {
            Work::ReturnError => self.error("    ", thread.return_error),
            Work::ReplyError => self.error("    ", thread.reply_error),
            work => self.work(proc, "    ", "    pending transaction", work),
        })
    }

    fn error(&mut self, prefix: &str, code: Option<u32>) -> fmt::Result {
        writeln!(self.out, "{prefix}transaction error: {}", code.unwrap_or_default())
    }

    pub(super) fn node(&mut self, node: &Node) -> fmt::Result {
        let pointers = self.pointers(node);
        writeln!(
            self.out,
            "  node {}: {} hs {} hw {} ls {} lw {} is {} iw {} tr 1{}",
            node.debug_id,
            pointers,
            u8::from(node.told_strong),
            u8::from(node.told_weak),
            node.local_strong,
            node.local_weak,
            node.internal_strong,
            node.refs.len(),
            Holders { domain: self.domain, scope: self.scope, node },
        )?;
        let Some(proc) = node.owner.and_then(|owner| self.domain.procs.get(&owner)) else { return Ok(()) };
        node.backlog
            .iter()
            .try_for_each(|work| self.work(proc, "    ", "    pending async transaction", work))
    }

    fn pointers(&self, node: &Node) -> String {
        let shown = |value| if self.hashed { hidden(value) } else { value };
        format!("u{:016x} c{:016x}", shown(node.ptr), shown(node.cookie))
    }

    fn refs(&mut self, proc: &Proc) -> fmt::Result {
        let domain = self.domain;
        let refs = proc.refs.entries().filter_map(|(_, id)| domain.refs.get(id));
        refs.filter_map(|entry| Some((entry, domain.nodes.get(entry.node)?))).try_for_each(|(entry, node)| {
            writeln!(
                self.out,
                "  ref {}: desc {} {}node {} s {} w {} d {:016x}",
                entry.debug_id,
                entry.handle,
                if node.owner.is_none() { "dead " } else { "" },
                node.debug_id,
                entry.strong,
                entry.weak,
                hidden(entry.death.map_or(0, |_| u64::from(entry.debug_id.0) << 1 | 1)),
            )
        })
    }

    fn buffers(&mut self, proc: &Proc) -> fmt::Result {
        let Some(mapping) = &proc.mapping else { return Ok(()) };
        mapping.buffers.values().filter_map(|id| self.domain.buffers.get(id)).try_for_each(|buffer| {
            write!(self.out, "  buffer {}: ", buffer.debug_id)?;
            if self.domain.profile.tells_offsets() {
                write!(self.out, "{:x}", buffer.offset)?;
            } else {
                write!(self.out, "{:016x}", hidden(mapping.address.wrapping_add(buffer.offset)))?;
            }
            let state = if buffer.transaction.is_some() { "active" } else { "delivered" };
            let (data, offsets, extra) = (buffer.data_size, buffer.offsets_size, buffer.extra_size);
            writeln!(self.out, " size {data}:{offsets}:{extra} {state}")
        })
    }

    /// A transaction as a process sees it: only its target is told about the buffer.
    fn transaction(&mut self, viewer: &Proc, prefix: &str, t: &Transaction) -> fmt::Result {
        let (domain, profile) = (self.domain, self.domain.profile);
        // The profile of 6.1 forgets who sent a oneway, or a call whose sender is gone (B424).
        let told = self.scope.covers(t.guest) && (profile.tells_offsets() || t.from.is_some());
        let from = if told { (t.sender.pid, t.sender.tid) } else { Default::default() };
        let to_thread = t.to_thread.and_then(|id| domain.threads.get(id));
        write!(
            self.out,
            "{prefix} {}: {:016x} from {}:{} to {}:{} code {:x} flags {:x} pri {}",
            t.debug_id,
            hidden(u64::from(t.debug_id.0)),
            from.0,
            from.1,
            t.to_proc.map(|proc| domain.pid_in(self.scope, proc)).unwrap_or_default(),
            to_thread.map(|thread| thread.tid).unwrap_or_default(),
            t.code,
            t.flags,
            t.sched.logged(),
        )?;
        if profile.tells_async() {
            write!(self.out, " a{} r{}", u8::from(t.is_oneway()), u8::from(t.is_reply()))?;
        } else {
            write!(self.out, " r{}", u8::from(!t.is_oneway() && !t.is_reply()))?;
        }
        if profile.tells_offsets() {
            let elapsed = self.scope.now.map_or(0, |now| now.wrapping_sub(t.started));
            write!(self.out, " elapsed {elapsed}ms")?;
        }
        let to = t.to_proc.and_then(|proc| domain.procs.get(&proc));
        if !to.is_some_and(|to| std::ptr::eq(to, viewer)) {
            return self.out.write_char('\n');
        }
        let Some(buffer) = t.buffer.and_then(|id| domain.buffers.get(id)) else {
            return self.out.write_str(" buffer free\n");
        };
        if let Some(node) = buffer.target_node.and_then(|node| domain.nodes.get(node)) {
            write!(self.out, " node {}", node.debug_id)?;
        }
        write!(self.out, " size {}:{}", buffer.data_size, buffer.offsets_size)?;
        if profile.tells_offsets() {
            writeln!(self.out, " offset {:x}", buffer.offset)
        } else {
            let start = viewer.mapping.as_ref().map_or(0, |mapping| mapping.address);
            writeln!(self.out, " data {:016x}", hidden(start.wrapping_add(buffer.offset)))
        }
    }

    /// An item of a queue (B426).
    fn work(&mut self, proc: &Proc, prefix: &str, transaction: &str, work: Work) -> fmt::Result {
        let text = match work {
            Work::Transaction(id) => {
                let found = self.domain.transactions.get(id);
                return found.map_or(Ok(()), |t| self.transaction(proc, transaction, t));
            }
            Work::Node(id) => {
                let Some(node) = self.domain.nodes.get(id) else { return Ok(()) };
                return writeln!(self.out, "{prefix}node work {}: {}", node.debug_id, self.pointers(node));
            }
            // Only threads have errors, and they print them themselves.
            Work::ReturnError | Work::ReplyError => return Ok(()),
            Work::Complete(Completion::Acquire(_)) => "acquire result",
            Work::Complete(_) => "transaction complete",
            Work::Death(id) => match self.domain.deaths.get(id).map(|death| death.state) {
                Some(DeathState::Dead) => "has dead binder",
                Some(DeathState::DeadAndClear) => "has cleared dead binder",
                Some(DeathState::Cleared) => "has cleared death notification",
                None => return Ok(()),
            },
            Work::Freeze(id) => match self.domain.freezes.get(id).map(|freeze| freeze.cleared) {
                Some(false) => "has frozen binder",
                Some(true) => "has cleared freeze notification",
                None => return Ok(()),
            },
        };
        writeln!(self.out, "{prefix}{text}")
    }
}

fn is_idle(thread: &Thread) -> bool {
    thread.stack.is_none() && thread.todo.is_empty()
}

/// The pids that hold refs on a node, the latest first.
struct Holders<'a> {
    domain: &'a Domain,
    scope: Scope,
    node: &'a Node,
}

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node.refs.is_empty() {
            return Ok(());
        }
        f.write_str(" proc")?;
        let holders = self.node.refs.iter().rev().filter_map(|id| self.domain.refs.get(id));
        holders
            .map(|entry| self.domain.pid_in(self.scope, entry.proc))
            .try_for_each(|pid| write!(f, " {pid}"))
    }
}
