//! Values that are more than a word or a number. Sizes and times are written as in a plan of `bindervm test`.

use std::time::Duration;

use ci::plan::value::{Memory, Time};

/// Bytes, with a unit.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    Memory::parse(text).map(|memory| memory.0)
}

/// A time with a unit; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Time::parse(text).map(|time| time.0)
}

/// A variable of an environment.
pub fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// A guest name is used in file names: letters, digits, `-`, `_` and `.`, not starting with a dot.
pub fn parse_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(fits) {
        return Err("a name has 1 to 64 letters, digits, '-', '_' or '.', and no dot at its start".to_owned());
    }
    Ok(text.to_owned())
}
