//! Where the guest's serial console is shown and kept.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ci::capture::{Bounds, Capture};

use super::source::Source;
use super::standing::Voice;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// What is kept of a console: a boot is some 30 KiB, what a guest says last may be why it died.
const LOG: Bounds = Bounds { head: 8 << 20, tail: 1 << 20 };

/// The file of `--console-log`, if there is one. Clones share it: the machine writes, the run ends it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Option<Capture>>>);

impl Log {
    /// Begins the file.
    fn begin(&self, path: &Path) -> io::Result<()> {
        *self.lock() = Some(Capture::create(path, LOG)?);
        Ok(())
    }

    /// Ends the file. An error is of any write.
    pub fn finish(&self, args: &RunArgs) -> Result<(), Failure> {
        let (Some(kept), Some(path)) = (self.lock().take(), &args.console_log) else { return Ok(()) };
        kept.finish().map(drop).map_err(|error| {
            Failure::because(
                Code::Internal,
                format!("cannot write the console log {}", path.display()),
                error,
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Capture>> {
        // Bytes and counts: valid whatever panicked while they were held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the console's output goes to, `log` among it. Without an agent it is all that the guest has.
pub fn output(
    args: &RunArgs,
    source: &Source,
    voice: &Voice,
    log: &Log,
) -> Result<Box<dyn Write + Send>, Failure> {
    let shown: Box<dyn Write + Send> = match (source.has_agent(), args.console) {
        (false, _) if voice.is_alone() => Box::new(io::stdout()),
        (false, _) | (true, true) => voice.console(),
        (true, false) => Box::new(io::sink()),
    };
    let Some(path) = &args.console_log else { return Ok(shown) };
    log.begin(path).map_err(|error| {
        Failure::because(Code::Usage, format!("cannot make the console log {}", path.display()), error)
    })?;
    Ok(Box::new(Both { shown, kept: log.clone() }))
}

/// Writes to both.
struct Both {
    shown: Box<dyn Write + Send>,
    kept: Log,
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.shown.write(bytes)?;
        if let Some(kept) = &mut *self.kept.lock() {
            kept.take(&bytes[..taken]);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.flush()
    }
}
