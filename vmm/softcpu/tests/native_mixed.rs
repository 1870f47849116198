//! Sequences of everything, so that blocks mix integer, vector and x87 instructions.

mod native;

#[test]
fn mixed_sequences_give_what_the_host_gives() {
    native::compare_sequences(7, 12, |_| true);
}
