//! Where things are in the guest's physical address space, and on which interrupt lines.
//!
//! | from | what |
//! |---|---|
//! | `0x500` | GDT, then `boot_params`, page tables, command line ([`boot`](crate::boot)) |
//! | `0x9_fc00` | reserved up to 1 MiB; the ACPI tables are at `0xe_0000` |
//! | `0x10_0000` | RAM: the kernel where its ELF headers say, the initramfs at the top |
//! | `0xc000_0000` | the hole: no RAM up to 4 GiB |
//! | `0xd000_0000` | virtio-mmio slots, 4 KiB each |
//! | `0xfec0_0000` | IOAPIC |
//! | `0xfee0_0000` | local APIC |
//! | `0x1_0000_0000` | the rest of RAM |
//!
//! The engine owns the two APICs and sees their pages before the bus does.

use vm_memory::GuestAddress;

use crate::error::MachineError;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Least RAM a guest is given: a stock kernel's image takes 58 MiB before it frees anything.
pub const MIN_MEMORY: u64 = 96 * MIB;
/// Most RAM a guest is given; within the 36 physical address bits of the oldest CPU model.
pub const MAX_MEMORY: u64 = 32 * GIB;

/// First address above the RAM that is below 4 GiB, at most.
pub const LOW_MEMORY_END: u64 = 3 * GIB;
/// Where RAM goes on.
pub const HIGH_MEMORY_START: u64 = 4 * GIB;

/// The global descriptor table of the entry state.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// The zero page (`struct boot_params`).
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// Top of the stack at entry; grows down to the end of `boot_params`. The kernel soon has its own.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Root of the identity-mapped page tables; five more tables follow.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Longest command line with its terminating zero: `COMMAND_LINE_SIZE` of x86 Linux.
pub const COMMAND_LINE_SIZE: usize = 2048;

/// End of low RAM; what firmware of a PC keeps for itself follows.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables; the RSDP is at their start.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// Room for the ACPI tables.
pub const ACPI_TABLES_SIZE: u64 = 0x2_0000;
/// Where the kernel may be.
pub const KERNEL_MIN: GuestAddress = GuestAddress(MIB);

/// IOAPIC registers.
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Local APIC registers.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);

/// First virtio-mmio slot.
pub const VIRTIO_BASE: GuestAddress = GuestAddress(0xd000_0000);
/// Distance between two slots.
pub const VIRTIO_STRIDE: u64 = devices::virtio::mmio::MMIO_SIZE;
/// Interrupt line of the first slot; the others follow. Lines below belong to the PC's devices.
pub const VIRTIO_FIRST_GSI: u32 = 9;
/// Slots: as many as there are lines up to the last of the IOAPIC.
pub const VIRTIO_SLOTS: usize = (engine::IOAPIC_LINES - VIRTIO_FIRST_GSI) as usize;

/// First serial port's registers.
pub const SERIAL_PORT: u16 = devices::serial::COM1;
/// First serial port's interrupt line.
pub const SERIAL_GSI: u32 = 4;
/// Line of a PC's real-time clock. Ours has no alarm, so nothing raises it.
pub const RTC_GSI: u32 = 8;

/// One place for a virtio-mmio device: a page of registers and an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// 0, 1, ...; also the device's ACPI `_UID`.
    pub index: u8,
    /// First register.
    pub base: GuestAddress,
    /// Interrupt line (edge, active high).
    pub gsi: u32,
}

impl VirtioSlot {
    /// The slot of this number; `None` past the last one.
    pub fn new(index: usize) -> Option<VirtioSlot> {
        (index < VIRTIO_SLOTS).then(|| VirtioSlot {
            index: index as u8,
            base: GuestAddress(VIRTIO_BASE.0 + index as u64 * VIRTIO_STRIDE),
            gsi: VIRTIO_FIRST_GSI + index as u32,
        })
    }
}

/// How much RAM a guest has, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(u64);

impl MemorySize {
    /// `bytes` of RAM: whole pages, [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub fn new(bytes: u64) -> Result<MemorySize, MachineError> {
        match bytes {
            _ if bytes < MIN_MEMORY => Err(MachineError::MemoryTooSmall { bytes }),
            _ if bytes > MAX_MEMORY => Err(MachineError::MemoryTooLarge { bytes }),
            _ if !bytes.is_multiple_of(guest_ram::PAGE_SIZE as u64) => {
                Err(MachineError::MemoryNotPages { bytes })
            }
            _ => Ok(MemorySize(bytes)),
        }
    }

    /// Bytes of RAM.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// First address above the RAM that is below 4 GiB.
    pub fn low_end(self) -> GuestAddress {
        GuestAddress(self.0.min(LOW_MEMORY_END))
    }

    /// (start, length) of each contiguous piece of RAM, as [`guest_ram::allocate`] takes them.
    pub fn ranges(self) -> Vec<(GuestAddress, usize)> {
        let low = self.low_end().0;
        let mut ranges = vec![(GuestAddress(0), low as usize)];
        if self.0 > low {
            ranges.push((GuestAddress(HIGH_MEMORY_START), (self.0 - low) as usize));
        }
        ranges
    }

    /// The memory map that the kernel is told.
    pub fn e820(self) -> Vec<E820> {
        let mut map = vec![
            E820 { start: 0, end: LOW_RAM_END, kind: E820Kind::Ram },
            E820 { start: LOW_RAM_END, end: KERNEL_MIN.0, kind: E820Kind::Reserved },
            E820 { start: KERNEL_MIN.0, end: self.low_end().0, kind: E820Kind::Ram },
        ];
        for (start, len) in self.ranges().into_iter().skip(1) {
            map.push(E820 { start: start.0, end: start.0 + len as u64, kind: E820Kind::Ram });
        }
        map
    }
}

/// One line of the kernel's memory map: addresses `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820 {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What is there.
    pub kind: E820Kind,
}

/// What the kernel may do with a range (ACPI specification, 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Kind {
    /// Use it.
    Ram = 1,
    /// Leave it alone.
    Reserved = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_hole_below_4_gib_free() {
        let small = MemorySize::new(512 * MIB).unwrap();
        assert_eq!(small.ranges(), [(GuestAddress(0), 512 << 20)]);
        let large = MemorySize::new(5 * GIB).unwrap();
        assert_eq!(large.ranges(), [(GuestAddress(0), 3 << 30), (GuestAddress(4 * GIB), 2 << 30)]);
        let exact = MemorySize::new(3 * GIB).unwrap();
        assert_eq!(exact.ranges(), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn sizes_outside_the_limits_are_refused() {
        assert!(matches!(MemorySize::new(MIN_MEMORY - 4096), Err(MachineError::MemoryTooSmall { .. })));
        assert!(matches!(MemorySize::new(MAX_MEMORY + 4096), Err(MachineError::MemoryTooLarge { .. })));
        assert!(matches!(MemorySize::new(u64::MAX), Err(MachineError::MemoryTooLarge { .. })));
        assert!(matches!(MemorySize::new(MIN_MEMORY + 1), Err(MachineError::MemoryNotPages { .. })));
    }

    #[test]
    fn e820_is_sorted_gapless_where_ram_is_and_adds_up() {
        for bytes in [MIN_MEMORY, 512 * MIB, 3 * GIB, 5 * GIB] {
            let size = MemorySize::new(bytes).unwrap();
            let map = size.e820();
            assert!(map.windows(2).all(|pair| pair[0].end <= pair[1].start), "{map:x?}");
            assert!(map.iter().all(|line| line.start < line.end));
            let total: u64 = map.iter().map(|line| line.end - line.start).sum();
            assert_eq!(total, bytes);
            let reserved: Vec<_> = map.iter().filter(|line| line.kind == E820Kind::Reserved).collect();
            assert!(matches!(reserved[..], [line]
                if line.start <= ACPI_TABLES.0 && ACPI_TABLES.0 + ACPI_TABLES_SIZE <= line.end));
        }
    }

    #[test]
    fn slots_have_lines_of_their_own_inside_the_hole() {
        let slots: Vec<_> = (0..).map_while(VirtioSlot::new).collect();
        assert_eq!(slots.len(), VIRTIO_SLOTS);
        assert_eq!(slots[0].base, VIRTIO_BASE);
        assert_eq!(slots[1].base.0, VIRTIO_BASE.0 + 0x1000);
        assert_eq!(slots[VIRTIO_SLOTS - 1].gsi, engine::IOAPIC_LINES - 1);
        assert!(slots.iter().all(|slot| ![SERIAL_GSI, RTC_GSI].contains(&slot.gsi)));
        assert!(slots.iter().all(|slot| slot.base.0 >= LOW_MEMORY_END && slot.base.0 + 0x1000 <= IOAPIC.0));
    }
}
