//! A run with the virtual clock repeats exactly, whatever the seed; another seed is another run.

use tests::Guest;

/// What a run leaves: instructions, output, trace.
type Left = (u64, String, Vec<u8>);

/// Services and clients, on two CPUs where a seed has something to choose from.
fn run(options: [&str; 4]) -> Left {
    let ended = Guest::of("aosp14")
        .with(options)
        .traced()
        .shell("demo_service bindervm.again & demo_client bindervm.again 50; service list; kill %1; wait")
        .expect(0);
    let trace = std::fs::read(ended.trace_file()).unwrap();
    let instructions = ended.status["run"]["instructions"].as_u64().expect("the soft engine counts");
    (instructions, ended.stdout, trace)
}

/// The same three times.
#[track_caller]
fn repeated(options: [&str; 4]) -> Left {
    let first = run(options);
    for _ in 0..2 {
        let again = run(options);
        assert_eq!(first.0, again.0, "instructions");
        assert_eq!(first.1, again.1, "output");
        assert!(first.2 == again.2, "traces differ");
    }
    first
}

#[test]
fn the_same_run_three_times_gives_the_same_instructions_output_and_trace() {
    repeated(["--cpus", "1", "--seed", "0"]);
}

#[test]
fn each_seed_repeats_and_two_seeds_differ() {
    let first = repeated(["--cpus", "2", "--seed", "1"]);
    let second = repeated(["--cpus", "2", "--seed", "2"]);
    assert_ne!(first.0, second.0, "instructions of two seeds");
    assert!(first.2 != second.2, "traces of two seeds");
}
