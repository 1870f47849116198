//! How the vector and floating-point units reach the rest of the CPU.

use crate::cpu::{Abort, CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSXMMEXCPT, Cause, Cpu};
use crate::exception::Exception;
use crate::flags;
use crate::simd::context::{ArithFlags, Context};
use crate::simd::state::VectorState;
use crate::uop::{Cursor, Flow, PAGE_BASE, Uop};
use crate::x87::state::X87State;
use crate::{simd, x87};

/// The CPU during one vector or floating-point instruction.
struct Operand<'a> {
    cpu: &'a mut Cpu,
    address: u64,
    rip: u64,
    /// The access of memory was given up for the cause in `Cpu::abort`.
    aborted: bool,
}

impl Operand<'_> {
    /// The unit is told of an exception, and hands it back; the true cause stays in the CPU.
    fn give_up(&mut self) -> Exception {
        self.aborted = true;
        match self.cpu.abort {
            Cause::Exception(exception) => exception,
            Cause::NonCanonical | Cause::Alone | Cause::Debugger => Exception::GeneralProtection(0),
        }
    }
}

impl Context for Operand<'_> {
    #[inline(always)]
    fn vector(&mut self) -> &mut VectorState {
        &mut self.cpu.vector
    }

    #[inline(always)]
    fn x87(&mut self) -> &mut X87State {
        &mut self.cpu.x87
    }

    #[inline(always)]
    fn gpr(&self, index: u8) -> u64 {
        self.cpu.gpr[index as usize & 15]
    }

    #[inline(always)]
    fn set_gpr(&mut self, index: u8, value: u64) {
        self.cpu.gpr[index as usize & 15] = value;
    }

    fn flags(&self) -> ArithFlags {
        let flags = &self.cpu.flags;
        ArithFlags {
            cf: flags.cf(),
            pf: flags.pf(),
            af: flags.af(),
            zf: flags.zf(),
            sf: flags.sf(),
            of: flags.of(),
        }
    }

    fn set_flags(&mut self, new: ArithFlags) {
        let bits = [
            (new.cf, flags::CF),
            (new.pf, flags::PF),
            (new.af, flags::AF),
            (new.zf, flags::ZF),
            (new.sf, flags::SF),
            (new.of, flags::OF),
        ];
        let bits = bits.into_iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit);
        self.cpu.flags.set_arithmetic(bits);
    }

    fn numeric_error(&self) -> bool {
        self.cpu.cr0 & CR0_NE != 0
    }

    #[inline(always)]
    fn load<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Exception> {
        match self.cpu.load_bytes(self.address.wrapping_add(offset)) {
            Ok(bytes) => Ok(bytes),
            Err(Abort) => Err(self.give_up()),
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u64, bytes: [u8; N]) -> Result<(), Exception> {
        match self.cpu.store_bytes(self.address.wrapping_add(offset), bytes) {
            Ok(()) => Ok(()),
            Err(Abort) => Err(self.give_up()),
        }
    }

    fn operand_address(&self) -> u64 {
        self.address
    }

    fn instruction_pointer(&self) -> u64 {
        self.rip
    }

    fn use_rdi_operand(&mut self) {
        self.address = self.cpu.gpr[7];
    }
}

fn operand<'a>(cpu: &'a mut Cpu, uop: &Uop) -> Operand<'a> {
    let address = cpu.address::<true>(uop);
    let rip = cpu.gpr[PAGE_BASE as usize].wrapping_add(uop.offset as u64);
    Operand { cpu, address, rip, aborted: false }
}

/// Leaves the cause in `Cpu::abort` on failure.
#[inline(never)]
fn run_vector(cpu: &mut Cpu, uop: &Uop) -> bool {
    let Some(op) = cpu.code.vector_ops.get(uop.imm as usize).copied() else { return false };
    let mut operand = operand(cpu, uop);
    let result = simd::execute(op, &mut operand);
    let aborted = operand.aborted;
    settle(cpu, result, aborted)
}

#[inline(never)]
fn run_x87(cpu: &mut Cpu, uop: &Uop) -> bool {
    let Some(op) = cpu.code.x87_ops.get(uop.imm as usize).copied() else { return false };
    let mut operand = operand(cpu, uop);
    let result = x87::execute(op, &mut operand);
    let aborted = operand.aborted;
    settle(cpu, result, aborted)
}

fn settle(cpu: &mut Cpu, result: Result<(), Exception>, aborted: bool) -> bool {
    match result {
        Ok(()) => true,
        Err(exception) => {
            if !aborted {
                // An operating system that does not know #XM gets #UD.
                let unknown = exception == Exception::SimdFloatingPoint && cpu.cr4 & CR4_OSXMMEXCPT == 0;
                cpu.abort = Cause::Exception(if unknown { Exception::InvalidOpcode } else { exception });
            }
            false
        }
    }
}

/// An instruction of the vector unit that CR0 cannot forbid; `imm` is its number.
pub fn vector_free(cpu: &mut Cpu, at: Cursor) -> Flow {
    if run_vector(cpu, at.uop()) { at.next(cpu) } else { cpu.give_up(at) }
}

/// An instruction of the vector unit; `extra` is 1 for MMX, which TS and EM treat alike.
pub fn vector(cpu: &mut Cpu, at: Cursor) -> Flow {
    if cpu.cr0 & (CR0_EM | CR0_TS) != 0 {
        let no_unit = cpu.cr0 & CR0_EM != 0;
        return cpu.fault(at, if no_unit { Exception::InvalidOpcode } else { Exception::DeviceNotAvailable });
    }
    if run_vector(cpu, at.uop()) { at.next(cpu) } else { cpu.give_up(at) }
}

/// An instruction of the x87 unit; `extra` is 1 for WAIT, which obeys MP instead of EM.
pub fn x87(cpu: &mut Cpu, at: Cursor) -> Flow {
    let cr0 = cpu.cr0;
    let missing = if at.uop().extra == 1 {
        cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS
    } else {
        cr0 & (CR0_EM | CR0_TS) != 0
    };
    if missing {
        return cpu.fault(at, Exception::DeviceNotAvailable);
    }
    if run_x87(cpu, at.uop()) { at.next(cpu) } else { cpu.give_up(at) }
}
