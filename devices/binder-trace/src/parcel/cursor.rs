//! The values that libbinder's `Parcel` writes, read one after the other.
//!
//! Everything is aligned to 4 bytes. A recording may hold only the first bytes of a payload; a value
//! beyond them is [`Stop::Cut`], one beyond the payload itself [`Stop::End`].

use binder::trace::{ObjectRecord, SentObject};

/// Bytes of a flat object in the data.
const FLAT: usize = 24;

/// Why a value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The recording does not have the rest.
    #[error("the recording has no more of it")]
    Cut,
    /// The payload ends.
    #[error("the payload ends")]
    End,
    /// The bytes cannot be that value.
    #[error("{0}")]
    Wrong(&'static str),
    /// The type is not known.
    #[error("{0} is not known")]
    Unknown(String),
}

/// A little-endian word at `at`.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// A place in a payload.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    total: u64,
    objects: &'a [ObjectRecord],
    /// The next byte.
    pub at: usize,
    /// A stability word follows every binder.
    pub stability: bool,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`, the first of `total`, from `at` on.
    pub fn new(
        bytes: &'a [u8],
        total: u64,
        objects: &'a [ObjectRecord],
        at: usize,
        stability: bool,
    ) -> Cursor<'a> {
        Cursor { bytes, total, objects, at, stability }
    }

    /// What was not read, as far as it was recorded.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Nothing is left to be read.
    pub fn is_at_end(&self) -> bool {
        self.at as u64 >= self.total
    }

    /// The next `length` bytes, and the padding after them.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::End)?;
        if end as u64 > self.total {
            return Err(Stop::End);
        }
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::Cut)?;
        self.at = end.next_multiple_of(4);
        Ok(bytes)
    }

    /// Skips to a place further on.
    pub fn skip_to(&mut self, at: usize) -> Result<(), Stop> {
        if at < self.at || at as u64 > self.total {
            return Err(Stop::Wrong("a size that leads out of the payload"));
        }
        self.at = at;
        Ok(())
    }

    /// i32.
    pub fn i32(&mut self) -> Result<i32, Stop> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// i64.
    pub fn i64(&mut self) -> Result<i64, Stop> {
        let bytes = self.take(8)?;
        Ok(i64::from_le_bytes(bytes.try_into().map_err(|_| Stop::End)?))
    }

    /// A length or count; `None` is null.
    pub fn length(&mut self) -> Result<Option<usize>, Stop> {
        match self.i32()? {
            -1 => Ok(None),
            length if length >= 0 && length as u64 <= self.total => Ok(Some(length as usize)),
            _ => Err(Stop::Wrong("a length that the payload cannot have")),
        }
    }

    /// String16.
    pub fn string16(&mut self) -> Result<Option<String>, Stop> {
        let Some(length) = self.length()? else { return Ok(None) };
        let bytes = self.take((length + 1) * 2)?;
        let units = bytes[..length * 2].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        Ok(Some(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()))
    }

    /// The object that stands here; `None`: a null binder.
    pub fn object(&mut self) -> Result<Option<SentObject>, Stop> {
        let at = self.at as u64;
        let known = self.objects.iter().find(|object| object.offset == at).map(|object| object.object);
        let bytes = self.take(FLAT)?;
        match known {
            Some(object) => Ok(Some(object)),
            // A null binder is not in the list of objects: a BINDER without pointer.
            None if bytes[8..16] == [0; 8] => Ok(None),
            None => Err(Stop::Wrong("no object stands where one belongs")),
        }
    }

    /// A binder with the stability word after it.
    pub fn binder(&mut self) -> Result<Option<SentObject>, Stop> {
        let object = self.object()?;
        if self.stability {
            self.i32()?;
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_padded_and_may_be_null() {
        let mut bytes = vec![1, 0, 0, 0, b'x', 0, 0, 0];
        bytes.extend((-1i32).to_le_bytes());
        bytes.extend(7i32.to_le_bytes());
        let mut cursor = Cursor::new(&bytes, bytes.len() as u64, &[], 0, false);
        assert_eq!(cursor.string16(), Ok(Some("x".into())));
        assert_eq!(cursor.string16(), Ok(None));
        assert_eq!(cursor.i32(), Ok(7));
        assert!(cursor.is_at_end());
        assert_eq!(cursor.i32(), Err(Stop::End));
    }

    #[test]
    fn the_end_of_the_recording_is_not_the_end_of_the_payload() {
        let mut cursor = Cursor::new(&[1, 0], 8, &[], 0, false);
        assert_eq!(cursor.i32(), Err(Stop::Cut));
        let mut cursor = Cursor::new(&[0xff, 0xff, 0xff, 0x7f], 4, &[], 0, false);
        assert!(matches!(cursor.string16(), Err(Stop::Wrong(_))));
    }
}
