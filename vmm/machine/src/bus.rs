//! The board: which device answers at which address.

use std::sync::Arc;

use devices::cmos::{self, Cmos, SavedCmos};
use devices::port::PortDevice;
use devices::power::{self, AcpiPower, KeyboardController};
use devices::pvpanic::{self, PanicDevice};
use devices::serial::{self, SavedSerial, SerialPort};
use devices::virtio::mmio::MmioTransport;
use devices::virtio::{NotSaved, SavedTransport};
use engine::Bus;
use vm_memory::GuestAddress;

use crate::layout::{SERIAL_PORT, VIRTIO_STRIDE, VirtioSlot};

/// Address ranges, each with what is there.
#[derive(Debug)]
pub struct AddressMap<T> {
    /// Sorted by start; no two overlap.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    start: u64,
    len: u64,
    value: T,
}

/// A range is taken, or runs past the last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range at {start:#x} of {len:#x} bytes is taken or does not exist")]
pub struct Overlap {
    start: u64,
    len: u64,
}

impl<T> AddressMap<T> {
    /// A map of nothing.
    pub fn new() -> Self {
        AddressMap { entries: Vec::new() }
    }

    /// Puts `value` at the `len` addresses from `start` on.
    pub fn insert(&mut self, start: u64, len: u64, value: T) -> Result<(), Overlap> {
        let end = start.checked_add(len).filter(|_| len > 0).ok_or(Overlap { start, len })?;
        let index = self.entries.partition_point(|entry| entry.start < start);
        let before = index.checked_sub(1).map(|index| &self.entries[index]);
        let after = self.entries.get(index);
        if before.is_some_and(|entry| entry.start + entry.len > start)
            || after.is_some_and(|entry| entry.start < end)
        {
            return Err(Overlap { start, len });
        }
        self.entries.insert(index, Entry { start, len, value });
        Ok(())
    }

    /// What is at `address`, and how far into its range that is, if the whole access of `size`
    /// bytes stays inside.
    pub fn find(&mut self, address: u64, size: usize) -> Option<(u64, &mut T)> {
        let index = self.entries.partition_point(|entry| entry.start <= address).checked_sub(1)?;
        let entry = &mut self.entries[index];
        let offset = address - entry.start;
        (offset + size as u64 <= entry.len).then_some((offset, &mut entry.value))
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }
}

impl<T> Default for AddressMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The devices in the port space.
pub enum Legacy {
    /// The first serial port.
    Serial(SerialPort),
    /// Real-time clock.
    Cmos(Cmos),
    /// ACPI sleep and reset registers.
    Power(AcpiPower),
    /// The reset line behind the keyboard controller.
    Keyboard(KeyboardController),
    /// Where the guest's kernel says that it panicked.
    Panic(PanicDevice),
}

impl Legacy {
    fn range(&self) -> (u16, u64) {
        match self {
            Legacy::Serial(_) => (SERIAL_PORT, u64::from(serial::PORTS)),
            Legacy::Cmos(_) => (cmos::PORT, u64::from(cmos::PORTS)),
            Legacy::Power(_) => (power::PORT, u64::from(power::PORTS)),
            Legacy::Keyboard(_) => (power::I8042_PORT, u64::from(power::I8042_PORTS)),
            Legacy::Panic(_) => (pvpanic::PORT, u64::from(pvpanic::PORTS)),
        }
    }

    fn registers(&mut self) -> &mut dyn PortDevice {
        match self {
            Legacy::Serial(device) => device,
            Legacy::Cmos(device) => device,
            Legacy::Power(device) => device,
            Legacy::Keyboard(device) => device,
            Legacy::Panic(device) => device,
        }
    }
}

/// How often the guest left its CPU and RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AccessCounts {
    /// `in` instructions.
    pub port_reads: u64,
    /// `out` instructions.
    pub port_writes: u64,
    /// Loads from device registers.
    pub mmio_reads: u64,
    /// Stores to device registers.
    pub mmio_writes: u64,
}

/// All devices of a guest, by address. Where nothing is, reads answer all ones and writes go
/// nowhere, as on a PC.
#[derive(Default)]
pub struct Board {
    ports: AddressMap<Legacy>,
    mmio: AddressMap<Arc<MmioTransport>>,
    counts: AccessCounts,
}

impl Board {
    /// Puts a device on its ports.
    pub fn add_legacy(&mut self, device: Legacy) -> Result<(), Overlap> {
        let (start, len) = device.range();
        self.ports.insert(u64::from(start), len, device)
    }

    /// Puts a virtio device into its slot.
    pub fn add_virtio(&mut self, slot: VirtioSlot, device: Arc<MmioTransport>) -> Result<(), Overlap> {
        self.mmio.insert(slot.base.0, VIRTIO_STRIDE, device)
    }

    /// Lets every device move waiting host input into the guest.
    pub fn service(&mut self) {
        for device in self.ports.values_mut() {
            if let Legacy::Serial(serial) = device {
                serial.service();
            }
        }
        for device in self.mmio.values_mut() {
            device.service();
        }
    }

    /// The serial port, the CMOS, and the virtio devices by slot, as plain data.
    pub fn save(&mut self) -> Result<(SavedSerial, SavedCmos, Vec<SavedTransport>), NotSaved> {
        let (mut serial, mut cmos) = (None, None);
        for device in self.ports.values_mut() {
            match device {
                Legacy::Serial(device) => serial = Some(device.save()),
                Legacy::Cmos(device) => cmos = Some(device.save()),
                // They remember nothing.
                Legacy::Power(_) | Legacy::Keyboard(_) | Legacy::Panic(_) => {}
            }
        }
        let virtio = self.mmio.values_mut().map(|device| device.save()).collect::<Result<_, _>>()?;
        let missing = || NotSaved("the board has no serial port or no CMOS".to_owned());
        Ok((serial.ok_or_else(missing)?, cmos.ok_or_else(missing)?, virtio))
    }

    /// How often devices were accessed.
    pub fn counts(&self) -> AccessCounts {
        self.counts
    }

    /// Whether a virtio device ever stopped working.
    pub fn has_failures(&mut self) -> bool {
        self.mmio.values_mut().any(|device| device.has_failed())
    }

    /// Why virtio devices stopped working, if any did: slot order.
    pub fn failures(&mut self) -> Vec<String> {
        self.mmio.values_mut().filter_map(|device| device.failure()).collect()
    }

    /// Why a virtio device failed by a fault of its own, if one did.
    pub fn fault(&mut self) -> Option<String> {
        self.mmio.values_mut().find(|device| device.is_faulty()).and_then(|device| device.failure())
    }
}

impl Bus for Board {
    fn mmio_read(&mut self, addr: GuestAddress, data: &mut [u8]) {
        self.counts.mmio_reads += 1;
        match self.mmio.find(addr.0, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn mmio_write(&mut self, addr: GuestAddress, data: &[u8]) {
        self.counts.mmio_writes += 1;
        if let Some((offset, device)) = self.mmio.find(addr.0, data.len()) {
            device.write(offset, data);
        }
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        self.counts.port_reads += 1;
        match self.ports.find(u64::from(port), data.len()) {
            Some((offset, device)) => device.registers().read(offset as u16, data),
            None => data.fill(0xff),
        }
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.counts.port_writes += 1;
        if let Some((offset, device)) = self.ports.find(u64::from(port), data.len()) {
            device.registers().write(offset as u16, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap() {
        let mut map = AddressMap::new();
        map.insert(0x1000, 0x100, 'a').unwrap();
        map.insert(0x1200, 0x100, 'b').unwrap();
        map.insert(0x1100, 0x100, 'c').unwrap();
        for (start, len) in
            [(0x1000, 1), (0x10ff, 1), (0x0fff, 2), (0x0, 0x2000), (0x12ff, 0x10), (0x1050, 0x200)]
        {
            assert_eq!(map.insert(start, len, 'x'), Err(Overlap { start, len }));
        }
        assert!(map.insert(0x2000, 0, 'x').is_err(), "empty");
        assert!(map.insert(u64::MAX, 2, 'x').is_err(), "past the end");
        map.insert(0xfff, 1, 'd').unwrap();
        map.insert(0x1300, 1, 'e').unwrap();
    }

    #[test]
    fn an_access_belongs_to_the_range_that_holds_all_of_it() {
        let mut map = AddressMap::new();
        map.insert(0x1000, 0x10, 'a').unwrap();
        map.insert(0x1010, 0x10, 'b').unwrap();
        assert_eq!(map.find(0x1000, 4), Some((0, &mut 'a')));
        assert_eq!(map.find(0x100f, 1), Some((15, &mut 'a')));
        assert_eq!(map.find(0x1010, 8), Some((0, &mut 'b')));
        for (address, size) in [(0xfff, 1), (0x1020, 1), (0x100e, 4), (0x101f, 2), (u64::MAX, 1)] {
            assert_eq!(map.find(address, size), None, "{address:#x}");
        }
    }

    #[test]
    fn where_nothing_is_reads_are_all_ones() {
        let mut board = Board::default();
        let mut data = [0; 4];
        board.port_in(0x1f0, &mut data);
        assert_eq!(data, [0xff; 4]);
        data.fill(0);
        board.mmio_read(GuestAddress(0xd000_0000), &mut data);
        assert_eq!(data, [0xff; 4]);
        board.port_out(0x80, &[0]);
        board.mmio_write(GuestAddress(u64::MAX - 7), &[0; 8]);
        let expected = AccessCounts { port_reads: 1, port_writes: 1, mmio_reads: 1, mmio_writes: 1 };
        assert_eq!(board.counts(), expected);
    }
}
