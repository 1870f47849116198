//! Who waits for the guest to be ready, or for the run to end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::wire::{ErrorCode, Reply};

use super::peer::Peer;

/// Clients that wait, and what happened already. Clones share it.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ready: Progress,
    for_ready: Vec<Waiter>,
    for_end: Vec<Waiter>,
    ended: Option<(serde_json::Value, u8)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Booting,
    Ready,
    Lost,
}

struct Waiter {
    peer: Arc<Peer>,
    request: u32,
}

impl Watchers {
    /// The guest takes commands.
    pub fn ready(&self) {
        let mut state = self.lock();
        state.ready = Progress::Ready;
        for waiter in std::mem::take(&mut state.for_ready) {
            waiter.peer.reply(waiter.request, Reply::Done);
        }
    }

    /// The guest will take no commands any more.
    pub fn lost(&self) {
        let mut state = self.lock();
        state.ready = Progress::Lost;
        for waiter in std::mem::take(&mut state.for_ready) {
            waiter.peer.fail(waiter.request, ErrorCode::GuestLost, LOST);
        }
    }

    /// The run is over, and this is how.
    pub fn ended(&self, status: serde_json::Value, exit_code: u8) {
        self.lost();
        let mut state = self.lock();
        for waiter in std::mem::take(&mut state.for_end) {
            waiter.peer.reply(waiter.request, Reply::Ended { status: status.clone(), exit_code });
        }
        state.ended = Some((status, exit_code));
    }

    /// Tells `peer` when the guest takes commands.
    pub fn wait_ready(&self, peer: &Arc<Peer>, request: u32) {
        let mut state = self.lock();
        match state.ready {
            Progress::Booting => state.for_ready.push(Waiter { peer: peer.clone(), request }),
            Progress::Ready => peer.reply(request, Reply::Done),
            Progress::Lost => peer.fail(request, ErrorCode::GuestLost, LOST),
        }
    }

    /// Tells `peer` when the run is over.
    pub fn wait_end(&self, peer: &Arc<Peer>, request: u32) {
        let mut state = self.lock();
        match state.ended.clone() {
            Some((status, exit_code)) => peer.reply(request, Reply::Ended { status, exit_code }),
            None => state.for_end.push(Waiter { peer: peer.clone(), request }),
        }
    }

    /// `peer` does not wait any more: for `request`, or for anything.
    pub fn forget(&self, peer: &Arc<Peer>, request: Option<u32>) {
        let mut state = self.lock();
        let State { for_ready, for_end, .. } = &mut *state;
        for waiters in [for_ready, for_end] {
            waiters.retain(|waiter| {
                !Arc::ptr_eq(&waiter.peer, peer) || request.is_some_and(|request| request != waiter.request)
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LOST: &str = "the guest takes no commands any more";
