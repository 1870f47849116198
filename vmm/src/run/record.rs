//! Where the binder device's trace events go: a file, a tally for the summary, both, or nowhere.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use binder::GuestId;
use binder::trace::TraceEvent;
use binder_trace::Stamped;
use binder_trace::recording::{RecordingError, Writer};
use binder_trace::tally::Tally;
use devices::virtio::binder::Recorder;
use engine::GuestClock;

/// What is recorded of a run. Clones share it: the device fills one, the end of the run reads another.
#[derive(Clone)]
pub struct Recording {
    shared: Arc<Mutex<Shared>>,
    clock: GuestClock,
    enabled: bool,
}

struct Shared {
    writer: Option<Writer<File>>,
    tally: Option<Tally>,
}

impl Recording {
    /// Records to `writer`, and counts if `count`.
    pub fn new(clock: GuestClock, writer: Option<Writer<File>>, count: bool) -> Recording {
        let enabled = writer.is_some() || count;
        let shared = Shared { writer, tally: count.then(Tally::default) };
        Recording { shared: Arc::new(Mutex::new(shared)), clock, enabled }
    }

    /// Writes what is buffered, and gives the counts.
    pub fn finish(&self) -> Result<Option<Tally>, RecordingError> {
        let mut shared = self.lock();
        if let Some(writer) = &mut shared.writer {
            writer.finish()?;
        }
        Ok(shared.tally.clone())
    }

    /// Writes what is buffered, for a run that did not end. Does not wait for it: one that sits in a
    /// write of the recording holds it.
    pub fn save(&self) {
        let mut shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(writer) = &mut shared.writer {
            // The run failed already, and says so.
            let _ = writer.finish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Recorder for Recording {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn enabled(&self) -> bool {
        self.enabled
    }

    fn record(&mut self, at: Duration, guest: GuestId, event: TraceEvent) {
        let mut shared = self.lock();
        if let Some(tally) = &mut shared.tally {
            tally.event(&event);
        }
        if let Some(writer) = &mut shared.writer {
            writer.record(&Stamped { at, guest, event });
        }
    }
}
