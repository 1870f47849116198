//! Faults on real guests: what a rule says happens, is in the recording, and the recording replays.

use tests::{Ended, Guest, bindervm, bindervm_with, file};

/// Runs a script in a guest with these rules.
fn run(rules: &str, script: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let faults = file(folder.path(), "faults.toml", rules.as_bytes());
    let guest = Guest::of("aosp14").with(["--fast", "--faults", &faults]);
    guest.traced_with(",replay").shell(script).expect(0)
}

/// So many faults of this kind are counted and recorded, and the recording replays.
#[track_caller]
fn injected(ended: &Ended, kind: &str, count: usize) {
    assert_eq!(ended.status["faults"][0]["injected"], count, "{ended}");
    let lines = ended.trace([]);
    let told = lines.lines().filter(|line| line.contains(&format!("fault={kind} rule=1"))).count();
    assert_eq!(told, count, "{lines}");
    let check = ended.trace(["--check"]);
    assert!(check.contains("the same: "), "{check}");
}

#[test]
fn a_call_of_one_program_fails_and_the_next_does_not() {
    let rules = "[[rules]]\ninterface = \"android.os.IServiceManager\"\nsender = \"service\"\n\
                 receiver = \"servicemanager\"\naction = \"dead-reply\"\n";
    let ended = run(rules, "service list; service list").prints(&["Found 0 services:", "Found 1 services:"]);
    injected(&ended, "Dead", 1);
    let calls = ended.trace(["--calls", "--filter", "result!=ok"]);
    assert!(calls.contains("listServices") && calls.contains("BR_DEAD_REPLY"), "{calls}");
}

#[test]
fn a_receiver_is_killed_before_it_answers() {
    let rules = "[[rules]]\ninterface = \"bindervm.demo.IDemo\"\nreceiver = \"demo_service\"\nnth = 3\n\
                 action = \"kill-receiver\"\n";
    let script = "demo_service bindervm.x & demo_client bindervm.x 5; wait $!; echo service $?";
    let ended = run(rules, script).prints(&["service 137"]);
    assert!(ended.stdout.contains("DEAD_OBJECT"), "{ended}");
    injected(&ended, "KillReceiver", 1);
    ended.leaves_nothing();
}

#[test]
fn interrupted_waits_go_on() {
    let ended = run("[[rules]]\nsender = \"service\"\ntimes = 3\naction = \"interrupt\"\n", "service list");
    injected(&ended.prints(&["Found 1 services:"]), "Interrupt", 3);
}

#[test]
fn a_sender_is_killed_and_its_service_goes_on() {
    let rules = "[[rules]]\ninterface = \"bindervm.demo.IDemo\"\nsender = \"demo_client\"\nnth = 3\n\
                 action = \"kill-sender\"\n";
    let script = "demo_service bindervm.x & demo_client bindervm.x 5; echo client $?
                  demo_client bindervm.x 5; echo then $?; kill $!";
    let ended = run(rules, script).prints(&["client 137", "then 0"]);
    injected(&ended, "KillSender", 1);
    ended.leaves_nothing();
}

/// covers: B344, B350
#[test]
fn an_exhausted_buffer_is_really_full() {
    let rules =
        "[[rules]]\ninterface = \"bindervm.demo.IDemo\"\nnth = 2\nfree-after = 2\naction = \"exhaust\"\n";
    let client = "demo_client bindervm.x 5; echo ended $?";
    let script = format!("demo_service bindervm.x & {client}; {client}; {client}; kill $!");
    let ended = run(rules, &script).prints(&["ended 1", "ended 0", "ended 0"]);
    injected(&ended, "Exhaust", 1);
    let full = ended.trace(["--calls", "--filter", "errno==-28"]);
    assert_eq!(full.lines().filter(|line| line.contains("BR_FAILED_REPLY")).count(), 2, "{full}");
    ended.leaves_nothing();
}

/// covers: B086
#[test]
fn a_sender_that_gets_real_signals_goes_on() {
    let rules = "[[rules]]\nsender = \"demo_client\"\ntimes = 5\naction = \"signal-sender\"\n";
    let script = "demo_service bindervm.x & demo_client bindervm.x 50; code=$?; kill $!; exit $code";
    let ended = run(rules, script);
    assert!(ended.stdout.contains("add(i, 1) x 50           = all right"), "{ended}");
    injected(&ended, "Signal", 5);
}

#[test]
fn the_example_plan_passes() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/examples/faults.toml");
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    let mut command = bindervm();
    command.args(["test", plan, "--engine", "soft", "--jobs", "2", "--results"]).arg(&results);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let run: serde_json::Value =
        serde_json::from_slice(&std::fs::read(results.join("run.json")).unwrap()).unwrap();
    for test in run["tests"].as_array().unwrap() {
        let counts = &test["attempts"][0]["roles"][0]["run"]["faults"][0];
        assert!(counts["injected"].as_u64() > Some(0), "{test}");
    }
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (rules, expected) in [
        ("[[rules]]\non = \"reply\"\naction = \"frozen-reply\"\n", "rule 1: only calls"),
        ("[[rules]]\naction = \"explode\"\n", "unknown variant `explode`"),
        ("[[rules]]\naction = \"delay\"\n", "rule 1: only what is oneway"),
        ("[[rule]]\n", "unknown field `rule`"),
    ] {
        let path = file(folder.path(), "faults.toml", rules.as_bytes());
        let (code, output) =
            bindervm_with(&["run", "aosp14", "--engine", "soft", "--faults", &path, "--", "true"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code, 240, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
