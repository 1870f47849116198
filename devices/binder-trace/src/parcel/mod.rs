//! What the bytes of a payload mean.
//!
//! [`token`] finds the interface that a call names. [`cursor`] reads the values that libbinder's
//! `Parcel` writes, one after the other; [`decode`] walks a method's signature with it. What is not
//! known is not guessed: decoding stops there and shows the bytes.

pub mod cursor;
pub mod decode;
pub mod token;

/// Text for people from bytes of a guest: control characters become escapes.
pub fn printable(bytes: &[u8]) -> String {
    plain(&String::from_utf8_lossy(bytes))
}

/// Text without what would control the terminal it is shown on.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional controls reorder what stands beside them.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}
