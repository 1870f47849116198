//! `stats`: counters of commands, returns and objects (B428, B429).

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::domain::{Domain, Guest};
use crate::ids::{GuestId, ProcId};
use crate::logs::{Scope, name};
use crate::proc::Proc;
use crate::protocol::{Return, br};
use crate::thread::Read;
use crate::work::Work;

/// Names of the commands by number (`_IOC_NR`).
const COMMANDS: [&str; 22] = [
    "TRANSACTION",
    "REPLY",
    "ACQUIRE_RESULT",
    "FREE_BUFFER",
    "INCREFS",
    "ACQUIRE",
    "RELEASE",
    "DECREFS",
    "INCREFS_DONE",
    "ACQUIRE_DONE",
    "ATTEMPT_ACQUIRE",
    "REGISTER_LOOPER",
    "ENTER_LOOPER",
    "EXIT_LOOPER",
    "REQUEST_DEATH_NOTIFICATION",
    "CLEAR_DEATH_NOTIFICATION",
    "DEAD_BINDER_DONE",
    "TRANSACTION_SG",
    "REPLY_SG",
    "REQUEST_FREEZE_NOTIFICATION",
    "CLEAR_FREEZE_NOTIFICATION",
    "FREEZE_NOTIFICATION_DONE",
];
/// Commands that the profile of 6.1 knows, and counts.
const COMMANDS_6_1: usize = 19;

/// Names of the returns by number.
const RETURNS: [&str; 23] = [
    "ERROR",
    "OK",
    "TRANSACTION",
    "REPLY",
    "ACQUIRE_RESULT",
    "DEAD_REPLY",
    "TRANSACTION_COMPLETE",
    "INCREFS",
    "ACQUIRE",
    "RELEASE",
    "DECREFS",
    "ATTEMPT_ACQUIRE",
    "NOOP",
    "SPAWN_LOOPER",
    "FINISHED",
    "DEAD_BINDER",
    "CLEAR_DEATH_NOTIFICATION_DONE",
    "FAILED_REPLY",
    "FROZEN_REPLY",
    "ONEWAY_SPAM_SUSPECT",
    "TRANSACTION_PENDING_FROZEN",
    "FROZEN_BINDER",
    "CLEAR_FREEZE_NOTIFICATION_DONE",
];

/// Commands executed and returns handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    commands: [u32; COMMANDS.len()],
    returns: [u32; RETURNS.len()],
}

impl Counters {
    /// Adds those of a process.
    pub(crate) fn add(&mut self, other: &Counters) {
        let commands = self.commands.iter_mut().zip(&other.commands);
        commands
            .chain(self.returns.iter_mut().zip(&other.returns))
            .for_each(|(sum, count)| *sum = sum.wrapping_add(*count));
    }

    /// Counts what a read hands out with these bytes. BR_NOOP is not counted (B429).
    #[inline(always)]
    pub(crate) fn count_read(&mut self, read: &Read, bytes: &[u8]) {
        self.count_returns(bytes);
        if read.spawn {
            self.count_return(br::SPAWN_LOOPER);
        }
    }

    /// Counts the returns that `bytes` say.
    fn count_returns(&mut self, mut bytes: &[u8]) {
        while let Some((word, rest)) = bytes.split_first_chunk::<4>() {
            let word = u32::from_le_bytes(*word);
            if word != br::NOOP {
                self.count_return(word);
            }
            bytes = rest.get(Return::payload_size(word)..).unwrap_or_default();
        }
    }

    fn count_return(&mut self, word: u32) {
        if let Some(count) = self.returns.get_mut((word & 0xff) as usize) {
            *count = count.wrapping_add(1);
        }
    }

    fn write(&self, prefix: &str, out: &mut dyn Write) -> fmt::Result {
        let commands = COMMANDS.iter().map(|name| ("BC", name)).zip(self.commands);
        let returns = RETURNS.iter().map(|name| ("BR", name)).zip(self.returns);
        commands
            .chain(returns)
            .filter(|(_, count)| *count > 0)
            // The kernel's counters are int.
            .try_for_each(|((kind, name), count)| writeln!(out, "{prefix}{kind}_{name}: {}", count as i32))
    }
}

/// Objects of a guest that were ever made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub procs: u32,
    pub threads: u32,
    pub nodes: u32,
    pub refs: u32,
    pub deaths: u32,
    pub transactions: u32,
    pub completions: u32,
    pub freezes: u32,
}

impl Domain {
    /// Counts a command word by its number, whatever else it says: so does the kernel (B429).
    pub(crate) fn count_command(&mut self, proc: ProcId, word: u32) {
        let known = if self.profile.freeze_notifications() { COMMANDS.len() } else { COMMANDS_6_1 };
        let number = (word & 0xff) as usize;
        if number < known
            && let Some(proc) = self.procs.get_mut(&proc)
        {
            let count = &mut proc.counters.commands[number];
            *count = count.wrapping_add(1);
        }
    }

    /// Commands and returns of all processes that a guest ever had.
    fn sum_counters(&self, id: GuestId, guest: &Guest) -> Counters {
        let procs = self.procs.values().filter(|proc| proc.guest == id);
        procs.fold(guest.counters.clone(), |mut sum, proc| {
            sum.add(&proc.counters);
            sum
        })
    }
}

/// Counters of each guest, then its processes.
pub fn stats(domain: &Domain, scope: Scope, out: &mut dyn Write) -> fmt::Result {
    out.write_str("binder stats:\n")?;
    for (id, guest) in domain.guests.iter().filter(|(id, _)| scope.covers(**id)) {
        domain.sum_counters(*id, guest).write("", out)?;
        objects(domain, *id, guest, out)?;
    }
    domain.listed(scope).try_for_each(|object| proc(domain, object, out))
}

fn objects(domain: &Domain, id: GuestId, guest: &Guest, out: &mut dyn Write) -> fmt::Result {
    let census = domain.census(id);
    let deaths = domain.deaths.iter().filter(|death| death.guest == id).count() as u32;
    let totals = &guest.totals;
    let lines = [
        ("proc", census.procs, totals.procs),
        ("thread", census.threads, totals.threads),
        ("node", census.nodes, totals.nodes),
        ("ref", census.refs, totals.refs),
        ("death", deaths, totals.deaths),
        ("transaction", census.transactions, totals.transactions),
        ("transaction_complete", guest.completions, totals.completions),
        ("freeze", census.deaths - deaths, totals.freezes),
    ];
    lines
        .into_iter()
        .filter(|(_, _, total)| *total > 0)
        .try_for_each(|(name, active, total)| writeln!(out, "{name}: active {active} total {}", total as i32))
}

fn proc(domain: &Domain, proc: &Proc, out: &mut dyn Write) -> fmt::Result {
    let context = domain.contexts.get(&proc.context).map_or(&b""[..], |context| &context.name);
    let free_async = proc.mapping.as_ref().map_or(0, |mapping| mapping.async_free);
    let refs = proc.refs.entries().filter_map(|(_, id)| domain.refs.get(id));
    let (refs, strong, weak) = refs.fold((0, 0_u64, 0_u64), |(count, strong, weak), entry| {
        (count + 1, strong + u64::from(entry.strong), weak + u64::from(entry.weak))
    });
    let buffers = proc.mapping.as_ref().map_or(0, |mapping| mapping.buffers.len());
    let pages = proc.mapping.as_ref().filter(|mapping| !mapping.unmapped).map(|mapping| mapping.pages());
    let (active, idle, empty) = pages.unwrap_or_default();
    let pages_high = proc.mapping.as_ref().map_or(0, |mapping| mapping.pages_high);
    let pending = proc.todo.iter().filter(|work| matches!(work, Work::Transaction(_))).count();
    writeln!(out, "proc {}\ncontext {}", proc.pid, name(context))?;
    writeln!(out, "  threads: {}", proc.threads.len())?;
    let (requested, started, max) = (proc.requested_threads, proc.started_threads, proc.max_threads);
    writeln!(out, "  requested threads: {requested}+{started}/{}", max as i32)?;
    writeln!(out, "  ready threads {}", proc.waiting.len())?;
    writeln!(out, "  free async space {free_async}")?;
    writeln!(out, "  nodes: {}", proc.nodes.len())?;
    writeln!(out, "  refs: {refs} s {strong} w {weak}")?;
    writeln!(out, "  buffers: {buffers}")?;
    writeln!(out, "  pages: {active}:{idle}:{empty}")?;
    writeln!(out, "  pages high watermark: {pages_high}")?;
    writeln!(out, "  pending transactions: {pending}")?;
    proc.counters.write("  ", out)
}
