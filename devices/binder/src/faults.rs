//! Faults on purpose: what a process may meet on any real device, at a moment that a rule chooses.
//!
//! A rule picks transactions (kind, interface, code, who sends, who receives; the n-th, or by chance) and
//! says what happens to them. Nothing is done that the driver's rules forbid: a call that fails is undone
//! as any that fails, a process that is to die gets a signal from its own kernel, a process that is frozen
//! was idle. The rules, the seed and the counts are part of the domain, so a recording with faults
//! replays to the same. Without faults a domain looks at one pointer for each of the places below.
//!
//! * A transaction is judged when it is ready to be queued ([`Domain::meet_faults`]): all that only the
//!   guest could supply is there, the receiver has not heard of it.
//! * A thread that is to be interrupted is when it would go to sleep in a read, as by a signal (B086).
//! * Signals are sent by the guest's own kernel, which [`Domain::take_signals`] tells: they interrupt whatever
//!   they find, a read (EINTR) or BINDER_FREEZE (which the kernel restarts, B372), or kill.
//! * What is held back, is as if the receiver were slow ([`hold`]).
//! * Which of several waiting threads takes work is the newest ([B083]); with
//!   [`Faults::shuffle`] any of them, by the seed.
//!
//! [B083]: crate

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::hold::{Holds, Until};
use crate::arena::{BufferId, ThreadId};
use crate::buffer::Buffer;
use crate::check::{Inconsistent, holds};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, Pid, ProcId};
use crate::protocol::br;
use crate::thread::Call;
use crate::trace::{FaultKind, TraceEvent};
use crate::transaction::{SendError, Sending};

pub mod hold;

/// Bytes of a payload that are searched for the name of an interface: tokens stand at its beginning.
const TOKEN: usize = 512;

/// Processes whose names are remembered at most.
const MAX_NAMES: usize = 65536;

/// A chance of one.
pub const ALWAYS: u32 = 1_000_000;

/// Which kind of transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Its sender waits for an answer.
    #[default]
    Call,
    /// Nobody waits.
    Oneway,
    /// The answer to a call.
    Reply,
    /// No transaction: a `BINDER_FREEZE` that has to wait. Its sender is who calls, its receiver is to be frozen.
    Freeze,
}

/// What happens to what a rule picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `BR_FAILED_REPLY`, with this in the extended error. `ENOSPC`: the receiver's buffer is full.
    Failed(Errno),
    /// `BR_DEAD_REPLY`: as if the receiver had just died.
    Dead,
    /// `BR_FROZEN_REPLY`. For calls only.
    Frozen,
    /// The sender's wait for the answer ends with `EINTR`, as by a signal. For calls only.
    Interrupt,
    /// The receiver gets the transaction, and is killed before its next ioctl.
    KillReceiver,
    /// The sender is killed.
    KillSender,
    /// The receiver is frozen, as by `BINDER_FREEZE` without a wait: not where it is busy. After so many more
    /// transactions that the rule picks it is thawed, before that one is queued.
    Freeze(u32),
    /// The sender is stopped and continued by signals while it waits. For calls and `BINDER_FREEZE`.
    SignalSender,
    /// It is delivered after so many more transactions that the rule picks, and so is what is sent oneway to
    /// the same node after it. For oneways only.
    Delay(u32),
    /// It is delivered after the next transaction for the receiver that the driver lets pass: a call, or a oneway of
    /// another node. For oneways only.
    Reorder,
    /// From now on the receiver's buffer is full, until so many sends found it so.
    Exhaust(u32),
}

/// A signal for a process of the guest, which its own kernel is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, then SIGCONT.
    StopAndContinue,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The kind of transaction.
    pub kind: Kind,
    /// The method.
    pub code: Option<u32>,
    /// A name that stands in the beginning of the payload as libbinder writes strings (String16).
    pub interface: Option<String>,
    /// To the context manager, or to others; for a reply, from.
    pub manager: Option<bool>,
    /// Name of the sending process.
    pub sender: Option<String>,
    /// Name of the receiving process.
    pub receiver: Option<String>,
    /// So many that fit pass first.
    pub skip: u32,
    /// Faults at most.
    pub times: u32,
    /// How likely each is, in millionths.
    pub chance: u32,
    /// What happens.
    pub action: Action,
}

/// A rule that could never be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The driver never does that.
    #[error("only calls are answered that way: what is oneway, and replies, never are")]
    CallsOnly,
    /// Calls and replies are waited for.
    #[error("only what is oneway is delivered late, calls and replies are in nobody's way")]
    OnewaysOnly,
    /// It is no transaction.
    #[error(
        "a freeze can only be met with a signal to who asks for it, which it needs: on = \"freeze\" and signal-sender (or a call)"
    )]
    NoTransaction,
    /// It would do nothing.
    #[error("it never happens: times and chance must be more than 0")]
    Never,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Transactions that it picked.
    pub matched: u32,
    /// Faults.
    pub injected: u32,
}

/// The faults of a domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Faults {
    rules: Vec<Rule>,
    counts: Vec<Counts>,
    /// Any waiting thread takes work, not the newest.
    shuffle: bool,
    random: u64,
    names: BTreeMap<(GuestId, Pid), String>,
    /// Are to be killed; until then their ioctls are interrupted.
    doomed: BTreeSet<(GuestId, Pid)>,
    /// Not told yet.
    signals: Vec<(GuestId, Pid, Signal)>,
    holds: Holds,
    interrupts: BTreeSet<ThreadId>,
    /// By a rule: whom it froze, and how many transactions until it thaws them.
    frozen: BTreeMap<usize, (Vec<ProcId>, u32)>,
}

impl Faults {
    /// Faults by `rules`. Chance and choice follow from `seed`.
    pub fn new(rules: Vec<Rule>, shuffle: bool, seed: u64) -> Result<Faults, (usize, Impossible)> {
        for (index, rule) in rules.iter().enumerate() {
            let refused = match (rule.kind, rule.action) {
                (Kind::Call | Kind::Freeze, Action::SignalSender) => None,
                (_, Action::SignalSender) | (Kind::Freeze, _) => Some(Impossible::NoTransaction),
                (Kind::Oneway, Action::Delay(_) | Action::Reorder) => None,
                (_, Action::Delay(_) | Action::Reorder) => Some(Impossible::OnewaysOnly),
                (Kind::Call, _) => None,
                (_, Action::Frozen | Action::Interrupt | Action::Freeze(_)) => Some(Impossible::CallsOnly),
                _ => None,
            };
            if let Some(why) = refused {
                return Err((index, why));
            }
            if rule.times == 0 || rule.chance == 0 {
                return Err((index, Impossible::Never));
            }
        }
        let counts = vec![Counts::default(); rules.len()];
        Ok(Faults { rules, counts, shuffle, random: seed, ..Faults::default() })
    }

    /// Whether it can have been saved. `buffer` finds buffers by their ids.
    pub(crate) fn check<'a>(
        &self,
        buffer: impl Fn(BufferId) -> Option<&'a Buffer>,
    ) -> Result<(), Inconsistent> {
        holds(self.rules.len() == self.counts.len(), "a fault has no count")?;
        self.holds.check(buffer)
    }

    /// What became of the rules, in order.
    pub fn counts(&self) -> &[Counts] {
        &self.counts
    }

    /// Whether the rule is followed now.
    fn decide(&mut self, index: usize, seen: &Seen<'_>) -> Option<Action> {
        let (rule, counts) = (self.rules.get(index)?, self.counts.get_mut(index)?);
        if !seen.fits(rule) {
            return None;
        }
        counts.matched = counts.matched.saturating_add(1);
        let (action, chance) = (rule.action, rule.chance);
        let due = counts.matched > rule.skip && counts.injected < rule.times;
        // The numbers that are drawn do not depend on what other rules did.
        (due && (chance >= ALWAYS || self.draw(ALWAYS) < chance)).then_some(action)
    }

    /// A number below `bound`: SplitMix64.
    fn draw(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The high half times the bound: below it, and even enough for what it is for.
        (((z >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// A process, as its guest's kernel numbers it.
type Who = (GuestId, Pid);

/// What a rule looks at.
struct Seen<'a> {
    kind: Kind,
    code: u32,
    manager: bool,
    sender: Option<&'a str>,
    receiver: Option<&'a str>,
    payload: &'a [u8],
}

impl Seen<'_> {
    fn fits(&self, rule: &Rule) -> bool {
        let named = |wanted: &Option<String>, name: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| name == Some(wanted))
        };
        self.kind == rule.kind
            && rule.code.is_none_or(|code| code == self.code)
            && rule.manager.is_none_or(|manager| manager == self.manager)
            && named(&rule.sender, self.sender)
            && named(&rule.receiver, self.receiver)
            && rule.interface.as_deref().is_none_or(|name| contains(self.payload, name))
    }
}

/// Whether a String16 of this text stands in a parcel: its length in units, then these.
fn contains(payload: &[u8], text: &str) -> bool {
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut wanted = (units.len() as u32).to_le_bytes().to_vec();
    wanted.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    // What a parcel writes is aligned to four bytes.
    (0..payload.len()).step_by(4).any(|at| payload[at..].starts_with(&wanted))
}

impl Domain {
    /// Injects these faults from now on; `None`: no more. What the ones before hold back is let go in its time.
    pub fn set_faults(&mut self, faults: Option<Faults>) {
        let held = self.faults.take().map(|before| before.holds).filter(|held| !held.is_empty());
        self.faults = match (faults, held) {
            (faults, None) => faults.map(Box::new),
            (faults, Some(held)) => {
                Some(Box::new(Faults { holds: held.without_rules(), ..faults.unwrap_or_default() }))
            }
        };
    }

    /// The faults with their counts, if there are any.
    pub fn faults(&self) -> Option<&Faults> {
        self.faults.as_deref()
    }

    /// Takes the faults out.
    pub fn take_faults(&mut self) -> Option<Faults> {
        self.faults.take().map(|faults| *faults)
    }

    /// What a process is called: the first name it is seen with, or that of its main thread.
    pub fn process_named(&mut self, guest: GuestId, pid: Pid, is_main: bool, name: &str) {
        let Some(faults) = self.faults.as_deref_mut() else { return };
        if faults.names.len() >= MAX_NAMES {
            faults.names.clear();
        }
        let known = faults.names.entry((guest, pid)).or_default();
        if is_main || known.is_empty() {
            *known = name.to_owned();
        }
    }

    /// Whether [`take_signals`](Self::take_signals) has some for a guest.
    pub fn has_signals(&self, guest: GuestId) -> bool {
        self.faults.as_deref().is_some_and(|faults| faults.signals.iter().any(|(of, ..)| *of == guest))
    }

    /// Signals that a guest's kernel is to send, each told once.
    pub fn take_signals(&mut self, guest: GuestId) -> Vec<(Pid, Signal)> {
        let Some(faults) = self.faults.as_deref_mut().filter(|faults| !faults.signals.is_empty()) else {
            return Vec::new();
        };
        let (due, other) = faults.signals.iter().partition(|(of, ..)| *of == guest);
        faults.signals = other;
        let due: Vec<(GuestId, Pid, Signal)> = due;
        due.into_iter().map(|(_, pid, signal)| (pid, signal)).collect()
    }

    /// What happens to a transaction that is about to be queued.
    pub(crate) fn meet_faults(&mut self, cx: &mut Cx<'_>, call: &Call, s: &Sending) -> Result<(), SendError> {
        let Some(mut faults) = self.faults.take() else { return Ok(()) };
        let names = std::mem::take(&mut faults.names);
        let result = self.try_faults(cx, call, s, &mut faults, &names);
        faults.names = names;
        self.faults = Some(faults);
        result
    }

    fn try_faults(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &Sending,
        faults: &mut Faults,
        names: &BTreeMap<(GuestId, Pid), String>,
    ) -> Result<(), SendError> {
        let mut payload = vec![0; s.data.data_size.min(TOKEN as u64) as usize];
        if s.memory(cx.chunk, call).read(cx.pages, s.data.data, &mut payload).is_err() {
            payload.clear();
        }
        let of = |proc: Option<ProcId>| {
            let proc = self.procs.get(&proc?)?;
            Some((proc.guest, proc.pid))
        };
        let (from, to) = (of(Some(s.sender.proc)), of(s.target_proc));
        // A reply comes from the node that its call went to.
        let node = match s.in_reply_to {
            Some(call) => self.transactions.get(call).and_then(|call| call.node),
            None => s.target_node,
        };
        let manager = node.is_some_and(|node| self.contexts.values().any(|of| of.manager == Some(node)));
        let kind = match (s.reply, s.is_oneway()) {
            (true, _) => Kind::Reply,
            (false, true) => Kind::Oneway,
            (false, false) => Kind::Call,
        };
        let name = |of: Option<Who>| names.get(&of?).map(String::as_str);
        let seen = Seen {
            kind,
            code: s.data.code,
            manager,
            sender: name(from),
            receiver: name(to),
            payload: &payload,
        };
        self.passes_holds(faults, s);
        for index in 0..faults.rules.len() {
            let action = faults.decide(index, &seen);
            if seen.fits(&faults.rules[index]) {
                self.count_down(cx, index, faults);
                faults.holds.fitted(index);
            }
            let Some(action) = action else { continue };
            let Some((fault, error)) = self.inject(cx, s, faults, index, action, (from, to)) else {
                continue;
            };
            faults.counts[index].injected += 1;
            let (thread, rule) = (self.party(s.thread), Some(index as u32));
            let id = s.debug_id;
            cx.trace(move || TraceEvent::Fault { rule, thread, id: Some(id), fault });
            if let Some(error) = error {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does what a rule says, with its error where that fails the transaction; `None`: it cannot be done now.
    fn inject(
        &mut self,
        cx: &mut Cx<'_>,
        s: &Sending,
        faults: &mut Faults,
        rule: usize,
        action: Action,
        (from, to): (Option<Who>, Option<Who>),
    ) -> Option<(FaultKind, Option<SendError>)> {
        let error = |code, errno| Some(SendError { code, errno });
        let injected = match action {
            Action::Failed(errno) => (FaultKind::Failed, error(br::FAILED_REPLY, errno)),
            Action::Dead => (FaultKind::Dead, error(br::DEAD_REPLY, Errno::OK)),
            Action::Frozen => (FaultKind::Frozen, error(br::FROZEN_REPLY, Errno::OK)),
            Action::Interrupt => {
                faults.interrupts.insert(s.thread);
                (FaultKind::Interrupt, None)
            }
            Action::KillReceiver | Action::KillSender => {
                let receiver = action == Action::KillReceiver;
                let (guest, pid) = (if receiver { to } else { from })?;
                if faults.doomed.insert((guest, pid)) {
                    faults.signals.push((guest, pid, Signal::Kill));
                }
                (if receiver { FaultKind::KillReceiver } else { FaultKind::KillSender }, None)
            }
            Action::SignalSender => {
                let (guest, pid) = from?;
                faults.signals.push((guest, pid, Signal::StopAndContinue));
                (FaultKind::Signal, None)
            }
            Action::Freeze(calls) => {
                let (guest, pid) = to?;
                let procs = self.freeze_idle(cx, guest, pid)?;
                faults.frozen.insert(rule, (procs, calls));
                (FaultKind::Freeze, None)
            }
            Action::Delay(count) => {
                let held = self.hold_node(faults, rule, s.target_node?, Until::Fits(count));
                held.then_some((FaultKind::Delay, None))?
            }
            Action::Reorder => {
                let held = self.hold_node(faults, rule, s.target_node?, Until::Passed);
                held.then_some((FaultKind::Reorder, None))?
            }
            Action::Exhaust(count) => {
                self.take_space(faults, s.target_proc?, count).then_some((FaultKind::Exhaust, None))?
            }
        };
        Some(injected)
    }

    /// A thread is about to wait in `BINDER_FREEZE` for `target` to have nothing under way.
    pub(crate) fn freeze_waits(&mut self, cx: &mut Cx<'_>, thread: ThreadId, target: ProcId) {
        let Some(mut faults) = self.faults.take() else { return };
        let of = |proc: Option<ProcId>| {
            let proc = self.procs.get(&proc?)?;
            Some((proc.guest, proc.pid))
        };
        let (from, to) = (of(self.thread_proc(thread)), of(Some(target)));
        let names = std::mem::take(&mut faults.names);
        let name = |of: Option<Who>| names.get(&of?).map(String::as_str);
        let seen = Seen {
            kind: Kind::Freeze,
            code: 0,
            manager: false,
            sender: name(from),
            receiver: name(to),
            payload: &[],
        };
        for index in 0..faults.rules.len() {
            if let (Some(_), Some((guest, pid))) = (faults.decide(index, &seen), from) {
                faults.signals.push((guest, pid, Signal::StopAndContinue));
                faults.counts[index].injected += 1;
                let (thread, rule) = (self.party(thread), Some(index as u32));
                cx.trace(move || TraceEvent::Fault { rule, thread, id: None, fault: FaultKind::Signal });
            }
        }
        faults.names = names;
        self.faults = Some(faults);
    }

    /// Freezes the processes of a pid, all or none of them.
    fn freeze_idle(&mut self, cx: &mut Cx<'_>, guest: GuestId, pid: Pid) -> Option<Vec<ProcId>> {
        let procs = self.procs_of(guest, pid);
        for (index, proc) in procs.iter().enumerate() {
            let was_frozen = self.procs.get(proc).is_none_or(|proc| proc.frozen);
            if was_frozen || !self.begin_freeze(*proc) || self.end_freeze(cx, *proc).is_err() {
                if !was_frozen {
                    self.thaw(*proc);
                }
                procs[..index].iter().for_each(|proc| self.unfreeze(cx, *proc));
                return None;
            }
        }
        Some(procs)
    }

    /// Thaws whom the rule froze when enough has passed.
    fn count_down(&mut self, cx: &mut Cx<'_>, index: usize, faults: &mut Faults) {
        let Some((_, left)) = faults.frozen.get_mut(&index) else { return };
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some((procs, _)) = faults.frozen.remove(&index)
        {
            procs.iter().for_each(|proc| self.unfreeze(cx, *proc));
        }
    }

    /// Whether the thread is of a process that is about to be killed.
    pub(crate) fn is_doomed(&self, proc: ProcId) -> bool {
        let Some(faults) = self.faults.as_deref().filter(|faults| !faults.doomed.is_empty()) else {
            return false;
        };
        self.procs.get(&proc).is_some_and(|proc| faults.doomed.contains(&(proc.guest, proc.pid)))
    }

    /// Whether the thread's sleep is to be interrupted, which it then is once.
    pub(crate) fn is_interrupted(&mut self, thread: ThreadId) -> bool {
        self.faults.as_deref_mut().is_some_and(|faults| faults.interrupts.remove(&thread))
    }

    /// The ticket of the waiting thread that takes work; `None`: the newest does.
    pub(crate) fn choose_waiting(&mut self, cx: &mut Cx<'_>, proc: ProcId) -> Option<u64> {
        self.faults.as_deref().filter(|faults| faults.shuffle)?;
        let waiting = self.procs.get(&proc)?.waiting.len();
        if waiting < 2 {
            return None;
        }
        let chosen = self.faults.as_deref_mut()?.draw(waiting as u32) as usize;
        let (ticket, thread) = self.procs.get(&proc)?.waiting.entries().nth(chosen)?;
        let thread = self.party(thread);
        cx.trace(move || TraceEvent::Fault { rule: None, thread, id: None, fault: FaultKind::Chosen });
        Some(ticket)
    }

    /// An open file is gone; its process may be, and its number another's.
    pub(crate) fn forget_doomed(&mut self, guest: GuestId, pid: Pid) {
        let Some(mut faults) = self.faults.take() else { return };
        if self.procs_of(guest, pid).is_empty() {
            faults.doomed.remove(&(guest, pid));
            faults.names.remove(&(guest, pid));
        }
        self.faults = Some(faults);
    }
}
