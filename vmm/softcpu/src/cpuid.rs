//! The CPU model the guest sees: `soft-v2`, the x86-64-v2 feature level and nothing beyond.
//!
//! Intel as vendor, because Linux takes the clock frequencies of leaf 0x15 from Intel only. What
//! is left out (XSAVE, AVX, SMEP, SMAP, FSGSBASE, PCID, BMI, MTRR, machine checks) Linux and the
//! Android ABI do without. SERIALIZE spares the guest kernel an IRET for every patched
//! instruction, ERMS and FSRM turn its copies into one host copy a page.

use crate::apic::TSC_PER_CRYSTAL;
use crate::paging::PHYSICAL_BITS;

/// Leaf 1, EDX: FPU, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, PSE36, CLFLUSH, MMX,
/// FXSR, SSE, SSE2, and DE.
const LEAF1_EDX: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;

/// Leaf 1, EDX: the package has several logical CPUs.
const LEAF1_EDX_HTT: u32 = 1 << 28;

/// Leaf 1, ECX: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, TSC deadline, RDRAND, hypervisor.
const LEAF1_ECX: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24 | 1 << 30 | 1 << 31;

/// Family 6, model 0x8f (Sapphire Rapids), stepping 8.
const SIGNATURE: u32 = 0x000_806f8;

const BRAND: &[u8; 48] = b"bindervm soft-v2 (x86-64 in software)\0\0\0\0\0\0\0\0\0\0\0";

/// Which CPU of how many: each is a core of one package, without hyper-threads.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// The number of this CPU, which is its APIC id.
    pub cpu: u32,
    pub cpus: u32,
}

impl Topology {
    /// Bits that number the cores.
    fn core_bits(self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }
}

/// CPUID: EAX, EBX, ECX, EDX for the given leaf and subleaf.
pub fn cpuid(leaf: u32, subleaf: u32, tsc_hz: u64, topology: Topology) -> [u32; 4] {
    let Topology { cpu, cpus } = topology;
    let mhz = (tsc_hz / 1_000_000) as u32;
    match leaf {
        // "GenuineIntel" in EBX, EDX, ECX.
        0 => [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        // APIC id, logical CPUs of the package; CLFLUSH works on 64 bytes.
        1 => {
            let several = if cpus > 1 { LEAF1_EDX_HTT } else { 0 };
            [SIGNATURE, cpu << 24 | cpus << 16 | 8 << 8, LEAF1_ECX, LEAF1_EDX | several]
        }
        // Cache and TLB: see leaf 4.
        2 => [0x00fe_ff01, 0, 0, 0],
        4 => cache(subleaf, topology),
        // APIC timer runs in all power states.
        6 => [1 << 2, 0, 0, 0],
        7 if subleaf == 0 => {
            // TSC_ADJUST, FDP_EXCPTN_ONLY, ERMS, no FPU CS and DS, RDSEED
            let ebx = 1 << 1 | 1 << 6 | 1 << 9 | 1 << 13 | 1 << 18;
            // FSRM, SERIALIZE, SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD
            let edx = 1 << 4 | 1 << 14 | 1 << 26 | 1 << 27 | 1 << 29 | 1 << 31;
            [0, ebx, 0, edx]
        }
        // Threads of a core, cores of the package.
        0xb => match subleaf {
            0 => [0, 1, 1 << 8, cpu],
            1 => [topology.core_bits(), cpus, 2 << 8 | 1, cpu],
            _ => [0, 0, subleaf, cpu],
        },
        // TSC = crystal * EBX / EAX.
        0x15 => [1, TSC_PER_CRYSTAL, (tsc_hz / TSC_PER_CRYSTAL as u64) as u32, 0],
        0x16 => [mhz, mhz, 100, 0],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        // LAHF in 64-bit mode; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
        0x8000_0001 => [0, 0, 1, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29],
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            std::array::from_fn(|i| {
                let bytes = &BRAND[at + 4 * i..];
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            })
        }
        // 256 KiB L2, 64-byte lines.
        0x8000_0006 => [0, 0, 0x0100_6040, 0],
        // The TSC runs at a constant rate.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [48 << 8 | PHYSICAL_BITS, 0, cpus - 1, 0],
        _ => [0; 4],
    }
}

/// Leaf 4: 32 KiB L1 data and instruction caches and a 1 MiB L2, 64-byte lines.
fn cache(subleaf: u32, topology: Topology) -> [u32; 4] {
    let (kind, level, ways, sets) = match subleaf {
        0 => (1, 1, 8, 64),
        1 => (2, 1, 8, 64),
        2 => (3, 2, 16, 1024),
        _ => return [0; 4],
    };
    // Each core has its own.
    let cores = (1 << topology.core_bits()) - 1;
    [cores << 26 | kind | level << 5 | 1 << 8, (ways - 1) << 22 | 63, sets - 1, 0]
}
