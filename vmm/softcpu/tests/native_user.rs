//! What a program sees of flags, segments, privilege and modes: the host's CPU and the software one agree on the
//! whole state behind each instruction, or on the exception that it meets.
//!
//! The segments are Linux's own and, made with `modify_ldt`, all kinds that Linux lets a program have; the
//! software CPU gets the local descriptors as the host has them.

mod board;
mod native;
mod process;
mod user;

use native::random::Random;
use user::Comparison;

#[test]
fn flags_are_what_the_host_makes_of_them() {
    compare(20, user::flags::trials);
}

#[test]
fn privileged_and_undefined_instructions_are_denied_as_on_the_host() {
    compare(21, user::denied::trials);
}

#[test]
fn segment_registers_take_what_the_host_takes() {
    compare(22, user::selectors::loads);
}

#[test]
fn descriptors_are_told_as_the_host_tells_them() {
    compare(23, user::selectors::queries);
}

#[test]
fn far_transfers_go_where_the_host_goes() {
    compare(24, user::far::trials);
}

#[test]
fn segments_bound_what_they_bound_on_the_host() {
    compare(25, user::limits::trials);
}

#[test]
fn every_form_outside_64_bit_mode_gives_what_the_host_gives() {
    compare(26, user::forms::trials);
}

#[test]
fn near_transfers_outside_64_bit_mode_go_where_the_host_goes() {
    compare(27, user::near::trials);
}

fn compare(test: u64, trials: impl Fn(&mut Random, &mut dyn FnMut(user::Trial))) {
    let mut random = native::random(test);
    let Some(mut comparison) = Comparison::new() else { return };
    trials(&mut random, &mut |trial| comparison.run(&trial));
    comparison.finish();
}
