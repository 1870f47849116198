//! Values with units, as a plan writes them: each is checked where it stands, so that an error has
//! its line and column.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time: `"250ms"`, `"60s"`, `"5m"`, `"2h"`, or a whole number of seconds. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl Time {
    /// Reads a time from text.
    pub fn parse(text: &str) -> Result<Time, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let number: u64 = digits.parse().map_err(|_| {
            format!("'{text}' is not a time; write a whole number with a unit, as in \"60s\"")
        })?;
        let millis = match unit {
            "ms" => Some(number),
            "" | "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => return Err(format!("'{unit}' is not a unit of time; use ms, s, m or h")),
        };
        match millis {
            Some(0) => Err("a time must be more than zero".to_owned()),
            // A year; beyond it, arithmetic on deadlines could overflow.
            Some(millis) if millis <= 31_536_000_000 => Ok(Time(Duration::from_millis(millis))),
            _ => Err(format!("'{text}' is too long a time")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

/// Bytes of memory: `"512M"`, `"2G"`. Always with a unit: whoever writes `512` does not mean bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

impl Memory {
    /// Reads a size from text.
    pub fn parse(text: &str) -> Result<Memory, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let number: u64 =
            digits.parse().map_err(|_| format!("'{text}' is not a size; write for example 512M or 2G"))?;
        let factor: u64 = match unit.to_ascii_uppercase().as_str() {
            "B" => 1,
            "K" | "KIB" => 1 << 10,
            "M" | "MIB" => 1 << 20,
            "G" | "GIB" => 1 << 30,
            "" => return Err(format!("{number} of what? Write {number}M for MiB, {number}G for GiB")),
            _ => return Err(format!("'{unit}' is not a unit of memory; write for example 512M or 2G")),
        };
        number.checked_mul(factor).map(Memory).ok_or_else(|| "that is more than 64 bits of bytes".to_owned())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}M", bytes >> 20),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

/// Reads text, or a whole number as if it were text.
struct TextOrNumber<T> {
    parse: fn(&str) -> Result<T, String>,
    expecting: &'static str,
}

impl<T> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        from.deserialize_any(TextOrNumber { parse: Time::parse, expecting: "a time such as \"60s\"" })
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Memory, D::Error> {
        from.deserialize_any(TextOrNumber { parse: Memory::parse, expecting: "a size such as \"512M\"" })
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time: \"250ms\", \"60s\", \"5m\", \"2h\", or a whole number of seconds. Never zero.",
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]+(ms|s|m|h)?$" },
                { "type": "integer", "minimum": 1 }
            ]
        })
    }
}

impl JsonSchema for Memory {
    fn schema_name() -> Cow<'static, str> {
        "Memory".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, with a unit: \"512M\", \"2G\".",
            "type": "string",
            "pattern": "^[0-9]+([Bb]|[KkMmGg]([Ii][Bb])?)$"
        })
    }
}

/// Something that is written alone or as a list.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany<T> {
    /// Alone.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

impl<T: Clone> OneOrMany<T> {
    /// As a list.
    pub fn to_vec(&self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

/// By hand, so that an error speaks of the value and not of "any variant".
struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::deserialize(text.into_deserializer()).map(OneOrMany::One)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        T::deserialize(number.into_deserializer()).map(OneOrMany::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut many = Vec::new();
        while let Some(value) = list.next_element()? {
            many.push(value);
        }
        Ok(OneOrMany::Many(many))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(Time::parse("250ms"), Ok(Time(Duration::from_millis(250))));
        assert_eq!(Time::parse("3"), Ok(Time(Duration::from_secs(3))));
        assert_eq!(Time::parse("2h").map(|time| time.to_string()), Ok("7200s".into()));
        for wrong in ["", "0s", "5 s", "s", "-1s", "1d", "999999999999999h", "18446744073709551616s"] {
            assert!(Time::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Memory::parse("2g"), Ok(Memory(2 << 30)));
        assert_eq!(Memory::parse("512M").map(|memory| memory.to_string()), Ok("512M".into()));
        for bytes in [1, 512 << 20, (512 << 20) + 1] {
            assert_eq!(Memory::parse(&Memory(bytes).to_string()), Ok(Memory(bytes)));
        }
        assert!(Memory::parse("3").is_err_and(|advice| advice.contains("3M")), "a bare number has no unit");
        for wrong in ["", "lots", "1T", "99999999999999G", "1.5G"] {
            assert!(Memory::parse(wrong).is_err(), "{wrong}");
        }
    }
}
