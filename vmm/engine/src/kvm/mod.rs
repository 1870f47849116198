//! The host kernel's KVM behind the engine boundary.
//!
//! Each CPU has a thread while [`KvmEngine::run`] runs (the first one is the caller's), on which its
//! exits are handled; the bus is behind a lock then. Before `run` returns all have stopped.
//!
//! Local APICs and IOAPIC are KVM's own; application processors wait in the kernel for INIT and a
//! start-up message. There is no PIC and no PIT: interrupt lines are routed to
//! the IOAPIC alone, and guests take their clock from kvmclock and the TSC-deadline timer.

mod cpuid;
mod debug;
pub(crate) mod kick;
mod registers;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use guest_ram::GuestRam;
use kvm_bindings::{
    KVM_EXIT_IO_IN, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use softcpu::debugger::Waits;
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

/// A VM in the host kernel.
pub(crate) struct KvmEngine {
    vcpus: Vec<Vcpu>,
    vm: Arc<VmFd>,
    kick: Arc<KickState>,
    started: Instant,
    // The kernel reads and writes it for as long as `vm` lives, so it goes last.
    _ram: Arc<GuestRam>,
    /// What a debugger waits for.
    waits: Waits,
}

impl KvmEngine {
    pub(crate) fn new(ram: Arc<GuestRam>, cpus: u8) -> Result<KvmEngine, EngineError> {
        let refused = |step| move |source| EngineError::Kvm { step, source };

        let kvm =
            Kvm::new().map_err(|error| EngineError::OpenKvm(io::Error::from_raw_os_error(error.errno())))?;
        let vm = kvm.create_vm().map_err(refused("create a VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(refused("place its identity map"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(refused("place its task state segment"))?;
        vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        vm.set_gsi_routing(&ioapic_routing()).map_err(refused("route interrupts to the IOAPIC"))?;
        map_ram(&vm, &ram).map_err(refused("map guest memory"))?;

        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("name its CPU features"))?;
        let mut vcpus = Vec::new();
        for cpu in 0..u32::from(cpus) {
            let fd = vm.create_vcpu(cpu.into()).map_err(refused("create a CPU"))?;
            let mut cpuid = supported.clone();
            cpuid::filter(&mut cpuid, cpuid::Topology { cpu, cpus: cpus.into() });
            fd.set_cpuid2(&cpuid).map_err(refused("set CPUID"))?;
            fd.set_fpu(&registers::floating_point()).map_err(refused("set FPU registers"))?;
            for msr in registers::model_specific().into_iter().filter_map(registers::single) {
                // A KVM without this register ignores it; the guest asks before it relies on it.
                let _ = fd.set_msrs(&msr);
            }
            vcpus.push(Vcpu { fd, number: cpu as u8 });
        }

        kick::install_handler().map_err(refused("install the kick signal"))?;
        Ok(KvmEngine {
            vcpus,
            vm: Arc::new(vm),
            kick: Arc::new(KickState::default()),
            started: Instant::now(),
            _ram: ram,
            waits: Waits::default(),
        })
    }

    pub(crate) fn set_entry(&mut self, entry: &EntryState) -> Result<(), EngineError> {
        let refused = |step| move |source| EngineError::Kvm { step, source };
        let first = &self.vcpus[0].fd;
        let reset = first.get_sregs().map_err(refused("read system registers"))?;
        first.set_sregs(&registers::system(entry, reset)).map_err(refused("set system registers"))?;
        first.set_regs(&registers::general(entry)).map_err(refused("set registers"))
    }

    pub(crate) fn irq(&self) -> IrqSender {
        IrqSender::kvm(self.vm.clone())
    }

    pub(crate) fn kicker(&self) -> Kicker {
        Kicker::kvm(self.kick.clone())
    }

    pub(crate) fn clock(&self) -> GuestClock {
        GuestClock::host(self.started)
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn run(&mut self, bus: &mut dyn Bus) -> Exit {
        let kick = &*self.kick;
        kick.set_leaving(false);
        let bus = Mutex::new(bus);
        let waits = &self.waits;
        let vcpus = match waits.step.map(usize::from) {
            // The others stand still meanwhile.
            Some(cpu) => self.vcpus.get_mut(cpu..=cpu).expect("one of the CPUs is stepped"),
            None => &mut self.vcpus[..],
        };
        let exit = thread::scope(|scope| {
            let (first, others) = vcpus.split_first_mut().expect("a VM has at least one CPU");
            let others: Vec<_> = others
                .iter_mut()
                .map(|vcpu| {
                    let thread = thread::Builder::new().name("vcpu".into());
                    thread.spawn_scoped(scope, || vcpu.run(kick, &bus, waits)).map_err(|error| {
                        kick.set_leaving(true);
                        Exit::Failed(format!("cannot start a thread for a CPU: {error}"))
                    })
                })
                .collect();
            let exit = first.run(kick, &bus, waits);
            let mut exits = vec![exit];
            for other in others {
                exits.push(match other {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(exit) => Some(exit),
                });
            }
            // What ended the guest counts for more than that somebody kicked.
            exits.into_iter().flatten().max_by_key(|exit| *exit != Exit::Stopped)
        });
        match exit {
            Some(Exit::Stopped) | None if self.vcpus.iter().all(Vcpu::is_dead) => Exit::DeadHalt,
            exit => exit.unwrap_or(Exit::Stopped),
        }
    }
}

/// One CPU.
struct Vcpu {
    fd: VcpuFd,
    number: u8,
}

impl Vcpu {
    /// Runs until there is something that the engine's caller must see, or (`None`) until another CPU
    /// saw it.
    fn run(&mut self, kick: &KickState, bus: &Mutex<&mut dyn Bus>, waits: &Waits) -> Option<Exit> {
        let _entered = kick.enter(&mut self.fd);
        let exit = self.run_until_exit(kick, bus, waits);
        if exit.is_some() {
            kick.set_leaving(true);
        }
        exit
    }

    fn run_until_exit(&mut self, kick: &KickState, bus: &Mutex<&mut dyn Bus>, waits: &Waits) -> Option<Exit> {
        // A device that panicked on another CPU's thread takes the whole run with it.
        let bus = || bus.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            // Cleared before the flags are looked at: a kick after this sets it again, and one that the
            // flags answer must not also cost the next run its first entry.
            self.fd.set_kvm_immediate_exit(0);
            if kick.leaving() {
                return None;
            }
            if kick.take() {
                return Some(Exit::Stopped);
            }
            match self.fd.run() {
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => port_access(&mut self.fd, &mut **bus()),
                Ok(VcpuExit::MmioRead(address, data)) => bus().mmio_read(GuestAddress(address), data),
                Ok(VcpuExit::MmioWrite(address, data)) => bus().mmio_write(GuestAddress(address), data),
                Ok(VcpuExit::Debug(met)) => match debug::stop(waits, &met) {
                    Some(stop) => return Some(Exit::Debug(self.number, stop)),
                    None => {
                        if let Err(error) = debug::hand_in(&self.fd, waits, self.number, &met) {
                            let what = "cannot give the guest its debug exception";
                            return Some(Exit::Failed(format!("{what}: {error}")));
                        }
                    }
                },
                Ok(VcpuExit::Shutdown) => {
                    return Some(Exit::TripleFault(format!("triple fault {}", self.place())));
                }
                Ok(VcpuExit::InternalError) => {
                    let place = self.place();
                    return Some(Exit::Failed(format!("KVM cannot emulate the instruction {place}")));
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Some(Exit::Failed(format!(
                        "the hardware refused to enter the guest (reason {reason:#x}) {}",
                        self.place()
                    )));
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
                Ok(other) => {
                    let what = format!("{other:?}");
                    return Some(Exit::Failed(format!("unexpected KVM exit {what} {}", self.place())));
                }
                // EAGAIN: an application processor got INIT or its start-up message.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Some(Exit::Failed(format!("KVM_RUN: {error} {}", self.place()))),
            }
        }
    }

    /// Whether only another CPU can wake this one: it sleeps with interrupts disabled, or was never
    /// started. KVM does not tell: such a guest stays inside `KVM_RUN`, so this is looked at when
    /// somebody kicks.
    fn is_dead(&self) -> bool {
        match self.fd.get_mp_state().map(|state| state.mp_state) {
            Ok(KVM_MP_STATE_HALTED) => self.fd.get_regs().is_ok_and(|regs| regs.rflags & RFLAGS_IF == 0),
            Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => true,
            _ => false,
        }
    }

    fn place(&self) -> String {
        match self.fd.get_regs() {
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
