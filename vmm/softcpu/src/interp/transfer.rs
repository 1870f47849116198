//! Software interrupts, system calls, far transfers, and returns from them all.

use super::instructions;
use crate::cpu::{Abort, Cpu, EFER_SCE};
use crate::exception::Exception;
use crate::interrupt::Source;
use crate::uop::{Cursor, Flow};

instructions! {
    /// INT3: a trap through vector 3 which is not subject to IOPL.
    ends fn int3(cpu, uop) {
        cpu.stop_at_int3(cpu.rip.wrapping_sub(uop.len.into()))?;
        cpu.interrupt(3, None, Source::Software)?;
    }

    /// INT n.
    ends fn int(cpu, uop) {
        cpu.interrupt(uop.imm as u8, None, Source::Software)?;
    }

    /// INT1: a debug trap.
    ends fn int1(cpu, _uop) {
        cpu.interrupt(1, None, Source::Exception)?;
    }

    ends fn syscall(cpu, _uop) {
        if cpu.msr.efer & EFER_SCE == 0 {
            return Err(cpu.raise(Exception::InvalidOpcode));
        }
        cpu.enter_system_call();
    }

    /// SYSRET with a 64-bit operand size.
    ends fn sysret(cpu, _uop) {
        if cpu.msr.efer & EFER_SCE == 0 {
            return Err(cpu.raise(Exception::InvalidOpcode));
        }
        cpu.require_supervisor()?;
        cpu.leave_system_call()?;
    }

    /// IRET; `extra` is the operand size.
    ends fn iret(cpu, uop) {
        cpu.interrupt_return(uop.extra as u64)?;
    }

    /// RETF; `extra` is the operand size, `imm` how many bytes more it drops.
    ends fn retf(cpu, uop) {
        cpu.far_return(uop.extra as u64, uop.imm)?;
    }

    /// Far JMP through memory; `extra` is the operand size.
    ends fn jmp_far(cpu, uop) {
        let address = cpu.address::<true>(uop);
        cpu.far_jump(address, uop.extra as u64, false)?;
    }

    /// Far CALL through memory.
    ends fn call_far(cpu, uop) {
        let address = cpu.address::<true>(uop);
        cpu.far_jump(address, uop.extra as u64, true)?;
    }

    /// SYSRET with a 32-bit operand size, to compatibility mode.
    ends fn sysret_compat(cpu, _uop) {
        if cpu.msr.efer & EFER_SCE == 0 {
            return Err(cpu.raise(Exception::InvalidOpcode));
        }
        cpu.require_supervisor()?;
        cpu.leave_system_call_to_compat();
    }

    ends fn sysenter(cpu, _uop) {
        cpu.fast_enter()?;
    }

    /// SYSEXIT; `extra` is the operand size.
    ends fn sysexit(cpu, uop) {
        cpu.require_supervisor()?;
        cpu.fast_exit(uop.extra == 8)?;
    }

    /// SWAPGS.
    next fn swapgs(cpu, _uop) {
        cpu.require_supervisor()?;
        cpu.swap_gs();
    }
}

/// HLT.
pub fn hlt(cpu: &mut Cpu, at: Cursor) -> Flow {
    if let Err(Abort) = cpu.require_supervisor() {
        return cpu.give_up(at);
    }
    cpu.rip = cpu.next_rip(at);
    Flow::Halt
}
