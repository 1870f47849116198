//! Model-specific registers. An unknown one raises #GP, which Linux expects and survives.
//! (SDM volume 4.)

use serde::{Deserialize, Serialize};

use crate::cpu::{Abort, CR0_PG, Cpu, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE};
use crate::exception::Exception;
use crate::paging::is_canonical;
use crate::uop::{FS_BASE, GS_BASE};

/// IA32_ARCH_CAPABILITIES: not affected by what speculation leaks, so that the guest kernel
/// leaves its mitigations off. RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
/// IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// PAT after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Registers that only hold what is written to them, or that instructions look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    /// What the time-stamp counter is ahead of guest time.
    pub tsc_adjust: u64,
    pat: u64,
    misc_enable: u64,
    misc_features: u64,
    spec_ctrl: u64,
    microcode: u64,
    /// SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    pub sysenter: [u64; 3],
    debug_ctl: u64,
}

impl Msrs {
    /// Whether every register has a value that can be written to it.
    pub fn is_valid(&self) -> bool {
        self.efer & !(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) == 0
    }

    pub fn new() -> Msrs {
        Msrs {
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            pat: PAT_RESET,
            // Fast strings; no branch trace store, no precise sampling.
            misc_enable: 1 | 1 << 11 | 1 << 12,
            misc_features: 0,
            spec_ctrl: 0,
            microcode: 0x2b00_0000 << 32,
            sysenter: [0; 3],
            debug_ctl: 0,
        }
    }
}

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const TSC_ADJUST: u32 = 0x3b;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const MICROCODE: u32 = 0x8b;
const ARCH_CAPS: u32 = 0x10a;
const MISC_FEATURES: u32 = 0x140;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_EIP: u32 = 0x176;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUG_CTL: u32 = 0x1d9;
const PAT: u32 = 0x277;
const TSC_DEADLINE: u32 = 0x6e0;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE_MSR: u32 = 0xc000_0100;
const GS_BASE_MSR: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

impl Cpu {
    /// RDMSR.
    pub fn read_msr(&mut self, index: u32) -> Result<u64, Abort> {
        let msr = &self.msr;
        Ok(match index {
            TSC => self.tsc(),
            PLATFORM_ID => 0,
            APIC_BASE => self.board.apic().base(),
            TSC_ADJUST => self.msr.tsc_adjust,
            SPEC_CTRL => msr.spec_ctrl,
            MICROCODE => msr.microcode,
            ARCH_CAPS => ARCH_CAPABILITIES,
            MISC_FEATURES => msr.misc_features,
            SYSENTER_CS..=SYSENTER_EIP => msr.sysenter[(index - SYSENTER_CS) as usize],
            MISC_ENABLE => msr.misc_enable,
            DEBUG_CTL => msr.debug_ctl,
            PAT => msr.pat,
            TSC_DEADLINE => match self.board.apic().tsc_deadline() {
                0 => 0,
                deadline => deadline.wrapping_add(self.msr.tsc_adjust),
            },
            EFER => msr.efer,
            STAR => msr.star,
            LSTAR => msr.lstar,
            CSTAR => msr.cstar,
            SFMASK => msr.sfmask,
            FS_BASE_MSR => self.gpr[FS_BASE as usize],
            GS_BASE_MSR => self.gpr[GS_BASE as usize],
            KERNEL_GS_BASE => msr.kernel_gs_base,
            TSC_AUX => msr.tsc_aux,
            _ => return Err(self.raise(Exception::GeneralProtection(0))),
        })
    }

    /// WRMSR. RIP may be executed again only from a new block: timers and translations may change.
    pub fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Abort> {
        let needs_canonical = matches!(
            index,
            LSTAR | CSTAR | FS_BASE_MSR | GS_BASE_MSR | KERNEL_GS_BASE | 0x175 | SYSENTER_EIP
        );
        if needs_canonical && !is_canonical(value) {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let now = self.now();
        match index {
            TSC => self.msr.tsc_adjust = value.wrapping_sub(now.0),
            APIC_BASE => {
                if self.board.apic_mut().set_base(value).is_err() {
                    return Err(self.raise(Exception::GeneralProtection(0)));
                }
                self.interrupts_changed();
                self.reschedule();
            }
            TSC_ADJUST => self.msr.tsc_adjust = value,
            SPEC_CTRL => self.msr.spec_ctrl = value,
            PRED_CMD => {}
            // Writing zero is how the revision is asked for.
            MICROCODE => {}
            MISC_FEATURES => self.msr.misc_features = value,
            SYSENTER_CS..=SYSENTER_EIP => self.msr.sysenter[(index - SYSENTER_CS) as usize] = value,
            MISC_ENABLE => self.msr.misc_enable = value,
            DEBUG_CTL => self.msr.debug_ctl = value,
            PAT => {
                // Memory types 2 and 3 and those above 7 do not exist.
                let valid = value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
                if !valid {
                    return Err(self.raise(Exception::GeneralProtection(0)));
                }
                self.msr.pat = value;
            }
            TSC_DEADLINE => {
                let deadline = match value {
                    0 => 0,
                    value => value.wrapping_sub(self.msr.tsc_adjust).max(1),
                };
                self.board.apic_mut().set_tsc_deadline(deadline);
                self.interrupts_changed();
                self.reschedule();
            }
            EFER => {
                let writable = EFER_SCE | EFER_LME | EFER_NXE;
                // Long mode can neither be chosen nor left while paging is on.
                let paging = self.cr0 & CR0_PG != 0;
                let chosen = (value ^ self.msr.efer) & EFER_LME != 0;
                if value & !(writable | EFER_LMA) != 0 || paging && chosen {
                    return Err(self.raise(Exception::GeneralProtection(0)));
                }
                self.msr.efer = value & writable | self.msr.efer & EFER_LMA;
                self.flush_tlb();
            }
            STAR => self.msr.star = value,
            LSTAR => self.msr.lstar = value,
            CSTAR => self.msr.cstar = value,
            SFMASK => self.msr.sfmask = value & 0xffff_ffff,
            FS_BASE_MSR => self.gpr[FS_BASE as usize] = value,
            GS_BASE_MSR => self.gpr[GS_BASE as usize] = value,
            KERNEL_GS_BASE => self.msr.kernel_gs_base = value,
            TSC_AUX => self.msr.tsc_aux = value & 0xffff_ffff,
            _ => return Err(self.raise(Exception::GeneralProtection(0))),
        }
        Ok(())
    }
}
