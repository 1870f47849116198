//! The host kernel's KVM behind the engine boundary.
//!
//! Local APIC and IOAPIC are KVM's own. There is no PIC and no PIT: interrupt lines are routed to
//! the IOAPIC alone, and guests take their clock from kvmclock and the TSC-deadline timer.

mod cpuid;
pub(crate) mod kick;
mod registers;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_ram::GuestRam;
use kvm_bindings::{
    KVM_EXIT_IO_IN, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use softcpu::{Bus, EntryState};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::clock::GuestClock;
use crate::remote::{IrqSender, Kicker};
use crate::{EngineError, Exit, IOAPIC_LINES};
use kick::KickState;

/// Three pages that Intel's KVM needs for itself, where no RAM and no device is: the end of the
/// 4 GiB hole (KVM API, `KVM_SET_TSS_ADDR`), with the one-page identity map before them.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// RFLAGS: interrupts are enabled.
const RFLAGS_IF: u64 = 1 << 9;

/// A VM of one CPU in the host kernel.
pub(crate) struct KvmEngine {
    vcpu: VcpuFd,
    vm: Arc<VmFd>,
    kick: Arc<KickState>,
    started: Instant,
    // The kernel reads and writes it for as long as `vm` lives, so it goes last.
    _ram: Arc<GuestRam>,
}

impl KvmEngine {
    pub(crate) fn new(ram: Arc<GuestRam>) -> Result<KvmEngine, EngineError> {
        let refused = |step| move |source| EngineError::Kvm { step, source };

        let kvm =
            Kvm::new().map_err(|error| EngineError::OpenKvm(io::Error::from_raw_os_error(error.errno())))?;
        let vm = kvm.create_vm().map_err(refused("create a VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(refused("place its identity map"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(refused("place its task state segment"))?;
        vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        vm.set_gsi_routing(&ioapic_routing()).map_err(refused("route interrupts to the IOAPIC"))?;
        map_ram(&vm, &ram).map_err(refused("map guest memory"))?;

        let vcpu = vm.create_vcpu(0).map_err(refused("create a CPU"))?;
        let mut cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("name its CPU features"))?;
        cpuid::filter(&mut cpuid);
        vcpu.set_cpuid2(&cpuid).map_err(refused("set CPUID"))?;
        vcpu.set_fpu(&registers::floating_point()).map_err(refused("set FPU registers"))?;
        for msr in registers::model_specific().into_iter().filter_map(registers::single) {
            // A KVM without this register ignores it; the guest asks before it relies on it.
            let _ = vcpu.set_msrs(&msr);
        }

        kick::install_handler().map_err(refused("install the kick signal"))?;
        Ok(KvmEngine {
            vcpu,
            vm: Arc::new(vm),
            kick: Arc::new(KickState::default()),
            started: Instant::now(),
            _ram: ram,
        })
    }

    pub(crate) fn set_entry(&mut self, entry: &EntryState) -> Result<(), EngineError> {
        let refused = |step| move |source| EngineError::Kvm { step, source };
        let reset = self.vcpu.get_sregs().map_err(refused("read system registers"))?;
        self.vcpu.set_sregs(&registers::system(entry, reset)).map_err(refused("set system registers"))?;
        self.vcpu.set_regs(&registers::general(entry)).map_err(refused("set registers"))
    }

    pub(crate) fn irq(&self) -> IrqSender {
        IrqSender::kvm(self.vm.clone())
    }

    pub(crate) fn kicker(&self) -> Kicker {
        Kicker::kvm(self.kick.clone())
    }

    pub(crate) fn clock(&self) -> GuestClock {
        GuestClock::kvm(self.started)
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn run(&mut self, bus: &mut dyn Bus) -> Exit {
        let kick = self.kick.clone();
        let _entered = kick.enter(&mut self.vcpu);
        loop {
            if kick.take() {
                return if self.is_dead_halted() { Exit::DeadHalt } else { Exit::Stopped };
            }
            match self.vcpu.run() {
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => port_access(&mut self.vcpu, bus),
                Ok(VcpuExit::MmioRead(address, data)) => bus.mmio_read(GuestAddress(address), data),
                Ok(VcpuExit::MmioWrite(address, data)) => bus.mmio_write(GuestAddress(address), data),
                Ok(VcpuExit::Shutdown) => return Exit::TripleFault(format!("triple fault {}", self.place())),
                Ok(VcpuExit::InternalError) => {
                    return Exit::Failed(format!("KVM cannot emulate the instruction {}", self.place()));
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Exit::Failed(format!(
                        "the hardware refused to enter the guest (reason {reason:#x}) {}",
                        self.place()
                    ));
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
                Ok(other) => {
                    let what = format!("{other:?}");
                    return Exit::Failed(format!("unexpected KVM exit {what} {}", self.place()));
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    // Cleared before the flag is looked at: a kick after this sets it again.
                    self.vcpu.set_kvm_immediate_exit(0);
                }
                Err(error) => return Exit::Failed(format!("KVM_RUN: {error} {}", self.place())),
            }
        }
    }

    /// Whether the CPU sleeps with interrupts disabled. KVM does not tell: such a guest stays inside
    /// `KVM_RUN`, so this is looked at when somebody kicks.
    fn is_dead_halted(&self) -> bool {
        let halted = self.vcpu.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
        halted && self.vcpu.get_regs().is_ok_and(|regs| regs.rflags & RFLAGS_IF == 0)
    }

    fn place(&self) -> String {
        match self.vcpu.get_regs() {
            Ok(regs) => format!("at RIP {:#x}", regs.rip),
            Err(_) => "at an unknown RIP".into(),
        }
    }
}

/// Hands one port exit to the bus. A string instruction (`rep outsb`) may come as several elements
/// in one exit, which `VcpuExit` does not tell from one wide access.
fn port_access(vcpu: &mut VcpuFd, bus: &mut dyn Bus) {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_IO, for which `io` is the valid member of the union.
    let io = unsafe { run.__bindgen_anon_1.io };
    let (size, count) = (usize::from(io.size), io.count as usize);
    // SAFETY: KVM places `count` elements of `size` bytes at `data_offset` of this mapping, which
    // lives as long as `vcpu`, and nobody else looks at them until the next KVM_RUN.
    let data = unsafe {
        let start = std::ptr::from_mut(run).cast::<u8>().add(io.data_offset as usize);
        std::slice::from_raw_parts_mut(start, size * count)
    };
    for element in data.chunks_exact_mut(size) {
        if u32::from(io.direction) == KVM_EXIT_IO_IN {
            bus.port_in(io.port, element);
        } else {
            bus.port_out(io.port, element);
        }
    }
}

/// Every interrupt line to the IOAPIC pin of the same number, and to nothing else.
fn ioapic_routing() -> KvmIrqRouting {
    let entries: Vec<_> = (0..IOAPIC_LINES)
        .map(|pin| {
            let mut entry =
                kvm_irq_routing_entry { gsi: pin, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
            entry
        })
        .collect();
    KvmIrqRouting::from_entries(&entries).expect("24 routes are below KVM's limit of thousands")
}

fn map_ram(vm: &VmFd, ram: &GuestRam) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let memory = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_mmap().as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the range is a mapping owned by `ram`, which `KvmEngine` keeps alive for longer
        // than the VM, and regions of a `GuestRam` do not overlap.
        unsafe { vm.set_user_memory_region(memory)? };
    }
    Ok(())
}
