//! Exceptions: what they report, and that the instruction they interrupt has not happened.

mod board;

use board::*;
use iced_x86::code_asm::*;
use softcpu::Exit;

fn fault(program: impl FnOnce(&mut CodeAssembler)) -> (Board, Frame) {
    let mut board = Board::new();
    board.put(Board::entry(DATA + 0x1000), 0);
    assert_eq!(board.run(program), Exit::DeadHalt);
    let frame = board.frame();
    (board, frame)
}

/// CR2, through a second program that stores it.
fn cr2(board: &mut Board) -> u64 {
    board.run(|a| {
        a.mov(rax, cr2_register()).unwrap();
        a.hlt().unwrap();
    });
    board.vm.registers().gpr[0]
}

fn cr2_register() -> AsmRegisterCr {
    iced_x86::code_asm::registers::cr2
}

#[test]
fn a_page_fault_leaves_everything_as_it_was() {
    let (mut board, frame) = fault(|a| {
        a.mov(rbx, DATA + 0x1008).unwrap();
        a.mov(rax, 5u64).unwrap();
        a.stc().unwrap();
        a.adc(qword_ptr(rbx), rax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((frame.vector, frame.code), (14, Some(2)), "a read-modify-write reports a write");
    assert_eq!(frame.rip, CODE + 21);
    assert_eq!(frame.rflags & 1, 1, "carry was not consumed");
    let registers = board.vm.registers();
    assert_eq!((registers.gpr[0], registers.gpr[3]), (5, DATA + 0x1008));
    assert_eq!(cr2(&mut board), DATA + 0x1008);
}

#[test]
fn a_store_into_two_pages_writes_neither_if_one_faults() {
    let (mut board, frame) = fault(|a| {
        a.mov(rax, u64::MAX).unwrap();
        a.mov(qword_ptr(DATA + 0xffc), rax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(frame.vector, 14);
    assert_eq!(board.get(DATA + 0xff8), 0);
    assert_eq!(cr2(&mut board), DATA + 0x1000, "CR2 names the byte that is missing");
}

/// FXSAVE of XMM15 to an area whose second half is in the next page, and back.
fn save_across_the_edge(a: &mut CodeAssembler) {
    a.mov(rax, 0x1122_3344_5566_7788u64).unwrap();
    a.movq(xmm15, rax).unwrap();
    a.fxsave64(ptr(DATA + 0xf00)).unwrap();
    a.pxor(xmm15, xmm15).unwrap();
    a.fxrstor64(ptr(DATA + 0xf00)).unwrap();
    a.movq(rbx, xmm15).unwrap();
    a.hlt().unwrap();
}

#[test]
fn an_fxsave_area_may_lie_in_two_pages() {
    let mut board = Board::new();
    board.put(DATA + 0xef8, 1);
    board.put(DATA + 0x1100, 2);
    assert_eq!(board.run(save_across_the_edge), Exit::DeadHalt);
    assert_eq!(board.vm.registers().gpr[3], 0x1122_3344_5566_7788);
    assert_eq!(board.get(DATA + 0xf00 + 160 + 15 * 16), 0x1122_3344_5566_7788, "in the second page");
    assert_eq!(board.get(DATA + 0xf18) >> 32, 0xffff, "MXCSR_MASK is in the first");
    assert_eq!((board.get(DATA + 0xef8), board.get(DATA + 0x1100)), (1, 2), "and nothing beside it");
}

#[test]
fn an_fxsave_into_two_pages_writes_neither_if_one_faults() {
    let (mut board, frame) = fault(save_across_the_edge);
    assert_eq!(frame.vector, 14);
    assert_eq!(board.get(DATA + 0xf18), 0);
    assert_eq!(cr2(&mut board), DATA + 0x1000);
}

#[test]
fn a_repeated_move_stops_exactly_at_the_missing_page_and_can_go_on() {
    let mut board = Board::new();
    board.put(Board::entry(DATA + 0x1000), 0);
    // The handler maps the page and returns.
    let handler = CODE + 0x1000;
    board.gate(14, handler, 0, 0);
    board.assemble(handler, |a| {
        a.mov(r8, rcx).unwrap();
        a.mov(r9, rsi).unwrap();
        a.mov(r10, rdi).unwrap();
        a.mov(r11, (DATA + 0x1000) | PRESENT | WRITABLE).unwrap();
        a.mov(qword_ptr(Board::entry(DATA + 0x1000)), r11).unwrap();
        a.add(rsp, 8).unwrap();
        a.iretq().unwrap();
    });
    for i in 0..32 {
        board.put(DATA + 0x2000 + 8 * i, 0x0101_0101_0101_0101 * (i + 1));
    }
    let exit = board.run(|a| {
        a.mov(rsi, DATA + 0x2000).unwrap();
        a.mov(rdi, DATA + 0x1000 - 24).unwrap();
        a.mov(ecx, 64).unwrap();
        a.rep().movsb().unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let gpr = board.vm.registers().gpr;
    assert_eq!((gpr[8], gpr[9], gpr[10]), (40, DATA + 0x2000 + 24, DATA + 0x1000));
    assert_eq!((gpr[1], gpr[6], gpr[7]), (0, DATA + 0x2000 + 64, DATA + 0x1000 + 40));
    for i in 0..8 {
        assert_eq!(board.get(DATA + 0x1000 - 24 + 8 * i), board.get(DATA + 0x2000 + 8 * i));
    }
}

#[test]
fn division_errors_report_the_division() {
    for (high, divisor) in [(0u64, 0u64), (7, 7), (8, 7)] {
        let (board, frame) = fault(|a| {
            a.mov(rdx, high).unwrap();
            a.mov(rax, 3u64).unwrap();
            a.mov(rcx, divisor).unwrap();
            a.div(rcx).unwrap();
            a.hlt().unwrap();
        });
        assert_eq!((frame.vector, frame.rip), (0, CODE + 30));
        assert_eq!(board.vm.registers().gpr[2], high);
    }
}

#[test]
fn non_canonical_addresses_are_protection_or_stack_faults() {
    let bad = 0x8000_0000_0000u64;
    let (_, frame) = fault(|a| {
        a.mov(rbx, bad).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
    });
    assert_eq!((frame.vector, frame.code), (13, Some(0)));
    let (_, frame) = fault(|a| {
        a.mov(rbp, bad).unwrap();
        a.mov(rax, qword_ptr(rbp)).unwrap();
    });
    assert_eq!((frame.vector, frame.code), (12, Some(0)));
    let (_, frame) = fault(|a| {
        a.mov(rax, bad).unwrap();
        a.jmp(rax).unwrap();
    });
    assert_eq!((frame.vector, frame.rip), (13, CODE + 10));
}

#[test]
fn an_instruction_may_straddle_pages_and_faults_on_the_second() {
    let end = CODE + 0x1000;
    let program = |a: &mut CodeAssembler| {
        // mov rax, imm64 is ten bytes.
        a.mov(rax, 0x1122_3344_5566_7788u64).unwrap();
        a.hlt().unwrap();
    };
    let mut board = Board::new();
    board.assemble(end - 4, program);
    assert_eq!(board.run(|a| a.jmp(end - 4).unwrap()), Exit::DeadHalt);
    assert_eq!(board.vm.registers().gpr[0], 0x1122_3344_5566_7788);

    let mut board = Board::new();
    board.assemble(end - 4, program);
    board.put(Board::entry(end), 0);
    assert_eq!(board.run(|a| a.jmp(end - 4).unwrap()), Exit::DeadHalt);
    let frame = board.frame();
    assert_eq!((frame.vector, frame.rip), (14, end - 4));
    assert_eq!(cr2(&mut board), end);
}

#[test]
fn pages_can_forbid_writing_and_executing() {
    let mut board = Board::new();
    board.put(Board::entry(DATA), DATA | PRESENT | USER | NO_EXECUTE);
    let exit = board.run(|a| {
        // EFER.NXE
        a.mov(ecx, 0xc000_0080u32).unwrap();
        a.rdmsr().unwrap();
        a.bts(eax, 11).unwrap();
        a.wrmsr().unwrap();
        a.mov(rax, qword_ptr(DATA)).unwrap();
        a.mov(qword_ptr(DATA), rax).unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    assert_eq!((board.frame().vector, board.frame().code), (14, Some(3)), "CR0.WP binds the kernel");
    assert_eq!(board.run(|a| a.jmp(DATA).unwrap()), Exit::DeadHalt);
    assert_eq!((board.frame().vector, board.frame().code), (14, Some(0x11)));
    assert_eq!(board.frame().rip, DATA);
}

#[test]
fn accessed_and_dirty_bits_follow_the_accesses() {
    let mut board = Board::new();
    let bits = |board: &Board, at: u64| board.get(Board::entry(at)) >> 5 & 3;
    board.run(|a| {
        a.mov(rax, qword_ptr(DATA)).unwrap();
        a.mov(qword_ptr(DATA + 0x1000), rax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(bits(&board, DATA), 1);
    assert_eq!(bits(&board, DATA + 0x1000), 3);
    assert_eq!(bits(&board, DATA + 0x2000), 0);
    // A page that was read first becomes dirty with its first write.
    board.run(|a| {
        a.mov(qword_ptr(DATA), rax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(bits(&board, DATA), 3);
}

#[test]
fn double_faults_have_their_own_stack_and_triple_faults_end_the_run() {
    let mut board = Board::new();
    board.gate(8, board::stub(8), 1, 0);
    let exit = board.run(|a| {
        // The stack is unmapped, so delivering the page fault faults.
        a.mov(rsp, 0x40_0000_0000u64).unwrap();
        a.mov(rax, qword_ptr(0x30_0000_0000u64)).unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let frame = board.frame();
    assert_eq!((frame.vector, frame.code, frame.rsp), (8, Some(0), 0x40_0000_0000));
    assert!(board.vm.registers().gpr[4] < SPARE_STACK && board.vm.registers().gpr[4] > SPARE_STACK - 64);

    let mut board = Board::new();
    let exit = board.run(|a| {
        a.mov(rsp, 0x40_0000_0000u64).unwrap();
        a.ud2().unwrap();
    });
    assert!(matches!(exit, Exit::TripleFault(_)), "{exit:?}");
}

#[test]
fn unknown_instructions_are_counted() {
    let (board, frame) = fault(|a| a.vaddps(ymm0, ymm1, ymm2).unwrap());
    assert_eq!((frame.vector, frame.rip), (6, CODE));
    assert_eq!(board.vm.stats().unknown, vec![("Vaddps".to_string(), 1)]);
}

#[test]
fn the_trap_flag_steps_one_instruction() {
    let (board, frame) = fault(|a| {
        a.pushfq().unwrap();
        a.or(qword_ptr(rsp), 0x100).unwrap();
        a.popfq().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(frame.vector, 1);
    assert_eq!(board.vm.registers().gpr[0], 1);
    assert_eq!(board.vm.registers().rflags & 0x100, 0, "the handler is not stepped");
    assert_eq!(frame.rflags & 0x100, 0x100);
}

#[test]
fn a_frame_may_be_pushed_over_the_code_that_faulted() {
    let (_, frame) = fault(|a| {
        a.mov(esp, (CODE + 32) as u32).unwrap();
        a.ud2().unwrap();
    });
    assert_eq!((frame.vector, frame.rip, frame.rsp), (6, CODE + 5, CODE + 32));
}

/// With 32-bit addresses, and a segment whose base is in the middle of a page.
#[test]
fn a_repeated_move_begins_anew_behind_4_gib() {
    const FS_BASE: u32 = 0xc000_0100;
    let below = DATA + 0x800;
    let (mut board, frame) = fault(|a| {
        a.mov(ecx, FS_BASE).unwrap();
        a.mov(eax, below as u32).unwrap();
        a.mov(edx, -1).unwrap();
        a.wrmsr().unwrap();
        a.mov(esi, 0xffff_f900u32).unwrap();
        a.mov(edi, (DATA + 0x3000) as u32).unwrap();
        a.mov(ecx, 0xf00).unwrap();
        // rep movsb byte [edi], byte fs:[esi]
        a.db(&[0x67, 0x64, 0xf3, 0xa4]).unwrap();
        a.hlt().unwrap();
    });
    let gpr = board.vm.registers().gpr;
    assert_eq!((frame.vector, gpr[1], gpr[6]), (14, 0x800, 0));
    assert_eq!(cr2(&mut board), below | 0xffff_ffff_0000_0000);
}
