//! The ioctls (BINDER.md 1.5, 1.6).

use crate::arena::{NodeId, ThreadId};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::{GuestId, ProcId};
use crate::message::{Answer, Header, Ioctl, Park, Status};
use crate::protocol::{PROTOCOL_VERSION, Reader, ioctl, words};
use crate::thread::{Activity, Call, FreezeWait};
use crate::trace::{Party, TraceEvent};

impl Domain {
    /// A new ioctl of an idle thread.
    pub(crate) fn ioctl(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        thread: ThreadId,
        body: &Ioctl,
        answer: &mut Answer,
    ) {
        let Some(object) = self.threads.get_mut(thread) else {
            answer.errno = Errno::EBADF;
            return;
        };
        if !matches!(object.activity, Activity::Idle) {
            answer.errno = Errno::EPROTO;
            return;
        }
        object.seq = header.seq;
        object.last_delivery = None;
        let (proc, guest) = (object.proc, object.guest);
        let cmd = body.cmd;
        self.trace_thread(cx, thread, move |thread| TraceEvent::Ioctl { thread, cmd, arg: body.arg.clone() });
        // The thread may end with it.
        let party = if cx.traces() { self.party(thread) } else { Party::default() };
        if self.is_doomed(proc) {
            // As with any signal that is on its way.
            *answer = self.end_ioctl(cx, thread, party, cmd, Err(Errno::EINTR));
            return;
        }
        let result = match cmd {
            ioctl::WRITE_READ => match self.begin_write_read(header, thread, guest, body) {
                Ok(call) => return self.fill_and_proceed(cx, call, answer),
                Err(errno) => Err(errno),
            },
            ioctl::FREEZE => match self.freeze(cx, header, thread, body) {
                Ok(frozen) => {
                    *answer = frozen;
                    return;
                }
                Err(errno) => Err(errno),
            },
            ioctl::THREAD_EXIT => {
                self.exit_thread(cx, thread);
                Ok(Vec::new())
            }
            _ => self.simple_ioctl(cx, header, thread, proc, body),
        };
        *answer = self.end_ioctl(cx, thread, party, cmd, result);
    }

    /// An ioctl that ends in its first message.
    fn end_ioctl(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        party: crate::trace::Party,
        cmd: u32,
        result: Result<Vec<u8>, Errno>,
    ) -> Answer {
        if let Some(object) = self.threads.get_mut(thread) {
            object.need_return = false;
        }
        let errno = result.as_ref().err().copied().unwrap_or_default();
        cx.trace(move || TraceEvent::IoctlDone {
            thread: party,
            cmd,
            errno,
            write_consumed: 0,
            read_consumed: 0,
        });
        Answer { errno, result: result.unwrap_or_default(), ..Answer::default() }
    }

    #[inline(never)]
    fn simple_ioctl(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        thread: ThreadId,
        proc: ProcId,
        body: &Ioctl,
    ) -> Result<Vec<u8>, Errno> {
        let mut arg = Argument::new(body);
        match body.cmd {
            ioctl::VERSION => {
                arg.readable(Errno::EINVAL)?;
                Ok(PROTOCOL_VERSION.to_le_bytes().to_vec())
            }
            ioctl::SET_MAX_THREADS => {
                arg.readable(Errno::EINVAL)?;
                let max = arg.u32();
                self.procs.get_mut(&proc).ok_or(Errno::EBADF)?.max_threads = max;
                Ok(Vec::new())
            }
            ioctl::SET_CONTEXT_MGR => self.set_manager(cx, header, proc, body, (0, 0, 0)),
            ioctl::SET_CONTEXT_MGR_EXT => {
                arg.readable(Errno::EINVAL)?;
                let (_, flags, ptr, cookie) = (arg.u32(), arg.u32(), arg.u64(), arg.u64());
                self.set_manager(cx, header, proc, body, (flags, ptr, cookie))
            }
            ioctl::GET_NODE_DEBUG_INFO => {
                arg.readable(Errno::EFAULT)?;
                Ok(self.node_debug_info(proc, arg.u64()))
            }
            ioctl::GET_NODE_INFO_FOR_REF => {
                arg.readable(Errno::EFAULT)?;
                let fields = [arg.u32(), arg.u32(), arg.u32(), arg.u32(), arg.u32(), arg.u32()];
                self.node_info_for_ref(proc, fields)
            }
            ioctl::GET_FROZEN_INFO => {
                arg.readable(Errno::EFAULT)?;
                let pid = arg.u32();
                let guest = self.procs.get(&proc).ok_or(Errno::EBADF)?.guest;
                let procs = self.procs_of(guest, crate::ids::Pid(pid));
                if procs.is_empty() {
                    return Err(Errno::EINVAL);
                }
                let (sync, oneway) = self.frozen_info(&procs);
                Ok([pid, sync, oneway].iter().flat_map(|word| word.to_le_bytes()).collect())
            }
            ioctl::ENABLE_ONEWAY_SPAM_DETECTION => {
                arg.readable(Errno::EFAULT)?;
                let enable = arg.u32() != 0;
                self.procs.get_mut(&proc).ok_or(Errno::EBADF)?.spam_detection = enable;
                Ok(Vec::new())
            }
            ioctl::GET_EXTENDED_ERROR => {
                let object = self.threads.get_mut(thread).ok_or(Errno::EBADF)?;
                let error = std::mem::take(&mut object.extended_error);
                arg.readable(Errno::EFAULT)?;
                let words = [error.id.0, error.command, error.param.0 as u32];
                Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// B044 to B050.
    fn set_manager(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        proc: ProcId,
        body: &Ioctl,
        (flags, ptr, cookie): (u32, u64, u64),
    ) -> Result<Vec<u8>, Errno> {
        let owner = self.procs.get(&proc).ok_or(Errno::EBADF)?;
        let context_id = owner.context;
        let known = owner.nodes.get(&ptr).copied();
        let context = self.contexts.get_mut(&context_id).ok_or(Errno::EBADF)?;
        if context.manager.is_some() {
            return Err(Errno::EBUSY);
        }
        if !body.lsm_error.is_ok() {
            return Err(body.lsm_error);
        }
        if *context.manager_uid.get_or_insert(header.thread_euid) != header.thread_euid {
            return Err(Errno::EPERM);
        }
        let id = match known {
            Some(id) => id,
            None => self.new_node(cx, proc, ptr, cookie, flags)?,
        };
        let node = self.nodes.get_mut(id).ok_or(Errno::ENOMEM)?;
        node.local_strong = node.local_strong.saturating_add(1);
        node.local_weak = node.local_weak.saturating_add(1);
        node.told_strong = true;
        node.told_weak = true;
        let debug_id = node.debug_id;
        if let Some(context) = self.contexts.get_mut(&context_id) {
            context.manager = Some(id);
        }
        cx.trace(move || TraceEvent::ContextManager { proc, node: debug_id });
        Ok(Vec::new())
    }

    /// The manager node of a process's context.
    pub(crate) fn manager_of(&self, proc: ProcId) -> Option<NodeId> {
        self.contexts.get(&self.procs.get(&proc)?.context)?.manager
    }

    /// B053.
    fn node_debug_info(&self, proc: ProcId, after: u64) -> Vec<u8> {
        let bound = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let found = self.procs.get(&proc).and_then(|proc| proc.nodes.range(bound).next());
        let mut bytes = Vec::with_capacity(24);
        match found.and_then(|(_, id)| self.nodes.get(*id)) {
            None => bytes.resize(24, 0),
            Some(node) => {
                bytes.extend(node.ptr.to_le_bytes());
                bytes.extend(node.cookie.to_le_bytes());
                bytes.extend(u32::from(node.told_strong).to_le_bytes());
                bytes.extend(u32::from(node.told_weak).to_le_bytes());
            }
        }
        bytes
    }

    /// B054.
    fn node_info_for_ref(&self, proc: ProcId, fields: [u32; 6]) -> Result<Vec<u8>, Errno> {
        let [handle, rest @ ..] = fields;
        if rest != [0; 5] {
            return Err(Errno::EINVAL);
        }
        let manager = self.manager_of(proc).and_then(|id| self.nodes.get(id)).and_then(|node| node.owner);
        if manager != Some(proc) {
            return Err(Errno::EPERM);
        }
        let id = self.find_ref(proc, handle, true).ok_or(Errno::EINVAL)?;
        let node = self.refs.get(id).and_then(|entry| self.nodes.get(entry.node)).ok_or(Errno::EINVAL)?;
        let strong = node.local_strong.saturating_add(node.internal_strong);
        Ok([handle, strong, node.local_weak, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// BINDER_WRITE_READ begins.
    fn begin_write_read(
        &mut self,
        header: &Header,
        thread: ThreadId,
        guest: GuestId,
        body: &Ioctl,
    ) -> Result<Box<Call>, Errno> {
        Argument::new(body).readable(Errno::EFAULT)?;
        let [write_size, write_consumed, _, read_size, read_consumed, _] = words(&body.arg);
        let mut call = self.spare.call(thread, guest, header);
        call.write.size = write_size;
        call.write.position = write_consumed;
        call.read.size = read_size;
        call.read.start = read_consumed;
        call.read.position = read_consumed;
        if write_consumed < write_size && !call.write.feed(&body.chunk) {
            return Err(Errno::EPROTO);
        }
        Ok(call)
    }

    /// BINDER_FREEZE begins (B367 to B375).
    fn freeze(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        thread: ThreadId,
        body: &Ioctl,
    ) -> Result<Answer, Errno> {
        let mut arg = Argument::new(body);
        arg.readable(Errno::EFAULT)?;
        let (pid, enable, timeout_ms) = (arg.u32(), arg.u32(), arg.u32());
        let mut rest = self.procs_of(self.thread_guest(thread), crate::ids::Pid(pid));
        if rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        if enable == 0 {
            for proc in rest {
                self.unfreeze(cx, proc);
            }
            let party = self.party(thread);
            return Ok(self.end_ioctl(cx, thread, party, ioctl::FREEZE, Ok(Vec::new())));
        }
        let target = rest.remove(0);
        let wait = FreezeWait { target, rest, timeout_ms, header: *header };
        Ok(self.freeze_next(cx, thread, wait, false))
    }

    /// Freezes the processes of a pid one by one. `waited`: the wait for the first one is over.
    pub(crate) fn freeze_next(
        &mut self,
        cx: &mut Cx<'_>,
        thread: ThreadId,
        mut wait: FreezeWait,
        mut waited: bool,
    ) -> Answer {
        let result = loop {
            let idle = waited || self.begin_freeze(wait.target);
            if !idle && wait.timeout_ms > 0 {
                return self.park_freezer(cx, thread, wait);
            }
            if let Err(errno) = self.end_freeze(cx, wait.target) {
                break Err(errno);
            }
            if wait.rest.is_empty() {
                break Ok(Vec::new());
            }
            wait.target = wait.rest.remove(0);
            waited = false;
        };
        let party = self.party(thread);
        self.end_ioctl(cx, thread, party, ioctl::FREEZE, result)
    }

    fn park_freezer(&mut self, cx: &mut Cx<'_>, thread: ThreadId, wait: FreezeWait) -> Answer {
        if let Some(target) = self.procs.get_mut(&wait.target) {
            target.freezers.insert(thread);
        }
        self.freeze_waits(cx, thread, wait.target);
        let status = Status::Parked { park: Park::Freeze, timeout_ms: wait.timeout_ms };
        if let Some(object) = self.threads.get_mut(thread) {
            object.activity = Activity::Freezing(Box::new(wait));
        }
        self.trace_thread(cx, thread, move |thread| TraceEvent::Parked { thread, park: Park::Freeze });
        Answer { status, ..Answer::default() }
    }

    /// The wait of a freezer is cancelled or its thread goes away: the target thaws (B372).
    pub(crate) fn stop_freezing(&mut self, thread: ThreadId, wait: &FreezeWait) {
        if let Some(target) = self.procs.get_mut(&wait.target) {
            target.freezers.remove(&thread);
        }
        self.thaw(wait.target);
    }

    /// The freezer's wait ended in time, or not.
    pub(crate) fn freezer_done(&mut self, cx: &mut Cx<'_>, thread: ThreadId, wait: FreezeWait) -> Answer {
        if let Some(target) = self.procs.get_mut(&wait.target) {
            target.freezers.remove(&thread);
        }
        self.freeze_next(cx, thread, wait, true)
    }

    /// The last transaction under way to a frozen process ended (B376).
    pub(crate) fn wake_freezers(&mut self, cx: &mut Cx<'_>, proc: ProcId) {
        let freezers = self.procs.get(&proc).map(|proc| proc.freezers.clone()).unwrap_or_default();
        for thread in freezers {
            let Some(object) = self.threads.get_mut(thread) else { continue };
            if !std::mem::replace(&mut object.runnable, true) {
                self.runnable.push_back(thread);
                self.trace_thread(cx, thread, move |thread| TraceEvent::Woken { thread });
            }
        }
    }
}

/// The argument of an ioctl; what is missing reads as zeros.
struct Argument<'a> {
    error: Errno,
    reader: Reader<'a>,
}

impl<'a> Argument<'a> {
    fn new(body: &'a Ioctl) -> Self {
        Argument { error: body.arg_error, reader: Reader(&body.arg) }
    }

    /// `errno` where the argument cannot be read.
    fn readable(&self, errno: Errno) -> Result<(), Errno> {
        if self.error.is_ok() { Ok(()) } else { Err(errno) }
    }

    fn u32(&mut self) -> u32 {
        self.reader.u32().unwrap_or(0)
    }

    fn u64(&mut self) -> u64 {
        self.reader.u64().unwrap_or(0)
    }
}
