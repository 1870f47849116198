//! What threads are in the middle of: ioctls that sleep, wait for the guest, or are answered.

use super::{Inconsistent, holds};
use crate::arena::ThreadId;
use crate::buffer::align8;
use crate::domain::Domain;
use crate::message::{
    Answer, MAX_ACTIONS, MAX_INSTALL_FILES, MAX_NEED_PAGES, MAX_NEEDS, MAX_RESULT, Need, Status,
};
use crate::thread::{Activity, Call, FreezeWait, Read, Thread, Write};
use crate::transaction::gather::MAX_NEED_FILES;
use crate::transaction::objects::{Plan, Planned, What};
use crate::transaction::{Gathered, Sending, Stage};

/// More than any message moves (a transaction and the budget of rule 16).
const MAX_EFFORT: u64 = 1 << 40;
/// What a read writes at most when its room was looked at.
const ITEM: u64 = 128;

impl Domain {
    pub(super) fn check_activity(
        &self,
        id: ThreadId,
        thread: &Thread,
        activity: &Activity,
    ) -> Result<(), Inconsistent> {
        match activity {
            Activity::Idle => Ok(()),
            Activity::Suspended { call, sending, needs, bytes: _ } => {
                check_call(id, thread, call)?;
                let Write { cursor, current, kept, .. } = &call.write;
                let length = kept.as_ref().map_or(0, |chunk| chunk.bytes.len());
                let whole = cursor.checked_add(*current).is_some_and(|end| end <= length);
                holds(whole, "a suspended command is longer than what was sent")?;
                check_needs(needs)?;
                self.check_sending(id, thread, sending)
            }
            Activity::Filling { call, slots, bytes: _ } => {
                holds(
                    slots.len() <= MAX_NEED_PAGES,
                    "a mapping is filled with more than fits into a message",
                )?;
                check_call(id, thread, call)
            }
            Activity::WriteMore(call) | Activity::ReadMore(call) | Activity::Parked(call) => {
                check_call(id, thread, call)
            }
            Activity::Installing { call, transaction: _, announced: _ } => {
                let Read { size, position, .. } = &call.read;
                let room = position.checked_add(ITEM).is_some() && position <= size;
                holds(room, "a transaction is being read into no room")?;
                check_call(id, thread, call)
            }
            Activity::Freezing(wait) => {
                let FreezeWait { target, rest, timeout_ms: _, header: _ } = &**wait;
                let own = |proc| self.procs.get(proc).is_none_or(|proc| proc.guest == thread.guest);
                holds(own(target) && rest.iter().all(own), "a thread freezes another guest")
            }
            Activity::Completed { answer, fetch: _, then } => {
                check_answer(answer)?;
                then.iter().try_for_each(|call| check_call(id, thread, call))
            }
        }
    }

    fn check_sending(&self, id: ThreadId, sender: &Thread, sending: &Sending) -> Result<(), Inconsistent> {
        let Sending {
            debug_id: _,
            thread,
            guest,
            sender: party,
            reply: _,
            data,
            buffers_size,
            euid: _,
            sched: _,
            asks_anew: _,
            stage,
            in_reply_to: _,
            target_proc,
            target_thread: _,
            target_node: _,
            buffer,
            gathered: _,
            log: _,
            started: _,
        } = sending;
        let Gathered {
            secctx,
            fetched,
            offsets,
            plan,
            call_allowed: _,
            transfer_allowed: _,
            tokens,
            file_error: _,
            page_error: _,
        } = sending.gathered();
        let own = *thread == id && *guest == sender.guest;
        let own = own && party.proc == sender.proc && party.tid == sender.tid;
        holds(own, "a command is suspended at a thread that did not send it")?;
        fetched.check()?;
        if *stage != Stage::Gathering {
            let begun = buffer.is_some() || secctx.is_some() || offsets.is_some() || plan.is_some();
            return holds(!begun && tokens.is_empty(), "a command went on before it was allowed to");
        }
        // Without its buffer it fails before anything of it is used again.
        let Some(buffer) = buffer.and_then(|buffer| self.buffers.get(buffer)) else { return Ok(()) };
        let own = Some(buffer.proc) == *target_proc && buffer.transaction.is_none() && !buffer.user_free;
        holds(own, "a suspended command has a buffer that is not its own")?;
        let same = buffer.data_size == data.data_size && buffer.offsets_size == data.offsets_size;
        holds(same, "a suspended command has a buffer of another size")?;
        let label = secctx.as_ref().map_or(0, |secctx| align8(secctx.len() as u64));
        // Data and offsets are at most as large as the buffer, and that is at most as large as a mapping.
        let start = align8(data.data_size) + align8(data.offsets_size);
        let room = buffer.size.checked_sub(start).and_then(|room| room.checked_sub(label));
        holds(room.is_some_and(|room| *buffers_size <= room), "a suspended command does not fit its buffer")?;
        if let Some(offsets) = offsets {
            let counted =
                offsets.len() as u64 == data.offsets_size / 8 && data.offsets_size.is_multiple_of(8);
            holds(counted, "a suspended command has another number of offsets")?;
        }
        let Some(plan) = plan else { return holds(tokens.is_empty(), "files were got without a plan") };
        holds(offsets.is_some() && buffers_size.is_multiple_of(8), "objects were judged without offsets")?;
        plan.check(data.data_size, start..start + buffers_size, self.limits.max_files)?;
        holds(tokens.len() <= plan.fds().count(), "more files were got than are sent")
    }
}

fn check_call(id: ThreadId, thread: &Thread, call: &Call) -> Result<(), Inconsistent> {
    let Call { thread: own, guest, header, write, read, actions: _, effort, sched: _ } = call;
    holds(*own == id && *guest == thread.guest, "an ioctl is at a thread that did not call it")?;
    holds(header.proc == thread.proc.0 && header.tid == thread.tid, "an ioctl is of another thread")?;
    holds(*effort < MAX_EFFORT, "an ioctl did more than it could")?;
    let Write { size: _, position, cursor, current: _, kept } = write;
    let length = kept.as_ref().map_or(0, |chunk| chunk.bytes.len());
    let inside = *cursor <= length && position.checked_add(length as u64).is_some();
    holds(inside, "a write half is behind its end")?;
    let Read { size: _, start: _, position, bytes, creds: _, phase: _, wait_for_proc: _, spawn: _ } = read;
    let inside = bytes.len() <= MAX_RESULT && bytes.len() as u64 <= *position;
    holds(inside, "a read half has more than it wrote")
}

fn check_needs(needs: &[Need]) -> Result<(), Inconsistent> {
    let bounded = needs.iter().all(|need| match need {
        Need::Data { .. } | Need::Lsm { .. } => true,
        Need::Pages { proc: _, slots } => slots.len() <= MAX_NEED_PAGES,
        Need::Files { proc: _, fds } => fds.len() <= MAX_NEED_FILES,
    });
    holds(bounded && needs.len() <= MAX_NEEDS, "a suspended command needs more than fits into a message")
}

/// An answer that waits for FETCH must fit into the shim's page.
fn check_answer(answer: &Answer) -> Result<(), Inconsistent> {
    let status = match &answer.status {
        Status::Done | Status::More => true,
        Status::Install(tokens) => tokens.len() <= MAX_INSTALL_FILES as usize,
        Status::Needs(_) | Status::Parked { .. } | Status::TooLate => false,
    };
    let fits = answer.result.len() <= MAX_RESULT
        && answer.actions.len() <= MAX_ACTIONS
        && answer.slots.is_empty()
        && answer.proc.is_none();
    holds(status && fits, "an answer that waits is none that a sleeping ioctl gets")
}

impl Plan {
    /// Whether the objects lie in `data_size` bytes one after the other, and what they place in `extra`
    /// follows the order rule: copying relies on both.
    fn check(&self, data_size: u64, extra: std::ops::Range<u64>, max_files: u32) -> Result<(), Inconsistent> {
        let Plan { objects, failure: _, covered: _, extra_used: _, refused_array: _ } = self;
        let inside = |place: u64, length: u64| {
            place >= extra.start && place <= extra.end && length <= extra.end - place
        };
        let (mut done, mut used, mut files) = (0, extra.start, 0);
        for Planned { offset, what } in objects {
            let size = match what {
                What::Binder { .. } | What::Handle { .. } | What::Fd { .. } => 24,
                What::Fda { .. } => 32,
                What::Ptr(_) => 40,
            };
            let end = offset.checked_add(size).filter(|end| *offset >= done && *end <= data_size);
            done = end.ok_or(Inconsistent("a suspended command's objects overlap"))?;
            match what {
                What::Binder { .. } | What::Handle { .. } => {}
                What::Fd { .. } => files += 1,
                What::Ptr(ptr) => {
                    holds(ptr.place == used && inside(used, ptr.length), "a pointed-to piece has no room")?;
                    let patch = ptr.patch.is_none_or(|patch| patch < used && inside(patch, 8));
                    holds(patch, "a pointer's own place is outside of what was sent")?;
                    used += align8(ptr.length);
                }
                What::Fda { raw: _, source: _, count, place, fds } => {
                    let room = *count <= u64::from(max_files) && (*count == 0 || inside(*place, *count * 4));
                    holds(room, "an array of files has no room")?;
                    let read = fds.as_ref().is_none_or(|fds| fds.len() as u64 == *count);
                    holds(read, "an array of files has another length")?;
                    files += count;
                }
            }
        }
        holds(files <= u64::from(max_files), "a suspended command sends too many files")
    }
}
