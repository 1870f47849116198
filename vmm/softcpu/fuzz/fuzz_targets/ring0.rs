//! Bytes executed in ring 0, interpreted and compiled: neither may panic, hang or grow, and both
//! must do the same, to the last register and byte of memory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use softcpu::{Config, Execution, Exit};
use vm_memory::{Bytes, GuestAddress};

#[path = "../../tests/board/mod.rs"]
mod board;

use board::{Board, CODE, RAM};

/// Slices of 10 000 instructions that a guest is given.
const SLICES: usize = 3;
/// Times that it may sleep until a timer.
const SLEEPS: usize = 20;

/// How a run ended, and what it left.
#[derive(PartialEq, Eq)]
struct Left {
    exit: String,
    registers: softcpu::Registers,
    instructions: u64,
    memory: Vec<u8>,
}

fn run(program: &[u8], execution: Execution) -> Left {
    // The slowest clock there is: a slice has 10 000 instructions.
    let config = Config { execution, tsc_hz: 1_000_000, ..Config::default() };
    let mut board = Board::exactly(config);
    board.prepare(|a| a.nop().expect("a program"));
    board.ram.write_slice(program, GuestAddress(CODE)).expect("the program fits");
    let (mut slices, mut sleeps) = (0, 0);
    let exit = loop {
        match board.vm.run(&mut board.bus) {
            Exit::Slice if slices < SLICES => slices += 1,
            Exit::Idle { until: Some(until) } if sleeps < SLEEPS => {
                sleeps += 1;
                board.vm.skip_to(until);
            }
            exit => break exit,
        }
    };
    let mut memory = vec![0; RAM];
    board.ram.read_slice(&mut memory, GuestAddress(0)).expect("all of RAM");
    Left {
        exit: format!("{exit:?}"),
        registers: board.vm.registers(),
        instructions: board.vm.instructions(),
        memory,
    }
}

fuzz_target!(|program: &[u8]| {
    let program = &program[..program.len().min(0x1_0000)];
    let interpreted = run(program, Execution::Interpret);
    let compiled = run(program, Execution::Compile { after: 1 });
    assert_eq!(interpreted.exit, compiled.exit);
    assert_eq!(interpreted.registers, compiled.registers);
    assert_eq!(interpreted.instructions, compiled.instructions);
    let differs = interpreted.memory.iter().zip(&compiled.memory).position(|(one, other)| one != other);
    assert_eq!(differs, None, "memory differs at this address");
});
