//! From files to a CPU that stands before the kernel's first instruction.
//!
//! The kernel is an ELF `vmlinux`, entered in 64-bit mode at `startup_64` (Linux
//! `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"). No boot loader and no firmware runs
//! in the guest: this module leaves behind what those would have.

mod initial;
mod kernel;
mod params;

use std::path::Path;

use engine::EntryState;
use guest_ram::GuestRam;
use vm_memory::GuestAddress;

use crate::error::MachineError;
use crate::layout::{self, MemorySize};

pub use kernel::{Initrd, Kernel};

/// What the kernel has to be told about this board beside its tables: reset through the ACPI reset
/// register. On a hardware-reduced board 6.1 tries EFI, and then leaves 64-bit mode to call the
/// BIOS (`arch/x86/kernel/reboot.c`), and neither is here.
pub const BOARD_WORDS: &str = "reboot=acpi";

/// The command line as the kernel gets it: `words`, and [`BOARD_WORDS`] where they say nothing
/// about it themselves.
pub fn command_line(words: &str) -> String {
    if words.split_whitespace().any(|word| word.starts_with("reboot=")) {
        words.to_owned()
    } else {
        format!("{BOARD_WORDS} {words}")
    }
}

/// What is booted, and how.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    /// An ELF `vmlinux`.
    pub kernel: &'a Path,
    /// An initramfs, compressed or not.
    pub initrd: Option<&'a Path>,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// Where the RSDP is.
    pub rsdp: GuestAddress,
}

/// Loads everything into `ram` and answers how the CPU has to be set to enter the kernel.
pub fn load(ram: &GuestRam, size: MemorySize, source: &BootSource) -> Result<EntryState, MachineError> {
    let kernel = kernel::load(ram, size, source.kernel)?;
    let initrd = source.initrd.map(|path| kernel::load_initrd(ram, size, &kernel, path)).transpose()?;
    params::write(ram, size, source.cmdline, initrd, source.rsdp)?;
    initial::write(ram);
    Ok(EntryState {
        rip: kernel.entry.0,
        rsp: layout::BOOT_STACK.0,
        rsi: layout::BOOT_PARAMS.0,
        cr3: layout::PAGE_TABLES,
        gdt: layout::GDT,
        gdt_limit: initial::GDT_LIMIT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_may_choose_how_to_reboot() {
        assert_eq!(command_line("quiet ro"), "reboot=acpi quiet ro");
        assert_eq!(command_line("quiet reboot=t ro"), "quiet reboot=t ro");
        assert_eq!(command_line("noreboot=1"), "reboot=acpi noreboot=1");
    }
}
