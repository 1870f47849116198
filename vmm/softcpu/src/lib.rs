//! Being written: an x86-64 CPU in software.
pub mod exception;
