//! Jumps, loops, calls and returns within a segment, outside 64-bit mode.

use super::{Mode, Trial};
use crate::native::random::Random;
use crate::native::state::{State, window};

/// Times that each runs.
const ROUNDS: usize = 40;

/// INC of the register by which the way that was taken is known.
const ECX: [u8; 2] = [0xff, 0xc1];
const EDX: [u8; 2] = [0xff, 0xc2];
const EBX: [u8; 2] = [0xff, 0xc3];

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for mode in [Mode::Bits32, Mode::Bits16] {
        for (name, code) in programs(mode) {
            for _ in 0..ROUNDS {
                run(Trial::new(format!("{name}, {mode:?}"), mode, &code, State::random(random)));
            }
        }
        // Beyond the segment, or where there is nothing.
        let prefix: &[u8] = if mode == Mode::Bits16 { &[0x66] } else { &[] };
        for target in [0x1_0000, 0x2_1234, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0u32] {
            for (name, code) in [
                ("jmp", &[0xff, 0xe0][..]),
                ("call", &[0xff, 0xd0]),
                ("ret", &[0xc3]),
                ("ret 24", &[0xc2, 0x18, 0]),
            ] {
                let mut before = State::random(random);
                before.gpr[0] = target.into();
                let top = (window::STACK - window::SCRATCH) as usize;
                before.scratch[top..top + 4].copy_from_slice(&target.to_le_bytes());
                let code = [prefix, code].concat();
                run(Trial::new(format!("{name} to {target:#x}, {mode:?}"), mode, &code, before));
            }
        }
    }
}

fn programs(mode: Mode) -> Vec<(String, Vec<u8>)> {
    let mut programs = Vec::new();
    // Jcc, LOOPNE, LOOPE, LOOP, JECXZ and JMP with a distance of 8 bits, over the next instruction.
    for opcode in (0x70..0x80).chain(0xe0..0xe4).chain([0xeb]) {
        for prefix in [&[][..], &[0x67], &[0x66], &[0x66, 0x67]] {
            let code = [prefix, &[opcode, EBX.len() as u8], &EBX, &EDX].concat();
            programs.push((format!("{opcode:x}"), code));
        }
    }
    for size in [2, 4] {
        let prefix: &[u8] = match (mode, size) {
            (Mode::Bits32, 2) | (Mode::Bits16, 4) => &[0x66],
            _ => &[],
        };
        let distance = |value: i32| value.to_le_bytes()[..size].to_vec();
        for condition in 0x80..0x90 {
            let code = [prefix, &[0x0f, condition], &distance(2), &EBX, &EDX].concat();
            programs.push((format!("0f {condition:x} of {size}"), code));
        }
        programs.push((format!("jmp of {size}"), [prefix, &[0xe9], &distance(2), &EBX, &EDX].concat()));
        // call 0; pop eax; add eax, distance; push eax where it is to be in memory; and then the transfer to a function
        let here = [prefix, &[0xe8], &distance(0), prefix, &[0x58]].concat();
        let add = |distance: usize| [prefix, &[0x83, 0xc0, distance as u8]].concat();
        let through = |pushed: bool, transfer: Vec<u8>, behind: &[u8]| {
            let push = if pushed { [prefix, &[0x50]].concat() } else { Vec::new() };
            // From behind the CALL to the function, which is four bytes behind the transfer.
            let distance = prefix.len() + 1 + add(0).len() + push.len() + transfer.len() + 4;
            [&here[..], &add(distance), &push, &transfer, behind].concat()
        };
        let register = |modrm: u8| [prefix, &[0xff, modrm]].concat();
        let memory = |modrm: u8| [&mode.prefixes(size as u8)[..], &[0xff, modrm, 0x24]].concat();
        for (name, ret) in [("ret", &[0xc3][..]), ("ret 24", &[0xc2, 0x18, 0])] {
            let function = [&EDX[..], prefix, ret].concat();
            let behind = [&EBX[..], &[0xeb, function.len() as u8], &function, &ECX].concat();
            let call = [prefix, &[0xe8], &distance(4), &behind].concat();
            programs.push((format!("call of {size}, {name}"), call));
            let name = format!("call of {size} through");
            programs.push((format!("{name} a register"), through(false, register(0xd0), &behind)));
            programs.push((format!("{name} memory"), through(true, memory(0x14), &behind)));
        }
        let behind = [&EBX[..], &[0xeb, EDX.len() as u8], &EDX, &ECX].concat();
        programs.push((format!("jmp of {size} through a register"), through(false, register(0xe0), &behind)));
        programs.push((format!("jmp of {size} through memory"), through(true, memory(0x24), &behind)));
    }
    programs
}
