//! The tables that the CPU walks before the kernel has its own: page tables and GDT.

use guest_ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::layout::{GDT, PAGE_TABLES};

/// Null, unused, 64-bit code (selector 0x10), data (0x18): flat, privilege level 0.
/// (Intel SDM volume 3, 3.4.5.)
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Last byte of the GDT, as `lgdt` wants it.
pub const GDT_LIMIT: u16 = (DESCRIPTORS.len() * 8 - 1) as u16;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const TABLE: u64 = 4096;
/// Page directories, each of which maps 1 GiB: the kernel, the initramfs and the ACPI tables are
/// below 4 GiB, and so are the APICs.
const DIRECTORIES: u64 = 4;

/// Writes GDT and identity map. `ram` is at least [`layout::MIN_MEMORY`](crate::layout::MIN_MEMORY)
/// long, so the addresses exist.
pub fn write(ram: &GuestRam) {
    for (address, value) in words() {
        ram.write_obj(value, address).expect("the boot tables lie in the first MiB of RAM");
    }
}

fn words() -> impl Iterator<Item = (GuestAddress, u64)> {
    let word = |base: GuestAddress, index: u64, value: u64| (GuestAddress(base.0 + index * 8), value);
    let pointers = GuestAddress(PAGE_TABLES.0 + TABLE);
    let directories = GuestAddress(PAGE_TABLES.0 + 2 * TABLE);

    let gdt = DESCRIPTORS.into_iter().enumerate().map(move |(i, value)| word(GDT, i as u64, value));
    let root = std::iter::once(word(PAGE_TABLES, 0, pointers.0 | PRESENT_WRITABLE));
    let middle =
        (0..DIRECTORIES).map(move |i| word(pointers, i, (directories.0 + i * TABLE) | PRESENT_WRITABLE));
    // The directories are adjacent: one run of 2 MiB pages.
    let leaves =
        (0..DIRECTORIES * 512).map(move |i| word(directories, i, i << 21 | LARGE_PAGE | PRESENT_WRITABLE));
    gdt.chain(root).chain(middle).chain(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{COMMAND_LINE, MIN_MEMORY};

    /// Walks the four levels as the CPU does.
    fn translate(ram: &GuestRam, linear: u64) -> Option<u64> {
        let mut table = PAGE_TABLES.0;
        for shift in [39, 30, 21] {
            let entry: u64 = ram.read_obj(GuestAddress(table + ((linear >> shift) & 511) * 8)).ok()?;
            if entry & 1 == 0 {
                return None;
            }
            if shift == 21 {
                assert_ne!(entry & LARGE_PAGE, 0);
                return Some((entry & !0x1f_ffff) + (linear & 0x1f_ffff));
            }
            table = entry & !0xfff;
        }
        None
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let ram = guest_ram::allocate(&[(GuestAddress(0), MIN_MEMORY as usize)]).unwrap();
        write(&ram);
        for address in [0, 0x1234, 0x100_0000, 0xbfff_ffff, 0xd000_0000, 0xfee0_0020, 0xffff_ffff] {
            assert_eq!(translate(&ram, address), Some(address));
        }
        assert_eq!(translate(&ram, 1 << 32), None);
        assert_eq!(translate(&ram, 1 << 39), None);
    }

    #[test]
    fn the_tables_do_not_run_into_the_command_line() {
        let end = words().map(|(address, _)| address.0 + 8).max();
        assert!(end <= Some(COMMAND_LINE.0));
    }
}
