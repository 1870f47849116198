//! `bindervm test` on real guests: every way a test can end, side by side, and what is left of it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::bindervm;
use tests::harness::{Bench, assert_junit, no_process_uses};

/// A cache with the images of the machine's, and nothing else yet.
fn cache() -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let own = cache.path().join("bindervm");
    fs::create_dir(&own).unwrap();
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    let machine = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    std::os::unix::fs::symlink(machine.join("bindervm/images"), own.join("images")).unwrap();
    cache
}

#[test]
fn guests_go_on_from_a_snapshot_that_is_made_once() {
    let plan = format!(
        "{MINIMAL}\n[guest.plain]\nimage = \"minimal\"\nstart = \"boot\"\nbinder-profile = \"aosp\"\n\
         [[test]]\nname = \"one\"\nscript = \"od -An -N16 -tx1 /dev/urandom\"\nexpect.stdout = \"[0-9a-f]\"\n\
         [[test]]\nname = \"two\"\nseed = 8\nscript = \"od -An -N16 -tx1 /dev/urandom\"\n\
         [[test]]\nname = \"boots\"\nguest = \"plain\"\nscript = \"\"\n"
    );
    let bench = Bench::new(&plan);
    let cache = cache();
    let run = |options: [&str; 2]| {
        let mut command = bench.command(options);
        command.env("XDG_CACHE_HOME", cache.path());
        bench.ran(command.output().expect("bindervm starts"))
    };
    // Both want it at the same time, and neither has it.
    let ran = run(["--repeat", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let role = |name: &str| ran.test(name)["attempts"][0]["roles"][0].clone();
    for (name, start, seed) in [
        ("one", "restored", 0),
        ("two", "restored", 8),
        ("one~2", "restored", 1),
        ("two~2", "restored", 9),
        ("boots", "booted", 0),
    ] {
        assert_eq!((&role(name)["start"], &role(name)["seed"]), (&start.into(), &seed.into()), "{name}");
    }
    let random: std::collections::BTreeSet<String> =
        ["one", "two", "one~2", "two~2"].iter().map(|name| ran.file(name, "stdout")).collect();
    assert_eq!(random.len(), 4, "each seed gives other random numbers: {random:?}");
    let logs = ["one", "two", "one~2", "two~2"].map(|name| ran.file(name, "vmm.log"));
    assert_eq!(logs.iter().filter(|log| log.contains("booting minimal once")).count(), 1, "{logs:?}");
    let snapshots = || {
        let files = fs::read_dir(cache.path().join("bindervm/snapshots")).unwrap().flatten();
        files.filter(|file| file.path().extension().is_some_and(|end| end == "snapshot")).count()
    };
    assert_eq!(snapshots(), 1);
    assert!(ran.stderr.contains("guests: 4 restored, 2 booted"), "{}", ran.stderr);
    assert!(ran.file("two~2", "repro.sh").contains("--seed 1 "));
    assert_junit(&ran.results.join("junit.xml"));
    assert!(fs::read_to_string(ran.results.join("junit.xml")).unwrap().contains("restored"));

    // Another run takes it as it is.
    let ran = run(["-f", "one"]);
    assert!(!ran.file("one", "vmm.log").contains("booting"), "{}", ran.file("one", "vmm.log"));
    assert_eq!((ran.code, snapshots()), (0, 1), "{}", ran.stderr);
}

#[test]
fn the_example_for_aosp_runs_on_two_guests_at_once() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/examples/aosp14.toml");
    let bench = Bench::new("");
    fs::copy(plan, bench.folder.path().join("plan.toml")).unwrap();
    let ran = bench.run(["--jobs", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for test in ran.run["tests"].as_array().unwrap() {
        for role in test["attempts"][0]["roles"].as_array().unwrap() {
            assert_eq!(role["start"], "restored", "{test}");
        }
    }
    assert_junit(&ran.results.join("junit.xml"));
}

const MINIMAL: &str = "[guest.default]\nimage = \"minimal\"\n";

#[test]
fn every_end_has_its_verdict_its_files_and_its_exit_code() {
    let bench = Bench::new(
        r#"
[run]
test-timeout = "120s"
[guest.default]
image = "minimal"
[guest.unbootable]
image = "minimal"
append = "rdinit=/bin/sh"
[guest.unbuilt]
image = "no-such-image"

[[test]]
name = "passes"
script = "echo fine; echo note >&2; read x </dev/null; echo kept > /tmp/kept.log; echo hello > /dev/console"
artifacts = ["/tmp/*.log"]
expect = { stdout = "^fine$", console = "hello" }
[[test]]
name = "fails"
command = ["/bin/sh", "-c", "echo broken; exit 3"]
[[test]]
name = "hangs"
timeout = "5s"
script = "echo began; mkfifo /tmp/never; read x < /tmp/never"
[[test]]
name = "spins"
timeout = "5s"
script = "while :; do :; done"
[[test]]
name = "panics"
script = "echo c > /proc/sysrq-trigger; sleep 1000"
[[test]]
name = "crashes"
command = ["/bin/sh", "-c", "kill -SEGV $$"]
[[test]]
name = "leaves"
script = "echo o > /proc/sysrq-trigger; sleep 1000"
[[test]]
name = "floods"
command = ["/bin/sh", "-c", "yes | head -c 20000000; echo the end"]
expect.stdout = "the end"
[[test]]
name = "missing"
command = ["/bin/no-such-program"]
[[test]]
name = "does-not-boot"
guest = "unbootable"
script = ""
[[test]]
name = "has-no-image"
guest = "unbuilt"
script = ""
[[test]]
name = "wants-what-is-not-here"
requires.env = ["NO_SUCH_VARIABLE_FOR_SURE"]
script = ""
[[test]]
name = "is-expected-to-panic"
script = "echo c > /proc/sysrq-trigger; sleep 1000"
expect = { panic = true, console = "sysrq triggered crash" }
[[test]]
name = "reads-tap"
command = ["/bin/sh", "-c", "echo 1..2; echo ok 1 - one; echo not ok 2 - two"]
parser = "tap"
"#,
    );
    let ran = bench.run(["--boot-timeout", "60s"]);
    ran.expect("passes", "passed", "[]");
    ran.expect("fails", "failed", "exit code 3");
    ran.expect("hangs", "timed-out", "still running");
    ran.expect("spins", "timed-out", "still running");
    ran.expect("panics", "guest-panic", "sysrq triggered crash");
    ran.expect("crashes", "failed", "killed by signal 11 (SIGSEGV)");
    ran.expect("leaves", "guest-lost", "");
    ran.expect("floods", "passed", "[]");
    ran.expect("missing", "failed", "no-such-program");
    ran.expect("does-not-boot", "boot-failed", "");
    ran.expect("has-no-image", "infrastructure", "there is no image 'no-such-image'");
    ran.expect("wants-what-is-not-here", "skipped", "NO_SUCH_VARIABLE_FOR_SURE");
    ran.expect("is-expected-to-panic", "passed", "[]");
    ran.expect("reads-tap", "failed", "1 of 2 cases failed");
    // Infrastructure says most.
    assert_eq!((ran.code, &ran.run["exit-code"]), (3, &Value::from(3)), "{}", ran.stderr);

    assert_eq!(
        (ran.file("passes", "stdout"), ran.file("passes", "stderr")),
        ("fine\n".into(), "note\n".into())
    );
    assert_eq!(ran.file("passes", "artifacts/tmp/kept.log"), "kept\n");
    assert!(ran.file("passes", "console.log").contains("hello"));
    assert!(!ran.results.join("tests/passes/trace.bvt").exists());
    assert!(ran.results.join("tests/fails/trace.bvt").exists());
    assert_eq!(ran.file("hangs", "stdout"), "began\n");
    let evidence = ran.file("hangs", "evidence.txt");
    assert!(evidence.contains("/bin/sh -s") && evidence.contains("wait_for_partner"), "{evidence}");
    assert!(ran.file("spins", "evidence.txt").contains("/bin/sh -s"));
    assert!(ran.file("panics", "console.log").contains("sysrq triggered crash"));
    let flood = ran.file("floods", "stdout");
    assert!(flood.len() < 10 << 20 && flood.contains("bytes are left out here]"));
    assert!(ran.file("fails", "repro.sh").contains("name==\"fails\""));
    assert_junit(&ran.results.join("junit.xml"));
    let events = fs::read_to_string(ran.results.join("events.jsonl")).unwrap();
    let kinds: Vec<Value> =
        events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone()).collect();
    assert_eq!(kinds.first(), Some(&Value::from("run-started")));
    assert_eq!(kinds.last(), Some(&Value::from("run-finished")));
    assert_eq!(kinds.iter().filter(|kind| *kind == "test-finished").count(), 14);
    assert!(
        fs::read_to_string(ran.results.join("report.tap")).unwrap().starts_with("TAP version 14\n1..14\n")
    );
    no_process_uses(&ran.results);

    // Each end alone gives the exit code of the table; repro.sh is the way to ask.
    for (name, code) in
        [("fails", 1), ("does-not-boot", 4), ("hangs", 5), ("panics", 6), ("leaves", 7), ("passes", 0)]
    {
        let repro = ran.results.join("tests").join(name).join("repro.sh");
        let output = Command::new(&repro).args(["--boot-timeout", "60s"]).output().expect("repro.sh runs");
        assert_eq!(output.status.code(), Some(code), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_passes_when_tried_again_is_flaky() {
    // The host knows how often it was asked: the results of the first attempt are set aside.
    let bench = Bench::new(&format!("{MINIMAL}[[test]]\nname = \"t\"\nretries = 2\nscript = \"exit 1\"\n"));
    let ran = bench.run([]);
    ran.expect("t", "failed", "exit code 1");
    assert_eq!(ran.code, 1);
    assert_eq!(ran.test("t")["attempts"].as_array().unwrap().len(), 3);
    for attempt in ["attempt-1", "attempt-2"] {
        assert!(ran.results.join("tests/t").join(attempt).join("console.log").exists(), "{attempt}");
    }
    assert!(fs::read_to_string(ran.results.join("junit.xml")).unwrap().contains("rerunFailure"));
    assert_junit(&ran.results.join("junit.xml"));

    // What is pushed changes after the first attempt; some attempt after that finds it changed.
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("flag");
    fs::write(&flag, "first").unwrap();
    let plan = format!(
        "{MINIMAL}[[test]]\nname = \"t\"\nretries = 100\ntimeout = \"30s\"\npush = [{{ from = \"{}\", to = \"/tmp/flag\" }}]\n\
         script = \"grep -q second /tmp/flag\"\n",
        flag.display()
    );
    let bench = Bench::new(&plan);
    let mut child = bench.command(["--fail-flaky"]).stderr(Stdio::piped()).spawn().unwrap();
    let first = bench.results().join("tests/t/attempt-1");
    wait_for(&mut child, || first.exists());
    fs::write(&flag, "second").unwrap();
    let ran = bench.ran(child.wait_with_output().unwrap());
    assert_eq!(ran.test("t")["flaky"], true, "{}", ran.stderr);
    assert_eq!(ran.code, 9);
    assert!(fs::read_to_string(ran.results.join("junit.xml")).unwrap().contains("flakyFailure"));
    assert_junit(&ran.results.join("junit.xml"));
}

#[test]
fn two_guests_run_at_once_and_a_crash_of_one_is_not_the_others() {
    let bench = Bench::new(&format!(
        "{MINIMAL}[[test]]\nname = \"dies\"\nscript = \"echo c > /proc/sysrq-trigger; sleep 1000\"\n\
         [[test]]\nname = \"lives\"\nscript = \"i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $i\"\nexpect.stdout = \"200000\"\n"
    ));
    let ran = bench.run([]);
    ran.expect("dies", "guest-panic", "");
    ran.expect("lives", "passed", "[]");
    let events = fs::read_to_string(ran.results.join("events.jsonl")).unwrap();
    let kinds: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds[1..3], ["attempt-started", "attempt-started"], "both begin before either ends");
    assert_eq!(ran.code, 6);
}

#[test]
fn roles_begin_together_and_the_background_ends_with_the_rest() {
    let bench = Bench::new(
        r#"
guest.one.image = "minimal"
guest.two.image = "minimal"
[[test]]
name = "pair"
timeout = "60s"
[test.roles.client]
guest = "one"
script = "echo client; sleep 2"
expect.stdout = "client"
[test.roles.server]
guest = "two"
script = "echo server; mkfifo /tmp/never; read x < /tmp/never"
background = true
[test.roles.watcher]
guest = "two"
script = "echo watcher; exit 4"
expect.exit = 4
"#,
    );
    let ran = bench.run([]);
    ran.expect("pair", "passed", "[]");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for role in ["client", "server", "watcher"] {
        assert_eq!(ran.file(&format!("pair/{role}"), "stdout"), format!("{role}\n"));
    }
    assert_junit(&ran.results.join("junit.xml"));
}

#[test]
fn a_shared_guest_serves_its_tests_and_is_replaced_when_it_dies() {
    let mut plan = MINIMAL.to_owned();
    for (name, script) in [
        ("first", "echo here > /tmp/mark"),
        ("second", "cat /tmp/mark"),
        ("dies", "echo c > /proc/sysrq-trigger; sleep 1000"),
        ("after", "test ! -e /tmp/mark"),
    ] {
        plan += &format!("[[test]]\nname = \"{name}\"\nisolation = \"shared\"\nscript = \"{script}\"\n");
    }
    let bench = Bench::new(&plan);
    let ran = bench.run([]);
    ran.expect("first", "passed", "[]");
    ran.expect("second", "passed", "[]");
    ran.expect("dies", "guest-panic", "");
    ran.expect("after", "passed", "[]");
    assert_eq!(ran.file("second", "stdout"), "here\n");
    let guests = fs::read_dir(ran.results.join("guests")).unwrap().count();
    assert_eq!(guests, 2, "{}", ran.stderr);
}

#[test]
fn an_interrupt_leaves_results_and_no_process() {
    let bench = Bench::new(&format!(
        "{MINIMAL}[[test]]\nname = \"done\"\nscript = \"\"\n[[test]]\nname = \"long\"\nscript = \"mkfifo /tmp/never; read x < /tmp/never\"\n\
         [[test]]\nname = \"later\"\nscript = \"\"\n"
    ));
    let mut child = bench.command(["--jobs", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = bench.results().join("tests/long/stdout");
    wait_for(&mut child, || stdout.exists());
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ran = bench.ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    ran.expect("done", "passed", "[]");
    ran.expect("long", "interrupted", "");
    ran.expect("later", "interrupted", "not run");
    assert_junit(&ran.results.join("junit.xml"));
    no_process_uses(&ran.results);

    // Killed itself, it still leaves none.
    let mut child = bench.command(["--jobs", "1"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, || stdout.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    no_process_uses(&bench.results());
}

#[test]
fn bazel_and_github_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bench = Bench::new(&format!(
        "{MINIMAL}[[test]]\nname = \"a\"\nscript = \"exit 1\"\n[[test]]\nname = \"b\"\nscript = \"\"\n[[test]]\nname = \"c\"\nscript = \"\"\n"
    ));
    let output = bench
        .command([])
        .env("TEST_TOTAL_SHARDS", "2")
        .env("TEST_SHARD_INDEX", "0")
        .env("TEST_SHARD_STATUS_FILE", path("status"))
        .env("XML_OUTPUT_FILE", path("test.xml"))
        .env("TEST_TMPDIR", folder.path())
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", path("summary.md"))
        .output()
        .unwrap();
    let ran = bench.ran(output);
    assert_eq!((ran.code, ran.run["counts"]["tests"].as_u64()), (1, Some(2)), "{}", ran.stderr);
    assert!(path("status").exists());
    assert_junit(&path("test.xml"));
    assert_eq!(ran.stdout, "::error title=a%3A failed::exit code 1\n");
    assert!(fs::read_to_string(path("summary.md")).unwrap().contains("| `a` | failed | exit code 1 |"));
}

#[test]
fn plans_are_listed_checked_and_divided_without_a_guest() {
    let mut plan = MINIMAL.to_owned();
    for number in 0..7 {
        plan += &format!("[[test]]\nname = \"t{number}\"\nscript = \"\"\ntags = [\"x\"]\n");
    }
    let bench = Bench::new(&plan);
    let list = |options: &[&str]| {
        let mut command = bindervm();
        command.arg("test").arg(bench.folder.path().join("plan.toml")).arg("--list").args(options);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    for by in ["count", "hash"] {
        let mut all: Vec<String> =
            (1..=3).flat_map(|share| list(&["--partition", &format!("{by}:{share}/3")])).collect();
        all.sort();
        assert_eq!(all, list(&[]));
    }
    assert_eq!(list(&["-f", "t[12]", "-f", "name==t6"]), ["t1", "t2", "t6"]);
    let dry = bench.command(["--dry-run"]).output().unwrap();
    let resolved: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(resolved["tests"][0]["timeout"], "300s");
    assert!(!bench.results().exists());

    let wrong = |options: &[&str]| {
        let mut command = bindervm();
        command.arg("test").arg(bench.folder.path().join("plan.toml")).args(options);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (options, expected) in [
        (&["-f", "nothing"][..], "none of the 7 tests"),
        (&["-f", "tag=="], "wrong at column 6"),
        (&["--partition", "count:9/8"], "1 to 8"),
        (&["--jobs", "0"], "jobs must be 1 to 1024"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--exit-code-from-guest"], "for one test"),
        (&["--profile", "x"], "there is no profile"),
    ] {
        let (code, stderr) = wrong(options);
        assert_eq!(code, Some(2), "{options:?}: {stderr}");
        assert!(stderr.contains(expected), "{options:?}: {stderr}");
    }
    fs::write(bench.folder.path().join("plan.toml"), "[gest.x]\n").unwrap();
    let (code, stderr) = wrong(&[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("plan.toml:1:2: unknown field `gest`; did you mean `guest`?"), "{stderr}");
}

#[test]
fn results_of_others_are_left_alone() {
    let bench = Bench::new(&format!("{MINIMAL}[[test]]\nname = \"t\"\nscript = \"\"\n"));
    fs::create_dir(bench.results()).unwrap();
    fs::write(bench.results().join("thesis.txt"), "all my work").unwrap();
    let ran = bench.run([]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("has other files in it"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(bench.results()).unwrap().count(), 1);
}

/// Waits until something is so. The run must not end before.
#[track_caller]
fn wait_for(child: &mut Child, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < until, "it never came");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it came");
        std::thread::sleep(Duration::from_millis(20));
    }
}
