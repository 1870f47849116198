//! What can be wrong with a log of input.

use std::error::Error;
use std::io;

use super::file::FORMAT;

/// A log of input could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum InputLogError {
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// The file cannot be written.
    #[error("cannot write it")]
    Write(#[source] io::Error),
    /// It is something else.
    #[error("it is not a log of a guest's input")]
    NotALog,
    /// It was made by another version.
    #[error("it has format {0}, this program knows {FORMAT}; record the run again")]
    Format(u32),
    /// Some of its bytes are wrong.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// More is to be written at once than an entry holds.
    #[error("there is more to write than a log takes at once")]
    TooLong,
}

impl InputLogError {
    /// The message with its cause.
    pub(crate) fn chain(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}
