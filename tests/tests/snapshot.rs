//! Snapshots of real guests: saved with calls in flight, restored as often as one likes.

use std::path::Path;

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
