//! Where the guest's serial console is shown and kept.

use std::io::{self, Write};

use ci::capture::{Bounds, Capture};

use super::source::Source;
use super::standing::Voice;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// What is kept of a console: a boot is some 30 KiB, what a guest says last may be why it died.
const LOG: Bounds = Bounds { head: 8 << 20, tail: 1 << 20 };

/// What the console's output goes to. Without an agent it is all that the guest has.
pub fn output(args: &RunArgs, source: &Source, voice: &Voice) -> Result<Box<dyn Write + Send>, Failure> {
    let shown: Box<dyn Write + Send> = match (source.has_agent(), args.console) {
        (false, _) if voice.is_alone() => Box::new(io::stdout()),
        (false, _) | (true, true) => voice.console(),
        (true, false) => Box::new(io::sink()),
    };
    let Some(path) = &args.console_log else { return Ok(shown) };
    let kept = Capture::create(path, LOG).map_err(|error| {
        Failure::because(Code::Usage, format!("cannot make the console log {}", path.display()), error)
    })?;
    Ok(Box::new(Both { shown, kept }))
}

/// Writes to both.
struct Both {
    shown: Box<dyn Write + Send>,
    kept: Capture,
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.shown.write(bytes)?;
        self.kept.take(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.flush()
    }
}
