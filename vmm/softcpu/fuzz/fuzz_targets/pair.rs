//! Two machines with one program, one of which interprets and one compiles: they do the same, to the last
//! register and byte of memory, and neither panics, hangs or comes into a state that cannot be saved.

#[path = "../../tests/board/mod.rs"]
pub mod board;

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use board::{Board, RAM};
use guest_ram::PAGE_SIZE;
use softcpu::{Config, Execution, Exit, Vm, VmState};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Times that a program may sleep until a timer.
const SLEEPS: usize = 20;
/// Instructions that a run may be longer than its limit: a repeated string instruction counts as many.
const SLACK: u64 = 1000;

/// A board with its tables loaded, of which every case gets a copy.
struct Origin {
    memory: File,
    state: VmState,
}

fn origin() -> &'static Origin {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let mut board = Board::exactly(config(Execution::Interpret));
        assert_eq!(board.run(|a| a.hlt().expect("a program")), Exit::DeadHalt);
        let mut bytes = vec![0; RAM];
        board.ram.read_slice(&mut bytes, GuestAddress(0)).expect("all of RAM");
        let mut memory = tempfile::tempfile().expect("a temporary file");
        memory.write_all(&bytes).expect("it can be written");
        Origin { memory, state: board.vm.save() }
    })
}

fn config(execution: Execution) -> Config {
    Config { execution, ..Config::default() }
}

fn copy(execution: Execution) -> Board {
    let Origin { memory, state } = origin();
    let ram = guest_ram::map(memory, &[(GuestAddress(0), RAM, 0)]).expect("RAM");
    let ram = Arc::new(ram);
    let mut vm = Vm::new(ram.clone(), config(execution)).expect("a machine");
    vm.restore(state, 0).expect("what was saved");
    Board::of(ram, vm)
}

fn run(board: &mut Board, limit: u64) -> Exit {
    let mut sleeps = 0;
    let exit = loop {
        match board.vm.run_until(&mut board.bus, limit) {
            Exit::Slice if board.vm.instructions() < limit => {}
            Exit::Idle { until: Some(until) } if sleeps < SLEEPS => {
                sleeps += 1;
                board.vm.skip_to(until);
            }
            exit => break exit,
        }
    };
    assert!(board.vm.instructions() < limit + SLACK, "{} instructions", board.vm.instructions());
    let mut again = Vm::new(board.ram.clone(), config(Execution::Interpret)).expect("a machine");
    again.restore(&board.vm.save(), 0).expect("a state that the guest came into can be restored");
    assert_eq!(board.vm.describe(), again.describe());
    exit
}

/// What `prepare` makes of a board runs for `instructions` on both. Returns how each ended.
fn both(prepare: impl Fn(&mut Board), instructions: u64) -> [(Board, Exit); 2] {
    [Execution::Interpret, Execution::Compile { after: 1 }].map(|execution| {
        let mut board = copy(execution);
        prepare(&mut board);
        let limit = board.vm.instructions() + instructions;
        let exit = run(&mut board, limit);
        (board, exit)
    })
}

/// Runs what `prepare` makes of a board; the two may do different things.
#[allow(dead_code, reason = "not every target has such programs")]
pub fn survive(prepare: impl Fn(&mut Board), instructions: u64) {
    both(prepare, instructions);
}

/// Runs what `prepare` makes of a board, and compares what comes of it.
pub fn compare(prepare: impl Fn(&mut Board), instructions: u64) {
    let [(one, end), (other, other_end)] = both(prepare, instructions);
    assert_eq!(end, other_end);
    assert_eq!(one.vm.describe(), other.vm.describe());
    assert_eq!(one.vm.instructions(), other.vm.instructions());
    assert_eq!(one.bus.written, other.bus.written);
    assert_eq!(one.bus.ports, other.bus.ports);
    compare_memory(&one, &other);
}

/// Compares the pages that were written.
fn compare_memory(one: &Board, other: &Board) {
    for (a, b) in one.ram.iter().zip(other.ram.iter()) {
        let (map_a, map_b) = (a.get_mmap(), b.get_mmap());
        let dirty = |offset: &usize| map_a.bitmap().dirty_at(*offset) || map_b.bitmap().dirty_at(*offset);
        for offset in (0..a.len() as usize).step_by(PAGE_SIZE).filter(dirty) {
            let at = GuestAddress(a.start_addr().0 + offset as u64);
            let [of_one, of_other] = [one, other].map(|board| {
                let mut page = [0; PAGE_SIZE];
                board.ram.read_slice(&mut page, at).expect("a page of RAM");
                page
            });
            if of_one == of_other {
                continue;
            }
            let differs = of_one.iter().zip(&of_other).position(|(one, other)| one != other);
            assert_eq!(differs, None, "in the page at {:#x}", at.0);
        }
    }
}
