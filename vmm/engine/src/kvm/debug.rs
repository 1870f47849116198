//! A debugger on KVM. (KVM API, `KVM_SET_GUEST_DEBUG`; SDM volume 3, 18.2 for DR6 and DR7.)

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch,
    kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use softcpu::debugger::{CHANGEABLE_FLAGS, DebugRegisters, Stop, Waits, Watch};

use super::KvmEngine;
use crate::EngineError;

const BREAKPOINT: u32 = 3;
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR7: bit 10 is always set; GE, which old CPUs want for exact data breakpoints.
const DR7_FIXED: u64 = 1 << 10 | 1 << 9;

impl KvmEngine {
    pub(crate) fn debug(&mut self, waits: Waits) -> Result<(), EngineError> {
        for vcpu in &self.vcpus {
            set(&vcpu.fd, &waits, vcpu.number, 0)
                .map_err(|source| EngineError::Kvm { step: "watch a guest for a debugger", source })?;
        }
        self.waits = waits;
        Ok(())
    }

    pub(crate) fn debug_registers(&self, cpu: u8) -> Result<DebugRegisters, EngineError> {
        let refused = |source| EngineError::Kvm { step: "read registers", source };
        let fd = &self.vcpus[usize::from(cpu)].fd;
        let regs = fd.get_regs().map_err(refused)?;
        let sregs = fd.get_sregs().map_err(refused)?;
        let fpu = fd.get_fpu().map_err(refused)?;
        Ok(DebugRegisters {
            gpr: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
                regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            rip: regs.rip,
            rflags: regs.rflags,
            selectors: [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs]
                .map(|segment| segment.selector),
            fs_base: sregs.fs.base,
            gs_base: sregs.gs.base,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
        })
    }

    pub(crate) fn set_debug_registers(&mut self, cpu: u8, new: &DebugRegisters) -> Result<(), EngineError> {
        let refused = |source| EngineError::Kvm { step: "set registers", source };
        let fd = &self.vcpus[usize::from(cpu)].fd;
        let mut regs = fd.get_regs().map_err(refused)?;
        [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ] = new.gpr;
        regs.rip = new.rip;
        regs.rflags = regs.rflags & !CHANGEABLE_FLAGS | new.rflags & CHANGEABLE_FLAGS;
        let mut sregs = fd.get_sregs().map_err(refused)?;
        if (sregs.fs.base, sregs.gs.base) != (new.fs_base, new.gs_base) {
            (sregs.fs.base, sregs.gs.base) = (new.fs_base, new.gs_base);
            fd.set_sregs(&sregs).map_err(refused)?;
        }
        let mut fpu = fd.get_fpu().map_err(refused)?;
        let xmm = new.xmm.map(u128::to_le_bytes);
        if fpu.xmm != xmm {
            fpu.xmm = xmm;
            fd.set_fpu(&fpu).map_err(refused)?;
        }
        fd.set_regs(&regs).map_err(refused)
    }

    pub(crate) fn cpus(&self) -> u8 {
        self.vcpus.len() as u8
    }
}

/// Tells KVM what to stop for, and to hand in what `inject` names.
fn set(fd: &VcpuFd, waits: &Waits, cpu: u8, inject: u32) -> Result<(), kvm_ioctls::Error> {
    let mut debug = kvm_guest_debug::default();
    if *waits != Waits::default() {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | inject;
    }
    if !waits.points.is_empty() {
        debug.control |= KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = DR7_FIXED;
        for (i, point) in waits.points.iter().enumerate() {
            debug.arch.debugreg[i] = point.address;
            let kind: u64 = match point.watch {
                Watch::Execute => 0,
                Watch::Write => 1,
                Watch::Access => 3,
            };
            let len = match point.len {
                8 => 2,
                len => u64::from(len) - 1,
            };
            debug.arch.debugreg[7] |= 2 << (2 * i) | (kind | len << 2) << (16 + 4 * i);
        }
    }
    if waits.step != Some(cpu) {
        return fd.set_guest_debug(&debug);
    }
    debug.control |= KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
    fd.set_guest_debug(&debug).or_else(|_| {
        // Before Linux 5.16 interrupts could not be held back: a step may end in their handler.
        debug.control &= !KVM_GUESTDBG_BLOCKIRQ;
        fd.set_guest_debug(&debug)
    })
}

/// What of the debugger's was met, if it was not something of the guest's own.
pub(super) fn stop(waits: &Waits, met: &kvm_debug_exit_arch) -> Option<Stop> {
    if met.exception == BREAKPOINT {
        return waits.int3.contains(&met.pc).then_some(Stop::Int3);
    }
    let hit = (0..waits.points.len()).find(|i| met.dr6 >> i & 1 != 0);
    hit.map(|i| Stop::Point(waits.points[i])).or_else(|| {
        let stepped = waits.step.is_some() && met.dr6 & DR6_SINGLE_STEP != 0;
        stepped.then_some(Stop::Step)
    })
}

/// Lets the guest have a debug exception that the debugger does not wait for.
pub(super) fn hand_in(
    fd: &VcpuFd,
    waits: &Waits,
    cpu: u8,
    met: &kvm_debug_exit_arch,
) -> Result<(), kvm_ioctls::Error> {
    let inject = if met.exception == BREAKPOINT { KVM_GUESTDBG_INJECT_BP } else { KVM_GUESTDBG_INJECT_DB };
    set(fd, waits, cpu, inject)
}
