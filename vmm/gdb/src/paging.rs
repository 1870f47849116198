//! Linear addresses to guest-physical ones, as a debugger wants it: whatever the privilege, and without
//! marking anything as accessed. (SDM volume 3, 4.5.)

use engine::DebugRegisters;
use guest_ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a linear address is; `None` if it is not mapped, or by paging of another kind than long mode's.
pub fn translate(ram: &GuestRam, cpu: &DebugRegisters, linear: u64) -> Option<GuestAddress> {
    if cpu.cr0 & CR0_PG == 0 {
        return Some(GuestAddress(linear));
    }
    if cpu.efer & EFER_LMA == 0 {
        return None;
    }
    let levels = if cpu.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = cpu.cr3 & ADDRESS;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry: u64 = ram.read_obj(GuestAddress(table + 8 * (linear >> shift & 0x1ff))).ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || entry & LARGE != 0 && level <= 2 {
            let offset = (1u64 << shift) - 1;
            return Some(GuestAddress(entry & ADDRESS & !offset | linear & offset));
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped() -> (GuestRam, DebugRegisters) {
        let ram = guest_ram::allocate(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let put = |at: u64, entry: u64| ram.write_obj(entry, GuestAddress(at)).unwrap();
        put(0x1000 + 8 * 511, 0x2000 | 3);
        put(0x2000, 0x3000 | 3);
        put(0x2008, 0x4000_0000 | 0x83);
        put(0x3000, 0x4000 | 3);
        put(0x3008, 0x60_0000 | 0x83);
        put(0x4018, 0x8_5000 | 1 << 63 | 3);
        let cpu =
            DebugRegisters { cr0: CR0_PG, efer: EFER_LMA, cr3: 0x1000 | 0x18, ..DebugRegisters::default() };
        (ram, cpu)
    }

    #[test]
    fn pages_of_all_sizes_are_found() {
        let (ram, cpu) = mapped();
        let base = 0xffff_ff80_0000_0000;
        let at = |linear| translate(&ram, &cpu, linear).map(|address| address.0);
        assert_eq!(at(base + 0x3123), Some(0x8_5123));
        assert_eq!(at(base + 0x2f_edcb), Some(0x6f_edcb));
        assert_eq!(at(base + 0x4123_4567), Some(0x4123_4567));
        assert_eq!(at(base + 0x4000), None);
        assert_eq!(at(0x3123), None, "the lower half is not mapped");
    }

    #[test]
    fn tables_outside_ram_map_nothing() {
        let (ram, cpu) = mapped();
        let elsewhere = DebugRegisters { cr3: ADDRESS, ..cpu.clone() };
        assert_eq!(translate(&ram, &elsewhere, 0x1234), None);
        let off = DebugRegisters { cr0: 0, ..cpu };
        assert_eq!(translate(&ram, &off, 0x1234), Some(GuestAddress(0x1234)));
    }
}
