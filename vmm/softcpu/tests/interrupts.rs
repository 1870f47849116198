//! Interrupts, time and changes of privilege.

mod board;

use std::time::Duration;

use board::*;
use iced_x86::code_asm::*;
use softcpu::{ClockMode, Config, ConfigError, Exit, Vm};

const APIC: u64 = 0xfee0_0000;
const TIMER: u32 = 0x40;
const LINE: u32 = 0x41;

/// Enables the local APIC and puts its timer into one-shot mode, 100 crystal ticks of 40 ns.
fn arm_timer(a: &mut CodeAssembler) {
    a.mov(ebx, APIC as u32).unwrap();
    a.mov(dword_ptr(rbx + 0xf0), 0x1ff).unwrap();
    a.mov(dword_ptr(rbx + 0x320), TIMER).unwrap();
    a.mov(dword_ptr(rbx + 0x3e0), 0b1011).unwrap();
    a.mov(dword_ptr(rbx + 0x380), 100).unwrap();
}

#[test]
fn halting_waits_for_the_timer_and_time_jumps_to_it() {
    let mut board = Board::new();
    let exit = board.run(|a| {
        arm_timer(a);
        a.sti().unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let frame = board.frame();
    assert_eq!(frame.vector, TIMER as u64);
    let now = board.vm.now();
    assert!(now >= Duration::from_nanos(4000) && now < Duration::from_nanos(4200), "{now:?}");
    assert!(board.vm.instructions() < 100, "idle time is not executed");
}

#[test]
fn a_halted_cpu_names_the_time_it_waits_for() {
    let mut board = Board::new();
    board.run(|a| a.hlt().unwrap());
    board.assemble(CODE, |a| {
        arm_timer(a);
        a.sti().unwrap();
        a.hlt().unwrap();
    });
    let registers = board.vm.registers();
    board.vm.set_registers(&softcpu::Registers { rip: CODE, ..registers });
    let Exit::Idle { until: Some(until) } = board.vm.run(&mut board.bus) else { panic!("not idle") };
    assert!(until > board.vm.now() + Duration::from_nanos(3900));
    assert_eq!(board.vm.run(&mut board.bus), Exit::Idle { until: Some(until) }, "time stands still");
    board.vm.skip_to(until);
    assert_eq!(board.vm.run(&mut board.bus), Exit::DeadHalt);
    assert_eq!(board.frame().vector, TIMER as u64);
}

#[test]
fn the_instruction_behind_sti_is_not_interrupted() {
    let mut board = Board::new();
    // The interrupt is pending when interrupts are enabled.
    let exit = board.run(|a| {
        arm_timer(a);
        a.mov(ecx, 5000).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.mov(eax, 1).unwrap();
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    assert_eq!((board.frame().vector, board.vm.registers().gpr[0]), (TIMER as u64, 2));
}

/// However the timer falls: an interrupt taken behind STI would be over when the CPU halts.
#[test]
fn the_halt_behind_sti_is_always_woken() {
    let handler = CODE + 0x1000;
    for delay in 0..40 {
        let mut board = Board::new();
        board.gate(TIMER as u64, handler, 0, 0);
        board.assemble(handler, |a| {
            a.inc(r8).unwrap();
            a.iretq().unwrap();
        });
        let exit = board.run(|a| {
            arm_timer(a);
            a.mov(ecx, 1985).unwrap();
            let mut again = a.create_label();
            a.set_label(&mut again).unwrap();
            a.dec(ecx).unwrap();
            a.jne(again).unwrap();
            for _ in 0..delay {
                a.nop().unwrap();
            }
            a.sti().unwrap();
            a.hlt().unwrap();
            a.cli().unwrap();
            a.hlt().unwrap();
        });
        assert_eq!((exit, board.vm.registers().gpr[8]), (Exit::DeadHalt, 1), "{delay}");
    }
}

/// Does the same again and again until the timer interrupts: instructions executed, and what RAX counted.
fn repeated_until(config: Config, body: impl FnOnce(&mut CodeAssembler)) -> (u64, u64) {
    let mut board = Board::with(config);
    let exit = board.run(|a| {
        arm_timer(a);
        a.sti().unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        body(a);
        a.jmp(again).unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    (board.vm.instructions(), board.vm.registers().gpr[0])
}

fn count(a: &mut CodeAssembler, times: usize) {
    for _ in 0..times {
        a.inc(rax).unwrap();
    }
}

/// Fills until the timer interrupts; `jumps`: the fill ends its block.
fn filled_until(padding: usize, jumps: bool) -> (u64, u64) {
    repeated_until(Config::default(), |a| {
        a.mov(ecx, 3000).unwrap();
        a.mov(edi, DATA as u32).unwrap();
        a.rep().stosb().unwrap();
        let mut behind = a.create_label();
        if jumps {
            a.jmp(behind).unwrap();
        } else {
            a.nop().unwrap();
        }
        a.set_label(&mut behind).unwrap();
        count(a, padding);
    })
}

#[test]
fn what_a_string_takes_is_felt_at_its_end() {
    for padding in 1..40 {
        assert_eq!(filled_until(padding, false), filled_until(padding, true), "{padding}");
    }
}

/// Counts in a loop until the timer interrupts, `padding` instructions a turn.
fn interrupted_at(seed: u64, padding: usize) -> (u64, u64) {
    repeated_until(Config { seed, ..Config::default() }, |a| count(a, padding))
}

#[test]
fn timer_interrupts_fall_after_an_exact_number_of_instructions() {
    let (instructions, count) = interrupted_at(0, 1);
    assert_eq!((instructions, count), interrupted_at(0, 1));
    // The same number however the code is cut into blocks.
    for padding in [2, 7, 50] {
        assert_eq!(interrupted_at(0, padding).0, instructions);
    }
}

#[test]
fn a_seed_moves_timer_interrupts_reproducibly() {
    let plain = interrupted_at(0, 1).0;
    let seeded: Vec<u64> = (1..6).map(|seed| interrupted_at(seed, 1).0).collect();
    assert!(seeded.iter().all(|instructions| *instructions >= plain));
    assert!(seeded.iter().any(|instructions| *instructions != seeded[0]));
    assert_eq!(seeded[2], interrupted_at(3, 1).0);
}

/// Routes I/O APIC line 5 to vector `LINE`, level-triggered if `level`.
fn route_line(a: &mut CodeAssembler, level: bool) {
    a.mov(ebx, APIC as u32).unwrap();
    a.mov(dword_ptr(rbx + 0xf0), 0x1ff).unwrap();
    a.mov(esi, 0xfec0_0000u32).unwrap();
    a.mov(dword_ptr(rsi), 0x10 + 2 * 5).unwrap();
    a.mov(dword_ptr(rsi + 0x10), LINE | (level as u32) << 15).unwrap();
}

#[test]
fn a_device_interrupts_from_inside_a_port_access() {
    let mut board = Board::new();
    let remote = board.vm.remote();
    board.bus.on_port = Some(Box::new(move |_| remote.pulse(5)));
    let mut after = 0;
    let exit = board.run(|a| {
        route_line(a, false);
        a.sti().unwrap();
        a.nop().unwrap();
        a.out(0x80, al).unwrap();
        a.inc(ecx).unwrap();
        a.hlt().unwrap();
        after = 1;
    });
    assert_eq!((exit, after), (Exit::DeadHalt, 1));
    assert_eq!(board.frame().vector, LINE as u64);
    assert_eq!(board.vm.registers().gpr[1], 0, "taken right behind OUT");
}

#[test]
fn a_level_stays_until_the_device_drops_it() {
    let mut board = Board::new();
    let handler = CODE + 0x1000;
    board.gate(LINE as u64, handler, 0, 0);
    let remote = board.vm.remote();
    // Port 0x80 raises the line, 0x81 lowers it.
    board.bus.on_port = Some(Box::new(move |port| remote.set_level(5, port == 0x80)));
    board.assemble(handler, |a| {
        let mut still = a.create_label();
        a.inc(ecx).unwrap();
        a.cmp(ecx, 3).unwrap();
        a.jne(still).unwrap();
        a.out(0x81, al).unwrap();
        a.set_label(&mut still).unwrap();
        // End of interrupt.
        a.mov(dword_ptr(rbx + 0xb0), 0).unwrap();
        a.iretq().unwrap();
    });
    let exit = board.run(|a| {
        route_line(a, true);
        a.sti().unwrap();
        a.out(0x80, al).unwrap();
        for _ in 0..4 {
            a.nop().unwrap();
        }
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    assert_eq!((exit, board.vm.registers().gpr[1]), (Exit::DeadHalt, 3));
}

#[test]
fn user_mode_and_back() {
    let mut board = Board::new();
    let (user, kernel) = (CODE + 0x1000, CODE + 0x2000);
    board.gate(0x80, board::stub(0x80), 0, 3);
    board.assemble(user, |a| {
        a.mov(edi, 0x1234).unwrap();
        a.stc().unwrap();
        a.syscall().unwrap();
        a.int(0x80).unwrap();
    });
    board.assemble(kernel, |a| {
        a.swapgs().unwrap();
        a.mov(rax, qword_ptr(0).gs()).unwrap();
        a.swapgs().unwrap();
        a.sysretq().unwrap();
    });
    board.put(DATA, 0xfeed);
    let exit = board.run(|a| {
        let msrs: [(u32, u64); 5] = [
            (0xc000_0080, 0xd01),
            (0xc000_0081, 0x18 << 48 | KERNEL_CODE << 32),
            (0xc000_0082, kernel),
            (0xc000_0084, 0x201),
            (0xc000_0102, DATA),
        ];
        for (msr, value) in msrs {
            a.mov(ecx, msr).unwrap();
            a.mov(eax, value as u32).unwrap();
            a.mov(edx, (value >> 32) as u32).unwrap();
            a.wrmsr().unwrap();
        }
        for value in [USER_DATA, STACK - 0x1000, 0x202, USER_CODE, user] {
            a.mov(rax, value).unwrap();
            a.push(rax).unwrap();
        }
        a.iretq().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    let (frame, gpr) = (board.frame(), board.vm.registers().gpr);
    assert_eq!((frame.vector, frame.cs, frame.ss), (0x80, USER_CODE, USER_DATA));
    assert_eq!(frame.rsp, STACK - 0x1000);
    assert_eq!(frame.rflags & 0x201, 0x201, "SYSRET restores what SYSCALL masked");
    assert_eq!((gpr[0], gpr[7], gpr[1]), (0xfeed, 0x1234, user + 8));
    assert!(gpr[4] < KERNEL_STACK && gpr[4] > KERNEL_STACK - 64);
}

#[test]
fn user_mode_is_kept_out_of_the_kernel() {
    let user = CODE + 0x1000;
    let attempt = |program: fn(&mut CodeAssembler)| {
        let mut board = Board::new();
        board.put(Board::entry(DATA), DATA | PRESENT | WRITABLE);
        board.assemble(user, program);
        board.run(|a| {
            for value in [USER_DATA, STACK - 0x1000, 0x202, USER_CODE, user] {
                a.mov(rax, value).unwrap();
                a.push(rax).unwrap();
            }
            a.iretq().unwrap();
        });
        (board.frame().vector, board.frame().code, board.frame().rip)
    };
    assert_eq!(attempt(|a| a.mov(eax, dword_ptr(DATA)).unwrap()), (14, Some(5), user));
    assert_eq!(attempt(|a| a.jmp(DATA).unwrap()), (14, Some(5), DATA));
    let refused: [fn(&mut CodeAssembler); 7] = [
        |a| a.cli().unwrap(),
        |a| a.hlt().unwrap(),
        |a| a.out(0x80, al).unwrap(),
        |a| a.mov(rax, iced_x86::code_asm::registers::cr0).unwrap(),
        |a| a.rdmsr().unwrap(),
        |a| a.swapgs().unwrap(),
        |a| a.wbinvd().unwrap(),
    ];
    for program in refused {
        assert_eq!(attempt(program), (13, Some(0), user));
    }
    // INT n asks the gate's privilege.
    assert_eq!(attempt(|a| a.int(0x80).unwrap()), (13, Some(0x80 * 8 + 2), user));
}

#[test]
fn device_registers_are_read_and_written_at_their_size() {
    let mut board = Board::new();
    let device = 0xd000_0000u64;
    board.run(|a| {
        a.mov(ebx, device as u32).unwrap();
        a.mov(dword_ptr(rbx + 0x50), 7).unwrap();
        a.movzx(eax, byte_ptr(rbx + 0x11)).unwrap();
        a.or(word_ptr(rbx + 0x22), 0x100).unwrap();
        a.hlt().unwrap();
    });
    let written = [(device + 0x50, vec![7, 0, 0, 0]), (device + 0x22, vec![0x22, 0x23])];
    assert_eq!(board.bus.written, written);
    assert_eq!(board.vm.registers().gpr[0], 0x11);
}

#[test]
fn another_thread_can_stop_a_loop() {
    let mut board = Board::with(Config { clock: ClockMode::Host, ..Config::default() });
    let remote = board.vm.remote();
    let stopper = std::thread::spawn(move || remote.kick());
    let exit = board.run(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.jmp(again).unwrap();
    });
    stopper.join().unwrap();
    assert_eq!(exit, Exit::Stopped);
}

#[test]
fn configurations_that_cannot_run_are_refused() {
    let ram = Board::new().ram;
    let none = Config { cpus: 0, ..Config::default() };
    assert_eq!(Vm::new(ram.clone(), none).err(), Some(ConfigError::Cpus(0)));
    let slow = Config { tsc_hz: 1, ..Config::default() };
    assert_eq!(Vm::new(ram, slow).err(), Some(ConfigError::TscHz(1)));
}

/// What a program meets that runs with these flags while CR0.AM is set or not.
fn alignment(mask: bool, flags: u64, program: fn(&mut CodeAssembler)) -> Frame {
    let user = CODE + 0x1000;
    let mut board = Board::new();
    board.gate(0x80, board::stub(0x80), 0, 3);
    board.assemble(user, program);
    let exit = board.run(|a| {
        a.mov(rax, cr0).unwrap();
        a.btr(rax, 18).unwrap();
        if mask {
            a.bts(rax, 18).unwrap();
        }
        a.mov(cr0, rax).unwrap();
        for value in [USER_DATA, STACK - 0x1000, 0x202 | flags, USER_CODE, user] {
            a.mov(rax, value).unwrap();
            a.push(rax).unwrap();
        }
        a.iretq().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    board.frame()
}

const ALIGNMENT_CHECK: u64 = 17;
const AC: u64 = 1 << 18;

#[test]
fn unaligned_accesses_of_programs_are_checked_where_both_switches_are_on() {
    let unaligned = |a: &mut CodeAssembler| {
        // The page is in the TLB, and what is aligned passes.
        a.mov(rax, qword_ptr(DATA)).unwrap();
        a.mov(rdi, DATA + 1).unwrap();
        a.mov(al, byte_ptr(rdi)).unwrap();
        a.mov(dword_ptr(rdi + 3), eax).unwrap();
        a.mov(eax, dword_ptr(rdi + 1)).unwrap();
        a.int(0x80).unwrap();
    };
    for (mask, flags) in [(false, 0), (false, AC), (true, 0)] {
        assert_eq!(alignment(mask, flags, unaligned).vector, 0x80, "AM {mask}, flags {flags:#x}");
    }
    let frame = alignment(true, AC, unaligned);
    assert_eq!((frame.vector, frame.code), (ALIGNMENT_CHECK, Some(0)));
    assert_eq!(frame.cs, USER_CODE);
    let store = |a: &mut CodeAssembler| a.mov(word_ptr(DATA + 5), ax).unwrap();
    assert_eq!(alignment(true, AC, store).vector, ALIGNMENT_CHECK);
}

#[test]
fn a_program_switches_alignment_checks_on_and_off_itself() {
    let switching = |a: &mut CodeAssembler| {
        a.mov(rdi, DATA + 1).unwrap();
        a.mov(eax, dword_ptr(rdi)).unwrap();
        for set in [true, false, true] {
            a.pushfq().unwrap();
            if set {
                a.or(qword_ptr(rsp), AC as i32).unwrap();
            } else {
                a.and(qword_ptr(rsp), !AC as i32).unwrap();
            }
            a.popfq().unwrap();
            if !set {
                a.mov(eax, dword_ptr(rdi)).unwrap();
                a.inc(ebx).unwrap();
            }
        }
        a.mov(eax, dword_ptr(rdi)).unwrap();
        a.int(0x80).unwrap();
    };
    assert_eq!(alignment(true, 0, switching).vector, ALIGNMENT_CHECK);
    assert_eq!(alignment(false, 0, switching).vector, 0x80);
}
