//! The event thread: the run's wall-clock limit, and bytes typed for the guest.
//!
//! It touches no guest: input goes into a device's queue, and the thread that runs the CPU is
//! told ([`Handle::wake`]).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use devices::input::InputQueue;
use engine::Kicker;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::error::MachineError;
use crate::inbox::{Handle, StopReason};

/// How long input waits before it is offered to a full queue again. A guest that does not read
/// its console does not get faster by being asked more often.
const RETRY: Duration = Duration::from_millis(20);
/// How often a CPU that sleeps in the kernel is asked whether it can wake at all.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes read at a time.
const CHUNK: usize = 4096;

/// Input of a console.
pub(crate) struct ConsoleSource {
    /// Read until its end.
    pub fd: OwnedFd,
    /// Where the bytes go.
    pub queue: InputQueue,
}

/// The thread. Dropping it stops and joins it.
pub(crate) struct EventThread {
    quit: EventFd,
    thread: Option<JoinHandle<()>>,
}

type Subscriber = Box<dyn MutEventSubscriber + Send>;

impl EventThread {
    /// Starts to listen. After `timeout` the run behind `handle` ends; `heartbeat` is kicked once a
    /// second.
    pub(crate) fn start(
        handle: Handle,
        timeout: Option<Duration>,
        source: Option<ConsoleSource>,
        heartbeat: Option<Kicker>,
    ) -> Result<EventThread, MachineError> {
        let failed = |source| MachineError::EventLoop { source };
        let quit = EventFd::new(EFD_NONBLOCK).map_err(failed)?;
        let mut subscribers: Vec<Subscriber> = Vec::new();
        if let Some(timeout) = timeout {
            subscribers.push(Box::new(Timeout::new(timeout, handle.clone()).map_err(failed)?));
        }
        if let Some(kicker) = heartbeat {
            subscribers.push(Box::new(Heartbeat::new(kicker).map_err(failed)?));
        }
        if let Some(source) = source {
            subscribers.push(Box::new(ConsoleInput::new(source, handle).map_err(failed)?));
        }

        let mut manager = EventManager::<Subscriber>::new()
            .map_err(|error| failed(io::Error::other(format!("{error:?}"))))?;
        let stopper = quit.try_clone().map_err(failed)?;
        let thread = thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                for subscriber in subscribers {
                    manager.add_subscriber(subscriber);
                }
                manager.add_subscriber(Box::new(Quit(stopper.as_raw_fd())));
                // Ends with the first error of epoll itself or when `quit` is written.
                while stopper.read().is_err() && manager.run().is_ok() {}
            })
            .map_err(failed)?;
        Ok(EventThread { quit, thread: Some(thread) })
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        let _ = self.quit.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes `EventManager::run` return; the thread's loop reads the event itself.
struct Quit(i32);

impl MutEventSubscriber for Quit {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new_raw(self.0, EventSet::IN));
    }
}

/// Ends the run when its time is over.
struct Timeout {
    timer: TimerFd,
    handle: Handle,
}

impl Timeout {
    fn new(after: Duration, handle: Handle) -> io::Result<Timeout> {
        let mut timer = TimerFd::new()?;
        // A timer of zero would be none.
        timer.reset(after.max(Duration::from_nanos(1)), None)?;
        Ok(Timeout { timer, handle })
    }
}

impl MutEventSubscriber for Timeout {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.handle.end(StopReason::Timeout);
        let _ = ops.remove(events);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.timer, EventSet::IN));
    }
}

/// Kicks a CPU regularly: KVM does not say when a guest halted for good, unless it is asked.
struct Heartbeat {
    timer: TimerFd,
    kicker: Kicker,
}

impl Heartbeat {
    fn new(kicker: Kicker) -> io::Result<Heartbeat> {
        let mut timer = TimerFd::new()?;
        timer.reset(HEARTBEAT, Some(HEARTBEAT))?;
        Ok(Heartbeat { timer, kicker })
    }
}

impl MutEventSubscriber for Heartbeat {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // Ready, so this only takes the tick.
        let _ = self.timer.wait();
        self.kicker.kick();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.timer, EventSet::IN));
    }
}

/// Moves bytes from a file descriptor into a device's queue.
struct ConsoleInput {
    source: ConsoleSource,
    handle: Handle,
    /// Read, but not taken by the queue yet.
    pending: Vec<u8>,
    /// Ticks while the source is not waited for.
    retry: TimerFd,
    /// Files and `/dev/null` cannot be waited for: they are always ready.
    pollable: bool,
}

/// What reading more came to.
enum Progress {
    /// Everything was delivered; wait for more.
    Drained,
    /// The queue is full, or there is more at once; come again.
    Again,
    /// There will be no more.
    Ended,
}

impl ConsoleInput {
    fn new(source: ConsoleSource, handle: Handle) -> io::Result<ConsoleInput> {
        Ok(ConsoleInput { source, handle, pending: Vec::new(), retry: TimerFd::new()?, pollable: true })
    }

    fn pump(&mut self) -> Progress {
        if self.pending.is_empty() {
            let mut chunk = [0; CHUNK];
            match rustix::io::read(&self.source.fd, &mut chunk) {
                Ok(0) => return Progress::Ended,
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Drained,
                Err(_) => return Progress::Ended,
            }
        }
        let taken = self.source.queue.push(&self.pending);
        self.pending.drain(..taken);
        if taken > 0 {
            self.handle.wake();
        }
        if self.pending.is_empty() && self.pollable { Progress::Drained } else { Progress::Again }
    }

    fn source_events(&self) -> Events {
        Events::new(&self.source.fd, EventSet::IN)
    }
}

impl MutEventSubscriber for ConsoleInput {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.retry.as_raw_fd() {
            // Ready, so this only takes the tick.
            let _ = self.retry.wait();
        }
        match self.pump() {
            Progress::Drained => {
                let _ = ops.add(self.source_events());
            }
            Progress::Again => {
                let _ = ops.remove(self.source_events());
                let _ = self.retry.reset(RETRY, None);
            }
            Progress::Ended => {
                let _ = ops.remove(self.source_events());
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.retry, EventSet::IN));
        self.pollable = ops.add(self.source_events()).is_ok();
        if !self.pollable {
            let _ = self.retry.reset(Duration::from_nanos(1), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::tests::inbox;
    use std::io::Write;
    use std::sync::Arc;

    fn source(fd: impl Into<OwnedFd>) -> (Option<ConsoleSource>, InputQueue) {
        let queue = InputQueue::new();
        (Some(ConsoleSource { fd: fd.into(), queue: queue.clone() }), queue)
    }

    /// Sleeps until the event thread delivered something, as the CPU's thread does.
    fn next_wake(inbox: &crate::inbox::Inbox) {
        inbox.wait(None);
        assert!(inbox.take_wake().is_some());
    }

    #[test]
    fn typed_bytes_arrive_and_wake_the_guest() {
        let inbox = inbox();
        let (reader, mut writer) = io::pipe().unwrap();
        let (source, queue) = source(reader);
        let events = EventThread::start(Handle::new(inbox.clone()), None, source, None).unwrap();
        for typed in [&b"a"[..], b"bcd"] {
            writer.write_all(typed).unwrap();
            next_wake(&inbox);
        }
        // Four bytes less fit.
        let more = vec![0; InputQueue::CAPACITY];
        assert_eq!(queue.push(&more), InputQueue::CAPACITY - 4);
        drop(writer);
        drop(events);
        // Once it is joined nobody else holds the inbox.
        assert_eq!(Arc::strong_count(&inbox), 1);
    }

    #[test]
    fn the_time_limit_ends_the_run() {
        let inbox = inbox();
        let _events =
            EventThread::start(Handle::new(inbox.clone()), Some(Duration::ZERO), None, None).unwrap();
        inbox.wait(None);
        assert_eq!(inbox.stop_reason(), Some(StopReason::Timeout));
    }
}
