//! The little that is known of a payload without its AIDL: the interface token at its start.
//!
//! libbinder begins the data of a call with the name of the interface it speaks
//! (`Parcel::writeInterfaceToken`): a strict-mode word, from AOSP 11 on a work-source word and a
//! four-byte header mark, then a String16: length in UTF-16 units, the units, a zero unit.

/// Marks that stand before the name from AOSP 11 on: system, vendor, recovery and unknown partition.
const MARKS: [&[u8; 4]; 4] = [b"TSYS", b"RDNV", b"VCER", b"NKNU"];

/// The longest name that is believed to be one.
const MAX_UNITS: usize = 256;

/// The interface that the first bytes of a call name, where they do.
pub fn interface(payload: &[u8]) -> Option<String> {
    let marked = payload.get(8..12).is_some_and(|mark| MARKS.iter().any(|known| mark == known.as_slice()));
    let start = if marked { 12 } else { 4 };
    let units = u32::from_le_bytes(payload.get(start..start + 4)?.try_into().ok()?) as usize;
    if units == 0 || units > MAX_UNITS {
        return None;
    }
    let bytes = payload.get(start + 4..start + 4 + units * 2)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let name = String::from_utf16(&units).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '$');
    name.chars().all(plain).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(prefix: &[u8], name: &str) -> Vec<u8> {
        let mut bytes = prefix.to_vec();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn tokens_of_old_and_new_parcels_are_read() {
        let name = "android.os.IServiceManager";
        assert_eq!(interface(&token(&[0; 4], name)).as_deref(), Some(name));
        assert_eq!(interface(&token(b"\0\0\0\x80\xff\xff\xff\xffTSYS", name)).as_deref(), Some(name));
    }

    #[test]
    fn anything_else_is_no_interface() {
        assert_eq!(interface(b""), None);
        assert_eq!(interface(&[0; 64]), None);
        assert_eq!(interface(&token(&[0; 4], "two words")), None);
        assert_eq!(interface(&token(&[0; 4], "android.os.I")[..20]), None);
    }
}
