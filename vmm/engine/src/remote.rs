//! What may be done to a running CPU from outside: raise an interrupt line, make it return.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use softcpu::Remote;

use crate::IOAPIC_LINES;
use crate::kvm::kick::KickState;

/// Raises interrupt lines of the guest's IOAPIC. Lines that do not exist are ignored.
///
/// A soft CPU notices between two blocks of code. One that is not inside
/// [`run`](crate::Engine::run) notices when it is run again, so a thread that interrupts an idle
/// guest has to wake the thread that runs it, too.
#[derive(Clone)]
pub struct IrqSender(Irq);

#[derive(Clone)]
enum Irq {
    Soft(Remote),
    Kvm(Arc<VmFd>),
}

impl IrqSender {
    pub(crate) fn soft(remote: Remote) -> IrqSender {
        IrqSender(Irq::Soft(remote))
    }

    pub(crate) fn kvm(vm: Arc<VmFd>) -> IrqSender {
        IrqSender(Irq::Kvm(vm))
    }

    /// One edge on line `gsi`.
    pub fn pulse(&self, gsi: u32) {
        match &self.0 {
            Irq::Soft(remote) => remote.pulse(gsi),
            Irq::Kvm(_) => {
                self.set_level(gsi, true);
                self.set_level(gsi, false);
            }
        }
    }

    /// Sets the level of line `gsi`.
    pub fn set_level(&self, gsi: u32, high: bool) {
        match &self.0 {
            Irq::Soft(remote) => remote.set_level(gsi, high),
            Irq::Kvm(vm) if gsi < IOAPIC_LINES => {
                // Fails only without an in-kernel irqchip, and `KvmEngine::new` made one.
                let _ = vm.set_irq_line(gsi, high);
            }
            Irq::Kvm(_) => {}
        }
    }
}

/// Makes [`Engine::run`](crate::Engine::run) return [`Exit::Stopped`](crate::Exit::Stopped)
/// soon, or at once when it is called next. Several kicks may be answered by one return.
#[derive(Clone)]
pub struct Kicker(Kick);

#[derive(Clone)]
enum Kick {
    Soft(Remote),
    Kvm(Arc<KickState>),
}

impl Kicker {
    pub(crate) fn soft(remote: Remote) -> Kicker {
        Kicker(Kick::Soft(remote))
    }

    pub(crate) fn kvm(state: Arc<KickState>) -> Kicker {
        Kicker(Kick::Kvm(state))
    }

    /// Asks the CPU to return from `run`.
    pub fn kick(&self) {
        match &self.0 {
            Kick::Soft(remote) => remote.kick(),
            Kick::Kvm(state) => state.kick(),
        }
    }
}
