//! Instructions of operating systems: interrupt flag, control and debug registers, descriptor
//! tables, MSRs, CPUID, clocks.

use super::instructions;
use crate::cpu::{
    Abort, CR0_AM, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_PAE, CR4_TSD, Cpu,
    EFER_LMA, EFER_LME,
};
use crate::cpuid::{Topology, cpuid};
use crate::exception::Exception;
use crate::flags;
use crate::mode::CodeSize;
use crate::segment::{Segment, Table};
use crate::uop::{Cursor, Flow, Uop};
use crate::word::Word;

/// CR0 bits that exist: PE MP EM TS ET NE WP AM NW CD PG.
pub const CR0_BITS: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | 3 << 29 | CR0_PG;
/// CR4 bits that the CPU model has: VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT.
pub const CR4_BITS: u64 = 0x7ff;
const CR4_VME_PVI: u64 = 3;

/// STI. Interrupts stay off until the instruction behind it is done: no event may fall between the two.
pub fn sti(cpu: &mut Cpu, at: Cursor) -> Flow {
    if let Err(Abort) = cpu.require_io_privilege() {
        return cpu.give_up(at);
    }
    let was_on = cpu.flags.interrupts();
    cpu.flags.system |= flags::IF;
    let is_last = at.uop().ordinal as u32 + 1 == cpu.block_instructions;
    if !was_on && (cpu.interrupt_pending || is_last) {
        cpu.shadow = true;
        return cpu.leave_behind(at);
    }
    at.next(cpu)
}

/// PAUSE: a CPU that spins lets the others run.
pub fn pause(cpu: &mut Cpu, at: Cursor) -> Flow {
    if !cpu.others_ready {
        return at.next(cpu);
    }
    cpu.yielded = true;
    cpu.board.remote.request_attention();
    cpu.leave_behind(at)
}

/// CLI.
pub fn cli(cpu: &mut Cpu, at: Cursor) -> Flow {
    if let Err(Abort) = cpu.require_io_privilege() {
        return cpu.give_up(at);
    }
    cpu.flags.system &= !flags::IF;
    at.next(cpu)
}

impl Cpu {
    fn protect(&mut self) -> Abort {
        self.raise(Exception::GeneralProtection(0))
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Abort> {
        // Paging needs protection; not-write-through without cache-disable is invalid.
        let invalid_cache = value & (3 << 29) == 1 << 29;
        let unprotected = value & CR0_PG != 0 && value & CR0_PE == 0;
        if value & !CR0_BITS != 0 || unprotected || invalid_cache {
            return Err(self.protect());
        }
        let changed = self.cr0 ^ value;
        if changed & CR0_PG != 0 {
            self.switch_paging(value & CR0_PG != 0)?;
        }
        self.cr0 = value | CR0_ET;
        if changed & (CR0_WP | CR0_PG | CR0_PE) != 0 {
            self.mode_changed();
            self.flush_tlb();
        }
        Ok(())
    }

    /// Paging and with it long mode: the paging of 32-bit systems is not offered.
    fn switch_paging(&mut self, on: bool) -> Result<(), Abort> {
        let ready = self.msr.efer & EFER_LME != 0 && self.cr4 & CR4_PAE != 0;
        if on && (!ready || self.segments[Segment::Cs].is_long()) || self.code_size == CodeSize::Long {
            return Err(self.protect());
        }
        self.msr.efer = self.msr.efer & !EFER_LMA | if on { EFER_LMA } else { 0 };
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Abort> {
        let unpaged = value & CR4_PAE == 0 && self.msr.efer & EFER_LMA != 0;
        if value & !CR4_BITS != 0 || unpaged || value & CR4_VME_PVI != 0 {
            return Err(self.protect());
        }
        if (self.cr4 ^ value) & !CR4_TSD != 0 {
            self.flush_tlb();
        }
        self.cr4 = value;
        Ok(())
    }

    fn read_timestamp(&mut self) -> Result<u64, Abort> {
        if self.cr4 & CR4_TSD != 0 && self.cpl() != 0 {
            return Err(self.protect());
        }
        Ok(self.tsc())
    }

    fn write_timestamp(&mut self, value: u64) {
        self.gpr[0] = value as u32 as u64;
        self.gpr[2] = value >> 32;
    }

    /// Stores a 16-bit system register to a register of `extra` bytes.
    fn store_selector(&mut self, uop: &Uop, value: u16) {
        match uop.extra {
            2 => value.write(&mut self.gpr, uop.r0),
            4 => (value as u32).write(&mut self.gpr, uop.r0),
            _ => (value as u64).write(&mut self.gpr, uop.r0),
        }
    }

    fn load_table(&mut self, uop: &Uop) -> Result<Table, Abort> {
        self.require_supervisor()?;
        let address = self.address::<true>(uop);
        let limit = self.load::<u16>(address)?;
        let base = self.load::<u64>(address.wrapping_add(2))?;
        if !crate::paging::is_canonical(base) {
            return Err(self.protect());
        }
        Ok(Table { base, limit })
    }

    fn store_table(&mut self, uop: &Uop, table: Table) -> Result<(), Abort> {
        let address = self.address::<true>(uop);
        self.probe_write(address, 10)?;
        self.store(address, table.limit)?;
        self.store(address.wrapping_add(2), table.base)
    }

    /// A 16-bit operand: register `r1`, or memory where `extra` is 1.
    fn operand16(&mut self, uop: &Uop) -> Result<u16, Abort> {
        if uop.extra == 1 {
            let address = self.address::<true>(uop);
            self.load(address)
        } else {
            Ok(self.gpr[uop.r1 as usize & 31] as u16)
        }
    }

    /// Writes a result of `imm` bytes.
    fn write_sized(&mut self, uop: &Uop, value: u64) {
        match uop.imm {
            2 => (value as u16).write(&mut self.gpr, uop.r0),
            4 => (value as u32).write(&mut self.gpr, uop.r0),
            _ => value.write(&mut self.gpr, uop.r0),
        }
    }
}

instructions! {
    next fn cpuid_(cpu, _uop) {
        let hz = cpu.clock.hz();
        let topology = Topology { cpu: cpu.board.current() as u32, cpus: cpu.board.cpus() as u32 };
        let [eax, ebx, ecx, edx] = cpuid(cpu.gpr[0] as u32, cpu.gpr[1] as u32, hz, topology);
        cpu.gpr[0] = eax as u64;
        cpu.gpr[3] = ebx as u64;
        cpu.gpr[1] = ecx as u64;
        cpu.gpr[2] = edx as u64;
    }

    /// RDTSC is the last of its block, where the count of instructions is exact.
    ends fn rdtsc(cpu, _uop) {
        let tsc = cpu.read_timestamp()?;
        cpu.write_timestamp(tsc);
    }

    ends fn rdtscp(cpu, _uop) {
        let tsc = cpu.read_timestamp()?;
        cpu.write_timestamp(tsc);
        cpu.gpr[1] = cpu.msr.tsc_aux;
    }

    ends fn rdmsr(cpu, _uop) {
        cpu.require_supervisor()?;
        let value = cpu.read_msr(cpu.gpr[1] as u32)?;
        cpu.gpr[0] = value as u32 as u64;
        cpu.gpr[2] = value >> 32;
    }

    ends fn wrmsr(cpu, _uop) {
        cpu.require_supervisor()?;
        let value = cpu.gpr[2] << 32 | cpu.gpr[0] as u32 as u64;
        cpu.write_msr(cpu.gpr[1] as u32, value)?;
    }

    /// There are no performance counters.
    next fn rdpmc(cpu, _uop) {
        return Err(cpu.protect());
    }

    /// MOV from control register `r1`.
    next fn mov_from_cr(cpu, uop) {
        cpu.require_supervisor()?;
        let value = match uop.r1 {
            0 => cpu.cr0,
            2 => cpu.cr2,
            3 => cpu.cr3,
            4 => cpu.cr4,
            8 => cpu.board.apic().cr8() as u64,
            _ => return Err(cpu.raise(Exception::InvalidOpcode)),
        };
        cpu.gpr[uop.r0 as usize & 31] = value;
    }

    /// MOV to control register `r0`.
    ends fn mov_to_cr(cpu, uop) {
        cpu.require_supervisor()?;
        let value = cpu.gpr[uop.r1 as usize & 31];
        match uop.r0 {
            0 => cpu.set_cr0(value)?,
            2 => cpu.cr2 = value,
            3 => {
                if value >> crate::paging::PHYSICAL_BITS != 0 {
                    return Err(cpu.protect());
                }
                cpu.set_address_space(value);
            }
            4 => cpu.set_cr4(value)?,
            8 => {
                if value > 15 {
                    return Err(cpu.protect());
                }
                cpu.board.apic_mut().set_cr8(value as u8);
                cpu.interrupts_changed();
            }
            _ => return Err(cpu.raise(Exception::InvalidOpcode)),
        }
    }

    next fn mov_from_dr(cpu, uop) {
        cpu.require_supervisor()?;
        let index = match uop.r1 & 7 {
            4 => 6,
            5 => 7,
            index => index as usize,
        };
        cpu.gpr[uop.r0 as usize & 31] = cpu.dr[index];
    }

    ends fn mov_to_dr(cpu, uop) {
        cpu.require_supervisor()?;
        let value = cpu.gpr[uop.r1 as usize & 31];
        match uop.r0 & 7 {
            4 | 6 => cpu.dr[6] = value & 0xe00f | 0xffff_0ff0,
            5 | 7 => cpu.dr[7] = value & 0xffff_2bff | 0x400,
            index => cpu.dr[index as usize] = value,
        }
        cpu.breakpoints_changed();
    }

    next fn clts(cpu, _uop) {
        cpu.require_supervisor()?;
        cpu.cr0 &= !CR0_TS;
    }

    /// SMSW to register `r0` of `extra` bytes.
    next fn smsw(cpu, uop) {
        match uop.extra {
            2 => (cpu.cr0 as u16).write(&mut cpu.gpr, uop.r0),
            4 => (cpu.cr0 as u32).write(&mut cpu.gpr, uop.r0),
            _ => cpu.cr0.write(&mut cpu.gpr, uop.r0),
        }
    }

    next fn smsw_mem(cpu, uop) {
        cpu.store(cpu.address::<true>(uop), cpu.cr0 as u16)?;
    }

    /// LMSW sets the low four bits of CR0 but cannot clear PE.
    ends fn lmsw(cpu, uop) {
        cpu.require_supervisor()?;
        let value = cpu.operand16(uop)? as u64;
        let cr0 = cpu.cr0 & !0xe | value & 0xf;
        cpu.set_cr0(cr0)?;
    }

    ends fn invlpg(cpu, uop) {
        cpu.require_supervisor()?;
        let address = cpu.address::<true>(uop);
        cpu.tlb.invalidate(address);
        cpu.code.translations_changed();
    }

    /// WBINVD, INVD: memory is coherent already.
    next fn write_back(cpu, _uop) {
        cpu.require_supervisor()?;
    }

    /// CLFLUSH: checks its address like a load.
    next fn clflush(cpu, uop) {
        cpu.load::<u8>(cpu.address::<true>(uop))?;
    }

    /// MOV and others from segment register `r1` to register `r0` of `extra` bytes.
    next fn mov_from_segment(cpu, uop) {
        let selector = cpu.segments[Segment::ALL[uop.r1 as usize & 7]].selector;
        cpu.store_selector(uop, selector);
    }

    next fn store_segment(cpu, uop) {
        let selector = cpu.segments[Segment::ALL[uop.r1 as usize & 7]].selector;
        cpu.store(cpu.address::<true>(uop), selector)?;
    }

    /// MOV to segment register `r0`.
    ends fn mov_to_segment(cpu, uop) {
        let selector = cpu.operand16(uop)?;
        let segment = Segment::ALL[uop.r0 as usize & 7];
        cpu.load_segment(segment, selector)?;
        cpu.shadow = segment == Segment::Ss;
    }

    /// LLDT and LTR into segment register `r0`.
    next fn load_system_segment(cpu, uop) {
        cpu.require_supervisor()?;
        let selector = cpu.operand16(uop)?;
        cpu.load_system_segment(Segment::ALL[uop.r0 as usize & 7], selector)?;
    }

    next fn lgdt(cpu, uop) {
        cpu.segments.gdt = cpu.load_table(uop)?;
    }

    next fn lidt(cpu, uop) {
        cpu.segments.idt = cpu.load_table(uop)?;
    }

    next fn sgdt(cpu, uop) {
        cpu.store_table(uop, cpu.segments.gdt)?;
    }

    next fn sidt(cpu, uop) {
        cpu.store_table(uop, cpu.segments.idt)?;
    }

    /// LAR: `imm` is the operand size.
    next fn lar(cpu, uop) {
        let selector = cpu.operand16(uop)?;
        let rights = cpu.visible_descriptor(selector)?.and_then(|descriptor| descriptor.access_rights());
        if let Some(rights) = rights {
            cpu.write_sized(uop, rights);
        }
        cpu.flags.set_zf(rights.is_some());
    }

    next fn lsl(cpu, uop) {
        let selector = cpu.operand16(uop)?;
        let limit = cpu.visible_descriptor(selector)?.and_then(|descriptor| descriptor.segment_limit());
        if let Some(limit) = limit {
            cpu.write_sized(uop, limit);
        }
        cpu.flags.set_zf(limit.is_some());
    }

    /// VERR, or VERW where `imm` is 1.
    next fn verify(cpu, uop) {
        let selector = cpu.operand16(uop)?;
        let good =
            cpu.visible_descriptor(selector)?.is_some_and(|descriptor| descriptor.verified(uop.imm == 1));
        cpu.flags.set_zf(good);
    }

    /// RDRAND and RDSEED to register `r0` of `extra` bytes: always there.
    next fn rdrand(cpu, uop) {
        let value = cpu.random.next();
        match uop.extra {
            2 => (value as u16).write(&mut cpu.gpr, uop.r0),
            4 => (value as u32).write(&mut cpu.gpr, uop.r0),
            _ => value.write(&mut cpu.gpr, uop.r0),
        }
        cpu.flags.set_arithmetic(flags::CF);
    }

    /// SERIALIZE: the block ends, and what was patched is decoded anew.
    ends fn serialize(_cpu, _uop) {}
}
