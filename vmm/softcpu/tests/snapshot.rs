//! Saving and restoring: a machine goes on as if nothing had been, and a damaged state does no harm.

mod board;

use std::sync::{Arc, OnceLock};

use board::*;
use iced_x86::code_asm::*;
use proptest::prelude::*;
use softcpu::{BadState, ClockMode, Config, Exit, Vm, VmState};
use vm_memory::{Bytes, GuestAddress};

const APIC: u64 = 0xfee0_0000;
const TIMER: u32 = 0x40;
const TICKS: u64 = DATA + 0x100;

/// Counts timer interrupts while it computes with every kind of register, for some slices.
fn start(config: Config) -> (Board, Exit) {
    let mut board = Board::with(config);
    let handler = CODE + 0x1000;
    board.gate(TIMER.into(), handler, 0, 0);
    board.assemble(handler, |a| {
        a.inc(qword_ptr(TICKS)).unwrap();
        a.mov(dword_ptr(rbx + 0xb0), 0).unwrap();
        a.iretq().unwrap();
    });
    board.assemble(CODE, |a| {
        a.mov(ebx, APIC as u32).unwrap();
        a.mov(dword_ptr(rbx + 0xf0), 0x1ff).unwrap();
        a.mov(dword_ptr(rbx + 0x320), 0x2_0000 | TIMER).unwrap();
        a.mov(dword_ptr(rbx + 0x3e0), 0b1011).unwrap();
        a.mov(dword_ptr(rbx + 0x380), 10_000).unwrap();
        a.sti().unwrap();
        a.fninit().unwrap();
        a.fldpi().unwrap();
        a.mov(eax, 3).unwrap();
        a.cvtsi2sd(xmm0, eax).unwrap();
        a.movapd(xmm1, xmm0).unwrap();
        a.mov(rsi, DATA).unwrap();
        a.mov(ecx, 2_000_000).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mulsd(xmm1, xmm0).unwrap();
        a.sqrtsd(xmm1, xmm1).unwrap();
        a.fld1().unwrap();
        a.faddp(st1, st0).unwrap();
        a.imul_3(rdx, rdx, 77).unwrap();
        a.add(rdx, rcx).unwrap();
        a.mov(qword_ptr(rsi), rdx).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.movsd_2(qword_ptr(rsi + 8), xmm1).unwrap();
        a.fstp(tbyte_ptr(rsi + 16)).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    board.begin();
    let exit = board.vm.run(&mut board.bus);
    (board, exit)
}

/// A new machine with the same RAM and the state.
fn restored(board: &Board, bytes: &[u8], config: Config) -> Result<Board, BadState> {
    restored_from(&contents(board), bytes, config)
}

fn contents(board: &Board) -> Vec<u8> {
    let mut all = vec![0; RAM];
    board.ram.read_slice(&mut all, GuestAddress(0)).unwrap();
    all
}

fn restored_from(contents: &[u8], bytes: &[u8], config: Config) -> Result<Board, BadState> {
    let state: VmState = postcard::from_bytes(bytes).map_err(|_| BadState::Impossible("it"))?;
    let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), RAM)]).unwrap());
    ram.write_slice(contents, GuestAddress(0)).unwrap();
    let mut vm = Vm::new(ram.clone(), config).unwrap();
    vm.restore(&state, config.seed)?;
    Ok(Board::of(ram, vm))
}

fn saved(board: &Board) -> Vec<u8> {
    postcard::to_stdvec(&board.vm.save()).unwrap()
}

fn seen(board: &Board) -> (softcpu::Registers, u64, std::time::Duration, Vec<u8>) {
    (board.vm.registers(), board.vm.instructions(), board.vm.now(), contents(board))
}

#[test]
fn a_restored_machine_goes_on_to_the_same_end() {
    for cpus in [1, 2] {
        let config = Config { cpus, ..Config::default() };
        let (mut plain, exit) = start(config);
        assert_eq!(exit, Exit::Slice);
        let end = plain.go_on();
        assert!(plain.get(TICKS) > 20, "timer interrupts: {}", plain.get(TICKS));

        let (mut board, mut exit) = start(config);
        let mut restores = 0;
        while exit == Exit::Slice {
            let state = saved(&board);
            board = restored(&board, &state, config).unwrap();
            assert_eq!(saved(&board), state, "saving changes nothing");
            restores += 1;
            exit = board.vm.run(&mut board.bus);
        }
        assert!(restores >= 1);
        assert_eq!(exit, end);
        let (plain, board) = (seen(&plain), seen(&board));
        assert_eq!((plain.0, plain.1, plain.2), (board.0, board.1, board.2));
        assert!(plain.3 == board.3, "RAM differs");
    }
}

#[test]
fn an_edge_that_nobody_saw_is_seen_after_the_restore() {
    let (board, _) = start(Config::default());
    board.vm.remote().pulse(7);
    let state = saved(&board);
    let again = restored(&board, &state, Config::default()).unwrap();
    assert_eq!(saved(&again), state);
    board.vm.remote().pulse(8);
    assert_ne!(saved(&board), state);
}

#[test]
fn time_goes_on_in_either_clock_mode() {
    let (board, _) = start(Config::default());
    let then = board.vm.now();
    let host = Config { clock: ClockMode::Host, ..Config::default() };
    let state = saved(&board);
    let mut again = restored(&board, &state, host).unwrap();
    assert!(again.vm.now() >= then);
    again.vm.remote().kick();
    assert_eq!(again.vm.run(&mut again.bus), Exit::Stopped);
    let later = again.vm.now();
    let state = saved(&again);
    let back = restored(&again, &state, Config::default()).unwrap();
    assert!(back.vm.now() >= later);
}

#[test]
fn a_seed_gives_random_numbers_of_its_own() {
    let (board, _) = start(Config::default());
    let state = saved(&board);
    let number = |seed| {
        let mut again = restored(&board, &state, Config { seed, ..Config::default() }).unwrap();
        again.run(|a| {
            a.rdrand(rax).unwrap();
            a.hlt().unwrap();
        });
        again.vm.registers().gpr[0]
    };
    assert_eq!(number(1), number(1));
    assert_ne!(number(1), number(2));
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let (board, _) = start(Config::default());
    let state = saved(&board);
    let error = restored(&board, &state, Config { cpus: 2, ..Config::default() }).err();
    assert_eq!(error, Some(BadState::Cpus { saved: 1, wanted: 2 }));
    let error = restored(&board, &state, Config { tsc_hz: 2_000_000_000, ..Config::default() }).err();
    assert_eq!(error, Some(BadState::Impossible("the clock is")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_state_is_refused_or_runs(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        static RUNNING: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
        let (ram, state) = RUNNING.get_or_init(|| {
            let (board, _) = start(Config { cpus: 2, ..Config::default() });
            (contents(&board), saved(&board))
        });
        let mut state = state.clone();
        for (at, byte) in changes {
            let at = at.index(state.len());
            state[at] = byte;
        }
        if let Ok(mut damaged) = restored_from(ram, &state, Config { cpus: 2, ..Config::default() }) {
            for _ in 0..2 {
                match damaged.vm.run(&mut damaged.bus) {
                    Exit::Idle { until: Some(until) } => damaged.vm.skip_to(until),
                    Exit::Slice => {}
                    _ => break,
                }
            }
        }
    }
}

#[test]
fn a_program_that_was_resumed_behind_a_fault_can_be_restored() {
    let mut board = Board::new();
    board.assemble(CODE + 0x1000, |a| a.hlt().unwrap());
    let exit = board.run(|a| {
        // A handler returns with RF set, as every fault's frame has it.
        a.push(0x18).unwrap();
        a.push(STACK as i32).unwrap();
        a.push(0x1_0002).unwrap();
        a.push(KERNEL_CODE as i32).unwrap();
        a.push((CODE + 0x1000) as i32).unwrap();
        a.iretq().unwrap();
    });
    assert_eq!(exit, Exit::DeadHalt);
    assert_ne!(board.vm.registers().rflags & 1 << 16, 0, "RF was set and nothing has looked at it since");
    let bytes = postcard::to_stdvec(&board.vm.save()).unwrap();
    let again = restored(&board, &bytes, Config::default()).unwrap();
    assert_eq!(again.vm.describe(), board.vm.describe());
}
