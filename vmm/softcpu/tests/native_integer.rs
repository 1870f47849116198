//! Integer instructions against the host's own CPU.

mod native;

use iced_x86::Code;
use native::forms::{is_vector, is_x87};

fn is_integer(code: Code) -> bool {
    !is_vector(code) && !is_x87(code)
}

#[test]
fn every_integer_form_gives_what_the_host_gives() {
    native::compare_forms(1, is_integer);
}

#[test]
fn integer_sequences_give_what_the_host_gives() {
    native::compare_sequences(2, 10, is_integer);
}

#[test]
fn control_goes_where_the_host_goes() {
    native::compare_programs(9, &native::transfers::programs());
}
