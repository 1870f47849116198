//! What the process of a running guest may still do: `vmm/THREATS.md`. That the filter refuses what it should, a test
//! beside it shows (`vmm/src/run/confine.rs`); here it is that a guest's process has it.

use std::fs;
use std::io;

use rustix::io::Errno;
use tests::serving::Serving;

/// What the host's kernel says of each thread of a process under `key`. Threads may end while this reads (one that
/// served a client of the control socket does): of those nothing is said.
fn of_each_thread(pid: u32, key: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let status =
        threads.filter_map(|thread| unless_ended(fs::read_to_string(thread.ok()?.path().join("status"))));
    status
        .map(|status| {
            let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            value.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
        })
        .collect()
}

/// The text of a thread's file; none for a thread that ended (`ENOENT` as it is opened, `ESRCH` as it is read).
fn unless_ended(text: io::Result<String>) -> Option<String> {
    match text {
        Ok(text) => Some(text),
        Err(error) if [Errno::NOENT, Errno::SRCH].map(Some).contains(&Errno::from_io_error(&error)) => None,
        Err(error) => panic!("a thread's status: {error}"),
    }
}

/// The soft and the hard limit of that name.
fn limits(pid: u32, name: &str) -> [u64; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let values = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit of that name");
    let mut values = values.split_whitespace().map(|value| value.parse().expect("a number"));
    [values.next(), values.next()].map(|value| value.expect("two limits"))
}

#[test]
fn every_thread_of_a_guest_is_confined() {
    let guest = Serving::of("minimal", "g1", ["--memory", "256M", "--sandbox", "on"]);
    let pid = guest.pid();
    let filtered = of_each_thread(pid, "Seccomp");
    assert!(filtered.len() > 2, "{filtered:?}");
    assert!(filtered.iter().all(|mode| mode == "2"), "{filtered:?}");
    let denied = of_each_thread(pid, "NoNewPrivs");
    assert!(denied.iter().all(|set| set == "1"), "{denied:?}");
    assert_eq!(limits(pid, "Max core file size"), [0, 0]);
    assert!(limits(pid, "Max open files")[1] <= 4096);
    assert!(limits(pid, "Max address space")[1] <= (256 << 20) + (8 << 30));
    assert_eq!(guest.stop(), 0);
}

#[test]
fn a_guest_without_a_sandbox_shows_that_the_first_test_can_fail() {
    let guest = Serving::of("minimal", "g1", ["--sandbox", "off"]);
    let own = of_each_thread(std::process::id(), "Seccomp");
    assert_eq!(of_each_thread(guest.pid(), "Seccomp")[0], own[0], "as it was inherited");
    assert_eq!(guest.stop(), 0);
}
