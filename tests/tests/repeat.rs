//! A run with the virtual clock repeats exactly.

use tests::Guest;

#[test]
fn the_same_run_three_times_gives_the_same_instructions_output_and_trace() {
    let run = || {
        let ended = Guest::of("aosp14")
            .traced()
            .shell("demo_service bindervm.again & demo_client bindervm.again 50; service list; kill %1; wait")
            .expect(0);
        let trace = std::fs::read(ended.trace_file()).unwrap();
        (ended.status["run"]["instructions"].clone(), ended.stdout, trace)
    };
    let first = run();
    assert!(first.0.as_u64().is_some_and(|count| count > 0));
    for _ in 0..2 {
        let again = run();
        assert_eq!(first.0, again.0, "instructions");
        assert_eq!(first.1, again.1, "output");
        assert!(first.2 == again.2, "traces differ");
    }
}
