//! The host's driver against the kernel's: the same raw ioctls, line by line.
//!
//! The oracle is `binder_linux` of the same kernel; `guest/conformance/transcripts/linux-6.1.txt` is
//! what it did (recorded in QEMU by `guest/conformance/oracle-qemu.sh`). A case that differs is a bug,
//! unless it stands in [`DECISIONS`]; a case there that does not differ any more is a bug of the list.

use std::collections::{BTreeMap, BTreeSet};

use tests::Guest;

/// Cases in which the host's driver does something else on purpose, and why.
const DECISIONS: &[(&str, &str)] = &[
    ("freeze-unknown", "the kernel's wait overflows for a timeout of 2^32-1 ms and fails; ours waits"),
    ("quirk-write-past-end", "B068: commands are not read past write_size"),
    ("quirk-exit-drops-node-work", "B248: node work of an exiting thread goes to the process"),
    ("quirk-lost-oneway-blocks", "B075: a buffer whose delivery faulted is freed"),
];

const TRANSCRIPT: &str = include_str!("../../guest/conformance/transcripts/linux-6.1.txt");

fn transcript_of(options: [&str; 4]) -> String {
    // Without the kernel's rate-limited complaints about what the cases do wrong.
    let ended = Guest::of("minimal").with(options).shell("dmesg -n 1; conformance run");
    ended.expect(0).stdout
}

/// The lines of each case. Every line begins with the name of its case; what does not (the kernel's
/// version) is no case.
fn cases(transcript: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut cases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in transcript.lines().filter(|line| !line.starts_with("kernel ")) {
        let name = line.trim_start_matches("== ").split([' ', ':']).next().unwrap_or_default();
        cases.entry(name).or_default().push(line);
    }
    cases
}

#[test]
fn the_host_driver_does_what_linux_6_1_does() {
    let ours = transcript_of(["--binder", "host", "--binder-profile", "linux-6.1"]);
    let (ours, oracle) = (cases(&ours), cases(TRANSCRIPT));
    assert!(oracle.len() > 150, "the stored transcript has {} cases", oracle.len());
    assert_eq!(ours.keys().collect::<Vec<_>>(), oracle.keys().collect::<Vec<_>>());

    let decided: BTreeSet<&str> = DECISIONS.iter().map(|(case, _)| *case).collect();
    let mut wrong = Vec::new();
    for (case, lines) in &oracle {
        match (ours[case] == *lines, decided.contains(case)) {
            (true, false) | (false, true) => {}
            (true, true) => wrong.push(format!("{case} is a decision, but does not differ")),
            (false, false) => {
                let pairs = lines.iter().zip(&ours[case]);
                let differ: Vec<_> = pairs.filter(|(theirs, ours)| theirs != ours).collect();
                wrong.push(format!("{case}: {differ:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernels_driver_on_the_software_cpu_does_what_it_did_in_qemu() {
    let ours = transcript_of(["--binder", "kernel", "--binder-profile", "linux-6.1"]);
    let (ours, oracle) = (cases(&ours), cases(TRANSCRIPT));
    for (case, lines) in &oracle {
        assert_eq!(&ours[case], lines, "{case}");
    }
}
