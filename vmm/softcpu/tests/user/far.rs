//! Far jumps, calls and returns to other segments and modes.

use std::fmt::{self, Display};

use super::{LANDING_AT, Mode, Trial, base_of, few_selectors};
use crate::native::program::USER_DATA;
use crate::native::random::Random;
use crate::native::state::{State, window};

const RBX: usize = 3;
const RSP: usize = 4;

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for mode in Mode::ALL {
        for selector in few_selectors() {
            for target in targets(selector) {
                let far = Far { mode, selector, target };
                for size in [2, 4] {
                    far.through_memory(size, random, run);
                    far.direct(size, random, run);
                }
                for size in [2, 4, 8] {
                    far.returns(size, random, run);
                    far.interrupt_returns(size, random, run);
                }
            }
        }
    }
    from_a_nested_task(random, run);
}

/// Offsets to go to: the landing place, and what lies beyond the end of one segment or another.
fn targets(selector: u16) -> [u64; 3] {
    [LANDING_AT - base_of(selector), 0x1_1701, 0xffff_1703]
}

fn words(size: u8, values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()[..size as usize].to_vec()).collect()
}

/// A way from code of one mode to another segment.
#[derive(Clone, Copy)]
struct Far {
    mode: Mode,
    selector: u16,
    target: u64,
}

impl Far {
    /// Offset and selector as they are on a stack, in words of so many bytes.
    fn pointer(self, size: u8) -> Vec<u8> {
        words(size, &[self.target, self.selector.into()])
    }

    /// JMP and CALL through a pointer at [RBX].
    fn through_memory(self, size: u8, random: &mut Random, run: &mut dyn FnMut(Trial)) {
        let mode = self.mode;
        for (name, modrm) in [("jmp", 0x2b), ("call", 0x1b)] {
            let mut before = State::random(random);
            before.gpr[RBX] = window::CENTRE;
            put(&mut before, window::CENTRE, &self.pointer(size));
            let code = [&mode.prefixes(size)[..], &[0xff, modrm]].concat();
            let name = format!("{name} through memory, {size}, {mode:?}");
            run(Trial::calling(name, mode, &code, before).about(self.to_string()));
        }
    }

    /// JMP and CALL to a pointer in the instruction.
    fn direct(self, size: u8, random: &mut Random, run: &mut dyn FnMut(Trial)) {
        let mode = self.mode;
        if mode == Mode::Long {
            return;
        }
        for (name, opcode) in [("jmp", 0xea), ("call", 0x9a)] {
            let offset = words(size, &[self.target]);
            let code = [&mode.prefixes(size)[..], &[opcode], &offset, &self.selector.to_le_bytes()].concat();
            let name = format!("{name}, {size}, {mode:?}");
            run(Trial::calling(name, mode, &code, State::random(random)).about(self.to_string()));
        }
    }

    fn returns(self, size: u8, random: &mut Random, run: &mut dyn FnMut(Trial)) {
        let mode = self.mode;
        let Some(prefix) = operand_size(mode, size) else { return };
        for dropped in [&[0xcb][..], &[0xca, 0x18, 0x00]] {
            let before = returning(random, &self.pointer(size));
            let code = [prefix, dropped].concat();
            let name = format!("retf of {size}, {dropped:x?}, {mode:?}");
            run(Trial::new(name, mode, &code, before).about(self.to_string()));
        }
    }

    fn interrupt_returns(self, size: u8, random: &mut Random, run: &mut dyn FnMut(Trial)) {
        let mode = self.mode;
        let Some(prefix) = operand_size(mode, size) else { return };
        for stack in STACKS {
            // Rarely one that stops at once.
            let flags = random.next() & if random.one_in(4) { !0 } else { !0x4_0100 };
            let inner = random.next();
            let frame = [self.pointer(size), words(size, &[flags, inner, stack.into()])].concat();
            let code = [prefix, &[0xcf]].concat();
            run(Trial::new(format!("iret of {size}, {mode:?}"), mode, &code, returning(random, &frame))
                .about(format!("{self}, stack {stack:#x}, flags {flags:#x}")));
        }
    }
}

impl Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {:#x}:{:#x}", self.selector, self.target)
    }
}

/// Selectors of stacks to return to.
const STACKS: [u16; 10] = [
    USER_DATA,
    0,
    3,
    0x2a,
    0x1b,
    0x33,
    super::local(super::FLAT_DATA),
    super::local(super::STACK_16),
    super::local(super::READ_ONLY),
    super::local(super::DATA_ABSENT),
];

/// A state whose stack begins with `frame`.
fn returning(random: &mut Random, frame: &[u8]) -> State {
    let mut state = State::random(random);
    state.gpr[RSP] -= 0x40;
    let at = state.gpr[RSP];
    put(&mut state, at, frame);
    state
}

/// IRET with NT: a nested task does not exist in 64-bit mode.
fn from_a_nested_task(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for size in [2, 4, 8].repeat(20) {
        let Some(prefix) = operand_size(Mode::Long, size) else { continue };
        let mut before = State::random(random);
        before.gpr[0] = 0x4202;
        let code = [&[0x50, 0x9d][..], prefix, &[0xcf]].concat();
        run(Trial::new("iret with NT", Mode::Long, &code, before));
    }
}

/// The prefix of returns, whose operands have 4 bytes in 64-bit code where nothing says otherwise.
fn operand_size(mode: Mode, size: u8) -> Option<&'static [u8]> {
    match (mode, size) {
        (Mode::Long, 8) => Some(&[0x48]),
        (_, 8) => None,
        (Mode::Bits16, 4) | (Mode::Long | Mode::Bits32, 2) => Some(&[0x66]),
        _ => Some(&[]),
    }
}

fn put(state: &mut State, address: u64, bytes: &[u8]) {
    let at = (address - window::SCRATCH) as usize;
    state.scratch[at..at + bytes.len()].copy_from_slice(bytes);
}
