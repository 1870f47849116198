//! What the guest's threads are called, for traces: told when it is new or has changed.

use std::collections::BTreeMap;

use binder::Domain;
use binder::ids::{GuestId, Pid, ProcId, Tid};
use binder::message::{Body, Message};
use serde::{Deserialize, Serialize};

use super::{Recorder, wire};

/// Threads that are remembered at most. A guest with more has them told again.
const MAX_NAMES: usize = 65536;

/// Threads that sent something lately, of which it is seen at once that nothing is new.
const RECENT: usize = 8;

/// What was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    told: BTreeMap<Tid, (Pid, [u8; 16])>,
    /// The last of each eighth of the threads: through which file it spoke, and what it was called.
    #[serde(skip)]
    recent: [Option<(Tid, ProcId, [u8; 16])>; RECENT],
}

impl Names {
    /// Tells all of them, to a recorder that was not there when they were new.
    pub(super) fn tell(&self, recorder: &mut dyn Recorder, domain: &mut Domain, guest: GuestId) {
        for (tid, (pid, name)) in &self.told {
            recorder.name(guest, *pid, *tid, *name);
            name_process(domain, guest, *pid, *tid, name);
        }
    }

    /// Looks at who sent `message`, whose header on the wire is `header`.
    pub(super) fn note(
        &mut self,
        recorder: &mut dyn Recorder,
        domain: &mut Domain,
        guest: GuestId,
        header: &wire::Header,
        message: &Message,
    ) {
        let Message { header: core, body } = message;
        let name = header.comm;
        // A file has one opener, so whoever sends through it again under the same name is known.
        let sender = Some((core.tid, ProcId(core.proc), name));
        let recent = core.tid.0 as usize % RECENT;
        if self.recent[recent] == sender && !matches!(body, Body::Open(_)) {
            return;
        }
        let pid = match body {
            Body::Open(open) => Some(open.tgid),
            Body::Ioctl(_) | Body::Poll => domain.pid(ProcId(core.proc)),
            _ => None,
        };
        // A foreign caller is of another process than the one that it speaks for.
        let (Some(pid), false, false) = (pid, core.foreign, core.tid == Tid(0) || name[0] == 0) else {
            return;
        };
        if self.told.len() >= MAX_NAMES {
            *self = Names::default();
        }
        self.recent[recent] = sender;
        if self.told.get(&core.tid) == Some(&(pid, name)) {
            return;
        }
        self.told.insert(core.tid, (pid, name));
        recorder.name(guest, pid, core.tid, name);
        name_process(domain, guest, pid, core.tid, &name);
    }
}

/// Rules of faults name processes.
fn name_process(domain: &mut Domain, guest: GuestId, pid: Pid, tid: Tid, name: &[u8; 16]) {
    if domain.faults().is_some() {
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        domain.process_named(guest, pid, pid.0 == tid.0, &String::from_utf8_lossy(&name[..length]));
    }
}
