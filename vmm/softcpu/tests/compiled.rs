//! The programs of the other tests again, every block compiled before it is first executed. (The name
//! of this crate is what `board` chooses by.)

// Each of them brings its `board` along.
#![allow(clippy::duplicate_mod)]

#[path = "code.rs"]
mod code;
#[path = "faults.rs"]
mod faults;
#[path = "interrupts.rs"]
mod interrupts;
#[path = "translations.rs"]
mod translations;
