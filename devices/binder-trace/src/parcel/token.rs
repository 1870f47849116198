//! The interface token at the start of a call.
//!
//! libbinder begins the data of a call with the name of the interface it speaks
//! (`Parcel::writeInterfaceToken`). What stands before the name tells how old libbinder is:
//!
//! | AOSP | before the arguments |
//! |---|---|
//! | up to 9 | i32 strict mode, String16 |
//! | 10 | i32 strict mode, i32 work source uid, String16 |
//! | 11 on | i32 strict mode, i32 work source uid, four-byte mark, String16 |
//! | hwbinder, any | C string, padded to 4 bytes |
//!
//! String16: i32 length in UTF-16 units, the units, a zero unit, padded to 4 bytes. One guest may mix
//! them, so every call is looked at by itself.

use super::cursor::word;

/// Marks that stand before the name from AOSP 11 on: system, vendor, recovery and unknown partition.
const MARKS: [&[u8; 4]; 4] = [b"TSYS", b"RDNV", b"OCER", b"NKNU"];

/// The longest name that is believed to be one.
const MAX_NAME: usize = 256;

/// How a parcel is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// libbinder of AOSP 9 and before.
    Old,
    /// libbinder of AOSP 10.
    Ten,
    /// libbinder of AOSP 11 and later: a stability word follows every binder.
    Eleven,
    /// libhwbinder.
    Hidl,
}

/// What a call names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The interface.
    pub interface: String,
    /// How the parcel is laid out.
    pub layout: Layout,
    /// Where the arguments begin.
    pub arguments: usize,
}

/// The token that the first bytes of a call hold, where they do. `hwbinder` tells the context.
pub fn read(payload: &[u8], hwbinder: bool) -> Option<Token> {
    if hwbinder {
        return hidl(payload);
    }
    if MARKS.iter().any(|mark| payload.get(8..12) == Some(mark.as_slice())) {
        return string16(payload, 12, Layout::Eleven);
    }
    // A uid where a length is read is too long for a name, or has no letters behind it.
    string16(payload, 4, Layout::Old).or_else(|| string16(payload, 8, Layout::Ten))
}

fn string16(payload: &[u8], at: usize, layout: Layout) -> Option<Token> {
    let length = word(payload, at)? as usize;
    if length == 0 || length > MAX_NAME {
        return None;
    }
    let bytes = payload.get(at + 4..at + 4 + length * 2)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let interface = String::from_utf16(&units).ok()?;
    let terminated = payload.get(at + 4 + length * 2..at + 6 + length * 2) == Some(&[0, 0]);
    let arguments = (at + 4 + (length + 1) * 2).next_multiple_of(4);
    (terminated && is_name(&interface)).then_some(Token { interface, layout, arguments })
}

fn hidl(payload: &[u8]) -> Option<Token> {
    let length = payload.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
    let interface = std::str::from_utf8(&payload[..length]).ok()?.to_owned();
    let qualified = interface.contains("::") && interface.contains('@');
    let arguments = (length + 1).next_multiple_of(4);
    (qualified && is_name(&interface)).then_some(Token { interface, layout: Layout::Hidl, arguments })
}

/// Names of interfaces have only these characters, so they need no escapes anywhere.
fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '$' | ':' | '@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(prefix: &[u8], name: &str) -> Vec<u8> {
        let mut bytes = prefix.to_vec();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.extend([0, 0]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn tokens_of_every_age_are_read() {
        let name = "android.os.IServiceManager";
        for (prefix, layout) in [
            (&[0; 4][..], Layout::Old),
            (b"\0\0\0\x80\xff\xff\xff\xff", Layout::Ten),
            (b"\0\0\0\x80\xe8\x03\0\0", Layout::Ten),
            (b"\0\0\0\x80\xff\xff\xff\xffTSYS", Layout::Eleven),
            (b"\0\0\0\x80\xff\xff\xff\xffRDNV", Layout::Eleven),
        ] {
            let bytes = token(prefix, name);
            let read = read(&bytes, false).unwrap();
            assert_eq!((read.interface.as_str(), read.layout, read.arguments), (name, layout, bytes.len()));
        }
    }

    #[test]
    fn hwbinder_has_c_strings() {
        let bytes = b"android.hidl.manager@1.0::IServiceManager\0\0\0rest";
        let token = read(bytes, true).unwrap();
        assert_eq!((token.layout, token.arguments), (Layout::Hidl, 44));
        assert_eq!(read(bytes, false), None);
        assert_eq!(read(b"no colons\0\0\0", true), None);
    }

    #[test]
    fn anything_else_is_no_interface() {
        assert_eq!(read(b"", false), None);
        assert_eq!(read(&[0; 64], false), None);
        assert_eq!(read(&token(&[0; 4], "two words"), false), None);
        assert_eq!(read(&token(&[0; 4], "android.os.I")[..20], false), None);
    }
}
