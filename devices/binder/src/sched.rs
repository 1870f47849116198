//! Scheduling: which nice value, or policy and real-time priority, a thread takes with a call and gives back
//! with the reply (BINDER.md 7.1).
//!
//! Mainline's driver knows nice alone (B320 to B325). AOSP's has pairs of policy and priority, a policy
//! for each node and `INHERIT_RT` (B327); its rules are those of `drivers/android/binder.c` of the Android
//! common kernels (`binder_transaction_priority`, `binder_do_set_priority`).
//!
//! The core remembers what to restore: what the header of the ioctl's first message said, and what it told
//! the shim to set since.

use serde::{Deserialize, Serialize};

use crate::arena::TransactionId;
use crate::domain::Domain;
use crate::ids::ProcId;
use crate::limits::Profile;
use crate::message::Action;
use crate::protocol::object;
use crate::thread::Call;

/// `SCHED_*` of `include/uapi/linux/sched.h`.
const NORMAL: u32 = 0;
const FIFO: u32 = 1;
const RR: u32 = 2;
const BATCH: u32 = 3;
const IDLE: u32 = 5;

/// A policy, and the value that goes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// A `SCHED_*` policy.
    pub policy: u32,
    /// Nice, -20 to 19; for `SCHED_FIFO` and `SCHED_RR` the real-time priority, 1 to 99.
    pub value: i32,
}

impl Scheduling {
    /// An ordinary thread.
    pub fn nice(nice: i32) -> Scheduling {
        Scheduling { policy: NORMAL, value: nice }
    }

    /// What an opener gives its threads between calls.
    pub(crate) fn of_opener(profile: Profile, caller: Scheduling, nice: i32) -> Scheduling {
        match profile {
            Profile::Aosp if caller.is_inheritable() => caller,
            Profile::Aosp => Scheduling::nice(0),
            _ => Scheduling::nice(nice),
        }
    }

    /// The nice, if the policy has one.
    fn as_nice(self) -> Option<i32> {
        matches!(self.policy, NORMAL | BATCH | IDLE).then_some(self.value)
    }

    /// The nice that a transaction's "pri" shows in the logs; 0 for real-time senders, as for the calls they make.
    pub(crate) fn logged(self) -> i32 {
        self.as_nice().unwrap_or(0)
    }

    fn is_real_time(self) -> bool {
        matches!(self.policy, FIFO | RR)
    }

    /// Whether AOSP's driver lets a callee have this policy.
    fn is_inheritable(self) -> bool {
        matches!(self.policy, NORMAL | FIFO | RR | BATCH)
    }

    /// The scheduler's own scale: lower is better, real time is below 100.
    fn rank(self) -> i32 {
        if self.is_real_time() { 99 - self.value } else { 120 + self.value }
    }
}

/// What a node's flags ask for its callees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Minimum {
    /// As sent in the object.
    pub flags: u32,
}

impl Minimum {
    /// Mainline: the low byte, unsigned (B322).
    fn nice(self) -> i32 {
        (self.flags & object::FLAG_PRIORITY_MASK) as i32
    }

    /// AOSP: the low byte is signed, and there is a policy.
    fn scheduling(self) -> Scheduling {
        let value = i32::from((self.flags & object::FLAG_PRIORITY_MASK) as u8 as i8);
        let policy = (self.flags & object::FLAG_SCHED_POLICY_MASK) >> object::FLAG_SCHED_POLICY_SHIFT;
        Scheduling { policy, value }
    }

    fn inherits_real_time(self) -> bool {
        self.flags & object::FLAG_INHERIT_RT != 0
    }

    /// What a thread is to have while it serves a call made with `caller`'s scheduling (AOSP).
    fn for_call(self, caller: Scheduling) -> Scheduling {
        let least = self.scheduling();
        // At equal rank FIFO wins: it runs without a time slice.
        if least.rank() < caller.rank() || (least.rank() == caller.rank() && least.policy == FIFO) {
            least
        } else if caller.is_real_time() && !self.inherits_real_time() {
            Scheduling::nice(0)
        } else {
            caller
        }
    }
}

impl Call {
    /// Sets the caller's nice with the next answer, unless it has that nice already.
    fn set_nice(&mut self, nice: i32) {
        // Out of range: the kernel's set_user_nice does nothing. Real-time callers are left alone.
        if self.sched.as_nice().is_none_or(|now| now == nice) || !(-20..=19).contains(&nice) {
            return;
        }
        self.sched.value = nice;
        self.replace_scheduling(Action::NiceSet(nice));
    }

    /// Raises the caller to a node's minimum (B321). What was set in this ioctl is known exactly.
    fn raise_nice(&mut self, nice: i32) {
        if self.sched.as_nice().is_none_or(|now| now <= nice) || !(-20..=19).contains(&nice) {
            return;
        }
        if self.actions.iter().any(|action| action.is_scheduling()) {
            return self.set_nice(nice);
        }
        self.sched.value = nice;
        self.actions.push(Action::NiceRaise(nice));
    }

    /// AOSP: policy and value together. `checked`: within what the caller's limits allow.
    fn set_scheduling(&mut self, wanted: Scheduling, checked: bool) {
        if self.sched != wanted {
            self.sched = wanted;
            self.replace_scheduling(Action::Schedule { wanted, checked });
        }
    }

    fn replace_scheduling(&mut self, action: Action) {
        self.actions.retain(|action| !action.is_scheduling());
        self.actions.push(action);
    }
}

impl Domain {
    /// The caller is going to wait for process work (B324).
    pub(crate) fn schedule_waiter(&self, call: &mut Call, proc: ProcId) {
        let Some(default) = self.procs.get(&proc).map(|proc| proc.default_sched) else { return };
        match self.profile {
            Profile::Aosp => call.set_scheduling(default, false),
            _ => call.set_nice(default.value),
        }
    }

    /// The caller reads a transaction (B320 to B322, B327). Its own scheduling is remembered for the reply.
    pub(crate) fn schedule_callee(&mut self, call: &mut Call, id: TransactionId) {
        let proc = self.procs.get(&call.proc());
        let default = proc.map_or(Scheduling::default(), |proc| proc.default_sched);
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        if transaction.is_reply() {
            return;
        }
        transaction.saved_sched = Some(call.sched);
        let minimum = transaction.node.and_then(|node| self.nodes.get(node)).map(|node| node.minimum);
        let minimum = minimum.unwrap_or(Minimum { flags: 0 });
        let (caller, oneway) = (transaction.sched, transaction.is_oneway());
        if self.profile == Profile::Aosp {
            let inherited = !oneway && caller.is_inheritable();
            call.set_scheduling(minimum.for_call(if inherited { caller } else { default }), true);
        } else if oneway {
            call.raise_nice(minimum.nice());
        } else {
            call.set_nice(caller.as_nice().unwrap_or(0).min(minimum.nice()));
        }
    }

    /// The caller replies: it gets back what it had (B323).
    pub(crate) fn restore_scheduling(&self, call: &mut Call, saved: Option<Scheduling>) {
        match (saved, self.profile) {
            (Some(saved), Profile::Aosp) => call.set_scheduling(saved, false),
            (Some(saved), _) => {
                if let Some(nice) = saved.as_nice() {
                    call.set_nice(nice);
                }
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(value: i32) -> Scheduling {
        Scheduling { policy: FIFO, value }
    }

    fn rr(value: i32) -> Scheduling {
        Scheduling { policy: RR, value }
    }

    /// covers: B327
    #[test]
    fn a_node_asks_for_policy_and_priority() {
        let node = |policy: u32, value: i8, more: u32| Minimum {
            flags: u32::from(value as u8) | policy << object::FLAG_SCHED_POLICY_SHIFT | more,
        };
        // The minimum wins where it is better; -20 is -20 and not 236.
        assert_eq!(node(RR, 7, 0).for_call(Scheduling::nice(0)), rr(7));
        assert_eq!(node(NORMAL, -20, 0).for_call(Scheduling::nice(-5)), Scheduling::nice(-20));
        assert_eq!(node(NORMAL, 10, 0).for_call(Scheduling::nice(5)), Scheduling::nice(5));
        // Real time is inherited only where the node says so, and then unless the minimum is better.
        assert_eq!(node(NORMAL, 0, 0).for_call(fifo(10)), Scheduling::nice(0));
        assert_eq!(node(NORMAL, 0, object::FLAG_INHERIT_RT).for_call(fifo(10)), fifo(10));
        assert_eq!(node(RR, 20, object::FLAG_INHERIT_RT).for_call(fifo(10)), rr(20));
        // At equal rank FIFO is preferred.
        assert_eq!(node(FIFO, 10, object::FLAG_INHERIT_RT).for_call(rr(10)), fifo(10));
        assert_eq!(node(RR, 10, object::FLAG_INHERIT_RT).for_call(fifo(10)), fifo(10));
    }
}
