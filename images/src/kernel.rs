//! From the kernel a distribution ships (bzImage) to the ELF a loader wants (`vmlinux`).
//!
//! A bzImage is a setup header, a small decompressor and a compressed `vmlinux`. Unpacking it in the
//! guest is 88 % of the instructions of a boot, so it is done here, once. Layout: Linux
//! `Documentation/x86/boot.rst` (offsets from the start of the file).

use std::io::Read;

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

/// Number of 512-byte setup sectors, 0 meaning 4.
const SETUP_SECTS: usize = 0x1f1;
/// 0xaa55.
const BOOT_FLAG: usize = 0x1fe;
/// "HdrS".
const HEADER_MAGIC: usize = 0x202;
/// Boot protocol version; the payload fields exist since 2.08.
const PROTOCOL: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const MIN_PROTOCOL: u16 = 0x0208;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Debian's kernels before 6.8.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
/// Debian's kernels since.
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// Debian's largest is 66 MB; a header that claims more than this is not a kernel.
const MAX_VMLINUX: u32 = 512 << 20;
/// The kernel's build uses a 32 MiB dictionary with xz and a window of 128 MiB with zstd; a crafted header may
/// ask for far more.
const DECODER_MEMORY_KIB: u32 = 256 << 10;

/// Why a file is not a kernel that can be loaded.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Neither a bzImage nor an ELF file.
    #[error("not a Linux kernel: {0}")]
    NotAKernel(&'static str),
    /// Boot protocol before 2.08 (Linux 2.6.26), which does not say where the payload is.
    #[error("boot protocol {}.{:02} is too old: 2.08 or later is needed", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The setup header points outside the file.
    #[error("the kernel's header puts its payload at bytes {start}..{end}, but the file has {size}")]
    PayloadOutside {
        /// First byte of the payload.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// Size of the file.
        size: usize,
    },
    /// Compressed with something other than xz or zstd.
    #[error("the kernel is compressed with {0}, and only xz and zstd can be unpacked here")]
    Compression(&'static str),
    /// The payload claims an absurd size.
    #[error("the kernel claims to unpack to {0} bytes, more than any kernel has")]
    TooLarge(u32),
    /// The compressed data is damaged.
    #[error("the kernel's compressed payload is damaged")]
    Damaged(#[source] std::io::Error),
    /// What came out is not what the header promised.
    #[error("the kernel unpacked to {got} bytes, its header promised {want}")]
    WrongSize {
        /// Bytes that came out.
        got: usize,
        /// Bytes promised by the payload's last word.
        want: u32,
    },
}

/// Unpacks the ELF `vmlinux` of a bzImage. An ELF file is returned as it is.
///
/// Any input is answered: memory is bounded by [`MAX_VMLINUX`] plus the decoder's 256 MiB.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, KernelError> {
    if bzimage.starts_with(ELF_MAGIC) {
        return Ok(bzimage.to_vec());
    }
    let payload = payload(bzimage)?;
    if payload.starts_with(ELF_MAGIC) {
        return Ok(payload.to_vec());
    }
    // The kernel's build appends the unpacked size, little endian, to every compressed payload.
    let Some((stream, size)) = payload.split_last_chunk::<4>() else {
        return Err(KernelError::NotAKernel("its payload is empty"));
    };
    let size = u32::from_le_bytes(*size);
    if size > MAX_VMLINUX {
        return Err(KernelError::TooLarge(size));
    }
    let reader: Box<dyn Read> = if stream.starts_with(XZ_MAGIC) {
        Box::new(XzReader::new_mem_limit(stream, false, DECODER_MEMORY_KIB))
    } else if stream.starts_with(ZSTD_MAGIC) {
        let window = u64::from(DECODER_MEMORY_KIB) << 10;
        let decoder = StreamingDecoder::new_with_max_window_size(stream, window);
        Box::new(decoder.map_err(|error| KernelError::Damaged(std::io::Error::other(error)))?)
    } else {
        return Err(KernelError::Compression(compression_name(stream)));
    };
    let mut vmlinux = Vec::new();
    reader.take(u64::from(size) + 1).read_to_end(&mut vmlinux).map_err(KernelError::Damaged)?;
    if vmlinux.len() != size as usize {
        return Err(KernelError::WrongSize { got: vmlinux.len(), want: size });
    }
    if !vmlinux.starts_with(ELF_MAGIC) {
        return Err(KernelError::NotAKernel("its payload is not an ELF file"));
    }
    Ok(vmlinux)
}

/// The compressed kernel inside a bzImage, with its trailing size word.
fn payload(bzimage: &[u8]) -> Result<&[u8], KernelError> {
    if bzimage.len() < PAYLOAD_LENGTH + 4 {
        return Err(KernelError::NotAKernel("the file is too short"));
    }
    if u16_at(bzimage, BOOT_FLAG) != 0xaa55 || &bzimage[HEADER_MAGIC..HEADER_MAGIC + 4] != b"HdrS" {
        return Err(KernelError::NotAKernel("no setup header (expected a bzImage or an ELF file)"));
    }
    let protocol = u16_at(bzimage, PROTOCOL);
    if protocol < MIN_PROTOCOL {
        return Err(KernelError::OldProtocol(protocol));
    }
    let sectors = match bzimage[SETUP_SECTS] {
        0 => 4,
        n => u64::from(n),
    };
    let start = (sectors + 1) * 512 + u64::from(u32_at(bzimage, PAYLOAD_OFFSET));
    let end = start + u64::from(u32_at(bzimage, PAYLOAD_LENGTH));
    if end > bzimage.len() as u64 {
        return Err(KernelError::PayloadOutside { start, end, size: bzimage.len() });
    }
    Ok(&bzimage[start as usize..end as usize])
}

/// Names of the other formats that Linux's build can choose, by their first bytes.
fn compression_name(payload: &[u8]) -> &'static str {
    const FORMATS: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO", "lzo"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ];
    FORMATS.iter().find(|(magic, _)| payload.starts_with(magic)).map_or("an unknown format", |(_, name)| name)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lzma_rust2::{XzOptions, XzWriter};

    use super::*;

    fn elf() -> Vec<u8> {
        let mut elf = ELF_MAGIC.to_vec();
        elf.extend((0..40_000u32).flat_map(|i| (i * i).to_le_bytes()));
        elf
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    /// A file with a setup header of one sector and this payload 16 bytes into the kernel part.
    fn bzimage(stream: &[u8], size: u32) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[SETUP_SECTS] = 1;
        image[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(stream.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(stream);
        image.extend_from_slice(&size.to_le_bytes());
        image
    }

    #[test]
    fn unpacks_what_was_packed() {
        let elf = elf();
        assert_eq!(extract_vmlinux(&bzimage(&xz(&elf), elf.len() as u32)).unwrap(), elf);
    }

    #[test]
    fn unpacks_zstd_too() {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let elf = elf();
        let stream = compress_to_vec(elf.as_slice(), CompressionLevel::Fastest);
        assert_eq!(extract_vmlinux(&bzimage(&stream, elf.len() as u32)).unwrap(), elf);
        let cut = bzimage(&stream[..stream.len() / 2], elf.len() as u32);
        assert!(matches!(
            extract_vmlinux(&cut),
            Err(KernelError::Damaged(_) | KernelError::WrongSize { .. })
        ));
    }

    #[test]
    fn an_elf_file_is_already_unpacked() {
        assert_eq!(extract_vmlinux(&elf()).unwrap(), elf());
    }

    #[test]
    fn garbage_is_not_a_kernel() {
        for garbage in [&b""[..], b"MZ", &[0; 4096], &[0xff; 4096]] {
            assert!(matches!(extract_vmlinux(garbage), Err(KernelError::NotAKernel(_))));
        }
    }

    #[test]
    fn header_pointing_outside_is_refused() {
        let mut image = bzimage(&xz(&elf()), 0);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(extract_vmlinux(&image), Err(KernelError::PayloadOutside { .. })));
    }

    #[test]
    fn old_protocol_is_named() {
        let mut image = bzimage(&xz(&elf()), 0);
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x0207_u16.to_le_bytes());
        let error = extract_vmlinux(&image).unwrap_err();
        assert!(error.to_string().starts_with("boot protocol 2.07"), "{error}");
    }

    #[test]
    fn other_compression_is_named() {
        let error = extract_vmlinux(&bzimage(b"\x89LZO....", 8)).unwrap_err();
        assert!(matches!(error, KernelError::Compression("lzo")));
    }

    #[test]
    fn wrong_size_is_refused_both_ways() {
        let elf = elf();
        for size in [elf.len() as u32 - 1, elf.len() as u32 + 1] {
            let error = extract_vmlinux(&bzimage(&xz(&elf), size)).unwrap_err();
            assert!(matches!(error, KernelError::WrongSize { .. }), "{error}");
        }
        let error = extract_vmlinux(&bzimage(&xz(&elf), u32::MAX)).unwrap_err();
        assert!(matches!(error, KernelError::TooLarge(u32::MAX)));
    }

    #[test]
    fn truncated_and_flipped_payloads_are_refused() {
        let elf = elf();
        let stream = xz(&elf);
        for cut in [7, 30, stream.len() / 2, stream.len() - 1] {
            assert!(extract_vmlinux(&bzimage(&stream[..cut], elf.len() as u32)).is_err(), "cut at {cut}");
        }
        for flip in (12..stream.len()).step_by(stream.len() / 40 + 1) {
            let mut damaged = stream.clone();
            damaged[flip] ^= 0x10;
            assert!(extract_vmlinux(&bzimage(&damaged, elf.len() as u32)).is_err(), "flip at {flip}");
        }
    }

    #[test]
    fn payload_that_is_not_elf_is_refused() {
        let bytes = vec![7; 5000];
        let error = extract_vmlinux(&bzimage(&xz(&bytes), 5000)).unwrap_err();
        assert!(matches!(error, KernelError::NotAKernel(_)), "{error}");
    }
}
