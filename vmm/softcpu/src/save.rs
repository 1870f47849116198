//! A machine's CPUs as plain data, for snapshots.
//!
//! Saved is what the guest can see: registers, interrupt controllers, time. Decoded and compiled code
//! and translations are made again. What is loaded is judged first: a state that no instruction leads to
//! could make the host load reserved bits into its own registers.

use serde::{Deserialize, Serialize};

use crate::apic::Ticks;
use crate::board::BoardState;
use crate::clock::ClockState;
use crate::random::Random;
use crate::state::CpuState;
use crate::turns::Turns;
use crate::vm::Vm;

/// The CPUs, the interrupt controllers and the clock of a [`Vm`]. RAM and devices are not in here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmState {
    /// By number.
    cpus: Vec<CpuState>,
    board: BoardState,
    clock: ClockState,
    random: u64,
    turns: u64,
}

impl VmState {
    /// How many CPUs it has.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }
}

/// A state that no machine of this kind was saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    /// It has another number of CPUs.
    #[error("it has {saved} CPUs, not {wanted}")]
    Cpus {
        /// In the state.
        saved: usize,
        /// In the machine.
        wanted: usize,
    },
    /// Something that no guest can bring about.
    #[error("{0} in a state that no guest brings about")]
    Impossible(&'static str),
}

impl Vm {
    /// The state between two calls of [`run`](Self::run).
    pub fn save(&self) -> VmState {
        let cpu = &self.cpu;
        let executing = cpu.state();
        let states = self.turns.parked(cpu.board.current());
        VmState {
            cpus: states.map(|parked| parked.unwrap_or(&executing).clone()).collect(),
            board: cpu.board.save(),
            clock: cpu.clock.save(cpu.remaining),
            random: cpu.random.state(),
            turns: self.turns.count(),
        }
    }

    /// Makes a new machine what another one was saved as. Time goes on from there, in this machine's clock
    /// mode; random numbers depend on its seed, too.
    pub fn restore(&mut self, state: &VmState, seed: u64) -> Result<(), BadState> {
        let VmState { cpus, board, clock, random, turns } = state;
        let wanted = self.cpu.board.cpus();
        if cpus.len() != wanted {
            return Err(BadState::Cpus { saved: cpus.len(), wanted });
        }
        if !cpus.iter().all(CpuState::is_valid) {
            return Err(BadState::Impossible("a CPU is"));
        }
        if !board.is_valid(wanted, Ticks(clock.ticks)) {
            return Err(BadState::Impossible("the interrupt controllers are"));
        }
        let cpu = &mut *self.cpu;
        if !cpu.clock.restore(clock, wanted > 1, &mut cpu.remaining) {
            return Err(BadState::Impossible("the clock is"));
        }
        self.turns.restore(cpus, *turns);
        cpu.set_state(&cpus[board.current()]);
        cpu.flush_tlb();
        cpu.board.restore(board);
        cpu.random = Random::reseeded(*random, seed);
        cpu.interrupt_pending = cpu.board.pending();
        cpu.others_ready = Turns::others_ready(&cpu.board);
        cpu.publish_time();
        Ok(())
    }
}
