//! Several guests at once: what happens in one is not felt, and not found, in another.
//!
//! The guests are alike to the pid, so whatever crossed would hit something.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use control::wire::{Metrics, Stream};
use control::{ClientError, Event, ExecRequest, ExitStatus, Running};
use tests::LIMIT;
use tests::serving::Serving;

/// A guest whose binder traffic consists of a token that no other guest was told.
struct Canary {
    guest: Serving,
    token: String,
    calls: Running,
}

impl Canary {
    fn boot(name: &str) -> Canary {
        let guest = Serving::of("minimal", name, []);
        let mut random = [0; 24];
        File::open("/dev/urandom").unwrap().read_exact_at(&mut random, 0).unwrap();
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let argv = ["/bin/conformance", "canary", &token].map(str::to_owned).to_vec();
        let calls = guest.client().exec(ExecRequest { argv, stdin: true, ..ExecRequest::default() }).unwrap();
        Canary { guest, token, calls }
    }

    /// Plays a batch of calls; every byte, sender and notice of it is as if the guest were alone.
    fn sings(&mut self) {
        self.calls.input().write_all(b"\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            match self.calls.next(Some(LIMIT)).unwrap() {
                Event::Output(Stream::Stdout | Stream::Stderr, bytes) => said.extend(bytes),
                Event::Started(_) => {}
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&said)),
            }
        }
        assert_eq!(String::from_utf8_lossy(&said), "ok\n");
    }

    /// How often `token` stands in the memory of the process that runs this guest: all of its RAM, and
    /// all that the host keeps of it.
    fn memory_has(&self, token: &str) -> usize {
        let process = format!("/proc/{}", self.guest.pid());
        let memory = File::open(format!("{process}/mem")).unwrap();
        let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
        let finder = memchr::memmem::Finder::new(token.as_bytes());
        let mut chunk = vec![0; 4 << 20];
        let mut found = 0;
        for map in maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().starts_with("rw")) {
            let (start, rest) = map.split_once('-').unwrap();
            let end = rest.split_once(' ').unwrap().0;
            let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut at = start;
            while at < end {
                let length = chunk.len().min((end - at) as usize);
                // A page that was never touched reads as zeros; one that went away meanwhile is no error.
                let length = memory.read_at(&mut chunk[..length], at).unwrap_or(0);
                if length == 0 {
                    break;
                }
                found += finder.find_iter(&chunk[..length]).count();
                // A token that the next chunk begins in the middle of is found there whole.
                let overlap = if at + (length as u64) < end { token.len() - 1 } else { 0 };
                at += (length - overlap) as u64;
            }
        }
        found
    }
}

#[test]
fn no_byte_of_a_guest_is_in_the_memory_of_another() {
    let (mut one, mut other) = (Canary::boot("one"), Canary::boot("other"));
    for _ in 0..3 {
        one.sings();
        other.sings();
    }
    for (own, foreign) in [(&one, &other), (&other, &one)] {
        assert!(own.memory_has(&own.token) > 100, "the search finds what is there");
        assert_eq!(own.memory_has(&foreign.token), 0);
    }
}

/// Takes all that a command has said until now; how it ended, if it has.
fn ended(command: &mut Running) -> Option<ExitStatus> {
    loop {
        match command.next(Some(Duration::ZERO)) {
            Ok(Event::Exited(status)) => return Some(status),
            Ok(_) => {}
            Err(ClientError::TimedOut(_)) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_a_guest_does_to_its_own_is_not_felt_in_another() {
    let mut quiet = Canary::boot("quiet");
    quiet.sings();
    let loud = Serving::of("minimal", "loud", []);
    let before = quiet.guest.client().metrics().unwrap();

    // Every case of the conformance program: managers that come and go, deaths, freezes, exhausted buffers.
    let argv = ["/bin/conformance", "run"].map(str::to_owned).to_vec();
    let mut cases = loud.client().exec(ExecRequest { argv, ..ExecRequest::default() }).unwrap();
    let mut batches = 0;
    let ended = loop {
        quiet.sings();
        batches += 1;
        if let Some(status) = ended(&mut cases) {
            break status;
        }
    };
    assert_eq!(ended, ExitStatus::Code(0));
    assert!(batches > 10, "{batches} batches of calls while the cases ran");

    // Its own traffic is all that the quiet guest's driver saw: batches of a known size.
    quiet.sings();
    let after = quiet.guest.client().metrics().unwrap();
    let messages = |metrics: &Metrics| metrics.binder["messages"].as_f64().expect("a binder device");
    let each = (messages(&after) - messages(&before)) / f64::from(batches + 1);
    // 20 round trips of 5 ioctls.
    assert_eq!(each, 100.0, "messages a batch");
}

#[test]
fn a_guest_that_is_killed_or_panics_takes_nobody_along() {
    let mut quiet = Canary::boot("quiet");
    quiet.sings();
    let mut doomed = Canary::boot("doomed");
    doomed.sings();
    doomed.calls.input().write_all(b"\n").unwrap();
    doomed.guest.client().kill().unwrap();
    doomed.guest.wait();
    quiet.sings();

    let mut panicking = Canary::boot("panicking");
    panicking.sings();
    let argv = ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger"].map(str::to_owned).to_vec();
    // Held until the end: a command whose client goes away is hung up.
    let crash = panicking.guest.client().exec(ExecRequest { argv, ..ExecRequest::default() });
    assert_eq!(panicking.guest.wait(), 243);
    drop(crash);
    quiet.sings();

    // And the one that stayed leaves nothing in its own driver.
    let client = quiet.guest.client();
    let _ = quiet.calls.input().close();
    client.stop(LIMIT).unwrap();
    let (status, code) = client.wait(Some(LIMIT)).unwrap();
    assert_eq!(code, 0, "{status}");
    let left = status["binder"]["left"].as_object().expect("the run counts what is left");
    assert!(left.values().all(|count| count == 0), "{left:?}");
}
