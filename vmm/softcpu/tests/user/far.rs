//! Far jumps, calls and returns to other segments and modes.

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
                for size in [2, 4] {
                    through_memory(mode, selector, target, size, random, run);
                    direct(mode, selector, target, size, random, run);
                }
                for size in [2, 4, 8] {
                    far_returns(mode, selector, target, size, random, run);
                    interrupt_returns(mode, selector, target, size, random, run);
                }
            }
        }
    }
}

/// Offsets to go to: the landing place, and what lies beyond the end of one segment or another.
fn targets(selector: u16) -> [u64; 3] {
    [LANDING_AT - base_of(selector), 0x1_1701, 0xffff_1703]
}

fn words(size: u8, values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()[..size as usize].to_vec()).collect()
}

/// JMP and CALL through a pointer at [RBX].
fn through_memory(
    mode: Mode,
    selector: u16,
    target: u64,
    size: u8,
    random: &mut Random,
    run: &mut dyn FnMut(Trial),
) {
    for (name, modrm) in [("jmp", 0x2b), ("call", 0x1b)] {
        let mut before = State::random(random);
        before.gpr[RBX] = window::CENTRE;
        put(&mut before, window::CENTRE, &words(size, &[target, selector.into()]));
        let code = [&mode.prefixes(size)[..], &[0xff, modrm]].concat();
        run(Trial::calling(format!("{name} through memory, {size}, {mode:?}"), mode, &code, before)
            .about(format!("to {selector:#x}:{target:#x}")));
    }
}

/// JMP and CALL to a pointer in the instruction.
fn direct(mode: Mode, selector: u16, target: u64, size: u8, random: &mut Random, run: &mut dyn FnMut(Trial)) {
    if mode == Mode::Long {
        return;
    }
    for (name, opcode) in [("jmp", 0xea), ("call", 0x9a)] {
        let offset = words(size, &[target]);
        let code = [&mode.prefixes(size)[..], &[opcode], &offset, &selector.to_le_bytes()].concat();
        run(Trial::calling(format!("{name}, {size}, {mode:?}"), mode, &code, State::random(random))
            .about(format!("to {selector:#x}:{target:#x}")));
    }
}

fn far_returns(
    mode: Mode,
    selector: u16,
    target: u64,
    size: u8,
    random: &mut Random,
    run: &mut dyn FnMut(Trial),
) {
    let Some(prefix) = operand_size(mode, size) else { return };
    for dropped in [&[0xcb][..], &[0xca, 0x18, 0x00]] {
        let mut before = State::random(random);
        before.gpr[RSP] -= 0x40;
        let at = before.gpr[RSP];
        put(&mut before, at, &words(size, &[target, selector.into()]));
        let code = [prefix, dropped].concat();
        run(Trial::new(format!("retf of {size}, {dropped:x?}, {mode:?}"), mode, &code, before)
            .about(format!("to {selector:#x}:{target:#x}")));
    }
}

fn interrupt_returns(
    mode: Mode,
    selector: u16,
    target: u64,
    size: u8,
    random: &mut Random,
    run: &mut dyn FnMut(Trial),
) {
    let Some(prefix) = operand_size(mode, size) else { return };
    for stack in [
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
    ] {
        let mut before = State::random(random);
        before.gpr[RSP] -= 0x40;
        let at = before.gpr[RSP];
        // Rarely one that stops at once.
        let flags = random.next() & if random.one_in(4) { !0 } else { !0x4_0100 };
        let inner = random.next();
        put(&mut before, at, &words(size, &[target, selector.into(), flags, inner, stack.into()]));
        let code = [prefix, &[0xcf]].concat();
        run(Trial::new(format!("iret of {size}, {mode:?}"), mode, &code, before)
            .about(format!("to {selector:#x}:{target:#x}, stack {stack:#x}, flags {flags:#x}")));
    }
    if mode != Mode::Long {
        return;
    }
    // From a nested task, which does not exist.
    let mut before = State::random(random);
    before.gpr[0] = 0x4202;
    let code = [&[0x50, 0x9d][..], prefix, &[0xcf]].concat();
    run(Trial::new("iret with NT", mode, &code, before));
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
