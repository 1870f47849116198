//! A PC that is just enough for Linux: RAM, a serial port, a CMOS clock.

use std::io::Write;
use std::sync::Arc;

use guest_ram::GuestRam;
use softcpu::{Bus, Config, EntryState, Remote, Vm};
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 512 << 20;
const GDT: u64 = 0x500;
const BOOT_PARAMS: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const MP_POINTER: u64 = 0xf_0000;
const SERIAL_LINE: u32 = 4;

pub type Error = Box<dyn std::error::Error>;

/// Everything it consists of.
#[allow(dead_code, reason = "each example uses its own part")]
pub struct Pc {
    pub ram: Arc<GuestRam>,
    pub vm: Vm,
    pub serial: Serial,
}

impl Pc {
    /// A machine that is about to execute an ELF kernel. `more` is added to the command line.
    pub fn new(kernel: &[u8], initramfs: &[u8], more: &str, config: Config) -> Result<Pc, Error> {
        let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), RAM as usize)])?);
        let entry = load_elf(&ram, kernel)?;
        let initramfs_at = (RAM - initramfs.len() as u64) & !0xfff;
        ram.write_slice(initramfs, GuestAddress(initramfs_at))?;
        let command_line = format!(
            "console=ttyS0 earlyprintk=serial acpi=off pci=off no_timer_check tsc=reliable panic=-1 {more}\0"
        );
        ram.write_slice(command_line.as_bytes(), GuestAddress(COMMAND_LINE))?;
        write_boot_params(&ram, initramfs_at, initramfs.len() as u32)?;
        write_mp_table(&ram)?;
        write_page_tables(&ram)?;
        // Null, unused, 64-bit code at 0x10, data at 0x18.
        ram.write_slice(&words(&[0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]), GuestAddress(GDT))?;

        let mut vm = Vm::new(ram.clone(), config)?;
        vm.set_entry(&EntryState {
            rip: entry,
            rsp: 0x8000,
            rsi: BOOT_PARAMS,
            cr3: GuestAddress(PAGE_TABLES),
            gdt: GuestAddress(GDT),
            gdt_limit: 31,
        });
        let serial = Serial { remote: vm.remote(), ..Serial::default() };
        Ok(Pc { ram, vm, serial })
    }
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Error> {
    Ok(bytes.get(at..at + N).ok_or("the kernel file is cut off")?.try_into()?)
}

/// Copies the loadable segments to their physical addresses. Returns the entry point.
fn load_elf(ram: &guest_ram::GuestRam, elf: &[u8]) -> Result<u64, Error> {
    if field::<4>(elf, 0)? != *b"\x7fELF" {
        return Err("the kernel is not an ELF file".into());
    }
    let headers = u64::from_le_bytes(field(elf, 32)?) as usize;
    for i in 0..u16::from_le_bytes(field(elf, 56)?) as usize {
        let at = headers + 56 * i;
        if u32::from_le_bytes(field(elf, at)?) == 1 {
            let offset = u64::from_le_bytes(field(elf, at + 8)?) as usize;
            let physical = u64::from_le_bytes(field(elf, at + 24)?);
            let len = u64::from_le_bytes(field(elf, at + 32)?) as usize;
            let bytes = elf.get(offset..offset + len).ok_or("the kernel file is cut off")?;
            ram.write_slice(bytes, GuestAddress(physical))?;
        }
    }
    Ok(u64::from_le_bytes(field(elf, 24)?))
}

/// The fields of `struct boot_params` that a 64-bit entry needs (Documentation/x86/boot.rst).
fn write_boot_params(ram: &guest_ram::GuestRam, initramfs: u64, len: u32) -> Result<(), Error> {
    let mut page = vec![0u8; 4096];
    page[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    page[0x202..0x206].copy_from_slice(b"HdrS");
    page[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    page[0x210] = 0xff;
    page[0x211] = 1;
    page[0x218..0x21c].copy_from_slice(&(initramfs as u32).to_le_bytes());
    page[0x21c..0x220].copy_from_slice(&len.to_le_bytes());
    page[0x228..0x22c].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    page[0x230..0x234].copy_from_slice(&0x100_0000u32.to_le_bytes());
    let memory = [(0u64, 0x9_fc00u64), (0x10_0000, RAM - 0x10_0000)];
    page[0x1e8] = memory.len() as u8;
    for (i, (start, len)) in memory.into_iter().enumerate() {
        let at = 0x2d0 + 20 * i;
        page[at..at + 16].copy_from_slice(&words(&[start, len]));
        page[at + 16] = 1;
    }
    ram.write_slice(&page, GuestAddress(BOOT_PARAMS))?;
    Ok(())
}

/// Maps the first 4 GiB onto themselves with 2 MiB pages.
fn write_page_tables(ram: &guest_ram::GuestRam) -> Result<(), Error> {
    ram.write_obj((PAGE_TABLES + 0x1000) | 3, GuestAddress(PAGE_TABLES))?;
    for gib in 0..4 {
        let directory = PAGE_TABLES + 0x2000 + 0x1000 * gib;
        ram.write_obj(directory | 3, GuestAddress(PAGE_TABLES + 0x1000 + 8 * gib))?;
        for i in 0..512 {
            ram.write_obj(gib << 30 | i << 21 | 0x83, GuestAddress(directory + 8 * i))?;
        }
    }
    Ok(())
}

/// A table of the MultiProcessor specification: one CPU, one I/O APIC, ISA interrupts one to one.
fn write_mp_table(ram: &guest_ram::GuestRam) -> Result<(), Error> {
    let mut entries = Vec::new();
    entries.extend([0, 0, 0x14, 3, 0xf8, 0x06, 0x08, 0, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    entries.extend(*b"\x01\x00ISA   ");
    entries.extend([2, 0, 0x20, 1]);
    entries.extend(0xfec0_0000u32.to_le_bytes());
    for line in 0..16 {
        entries.extend([3, 0, 0, 0, 0, line, 0, line]);
    }
    let checksum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut table = Vec::new();
    table.extend(*b"PCMP");
    table.extend((44 + entries.len() as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(*b"BINDERVMSOFTCPU     ");
    table.extend([0; 6]);
    table.extend(19u16.to_le_bytes());
    table.extend(0xfee0_0000u32.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);
    let mut pointer = Vec::new();
    pointer.extend(*b"_MP_");
    pointer.extend((MP_POINTER as u32 + 16).to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    ram.write_slice(&pointer, GuestAddress(MP_POINTER))?;
    ram.write_slice(&table, GuestAddress(MP_POINTER + 16))?;
    Ok(())
}

/// A 16550 that is always ready to send and never receives, and a CMOS clock.
#[derive(Default)]
pub struct Serial {
    /// Keeps quiet.
    pub silent: bool,
    remote: Remote,
    enabled: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    cmos_index: u8,
    /// The transmitter became empty since the last look.
    sent: bool,
}

impl Serial {
    fn update(&mut self) {
        self.remote.set_level(SERIAL_LINE, self.enabled & 2 != 0 && self.sent);
    }
}

impl Bus for Serial {
    fn mmio_read(&mut self, _: GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _: GuestAddress, _: &[u8]) {}

    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        data[0] = match port {
            0x3f9 if self.line_control & 0x80 == 0 => self.enabled,
            0x3fa => {
                let identity = if self.enabled & 2 != 0 && self.sent { 0xc2 } else { 0xc1 };
                self.sent = false;
                self.update();
                identity
            }
            0x3fb => self.line_control,
            0x3fc => self.modem_control,
            0x3fd => 0x60,
            // In loopback mode the outputs come back as inputs.
            0x3fe if self.modem_control & 0x10 != 0 => {
                let out = self.modem_control;
                (out & 1) << 5 | (out & 2) << 3 | (out & 4) << 4 | (out & 8) << 4
            }
            0x3fe => 0xb0,
            0x3ff => self.scratch,
            0x3f8 => 0,
            // The CMOS clock: the first of January 2025, valid, and time stands still.
            0x71 => match self.cmos_index {
                6 => 4,
                7 | 8 => 1,
                9 => 0x25,
                0xb => 2,
                0xd => 0x80,
                0x32 => 0x20,
                _ => 0,
            },
            _ => 0xff,
        };
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        match port {
            0x3f8 if self.line_control & 0x80 == 0 => {
                if !self.silent {
                    let mut out = std::io::stdout().lock();
                    // Nobody reads any more: the guest need not know.
                    let _ = out.write_all(&data[..1]).and_then(|()| out.flush());
                }
                self.sent = true;
            }
            0x3f9 if self.line_control & 0x80 == 0 => {
                self.sent |= data[0] & 2 != 0;
                self.enabled = data[0] & 0xf;
            }
            0x70 => self.cmos_index = data[0] & 0x7f,
            0x3fb => self.line_control = data[0],
            0x3fc => self.modem_control = data[0] & 0x1f,
            0x3ff => self.scratch = data[0],
            _ => {}
        }
        self.update();
    }
}
