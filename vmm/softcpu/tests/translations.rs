//! Which translations a new CR3 drops and which it keeps: those of global pages. (SDM volume 3,
//! 4.10.2.4 and 4.10.4.1.)

mod board;

use board::*;
use iced_x86::code_asm::*;
use softcpu::Exit;

const PGE: u32 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// Two places for a page.
const FIRST: u64 = CODE + 0x2000;
const SECOND: u64 = CODE + 0x3000;

fn set_pge(a: &mut CodeAssembler, on: bool) {
    a.mov(rax, cr4).unwrap();
    if on {
        a.or(eax, PGE as i32).unwrap();
    } else {
        a.and(eax, !PGE as i32).unwrap();
    }
    a.mov(cr4, rax).unwrap();
}

fn reload_cr3(a: &mut CodeAssembler) {
    a.mov(rax, cr3).unwrap();
    a.mov(cr3, rax).unwrap();
}

/// Lets DATA lead to another page, with the entry's `bits`, and leaves the TLB alone.
fn remap(a: &mut CodeAssembler, page: u64, bits: u64) {
    a.mov(eax, (page | PRESENT | WRITABLE | bits) as u32).unwrap();
    a.mov(qword_ptr(Board::entry(DATA)), rax).unwrap();
}

/// A program whose own code is global, if wanted, and the value that `read` gets from DATA into RBX before and
/// into RCX behind `change`, which happens after DATA was led from a page of ones to one of twos.
fn before_and_behind(
    bits: u64,
    global_program: bool,
    read: impl Fn(&mut CodeAssembler),
    change: impl Fn(&mut CodeAssembler),
) -> (u64, u64) {
    let mut board = Board::new();
    // MOV EAX, 1; RET read as data is no less a number of its own.
    for (at, value) in [(FIRST, 1), (SECOND, 2)] {
        board.assemble(at, |a| {
            a.mov(eax, value).unwrap();
            a.ret().unwrap();
        });
    }
    if global_program {
        for page in [CODE, CODE + 0x1000] {
            board.put(Board::entry(page), page | PRESENT | WRITABLE | GLOBAL);
        }
    }
    board.put(Board::entry(DATA), FIRST | PRESENT | WRITABLE | bits);
    let exit = board.run(|a| {
        set_pge(a, true);
        read(a);
        a.movzx(ebx, al).unwrap();
        remap(a, SECOND, bits);
        change(a);
        read(a);
        a.movzx(ecx, al).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    (gpr[3], gpr[1])
}

/// The immediate of the MOV.
fn load(a: &mut CodeAssembler) {
    a.mov(al, byte_ptr(DATA + 1)).unwrap();
}

fn call(a: &mut CodeAssembler) {
    a.call(DATA).unwrap();
}

#[test]
fn a_new_cr3_drops_what_is_not_global() {
    for global_program in [false, true] {
        assert_eq!(before_and_behind(0, global_program, load, reload_cr3), (1, 2), "data");
        assert_eq!(before_and_behind(0, global_program, call, reload_cr3), (1, 2), "code");
    }
}

#[test]
fn a_new_cr3_keeps_what_is_global() {
    assert_eq!(before_and_behind(GLOBAL, true, load, reload_cr3), (1, 1), "data");
    assert_eq!(before_and_behind(GLOBAL, true, call, reload_cr3), (1, 1), "code");
}

#[test]
fn without_cr4_pge_a_new_cr3_drops_all() {
    for (read, what) in [(load as fn(&mut CodeAssembler), "data"), (call, "code")] {
        let change = |a: &mut CodeAssembler| {
            set_pge(a, false);
            // What is global comes in again, but is not kept as such.
            remap(a, FIRST, GLOBAL);
            read(a);
            remap(a, SECOND, GLOBAL);
            reload_cr3(a);
        };
        assert_eq!(before_and_behind(GLOBAL, true, read, change), (1, 2), "{what}");
    }
}

#[test]
fn changing_cr4_pge_drops_all() {
    for on in [false, true] {
        let change = |a: &mut CodeAssembler| {
            set_pge(a, !on);
            set_pge(a, on);
        };
        assert_eq!(before_and_behind(GLOBAL, true, load, change), (1, 2), "data");
        assert_eq!(before_and_behind(GLOBAL, true, call, change), (1, 2), "code");
    }
}

#[test]
fn invlpg_drops_a_global_page_too() {
    let change = |a: &mut CodeAssembler| {
        a.invlpg(ptr(DATA)).unwrap();
    };
    assert_eq!(before_and_behind(GLOBAL, true, load, change), (1, 2), "data");
    assert_eq!(before_and_behind(GLOBAL, true, call, change), (1, 2), "code");
}

/// What is read at a page not read before, behind `change`, once the directory entry of its 2 MiB leads to another
/// table than when a page beside it was read.
fn through_another_table(change: impl Fn(&mut CodeAssembler)) -> u64 {
    const REGION: u64 = 0x40_0000;
    const DIRECTORY_ENTRY: u64 = 0x3000 + 8 * (REGION >> 21);
    let tables = [CODE + 0x4000, CODE + 0x5000];
    let mut board = Board::new();
    for (table, page) in tables.into_iter().zip([FIRST, SECOND]) {
        board.put(table, page | PRESENT);
        board.put(table + 8, page | PRESENT);
    }
    board.put(FIRST, 1);
    board.put(SECOND, 2);
    board.put(DIRECTORY_ENTRY, tables[0] | PRESENT);
    let exit = board.run(|a| {
        a.mov(rax, qword_ptr(REGION)).unwrap();
        a.mov(rax, tables[1] | PRESENT).unwrap();
        a.mov(qword_ptr(DIRECTORY_ENTRY), rax).unwrap();
        change(a);
        a.mov(rbx, qword_ptr(REGION + 0x1000)).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    board.vm.registers().gpr[3]
}

/// SDM volume 3, 4.10.4.1: INVLPG of any address drops all of the paging-structure caches.
#[test]
fn a_new_page_table_counts_from_the_next_invalidation() {
    assert_eq!(through_another_table(reload_cr3), 2);
    assert_eq!(through_another_table(|a| a.invlpg(byte_ptr(DATA)).unwrap()), 2);
    assert_eq!(through_another_table(|a| set_pge(a, true)), 2);
}

#[test]
fn a_page_may_lead_to_a_device_and_then_to_ram() {
    const DEVICE: u64 = 0xd000_0000;
    let mut board = Board::new();
    board.put(Board::entry(DATA), DEVICE | PRESENT | WRITABLE);
    let exit = board.run(|a| {
        a.mov(ebx, 7).unwrap();
        a.mov(dword_ptr(DATA), ebx).unwrap();
        a.mov(dword_ptr(DATA), ebx).unwrap();
        a.mov(eax, (SECOND | PRESENT) as u32).unwrap();
        a.mov(qword_ptr(Board::entry(DATA)), rax).unwrap();
        a.invlpg(byte_ptr(DATA)).unwrap();
        a.mov(ecx, dword_ptr(DATA)).unwrap();
        a.or(qword_ptr(Board::entry(DATA)), WRITABLE as i32).unwrap();
        a.invlpg(byte_ptr(DATA)).unwrap();
        a.mov(dword_ptr(DATA), ebx).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    assert_eq!(board.get(SECOND), 7);
}

/// SDM volume 3, 4.10.4.1: what a page fault came of is not remembered behind it.
#[test]
fn more_rights_in_a_directory_count_without_an_invalidation() {
    const WP: i32 = 1 << 16;
    const DIRECTORY_ENTRY: u64 = 0x3010;
    const TABLE: u64 = 0x10_0000;
    const PAGE: u64 = 2 << 21;
    let mut board = Board::new();
    board.put(DIRECTORY_ENTRY, TABLE | PRESENT);
    board.put(TABLE, DATA | PRESENT | WRITABLE);
    let exit = board.run(|a| {
        a.mov(rax, cr0).unwrap();
        a.or(eax, WP).unwrap();
        a.mov(cr0, rax).unwrap();
        a.mov(eax, dword_ptr(PAGE)).unwrap();
        a.or(qword_ptr(DIRECTORY_ENTRY), WRITABLE as i32).unwrap();
        a.mov(dword_ptr(PAGE), 7).unwrap();
        // Another table, too.
        a.mov(eax, (TABLE | 0x1000 | PRESENT | WRITABLE) as u32).unwrap();
        a.mov(qword_ptr(DIRECTORY_ENTRY), rax).unwrap();
        a.mov(eax, (SECOND | PRESENT | WRITABLE) as u32).unwrap();
        a.mov(qword_ptr(TABLE + 0x1008), rax).unwrap();
        a.mov(dword_ptr(PAGE + 0x1000), 8).unwrap();
        a.hlt().unwrap();
    });
    // A handler would stop there, too, with its vector on the stack.
    assert_eq!((exit, board.vm.registers().gpr[4]), (Exit::DeadHalt, STACK));
    assert_eq!((board.get(DATA), board.get(SECOND) as u32), (7, 8));
}
