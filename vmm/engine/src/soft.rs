//! The software CPU behind the engine boundary.

use std::sync::Arc;
use std::time::Duration;

use guest_ram::GuestRam;
use softcpu::debugger::{DebugRegisters, Waits};
use softcpu::{Bus, EntryState, Stats, Vm, VmState};

use crate::clock::GuestClock;
use crate::remote::{IrqSender, Kicker};
use crate::{Config, EngineError, Exit, NotRestored};

/// A [`softcpu::Vm`] that speaks this crate's types.
pub(crate) struct SoftEngine {
    vm: Vm,
}

impl SoftEngine {
    pub(crate) fn new(ram: Arc<GuestRam>, config: Config) -> Result<SoftEngine, EngineError> {
        let config = softcpu::Config {
            clock: config.clock,
            seed: config.seed,
            execution: config.execution,
            cpus: config.cpus,
            ..softcpu::Config::default()
        };
        Ok(SoftEngine { vm: Vm::new(ram, config)? })
    }

    pub(crate) fn set_entry(&mut self, entry: &EntryState) -> Result<(), EngineError> {
        self.vm.set_entry(entry);
        Ok(())
    }

    pub(crate) fn save(&self) -> VmState {
        self.vm.save()
    }

    pub(crate) fn restore(&mut self, state: &VmState, seed: u64) -> Result<(), NotRestored> {
        Ok(self.vm.restore(state, seed)?)
    }

    pub(crate) fn run(&mut self, bus: &mut dyn Bus) -> Exit {
        match self.vm.run(bus) {
            softcpu::Exit::Idle { until } => Exit::Idle { until },
            softcpu::Exit::Slice => Exit::Slice,
            softcpu::Exit::Stopped => Exit::Stopped,
            softcpu::Exit::TripleFault(cause) => Exit::TripleFault(cause),
            softcpu::Exit::DeadHalt => Exit::DeadHalt,
            softcpu::Exit::Debug(cpu, stop) => Exit::Debug(cpu, stop),
        }
    }

    pub(crate) fn debug(&mut self, waits: Waits) -> Result<(), EngineError> {
        self.vm.debug(waits);
        Ok(())
    }

    pub(crate) fn debug_registers(&self, cpu: u8) -> DebugRegisters {
        self.vm.debug_registers(cpu)
    }

    pub(crate) fn set_debug_registers(&mut self, cpu: u8, new: &DebugRegisters) -> Result<(), EngineError> {
        self.vm.set_debug_registers(cpu, new);
        Ok(())
    }

    pub(crate) fn cpus(&self) -> u8 {
        self.vm.cpu_numbers().1
    }

    pub(crate) fn skip_to(&mut self, until: Duration) {
        self.vm.skip_to(until);
    }

    pub(crate) fn irq(&self) -> IrqSender {
        IrqSender::soft(self.vm.remote())
    }

    pub(crate) fn kicker(&self) -> Kicker {
        Kicker::soft(self.vm.remote())
    }

    pub(crate) fn clock(&self) -> GuestClock {
        GuestClock::soft(self.vm.remote())
    }

    pub(crate) fn now(&self) -> Duration {
        self.vm.now()
    }

    pub(crate) fn instructions(&self) -> u64 {
        self.vm.instructions()
    }

    pub(crate) fn missing_instructions(&self) -> usize {
        self.vm.missing_instructions()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.vm.stats()
    }
}
