//! Several guests in one process: each has its own world and its own end; where a file says so, they share
//! a domain.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::group::Group;
use tests::harness::{Bench, Ran, assert_junit, no_process_uses};
use tests::{LIMIT, bindervm};

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

/// A fault of a world that guests share meets the process of one when the other sends.
#[test]
fn faults_of_a_domain_reach_across_its_guests() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[rules]]\ninterface = \"bindervm.demo.IDemo\"\nreceiver = \"demo_service\"\nnth = 3\n\
                action = \"kill-receiver\"\n";
    fs::write(rules.path(), rule).unwrap();
    let guest = |name| {
        format!(
            "[guest.{name}]\nimage = \"aosp14\"\nengine = \"soft\"\ndomain = \"shop\"\ntimeout = \"250s\"\nserve = true\n\
             status = \"$DIR/{name}.json\"\n"
        )
    };
    let domain = format!(
        "[domain.shop]\ntrace = \"$DIR/shop.bvtrace,replay\"\nfaults = \"{}\"\n",
        rules.path().display()
    );
    let group = Group::start(&(guest("one") + &guest("two") + &domain));
    let service = group.begin("one", "demo_service shop.till; echo ended $?");
    let until = Instant::now() + LIMIT;
    while !String::from_utf8_lossy(&group.shell("two", "service list").stdout).contains("shop.till") {
        assert!(Instant::now() < until, "the service registers");
    }
    let client = group.shell("two", "demo_client shop.till 5");
    assert!(String::from_utf8_lossy(&client.stdout).contains("DEAD_OBJECT"), "{client:?}");
    let service = service.output(LIMIT, usize::MAX).unwrap();
    assert!(String::from_utf8_lossy(&service.stdout).contains("ended 137"), "{service:?}");
    for guest in ["one", "two"] {
        group.client(guest).stop(LIMIT).unwrap();
    }
    let end = group.wait();
    assert_eq!(end.code, 0, "{}", end.stderr);
    assert_eq!(end.status("two")["faults"][0]["injected"], 1);
    let checked = end.trace(&["--check"], "shop.bvtrace");
    assert!(checked.contains("the same:"), "{checked}");
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
        # Its device answers late, as one behind another process would.
        binder-device = "late"
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
    let across = format!(" {manager} demo_client ");
    let across: Vec<&str> =
        calls.lines().filter(|line| line.contains(&across) && line.contains("IDemo")).collect();
    let whole =
        |line: &&&str| line.contains(&format!("-> {other}: demo_service ")) && !line.contains("= open");
    assert!(across.iter().filter(whole).count() >= 20, "calls have both their ends:\n{calls}");
    assert!(calls.contains("BR_FAILED_REPLY (errno -1)"), "the file was refused:\n{calls}");
    let checked = end.trace(&["--check"], "shop.bvtrace");
    assert!(checked.contains("the same:"), "{checked}");
    let left = end.status(manager)["binder"]["left"].as_object().unwrap().clone();
    assert!(left.values().all(|count| count == 0), "{left:?}");
    assert!(!fs::exists(end.socket(other)).unwrap_or(true), "its socket is gone");
}

/// A role of the last attempt at a test.
#[track_caller]
fn role<'a>(ran: &'a Ran, test: &str, name: &str) -> &'a Value {
    let roles = ran.test(test)["attempts"].as_array().and_then(|attempts| attempts.last());
    let roles = roles.and_then(|attempt| attempt["roles"].as_array()).expect("roles");
    roles.iter().find(|role| role["name"] == name).expect("a role of that name")
}

#[test]
fn roles_of_a_plan_share_a_process_and_a_domain() {
    let bench = Bench::new(
        r#"
[guest.phone]
image = "aosp14"
trace = "always"
[[test]]
name = "calls-across"
timeout = "200s"
[test.roles.server]
guest = "phone"
domain = "shop"
background = true
command = ["demo_service", "shop.till"]
[test.roles.client]
guest = "phone"
domain = "shop"
script = """
until service check shop.till | grep -q ': found'; do sleep 0.2; done
demo_client shop.till 20
"""
[test.roles.stranger]
guest = "phone"
script = "service check shop.till"
expect.stdout = "not found"

# A fault of the domain is met by any of its guests: the receiver of one dies of what the other sends.
[[test]]
name = "dies-across"
timeout = "200s"
[test.roles.server]
guest = "phone"
domain = "shop"
script = "demo_service shop.till; echo service $?"
expect.stdout = "^service 137$"
[test.roles.client]
guest = "phone"
domain = "shop"
script = """
until service check shop.till | grep -q ': found'; do sleep 0.2; done
demo_client shop.till 5 || true
"""
expect.stdout = "DEAD_OBJECT"
[[test.faults.rules]]
interface = "bindervm.demo.IDemo"
sender = "demo_client"
receiver = "demo_service"
nth = 3
action = "kill-receiver"
"#,
    );
    let ran = bench.run([]);
    ran.expect("calls-across", "passed", "[]");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let of = |name| role(&ran, "calls-across", name);
    let process = of("server")["process"].as_u64();
    assert!(process.is_some());
    for (name, start, domain) in [
        ("server", "booted", Some("shop")),
        ("client", "booted", Some("shop")),
        ("stranger", "restored", None),
    ] {
        let role = of(name);
        assert_eq!((role["process"].as_u64(), role["domain"].as_str()), (process, domain), "{name}");
        assert_eq!(role["start"], start, "{name}");
        for file in ["stdout", "stderr", "console.log", "status.json", "vmm.log", "trace.bvt"] {
            let path = ran.results.join("tests/calls-across").join(name).join(file);
            assert!(path.exists(), "{}", path.display());
        }
    }
    assert_junit(&ran.results.join("junit.xml"));
    // The domain's recording says whose call it was, and whom it reached.
    let trace = ran.results.join("tests/calls-across/domain-shop.bvt");
    let calls = bindervm().args(["trace", "--calls"]).arg(trace).output().unwrap();
    let calls = String::from_utf8_lossy(&calls.stdout).into_owned();
    let across = |line: &&str| line.contains(" client ") && line.contains("bindervm.demo.IDemo.");
    assert!(calls.lines().filter(across).count() >= 20, "{calls}");
    ran.expect("dies-across", "passed", "[]");
    assert_eq!(role(&ran, "dies-across", "client")["run"]["faults"][0]["injected"], 1);
    no_process_uses(&ran.results);
}

#[test]
fn one_roles_end_is_not_the_others_of_its_process() {
    let bench = Bench::new(
        r#"
[guest.default]
image = "minimal"
[[test]]
name = "panics"
process = "shared"
roles.doomed.script = "conformance count > /tmp/counted; echo c > /proc/sysrq-trigger; sleep 1000"
roles.well = { script = "conformance count | tail -1; for i in 1 2 3; do sleep 1; echo $i; done", expect.stdout = "^3$" }
[[test]]
name = "floods"
process = "shared"
roles.floods = { command = ["/bin/sh", "-c", "yes | head -c 20000000; yes | head -c 300000 > /dev/console; echo the end"], expect.stdout = "the end" }
roles.gone = { script = "echo o > /proc/sysrq-trigger; sleep 1000", expect.lost = true }
roles.well = { script = "echo well", expect.stdout = "^well$" }
[[test]]
name = "hangs"
process = "shared"
timeout = "20s"
roles.hangs.script = "echo began; mkfifo /tmp/never; read x < /tmp/never"
roles.well.script = "echo well"
[[test]]
name = "is-not-made"
process = "shared"
roles.wrong = { guest = "wrong", script = "" }
roles.well = { guest = "default", script = "" }
[guest.wrong]
image = "no-such-image"
"#,
    );
    let ran = bench.run([]);
    ran.expect("panics", "guest-panic", "doomed: ");
    assert_eq!(role(&ran, "panics", "well")["ended"]["detail"], 0);
    ran.expect("floods", "passed", "[]");
    assert!(ran.file("floods/floods", "stdout").contains("bytes are left out here]"));
    ran.expect("hangs", "timed-out", "hangs: still running");
    assert_eq!(ran.file("hangs/hangs", "stdout"), "began\n");
    assert!(ran.file("hangs/hangs", "evidence.txt").contains("/bin/sh -s"));
    assert_eq!(role(&ran, "hangs", "well")["ended"]["detail"], 0);
    ran.expect("is-not-made", "infrastructure", "no-such-image");
    for (test, names) in
        [("panics", ["doomed", "well"]), ("floods", ["floods", "well"]), ("hangs", ["hangs", "well"])]
    {
        let [one, other] = names.map(|name| role(&ran, test, name));
        assert_eq!(one["process"], other["process"], "{test}");
        assert_eq!((&one["start"], &other["start"]), (&"restored".into(), &"restored".into()), "{test}");
        // Those that ended by themselves gave back all that they had.
        let left = other["run"]["binder"]["left"].as_object().expect("what is left is counted");
        assert!(left.values().all(|count| count == 0), "{test}: {left:?}");
    }
    assert!(ran.file("panics/doomed", "vmm.log").contains("sysrq triggered crash"));
    assert!(!ran.file("panics/well", "vmm.log").contains("sysrq"));
    assert_junit(&ran.results.join("junit.xml"));
    no_process_uses(&ran.results);

    let output = Command::new(ran.results.join("tests/panics/repro.sh")).output().expect("repro.sh runs");
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}
