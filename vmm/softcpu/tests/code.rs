//! Code that changes under the CPU's feet.

mod board;

use board::*;
use iced_x86::code_asm::*;
use softcpu::Exit;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn an_instruction_may_overwrite_the_next_one() {
    let mut board = Board::new();
    let exit = board.run(|a| {
        let mut target = a.create_label();
        // The immediate of the instruction below becomes 7.
        a.lea(rbx, ptr(target)).unwrap();
        a.mov(byte_ptr(rbx + 1), 7).unwrap();
        a.set_label(&mut target).unwrap();
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((exit, board.vm.registers().gpr[0]), (Exit::DeadHalt, 7));
}

/// A loop that calls a function, overwrites it through `alias`, and calls it again.
fn patch_through(alias: u64) -> u64 {
    let mut board = Board::new();
    let function = CODE + 0x2000;
    board.put(Board::entry(alias), function | PRESENT | WRITABLE);
    board.assemble(function, |a| {
        a.add(eax, 1).unwrap();
        a.ret().unwrap();
    });
    let exit = board.run(|a| {
        let mut again = a.create_label();
        a.xor(eax, eax).unwrap();
        a.mov(ecx, 3).unwrap();
        a.set_label(&mut again).unwrap();
        a.call(function).unwrap();
        // add eax, 1 is 05 01 00 00 00: the immediate grows by 0x10.
        a.add(byte_ptr(alias + 1), 0x10).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    board.vm.registers().gpr[0]
}

#[test]
fn functions_can_be_patched_through_any_mapping() {
    let expected = 0x01 + 0x11 + 0x21;
    assert_eq!(patch_through(CODE + 0x2000), expected);
    assert_eq!(patch_through(DATA), expected);
}

#[test]
fn patching_one_function_keeps_the_others_of_its_page() {
    let mut board = Board::new();
    let functions = CODE + 0x2000;
    for i in 0..16 {
        board.assemble(functions + 64 * i, |a| a.ret().unwrap());
    }
    board.run(|a| {
        for i in 0..16 {
            a.call(functions + 64 * i).unwrap();
        }
        a.hlt().unwrap();
    });
    let before = board.vm.stats().invalidations;
    board.run(|a| {
        a.mov(byte_ptr(functions + 64 * 3), 0x90).unwrap();
        // Between two functions: nothing is decoded there.
        a.mov(byte_ptr(functions + 64 * 3 + 32), 0x90).unwrap();
        a.hlt().unwrap();
    });
    // The program itself was overwritten by the host, which drops its blocks too.
    let dropped = board.vm.stats().invalidations - before;
    assert!((1..=20).contains(&dropped), "{dropped} blocks were dropped");
    assert_eq!(board.get(functions + 64 * 3) & 0xff, 0x90);
}

#[test]
fn a_device_may_overwrite_code() {
    let mut board = Board::new();
    let function = CODE + 0x2000;
    board.assemble(function, |a| {
        a.mov(eax, 1).unwrap();
        a.ret().unwrap();
    });
    let ram = board.ram.clone();
    board.bus.on_port = Some(Box::new(move |_| {
        ram.write_obj(2u8, GuestAddress(function + 1)).unwrap();
    }));
    let exit = board.run(|a| {
        a.call(function).unwrap();
        a.mov(ebx, eax).unwrap();
        a.out(0x80, al).unwrap();
        a.call(function).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[3], gpr[0]), (1, 2));
}

#[test]
fn a_string_instruction_may_overwrite_code() {
    let mut board = Board::new();
    let function = CODE + 0x2000;
    board.assemble(function, |a| {
        a.mov(eax, 1).unwrap();
        a.ret().unwrap();
    });
    board.assemble(DATA, |a| {
        a.mov(eax, 9).unwrap();
        a.ret().unwrap();
    });
    let exit = board.run(|a| {
        a.call(function).unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(rsi, DATA).unwrap();
        a.mov(rdi, function).unwrap();
        a.mov(ecx, 6).unwrap();
        a.rep().movsb().unwrap();
        a.call(function).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[3], gpr[0]), (1, 9));
}

#[test]
fn a_changed_mapping_changes_what_is_executed() {
    let mut board = Board::new();
    let (place, first, second) = (DATA, CODE + 0x2000, CODE + 0x3000);
    for (at, value) in [(first, 1), (second, 2)] {
        board.assemble(at, |a| {
            a.mov(eax, value).unwrap();
            a.ret().unwrap();
        });
    }
    board.put(Board::entry(place), first | PRESENT | WRITABLE);
    let exit = board.run(|a| {
        a.call(place).unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(eax, (second | PRESENT | WRITABLE) as u32).unwrap();
        a.mov(qword_ptr(Board::entry(place)), rax).unwrap();
        a.invlpg(ptr(place)).unwrap();
        a.call(place).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[3], gpr[0]), (1, 2));
}

/// What was found to lie in two pages is asked for by its address, and has to be found changed.
#[test]
fn an_instruction_in_two_pages_may_become_a_short_one_and_back() {
    let mut board = Board::new();
    let function = CODE + 0x2ffe;
    let long = |a: &mut CodeAssembler| {
        a.mov(eax, 7).unwrap();
        a.ret().unwrap();
    };
    board.assemble(function, long);
    let exit = board.run(|a| {
        for _ in 0..3 {
            a.call(function).unwrap();
            a.lea(ebx, ptr(rbx + rax)).unwrap();
        }
        // mov al, 5, which ends its page; what is left of the immediate is add byte [rax], al twice: not reached.
        a.mov(word_ptr(function), 0x05b0).unwrap();
        a.mov(byte_ptr(function + 2), 0xc3).unwrap();
        for _ in 0..3 {
            a.call(function).unwrap();
            a.lea(ebx, ptr(rbx + rax)).unwrap();
        }
        a.mov(word_ptr(function), 0x09b8).unwrap();
        a.mov(byte_ptr(function + 2), 0).unwrap();
        a.call(function).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[3], gpr[0]), (3 * 7 + 3 * 5, 9));
}

/// Guests of one process have threads of 2 MiB of stack each.
#[test]
fn a_machine_can_be_made_on_a_small_stack() {
    let thread = std::thread::Builder::new().stack_size(3 << 19);
    let made = thread.spawn(|| Board::new().run(|a| a.hlt().unwrap())).unwrap().join();
    assert_eq!(made.unwrap(), Exit::DeadHalt);
}
