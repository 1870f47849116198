//! The main job on a real guest: the stock kernel, our shim, AOSP's servicemanager.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use tests::{Guest, bindervm, compile};

#[test]
fn a_command_runs_with_its_own_output_and_exit_status() {
    let ended = Guest::of("minimal").shell("echo to stdout; echo to stderr >&2; exit 7").expect(7);
    assert_eq!(ended.stdout, "to stdout\n");
    assert!(ended.stderr.contains("to stderr\n"), "{ended}");
    assert_eq!(ended.status["ended"], "exited");
    assert_eq!(ended.status["code"], 7);
}

#[test]
fn a_signal_is_128_and_its_number() {
    let ended = Guest::of("minimal").shell("kill -9 $$").expect(137);
    assert_eq!(ended.status["ended"], "signaled");
    assert_eq!(ended.status["signal"], 9);
}

#[test]
fn a_program_that_is_not_there_is_127() {
    let ended = Guest::of("minimal").run(["/bin/no-such-program"]).expect(127);
    assert!(ended.stderr.contains("no-such-program"), "{ended}");
}

#[test]
fn stdin_reaches_the_command_to_its_end() {
    let script = format!(
        "wc -c <<'END'\n{}\nEND\nmd5=$(head -c 100000 /dev/zero | wc -c); echo $md5",
        "x".repeat(9999)
    );
    Guest::of("minimal").shell(&script).expect(0).prints(&["10000", "100000"]);
}

#[test]
fn output_of_any_size_arrives_whole() {
    let ended = Guest::of("minimal").shell("seq 1 200000").expect(0);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(ended.stdout == expected, "{} bytes instead of {}", ended.stdout.len(), expected.len());
}

#[test]
fn a_guest_panic_is_told_at_once_with_the_last_console_lines() {
    let ended = Guest::of("minimal").shell("echo c > /proc/sysrq-trigger; sleep 1000").expect(243);
    assert!(ended.stderr.contains("sysrq triggered crash"), "{ended}");
    let last = ended.last_run();
    assert!(last.contains("exit code     243: the guest's kernel panicked: "), "{last}");
    assert_eq!(ended.status["ended"], "failed");
    assert_eq!(ended.status["reason"], "guest-panic");
}

#[test]
fn the_timeout_is_wall_time() {
    let ended = Guest::of("minimal").within(Duration::from_secs(30)).shell("while :; do :; done").expect(244);
    assert_eq!(ended.status["reason"], "timeout");
}

#[test]
fn a_guest_without_init_has_failed() {
    let ended =
        Guest::of("minimal").with(["--append", "rdinit=/nowhere root=/dev/none"]).run(["true"]).expect(243);
    assert!(ended.stderr.contains("Unable to mount root fs"), "{ended}");
}

#[test]
fn a_guest_without_agent_has_not_booted() {
    let options = ["--append", "rdinit=/bin/sh", "--boot-timeout", "20s"];
    let ended = Guest::of("minimal").with(options).run(["true"]).expect(242);
    assert_eq!(ended.status["reason"], "boot-failed");
}

#[test]
fn a_guest_that_leaves_while_the_command_runs_is_lost() {
    let ended = Guest::of("minimal").shell("echo o > /proc/sysrq-trigger; sleep 1000").expect(245);
    assert_eq!(ended.status["reason"], "guest-lost");
}

#[test]
fn an_instruction_that_the_cpu_lacks_is_sigill_in_the_guest_and_named_by_doctor() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::fs::read(compile(folder.path(), "missing.c", &[])).unwrap();
    let script = "cat > /tmp/missing; chmod +x /tmp/missing; /tmp/missing 0 3 1 5; echo 'the run goes on'";
    let two = Guest::with_cpus("minimal", 2);
    let ended = two.input(&program).run(["/bin/sh", "-c", script]).expect(0);
    assert_eq!(ended.stdout, "signal 4\nsignal 4\nthe run goes on\n");
    // Those of both CPUs.
    let last = ended.last_run();
    let missing: Vec<_> = last.lines().filter(|line| line.starts_with("missing")).collect();
    assert_eq!(missing.len(), 2, "{last}");
    for expected in ["Vaddps: 8 times", "Vpxor: 2 times"] {
        assert!(missing.iter().any(|line| line.contains(expected)), "{last}");
    }
}

#[test]
fn what_a_guest_leaves_in_the_core_is_counted() {
    // Off at once: nobody ends servicemanager.
    let ended = Guest::of("aosp14").shell("echo o > /proc/sysrq-trigger; sleep 1000").expect(245);
    assert!(ended.status["binder"]["left"]["procs"].as_u64() >= Some(1), "{ended}");
}

#[test]
fn a_pipe_that_nobody_reads_does_not_outlive_the_timeout() {
    let mut command = bindervm();
    command.args(["run", "minimal", "--engine", "soft", "--timeout", "20s", "--", "yes"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(244));
}

#[test]
fn service_list_shows_what_separate_processes_registered() {
    let ended = Guest::of("aosp14").traced().shell(
        "service list
         demo_service bindervm.first & demo_service bindervm.second &
         demo_client bindervm.first && demo_client bindervm.second 100
         service list
         service check bindervm.first
         kill %1 %2; wait",
    );
    let ended = ended.expect(0).leaves_nothing();
    assert!(
        ended.stdout.starts_with("Found 1 services:\n0\tmanager: [android.os.IServiceManager]\n"),
        "{ended}"
    );
    let ended = ended.prints(&["Found 3 services:", "Service bindervm.first: found"]);
    for name in ["bindervm.first: [bindervm.demo.IDemo]", "bindervm.second: [bindervm.demo.IDemo]"] {
        assert!(ended.stdout.contains(name), "{ended}");
    }
}

#[test]
fn the_death_of_a_service_reaches_its_client() {
    let ended = Guest::of("aosp14").shell(
        "demo_service bindervm.mortal & service=$!
         demo_client bindervm.mortal
         demo_client bindervm.mortal --watch > /tmp/watch & watch=$!
         until grep -q watching /tmp/watch; do usleep 10000; done
         kill -9 $service
         wait $watch; echo \"watcher ended with $?\"
         cat /tmp/watch
         demo_service bindervm.victim &
         demo_client bindervm.victim --die; echo \"caller ended with $?\"",
    );
    let ended =
        ended.expect(0).leaves_nothing().prints(&["watcher ended with 0"]).prints(&["caller ended with 0"]);
    assert!(ended.stdout.contains("'bindervm.mortal' died"), "{ended}");
}

#[test]
fn the_trace_shows_one_call_with_both_ends_and_its_reply() {
    let ended = Guest::of("aosp14").traced().shell(
        "demo_service bindervm.traced & service=$!
         demo_client bindervm.traced; echo \"client ended with $?\"
         kill $service; wait",
    );
    let ended = ended.expect(0).prints(&["client ended with 0"]);
    let calls = ended.trace(["--calls"]);
    let to_demo: Vec<_> = calls.lines().filter(|line| line.contains(" bindervm.demo.IDemo.")).collect();
    assert!(to_demo.len() >= 4, "{calls}");
    for line in &to_demo {
        for part in [
            "demo_client ",
            " -> demo_service ",
            " = replied <total ",
            "queue ",
            "service ",
            " handle=",
            " node=",
            " service=bindervm.traced ",
            " code=",
            " flags=",
            " size=",
            " reply_size=",
        ] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
    // What the built-in table of AOSP 14 knows is decoded.
    let registration = calls.lines().find(|line| line.contains("android.os.IServiceManager.addService("));
    for part in ["(name=\"bindervm.traced\", service=binder(node ", "allowIsolated=false", " handle=0 "] {
        assert!(registration.is_some_and(|line| line.contains(part)), "no {part:?} in {calls}");
    }
    assert!(calls.contains("checkService(name=\"bindervm.traced\") = binder(node "), "{calls}");
    // Each call at its own guest time, to the nanosecond.
    let mut times: Vec<_> = to_demo.iter().map(|line| line.split_whitespace().next()).collect();
    times.dedup();
    assert_eq!(times.len(), to_demo.len(), "{to_demo:#?}");
    // Client and server are different processes, the same two in every call.
    let ends: Vec<_> = to_demo
        .iter()
        .map(|line| line.split_whitespace().nth(3).zip(line.split_whitespace().nth(6)))
        .collect();
    assert!(ends.iter().all(|pair| pair.is_some_and(|(from, to)| from != to)), "{ends:?}");
}

#[test]
fn the_trace_counts_every_command_that_the_guest_counts() {
    let ended = Guest::of("minimal").traced().run(["/bin/conformance", "count"]).expect(0).leaves_nothing();
    // Lines such as `count pid=84 is manager` name the processes.
    let is_count = |line: &&str| line.starts_with("count ") && !line.contains(" is ");
    let guest: Vec<_> = ended.stdout.lines().filter(is_count).collect();
    assert!(guest.len() > 10, "{ended}");
    let host = ended.trace(["--counts"]);
    let mut guest: Vec<_> = guest.into_iter().map(str::to_owned).collect();
    let mut host: Vec<_> = host.lines().map(str::to_owned).collect();
    guest.sort();
    host.sort();
    assert_eq!(guest, host, "{ended}");
}

#[test]
fn handles_nodes_and_buffers_survive_a_stress_and_nothing_is_left() {
    Guest::of("minimal").run(["/bin/conformance", "stress", "200x"]).expect(0).leaves_nothing();
}

#[test]
fn the_kernels_own_driver_serves_the_same_image() {
    let ended = Guest::of("aosp14").with(["--binder", "kernel"]).run(["service", "list"]).expect(0);
    assert!(ended.stdout.starts_with("Found 1 services:"), "{ended}");
    assert_eq!(ended.status["binder"]["messages"], 0);
}

#[test]
fn a_reader_that_goes_away_hangs_the_command_up() {
    let folder = tempfile::tempdir().unwrap();
    let status = folder.path().join("status.json");
    // One that dies of it, and one that does not listen.
    for command in [["yes", "", ""], ["sh", "-c", "trap '' HUP; while echo y; do :; done"]] {
        let mut run = bindervm()
            .args(["run", "minimal", "--engine", "soft", "--timeout", "5m", "--status"])
            .arg(&status)
            .arg("--")
            .args(command.iter().filter(|word| !word.is_empty()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = [0; 2];
        run.stdout.take().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"y\n");
        assert_eq!(run.wait().unwrap().code(), Some(0), "{command:?}");
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&status).unwrap()).unwrap();
        assert_eq!(told["ended"], "hung-up", "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_is_249() {
    for option in ["--console-log", "--events", "--status", "--trace"] {
        let args = ["run", "minimal", "--engine", "soft", option, "/dev/full", "--", "true"];
        let (code, output) = tests::bindervm_with(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code, 249, "{option}: {said}");
        assert!(said.contains("No space left"), "{option}: {said}");
    }
}
