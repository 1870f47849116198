//! The user's terminal in raw mode, and back.
//!
//! A guest's console or shell wants every key as it is typed, Ctrl-C included. Whatever happens
//! then, the terminal must be as it was when this process ends: [`RawTerminal`] restores it when
//! dropped (so also when a panic unwinds), and handlers of the signals that end a process restore
//! it before the process dies of them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use vmm_sys_util::signal::register_signal_handler;

/// Signals that end a process, by request or by its own fault.
const ENDING: [c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
];

/// The terminal that a signal handler restores. A process has one terminal, hence a static.
static SAVED: AtomicPtr<Saved> = AtomicPtr::new(ptr::null_mut());

struct Saved {
    terminal: c_int,
    settings: libc::termios,
}

/// A terminal in raw mode. Dropping it restores the terminal.
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Puts the terminal behind `fd` into raw mode; `None` where `fd` is no terminal.
    pub fn enter(fd: impl AsFd) -> io::Result<Option<RawTerminal>> {
        if !isatty(&fd) {
            return Ok(None);
        }
        let terminal = fd.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        restore_on_signals(&terminal)?;

        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Flush, &raw)?;
        Ok(Some(RawTerminal { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Leaked, not freed: a handler may be reading it.
        SAVED.store(ptr::null_mut(), Ordering::SeqCst);
        // A terminal that went away needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn restore_on_signals(terminal: &OwnedFd) -> io::Result<()> {
    let mut settings = std::mem::MaybeUninit::uninit();
    // SAFETY: `settings` is room for one `termios`.
    if unsafe { libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `tcgetattr` succeeded, so it is filled in.
    let settings = unsafe { settings.assume_init() };
    let saved = Box::new(Saved { terminal: terminal.as_raw_fd(), settings });
    SAVED.store(Box::into_raw(saved), Ordering::SeqCst);
    for signal in ENDING {
        register_signal_handler(signal, restore_and_die).map_err(io::Error::from)?;
    }
    Ok(())
}

extern "C" fn restore_and_die(signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    let saved = SAVED.load(Ordering::SeqCst);
    // SAFETY: what was stored is never freed. `tcsetattr`, `signal` and `raise` may be called in a
    // signal handler (POSIX, "Async-signal-safe functions"). The signal is blocked until the
    // handler returns; then its default action ends the process.
    unsafe {
        if let Some(saved) = saved.as_ref() {
            libc::tcsetattr(saved.terminal, libc::TCSANOW, &saved.settings);
        }
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    #[test]
    fn a_terminal_is_raw_while_the_value_lives() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let modes = || tcgetattr(&terminal).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));

        let raw = RawTerminal::enter(&terminal).unwrap().unwrap();
        assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        drop(raw);
        assert_eq!(modes(), before);
    }

    #[test]
    fn what_is_no_terminal_is_left_alone() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(RawTerminal::enter(&reader).unwrap().is_none());
    }
}
