//! The two SSE4.2-era instructions on general registers.

/// The Castagnoli polynomial, bits reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// The CRC of every byte value.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { CASTAGNOLI } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC32: accumulates `data` without the customary inversions.
pub(super) fn crc32(crc: u32, data: &[u8]) -> u32 {
    data.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_gives_the_published_check_value() {
        // CRC-32C of "123456789" with both inversions.
        assert_eq!(!crc32(u32::MAX, b"123456789"), 0xe306_9283);
    }
}
