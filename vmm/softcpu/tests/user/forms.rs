//! Every form of instruction outside 64-bit mode.

use iced_x86::Code;

use super::{Mode, Trial};
use crate::native::forms;
use crate::native::generate::Generator;
use crate::native::random::Random;

/// Times that each form runs in each mode, unless `SOFTCPU_NATIVE_ROUNDS` says otherwise.
const ROUNDS: u64 = 12;

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    let rounds = crate::native::setting("SOFTCPU_NATIVE_ROUNDS").unwrap_or(ROUNDS);
    for (mode, bits) in [(Mode::Bits32, 32), (Mode::Bits16, 16)] {
        let generator = Generator::outside_64_bit_mode(bits);
        let (mut covered, mut skipped) = (0, Vec::new());
        for code in Code::values().filter(|&code| forms::is_eligible_in(bits, code)) {
            let mut any = false;
            for _ in 0..rounds {
                let Some(case) = generator.case(code, random) else { continue };
                any = true;
                let about = format!("{} from {:x?}", case.instructions[0], case.before.gpr);
                let mut trial =
                    Trial::new(format!("{code:?}, {mode:?}"), mode, &case.code, case.before.clone())
                        .about(about);
                trial.open_flags = case.undefined_flags();
                trial.open_codes = case.undefined_codes();
                trial.open_memory = case.ignored;
                run(trial);
            }
            if any {
                covered += 1;
            } else {
                skipped.push(code);
            }
        }
        println!("{covered} forms in {mode:?}; not generated: {skipped:?}");
    }
}
