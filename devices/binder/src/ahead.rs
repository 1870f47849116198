//! Pages ahead of need: how a payload gets into a mapping of another guest.
//!
//! The pages that a payload needs in its receiver's mapping are supplied by the sender's shim (PAGES),
//! which has no business with the mappings of another guest. So where guests share a world, a process's
//! own shim fills its whole mapping before the process's next `BINDER_WRITE_READ` goes on, and TRIM takes
//! nothing back. Whoever hands out an object or waits for an answer has made one; only a context
//! manager can be called before its first. It costs guest memory, as much as the process mapped. A
//! process that cannot have it, or whose guest has too many commands waiting, goes on, and what
//! another guest sends to it fails with -12 where a page is missing.

use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{Pfn, ProcId};
use crate::message::{Answer, MAX_NEED_PAGES, Need, NeedResult, Outcome, Status};
use crate::thread::{Activity, Call};

impl Domain {
    /// Whether several guests take part.
    pub(crate) fn is_shared(&self) -> bool {
        self.guests.len() > 1
    }

    /// Asks for the pages that the mapping lacks, and runs the ioctl when there are none.
    #[inline(always)]
    pub(crate) fn fill_and_proceed(&mut self, cx: &mut Cx<'_>, call: Box<Call>, answer: &mut Answer) {
        let empty = if self.is_shared() { self.empty_slots(call.proc()) } else { None };
        match empty {
            Some((proc, slots)) => self.fill(cx, call, proc, slots, answer),
            None => self.proceed(cx, call, answer),
        }
    }

    fn fill(
        &mut self,
        cx: &mut Cx<'_>,
        mut call: Box<Call>,
        proc: ProcId,
        slots: Vec<u32>,
        answer: &mut Answer,
    ) {
        let bytes = call.write.chunk(cx.chunk).weight();
        if !self.keeps_suspended(call.guest, bytes) {
            return self.proceed(cx, call, answer);
        }
        call.write.keep(cx.chunk);
        let needs = vec![Need::Pages { proc, slots: slots.clone() }];
        answer.status = Status::Needs(needs);
        answer.write_consumed = call.write.consumed();
        answer.result_position = call.read.position;
        if let Some(object) = self.threads.get_mut(call.thread) {
            object.activity = Activity::Filling { call, slots, bytes };
        }
    }

    /// Slots of a process without a page, as many as one message can ask for.
    fn empty_slots(&self, proc: ProcId) -> Option<(ProcId, Vec<u32>)> {
        let mapping = self.procs.get(&proc)?.mapping.as_ref().filter(|mapping| !mapping.unmapped)?;
        let slots = mapping.missing(0, mapping.length, MAX_NEED_PAGES);
        (!slots.is_empty()).then_some((proc, slots))
    }

    /// Takes what the shim supplied, and goes on: with the next slots, or without them where it has no more.
    pub(crate) fn take_fill(
        &mut self,
        cx: &mut Cx<'_>,
        call: Box<Call>,
        slots: &[u32],
        results: &[NeedResult],
        answer: &mut Answer,
    ) {
        let pfns: &[Pfn] = match results {
            [NeedResult { error: Errno::OK, outcome: Outcome::Pages(pfns) }] => pfns,
            _ => &[],
        };
        let mut idle = 0;
        if let Some(object) = self.procs.get_mut(&call.proc())
            && let Some(mapping) = object.mapping.as_mut()
            && pfns.iter().all(|pfn| cx.pages.is_ram(object.guest, *pfn))
        {
            idle = slots.iter().zip(pfns).filter(|(slot, pfn)| mapping.fill(**slot, **pfn)).count() as u32;
            if let Some(guest) = self.guests.get_mut(&object.guest) {
                guest.idle_pages += idle;
            }
        }
        match idle {
            0 => self.proceed(cx, call, answer),
            _ => self.fill_and_proceed(cx, call, answer),
        }
    }
}
