//! Postcard's encoding, for the one place where what it takes is felt: each call of a recorded guest.
//!
//! Reading is postcard's own. Its writer looks at the result of each number and copies it by a call; here nothing fails
//! and a number is one store. The tests hold the two against each other.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize};

/// Bytes of the longest number.
const NUMBER: usize = 10;

/// Memory for what is encoded. It stays, and grows in steps, so that most numbers find room at once.
#[derive(Default)]
pub(super) struct Encoder {
    /// What is encoded, and room behind it.
    bytes: Vec<u8>,
    /// How much of it is encoded.
    length: usize,
}

impl Encoder {
    /// Appends the encoding of `value`.
    ///
    /// # Panics
    ///
    /// Where `value` has no encoding: a sequence that does not know its length, or a type that refuses.
    #[inline]
    pub(super) fn append(&mut self, value: &impl Serialize) {
        let Ok(()) = value.serialize(self);
    }

    /// Appends bytes as they are.
    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// What is encoded, and so many zeros behind it.
    #[inline]
    pub(super) fn padded(&mut self, zeros: usize) -> &mut [u8] {
        self.room(zeros)[..zeros].fill(0);
        &mut self.bytes[..self.length + zeros]
    }

    /// Bytes of what is encoded.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.length
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets what is encoded, and gives back memory beyond `kept` bytes.
    pub(super) fn clear(&mut self, kept: usize) {
        self.length = 0;
        if self.bytes.len() > kept {
            self.bytes = Vec::new();
        }
    }

    /// At least so many bytes behind what is encoded.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() - self.length < bytes {
            self.grow(bytes);
        }
        &mut self.bytes[self.length..]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        self.bytes.resize((self.length + bytes).max(2 * self.length).max(1 << 10), 0);
    }

    /// Seven bits a byte, the lowest first; all but the last have the eighth bit.
    #[inline]
    fn number(&mut self, value: u64) {
        match self.bytes.get_mut(self.length) {
            Some(byte) if value < 0x80 => {
                *byte = value as u8;
                self.length += 1;
            }
            _ => self.long_number(value),
        }
    }

    /// A number of more than one byte, or one that finds no room. Apart, so that the others need no registers.
    #[inline(never)]
    fn long_number(&mut self, mut value: u64) {
        let room = self.room(NUMBER);
        if value < 1 << 56 {
            let length = (value.max(1).ilog2() / 7 + 1) as usize;
            // Halves, quarters and eighths of 56 bits move apart, each to the start of its part of 64.
            value = (value & 0xfff_ffff) | (value >> 28) << 32;
            value = (value & 0x3fff_0000_3fff) | (value & 0xfff_c000_0fff_c000) << 2;
            value = (value & 0x7f_007f_007f_007f) | (value & 0x3f80_3f80_3f80_3f80) << 1;
            let more = 0x8080_8080_8080_8080 & ((1 << (8 * (length - 1))) - 1);
            room[..8].copy_from_slice(&(value | more).to_le_bytes());
            self.length += length;
        } else {
            let mut length = 0;
            while value >= 0x80 {
                room[length] = value as u8 | 0x80;
                value >>= 7;
                length += 1;
            }
            room[length] = value as u8;
            self.length += length + 1;
        }
    }

    /// Small numbers of either sign are short.
    #[inline]
    fn signed(&mut self, value: i64) {
        self.number((value << 1 ^ value >> 63) as u64);
    }
}

/// There is no error.
#[derive(Debug)]
pub(super) enum Never {}

impl Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

impl ser::Error for Never {
    fn custom<T: Display>(message: T) -> Never {
        panic!("a record has no encoding: {message}")
    }
}

type Done = Result<(), Never>;

impl ser::Serializer for &mut Encoder {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Done {
        self.number(value.into());
        Ok(())
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Done {
        self.room(1)[0] = value;
        self.length += 1;
        Ok(())
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Done {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Done {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Done {
        self.number(value);
        Ok(())
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Done {
        self.serialize_u8(value as u8)
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Done {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Done {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Done {
        self.signed(value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Done {
        self.raw(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Done {
        self.raw(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Done {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Done {
        self.serialize_bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Done {
        self.number(value.len() as u64);
        if !value.is_empty() {
            self.raw(value);
        }
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Done {
        self.number(0);
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.number(1);
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Done {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Done {
        self.serialize_u32(index)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        self.number(index.into());
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Never> {
        self.number(length.expect("a sequence of a record knows its length") as u64);
        Ok(self)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.number(index.into());
        Ok(self)
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Self, Never> {
        self.serialize_seq(length)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.number(index.into());
        Ok(self)
    }
}

/// The parts of something follow each other.
macro_rules! parts {
    ($($of:ident::$add:ident($($key:ty)?)),*) => {$(
        impl ser::$of for &mut Encoder {
            type Ok = ();
            type Error = Never;

            #[inline]
            fn $add<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Done {
                value.serialize(&mut **self)
            }

            #[inline]
            fn end(self) -> Done {
                Ok(())
            }
        }
    )*};
}

parts! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(&'static str),
    SerializeStructVariant::serialize_field(&'static str)
}

impl ser::SerializeMap for &mut Encoder {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Every shape that serde knows.
    #[derive(Debug, serde::Serialize)]
    enum Shape {
        Unit,
        Numbers(u64, i64, u32, i32, u16, i16, u8, i8),
        Struct { yes: bool, half: f32, double: f64, letter: char, unit: () },
        One(Option<Box<Shape>>),
        Bytes(#[serde(serialize_with = "bytes")] Vec<u8>),
        Named(BTreeMap<String, Vec<i16>>, [u32; 2], One),
        Nothing(Nothing),
    }

    #[derive(Debug, serde::Serialize)]
    struct One(u64);

    #[derive(Debug, serde::Serialize)]
    struct Nothing;

    fn bytes<S: ser::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    fn same(value: &impl Serialize) {
        let mut encoder = Encoder::default();
        encoder.raw(&[9]);
        encoder.append(value);
        assert_eq!(encoder.padded(0)[1..], postcard::to_stdvec(value).unwrap());
    }

    #[test]
    fn numbers_of_every_length_are_as_postcard_has_them() {
        for bits in 0..64 {
            for value in [
                (1u64 << bits) - 1,
                1 << bits,
                0x5555_5555_5555_5555 & (2u64 << bits).wrapping_sub(1),
                !0 >> bits,
            ] {
                same(&value);
                same(&(value as i64));
                same(&(value as i64).wrapping_neg());
            }
        }
    }

    proptest! {
        #[test]
        fn every_shape_is_as_postcard_has_it(
            numbers: (u64, i64, u32, i32, u16, i16, u8, i8),
            shift in 0..64,
            parts: (bool, f32, f64, char),
            map: BTreeMap<String, Vec<i16>>,
            some: Vec<u8>,
        ) {
            let (a, b, c, d, e, f, g, h) = numbers;
            let (yes, half, double, letter) = parts;
            same(&Shape::Numbers(a >> shift, b >> shift, c, d, e, f, g, h));
            same(&Shape::Struct { yes, half, double, letter, unit: () });
            same(&Shape::One(Some(Box::new(Shape::One(None)))));
            same(&[Shape::Bytes(some), Shape::Unit, Shape::Nothing(Nothing)]);
            same(&Shape::Named(map, [c, !c], One(a)));
        }
    }
}
