//! The objects in a transaction: fetched once, judged here, translated for the receiver.
//!
//! BINDER.md 4. Judging has no effects: it ends at the first object that is wrong, and the
//! objects before that one are still translated (and undone), so that the first error wins.

use serde::{Deserialize, Serialize};

use crate::arena::RefId;
use crate::buffer::{Held, align8};
use crate::domain::{Cx, Domain};
use crate::errno::Errno;
use crate::ids::ProcId;
use crate::memory::{Absent, Pages, UserMemory};
use crate::node::Side;
use crate::protocol::{Reader, object};
use crate::transaction::Sending;

/// An object that passed the checks that need no state of the domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    /// In the data.
    pub offset: u64,
    pub what: What,
}

impl Planned {
    /// Its address goes where no word may be (B210). The kernel finds that out last, when it writes it.
    fn is_misplaced(&self) -> bool {
        matches!(self.what, What::Ptr(Ptr { patch: Some(patch), .. }) if !patch.is_multiple_of(4))
    }
}

/// The kinds of object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// BINDER and WEAK_BINDER.
    Binder {
        strong: bool,
        flags: u32,
        ptr: u64,
        cookie: u64,
    },
    /// HANDLE and WEAK_HANDLE.
    Handle {
        strong: bool,
        flags: u32,
        handle: u32,
    },
    Fd {
        pad_flags: u32,
        fd: u32,
        cookie: u64,
    },
    /// A piece of memory that travels along. `place`: offset in the buffer. `patch`: where in the
    /// buffer its address goes.
    Ptr(Ptr),
    /// Descriptors in a PTR's memory. `place`: offset in the buffer of the first one.
    Fda {
        raw: [u64; 4],
        source: u64,
        count: u64,
        place: u64,
        fds: Option<Vec<u32>>,
    },
}

/// A PTR object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ptr {
    pub flags: u32,
    pub source: u64,
    pub length: u64,
    pub parent: u64,
    pub parent_offset: u64,
    pub place: u64,
    pub patch: Option<u64>,
}

/// What is known of the objects of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub objects: Vec<Planned>,
    /// What is wrong after the last one of `objects`.
    pub failure: Option<Errno>,
    /// All PTRs among this many first objects have their memory.
    pub covered: usize,
    /// Bytes of the extra area that PTRs use.
    pub extra_used: u64,
    /// After the last one of `objects` is an array that may not be sent, and this is where the sender has it. The
    /// kernel reads a descriptor before it refuses it: a fault there is the error.
    pub refused_array: Option<u64>,
}

impl Plan {
    /// Cuts the plan at an object that turned out to be wrong.
    pub(crate) fn fail_at(&mut self, index: usize, errno: Errno) {
        self.objects.truncate(index);
        self.failure = Some(errno);
        self.refused_array = None;
    }

    /// The descriptors to be sent, with the index of their object, in order. Arrays must be read.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.objects.iter().enumerate().flat_map(|(index, object)| {
            let fds: &[u32] = match &object.what {
                What::Fd { fd, .. } => std::slice::from_ref(fd),
                What::Fda { fds: Some(fds), .. } => fds,
                _ => &[],
            };
            fds.iter().map(move |fd| (index, *fd))
        })
    }
}

/// Bytes of an object by its type word (B156 to B159).
fn object_size(kind: u32) -> Option<u64> {
    match kind {
        object::BINDER | object::WEAK_BINDER | object::HANDLE | object::WEAK_HANDLE | object::FD => Some(24),
        object::FDA => Some(32),
        object::PTR => Some(40),
        _ => None,
    }
}

/// Judges the offsets and the objects that they name.
pub(crate) struct Judge<'a> {
    pub memory: UserMemory<'a>,
    pub pages: &'a dyn Pages,
    /// User address and size of the data.
    pub data: u64,
    pub data_size: u64,
    /// Start and end of the space for PTRs in the buffer.
    pub extra: std::ops::Range<u64>,
    /// The accept rule (B189).
    pub accepts_fds: bool,
    pub max_files: u64,
}

impl Judge<'_> {
    /// Builds the plan. All data that can be read must be there.
    pub(crate) fn plan(&self, offsets: &[u64]) -> Plan {
        let mut plan = Plan::default();
        let mut done = 0;
        // Object and least offset of the last fixup (B211).
        let mut last: Option<(usize, u64)> = None;
        let mut files = 0;
        for &offset in offsets {
            if let Err(errno) = self.object(&mut plan, offset, &mut done, &mut last, &mut files) {
                plan.failure = Some(errno);
                return plan;
            }
        }
        if self.memory.covers(self.data.wrapping_add(done), self.data_size - done).is_err() {
            plan.failure = Some(Errno::EFAULT);
        } else if plan.objects.iter().any(Planned::is_misplaced) {
            plan.failure = Some(Errno::EINVAL);
        }
        plan
    }

    fn object(
        &self,
        plan: &mut Plan,
        offset: u64,
        done: &mut u64,
        last: &mut Option<(usize, u64)>,
        files: &mut u64,
    ) -> Result<(), Errno> {
        if offset != *done
            && (offset < *done
                || offset > self.data_size
                || self.memory.covers(self.data.wrapping_add(*done), offset - *done).is_err())
        {
            return Err(Errno::EFAULT);
        }
        let rest = self.data_size - offset;
        if rest < 4 || !offset.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 40];
        let seen = &mut bytes[..rest.min(40) as usize];
        self.memory.read(self.pages, self.data.wrapping_add(offset), seen).map_err(|_| Errno::EINVAL)?;
        let mut reader = Reader(&bytes);
        let (kind, flags) = reader.u32().zip(reader.u32()).ok_or(Errno::EINVAL)?;
        let size = object_size(kind).filter(|size| *size <= rest).ok_or(Errno::EINVAL)?;
        let mut word = || reader.u64().unwrap_or_default();
        let words = [word(), word(), word(), word()];
        *done = offset + size;
        let index = plan.objects.len();
        let what = match kind {
            object::BINDER | object::WEAK_BINDER => {
                What::Binder { strong: kind == object::BINDER, flags, ptr: words[0], cookie: words[1] }
            }
            object::HANDLE | object::WEAK_HANDLE => {
                What::Handle { strong: kind == object::HANDLE, flags, handle: words[0] as u32 }
            }
            object::FD => {
                self.accept_files(files, 1)?;
                What::Fd { pad_flags: flags, fd: words[0] as u32, cookie: words[1] }
            }
            object::FDA => {
                let [count, parent, parent_offset, _] = words;
                let fda = self.array(plan, count, parent, parent_offset, *last)?;
                if count > 0 {
                    plan.refused_array = (!self.accepts_fds).then_some(fda.0);
                    self.accept_files(files, count)?;
                }
                *last = Some((parent as usize, parent_offset.wrapping_add(count * 4)));
                let raw = [u64::from(object::FDA) | u64::from(flags) << 32, count, parent, parent_offset];
                What::Fda { raw, source: fda.0, count, place: fda.1, fds: (count == 0).then(Vec::new) }
            }
            _ => {
                let [source, length, parent, parent_offset] = words;
                let mut ptr = Ptr { flags, source, length, parent, parent_offset, place: 0, patch: None };
                self.pointer(plan, &mut ptr, *last)?;
                *last = Some((index, 0));
                What::Ptr(ptr)
            }
        };
        plan.objects.push(Planned { offset, what });
        Ok(())
    }

    fn accept_files(&self, files: &mut u64, count: u64) -> Result<(), Errno> {
        if !self.accepts_fds {
            return Err(Errno::EPERM);
        }
        *files = files.saturating_add(count);
        if *files > self.max_files { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Gives a PTR its space and its parent's patch (B202 to B212).
    fn pointer(&self, plan: &mut Plan, ptr: &mut Ptr, last: Option<(usize, u64)>) -> Result<(), Errno> {
        let start = self.extra.start + plan.extra_used;
        if ptr.length > self.extra.end - start {
            return Err(Errno::EINVAL);
        }
        ptr.place = start;
        if ptr.flags & object::PTR_FLAG_HAS_PARENT != 0 {
            let parent = parent(plan, ptr.parent).ok_or(Errno::EINVAL)?;
            if !in_order(plan, ptr.parent as usize, ptr.parent_offset, last)
                || parent.length < 8
                || ptr.parent_offset > parent.length - 8
            {
                return Err(Errno::EINVAL);
            }
            ptr.patch = Some(parent.place + ptr.parent_offset);
        }
        plan.extra_used += align8(ptr.length);
        Ok(())
    }

    /// Address of the descriptors at the sender, and their place in the buffer (B215, B216).
    fn array(
        &self,
        plan: &Plan,
        count: u64,
        index: u64,
        offset: u64,
        last: Option<(usize, u64)>,
    ) -> Result<(u64, u64), Errno> {
        let parent = parent(plan, index).ok_or(Errno::EINVAL)?;
        if !in_order(plan, index as usize, offset, last) {
            return Err(Errno::EINVAL);
        }
        if count == 0 {
            return Ok((0, 0));
        }
        let bytes = count.checked_mul(4).ok_or(Errno::EINVAL)?;
        if bytes > parent.length || offset > parent.length - bytes {
            return Err(Errno::EINVAL);
        }
        let place = parent.place + offset;
        let source = parent.source.wrapping_add(offset);
        if !place.is_multiple_of(4) || !source.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        Ok((source, place))
    }
}

/// An earlier PTR object by its index in the offsets array (B208).
fn parent(plan: &Plan, index: u64) -> Option<Ptr> {
    match plan.objects.get(usize::try_from(index).ok()?)?.what {
        What::Ptr(ptr) => Some(ptr),
        _ => None,
    }
}

/// B211, B212: the parent is the last PTR or one of its ancestors, and offsets do not go backwards.
/// An object at data offset 0 never is a parent (B213).
fn in_order(plan: &Plan, wanted: usize, offset: u64, last: Option<(usize, u64)>) -> bool {
    let Some((mut at, mut least)) = last else { return false };
    if plan.objects.get(at).is_none_or(|object| object.offset == 0) {
        return false;
    }
    while at != wanted {
        let Some(Planned { what: What::Ptr(ptr), .. }) = plan.objects.get(at) else { return false };
        if ptr.flags & object::PTR_FLAG_HAS_PARENT == 0 {
            return false;
        }
        least = ptr.parent_offset + 8;
        at = ptr.parent as usize;
    }
    offset >= least
}

/// Reads descriptor arrays of a plan as far as their memory is there. The first missing piece is
/// returned; an unreadable one cuts the plan (-22, B217).
pub(crate) fn read_arrays(plan: &mut Plan, memory: UserMemory<'_>, pages: &dyn Pages) -> Option<(u64, u64)> {
    for index in 0..plan.objects.len() {
        let What::Fda { source, count, fds: fds @ None, .. } = &mut plan.objects[index].what else {
            continue;
        };
        // `count` is at most `max_files` here.
        let mut bytes = vec![0; *count as usize * 4];
        match memory.read(pages, *source, &mut bytes) {
            Ok(()) => {
                let words = bytes
                    .chunks_exact(4)
                    .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
                *fds = Some(words.collect());
            }
            // The end may lie beyond the last address, the part before `at` does not.
            Err(Absent::Missing(at)) => return Some((at, *count * 4 - (at - *source))),
            Err(Absent::Fault) => {
                plan.fail_at(index, Errno::EINVAL);
                return None;
            }
        }
    }
    let source = plan.refused_array?;
    match memory.read(pages, source, &mut [0; 4]) {
        Ok(()) => {}
        Err(Absent::Missing(at)) => return Some((at, 4 - (at - source))),
        Err(Absent::Fault) => plan.failure = Some(Errno::EINVAL),
    }
    plan.refused_array = None;
    None
}

/// The bytes of a flat object.
fn flat(kind: u32, flags: u32, low: u64, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(low.to_le_bytes());
    bytes.extend(cookie.to_le_bytes());
    bytes
}

/// An object as the receiver sees it.
pub(crate) struct Translated {
    pub bytes: Vec<u8>,
    pub held: Option<Held>,
}

impl Domain {
    /// Translates one object for the target; counts are taken for the buffer to hold.
    pub(crate) fn translate(
        &mut self,
        cx: &mut Cx<'_>,
        sending: &Sending,
        target: ProcId,
        base: u64,
        what: &What,
    ) -> Result<Translated, Errno> {
        match *what {
            What::Binder { strong, flags, ptr, cookie } => {
                let id = self.export_node(cx, sending, target, strong, flags, ptr, cookie)?;
                let kind = if strong { object::HANDLE } else { object::WEAK_HANDLE };
                let handle = self.refs.get(id).map_or(0, |entry| entry.handle);
                Ok(Translated {
                    bytes: flat(kind, flags, u64::from(handle), 0),
                    held: Some(Held::Ref { id, strong }),
                })
            }
            What::Handle { strong, flags, handle } => {
                self.pass_handle(cx, sending, target, strong, flags, handle)
            }
            What::Fd { pad_flags, cookie, .. } => {
                Ok(Translated { bytes: flat(object::FD, pad_flags, 0, cookie), held: None })
            }
            What::Ptr(ptr) => {
                let head = u64::from(object::PTR) | u64::from(ptr.flags) << 32;
                let address = base.wrapping_add(ptr.place);
                let words = [head, address, ptr.length, ptr.parent, ptr.parent_offset];
                Ok(Translated {
                    bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
                    held: None,
                })
            }
            What::Fda { raw, .. } => {
                Ok(Translated { bytes: raw.iter().flat_map(|word| word.to_le_bytes()).collect(), held: None })
            }
        }
    }

    /// B175 to B180.
    #[allow(clippy::too_many_arguments)]
    fn export_node(
        &mut self,
        cx: &mut Cx<'_>,
        sending: &Sending,
        target: ProcId,
        strong: bool,
        flags: u32,
        ptr: u64,
        cookie: u64,
    ) -> Result<RefId, Errno> {
        let proc = sending.sender.proc;
        let known = self.procs.get(&proc).and_then(|proc| proc.nodes.get(&ptr).copied());
        let node = match known {
            Some(node) => node,
            None => self.new_node(cx, proc, ptr, cookie, flags)?,
        };
        if self.nodes.get(node).is_none_or(|node| node.cookie != cookie) {
            return Err(Errno::EINVAL);
        }
        let result = self.inc_ref_for_node(cx, target, node, strong, Some(sending.thread));
        if result.is_err() {
            self.settle_node(cx, node);
        }
        result
    }

    /// Why an object cannot be looked up; the kernel does that before it asks whether it may be sent.
    pub(crate) fn unknown_object(&self, proc: ProcId, what: &What) -> Option<Errno> {
        let is_known = match *what {
            What::Handle { strong, handle, .. } => self.find_ref(proc, handle, strong).is_some(),
            What::Binder { ptr, cookie, .. } => {
                let node = self.procs.get(&proc).and_then(|proc| proc.nodes.get(&ptr));
                node.and_then(|id| self.nodes.get(*id)).is_none_or(|node| node.cookie == cookie)
            }
            _ => true,
        };
        (!is_known).then_some(Errno::EINVAL)
    }

    /// B182 to B188.
    fn pass_handle(
        &mut self,
        cx: &mut Cx<'_>,
        sending: &Sending,
        target: ProcId,
        strong: bool,
        flags: u32,
        handle: u32,
    ) -> Result<Translated, Errno> {
        let proc = sending.sender.proc;
        let id = self.find_ref(proc, handle, strong).ok_or(Errno::EINVAL)?;
        let node_id = self.refs.get(id).ok_or(Errno::EINVAL)?.node;
        let node = self.nodes.get(node_id).ok_or(Errno::EINVAL)?;
        if node.owner == Some(target) {
            let kind = if strong { object::BINDER } else { object::WEAK_BINDER };
            let bytes = flat(kind, flags, node.ptr, node.cookie);
            self.inc_node(node_id, strong, Side::Local, None)?;
            return Ok(Translated { bytes, held: Some(Held::Node { node: node_id, strong }) });
        }
        let id = self.inc_ref_for_node(cx, target, node_id, strong, None)?;
        let kind = if strong { object::HANDLE } else { object::WEAK_HANDLE };
        let handle = self.refs.get(id).map_or(0, |entry| entry.handle);
        Ok(Translated {
            bytes: flat(kind, flags, u64::from(handle), 0),
            held: Some(Held::Ref { id, strong }),
        })
    }
}
