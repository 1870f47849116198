//! Instructions that a program is denied, and those that make an exception of their own.

use super::{Mode, Trial};
use crate::native::random::Random;
use crate::native::state::{State, window};

/// Times that each runs.
const ROUNDS: usize = 6;

/// The flags that divisions leave undefined.
const ARITHMETIC: u64 = 0x8d5;

/// In every mode. A memory operand is at [RBX].
const EVERYWHERE: &[(&str, &[u8])] = &[
    ("hlt", &[0xf4]),
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("in al, imm8", &[0xe4, 0x80]),
    ("in eax, imm8", &[0xe5, 0x80]),
    ("in al, dx", &[0xec]),
    ("in eax, dx", &[0xed]),
    ("out imm8, al", &[0xe6, 0x80]),
    ("out imm8, eax", &[0xe7, 0x80]),
    ("out dx, al", &[0xee]),
    ("out dx, eax", &[0xef]),
    ("insb", &[0x6c]),
    ("insd", &[0x6d]),
    ("outsb", &[0x6e]),
    ("outsd", &[0x6f]),
    ("clts", &[0x0f, 0x06]),
    ("invd", &[0x0f, 0x08]),
    ("wbinvd", &[0x0f, 0x09]),
    ("rdmsr", &[0x0f, 0x32]),
    ("wrmsr", &[0x0f, 0x30]),
    ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
    ("mov rax, cr2", &[0x0f, 0x20, 0xd0]),
    ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
    ("mov cr4, rax", &[0x0f, 0x22, 0xe0]),
    ("mov rax, dr0", &[0x0f, 0x21, 0xc0]),
    ("mov rax, dr7", &[0x0f, 0x21, 0xf8]),
    ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
    ("lgdt", &[0x0f, 0x01, 0x13]),
    ("lidt", &[0x0f, 0x01, 0x1b]),
    ("lmsw", &[0x0f, 0x01, 0xf0]),
    ("lmsw memory", &[0x0f, 0x01, 0x33]),
    ("invlpg", &[0x0f, 0x01, 0x3b]),
    ("lldt", &[0x0f, 0x00, 0xd0]),
    ("ltr", &[0x0f, 0x00, 0xd8]),
    ("int 0x20", &[0xcd, 0x20]),
    ("int 0x0d", &[0xcd, 0x0d]),
    ("int 0x81", &[0xcd, 0x81]),
    ("int3", &[0xcc]),
    ("int 3", &[0xcd, 0x03]),
    ("ud0", &[0x0f, 0xff, 0xc0]),
    ("ud1", &[0x0f, 0xb9, 0xc0]),
    ("mov cs, eax", &[0x8e, 0xc8]),
    ("mov segment 6", &[0x8e, 0xf0]),
    ("mov eax, segment 7", &[0x8c, 0xf8]),
    ("lea of a register", &[0x8d, 0xc0]),
    ("cmpxchg8b of a register", &[0x0f, 0xc7, 0xc8]),
    ("lock nop", &[0xf0, 0x90]),
    ("lock mov", &[0xf0, 0x89, 0x03]),
    ("lock add to a register", &[0xf0, 0x01, 0xc0]),
    ("lock cmp", &[0xf0, 0x39, 0x03]),
    ("fe /2", &[0xfe, 0xd0]),
    ("ff /7", &[0xff, 0xf8]),
    ("0f ba /0", &[0x0f, 0xba, 0xc0, 0x01]),
    ("0f 04", &[0x0f, 0x04]),
    ("0f 0a", &[0x0f, 0x0a]),
    ("0f 24", &[0x0f, 0x24, 0xc0]),
    ("0f 36", &[0x0f, 0x36]),
    ("sse with 4 prefixes", &[0xf2, 0x0f, 0x5b, 0xc0]),
    ("movntps of a register", &[0x0f, 0x2b, 0xc0]),
    ("div by zero", &[0x31, 0xc9, 0xf7, 0xf1]),
    ("div that overflows", &[0xb2, 0xff, 0x88, 0xd6, 0xb1, 0x01, 0x88, 0xcd, 0xf6, 0xf1]),
    ("idiv by zero", &[0x31, 0xc9, 0xf7, 0xf9]),
    ("wide jump to nowhere", &[0x31, 0xc0, 0xff, 0xe0]),
    ("no memory", &[0x31, 0xdb, 0x8b, 0x03]),
    ("no memory to write to", &[0x31, 0xdb, 0x89, 0x03]),
    ("no memory to change", &[0x31, 0xdb, 0xff, 0x03]),
];

/// In 64-bit code.
const LONG: &[(&str, &[u8])] = &[
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("sysretq", &[0x48, 0x0f, 0x07]),
    ("sysret", &[0x0f, 0x07]),
    ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
    ("push es", &[0x06]),
    ("pop ds", &[0x1f]),
    ("daa", &[0x27]),
    ("das", &[0x2f]),
    ("aaa", &[0x37]),
    ("aas", &[0x3f]),
    ("pusha", &[0x60]),
    ("popa", &[0x61]),
    ("82 /0", &[0x82, 0xc0, 0x01]),
    ("call far", &[0x9a]),
    ("into", &[0xce]),
    ("aam", &[0xd4, 0x0a]),
    ("aad", &[0xd5, 0x0a]),
    ("salc", &[0xd6]),
    ("jmp far", &[0xea]),
    ("not canonical", &[0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8b, 0x03]),
    ("not canonical, written", &[0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x89, 0x03]),
    ("not canonical, the stack", &[0x48, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x50]),
    ("not canonical, by the frame", &[0x48, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8b, 0x45, 0]),
    ("the kernel's half", &[0x48, 0xbb, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0x8b, 0x03]),
    ("movaps that is not aligned", &[0x48, 0x83, 0xcb, 0x01, 0x0f, 0x28, 0x03]),
    ("cmpxchg16b that is not aligned", &[0x48, 0x83, 0xcb, 0x01, 0x48, 0x0f, 0xc7, 0x0b]),
];

/// In 32- and 16-bit code.
const COMPAT: &[(&str, &[u8])] = &[
    ("into", &[0xce]),
    ("into, with overflow", &[0xb0, 0x7f, 0x04, 0x01, 0xce]),
    ("sysret", &[0x0f, 0x07]),
    ("aam of zero", &[0xd4, 0x00]),
    ("les of a register", &[0xc4, 0xc0]),
    ("lds of a register", &[0xc5, 0xc0]),
    ("bound of a register", &[0x62, 0xc0]),
    ("pop to cs", &[0x66, 0x0f, 0x0f]),
];

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for mode in Mode::ALL {
        let others = if mode == Mode::Long { LONG } else { COMPAT };
        for (name, code) in EVERYWHERE.iter().chain(others) {
            for _ in 0..ROUNDS {
                let mut before = State::random(random);
                before.gpr[3] = window::CENTRE;
                let mut trial = Trial::new(format!("{name}, {mode:?}"), mode, code, before);
                if name.contains("div") {
                    trial.open_flags = ARITHMETIC;
                }
                run(trial);
            }
        }
        // Instructions that are too long.
        for length in 13..17 {
            let code = [vec![0x66; length - 1], vec![0x90]].concat();
            run(Trial::new(format!("{length} bytes, {mode:?}"), mode, &code, State::random(random)));
        }
    }
}
