//! The terminal in raw mode, and back again whatever happens.

use std::io::IsTerminal;
use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, Termios, Winsize};

/// The settings to go back to. One process has one terminal, so this is one place.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// True where a person sits at both ends: stdin and stdout are terminals.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Ends a line on stderr: a terminal in raw mode goes down, but not back to the left, by itself.
pub fn newline() -> &'static str {
    let is_raw = SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_some();
    if is_raw && std::io::stderr().is_terminal() { "\r\n" } else { "\n" }
}

/// Size of the terminal in characters, if stdout is one.
pub fn size() -> Option<Winsize> {
    termios::tcgetwinsize(std::io::stdout()).ok()
}

/// Raw mode until it is dropped. A panic restores the terminal too, before its message is printed.
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal of stdin into raw mode.
    pub fn enter() -> rustix::io::Result<RawMode> {
        let before = termios::tcgetattr(std::io::stdin())?;
        *SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(before.clone());
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            default_hook(info);
        }));
        let mut raw = before;
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the settings that [`RawMode::enter`] found, if it ran. May be called at any time.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    if let Some(saved) = saved {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &saved);
    }
}
