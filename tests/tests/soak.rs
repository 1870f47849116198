//! A long life: mixed transactions among clients that are killed, interrupted, frozen and short of space.
//!
//! `BINDERVM_SOAK` is the number of transactions, `BINDERVM_SOAK_SEED` what they follow from. The same seed
//! repeats a run exactly.

use std::time::Duration;

use tests::Guest;

/// What fits into a group of `ci/test --all` on two busy cores.
const TRANSACTIONS: u64 = 60_000;
/// Wall time of a soak at most, however many transactions were asked for.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
/// KiB that the host may have more at the end than in the first half: the JIT goes on to find code.
const GROWTH: u64 = 16 << 10;

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
        assert!(!told.contains(&format!(" {what}=0 ")), "no {what} in {told}");
    }
    let (first, second) = run.resident.split_at(run.resident.len() / 2);
    let (before, after) = (first.iter().max().expect("it was watched"), second.iter().max().expect("twice"));
    println!("{told}; resident {before} KiB, later {after} KiB");
    assert!(*after <= before + GROWTH, "the host grew: {:?}", run.resident);
}
