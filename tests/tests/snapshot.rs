//! Snapshots of real guests: saved with calls in flight, restored as often as one likes.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use control::ExecRequest;
use tests::serving::Serving;
use tests::{Guest, bindervm_with, file};

/// Stops servicemanager, and leaves a client waiting for its answer.
const CALL_IN_FLIGHT: &str =
    "kill -STOP $(pidof servicemanager); service list >/tmp/out 2>&1 & sleep 1; exit 0";
/// Lets servicemanager answer.
const FINISH: &str = "kill -CONT $(pidof servicemanager); until grep -q manager /tmp/out; do sleep 0.1; done; \
                      cat /tmp/out; ls /tmp; echo $1 >/tmp/$1";

fn saved(folder: &Path, script: &str) -> String {
    let path = folder.join("snapshot").to_str().expect("plain").to_owned();
    Guest::of("aosp14").with(["--snapshot-to", &path]).run(["/bin/sh", "-c", script]).expect(0);
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_guest_that_serves_is_saved_and_goes_on() {
    let guest = Serving::of("minimal", "g1", []);
    guest.shell("echo one >/tmp/state");
    let sleeper = ["sleep", "100000"].map(str::to_owned).to_vec();
    let client = guest.client();
    let _sleeping = client.exec(ExecRequest { argv: sleeper, ..ExecRequest::default() }).unwrap();
    while guest.shell("pidof sleep").stdout.is_empty() {}
    let path = guest.folder().join("snapshot").to_str().expect("plain").to_owned();
    let save = |to: &str| guest.command(["snapshot", "g1", to]).output().unwrap();
    let output = save(&path);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let state = "cat /tmp/state; pidof sleep >/dev/null && echo sleeps; echo more >>/tmp/state";
    for _ in 0..2 {
        let ended = Guest::from(&path).run(["/bin/sh", "-c", state]).expect(0);
        assert_eq!(ended.stdout, "one\nsleeps\n", "{ended}");
    }
    // The guest itself went on, and can be saved again and again.
    guest.shell("echo two >>/tmp/state");
    assert!(save(&path).status.success());
    let ended = Guest::from(&path).run(["cat", "/tmp/state"]).expect(0);
    assert_eq!(ended.stdout, "one\ntwo\n", "{ended}");

    let output = save("/no/such/folder/snapshot");
    assert_eq!(output.status.code(), Some(240), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).ends_with("there is no folder /no/such/folder\n"),
        "{}",
        text(&output.stderr)
    );
    let pipe = guest.folder().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = save(pipe.to_str().expect("plain"));
    assert_eq!(output.status.code(), Some(240), "{}", text(&output.stderr));
    assert!(pipe.metadata().unwrap().file_type().is_fifo(), "the pipe is one still");
    assert_eq!(client.status().unwrap().commands, 1, "the guest is as it was");
    assert_eq!(guest.stop(), 0);
}

/// RAM of a process that is mapped from `file`, in KiB: resident, its proportional share, and what it wrote.
fn mapped(pid: u32, file: &str) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut sums = [0; 3];
    let mut is_of_file = false;
    for line in text.lines() {
        match line.split_once(':') {
            Some((name, kib)) if !name.contains(' ') => {
                let place = ["Rss", "Pss", "Private_Dirty"].iter().position(|wanted| *wanted == name);
                if let (Some(place), true) = (place, is_of_file) {
                    sums[place] += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                }
            }
            _ => is_of_file = line.ends_with(file),
        }
    }
    sums
}

#[test]
fn guests_that_go_on_from_one_file_share_what_they_do_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), "exit 0");
    let going_on = || {
        let guest = Serving::restored(&path, "g1");
        assert_eq!(guest.shell("service list >/dev/null; echo $?").stdout, b"0\n");
        guest
    };
    let guests = [going_on(), going_on()];
    let [first, second] = [0, 1].map(|index: usize| mapped(guests[index].pid(), &path));
    for [resident, share, written] in [first, second] {
        // What is not written is mapped twice and there once.
        let unwritten = resident - written;
        assert!(unwritten > 4 << 10, "{first:?} {second:?}");
        assert!(written < resident / 2, "{first:?} {second:?}");
        assert!(share < written + unwritten * 3 / 4, "{first:?} {second:?}");
    }
    for guest in guests {
        assert_eq!(guest.stop(), 0);
    }
}

#[test]
fn what_cannot_be_saved_says_why() {
    let shared = tempfile::tempdir().unwrap();
    let share = format!("{}=/mnt", shared.path().display());
    let guest = Serving::of("minimal", "g1", ["--share", &share]);
    let output = guest.command(["snapshot", "g1", "snapshot"]).output().unwrap();
    assert_eq!(output.status.code(), Some(249));
    let text = text(&output.stderr);
    assert!(text.contains("a guest with a folder of the host cannot be saved"), "{text}");
    assert_eq!(guest.stop(), 0);
}

#[test]
fn four_cpus_go_on_as_four() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot").to_str().expect("plain").to_owned();
    let script = format!("yes >/dev/null & yes >/dev/null & {CALL_IN_FLIGHT}");
    let guest = Guest::of("aosp14").with(["--cpus", "4", "--snapshot-to", &path]);
    guest.run(["/bin/sh", "-c", &script]).expect(0);
    let script = format!("nproc; pidof yes | wc -w; {FINISH}");
    let restored = || Guest::from(&path).traced().run(["/bin/sh", "-c", &script, "sh", "other"]).expect(0);
    let (first, second) = (restored(), restored());
    let first = first.prints(&["4", "2", "Found 1 services:", "0\tmanager: [android.os.IServiceManager]"]);
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(first.status["run"]["instructions"], second.status["run"]["instructions"]);
}

#[test]
fn the_hosts_clock_is_that_of_a_restored_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), "exit 0");
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let ended = Guest::from(&path).with(["--clock", "host"]).run(["date", "+%s"]).expect(0);
    let date: u64 = ended.stdout.trim().parse().expect("a number");
    // A second more for those that began before.
    assert!((before..=now() + 1).contains(&date), "{before} {date}");
}

/// covers: PROTOCOL.md 35
#[test]
fn a_call_in_flight_completes_in_every_restored_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), CALL_IN_FLIGHT);
    let restored = |name: &str| {
        let ended = Guest::from(&path).traced().run(["/bin/sh", "-c", FINISH, "sh", name]).expect(0);
        let ended = ended.prints(&["Found 1 services:", "0\tmanager: [android.os.IServiceManager]"]);
        assert!(!ended.stdout.lines().any(|line| line == "other"), "guests see each other\n{ended}");
        ended
    };
    let first = restored("other");
    let second = restored("other");
    assert_eq!(first.stdout, second.stdout);
    let bytes = |ended: &tests::Ended| std::fs::read(ended.trace_file()).unwrap();
    assert!(bytes(&first) == bytes(&second), "two restores with one seed differ");
}

#[test]
fn random_numbers_follow_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), "exit 0");
    let number = |seed: &str| {
        let script = "head -c 16 /dev/urandom | od -An -tx1";
        Guest::from(&path).with(["--seed", seed]).run(["/bin/sh", "-c", script]).expect(0).stdout
    };
    let one = number("1");
    assert_eq!(one, number("1"));
    assert_ne!(one, number("2"));
}

#[test]
fn a_snapshot_that_is_none_is_an_error_with_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let junk = file(folder.path(), "junk", b"BINDERVMSNAPSHOT and then nothing");
    for arguments in
        [["run", "--from", &junk, "--engine", "soft"], ["snapshot", "info", &junk, "--verify", "--json"]]
    {
        let (code, output) = bindervm_with(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code, 241, "{text}");
        assert!(text.contains("cannot use the snapshot"), "{text}");
    }
}

#[test]
fn a_command_that_fails_leaves_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let to = path.to_str().expect("plain");
    Guest::of("minimal").with(["--snapshot-to", to]).run(["/bin/sh", "-c", "exit 3"]).expect(3);
    assert!(!path.exists());
}

/// `--fast` boots an image once, whatever its size; the next run goes on from there.
#[test]
fn a_fast_run_boots_once() {
    // Kernel words that nobody else has: nobody else has made the snapshot.
    let words = format!("bindervm.test={}", std::process::id());
    let run = || {
        let options = ["--fast", "--memory", "200M", "--append", &words];
        Guest::of("minimal").with(options).run(["true"]).expect(0)
    };
    let (first, second) = (run(), run());
    assert!(first.stderr.contains("booting minimal once"), "{first}");
    assert!(!first.stderr.contains("--fast"), "it was saved: {first}");
    assert!(!second.stderr.contains("booting"), "{second}");
}
