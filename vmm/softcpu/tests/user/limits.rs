//! Accesses at and beyond the ends of segments, outside 64-bit mode.

use super::{BEYOND, Mode, Trial, local};
use crate::native::program::USER_DATA;
use crate::native::random::Random;
use crate::native::state::{State, window};
use crate::process::USER_CODE_32;

const RAX: usize = 0;
const RBX: usize = 3;
const RSP: usize = 4;

/// By ModRM 0x0b: [EBX], and ECX where the other is a general register.
const ACCESSES: &[(&str, &[u8])] = &[
    ("read a byte", &[0x8a]),
    ("write a byte", &[0x88]),
    ("read a word", &[0x8b]),
    ("write a word", &[0x89]),
    ("change a word", &[0x01]),
    ("compare a word", &[0x39]),
    ("exchange a word", &[0x87]),
    ("read 8 bytes", &[0xf3, 0x0f, 0x7e]),
    ("write 8 bytes", &[0x66, 0x0f, 0xd6]),
    ("read 16 bytes", &[0xf3, 0x0f, 0x6f]),
    ("write 16 bytes", &[0xf3, 0x0f, 0x7f]),
    ("compare and exchange", &[0x0f, 0xb1]),
    ("compare and exchange 8 bytes", &[0x0f, 0xc7]),
    ("write a bit", &[0x0f, 0xab]),
];

pub fn trials(random: &mut Random, run: &mut dyn FnMut(Trial)) {
    let all = || (0..BEYOND).map(local).chain([USER_DATA, USER_CODE_32, 0, 3]);
    for mode in [Mode::Bits32, Mode::Bits16] {
        for selector in all() {
            for offset in OFFSETS {
                // ES, SS, DS, FS, GS
                for (segment, prefix) in [(0, 0x26), (2, 0x36), (3, 0x3e), (4, 0x64), (5, 0x65)] {
                    let (name, access) = random.choose(ACCESSES);
                    let code = [&[0x8e, 0xc0 | segment << 3, prefix][..], &mode.prefixes(4), access, &[0x0b]]
                        .concat();
                    let before = reaching(selector, offset, random);
                    let mut trial = Trial::new(format!("{name} by {segment}, {mode:?}"), mode, &code, before)
                        .about(format!("selector {selector:#x}, offset {offset:#x}"));
                    if name.contains("a bit") {
                        // All but CF.
                        trial.open_flags = 0x894;
                    }
                    run(trial);
                }
                strings(mode, selector, offset, random, run);
                stacks(mode, selector, offset, random, run);
            }
        }
        short_addresses(mode, random, run);
        for selector in [USER_CODE_32, local(super::CODE_32), local(super::EXECUTE_ONLY)] {
            // What a code segment allows through CS.
            for (name, access) in ACCESSES {
                let before = reaching(selector, window::CENTRE, random);
                let code = [&[0x2e][..], &mode.prefixes(4), access, &[0x0b]].concat();
                let mut trial = Trial::new(format!("{name} by CS, {mode:?}"), mode, &code, before);
                if name.contains("a bit") {
                    trial.open_flags = 0x894;
                }
                run(trial);
            }
        }
    }
}

/// Around the limits of the local segments. What reaches over the end of 4 GiB may be refused or not.
/// (SDM volume 3, 5.3.)
const OFFSETS: [u64; 25] = [
    0,
    1,
    0x80,
    0xf0,
    0xf8,
    0xfc,
    0xfd,
    0xfe,
    0xff,
    0x100,
    0x101,
    0x1f0,
    0x1f9,
    0x1fc,
    0x1fd,
    0x1ff,
    0x200,
    0xffc,
    0xffd,
    0xffff,
    0x1_0000,
    0x1000_5000,
    0x1000_fffd,
    0x8000_0000,
    0xffff_ffe0,
];

fn reaching(selector: u16, offset: u64, random: &mut Random) -> State {
    let mut before = State::random(random);
    before.gpr[RAX] = selector as u64;
    before.gpr[RBX] = offset;
    // The bit that it names lies at [EBX].
    before.gpr[1] &= 7;
    before
}

/// Every way to write an address of 16 bits, in a segment that begins with the window.
fn short_addresses(mode: Mode, random: &mut Random, run: &mut dyn FnMut(Trial)) {
    let prefix: &[u8] = if mode == Mode::Bits32 { &[0x67] } else { &[] };
    for modrm in (0..0xc0u8).filter(|modrm| modrm & 0x38 == 0x08) {
        for (name, opcode) in
            [("read a word", &[0x8b][..]), ("write a word", &[0x89]), ("its address", &[0x8d])]
        {
            for stack in [false, true] {
                let selector = local(super::STACK_16);
                // mov ds, ax; mov ss, ax, for what BP points to
                let segments: &[u8] = if stack { &[0x8e, 0xd8, 0x8e, 0xd0] } else { &[0x8e, 0xd8] };
                let displacement = random.below(0x400) as i16 - 0x200;
                // Two registers together point to the centre, with or without a wrap; the displacement by itself, too.
                let centre = (window::CENTRE - window::BASE) as i16;
                let displacement = if modrm == 0x0e { centre + displacement } else { displacement };
                let displacement = displacement.to_le_bytes();
                let code = [segments, prefix, opcode, &[modrm], &displacement[..]].concat();
                let code = match modrm >> 6 {
                    0 if modrm & 7 != 6 => &code[..code.len() - 2],
                    1 => &code[..code.len() - 1],
                    _ => &code[..],
                };
                let mut before = reaching(selector, 0, random);
                let half = (centre as u64 / 2) | if random.one_in(2) { 0x8000 } else { 0 };
                for register in [3, 5, 6, 7] {
                    before.gpr[register] = before.gpr[register] & !0xffff | half;
                }
                let about = format!("modrm {modrm:#x}, registers {:x?}", before.gpr);
                let name = format!("{name} by 16 bits, {mode:?}, stack {stack}");
                run(Trial::new(name, mode, code, before).about(about));
            }
        }
    }
}

/// String instructions from and to there.
fn strings(mode: Mode, selector: u16, offset: u64, random: &mut Random, run: &mut dyn FnMut(Trial)) {
    for (name, opcode) in
        [("movsb", 0xa4), ("movsd", 0xa5), ("stosd", 0xab), ("lodsd", 0xad), ("scasb", 0xae), ("cmpsd", 0xa7)]
    {
        for segment in [0u8, 3] {
            let repeated = random.one_in(2);
            let code = [
                &[0x8e, 0xc0 | segment << 3][..],
                &mode.prefixes(4),
                if repeated { &[0xf3] } else { &[] },
                &[opcode],
            ]
            .concat();
            let mut before = reaching(selector, offset, random);
            before.gpr[1] = random.below(5) as u64;
            (before.gpr[6], before.gpr[7]) =
                if segment == 0 { (window::CENTRE, offset) } else { (offset, window::CENTRE + 0x40) };
            before.rflags |= if random.one_in(4) { 0x400 } else { 0 };
            let about = format!(
                "selector {selector:#x}, offset {offset:#x}, RCX {}, flags {:#x}",
                before.gpr[1], before.rflags
            );
            let name = format!("{name} by {segment}, repeated {repeated}, {mode:?}");
            run(Trial::new(name, mode, &code, before).about(about));
        }
    }
}

/// The segment as stack.
fn stacks(mode: Mode, selector: u16, offset: u64, random: &mut Random, run: &mut dyn FnMut(Trial)) {
    let words: [(&str, &[u8]); 8] = [
        ("push", &[0x50]),
        ("pop", &[0x59]),
        ("pushf", &[0x9c]),
        ("pusha", &[0x60]),
        ("popa", &[0x61]),
        ("call", &[0xe8, 0, 0, 0, 0]),
        ("enter", &[0xc8, 0x10, 0, 1]),
        ("leave", &[0xc9]),
    ];
    let flat = matches!(selector, USER_DATA) || selector == local(super::FLAT_DATA);
    if flat && offset < 0x100 {
        return;
    }
    for (name, code) in words {
        let code = [&[0x8e, 0xd0][..], code].concat();
        let mut before = reaching(selector, offset, random);
        (before.gpr[RSP], before.gpr[5]) = (offset, offset);
        let about = format!("selector {selector:#x}, offset {offset:#x}");
        let mut trial = Trial::new(format!("{name}, {mode:?}"), mode, &code, before).about(about);
        if name == "popa" {
            trial.open_where_refused = [u64::MAX; 16];
        }
        run(trial);
    }
}
