//! The example plans that need more than the default images, and faults on AOSP 14's own tests.
//!
//! `ci/test --all plans` runs this; it needs the images `aosp14-tests` and `aosp10-tests`, and the programs
//! of `ci/examples/rsbinder`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::{Ended, Guest, bindervm, file};

/// Runs a plan; gives its exit code, `run.json`, and what was said.
fn run(plan: &Path, results: &Path) -> (i32, Value, String) {
    let mut command = bindervm();
    command.args(["test", "--engine", "soft", "--jobs", "2", "--timeout-scale", "4", "--results"]);
    let output = command.arg(results).arg(plan).output().unwrap();
    let run = fs::read(results.join("run.json")).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), serde_json::from_slice(&run).unwrap_or_default(), said)
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/examples").join(name)
}

/// Runs an example, which passes; gives its tests.
#[track_caller]
fn passes(name: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let (code, run, said) = run(&example(name), folder.path());
    assert_eq!(code, 0, "{said}");
    run["tests"].as_array().unwrap().clone()
}

/// The outcome of every case of a test.
fn cases<'a>(tests: &'a [Value], name: &str) -> Vec<(&'a str, &'a str)> {
    let test = tests.iter().find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let cases = test["attempts"][0]["roles"][0]["cases"]["cases"].as_array().unwrap();
    let word = |value: &'a Value| value.as_str().unwrap_or_default();
    cases.iter().map(|case| (word(&case["name"]), word(&case["outcome"]))).collect()
}

fn start(test: &Value) -> &str {
    test["attempts"][0]["roles"][0]["start"].as_str().unwrap_or_default()
}

#[test]
fn android_14s_programs_pass_on_guests_from_snapshots() {
    let tests = passes("aosp14-tests.toml");
    for test in &tests {
        assert_eq!(start(test), "restored", "{}", test["name"]);
    }
    for name in ["binderDriverInterfaceTest", "binderClearBufTest"] {
        assert_eq!(cases(&tests, &format!("{name}@host")), cases(&tests, &format!("{name}@kernel")));
    }
}

#[test]
fn android_10s_programs_pass_alike_on_both_drivers() {
    let tests = passes("aosp10-tests.toml");
    for name in
        ["binderDriverInterfaceTest", "binderLibTest", "binderSafeInterfaceTest", "binderTextOutputTest"]
    {
        let host = cases(&tests, &format!("{name}@host"));
        assert!(!host.is_empty(), "{name}");
        assert_eq!(host, cases(&tests, &format!("{name}@kernel")), "{name}");
    }
}

#[test]
fn clients_in_rust_pass_with_faults_and_without() {
    let tests = passes("rsbinder/plan.toml");
    let late = tests.iter().find(|test| test["name"] == "oneways-that-are-late").unwrap();
    let counts = &late["attempts"][0]["roles"][0]["run"]["faults"][0];
    assert!(counts["injected"].as_u64() > Some(5), "{counts}");
}

/// `binderLibTest` with rules; its recording replays.
fn lib_test(rules: &str, filter: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let faults = file(folder.path(), "faults.toml", rules.as_bytes());
    let guest = Guest::of("aosp14-tests").with(["--fast", "--faults", &faults]);
    let program = "/data/nativetest64/binderLibTest/binderLibTest";
    let ended =
        guest.traced_with(",replay").shell(&format!("{program} --gtest_filter={filter} 2>&1")).expect(0);
    let check = ended.trace(["--check"]);
    assert!(check.contains("the same: "), "{check}");
    ended
}

/// covers: B372
#[test]
fn a_freeze_that_is_interrupted_is_restarted_by_the_kernel() {
    let rules =
        "[[rules]]\non = \"freeze\"\nsender = \"binderLibTest\"\ntimes = 10\naction = \"signal-sender\"\n";
    let ended = lib_test(rules, "BinderLibTest.Freeze").prints(&["[  PASSED  ] 1 test."]);
    assert_eq!(ended.status["faults"][0]["injected"], 10, "{ended}");
    let trace = ended.trace([]);
    let calls = trace.lines().filter(|line| line.contains(" ioctl BINDER_FREEZE")).count();
    let ends = trace.lines().filter(|line| line.contains("ioctl_done BINDER_FREEZE")).count();
    assert!(calls >= ends + 10, "{calls} were begun, {ends} of them ended by themselves");
}

/// covers: B146, B147
#[test]
fn delayed_and_reordered_oneways_break_no_test() {
    let rule =
        |action| format!("[[rules]]\non = \"oneway\"\nchance = 0.3\ntimes = 1000\naction = \"{action}\"\n");
    let rules = rule("delay") + "deliver-after = 2\n" + &rule("reorder");
    // What fails without faults, too.
    let ended = lib_test(&rules, "-BinderLibTest.SchedPolicySet:BinderLibTest.InheritRt");
    for rule in [0, 1] {
        assert!(ended.status["faults"][rule]["injected"].as_u64() > Some(0), "{ended}");
    }
}

#[test]
fn a_policy_that_is_violated_is_told_with_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let plan = r#"
[guest.phone]
image = "aosp14"
[[test]]
name = "keeps-to-it"
command = ["service", "list"]
expect.policy = "method==addService && proc==service"
[[test]]
name = "does-not"
command = ["service", "check", "manager"]
expect.policy = ["method==addService && proc==service", 'method==checkService && proc==service']
"#;
    let path = file(folder.path(), "plan.toml", plan.as_bytes());
    let (code, results, said) = run(path.as_ref(), &folder.path().join("results"));
    assert_eq!(code, 8, "{said}");
    let tests = results["tests"].as_array().unwrap();
    let named = |name: &str| tests.iter().find(|test| test["name"] == name).unwrap();
    assert_eq!(named("keeps-to-it")["verdict"], "passed", "{said}");
    let violating = named("does-not");
    assert_eq!(violating["verdict"], "policy-violated", "{said}");
    let reason = violating["reasons"][0].as_str().unwrap();
    assert!(reason.contains("android.os.IServiceManager.checkService"), "{said}");
    for (wrong, why) in [
        ("expect.policy = \"method==\"", "in expect.policy"),
        ("isolation = \"shared\"\nexpect.policy = \"oneway\"", "a policy is judged by the recording"),
    ] {
        let plan = format!(
            "[guest.phone]\nimage = \"aosp14\"\n[[test]]\nname = \"x\"\ncommand = [\"true\"]\n{wrong}\n"
        );
        let path = file(folder.path(), "wrong.toml", plan.as_bytes());
        let (code, _, said) = run(path.as_ref(), &folder.path().join("results"));
        assert!(code == 2 && said.contains(why), "{code} {said}");
    }
}
