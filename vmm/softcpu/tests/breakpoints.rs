//! Debug registers: breakpoints on instructions and data, and how one goes on behind them.

mod board;

use board::*;
use iced_x86::code_asm::*;
use softcpu::Exit;

const PLACE: u64 = CODE + 0x1000;
const DEBUG: u64 = 1;
const RF: u64 = 1 << 16;

/// Sets a breakpoint by DR0; `control` is its part of DR7.
fn watch(a: &mut CodeAssembler, address: u64, control: u32) {
    a.mov(rax, address).unwrap();
    a.mov(dr0, rax).unwrap();
    a.mov(eax, 1 | control << 16).unwrap();
    a.mov(dr7, rax).unwrap();
}

#[test]
fn a_breakpoint_stops_before_its_instruction_and_rf_steps_over_it() {
    let mut board = Board::new();
    board.assemble(PLACE, |a| {
        a.inc(ecx).unwrap();
        a.inc(ecx).unwrap();
        a.hlt().unwrap();
    });
    // The handler counts, and returns with RF set.
    let handler = CODE + 0x2000;
    board.gate(DEBUG, handler, 0, 0);
    board.assemble(handler, |a| {
        a.mov(r8, dr6).unwrap();
        a.mov(r9, qword_ptr(rsp)).unwrap();
        a.mov(r10, qword_ptr(rsp + 16)).unwrap();
        a.mov(r11d, ecx).unwrap();
        a.inc(edx).unwrap();
        a.or(qword_ptr(rsp + 16), RF as i32).unwrap();
        a.iretq().unwrap();
    });
    let exit = board.run(|a| {
        watch(a, PLACE, 0);
        a.jmp(PLACE).unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[1], gpr[2]), (2, 1), "both increments, one breakpoint");
    assert_eq!((gpr[9], gpr[11]), (PLACE, 0), "before the instruction");
    assert_eq!((gpr[8] & 0xf, gpr[10] & RF), (1, 0));
}

#[test]
fn a_write_to_watched_bytes_traps_behind_the_instruction() {
    let mut board = Board::new();
    let exit = board.run(|a| {
        // Four bytes, writes only.
        watch(a, DATA + 0x10, 1 | 3 << 2);
        a.mov(dword_ptr(DATA + 0x14), 7).unwrap();
        a.mov(ecx, dword_ptr(DATA + 0x10)).unwrap();
        a.mov(byte_ptr(DATA + 0x12), 5).unwrap();
        a.mov(ecx, 99).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((exit, board.frame().vector), (Exit::DeadHalt, DEBUG));
    assert_eq!(board.vm.registers().gpr[1], 0, "not the reads, and before what follows");
    assert_eq!(board.get(DATA + 0x10), 7 << 32 | 5 << 16);
}

#[test]
fn a_repeated_string_that_reaches_watched_bytes_traps() {
    let mut board = Board::new();
    let exit = board.run(|a| {
        // Any access to one byte.
        watch(a, DATA + 0x105, 3);
        a.mov(edi, DATA as u32 + 0x100).unwrap();
        a.mov(ecx, 16).unwrap();
        a.rep().stosb().unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((exit, board.frame().vector), (Exit::DeadHalt, DEBUG));
}

#[test]
fn without_enabled_breakpoints_nothing_stops() {
    let mut board = Board::new();
    let exit = board.run(|a| {
        watch(a, DATA + 0x10, 1);
        a.xor(eax, eax).unwrap();
        a.mov(dr7, rax).unwrap();
        a.mov(dword_ptr(DATA + 0x10), 7).unwrap();
        a.mov(ecx, 99).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((exit, board.vm.registers().gpr[1]), (Exit::DeadHalt, 99));
}
