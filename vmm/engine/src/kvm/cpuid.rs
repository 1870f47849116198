//! The CPU model that a KVM guest sees: what KVM supports here, minus what would be a lie or a
//! surprise.
//!
//! | leaf | what is done | why |
//! |---|---|---|
//! | 1 | one logical CPU, APIC id 0; TSC-deadline and hypervisor bits set; MONITOR, PDCM cleared | KVM reports the host's topology, and does not report the deadline timer that its APIC has |
//! | 4, 0x8000001d | one core, no cache shared | as above |
//! | 6 | ARAT alone | the APIC timer runs in every sleep state; power management is the host's |
//! | 0xa, 0x14, 0x23, 0x80000022 | zero | no performance counters and no processor trace: their state would not be saved |
//! | 0xb, 0x1f | one thread, one core | topology |
//! | 0x80000008 | one core | topology |
//! | 0x8000001e | zero | topology |
//! | 0x40000001 | clock, its stability, NOP I/O delay | kvmclock gives the TSC's frequency, so that no PIT is needed; asynchronous page faults, steal time and paravirtual IPIs do nothing for one CPU |
//!
//! (Leaf numbers: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; KVM's own leaves:
//! Linux `Documentation/virt/kvm/x86/cpuid.rst`.)

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

const LEAF1_ECX_MONITOR: u32 = 1 << 3;
const LEAF1_ECX_PDCM: u32 = 1 << 15;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const LEAF6_EAX_ARAT: u32 = 1 << 2;

const KVM_FEATURE_CLOCKSOURCE: u32 = 1 << 0;
const KVM_FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const KVM_FEATURE_CLOCKSOURCE_STABLE: u32 = 1 << 24;
const KVM_FEATURES: u32 = KVM_FEATURE_CLOCKSOURCE
    | KVM_FEATURE_NOP_IO_DELAY
    | KVM_FEATURE_CLOCKSOURCE2
    | KVM_FEATURE_CLOCKSOURCE_STABLE;

/// Rewrites what `KVM_GET_SUPPORTED_CPUID` answered into the model of this module's table.
pub(crate) fn filter(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice() {
        filter_entry(entry);
    }
}

fn filter_entry(entry: &mut kvm_cpuid_entry2) {
    match entry.function {
        0x1 => {
            // Keep the CLFLUSH line size; APIC id 0, one logical CPU.
            entry.ebx = entry.ebx & 0xff00 | 1 << 16;
            entry.ecx &= !(LEAF1_ECX_MONITOR | LEAF1_ECX_PDCM);
            entry.ecx |= LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
            entry.edx &= !LEAF1_EDX_HTT;
        }
        // Bits 31:26 cores in the package, 25:14 threads that share the cache, each minus one.
        0x4 | 0x8000_001d => entry.eax &= 0x3fff,
        0x6 => {
            entry.eax = LEAF6_EAX_ARAT;
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        0xa | 0x14 | 0x23 | 0x8000_001e | 0x8000_0022 => clear(entry),
        0xb | 0x1f => {
            // ECX[15:8]: 1 thread level, 2 core level; EBX: CPUs at that level; EDX: x2APIC id.
            let level = match entry.index {
                0 => 1 << 8,
                1 => 2 << 8,
                _ => 0,
            };
            entry.eax = 0;
            entry.ebx = u32::from(level != 0);
            entry.ecx = level | entry.index & 0xff;
            entry.edx = 0;
        }
        0x8000_0008 => entry.ecx = 0,
        0x4000_0001 => entry.eax &= KVM_FEATURES,
        _ => {}
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        filter_entry(&mut entry);
        entry
    }

    #[test]
    fn topology_is_one_cpu() {
        let leaf1 = filtered(1, 0);
        assert_eq!(leaf1.ebx, 0x0001_ff00);
        assert_eq!(leaf1.edx & LEAF1_EDX_HTT, 0);
        assert_eq!(filtered(4, 0).eax >> 14, 0);
        assert_eq!((filtered(0xb, 0).ebx, filtered(0xb, 0).ecx), (1, 0x100));
        assert_eq!((filtered(0xb, 1).ebx, filtered(0xb, 1).ecx), (1, 0x201));
        assert_eq!((filtered(0xb, 2).ebx, filtered(0xb, 2).ecx), (0, 2));
        assert_eq!(filtered(0x8000_0008, 0).ecx, 0);
    }

    #[test]
    fn kvmclock_stays_and_other_paravirtual_features_go() {
        assert_eq!(filtered(0x4000_0001, 0).eax, KVM_FEATURES);
        // The signature leaf is untouched.
        assert_eq!(filtered(0x4000_0000, 0).ebx, u32::MAX);
    }

    #[test]
    fn the_deadline_timer_is_offered_and_monitor_is_not() {
        let ecx = filtered(1, 0).ecx;
        assert_ne!(ecx & LEAF1_ECX_TSC_DEADLINE, 0);
        assert_eq!(ecx & LEAF1_ECX_MONITOR, 0);
        assert_eq!(filtered(6, 0).eax, LEAF6_EAX_ARAT);
    }
}
