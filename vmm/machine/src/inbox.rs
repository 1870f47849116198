//! What other threads want of the thread that runs the CPU.
//!
//! Nobody but that thread touches the guest. Others leave a wish here: *look at your devices'
//! input* ([`Handle::wake`]) or *end the run* ([`Handle::stop`]). In virtual clock mode a wake is
//! heard only at the moments that guest time defines (a slice's end, an idle CPU), so the guest
//! sees no trace of how the host scheduled its threads; otherwise the CPU is kicked at once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use engine::Kicker;

use crate::snapshot::{Header, Labels, SnapshotError};

/// Why another thread ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked.
    Asked,
    /// The run's wall time is over.
    Timeout,
}

/// Controls a running machine, from any thread. Clones control the same machine; a handle may
/// outlive it.
#[derive(Clone)]
pub struct Handle {
    inbox: Arc<Inbox>,
}

impl Handle {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Handle {
        Handle { inbox }
    }

    /// Says that a device has host input waiting. Push the input first.
    pub fn wake(&self) {
        self.inbox.post(|wishes| wishes.woken = true);
        if self.inbox.kick_on_wake {
            self.inbox.kicker.kick();
        }
    }

    /// Like [`wake`](Self::wake), for input that gives the guest something to do: it is busy
    /// ([`Activity`]) from the moment it gets it.
    pub fn begin_work(&self) {
        self.inbox.post(|wishes| wishes.work = true);
        self.wake();
    }

    /// Asks for a snapshot. It is taken at the next moment at which the guest may get input, and the answer
    /// comes then; it does not come ([`RecvError`](mpsc::RecvError)) where the run is over first. Not to
    /// be waited for on the thread that runs the guest.
    pub fn snapshot(&self, request: SnapshotRequest) -> mpsc::Receiver<Result<Header, SnapshotError>> {
        let (reply, answer) = mpsc::channel();
        self.inbox.post(|wishes| {
            // The sender of an answer that cannot come is dropped.
            if !wishes.over {
                wishes.snapshots.push_back(Wish { request, reply });
            }
        });
        if self.inbox.kick_on_wake {
            self.inbox.kicker.kick();
        }
        answer
    }

    /// Ends the run soon, as [`End::Stopped`](crate::End::Stopped).
    pub fn stop(&self) {
        self.end(StopReason::Asked);
    }

    /// Ends the run soon. The first reason counts.
    pub(crate) fn end(&self, reason: StopReason) {
        self.inbox.post(|wishes| {
            wishes.stop.get_or_insert(reason);
        });
        self.inbox.kicker.kick();
    }
}

/// The wishes of other threads, on the side of the CPU's thread.
pub(crate) struct Inbox {
    wishes: Mutex<Wishes>,
    changed: Condvar,
    kicker: Kicker,
    /// Whether a wake interrupts the CPU; false in virtual clock mode.
    kick_on_wake: bool,
}

/// A snapshot that is wanted.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// Where to.
    pub path: PathBuf,
    /// What is to be said of it in its header.
    pub labels: Labels,
    /// Whether the run ends then, as [`End::Stopped`](crate::End::Stopped).
    pub stop: bool,
}

/// A request and who waits for the answer.
pub(crate) struct Wish {
    pub request: SnapshotRequest,
    pub reply: mpsc::Sender<Result<Header, SnapshotError>>,
}

/// Host input waits in the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wake {
    /// It gives the guest something to do.
    pub work: bool,
}

#[derive(Default)]
struct Wishes {
    woken: bool,
    work: bool,
    stop: Option<StopReason>,
    snapshots: VecDeque<Wish>,
    /// Nobody listens any more.
    over: bool,
}

impl Inbox {
    pub(crate) fn new(kicker: Kicker, kick_on_wake: bool) -> Arc<Inbox> {
        Arc::new(Inbox { wishes: Mutex::default(), changed: Condvar::new(), kicker, kick_on_wake })
    }

    /// What host input there is, once for any number of wakes.
    pub(crate) fn take_wake(&self) -> Option<Wake> {
        let mut wishes = self.wishes();
        std::mem::take(&mut wishes.woken).then(|| Wake { work: std::mem::take(&mut wishes.work) })
    }

    /// The oldest request for a snapshot.
    pub(crate) fn take_snapshot(&self) -> Option<Wish> {
        self.wishes().snapshots.pop_front()
    }

    /// The machine is gone: who waits for a snapshot waits no longer.
    pub(crate) fn close(&self) {
        let mut wishes = self.wishes();
        wishes.over = true;
        wishes.snapshots.clear();
    }

    /// Why the run shall end, if it shall.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.wishes().stop
    }

    /// Sleeps until there is a wish, at most for `limit`. False: the limit passed, without one.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> bool {
        let nothing =
            |wishes: &mut Wishes| !wishes.woken && wishes.stop.is_none() && wishes.snapshots.is_empty();
        let wishes = self.wishes();
        // Poisoned or not, the wishes are plain values, and the caller looks at them itself.
        match limit {
            Some(limit) => {
                let waited = self.changed.wait_timeout_while(wishes, limit, nothing);
                !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
            }
            None => {
                drop(self.changed.wait_while(wishes, nothing));
                true
            }
        }
    }

    fn post(&self, wish: impl FnOnce(&mut Wishes)) {
        wish(&mut self.wishes());
        self.changed.notify_one();
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether somebody waits for the guest to get on with something, and whether the guest waits for
/// somebody: what an idle CPU with a virtual clock does about its next timer ([`Pace`]).
///
/// A guest starts *busy*, since booting is work. To keep runs repeatable, change that from a device
/// only, that is on the CPU's thread; other threads use [`Handle::begin_work`].
#[derive(Clone, Debug)]
pub struct Activity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    busy: AtomicBool,
    working: AtomicUsize,
    listening: AtomicUsize,
}

/// How guest time passes while the CPU is idle, with a virtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// To the next timer at once: the guest works, and what it waits for is in it.
    Jump,
    /// No faster than the host's: a command of the guest has its stdin open, and whoever is at the
    /// other end may say something at any moment. What the guest sees is the same as with `Jump`,
    /// unless something is said.
    Host,
    /// Not at all: nobody asked for anything, so a guest that waits for its next command must not run
    /// its clock ahead.
    Still,
}

impl Activity {
    /// Busy.
    pub fn new() -> Activity {
        let (busy, working, listening) = (true.into(), 0.into(), 0.into());
        Activity(Arc::new(Shared { busy, working, listening }))
    }

    /// Says whether the guest has something to do.
    pub fn set_busy(&self, busy: bool) {
        self.0.busy.store(busy, Ordering::SeqCst);
    }

    /// Whether the guest has something to do.
    pub fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::SeqCst) || self.0.working.load(Ordering::SeqCst) > 0
    }

    /// The guest has something to do until the result is dropped, whatever is said of it meanwhile.
    pub fn work(&self) -> Working {
        self.0.working.fetch_add(1, Ordering::SeqCst);
        Working(self.clone())
    }

    /// A command has its stdin open to the outside until the result is dropped; [wake](Handle::wake)
    /// the guest then. May be called from any thread: it changes how long a wait takes on the host,
    /// and nothing that the guest sees.
    pub fn listen(&self) -> Listening {
        self.0.listening.fetch_add(1, Ordering::SeqCst);
        Listening(self.clone())
    }

    /// How guest time passes while the CPU is idle.
    pub fn pace(&self) -> Pace {
        match (self.is_busy(), self.0.listening.load(Ordering::SeqCst)) {
            (false, _) => Pace::Still,
            (true, 0) => Pace::Jump,
            (true, _) => Pace::Host,
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Activity::new()
    }
}

/// See [`Activity::work`].
#[derive(Debug)]
pub struct Working(Activity);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

/// See [`Activity::listen`].
#[derive(Debug)]
pub struct Listening(Activity);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.0.listening.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use engine::{Config, Engine, Kind};

    /// An inbox of a CPU that nobody runs.
    pub(crate) fn inbox() -> Arc<Inbox> {
        let ram = guest_ram::allocate(&[(vm_memory::GuestAddress(0), 0x10000)]).unwrap();
        let engine = Engine::new(Kind::Soft, Arc::new(ram), Config::default()).unwrap();
        Inbox::new(engine.kicker(), false)
    }

    #[test]
    fn wakes_merge_and_are_taken_once() {
        let inbox = inbox();
        let handle = Handle::new(inbox.clone());
        assert_eq!(inbox.take_wake(), None);
        handle.wake();
        handle.clone().wake();
        // There is a wish, so this returns at once.
        inbox.wait(None);
        assert_eq!(inbox.take_wake(), Some(Wake { work: false }));
        assert_eq!(inbox.take_wake(), None);
        handle.begin_work();
        handle.wake();
        assert_eq!(inbox.take_wake(), Some(Wake { work: true }));
        handle.wake();
        assert_eq!(inbox.take_wake(), Some(Wake { work: false }));
    }

    #[test]
    fn the_first_reason_to_stop_counts_and_stays() {
        let inbox = inbox();
        let handle = Handle::new(inbox.clone());
        handle.end(StopReason::Timeout);
        handle.stop();
        inbox.wait(None);
        assert_eq!(inbox.stop_reason(), Some(StopReason::Timeout));
        assert_eq!(inbox.stop_reason(), Some(StopReason::Timeout));
    }

    #[test]
    fn a_waiting_thread_hears_a_wake_from_another() {
        let inbox = inbox();
        let handle = Handle::new(inbox.clone());
        let other = std::thread::spawn(move || handle.wake());
        inbox.wait(None);
        assert!(inbox.take_wake().is_some());
        other.join().unwrap();
    }

    #[test]
    fn a_wait_with_a_limit_ends_without_a_wish() {
        let inbox = inbox();
        assert!(!inbox.wait(Some(Duration::ZERO)));
        Handle::new(inbox.clone()).wake();
        assert!(inbox.wait(Some(Duration::ZERO)));
    }

    #[test]
    fn a_guest_is_busy_until_told_otherwise() {
        let activity = Activity::new();
        let device = activity.clone();
        assert_eq!(activity.pace(), Pace::Jump);
        let (one, other) = (device.listen(), device.listen());
        drop(one);
        assert_eq!(activity.pace(), Pace::Host);
        device.set_busy(false);
        assert_eq!(activity.pace(), Pace::Still);
        let work = device.work();
        assert_eq!(activity.pace(), Pace::Host);
        drop(work);
        assert_eq!(activity.pace(), Pace::Still);
        drop(other);
        device.set_busy(true);
        assert_eq!(activity.pace(), Pace::Jump);
    }
}
