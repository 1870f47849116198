//! The ACPI tables: how the guest kernel learns what is on the board.
//!
//! The board is *hardware-reduced* (ACPI specification, 4.1): no PM timer, no fixed event blocks,
//! no SCI, no 8259 and no 8254, none of which exist here. Linux then takes every interrupt from
//! the IOAPIC, every tick from the local APIC, and switches off through the sleep control
//! register. Line numbers need no overrides: without legacy interrupts they are IOAPIC pins.
//!
//! | table | says |
//! |---|---|
//! | RSDP, XSDT | where the others are |
//! | FADT | hardware-reduced; sleep and reset registers; no 8042, no VGA; which CMOS byte is the century |
//! | MADT | the CPUs, one IOAPIC |
//! | DSDT | `COM1` (PNP0501), `RTC` (PNP0B00), `V000`.. (LNRO0005, one for each virtio-mmio slot), `\_S5` |

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, CREATOR_ID};
use devices::{cmos, power, pvpanic, serial};
use guest_ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::layout::{
    ACPI_TABLES, ACPI_TABLES_SIZE, IOAPIC, LOCAL_APIC, SERIAL_GSI, SERIAL_PORT, VIRTIO_STRIDE, VirtioSlot,
};

const OEM_ID: [u8; 6] = *b"BNDRVM";
const OEM_TABLE_ID: [u8; 8] = *b"BINDERVM";
const OEM_REVISION: u32 = 1;
/// Revision 2 of the DSDT: integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// Beyond the CPUs' ids.
const IOAPIC_ID: u8 = 15;

/// FADT IAPC_BOOT_ARCH: there is no VGA to probe. (8042 and "legacy devices" stay clear.)
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// FADT IAPC_BOOT_ARCH: no message-signalled interrupts; there is no PCI bus.
const BOOT_ARCH_NO_MSI: u16 = 1 << 3;

/// Writes the tables for a board with so many CPUs and these virtio slots; the answer is where the RSDP is.
pub fn write(ram: &GuestRam, cpus: u8, slots: &[VirtioSlot]) -> GuestAddress {
    let image = image(cpus, slots);
    assert!(image.len() as u64 <= ACPI_TABLES_SIZE, "the tables of all slots fit (tested)");
    ram.write_slice(&image, ACPI_TABLES).expect("the ACPI area lies in the first MiB of RAM");
    ACPI_TABLES
}

/// All tables as they stand in memory from [`ACPI_TABLES`] on, the RSDP first.
fn image(cpus: u8, slots: &[VirtioSlot]) -> Vec<u8> {
    let mut image = Image(vec![0; Rsdp::len()]);
    let dsdt = image.append(dsdt(slots).as_slice());
    let fadt = image.append(&bytes(&fadt(dsdt)));
    let madt = image.append(&bytes(&madt(cpus)));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt.0);
    xsdt.add_entry(madt.0);
    let xsdt = image.append(&bytes(&xsdt));
    image.0[..Rsdp::len()].copy_from_slice(&bytes(&Rsdp::new(OEM_ID, xsdt.0)));
    image.0
}

struct Image(Vec<u8>);

impl Image {
    /// Adds one table, aligned to 16 bytes; the answer is its address.
    fn append(&mut self, table: &[u8]) -> GuestAddress {
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        let address = GuestAddress(ACPI_TABLES.0 + self.0.len() as u64);
        self.0.extend_from_slice(table);
        address
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: GuestAddress) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt.0)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Buttons would be devices of the DSDT, and there are none.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_MSI).into();
    fadt.century = cmos::CENTURY;
    fadt.reset_reg = power_register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = power_register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = power_register(power::SLEEP_STATUS);
    fadt.finalize()
}

fn power_register(offset: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(power::PORT + offset))
}

fn madt(cpus: u8) -> MADT {
    let local_apic = LocalInterruptController::Address(LOCAL_APIC.0 as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local_apic);
    // Each starts with INIT and a start-up message, on either engine.
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(IOAPIC_ID, IOAPIC.0 as u32, 0));
    madt
}

fn dsdt(slots: &[VirtioSlot]) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    // `Sdt::new` leaves the creator to its caller: bytes 28 to 36 of the header.
    dsdt.write_bytes(28, &CREATOR_ID);

    let legacy = [
        device(
            "COM1",
            &EISAName::new("PNP0501"),
            0,
            &IO::new(SERIAL_PORT, SERIAL_PORT, 0, serial::PORTS as u8),
            Some(SERIAL_GSI),
        ),
        // No line: this clock has no alarm.
        device(
            "RTC_",
            &EISAName::new("PNP0B00"),
            0,
            &IO::new(cmos::PORT, cmos::PORT, 0, cmos::PORTS as u8),
            None,
        ),
        device(
            "PEVT",
            &pvpanic::HID,
            0,
            &IO::new(pvpanic::PORT, pvpanic::PORT, 0, pvpanic::PORTS as u8),
            None,
        ),
    ];
    let virtio = slots.iter().map(|slot| {
        let registers = Memory32Fixed::new(true, slot.base.0 as u32, VIRTIO_STRIDE as u32);
        let name = format!("V{:03}", slot.index);
        device(&name, &"LNRO0005", slot.index, &registers, Some(slot.gsi))
    });
    let devices: Vec<Raw> = legacy.into_iter().chain(virtio).map(Raw).collect();
    let devices = devices.iter().map(|device| device as &dyn Aml).collect();
    Scope::new("\\_SB_".into(), devices).to_aml_bytes(&mut dsdt);

    let sleep_type = power::SLEEP_TYPE_S5;
    Name::new("\\_S5_".into(), &Package::new(vec![&sleep_type, &sleep_type, &aml::ZERO, &aml::ZERO]))
        .to_aml_bytes(&mut dsdt);
    dsdt
}

/// A device with one range of registers and, where it has one, an edge-triggered line of its own.
fn device(name: &str, hid: &dyn Aml, uid: u8, registers: &dyn Aml, gsi: Option<u32>) -> Vec<u8> {
    let interrupt = gsi.map(|gsi| Interrupt::new(true, true, false, false, gsi));
    let mut resources = vec![registers];
    resources.extend(interrupt.as_ref().map(|interrupt| interrupt as &dyn Aml));
    bytes(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), hid),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    ))
}

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: usize) -> Vec<VirtioSlot> {
        (0..count).map_while(VirtioSlot::new).collect()
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at `address`, checked as the kernel checks it.
    fn table(image: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI_TABLES.0) as usize;
        let length = u32_at(image, start + 4) as usize;
        let table = &image[start..start + length];
        assert_eq!(sum(table), 0, "checksum of {:?}", String::from_utf8_lossy(&table[..4]));
        table
    }

    /// Follows RSDP and XSDT to all tables.
    fn walk(image: &[u8]) -> Vec<&[u8]> {
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let xsdt = table(image, u64_at(image, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        xsdt[36..].chunks(8).map(|entry| table(image, u64_at(entry, 0))).collect()
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let image = image(1, &slots(4));
        let signatures: Vec<_> = walk(&image).iter().map(|table| &table[..4]).collect();
        assert_eq!(signatures, [b"FACP", b"APIC"]);
    }

    #[test]
    fn the_fadt_announces_a_hardware_reduced_board_that_can_switch_off() {
        let image = image(1, &slots(1));
        let fadt = walk(&image)[0];
        assert_eq!(fadt.len(), 276);
        let flags = u32_at(fadt, 112);
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10, "HW_REDUCED_ACPI, RESET_REG_SUP");
        assert_eq!(fadt[108], 0x32, "CENTURY");
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]) & 1 << 1, 0, "no 8042");
        // Generic addresses: space 1 is I/O ports, and the address is 4 bytes in.
        let register = |offset: usize| (fadt[offset], u64_at(fadt, offset + 4));
        assert_eq!(register(116), (1, 0x602), "RESET_REG");
        assert_eq!(fadt[128], 1, "RESET_VALUE");
        assert_eq!(register(244), (1, 0x600), "SLEEP_CONTROL_REG");
        assert_eq!(register(256), (1, 0x601), "SLEEP_STATUS_REG");
        assert_eq!(&table(&image, u64_at(fadt, 140))[..4], b"DSDT", "X_DSDT");
    }

    #[test]
    fn the_madt_has_one_cpu_and_one_ioapic() {
        let image = image(1, &[]);
        let madt = walk(&image)[1];
        assert_eq!(u32_at(madt, 36), 0xfee0_0000);
        // Flags: bit 0 would announce an 8259.
        assert_eq!(u32_at(madt, 40), 0);
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0], "local APIC 0, enabled");
        assert_eq!(madt[52..56], [1, 12, IOAPIC_ID, 0]);
        assert_eq!((u32_at(madt, 56), u32_at(madt, 60)), (0xfec0_0000, 0));
        assert_eq!(madt.len(), 64);
    }

    #[test]
    fn every_cpu_has_a_local_apic() {
        let image = image(4, &[]);
        let madt = walk(&image)[1];
        for cpu in 0..4u8 {
            let at = 44 + 8 * cpu as usize;
            assert_eq!(madt[at..at + 8], [0, 8, cpu, cpu, 1, 0, 0, 0]);
        }
        assert_eq!(madt.len(), 64 + 3 * 8);
    }

    #[test]
    fn each_slot_is_a_device_with_its_page_and_line() {
        let image = image(1, &slots(3));
        let dsdt = table(&image, u64_at(walk(&image)[0], 140));
        let find = |needle: &[u8]| dsdt.windows(needle.len()).filter(|window| *window == needle).count();
        assert_eq!(find(b"LNRO0005\0"), 3);
        for slot in slots(3) {
            let mut memory = vec![0x86, 9, 0, 1]; // 32-bit fixed memory, 9 bytes, writable
            memory.extend_from_slice(&(slot.base.0 as u32).to_le_bytes());
            memory.extend_from_slice(&0x1000u32.to_le_bytes());
            // Extended interrupt, 6 bytes: consumer, edge, active high, exclusive; one line.
            memory.extend_from_slice(&[0x89, 6, 0, 0b0011, 1]);
            memory.extend_from_slice(&slot.gsi.to_le_bytes());
            assert_eq!(find(&memory), 1, "slot {}", slot.index);
        }
    }

    #[test]
    fn all_slots_fit_into_the_reserved_area() {
        assert!(
            image(engine::MAX_CPUS, &slots(crate::layout::VIRTIO_SLOTS)).len() as u64 <= ACPI_TABLES_SIZE
        );
    }
}
