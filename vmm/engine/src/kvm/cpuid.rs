//! The CPU model that a KVM guest sees: what KVM supports here, minus what would be a lie or a
//! surprise.
//!
//! | leaf | what is done | why |
//! |---|---|---|
//! | 1 | the CPU's APIC id, how many there are; TSC-deadline and hypervisor bits set; MONITOR, PDCM cleared | KVM reports the host's topology, and does not report the deadline timer that its APIC has |
//! | 4, 0x8000001d | each core has its own caches | as above |
//! | 6 | ARAT alone | the APIC timer runs in every sleep state; power management is the host's |
//! | 0xa, 0x14, 0x23, 0x80000022 | zero | no performance counters and no processor trace: their state would not be saved |
//! | 0xb, 0x1f | one thread a core, the cores of one package, the APIC id | topology |
//! | 0x80000008 | the number of cores | topology |
//! | 0x8000001e | APIC id and core id | topology |
//! | 0x40000001 | clock, its stability, NOP I/O delay | kvmclock gives the TSC's frequency, so that no PIT is needed; asynchronous page faults, steal time, paravirtual spinlocks, IPIs and TLB shoot-downs are for hosts that overcommit CPUs, and would be state to save |
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

/// Which CPU of how many.
#[derive(Clone, Copy)]
pub(crate) struct Topology {
    /// The CPU's number, which is its APIC id.
    pub cpu: u32,
    pub cpus: u32,
}

impl Topology {
    /// Bits that number the cores.
    fn core_bits(self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }
}

/// Rewrites what `KVM_GET_SUPPORTED_CPUID` answered into the model of this module's table.
pub(crate) fn filter(cpuid: &mut CpuId, topology: Topology) {
    for entry in cpuid.as_mut_slice() {
        filter_entry(entry, topology);
    }
}

fn filter_entry(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let Topology { cpu, cpus } = topology;
    match entry.function {
        0x1 => {
            // Keep the CLFLUSH line size.
            entry.ebx = entry.ebx & 0xff00 | cpus << 16 | cpu << 24;
            entry.ecx &= !(LEAF1_ECX_MONITOR | LEAF1_ECX_PDCM);
            entry.ecx |= LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
            entry.edx &= !LEAF1_EDX_HTT;
            if cpus > 1 {
                entry.edx |= LEAF1_EDX_HTT;
            }
        }
        // Bits 31:26 cores in the package, 25:14 threads that share the cache, each minus one.
        0x4 | 0x8000_001d => entry.eax = entry.eax & 0x3fff | ((1 << topology.core_bits()) - 1) << 26,
        0x6 => {
            entry.eax = LEAF6_EAX_ARAT;
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        0xa | 0x14 | 0x23 | 0x8000_0022 => clear(entry),
        0xb | 0x1f => {
            // ECX[15:8]: 1 thread level, 2 core level; EBX: CPUs at that level; EDX: x2APIC id.
            // EAX: how far to shift the id for the next level's.
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, 1 << 8),
                1 => (topology.core_bits(), cpus, 2 << 8 | 1),
                index => (0, 0, index & 0xff),
            };
            entry.edx = cpu;
        }
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (cpu, cpu, 0, 0),
        0x8000_0008 => entry.ecx = topology.core_bits() << 12 | (cpus - 1),
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
        filter_entry(&mut entry, Topology { cpu: 2, cpus: 4 });
        entry
    }

    #[test]
    fn every_leaf_tells_the_same_topology() {
        let leaf1 = filtered(1, 0);
        assert_eq!(leaf1.ebx, 0x0204_ff00);
        assert_ne!(leaf1.edx & LEAF1_EDX_HTT, 0);
        assert_eq!(filtered(4, 0).eax >> 14, 3 << 12);
        let leaf = |index| filtered(0xb, index);
        assert_eq!((leaf(0).eax, leaf(0).ebx, leaf(0).ecx, leaf(0).edx), (0, 1, 0x100, 2));
        assert_eq!((leaf(1).eax, leaf(1).ebx, leaf(1).ecx, leaf(1).edx), (2, 4, 0x201, 2));
        assert_eq!((leaf(2).ebx, leaf(2).ecx), (0, 2));
        assert_eq!(filtered(0x8000_0008, 0).ecx, 0x2003);
        assert_eq!((filtered(0x8000_001e, 0).eax, filtered(0x8000_001e, 0).ebx), (2, 2));
    }

    #[test]
    fn one_cpu_has_no_siblings() {
        let mut entry = kvm_cpuid_entry2 { function: 1, edx: u32::MAX, ..Default::default() };
        filter_entry(&mut entry, Topology { cpu: 0, cpus: 1 });
        assert_eq!((entry.ebx, entry.edx & LEAF1_EDX_HTT), (1 << 16, 0));
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
