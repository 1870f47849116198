//! AOSP's own tests, of Android 14 and of Android 10, on the host's driver and on the kernel's: every case ends alike.
//!
//! `ci/test --all aosp` runs this; it needs the images `aosp14-tests` and `aosp10-tests`. Which cases do not
//! pass on the kernel's driver is written down here, so that a case that stops running is noticed.

use std::collections::BTreeMap;

use serde_json::Value;
use tests::{Ended, Guest};

/// Cases of `aosp14-tests` that do not pass on mainline's driver, and why.
const NOT_PASSED_14: &[(&str, &str)] = &[
    ("binderLibTest:BinderLibTest.SchedPolicySet failed", "mainline's driver has no policy per node"),
    ("binderLibTest:BinderLibTest.InheritRt failed", "mainline's driver has no INHERIT_RT"),
    (
        "binderStabilityTest:BinderStability.VintfStabilityServerMustBeDeclaredInManifest failed",
        "servicemanager is built without libvintf",
    ),
    ("binderLibTest:BinderLibRpcTest.SetRpcClientDebug skipped", NOT_DEBUGGABLE),
    ("binderLibTest:BinderLibRpcTest.SetRpcClientDebugTwice skipped", NOT_DEBUGGABLE),
    ("binderLibTest:BinderLibTest/BinderLibRpcTestP.SetRpcClientDebugNoFd/local skipped", NOT_DEBUGGABLE),
    ("binderLibTest:BinderLibTest/BinderLibRpcTestP.SetRpcClientDebugNoFd/remote skipped", NOT_DEBUGGABLE),
    (
        "binderLibTest:BinderLibTest/BinderLibRpcTestP.SetRpcClientDebugNoKeepAliveBinder/local skipped",
        NOT_DEBUGGABLE,
    ),
    (
        "binderLibTest:BinderLibTest/BinderLibRpcTestP.SetRpcClientDebugNoKeepAliveBinder/remote skipped",
        NOT_DEBUGGABLE,
    ),
    ("servicemanager_test:Vintf.UpdatableViaApex skipped", NO_VINTF),
    ("servicemanager_test:Vintf.UpdatableViaApex_InvalidNameReturnsNullOpt skipped", NO_VINTF),
    ("servicemanager_test:Vintf.GetUpdatableNames skipped", NO_VINTF),
    ("servicemanager_test:Vintf.GetUpdatableNames_InvalidApexNameReturnsEmpty skipped", NO_VINTF),
];
const NOT_DEBUGGABLE: &str = "not a debuggable build (ro.debuggable)";
const NO_VINTF: &str = "servicemanager is built without libvintf";

/// Runs every gtest program of the image, then what is no gtest program. A line `result NAME STATUS` after each.
const SCRIPT: &str = r#"
dmesg -n 1
tests=/data/nativetest64
for test in $(ls $tests); do
    case $test in binderThroughputTest|schd-dbg) continue;; esac
    $tests/$test/$test --gtest_output=json:/tmp/$test.json >/tmp/$test.out 2>&1
    echo "result $test $?"
    [ -e /tmp/$test.json ] || cat /tmp/$test.out
    echo "json $test $(tr '\n' ' ' < /tmp/$test.json)"
done
$tests/binderThroughputTest/binderThroughputTest -w 4 -i 200 -s 64 -p > /tmp/pairs 2>&1
echo "result binderThroughputTest-pairs $?"
$tests/binderThroughputTest/binderThroughputTest -w 3 -i 200 -s 4096 > /tmp/all 2>&1
echo "result binderThroughputTest-all $?"
$tests/schd-dbg/schd-dbg -p 2 -i 20 > /tmp/schd 2>&1
echo "result schd-dbg $? $(grep inheritance /tmp/schd)"
"#;

/// What became of each case: `PROGRAM:SUITE.CASE` to `passed`, `failed` or `skipped`; for what is not gtest,
/// the program to its exit status.
fn outcomes(image: &str, options: [&str; 4]) -> BTreeMap<String, String> {
    let ended = Guest::of(image).with(options).shell(SCRIPT).expect(0);
    let mut outcomes = BTreeMap::new();
    for line in ended.stdout.lines() {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("result"), Some(program), Some(status)) => {
                outcomes.insert(program.to_owned(), status.to_owned());
            }
            (Some("json"), Some(program), Some(json)) => {
                outcomes.extend(cases(program, json, &ended));
            }
            _ => {}
        }
    }
    assert!(outcomes.len() > 100, "too few results\n{ended}");
    outcomes
}

/// The cases of gtest's JSON report.
fn cases<'a>(
    program: &'a str,
    json: &str,
    ended: &Ended,
) -> impl Iterator<Item = (String, String)> + use<'a> {
    let report: Value =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{program}: {error}\n{ended}"));
    let suites = report["testsuites"].as_array().cloned().unwrap_or_default();
    suites.into_iter().flat_map(move |suite| {
        let cases = suite["testsuite"].as_array().cloned().unwrap_or_default();
        let suite = suite["name"].as_str().unwrap_or_default().to_owned();
        cases.into_iter().map(move |case| {
            let outcome = match (case["result"].as_str(), case.get("failures")) {
                (_, Some(_)) => "failed",
                (Some("COMPLETED"), None) => "passed",
                (Some("SKIPPED"), None) => "skipped",
                (other, None) => panic!("{program}: {other:?} is no result"),
            };
            (format!("{program}:{suite}.{}", case["name"].as_str().unwrap_or_default()), outcome.to_owned())
        })
    })
}

/// The cases that did not pass, as `NAME OUTCOME`.
fn not_passed(outcomes: &BTreeMap<String, String>) -> Vec<String> {
    let gtest = outcomes.iter().filter(|(name, _)| name.contains(':'));
    gtest
        .filter(|(_, outcome)| *outcome != "passed")
        .map(|(name, outcome)| format!("{name} {outcome}"))
        .collect()
}

#[track_caller]
fn assert_equal(host: &BTreeMap<String, String>, kernel: &BTreeMap<String, String>) {
    let names = host.keys().chain(kernel.keys());
    let mut differ: Vec<_> = names.filter(|name| host.get(*name) != kernel.get(*name)).collect();
    differ.dedup();
    let differ: Vec<_> = differ.into_iter().map(|name| (name, host.get(name), kernel.get(name))).collect();
    assert!(differ.is_empty(), "host's driver and kernel's driver differ: {differ:#?}");
}

#[test]
fn android_14s_tests_end_on_the_hosts_driver_as_on_the_kernels() {
    let kernel = outcomes("aosp14-tests", ["--binder", "kernel", "--binder-profile", "linux-6.1"]);
    let host = outcomes("aosp14-tests", ["--binder", "host", "--binder-profile", "linux-6.1"]);
    let mut expected: Vec<_> = NOT_PASSED_14.iter().map(|(case, _)| (*case).to_owned()).collect();
    expected.sort();
    assert_eq!(not_passed(&kernel), expected);
    assert_equal(&host, &kernel);
    assert_eq!(host["binderThroughputTest-pairs"], "0");
    assert_eq!(host["schd-dbg"], "0 \"inheritance\": \"PASS\"");
}

/// covers: B327, B457
#[test]
fn the_aosp_profile_passes_what_needs_androids_scheduling() {
    let linux =
        ["binderLibTest:BinderLibTest.SchedPolicySet failed", "binderLibTest:BinderLibTest.InheritRt failed"];
    let aosp = outcomes("aosp14-tests", ["--binder", "host", "--binder-profile", "aosp"]);
    let expected = NOT_PASSED_14.iter().map(|(case, _)| *case).filter(|case| !linux.contains(case));
    let mut expected: Vec<_> = expected.map(str::to_owned).collect();
    expected.sort();
    assert_eq!(not_passed(&aosp), expected);
    assert_eq!(aosp["schd-dbg"], "0 \"inheritance\": \"PASS\"");
}

#[test]
fn android_10s_tests_end_on_the_hosts_driver_as_on_the_kernels() {
    let kernel = outcomes("aosp10-tests", ["--binder", "kernel", "--binder-profile", "linux-6.1"]);
    let host = outcomes("aosp10-tests", ["--binder", "host", "--binder-profile", "linux-6.1"]);
    assert_eq!(not_passed(&kernel), Vec::<String>::new());
    assert_equal(&host, &kernel);
    assert_eq!(host["schd-dbg"], "0 \"inheritance\": \"PASS\"");
}

#[test]
fn android_10s_tools_work_on_both_drivers() {
    let run = |driver| {
        // What bctest publishes ends with it: servicemanager hears of the death.
        let ended = Guest::of("aosp10-tests").with(["--binder", driver]).shell(
            "service list; vndservice list
             bctest publish example.one 2>&1 | sed 's/[0-9a-f]*$//'
             bctest lookup example.one 2>&1; service check example.one; service list",
        );
        ended.expect(0).stdout
    };
    let host = run("host");
    assert_eq!(host, run("kernel"));
    assert!(host.contains("lookup(example.one) = 0"), "{host}");
    assert!(host.contains("Service example.one: not found"), "{host}");
}
