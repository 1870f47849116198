//! What is found out about a guest whose test did not end.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::guest::Guest;

/// What the guest is asked, and for how long.
const QUESTIONS: [(&str, &str, Duration); 3] = [
    ("processes", "ps -o pid,ppid,stat,vsz,args 2>/dev/null || ps", Duration::from_secs(5)),
    (
        "binder",
        "for f in /dev/binderfs/binder_logs/state /dev/binderfs/binder_logs/transactions \
         /sys/kernel/debug/binder/state /sys/kernel/debug/binder/transactions; do \
         [ -r $f ] && { echo \"== $f\"; cat $f; }; done; true",
        Duration::from_secs(5),
    ),
    ("tasks", "echo t > /proc/sysrq-trigger; dmesg | tail -c 200000", Duration::from_secs(10)),
];

/// The most bytes of one answer.
const MOST: usize = 256 << 10;

/// Asks the guest what it is doing, and writes the answers to `evidence.txt`. Gives what could not be
/// found out.
pub fn of_hang(guest: &mut Guest, folder: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    let mut file = match File::create(folder.join("evidence.txt")) {
        Ok(file) => file,
        Err(error) => return vec![format!("no evidence could be written: {error}")],
    };
    for (what, script, limit) in QUESTIONS {
        match guest.ask(&["/bin/sh", "-c", script], Vec::new(), limit, MOST) {
            Ok(answer) => {
                let _ = writeln!(file, "==== {what}");
                let _ = file.write_all(&answer.stdout).and_then(|()| file.write_all(&answer.stderr));
            }
            Err(_) => notes.push(format!("the guest does not answer when asked for its {what}")),
        }
    }
    notes
}

/// The last events of the recording, in words, as `trace-tail.txt`.
pub fn of_trace(bindervm: &Path, trace: &Path, folder: &Path) {
    const TAIL: usize = 128 << 10;
    if !trace.is_file() {
        return;
    }
    let mut command = Command::new(bindervm);
    command.arg("trace").arg(trace).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return };
    let mut tail = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        let until = Instant::now() + Duration::from_secs(20);
        let mut buffer = vec![0; TAIL];
        while Instant::now() < until {
            match stdout.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    tail.extend_from_slice(&buffer[..read]);
                    tail.drain(..tail.len().saturating_sub(TAIL));
                }
            }
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    if tail.is_empty() {
        return;
    }
    // From the first whole line.
    let begin = if tail.len() == TAIL {
        tail.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1)
    } else {
        0
    };
    let _ = std::fs::write(folder.join("trace-tail.txt"), &tail[begin..]);
}
