//! x87 instructions against the host's own CPU.

mod native;

use native::forms::is_x87;

#[test]
fn every_x87_form_gives_what_the_host_gives() {
    native::compare_forms(5, is_x87);
}

#[test]
fn x87_sequences_give_what_the_host_gives() {
    native::compare_sequences(6, 4, is_x87);
}
