//! A long life: mixed transactions among clients that are killed, interrupted, frozen and short of space.
//!
//! `BINDERVM_SOAK` is the number of transactions, `BINDERVM_SOAK_SEED` what they follow from. The same seed
//! repeats a run exactly.

use std::time::Duration;

use tests::Guest;
use tests::memory::Resident;

/// What fits into a group of `ci/test --all` on two busy cores.
const TRANSACTIONS: u64 = 60_000;
/// Wall time of a soak at most, however many transactions were asked for.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
/// KiB by which the heap of the host may be larger at any moment of a run than it was in its first tenth.
/// What may still grow then is bounded elsewhere: decoded code of the guest (the paths of its kernel that
/// run seldom) and the names of threads that are gone. Half of this is 4 bytes for each of a million
/// transactions; the smallest thing that could be left of one in the core or the device has 16.
const GROWTH: u64 = 8 << 10;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn a_long_life_leaves_nothing_and_takes_no_more_memory() {
    let (transactions, seed) = (number("BINDERVM_SOAK", TRANSACTIONS), number("BINDERVM_SOAK_SEED", 2026));
    println!("soak: {transactions} transactions, seed {seed}");
    let script = format!("/bin/conformance soak {transactions} {seed} || exit 1; dmesg");
    let run = Guest::of("minimal").within(LIMIT).watching_memory().shell(&script).expect(0).leaves_nothing();
    let bad = |line: &&str| ["WARNING", "BUG", "Oops", "Call Trace"].iter().any(|word| line.contains(word));
    let complaints: Vec<_> = run.stdout.lines().filter(bad).collect();
    assert!(complaints.is_empty(), "the guest's kernel complains: {complaints:?}");
    let told = run.stdout.lines().find(|line| line.starts_with("soak transactions=")).expect("a summary");
    for what in ["refused", "oneways", "files", "kills", "freezes", "signals"] {
        assert!(count(told, what) > 0, "no {what} in {told}");
    }
    let (first, rest) = run.resident.split_at(run.resident.len().div_ceil(10));
    let most = |samples: &[Resident]| samples.iter().map(|sample| sample.heap).max().expect("it was watched");
    let (before, after) = (most(first), most(rest));
    let last = run.resident.last().expect("it was watched");
    println!("{told}");
    println!(
        "KiB of the host: heap {before} in the first tenth, at most {after} later; at the end RAM {} of {}, program and compiled code {}",
        last.ram, last.ram_size, last.named
    );
    assert!(after <= before + GROWTH, "the host's heap grew: {:?}", run.resident);
}

/// A figure of the summary, which is `soak` and `NAME=NUMBER` for each.
fn count(told: &str, name: &str) -> u64 {
    let figure = told.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {name} in {told:?}"))
}
