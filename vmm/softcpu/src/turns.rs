//! Several CPUs, taking turns.
//!
//! Who runs next is decided by the count of instructions alone, so that a run repeats: a turn lasts
//! [`TURN`] instructions, or until the CPU halts, or until it executes PAUSE while another one could
//! run. A seed varies both the length of turns and whose turn is next.

use crate::board::{Activity, Board};
use crate::cpu::Cpu;
use crate::random::mix;
use crate::state::{CpuState, Parked};
use crate::tlb::ParkedTlb;

/// Instructions in a turn. Long enough that switching costs little, short enough that a CPU which
/// spins without PAUSE does not hold the others up for long (0.1 ms of guest time).
const TURN: u64 = 100_000;

/// The CPUs that wait for their turn.
pub struct Turns {
    /// By CPU number; what is kept for the executing one means nothing.
    parked: Vec<Parked>,
    seed: u64,
    /// Turns so far.
    count: u64,
}

impl Turns {
    pub fn new(cpus: usize, seed: u64) -> Turns {
        Turns { parked: (0..cpus).map(|_| Parked::reset()).collect(), seed, count: 0 }
    }

    /// How many turns there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The states of all CPUs but the `executing` one, whose place is empty.
    pub fn parked(&self, executing: usize) -> impl Iterator<Item = Option<&CpuState>> {
        let states = self.parked.iter().enumerate();
        states.map(move |(cpu, parked)| (cpu != executing).then_some(&parked.state))
    }

    /// The state of a CPU that is not executing.
    pub fn parked_mut(&mut self, cpu: usize) -> Option<&mut CpuState> {
        self.parked.get_mut(cpu).map(|parked| &mut parked.state)
    }

    /// Translations are made anew from now on, for all of them.
    pub fn flush_tlbs(&mut self) {
        self.parked.iter_mut().for_each(|parked| parked.tlb = ParkedTlb::default());
    }

    /// Goes on after `count` turns with CPUs in these states.
    pub fn restore(&mut self, states: &[CpuState], count: u64) {
        let parked = |state: &CpuState| Parked { state: state.clone(), ..Parked::reset() };
        self.parked = states.iter().map(parked).collect();
        self.count = count;
    }

    /// The CPU whose turn is next: the first one after the executing CPU that can run, that one last
    /// of all. `None` if all sleep.
    pub fn next(&self, board: &Board) -> Option<usize> {
        let ready = |cpu: &usize| board.local(*cpu).is_ready();
        let cpus = board.cpus();
        let mut order = (1..=cpus).map(|step| (board.current() + step) % cpus).filter(ready);
        if self.seed == 0 {
            return order.next();
        }
        let count = order.clone().count() as u64;
        let pick = mix(self.seed ^ self.count << 1).checked_rem(count)?;
        order.nth(pick as usize)
    }

    /// Lets another CPU (or the same again) have a turn.
    pub fn begin(&mut self, cpu: &mut Cpu, next: usize) {
        self.count += 1;
        let length = match self.seed {
            0 => TURN,
            seed => TURN / 16 + mix(seed ^ self.count << 1 ^ 1) % TURN,
        };
        cpu.clock.begin_turn(cpu.remaining, length);
        let current = cpu.board.current();
        if next != current {
            cpu.board.own().interrupts_on = cpu.flags.interrupts();
            cpu.exchange(&mut self.parked[next]);
            self.parked.swap(current, next);
            cpu.board.switch(next);
        }
    }

    /// True if a CPU other than the executing one can run.
    pub fn others_ready(board: &Board) -> bool {
        (0..board.cpus()).any(|cpu| cpu != board.current() && board.local(cpu).is_ready())
    }

    /// True if an interrupt could wake any CPU.
    pub fn can_wake(board: &Board) -> bool {
        (0..board.cpus()).any(|cpu| {
            let local = board.local(cpu);
            local.activity == Activity::Halted && local.interrupts_on || local.is_ready()
        })
    }
}
