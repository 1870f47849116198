//! MMX and SSE instructions against the host's own CPU.

mod native;

use native::forms::is_vector;

#[test]
fn every_vector_form_gives_what_the_host_gives() {
    native::compare_forms(3, is_vector);
}

#[test]
fn vector_sequences_give_what_the_host_gives() {
    native::compare_sequences(4, 8, is_vector);
}
