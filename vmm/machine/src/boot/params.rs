//! The zero page: what a boot loader tells the kernel.
//! (Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`.)

use guest_ram::GuestRam;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::Initrd;
use crate::error::MachineError;
use crate::layout::{BOOT_PARAMS, COMMAND_LINE, COMMAND_LINE_SIZE, MemorySize};

/// `setup_header.boot_flag` and `.header`, which mark a header as filled in.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Boot protocol 2.15, the one of Linux 6.1.
const PROTOCOL: u16 = 0x020f;
/// "Undefined boot loader": there is no assigned number for us.
const LOADER_UNDEFINED: u8 = 0xff;
/// `loadflags`: the protected-mode part is above 1 MiB.
const LOADED_HIGH: u8 = 1;

/// [`boot_params`] as bytes.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: `boot_params` is a packed C structure of integers and integer arrays: it has no padding,
// and every bit pattern of it is valid.
unsafe impl ByteValued for ZeroPage {}

/// Writes command line and zero page.
pub fn write(
    ram: &GuestRam,
    size: MemorySize,
    cmdline: &str,
    initrd: Option<Initrd>,
    rsdp: GuestAddress,
) -> Result<(), MachineError> {
    check_command_line(cmdline)?;
    let mut page = ZeroPage(parameters(size, initrd, rsdp));
    page.0.hdr.cmdline_size = cmdline.len() as u32;

    const IN_RAM: &str = "the boot structures lie in the first MiB of RAM";
    ram.write_slice(cmdline.as_bytes(), COMMAND_LINE).expect(IN_RAM);
    ram.write_obj(0u8, GuestAddress(COMMAND_LINE.0 + cmdline.len() as u64)).expect(IN_RAM);
    ram.write_obj(page, BOOT_PARAMS).expect(IN_RAM);
    Ok(())
}

fn check_command_line(cmdline: &str) -> Result<(), MachineError> {
    match cmdline.len() {
        length if length >= COMMAND_LINE_SIZE => Err(MachineError::CommandLineTooLong { length }),
        _ if cmdline.contains('\0') => Err(MachineError::CommandLineZero),
        _ => Ok(()),
    }
}

fn parameters(size: MemorySize, initrd: Option<Initrd>, rsdp: GuestAddress) -> boot_params {
    let mut params = boot_params {
        acpi_rsdp_addr: rsdp.0,
        hdr: setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            type_of_loader: LOADER_UNDEFINED,
            loadflags: LOADED_HIGH,
            cmd_line_ptr: COMMAND_LINE.0 as u32,
            ..Default::default()
        },
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        // Both are below 4 GiB: it is loaded into low memory.
        params.hdr.ramdisk_image = initrd.start.0 as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    let map = size.e820();
    params.e820_entries = map.len() as u8;
    for (entry, line) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: line.start, size: line.end - line.start, r#type: line.kind as u32 };
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIN_MEMORY;

    fn written(cmdline: &str, initrd: Option<Initrd>) -> GuestRam {
        let size = MemorySize::new(MIN_MEMORY).unwrap();
        let ram = guest_ram::allocate(&size.ranges()).unwrap();
        write(&ram, size, cmdline, initrd, GuestAddress(0xe_0000)).unwrap();
        ram
    }

    fn at<T: ByteValued>(ram: &GuestRam, offset: u64) -> T {
        ram.read_obj(GuestAddress(BOOT_PARAMS.0 + offset)).unwrap()
    }

    #[test]
    fn fields_are_at_the_offsets_of_the_boot_protocol() {
        let initrd = Initrd { start: GuestAddress(0x500_0000), len: 12345 };
        let ram = written("console=ttyS0", Some(initrd));
        assert_eq!(at::<u64>(&ram, 0x070), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!(at::<u8>(&ram, 0x1e8), 3, "e820_entries");
        assert_eq!(at::<u16>(&ram, 0x1fe), 0xaa55, "boot_flag");
        assert_eq!(at::<[u8; 4]>(&ram, 0x202), *b"HdrS", "header");
        assert_eq!(at::<u8>(&ram, 0x210), 0xff, "type_of_loader");
        assert_eq!(at::<u32>(&ram, 0x218), 0x500_0000, "ramdisk_image");
        assert_eq!(at::<u32>(&ram, 0x21c), 12345, "ramdisk_size");
        assert_eq!(at::<u32>(&ram, 0x228), COMMAND_LINE.0 as u32, "cmd_line_ptr");
        assert_eq!(at::<u32>(&ram, 0x238), 13, "cmdline_size");
        // The third line of the memory map: RAM from 1 MiB.
        let line: [u64; 2] = [at(&ram, 0x2d0 + 2 * 20), at(&ram, 0x2d0 + 2 * 20 + 8)];
        assert_eq!(line, [0x10_0000, MIN_MEMORY - 0x10_0000]);
        assert_eq!(at::<u32>(&ram, 0x2d0 + 2 * 20 + 16), 1, "RAM");
    }

    #[test]
    fn the_command_line_ends_with_a_zero() {
        let ram = written("root=/dev/ram0 quiet", None);
        let mut text = [0xff; 21];
        ram.read_slice(&mut text, COMMAND_LINE).unwrap();
        assert_eq!(&text, b"root=/dev/ram0 quiet\0");
        assert_eq!(at::<u32>(&ram, 0x218), 0);
    }

    #[test]
    fn the_command_line_has_a_limit() {
        assert!(check_command_line(&"x".repeat(COMMAND_LINE_SIZE - 1)).is_ok());
        assert!(matches!(
            check_command_line(&"x".repeat(COMMAND_LINE_SIZE)),
            Err(MachineError::CommandLineTooLong { length: COMMAND_LINE_SIZE })
        ));
        assert!(matches!(check_command_line("a\0b"), Err(MachineError::CommandLineZero)));
    }
}
