//! The narrow CPU boundary: two engines, one shape.
//!
//! An [`Engine`] is a machine of CPUs, RAM, and the interrupt controllers (local APIC and
//! IOAPIC) that are too close to a CPU to be devices. [`Engine::run`] executes the guest and
//! returns only for lifecycle events ([`Exit`]): everything the guest does outside RAM reaches
//! the [`Bus`] as a callback: on the thread that called `run`, or on KVM on the thread of the CPU that did
//! it, one at a time.
//!
//! ```text
//!   machine ── run(&mut bus) ──▶ Engine ┬─ soft   softcpu, its own APICs, instruction clock
//!      ▲                                └─ kvm    KVM_RUN, in-kernel APICs, host clock
//!      └── Exit: Idle, Slice, Stopped, TripleFault, DeadHalt, Failed
//! ```
//!
//! What differs is who owns time. The soft engine returns [`Exit::Idle`] when the CPU halts and
//! lets the caller decide how time passes (see [`ClockMode`]); KVM sleeps in the kernel, so it
//! never returns `Idle` or `Slice` and has to be [kicked](Kicker) to look at its caller.
//!
//! [`choose()`] picks an engine for this computer and says why in one line.
//!
//! The set of engines is closed on purpose, hence an enum and no trait.

mod choose;
mod clock;
mod config;
mod kvm;
mod remote;
mod saved;
mod soft;

use std::sync::Arc;
use std::time::Duration;

use guest_ram::GuestRam;

pub use choose::{Choice, Kind, choose};
pub use clock::GuestClock;
pub use config::{Config, EngineError};
pub use remote::{IrqSender, Kicker};
pub use saved::{EngineState, NotRestored, NotSaved};
pub use softcpu::debugger::{DebugRegisters, MAX_POINTS, Point, Stop, Waits, Watch};
pub use softcpu::{Bus, ClockMode, EntryState, Execution, MAX_CPUS, Stats};

/// Interrupt lines of the IOAPIC, on either engine: global system interrupts 0..24.
pub const IOAPIC_LINES: u32 = 24;

/// Why [`Engine::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The CPU is halted and waits for an interrupt (soft engine only).
    Idle {
        /// Guest time of the next timer interrupt; `None`: no timer is armed.
        until: Option<Duration>,
    },
    /// A moment of guest time passed in virtual clock mode: host input may be handed in here
    /// (soft engine only).
    Slice,
    /// [`Kicker::kick`] was called.
    Stopped,
    /// What the debugger waits for ([`Engine::debug`]) was met by this CPU.
    Debug(u8, Stop),
    /// A fault while delivering a double fault, which resets a PC. The text names cause and RIP.
    TripleFault(String),
    /// `hlt` with interrupts disabled: nothing can wake this CPU. KVM notices it when kicked.
    DeadHalt,
    /// The engine itself cannot go on; the text says what it could not do. (KVM without hardware
    /// virtualization fails like this on instructions that its emulator lacks.)
    Failed(String),
}

/// A guest's CPUs with their RAM and interrupt controllers.
pub struct Engine(Inner);

enum Inner {
    Soft(Box<soft::SoftEngine>),
    Kvm(Box<kvm::KvmEngine>),
}

impl Engine {
    /// A CPU in its reset state; [`set_entry`](Self::set_entry) makes it ready to run.
    ///
    /// [`Kind::Auto`] is resolved by [`choose()`] first.
    pub fn new(kind: Kind, ram: Arc<GuestRam>, config: Config) -> Result<Engine, EngineError> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(EngineError::Cpus(config.cpus));
        }
        let inner = match choose(kind)?.kind {
            Kind::Kvm => Inner::Kvm(Box::new(kvm::KvmEngine::new(ram, config.cpus)?)),
            Kind::Auto | Kind::Soft => Inner::Soft(Box::new(soft::SoftEngine::new(ram, config)?)),
        };
        Ok(Engine(inner))
    }

    /// Which engine this is: [`Kind::Soft`] or [`Kind::Kvm`].
    pub fn kind(&self) -> Kind {
        match &self.0 {
            Inner::Soft(_) => Kind::Soft,
            Inner::Kvm(_) => Kind::Kvm,
        }
    }

    /// Puts the CPU into 64-bit mode at `entry`, as the 64-bit Linux boot protocol wants it:
    /// paging on through `entry.cr3`, interrupts off, flat CS 0x10 and data segments 0x18.
    pub fn set_entry(&mut self, entry: &EntryState) -> Result<(), EngineError> {
        match &mut self.0 {
            Inner::Soft(soft) => soft.set_entry(entry),
            Inner::Kvm(kvm) => kvm.set_entry(entry),
        }
    }

    /// The CPUs, interrupt controllers and clock as plain data, between two calls of [`run`](Self::run).
    pub fn save(&self) -> Result<EngineState, NotSaved> {
        match &self.0 {
            Inner::Soft(soft) => Ok(EngineState::Soft(soft.save())),
            Inner::Kvm(_) => Err(NotSaved),
        }
    }

    /// Makes a new engine what another one was saved as. `seed` makes what is random in it its own.
    pub fn restore(&mut self, state: &EngineState, seed: u64) -> Result<(), NotRestored> {
        match (&mut self.0, state) {
            (Inner::Soft(soft), EngineState::Soft(state)) => soft.restore(state, seed),
            (Inner::Kvm(_), EngineState::Soft(_)) => Err(NotRestored::Engine),
        }
    }

    /// Runs the guest until something happens that the caller must see.
    pub fn run(&mut self, bus: &mut dyn Bus) -> Exit {
        match &mut self.0 {
            Inner::Soft(soft) => soft.run(bus),
            Inner::Kvm(kvm) => kvm.run(bus),
        }
    }

    /// From now on [`run`](Self::run) returns for what a debugger waits for. Fails where the host's KVM
    /// cannot do that.
    pub fn debug(&mut self, waits: Waits) -> Result<(), EngineError> {
        match &mut self.0 {
            Inner::Soft(soft) => soft.debug(waits),
            Inner::Kvm(kvm) => kvm.debug(waits),
        }
    }

    /// The registers of a CPU, between two calls of [`run`](Self::run).
    pub fn debug_registers(&self, cpu: u8) -> Result<DebugRegisters, EngineError> {
        match &self.0 {
            Inner::Soft(soft) => Ok(soft.debug_registers(cpu)),
            Inner::Kvm(kvm) => kvm.debug_registers(cpu),
        }
    }

    /// Changes what a debugger may change of them.
    pub fn set_debug_registers(&mut self, cpu: u8, new: &DebugRegisters) -> Result<(), EngineError> {
        match &mut self.0 {
            Inner::Soft(soft) => soft.set_debug_registers(cpu, new),
            Inner::Kvm(kvm) => kvm.set_debug_registers(cpu, new),
        }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> u8 {
        match &self.0 {
            Inner::Soft(soft) => soft.cpus(),
            Inner::Kvm(kvm) => kvm.cpus(),
        }
    }

    /// Virtual clock: guest time jumps forward to `until`, a time that [`Exit::Idle`] named.
    /// Without effect on an engine whose clock is the host's.
    pub fn skip_to(&mut self, until: Duration) {
        match &mut self.0 {
            Inner::Soft(soft) => soft.skip_to(until),
            Inner::Kvm(_) => {}
        }
    }

    /// A handle that raises interrupt lines, from any thread or from inside a [`Bus`] callback.
    pub fn irq(&self) -> IrqSender {
        match &self.0 {
            Inner::Soft(soft) => soft.irq(),
            Inner::Kvm(kvm) => kvm.irq(),
        }
    }

    /// A handle that makes [`run`](Self::run) return, from any thread or from inside a [`Bus`]
    /// callback.
    pub fn kicker(&self) -> Kicker {
        match &self.0 {
            Inner::Soft(soft) => soft.kicker(),
            Inner::Kvm(kvm) => kvm.kicker(),
        }
    }

    /// Guest time since power-on.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Inner::Soft(soft) => soft.now(),
            Inner::Kvm(kvm) => kvm.now(),
        }
    }

    /// A handle that reads [`now`](Self::now) from elsewhere.
    pub fn clock(&self) -> GuestClock {
        match &self.0 {
            Inner::Soft(soft) => soft.clock(),
            Inner::Kvm(kvm) => kvm.clock(),
        }
    }

    /// Instructions executed so far, where the engine counts them (soft).
    pub fn instructions(&self) -> Option<u64> {
        match &self.0 {
            Inner::Soft(soft) => Some(soft.instructions()),
            Inner::Kvm(_) => None,
        }
    }

    /// How many different instructions the guest has executed that the software CPU lacks.
    pub fn missing_instructions(&self) -> usize {
        match &self.0 {
            Inner::Soft(engine) => engine.missing_instructions(),
            Inner::Kvm(_) => 0,
        }
    }

    /// The software CPU's counters; `None` on KVM, which keeps none that compare.
    pub fn stats(&self) -> Option<Stats> {
        match &self.0 {
            Inner::Soft(soft) => Some(soft.stats()),
            Inner::Kvm(_) => None,
        }
    }
}
