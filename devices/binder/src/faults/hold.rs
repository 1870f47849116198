//! What faults hold back for a while: oneways, and the free space of a mapping.
//!
//! A held node is one whose owner seems to be still at work on an oneway of it: what is sent to it waits in its
//! backlog (B146), in order, while calls and other nodes pass (B147). Taken space is buffers that the
//! receiver seems not to have freed. So the processes see what a slow receiver shows them, and nothing else.
//!
//! A hold ends when its rule says so, and at the latest after [`TURNS`] of the machine: nothing waits for
//! ever because nobody sends any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Domain, Faults};
use crate::arena::{BufferId, NodeId};
use crate::buffer::{Buffer, Sizes};
use crate::check::{Inconsistent, holds};
use crate::domain::{Cx, GuestRams};
use crate::errno::Errno;
use crate::ids::{Pid, ProcId};
use crate::memory::{GuestPages, Pages};
use crate::trace::TraceSink;
use crate::transaction::Sending;

/// [`Domain::turn`]s that a hold lasts at most.
pub const TURNS: u8 = 100;

/// When a held node is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Until {
    /// After so many more transactions that its rule picks.
    Fits(u32),
    /// After the next transaction to its owner that may pass.
    Passed,
    /// After its turns.
    Turns,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct HeldNode {
    rule: usize,
    until: Until,
    /// The owner really has an oneway of it.
    in_hand: bool,
    turns: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TakenSpace {
    /// Sends that find no room until it is given back.
    left: u32,
    turns: u8,
    buffers: Vec<BufferId>,
}

/// What ends at the end of a send or a turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Due {
    Node(NodeId),
    Space(ProcId),
}

/// All that is held.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Holds {
    nodes: BTreeMap<NodeId, HeldNode>,
    space: BTreeMap<ProcId, TakenSpace>,
    /// Empty between messages.
    due: Vec<Due>,
}

impl Holds {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.space.is_empty()
    }

    /// The rules are others now: their ends do not come.
    pub(super) fn without_rules(mut self) -> Holds {
        self.nodes.values_mut().for_each(|held| held.until = Until::Turns);
        self
    }

    /// A rule picked a transaction.
    pub(super) fn fitted(&mut self, rule: usize) {
        for (node, held) in self.nodes.iter_mut().filter(|(_, held)| held.rule == rule) {
            if let Until::Fits(left) = &mut held.until {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.due.push(Due::Node(*node));
                }
            }
        }
    }

    fn turn(&mut self) {
        for (node, held) in &mut self.nodes {
            held.turns = held.turns.saturating_sub(1);
            if held.turns == 0 {
                self.due.push(Due::Node(*node));
            }
        }
        for (proc, taken) in &mut self.space {
            taken.turns = taken.turns.saturating_sub(1);
            if taken.turns == 0 {
                self.due.push(Due::Space(*proc));
            }
        }
    }

    /// `buffer` finds buffers by their ids.
    pub(super) fn check<'a>(
        &self,
        buffer: impl Fn(BufferId) -> Option<&'a Buffer>,
    ) -> Result<(), Inconsistent> {
        holds(self.due.is_empty(), "a fault was saved inside a message")?;
        let nobodys = |proc: ProcId, id: BufferId| {
            buffer(id).is_none_or(|buffer| {
                let whose = (buffer.proc, buffer.transaction, buffer.target_node);
                whose == (proc, None, None) && !buffer.user_free && !buffer.is_async
            })
        };
        let taken = self.space.iter().flat_map(|(proc, taken)| taken.buffers.iter().map(|id| (*proc, *id)));
        holds(taken.into_iter().all(|(proc, id)| nobodys(proc, id)), "a fault has taken a buffer in use")
    }
}

impl Domain {
    /// Whether faults hold something back, so that [`turn`](Self::turn)s are wanted.
    pub fn wants_turns(&self) -> bool {
        self.faults.as_deref().is_some_and(|faults| !faults.holds.is_empty())
    }

    /// The machine had a turn: it ran for a while, or has nothing to do. What is held for too long is let go;
    /// events may be there then.
    pub fn turn<R: GuestRams>(&mut self, rams: &R, sink: &mut dyn TraceSink) {
        self.turn_on(&GuestPages(rams), sink);
    }

    /// [`turn`](Self::turn) with the guests' pages behind an interface.
    pub fn turn_on(&mut self, pages: &dyn Pages, sink: &mut dyn TraceSink) {
        let mut cx = Cx::new(pages, sink);
        if let Some(faults) = self.faults.as_deref_mut() {
            faults.holds.turn();
        }
        self.end_due_holds(&mut cx);
        self.settle(&mut cx);
    }

    /// Holds the oneways of a node from now on. False: it cannot be, or is held already.
    pub(super) fn hold_node(&mut self, faults: &mut Faults, rule: usize, id: NodeId, until: Until) -> bool {
        let Some(node) = self.nodes.get_mut(id).filter(|_| !faults.holds.nodes.contains_key(&id)) else {
            return false;
        };
        let in_hand = std::mem::replace(&mut node.has_async, true);
        faults.holds.nodes.insert(id, HeldNode { rule, until, in_hand, turns: TURNS });
        true
    }

    /// A transaction that may pass what is held for the same process.
    pub(super) fn passes_holds(&self, faults: &mut Faults, s: &Sending) {
        let Some(to) = s.target_proc.filter(|_| !s.reply) else { return };
        let waits = |node: &NodeId| s.is_oneway() && s.target_node == Some(*node);
        let of = |node: &NodeId| self.nodes.get(*node).is_some_and(|node| node.owner == Some(to));
        let held = faults.holds.nodes.iter().filter(|(_, held)| held.until == Until::Passed);
        let passed = held.map(|(node, _)| *node).filter(|node| of(node) && !waits(node));
        faults.holds.due.extend(passed.map(Due::Node));
    }

    /// The owner is done with an oneway of the node. True: the next one waits.
    pub(crate) fn is_held(&mut self, node: NodeId) -> bool {
        let faults = self.faults.as_deref_mut();
        let held = faults.and_then(|faults| faults.holds.nodes.get_mut(&node));
        held.map(|held| held.in_hand = false).is_some()
    }

    /// Takes all space that is free in the mapping of a process, until `left` sends found none. False: there is none,
    /// or it is taken already.
    pub(super) fn take_space(&mut self, faults: &mut Faults, id: ProcId, left: u32) -> bool {
        if faults.holds.space.contains_key(&id) {
            return false;
        }
        let mut buffers = Vec::new();
        while let Some(buffer) = self.take_hole(id) {
            buffers.push(buffer);
        }
        let taken = !buffers.is_empty();
        if taken {
            faults.holds.space.insert(id, TakenSpace { left, turns: TURNS, buffers });
        }
        taken
    }

    /// A buffer of nobody in the largest hole of a mapping.
    fn take_hole(&mut self, id: ProcId) -> Option<BufferId> {
        let debug_id = self.next_debug_id();
        let proc = self.procs.get_mut(&id)?;
        let guest = self.guests.get_mut(&proc.guest).filter(|g| g.buffers < self.limits.max_buffers)?;
        let mapping = proc.mapping.as_mut()?;
        let extra = mapping.largest_hole()?;
        let placed = mapping.place(Sizes { data: 0, offsets: 0, extra }, None).ok()?;
        let buffer = self.buffers.insert(Buffer {
            debug_id,
            proc: id,
            offset: placed.offset,
            size: placed.size,
            data_size: 0,
            offsets_size: 0,
            extra_size: extra,
            is_async: false,
            sender: Pid(0),
            spam_suspect: false,
            clear_on_free: false,
            user_free: false,
            transaction: None,
            target_node: None,
            held: Vec::new(),
            close: Vec::new(),
        });
        mapping.buffers.insert(placed.offset, buffer);
        guest.buffers += 1;
        guest.idle_pages = guest.idle_pages.saturating_sub(placed.pages_taken);
        Some(buffer)
    }

    /// What was freed meanwhile in a mapping that is to be full, is taken, too.
    pub(crate) fn keep_full(&mut self, s: &Sending) {
        let Some(to) = s.target_proc else { return };
        let is_taken = |faults: &Faults| faults.holds.space.contains_key(&to);
        while self.faults.as_deref().is_some_and(is_taken)
            && let Some(buffer) = self.take_hole(to)
        {
            let taken = self.faults.as_deref_mut().and_then(|faults| faults.holds.space.get_mut(&to));
            taken.into_iter().for_each(|taken| taken.buffers.push(buffer));
        }
    }

    /// A send to the process failed for want of space.
    pub(crate) fn found_full(&mut self, proc: ProcId, errno: Errno) {
        let Some(faults) = self.faults.as_deref_mut().filter(|_| errno == Errno::ENOSPC) else { return };
        if let Some(taken) = faults.holds.space.get_mut(&proc) {
            taken.left = taken.left.saturating_sub(1);
            if taken.left == 0 {
                faults.holds.due.push(Due::Space(proc));
            }
        }
    }

    /// Ends what is due.
    pub(crate) fn end_due_holds(&mut self, cx: &mut Cx<'_>) {
        let Some(faults) = self.faults.as_deref_mut() else { return };
        for due in std::mem::take(&mut faults.holds.due) {
            match due {
                Due::Node(node) => self.let_node_go(cx, node),
                Due::Space(proc) => self.give_space_back(cx, proc),
            }
        }
    }

    fn let_node_go(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let Some(held) = self.faults.as_deref_mut().and_then(|faults| faults.holds.nodes.remove(&node))
        else {
            return;
        };
        let owner = self.nodes.get(node).and_then(|node| node.owner);
        if let (false, Some(owner)) = (held.in_hand, owner) {
            self.next_oneway(cx, owner, node);
        }
    }

    fn give_space_back(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        let taken = self.faults.as_deref_mut().and_then(|faults| faults.holds.space.remove(&proc));
        for buffer in taken.into_iter().flat_map(|taken| taken.buffers) {
            self.release_buffer(cx, buffer, None);
        }
    }
}
