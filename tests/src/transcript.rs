//! Transcripts of `guest/conformance`: what a driver did, case by case, and whether another did the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::Guest;

/// What Debian's `binder_linux` of Linux 6.1 did (recorded in QEMU by `guest/conformance/oracle-qemu.sh`).
pub const LINUX_6_1: &str = include_str!("../../guest/conformance/transcripts/linux-6.1.txt");
/// What the C driver of Linux 7.2 did, binderfs included (recorded on the image `oracle-kernel`).
pub const LINUX_7_2: &str = include_str!("../../guest/conformance/transcripts/linux-7.2.txt");

/// What Debian's `binder_linux` of Linux 6.12 did (recorded on our CPU).
pub const LINUX_6_12: &str = include_str!("../../guest/conformance/transcripts/linux-6.12.txt");

/// Plays all cases in a guest of `image`; with `binderfs` also those that need it.
pub fn play<const N: usize>(image: &str, options: [&str; N], binderfs: bool) -> String {
    // Without the kernel's rate-limited complaints about what the cases do wrong.
    let all = "dmesg -n 1; conformance run";
    let script = if binderfs { format!("{all} && conformance run binderfs") } else { all.to_owned() };
    Guest::of(image).with(options).shell(&script).expect(0).stdout
}

/// The lines of each case. Every line begins with the name of its case; what does not (the kernel's
/// version) is no case.
pub fn cases(transcript: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut cases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in transcript.lines().filter(|line| !line.starts_with("kernel ")) {
        let name = line.trim_start_matches("== ").split([' ', ':']).next().unwrap_or_default();
        cases.entry(name).or_default().push(line);
    }
    cases
}

/// Cases in which the host's driver does something else on purpose, and why.
pub const DECISIONS: &[(&str, &str)] = &[
    ("freeze-unknown", "the kernel's wait overflows for a timeout of 2^32-1 ms and fails; ours waits"),
    ("quirk-write-past-end", "B068: commands are not read past write_size"),
    ("quirk-exit-drops-node-work", "B248: node work of an exiting thread goes to the process"),
    ("quirk-lost-oneway-blocks", "B075: a buffer whose delivery faulted is freed"),
];

/// Both have the same cases, and each case the same lines but for those in `decisions` (case, reason),
/// which have to differ.
#[track_caller]
pub fn compare(ours: &str, oracle: &str, decisions: &[(&str, &str)]) {
    let (ours, oracle) = (cases(ours), cases(oracle));
    assert!(oracle.len() > 150, "the stored transcript has {} cases", oracle.len());
    assert_eq!(ours.keys().collect::<Vec<_>>(), oracle.keys().collect::<Vec<_>>());

    let decided: BTreeSet<&str> = decisions.iter().map(|(case, _)| *case).collect();
    let mut wrong = Vec::new();
    for (case, lines) in &oracle {
        match (ours[case] == *lines, decided.contains(case)) {
            (true, false) | (false, true) => {}
            (true, true) => wrong.push(format!("{case} is a decision, but does not differ")),
            (false, false) => {
                let pairs = lines.iter().zip(&ours[case]);
                let differ: Vec<_> = pairs.filter(|(theirs, ours)| theirs != ours).collect();
                let (theirs, ours) = (lines.len(), ours[case].len());
                wrong.push(format!("{case}, {theirs} and {ours} lines: {differ:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
