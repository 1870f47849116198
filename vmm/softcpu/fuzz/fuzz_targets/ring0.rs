//! Bytes executed in ring 0, interpreted and compiled.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

mod pair;

use pair::board::CODE;

/// How far a program gets. Its instructions are decoded and compiled once each, which is what takes long.
const INSTRUCTIONS: u64 = 2000;
/// Its bytes.
const LENGTH: usize = 512;

fuzz_target!(|program: &[u8]| {
    let program = &program[..program.len().min(LENGTH)];
    let prepare = |board: &mut pair::board::Board| {
        board.ram.write_slice(program, GuestAddress(CODE)).expect("the program fits");
        board.begin();
    };
    pair::compare(prepare, INSTRUCTIONS);
});
