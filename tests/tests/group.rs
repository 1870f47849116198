//! Several guests in one process: each has its own world and its own end; where a file says so, they share
//! a domain.

use std::fs;
use std::time::{Duration, Instant};

use tests::LIMIT;
use tests::group::Group;

#[test]
fn one_guests_end_is_not_the_others() {
    let group = Group::start(
        r#"
        [guest]
        crash = { image = "minimal", engine = "soft", status = "$DIR/crash.json", console-log = "$DIR/crash.log", command = ["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"] }
        hang = { image = "minimal", engine = "soft", status = "$DIR/hang.json", timeout = "40s", clock = "host", command = ["sh", "-c", "echo hangs; while :; do :; done"] }
        killed = { image = "minimal", engine = "soft", status = "$DIR/killed.json", serve = true }
        well = { image = "minimal", engine = "soft", memory = "256M", seed = 7, status = "$DIR/well.json", console-log = "$DIR/well.log", trace = "$DIR/well.bvtrace", serve = true }
        "#,
    );
    // All of the conformance program's count, beside what the others do to themselves.
    let counted = group.shell("well", "conformance count | tail -1; echo '<0>done' >/dev/kmsg");
    assert_eq!(counted.status, control::ExitStatus::Code(0));
    group.client("killed").kill().unwrap();
    let after = group.shell("well", "grep -c . /proc/cpuinfo >/dev/null && echo still here");
    assert_eq!(String::from_utf8_lossy(&after.stdout), "still here\n");
    let memory = group.shell("well", "grep MemTotal /proc/meminfo");
    let memory = String::from_utf8_lossy(&memory.stdout).into_owned();
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((150_000..262_144).contains(&kib), "{memory}");
    let well = group.client("well");
    let until = Instant::now() + LIMIT;
    while !(group.folder().join("hang.json").exists() && group.folder().join("crash.json").exists()) {
        assert!(Instant::now() < until, "the others end by themselves");
        std::thread::sleep(Duration::from_millis(100));
    }
    well.stop(LIMIT).unwrap();

    let end = group.wait();
    assert_eq!(end.code, 243, "that of the first by name\n{}", end.stderr);
    assert_eq!(end.status("crash")["reason"], "guest-panic");
    assert_eq!(end.status("hang")["reason"], "timeout");
    assert_eq!(end.status("killed")["ended"], "stopped");
    assert_eq!(end.status("well")["ended"], "stopped");
    let left = end.status("well")["binder"]["left"].as_object().unwrap().clone();
    assert!(left.values().all(|count| count == 0), "{left:?}");
    assert!(end.stdout.contains("hang| hangs\n"), "{}", end.stdout);
    assert!(end.read("crash.log").contains("sysrq") && !end.read("crash.log").contains("done"));
    assert!(end.read("well.log").contains("done") && !end.read("well.log").contains("Kernel panic"));
    let calls = end.trace(&["--calls"], "well.bvtrace");
    assert!(calls.lines().count() > 10 && calls.lines().all(|line| line.contains(" well ")), "{calls}");
}

#[test]
fn a_group_with_a_guest_that_cannot_be_made_is_not_run() {
    let group = Group::start(
        r#"
        [guest]
        a = { image = "minimal", engine = "soft", status = "$DIR/a.json", serve = true }
        b = { image = "no-such-image", status = "$DIR/b.json", serve = true }
        "#,
    );
    let end = group.wait();
    assert_eq!(end.code, 241, "{}", end.stderr);
    assert!(end.stderr.contains("b cannot be made"), "{}", end.stderr);
    assert_eq!(end.status("a")["reason"], "boot-failed");
}

/// Two guests with AOSP's userspace; whichever servicemanager came first serves both.
#[test]
fn guests_of_a_domain_call_each_other() {
    let group = Group::start(
        r#"
        [guest.one]
        image = "aosp14"
        engine = "soft"
        domain = "shop"
        status = "$DIR/one.json"
        timeout = "250s"
        serve = true
        [guest.two]
        image = "aosp14"
        engine = "soft"
        domain = "shop"
        status = "$DIR/two.json"
        timeout = "250s"
        serve = true
        [domain.shop]
        trace = "$DIR/shop.bvtrace,replay"
        "#,
    );
    group.client("two");
    let manages = |guest| group.shell(guest, "pidof servicemanager").status == control::ExitStatus::Code(0);
    let until = Instant::now() + LIMIT;
    // The one that came second takes a moment to see that there is a manager, and ends.
    let (manager, other) = loop {
        match (manages("one"), manages("two")) {
            (true, false) => break ("one", "two"),
            (false, true) => break ("two", "one"),
            both => assert!(Instant::now() < until, "one world has one context manager: {both:?}"),
        }
    };
    // A service in the guest without a manager, its client in the guest with it.
    let _service = group.begin(other, "exec demo_service shop.till");
    let list = |guest| String::from_utf8_lossy(&group.shell(guest, "service list").stdout).into_owned();
    while !list(manager).contains("shop.till") {
        assert!(Instant::now() < until, "the service registers");
    }
    assert!(list(other).contains("shop.till"), "both guests see it");
    let calls = group.shell(manager, "demo_client shop.till 20");
    assert_eq!(calls.status, control::ExitStatus::Code(0), "{:?}", String::from_utf8_lossy(&calls.stderr));

    // A file does not cross.
    let sent = group.shell(manager, "service call shop.till 1 fd /bin/sh");
    let sent = String::from_utf8_lossy(&sent.stdout).into_owned();
    assert!(sent.contains("Error") || sent.contains("error"), "{sent}");

    // The manager is told of the death of what it lists, when the guest that had it is gone.
    group.client(other).kill().unwrap();
    while list(manager).contains("shop.till") {
        assert!(Instant::now() < until, "its death is told");
    }
    group.client(manager).stop(LIMIT).unwrap();

    let end = group.wait();
    assert_eq!(end.code, 0, "{}", end.stderr);
    let calls = end.trace(&["--calls"], "shop.bvtrace");
    let of = |guest: &str| calls.lines().filter(|line| line.contains(&format!(" {guest} "))).count();
    assert!(of("one") > 5 && of("two") > 2, "the trace says which guest calls:\n{calls}");
    assert!(calls.contains("BR_FAILED_REPLY (errno -1)"), "the file was refused:\n{calls}");
    let checked = end.trace(&["--check"], "shop.bvtrace");
    assert!(checked.contains("the same:"), "{checked}");
    let left = end.status(manager)["binder"]["left"].as_object().unwrap().clone();
    assert!(left.values().all(|count| count == 0), "{left:?}");
    assert!(!fs::exists(end.socket(other)).unwrap_or(true), "its socket is gone");
}
