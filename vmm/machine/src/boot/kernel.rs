//! The kernel image and the initramfs.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use guest_ram::{GuestRam, PAGE_SIZE};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use crate::error::MachineError;
use crate::layout::{KERNEL_MIN, MemorySize};

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Physical address of its first instruction.
    pub entry: GuestAddress,
    /// First address after it, with the part that the kernel clears itself.
    pub end: GuestAddress,
}

/// A loaded initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Its first byte.
    pub start: GuestAddress,
    /// Its length in bytes.
    pub len: u64,
}

/// Loads the segments of an ELF `vmlinux` where its program headers say.
pub fn load(ram: &GuestRam, size: MemorySize, path: &Path) -> Result<Kernel, MachineError> {
    let mut file = open("kernel", path)?;
    check_header(&mut file, path)?;
    let loaded = Elf::load(ram, None, &mut file, Some(KERNEL_MIN))
        .map_err(|source| MachineError::LoadKernel { path: path.into(), source })?;
    let kernel = Kernel { entry: loaded.kernel_load, end: GuestAddress(loaded.kernel_end) };
    if kernel.end > size.low_end() {
        return Err(MachineError::KernelDoesNotFit { end: kernel.end.0, limit: size.low_end().0 });
    }
    if kernel.entry >= kernel.end {
        return Err(MachineError::NotElf { path: path.into(), problem: "its entry is in no segment" });
    }
    Ok(kernel)
}

/// What `linux-loader` takes for granted: a 64-bit little-endian executable for x86-64.
/// (Offsets: ELF-64 object file format, figure 2.)
fn check_header(file: &mut File, path: &Path) -> Result<(), MachineError> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const MACHINE_X86_64: [u8; 2] = [62, 0];

    let refuse = |problem| Err(MachineError::NotElf { path: path.into(), problem });
    let mut header = [0; 64];
    let read = file.by_ref().take(header.len() as u64).read(&mut header);
    let length = read.map_err(|source| MachineError::Read { what: "kernel", path: path.into(), source })?;
    match &header {
        _ if length < header.len() => refuse("it is shorter than an ELF header"),
        _ if is_bzimage(&header) => refuse("it is a boot sector; extract its vmlinux first"),
        [0x7f, b'E', b'L', b'F', CLASS_64, LITTLE_ENDIAN, ..] if header[18..20] == MACHINE_X86_64 => Ok(()),
        [0x7f, b'E', b'L', b'F', ..] => refuse("it is an ELF file for another machine"),
        _ => refuse("it does not begin with the ELF magic number"),
    }
}

fn is_bzimage(header: &[u8; 64]) -> bool {
    header.starts_with(b"MZ")
}

/// Copies the initramfs to the top of the memory below 4 GiB.
pub fn load_initrd(
    ram: &GuestRam,
    size: MemorySize,
    kernel: &Kernel,
    path: &Path,
) -> Result<Initrd, MachineError> {
    let failed = |source| MachineError::Read { what: "initramfs", path: path.into(), source };
    let mut file = open("initramfs", path)?;
    let len = file.seek(std::io::SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;

    let page = PAGE_SIZE as u64;
    let start = size.low_end().0.checked_sub(len).map(|start| start / page * page);
    let start = match start {
        Some(start) if start >= kernel.end.0 => GuestAddress(start),
        _ => return Err(MachineError::InitrdDoesNotFit { bytes: len, memory: size.bytes() }),
    };
    // `start + len` is inside RAM, so only the file can fail, by becoming shorter.
    ram.read_exact_volatile_from(start, &mut file, len as usize)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    Ok(Initrd { start, len })
}

fn open(what: &'static str, path: &Path) -> Result<File, MachineError> {
    let failed = |source| MachineError::Read { what, path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    // A folder opens, and a pipe would make the loader wait.
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(failed(std::io::Error::other("it is not a regular file")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::NamedTempFile;

    const MEMORY: u64 = crate::layout::MIN_MEMORY;

    fn machine() -> (GuestRam, MemorySize) {
        let size = MemorySize::new(MEMORY).unwrap();
        (guest_ram::allocate(&size.ranges()).unwrap(), size)
    }

    fn file(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// An ELF executable of one PT_LOAD segment: `content` at `address`, `memory` bytes long.
    fn elf(entry: u64, address: u64, content: &[u8], memory: u64) -> Vec<u8> {
        let mut bytes = vec![0; 120];
        bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(16, &2u16.to_le_bytes()); // e_type: executable
        put(18, &62u16.to_le_bytes()); // e_machine: x86-64
        put(24, &entry.to_le_bytes());
        put(32, &64u64.to_le_bytes()); // e_phoff
        put(54, &56u16.to_le_bytes()); // e_phentsize
        put(56, &1u16.to_le_bytes()); // e_phnum
        put(64, &1u32.to_le_bytes()); // PT_LOAD
        put(72, &120u64.to_le_bytes()); // p_offset
        put(80, &address.to_le_bytes()); // p_vaddr
        put(88, &address.to_le_bytes()); // p_paddr
        put(96, &(content.len() as u64).to_le_bytes());
        put(104, &memory.to_le_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn segments_go_where_they_say_and_bss_counts() {
        let (ram, size) = machine();
        let vmlinux = file(&elf(0x100_0000, 0x100_0000, b"kernel", 0x2000));
        let kernel = load(&ram, size, vmlinux.path()).unwrap();
        assert_eq!(kernel, Kernel { entry: GuestAddress(0x100_0000), end: GuestAddress(0x100_2000) });
        let mut text = [0; 6];
        ram.read_slice(&mut text, kernel.entry).unwrap();
        assert_eq!(&text, b"kernel");

        let cpio = file(&[7; 5000]);
        let initrd = load_initrd(&ram, size, &kernel, cpio.path()).unwrap();
        assert_eq!(initrd, Initrd { start: GuestAddress(MEMORY - 0x2000), len: 5000 });
        assert_eq!(ram.read_obj::<u8>(GuestAddress(initrd.start.0 + 4999)).unwrap(), 7);
    }

    #[test]
    fn what_is_no_kernel_is_named_for_what_it_is() {
        let (ram, size) = machine();
        let problem = |bytes: &[u8]| match load(&ram, size, file(bytes).path()) {
            Err(MachineError::NotElf { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(b""), "it is shorter than an ELF header");
        assert_eq!(problem(&[b'x'; 4096]), "it does not begin with the ELF magic number");
        let mut boot_sector = vec![0; 4096];
        boot_sector[..2].copy_from_slice(b"MZ");
        assert!(problem(&boot_sector).contains("extract"));
        let mut arm = elf(0x100_0000, 0x100_0000, b"", 0);
        arm[18] = 183;
        assert_eq!(problem(&arm), "it is an ELF file for another machine");
        let entry_behind = elf(0x200_0000, 0x100_0000, b"kernel", 0x2000);
        assert_eq!(problem(&entry_behind), "its entry is in no segment");
    }

    #[test]
    fn broken_or_hostile_headers_are_errors() {
        let (ram, size) = machine();
        let good = elf(0x100_0000, 0x100_0000, &[0x90; 100], 0x2000);
        for cut in [64, 100, 119, 130] {
            let error = load(&ram, size, file(&good[..cut]).path()).unwrap_err();
            assert!(matches!(error, MachineError::LoadKernel { .. }), "{cut}: {error:?}");
        }
        // Outside RAM, wrapping around, larger than memory, entry in low memory.
        assert!(load(&ram, size, file(&elf(0x100_0000, MEMORY, b"x", 1)).path()).is_err());
        assert!(load(&ram, size, file(&elf(0x100_0000, u64::MAX - 3, b"xxxxxxxx", 8)).path()).is_err());
        assert!(load(&ram, size, file(&elf(0x1000, 0x1000, b"x", 1)).path()).is_err());
        assert!(matches!(
            load(&ram, size, file(&elf(0x100_0000, 0x100_0000, b"x", 1 << 40)).path()),
            Err(MachineError::KernelDoesNotFit { .. })
        ));
    }

    #[test]
    fn an_initramfs_never_overlaps_the_kernel() {
        let (ram, size) = machine();
        let cpio = file(&[7; 0x3000]);
        let fits = Kernel { entry: GuestAddress(0x100_0000), end: GuestAddress(MEMORY - 0x3000) };
        assert_eq!(load_initrd(&ram, size, &fits, cpio.path()).unwrap().start, fits.end);
        let tight = Kernel { end: GuestAddress(MEMORY - 0x2fff), ..fits };
        assert!(matches!(
            load_initrd(&ram, size, &tight, cpio.path()),
            Err(MachineError::InitrdDoesNotFit { bytes: 0x3000, .. })
        ));
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let (ram, size) = machine();
        for path in ["/nonexistent/vmlinux", "/tmp"] {
            let error = load(&ram, size, Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
