//! Moving selectors to and from segment registers, and what LAR, LSL, VERR and VERW tell of them.

use super::{Mode, Trial, few_selectors, selectors};
use crate::native::random::Random;
use crate::native::state::{State, window};
use crate::process::CPU_NUMBER;

const RAX: usize = 0;
const RBX: usize = 3;

/// Segment registers by number: ES, SS, DS, FS, GS.
const LOADABLE: [u8; 5] = [0, 2, 3, 4, 5];

/// A state with the selector in RAX, and where RBX points.
fn with(selector: u16, random: &mut Random) -> State {
    let mut before = State::random(random);
    before.gpr[RAX] = before.gpr[RAX] & !0xffff | selector as u64;
    before.gpr[RBX] = window::CENTRE;
    let at = (window::CENTRE - window::SCRATCH) as usize;
    before.scratch[at..at + 2].copy_from_slice(&selector.to_le_bytes());
    before
}

pub fn loads(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for mode in Mode::ALL {
        for segment in LOADABLE {
            for selector in selectors() {
                // mov segment, ax; then all are read back, in every size.
                let code = [&[0x8e, 0xc0 | segment << 3][..], &read_back(mode, segment)].concat();
                run(Trial::new(format!("mov to {segment}, {mode:?}"), mode, &code, with(selector, random))
                    .about(format!("selector {selector:#x}")));
            }
            for selector in few_selectors() {
                let from_memory = [&mode.prefixes(4)[..], &[0x8e, 0x03 | segment << 3]].concat();
                let name = format!("mov to {segment} from memory, {mode:?}");
                run(Trial::new(name, mode, &from_memory, with(selector, random))
                    .about(format!("selector {selector:#x}")));
                for size in [2, 4, 8] {
                    pops(mode, segment, size, selector, random, run);
                    far_pointers(mode, segment, size, selector, random, run);
                }
                // Through it: its base, which some of AMD's CPUs leave alone where the selector is null.
                if matches!(segment, 4 | 5) && mode == Mode::Long && selector & !3 != 0 {
                    let prefix = 0x60 | segment;
                    let code = [0x8e, 0xc0 | segment << 3, prefix, 0x8b, 0x0b];
                    run(Trial::new(format!("read through {segment}"), mode, &code, with(selector, random))
                        .about(format!("selector {selector:#x}")));
                }
            }
        }
    }
}

/// Stores the selector and moves it to registers of all sizes.
fn read_back(mode: Mode, segment: u8) -> Vec<u8> {
    let modrm = |register: u8| 0xc0 | segment << 3 | register;
    let mut code = Vec::new();
    for (size, register) in [(2, 1), (4, 2)] {
        code.extend(mode.prefixes(size));
        code.extend([0x8c, modrm(register)]);
    }
    if mode == Mode::Long {
        code.extend([0x48, 0x8c, modrm(6)]);
    }
    code.extend(mode.prefixes(4));
    code.extend([0x8c, 0x43 | segment << 3, 0x20]);
    code
}

/// Pops a selector, and pushes it again.
fn pops(mode: Mode, segment: u8, size: u8, selector: u16, random: &mut Random, run: &mut dyn FnMut(Trial)) {
    let Some(prefix) = mode.stack_prefix(size) else { return };
    let (pop, push): (&[u8], &[u8]) = match (segment, mode) {
        (4, _) => (&[0x0f, 0xa1], &[0x0f, 0xa0]),
        (5, _) => (&[0x0f, 0xa9], &[0x0f, 0xa8]),
        (_, Mode::Long) => return,
        (0, _) => (&[0x07], &[0x06]),
        (2, _) => (&[0x17], &[0x16]),
        _ => (&[0x1f], &[0x1e]),
    };
    // push ax, in the same size
    let code = [prefix, &[0x50], prefix, pop, prefix, push].concat();
    let name = format!("pop of {size} to {segment}, {mode:?}");
    run(Trial::new(name, mode, &code, with(selector, random)).about(format!("selector {selector:#x}")));
}

/// LES, LSS, LDS, LFS and LGS to ECX.
fn far_pointers(
    mode: Mode,
    segment: u8,
    size: u8,
    selector: u16,
    random: &mut Random,
    run: &mut dyn FnMut(Trial),
) {
    let opcode: &[u8] = match (segment, mode) {
        (2, _) => &[0x0f, 0xb2],
        (4, _) => &[0x0f, 0xb4],
        (5, _) => &[0x0f, 0xb5],
        (_, Mode::Long) => return,
        (0, _) => &[0xc4],
        _ => &[0xc5],
    };
    // AMD's CPUs have no pointers with offsets of 8 bytes.
    if size == 8 {
        return;
    }
    let code = [&mode.prefixes(size)[..], opcode, &[0x0b]].concat();
    let mut before = with(selector, random);
    let at = (window::CENTRE - window::SCRATCH) as usize + size as usize;
    before.scratch[at..at + 2].copy_from_slice(&selector.to_le_bytes());
    run(Trial::new(format!("far pointer of {size} to {segment}, {mode:?}"), mode, &code, before)
        .about(format!("selector {selector:#x}")));
}

pub fn queries(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    /// What LAR leaves open. (SDM volume 2, LAR, table 3-54.)
    const OPEN_RIGHTS: u64 = 0xf_0000;
    let sizes = |mode: Mode| if mode == Mode::Long { vec![2, 4, 8] } else { vec![2, 4] };
    for mode in Mode::ALL {
        for selector in selectors() {
            for size in sizes(mode) {
                let prefix = if size == 8 { vec![0x48] } else { mode.prefixes(size) };
                for (name, opcode) in [("lar", 2), ("lsl", 3)] {
                    if name == "lsl" && selector & !3 == CPU_NUMBER & !3 {
                        continue;
                    }
                    for modrm in [0xc8, 0x0b] {
                        let code = [&prefix[..], &[0x0f, opcode, modrm]].concat();
                        let trial_name = format!("{name} of {size}, {modrm:#x}, {mode:?}");
                        let mut trial = Trial::new(trial_name, mode, &code, with(selector, random));
                        if name == "lar" && size > 2 {
                            trial.open[1] |= OPEN_RIGHTS;
                        }
                        run(trial);
                    }
                }
            }
            for (name, extension) in [("verr", 4), ("verw", 5)] {
                for modrm in [0xc0, 0x03] {
                    let code = [&mode.prefixes(4)[..], &[0x0f, 0, modrm | extension << 3]].concat();
                    let trial_name = format!("{name}, {modrm:#x}, {mode:?}");
                    run(Trial::new(trial_name, mode, &code, with(selector, random))
                        .about(format!("selector {selector:#x}")));
                }
            }
        }
    }
}
