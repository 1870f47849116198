//! Lists from fuzz input: the strategies of the property tests, with pieces of the input for randomness.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What `strategy` makes of each four bytes of the input, for at most `max` of them.
///
/// The bytes are a seed. So the fuzzer can cut a list, repeat parts of it and join two, and an item stays
/// what it was. (Proptest's own way to take the input itself as random numbers gives half of what is left to
/// each choice, and a number that is drawn by rejection from the zeros behind the end is never found.)
pub fn list<S: Strategy>(strategy: S, input: &[u8], max: usize) -> Vec<S::Value> {
    let item = |piece: &[u8]| {
        let mut seed = [0; 32];
        seed[..piece.len()].copy_from_slice(piece);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        Some(strategy.new_tree(&mut runner).ok()?.current())
    };
    input.chunks(4).take(max).filter_map(item).collect()
}
