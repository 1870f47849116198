//! The open processes, found by id in constant time, however many there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::check::{Inconsistent, holds};
use crate::ids::ProcId;
use crate::proc::Proc;

/// Slots of an empty table.
const MIN_SLOTS: usize = 1024;
/// Slots at most.
const MAX_SLOTS: usize = 1 << 22;

/// Processes by id. A process is in the slot that the low bits of its id name, so that finding it is one
/// load; for that an id is given only if its slot is free, and ids of processes that live long are
/// passed over. At least half of the slots are free.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Saved<Proc>")]
pub(crate) struct ProcTable {
    slots: Vec<Option<Box<(ProcId, Proc)>>>,
    count: usize,
}

/// How the table is saved. The number of slots decides which ids come next, so it is kept.
#[derive(Serialize, Deserialize)]
struct Saved<P> {
    slots: u64,
    procs: BTreeMap<ProcId, P>,
}

impl Default for ProcTable {
    fn default() -> Self {
        ProcTable::with_slots(MIN_SLOTS)
    }
}

impl ProcTable {
    fn with_slots(slots: usize) -> ProcTable {
        ProcTable { slots: std::iter::repeat_with(|| None).take(slots).collect(), count: 0 }
    }

    fn slot(&self, id: ProcId) -> usize {
        id.0 as usize & (self.slots.len() - 1)
    }

    pub(crate) fn get(&self, id: &ProcId) -> Option<&Proc> {
        match self.slots.get(self.slot(*id))?.as_deref() {
            Some((found, proc)) if found == id => Some(proc),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: &ProcId) -> Option<&mut Proc> {
        let slot = self.slot(*id);
        match self.slots.get_mut(slot)?.as_deref_mut() {
            Some((found, proc)) if found == id => Some(proc),
            _ => None,
        }
    }

    pub(crate) fn contains_key(&self, id: &ProcId) -> bool {
        self.get(id).is_some()
    }

    /// The first id after `last` that can be given; `None` when ids or slots are used up.
    pub(crate) fn next_id(&self, last: ProcId) -> Option<ProcId> {
        if self.count >= MAX_SLOTS / 2 {
            return None;
        }
        let later = (last.0.checked_add(1)?..=u32::MAX).map(ProcId);
        later.take(self.slots.len()).find(|id| self.slots[self.slot(*id)].is_none())
    }

    /// Adds a process under an id of [`next_id`](Self::next_id).
    pub(crate) fn insert(&mut self, id: ProcId, proc: Proc) {
        let slot = self.slot(id);
        self.slots[slot] = Some(Box::new((id, proc)));
        self.count += 1;
        if self.count > self.slots.len() / 2 {
            // Ids whose low bits differ still differ with one bit more.
            let mut larger = ProcTable::with_slots(self.slots.len() * 2);
            for entry in self.slots.drain(..).flatten() {
                let slot = larger.slot(entry.0);
                larger.slots[slot] = Some(entry);
            }
            self.slots = larger.slots;
        }
    }

    pub(crate) fn remove(&mut self, id: &ProcId) -> Option<Proc> {
        let slot = self.slot(*id);
        let entry = self.slots[slot].take_if(|entry| entry.0 == *id)?;
        self.count -= 1;
        Some(entry.1)
    }

    /// Processes, the one that was opened first first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (ProcId, &Proc)> {
        let mut procs: Vec<(ProcId, &Proc)> =
            self.slots.iter().flatten().map(|entry| (entry.0, &entry.1)).collect();
        procs.sort_unstable_by_key(|(id, _)| *id);
        procs.into_iter()
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &Proc> {
        self.iter().map(|(_, proc)| proc)
    }

    /// Processes in no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Proc> {
        self.slots.iter_mut().flatten().map(|entry| &mut entry.1)
    }
}

impl Serialize for ProcTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Saved { slots: self.slots.len() as u64, procs: self.iter().collect() }.serialize(serializer)
    }
}

impl TryFrom<Saved<Proc>> for ProcTable {
    type Error = Inconsistent;

    fn try_from(saved: Saved<Proc>) -> Result<ProcTable, Inconsistent> {
        let slots = usize::try_from(saved.slots).unwrap_or(usize::MAX);
        let fits = slots.is_power_of_two() && (MIN_SLOTS..=MAX_SLOTS).contains(&slots);
        holds(fits && saved.procs.len() <= slots / 2, "the table of processes has another size")?;
        let mut table = ProcTable::with_slots(slots);
        for (id, proc) in saved.procs {
            holds(table.slots[table.slot(id)].is_none(), "two processes are in one slot")?;
            table.insert(id, proc);
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Limits, Profile};
    use crate::{Body, Domain, Errno, GuestId, Header, Message, NoTrace, Open, Pid};

    fn opened(domain: &mut Domain, pid: u32) -> ProcId {
        let open = Open { tgid: Pid(pid), context: b"binder".into(), ..Open::default() };
        let message = Message { header: Header::default(), body: Body::Open(open) };
        let answer = domain.handle_on(&crate::memory::NoPages, GuestId(0), &message, &mut NoTrace);
        assert_eq!(answer.errno, Errno::OK);
        answer.proc.unwrap()
    }

    fn release(domain: &mut Domain, proc: ProcId) {
        let header = Header { proc: proc.0, ..Header::default() };
        let message = Message { header, body: Body::Release };
        domain.handle_on(&crate::memory::NoPages, GuestId(0), &message, &mut NoTrace);
    }

    #[test]
    fn an_id_is_never_given_twice_and_finds_its_process_however_many_there_are() {
        let limits = Limits { max_procs: 1 << 20, ..Limits::default() };
        let mut domain = Domain::new(limits, Profile::default());
        domain.attach(GuestId(0));
        let lasting = opened(&mut domain, 1);
        let mut last = lasting;
        // Round and round the slots: the one that is taken is passed over.
        for _ in 0..3 * MIN_SLOTS {
            let id = opened(&mut domain, 2);
            assert!(id > last && id.0 as usize % MIN_SLOTS != lasting.0 as usize, "{id:?}");
            release(&mut domain, id);
            last = id;
        }
        // More than half of the slots: the table grows.
        let many: Vec<ProcId> = (0..2 * MIN_SLOTS as u32).map(|pid| opened(&mut domain, 100 + pid)).collect();
        assert!(many.is_sorted() && many[0] > last);
        let found =
            |domain: &Domain| many.iter().zip(100..).all(|(id, pid)| domain.pid(*id) == Some(Pid(pid)));
        assert!(found(&domain) && domain.pid(lasting) == Some(Pid(1)) && domain.pid(last).is_none());
        let bytes = postcard::to_stdvec(&domain).unwrap();
        let mut again: Domain = postcard::from_bytes(&bytes).unwrap();
        assert!(found(&again) && again.check(&Limits { max_procs: 1 << 20, ..Limits::default() }).is_ok());
        assert_eq!(opened(&mut again, 7), opened(&mut domain, 7));
    }

    #[test]
    fn two_processes_in_one_slot_are_refused() {
        let mut domain = Domain::new(Limits::default(), Profile::default());
        domain.attach(GuestId(0));
        opened(&mut domain, 1);
        let mut saved: serde_json::Value = serde_json::to_value(&domain.procs).unwrap();
        let twin = saved["procs"]["1"].clone();
        saved["procs"]["1025"] = twin;
        assert!(serde_json::from_value::<ProcTable>(saved.clone()).is_err());
        saved["procs"].as_object_mut().unwrap().remove("1025");
        assert!(serde_json::from_value::<ProcTable>(saved.clone()).is_ok());
        saved["slots"] = (1u64 << 40).into();
        assert!(serde_json::from_value::<ProcTable>(saved).is_err());
    }
}
