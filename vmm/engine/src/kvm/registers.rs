//! The register state of the 64-bit Linux boot protocol, in KVM's structures.
//! (Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"; Intel SDM volume 3, 2.5 and 3.4.5.)

use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use softcpu::EntryState;

/// CR0: protection, monitor coprocessor, extension type, numeric error, write protect, paging.
const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension.
const CR4: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Memory type write-back, MTRRs enabled.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// General registers: all zero but those that the protocol names. RFLAGS bit 1 is always set.
pub(crate) fn general(entry: &EntryState) -> kvm_regs {
    kvm_regs { rip: entry.rip, rsp: entry.rsp, rsi: entry.rsi, rflags: 2, ..Default::default() }
}

/// Segments, control registers and EFER over the reset state in `reset`.
pub(crate) fn system(entry: &EntryState, reset: kvm_sregs) -> kvm_sregs {
    let data = segment(0x18, Kind::Data);
    kvm_sregs {
        cs: segment(0x10, Kind::Code64),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(0, Kind::BusyTss),
        ldt: kvm_segment { unusable: 1, ..Default::default() },
        gdt: kvm_dtable { base: entry.gdt.0, limit: entry.gdt_limit, ..Default::default() },
        idt: kvm_dtable::default(),
        cr0: CR0,
        cr3: entry.cr3.0,
        cr4: CR4,
        efer: EFER,
        ..reset
    }
}

/// x87 and SSE as after `fninit` and at reset: all exceptions masked.
pub(crate) fn floating_point() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// Model-specific registers whose reset value is not what firmware leaves behind.
pub(crate) fn model_specific() -> Vec<kvm_msr_entry> {
    let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    vec![msr(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING), msr(MTRR_DEF_TYPE, MTRR_WRITE_BACK)]
}

/// [`model_specific`] one by one, for hosts whose KVM lacks one of them.
pub(crate) fn single(entry: kvm_msr_entry) -> Option<Msrs> {
    Msrs::from_entries(&[entry]).ok()
}

enum Kind {
    Code64,
    Data,
    BusyTss,
}

/// A flat, present segment of privilege level 0.
fn segment(selector: u16, kind: Kind) -> kvm_segment {
    let flat = kvm_segment { selector, limit: u32::MAX, present: 1, g: 1, ..Default::default() };
    match kind {
        // Execute/read, accessed; L set and therefore D clear.
        Kind::Code64 => kvm_segment { type_: 0xb, s: 1, l: 1, ..flat },
        // Read/write, accessed.
        Kind::Data => kvm_segment { type_: 0x3, s: 1, db: 1, ..flat },
        // VMX wants a busy TSS in TR, whatever the guest makes of it.
        Kind::BusyTss => kvm_segment { type_: 0xb, g: 0, limit: 0x67, ..flat },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn entry_is_64_bit_mode_with_the_protocols_selectors() {
        let entry = EntryState {
            rip: 0x100_0000,
            rsp: 0x8ff0,
            rsi: 0x7000,
            cr3: GuestAddress(0x9000),
            gdt: GuestAddress(0x500),
            gdt_limit: 31,
        };
        let sregs = system(&entry, kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() });
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ss.selector, sregs.ds.selector), (0x18, 0x18));
        assert_eq!((sregs.cr3, sregs.gdt.base, sregs.gdt.limit), (0x9000, 0x500, 31));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        // Paging and long mode go together.
        assert!(sregs.cr0 & 1 << 31 != 0 && sregs.efer & 1 << 10 != 0 && sregs.cr4 & 1 << 5 != 0);

        let regs = general(&entry);
        assert_eq!((regs.rip, regs.rsp, regs.rsi, regs.rflags), (0x100_0000, 0x8ff0, 0x7000, 2));
    }
}
