//! What can be wrong with a snapshot.

use std::io;

use super::file::FORMAT;

/// A snapshot could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// The file cannot be written.
    #[error("cannot write it")]
    Write(#[source] io::Error),
    /// What it is to be saved to is no place for a file.
    #[error("{0}")]
    Destination(String),
    /// It is something else.
    #[error("it is not a snapshot of bindervm")]
    NotASnapshot,
    /// It was made by another version.
    #[error("it has format {0}, this program knows {FORMAT}; take the snapshot again")]
    Format(u32),
    /// Some of its bytes are wrong.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It says more about itself than a snapshot does.
    #[error("what is to be written into its header is too long")]
    HeaderTooLong,
    /// The guest has something that cannot be saved.
    #[error("{0}")]
    NotSaved(String),
    /// It does not fit the machine that is to go on from it.
    #[error("it does not fit: {0}")]
    Mismatch(String),
    /// The guest ended before it could be saved.
    #[error("the guest ended first")]
    Ended,
}
