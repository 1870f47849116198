//! What the guest printed last, and whether its kernel said that it died.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Lines kept for a report: what a kernel prints of a panic fits.
const LINES: usize = 60;
/// Bytes kept of one line; what follows is left out.
const LINE_BYTES: usize = 512;

/// What Linux prints before the reason of a panic.
const PANIC: &str = "Kernel panic - not syncing: ";
/// What Linux prints when the report of a panic is complete and it will not reboot.
const PANIC_END: &str = "end Kernel panic - not syncing";

/// Remembers the last lines of a guest's consoles, and recognises a kernel panic in them.
///
/// Clones share one memory. Everything the guest prints has to pass through [`tee`](Self::tee).
#[derive(Clone, Default)]
pub struct ConsoleLog {
    state: Arc<Mutex<State>>,
    /// Called when a panic's report is complete.
    on_panic: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// The line that each tee has begun.
    partial: Vec<Vec<u8>>,
    panic: Option<Panic>,
}

/// A kernel panic, as far as it was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// The kernel's reason.
    pub message: String,
    /// The whole report is there: the kernel will do nothing more.
    pub complete: bool,
}

impl ConsoleLog {
    /// An empty log.
    pub fn new() -> ConsoleLog {
        ConsoleLog::default()
    }

    /// A writer that passes everything on to `sink`, and is listened to. An error of `sink` (its
    /// reader went away) is ignored: the guest does not depend on being watched.
    pub fn tee(&self, sink: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        let mut state = self.state();
        state.partial.push(Vec::new());
        Box::new(Tee { log: self.clone(), index: state.partial.len() - 1, sink })
    }

    /// The last lines, oldest first, with those that are not finished.
    pub fn last_lines(&self) -> Vec<String> {
        let state = self.state();
        let unfinished = state.partial.iter().filter(|line| !line.is_empty()).map(|line| text(line));
        state.lines.iter().cloned().chain(unfinished).collect()
    }

    /// The panic that the kernel reported, if it did.
    pub fn panic(&self) -> Option<Panic> {
        self.state().panic.clone()
    }

    /// Whom to tell when a panic's report is complete. The first caller wins.
    pub(crate) fn on_panic(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_panic.set(tell);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Lines are valid whatever panicked while they were held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn take(&self, index: usize, bytes: &[u8]) {
        let mut state = self.state();
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut state.partial[index]);
                    state.end_line(text(&line));
                }
                _ if state.partial[index].len() < LINE_BYTES => state.partial[index].push(byte),
                _ => {}
            }
        }
        let complete = state.panic.as_ref().is_some_and(|panic| panic.complete);
        drop(state);
        if let (true, Some(tell)) = (complete, self.on_panic.get()) {
            tell();
        }
    }
}

impl State {
    fn end_line(&mut self, line: String) {
        match &mut self.panic {
            Some(panic) if line.contains(PANIC_END) => panic.complete = true,
            None => {
                if let Some((_, message)) = line.split_once(PANIC) {
                    self.panic = Some(Panic { message: message.to_owned(), complete: false });
                }
            }
            Some(_) => {}
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// A line as text: what is no UTF-8 is replaced, and control characters (colours, carriage
/// returns) are dropped, so that a report cannot rewrite the terminal it is shown on.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|char| *char == '\t' || !char.is_control()).collect()
}

struct Tee {
    log: ConsoleLog,
    index: usize,
    sink: Box<dyn Write + Send>,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.sink.write_all(bytes);
        self.log.take(self.index, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.sink.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn print(tee: &mut dyn Write, text: &str) {
        tee.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_are_kept_and_bounded() {
        let log = ConsoleLog::new();
        let mut tee = log.tee(Box::new(io::sink()));
        for number in 0..LINES + 3 {
            print(&mut tee, &format!("line {number}\r\n"));
        }
        print(&mut tee, &"x".repeat(LINE_BYTES * 3));
        let lines = log.last_lines();
        assert_eq!(lines.len(), LINES + 1);
        assert_eq!(lines[0], "line 3");
        assert_eq!(lines[LINES].len(), LINE_BYTES);
    }

    #[test]
    fn two_consoles_do_not_mix_their_lines() {
        let log = ConsoleLog::new();
        let (mut serial, mut virtio) = (log.tee(Box::new(io::sink())), log.tee(Box::new(io::sink())));
        print(&mut serial, "ser");
        print(&mut virtio, "virtio\n");
        print(&mut serial, "ial\x1b[31m\n");
        assert_eq!(log.last_lines(), ["virtio", "serial[31m"]);
    }

    #[test]
    fn a_panic_is_recognised_and_told_once_complete() {
        let log = ConsoleLog::new();
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        log.on_panic(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut tee = log.tee(Box::new(io::sink()));
        print(&mut tee, "[    1.0] Kernel panic - not syncing: No working init found.\n");
        print(&mut tee, "[    1.0] CPU: 0 PID: 1\n");
        let expected = Panic { message: "No working init found.".into(), complete: false };
        assert_eq!((log.panic(), told.load(Ordering::Relaxed)), (Some(expected.clone()), 0));
        print(&mut tee, "[    1.0] ---[ end Kernel panic - not syncing: No working init found. ]---\n");
        assert_eq!(log.panic(), Some(Panic { complete: true, ..expected }));
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_sink_that_fails_does_not_disturb_the_guest() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let log = ConsoleLog::new();
        print(&mut log.tee(Box::new(Broken)), "hello\n");
        assert_eq!(log.last_lines(), ["hello"]);
    }
}
