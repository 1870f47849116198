//! A terminal of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A pseudo-terminal of this size: the side of whoever looks and types, and the programs' side.
pub fn open(rows: u16, columns: u16) -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).expect("it has a size");
    let name = ptsname(&master, Vec::new()).expect("it has a name");
    let path = name.to_str().expect("a path in /dev");
    let slave = File::options().read(true).write(true).open(path).expect("it can be opened");
    (File::from(master), slave)
}

/// Whoever sits at a terminal: sees its screen, and types.
pub struct Viewer {
    master: File,
    screen: vt100::Parser,
}

impl Viewer {
    /// A terminal of this size, and the programs' side of it.
    pub fn open(rows: u16, columns: u16) -> (Viewer, File) {
        let (master, slave) = open(rows, columns);
        let size = |length| NonZero::new(length).expect("a terminal that can show something");
        (Viewer { master, screen: vt100::Parser::new(size(rows), size(columns), 0) }, slave)
    }

    /// Looks on until `wanted` stands somewhere on the screen.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: &str) {
        let until = Instant::now() + crate::LIMIT;
        while !self.screen.screen().contents().contains(wanted) {
            assert!(Instant::now() < until, "no {wanted:?} on\n{}", self.screen.screen().contents());
            let a_moment = Timespec::try_from(Duration::from_millis(100)).expect("a short time");
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&a_moment)).expect("a terminal") > 0
            {
                let mut buffer = [0; 4096];
                let length = self.master.read(&mut buffer).expect("programs are at the terminal");
                self.screen.process(&buffer[..length]);
            }
        }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("programs are at the terminal");
    }
}
