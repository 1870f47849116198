//! What a send still needs from the guest: offsets, data, pages, PTR memory, files, the LSM's opinion.
//!
//! Everything is collected in one pass (PROTOCOL.md rule 10) and looked at again after each answer.

use crate::buffer::align8;
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, ProcId};
use crate::memory::Absent;
use crate::message::{LsmQuestion, MAX_NEED_PAGES, MAX_NEEDS, Need};
use crate::protocol::tf;
use crate::thread::Call;
use crate::transaction::objects::{Judge, Plan, What, read_arrays};
use crate::transaction::send::Permission;
use crate::transaction::{SendError, Sending};

/// Descriptors asked for with one need: the results of all needs must fit into one page.
pub(crate) const MAX_NEED_FILES: usize = 128;
/// Pieces of sender's memory kept for one command: a shim that brings a byte at a time is cut off.
const MAX_FETCHED: usize = 4096;
/// Bytes between two pieces of memory that are got together: less than a page, so that no page is
/// touched that neither piece is in, and no fault comes from between them.
const MAX_GAP: u64 = 256;

impl Domain {
    /// Collects everything that is still missing, in one pass. `pages_there`: the buffer's pages are not.
    pub(super) fn gather(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &mut Sending,
        pages_there: bool,
    ) -> Result<Vec<Need>, SendError> {
        if let Some(errno) = s.gathered().page_error {
            let unmapped = errno == Errno::ESRCH;
            return Err(if unmapped { SendError::dead(errno) } else { SendError::failed(Errno::ENOMEM) });
        }
        if s.gathered().fetched.len() > MAX_FETCHED {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        let target = s.target_proc.ok_or(SendError::dead(Errno::OK))?;
        let needs = if pages_there { Vec::new() } else { self.missing_pages(s, target)? };
        // Without objects there is nothing to judge, and nothing to be remembered if all is there.
        if s.data.offsets_size == 0
            && s.buffers_size == 0
            && s.memory(cx.chunk, call).covers(s.data.data, s.data.data_size).is_ok()
        {
            return Ok(needs);
        }
        self.gather_objects(cx, call, s, target, needs)
    }

    /// The same for what carries objects, or is not all there: `needs` so far.
    #[inline(never)]
    fn gather_objects(
        &mut self,
        cx: &mut Cx<'_>,
        call: &Call,
        s: &mut Sending,
        target: ProcId,
        mut needs: Vec<Need>,
    ) -> Result<Vec<Need>, SendError> {
        if s.gathered().offsets.is_none() {
            let (from, size) = (s.data.offsets, s.data.offsets_size);
            match s.memory(cx.chunk, call).covers(from, size) {
                Err(Absent::Fault) => return Err(SendError::failed(Errno::EFAULT)),
                Err(Absent::Missing(at)) => needs.push(Need::Data { address: at, length: from + size - at }),
                Ok(()) => {
                    let offsets = self.read_offsets(cx, call, s)?;
                    s.gather().offsets = Some(offsets);
                }
            }
        }
        // With a plan the data has been there. A fault is judged by its place among the objects.
        let data = match s.gathered().plan {
            Some(_) => Ok(()),
            None => s.memory(cx.chunk, call).covers(s.data.data, s.data.data_size),
        };
        if let Err(Absent::Missing(at)) = data {
            let length = s.data.data + s.data.data_size - at;
            needs.push(Need::Data { address: at, length });
            return Ok(needs);
        }
        // There is no plan without offsets.
        let judged = s.gathered.as_mut().and_then(|gathered| gathered.plan.take());
        let Some(offsets) = s.gathered().offsets.as_deref() else { return Ok(needs) };
        let mut plan = match judged {
            Some(plan) => plan,
            None if offsets.is_empty() => {
                Plan { failure: data.err().map(|_| Errno::EFAULT), ..Plan::default() }
            }
            None => self.judge(cx, call, s).plan(offsets),
        };
        if plan.objects.is_empty() {
            s.gather().plan = Some(plan);
            return Ok(needs);
        }
        let more = self.plan_needs(cx, call, s, target, &mut plan);
        s.gather().plan = Some(plan);
        needs.extend(more);
        needs.truncate(MAX_NEEDS);
        Ok(needs)
    }

    fn missing_pages(&self, s: &Sending, target: ProcId) -> Result<Vec<Need>, SendError> {
        let proc = self.procs.get(&target).ok_or(SendError::dead(Errno::OK))?;
        let buffer = s.buffer.and_then(|id| self.buffers.get(id)).ok_or(SendError::dead(Errno::OK))?;
        let mapping = proc.mapping.as_ref().ok_or(SendError::dead(Errno::ESRCH))?;
        let slots = mapping.missing(buffer.offset, buffer.size, MAX_NEED_PAGES);
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        if mapping.unmapped {
            return Err(SendError::dead(Errno::ESRCH));
        }
        if proc.guest != s.guest {
            // The sender's shim has no business with another guest's mapping.
            return Err(SendError::failed(Errno::ENOMEM));
        }
        Ok(vec![Need::Pages { proc: target, slots }])
    }

    fn read_offsets(&self, cx: &Cx<'_>, call: &Call, s: &Sending) -> Result<Vec<u64>, SendError> {
        let size = s.data.offsets_size;
        if !size.is_multiple_of(8) || !s.buffers_size.is_multiple_of(8) {
            return Err(SendError::failed(Errno::EINVAL));
        }
        if size / 8 > u64::from(self.limits.max_objects) {
            return Err(SendError::failed(Errno::ENOMEM));
        }
        let mut bytes = vec![0; size as usize];
        let memory = s.memory(cx.chunk, call);
        memory.read(cx.pages, s.data.offsets, &mut bytes).map_err(|_| SendError::failed(Errno::EFAULT))?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn judge<'a>(&self, cx: &'a Cx<'_>, call: &'a Call, s: &'a Sending) -> Judge<'a> {
        let extra_start = align8(s.data.data_size) + align8(s.data.offsets_size);
        let accepts_fds = match (s.in_reply_to, s.target_node) {
            (Some(call), _) => self.transactions.get(call).is_some_and(|t| t.flags & tf::ACCEPT_FDS != 0),
            (None, Some(node)) => self.nodes.get(node).is_some_and(|node| node.accepts_fds),
            (None, None) => false,
        };
        Judge {
            memory: s.memory(cx.chunk, call),
            pages: cx.pages,
            data: s.data.data,
            data_size: s.data.data_size,
            extra: extra_start..extra_start + s.buffers_size,
            accepts_fds,
            max_files: u64::from(self.limits.max_files),
        }
    }

    /// What the objects of a plan need: the LSM's opinion, PTR memory, descriptor arrays, files.
    fn plan_needs(
        &self,
        cx: &Cx<'_>,
        call: &Call,
        s: &Sending,
        target: ProcId,
        plan: &mut Plan,
    ) -> Vec<Need> {
        let guest = s.guest;
        let mut needs = Vec::new();
        let is_flat = |what: &What| matches!(what, What::Binder { .. } | What::Handle { .. });
        if let Some(first) = plan.objects.iter().position(|object| is_flat(&object.what)) {
            match self.permission(s, LsmQuestion::TransferBinder, s.gathered().transfer_allowed) {
                Permission::Granted => {}
                Permission::Refused => {
                    let unknown = self.unknown_object(s.sender.proc, &plan.objects[first].what);
                    plan.fail_at(first, unknown.unwrap_or(Errno::EPERM));
                }
                Permission::Ask(need) => needs.push(need),
            }
        }
        let memory = s.memory(cx.chunk, call);
        if plan.failure.is_none() {
            let mut all_there = true;
            for (index, object) in plan.objects.iter().enumerate().skip(plan.covered) {
                let What::Ptr(ptr) = &object.what else { continue };
                match memory.covers(ptr.source, ptr.length) {
                    Ok(()) => {}
                    Err(Absent::Missing(at)) => {
                        if all_there {
                            plan.covered = index;
                        }
                        all_there = false;
                        let end = ptr.source + ptr.length;
                        if !needs.iter_mut().any(|need| joined(need, at, end)) {
                            if needs.len() >= MAX_NEEDS {
                                return needs;
                            }
                            needs.push(Need::Data { address: at, length: end - at });
                        }
                    }
                    Err(Absent::Fault) => {
                        plan.failure = Some(Errno::EINVAL);
                        break;
                    }
                }
            }
            if all_there {
                plan.covered = plan.objects.len();
            }
        }
        if let Some((address, length)) = read_arrays(plan, memory, cx.pages) {
            needs.push(Need::Data { address, length });
            return needs;
        }
        let wanted = plan.fds().nth(s.gathered().tokens.len());
        match (wanted, s.gathered().file_error) {
            (None, _) => {}
            (Some((index, _)), Some(errno)) => plan.fail_at(index, errno),
            (Some((index, _)), None) if self.procs.get(&target).is_none_or(|proc| proc.guest != guest) => {
                // Files do not cross guests.
                plan.fail_at(index, Errno::EPERM);
            }
            (Some((index, _)), None)
                if !self.token_room(guest, plan.fds().count() - s.gathered().tokens.len()) =>
            {
                plan.fail_at(index, Errno::ENOMEM);
            }
            (Some(_), None) => {
                let fds = plan
                    .fds()
                    .skip(s.gathered().tokens.len())
                    .take(MAX_NEED_FILES)
                    .map(|(_, fd)| fd)
                    .collect();
                needs.push(Need::Files { proc: target, fds });
            }
        }
        needs
    }

    /// Whether the guest may hold as many files more.
    fn token_room(&self, guest: GuestId, more: usize) -> bool {
        let held = self.guests.get(&guest).map_or(0, |guest| guest.tokens as usize + guest.fputs.len());
        held.saturating_add(more) <= self.limits.max_tokens as usize
    }
}

/// Widens a need for data by `start..end`, if that is near.
fn joined(need: &mut Need, start: u64, end: u64) -> bool {
    let Need::Data { address, length } = need else { return false };
    let known = *address + *length;
    if start > known.saturating_add(MAX_GAP) || *address > end.saturating_add(MAX_GAP) {
        return false;
    }
    *address = start.min(*address);
    *length = end.max(known) - *address;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_memory_is_joined_on_both_sides() {
        let mut need = Need::Data { address: 1000, length: 100 };
        assert!(!joined(&mut need, 1100 + MAX_GAP + 1, 2000));
        assert!(!joined(&mut need, 700, 999 - MAX_GAP));
        assert!(joined(&mut need, 1100 + MAX_GAP, 2000));
        assert!(joined(&mut need, 700, 1000 - MAX_GAP));
        assert!(joined(&mut need, 800, 900), "inside");
        assert_eq!(need, Need::Data { address: 700, length: 1300 });
        assert!(!joined(&mut Need::Pages { proc: ProcId(1), slots: Vec::new() }, 0, 8));
    }
}
