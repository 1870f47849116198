//! Snapshots that clients ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use control::wire::{ErrorCode, Reply};
use machine::{Handle, Labels, SnapshotError, SnapshotRequest};

use super::events::Events;
use super::peer::Peer;
use crate::snapshot;

/// Saves the guest for clients. Clones do it together: one snapshot at a time.
#[derive(Clone)]
pub struct Saver {
    handle: Handle,
    labels: Labels,
    events: Events,
    /// A snapshot is under way.
    busy: Arc<AtomicBool>,
}

impl Saver {
    /// Saves the guest behind `handle`, with `labels` in the header, and tells `events`.
    pub fn new(handle: Handle, labels: Labels, events: Events) -> Saver {
        Saver { handle, labels, events, busy: Arc::default() }
    }

    /// Saves the guest to `path` and tells `peer`, from a thread of its own: the guest is saved when it is
    /// between two instructions next, which this thread need not be kept for.
    pub fn save(&self, path: PathBuf, peer: Arc<Peer>, request: u32) {
        if self.busy.swap(true, Ordering::SeqCst) {
            return peer.fail(request, ErrorCode::Busy, "the guest is being saved already");
        }
        let labels = self.labels.clone();
        let answer = self.handle.snapshot(SnapshotRequest { path: path.clone(), labels, stop: false });
        let (told, busy, events) = (peer.clone(), self.busy.clone(), self.events.clone());
        let wait = move || {
            let saved = answer.recv().unwrap_or(Err(SnapshotError::Ended));
            busy.store(false, Ordering::SeqCst);
            events.saved(&path, saved.as_ref().err());
            match saved {
                Ok(_) => told.reply(request, Reply::Done),
                Err(error) => {
                    let code = code(&error);
                    told.fail(request, code, snapshot::not_made(&path, error).chain());
                }
            }
        };
        if thread::Builder::new().name("snapshot".into()).spawn(wait).is_err() {
            self.busy.store(false, Ordering::SeqCst);
            peer.fail(request, ErrorCode::Failed, "there is no thread to wait for the snapshot");
        }
    }
}

fn code(error: &SnapshotError) -> ErrorCode {
    match error {
        SnapshotError::Ended => ErrorCode::GuestLost,
        SnapshotError::NotSaved(_) => ErrorCode::Unsupported,
        SnapshotError::Write(_) | SnapshotError::Destination(_) => ErrorCode::BadRequest,
        _ => ErrorCode::Failed,
    }
}
