//! PUSHF and POPF.

use super::{Mode, Trial};
use crate::native::random::Random;
use crate::native::state::State;

/// The flags that do something at once.
const TF: u64 = 1 << 8;
const NT: u64 = 1 << 14;
const AC: u64 = 1 << 18;

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for mode in Mode::ALL {
        for (popped, pushed) in [(2, 2), (2, 4), (2, 8), (4, 2), (4, 4), (8, 2), (8, 8)] {
            let (Some(pop), Some(push)) = (mode.stack_prefix(popped), mode.stack_prefix(pushed)) else {
                continue;
            };
            // push [er]ax; popf; pushf; pop [er]bx
            let code = [pop, &[0x50], pop, &[0x9d], push, &[0x9c], push, &[0x5b], &[0x90, 0x90]].concat();
            let name = format!("popf of {popped}, pushf of {pushed}, {mode:?}");
            let one_bit = (0..64).map(|bit| 1 << bit);
            let all = [0, !0, !TF, !(TF | AC), !(TF | NT)];
            let values: Vec<u64> = one_bit.chain(all).chain((0..200).map(|_| random.next())).collect();
            for value in values {
                let mut before = State::random(random);
                before.gpr[0] = value;
                run(Trial::new(&name, mode, &code, before));
            }
        }
    }
}
