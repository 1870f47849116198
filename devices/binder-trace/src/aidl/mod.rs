//! Interfaces as `.aidl` files declare them: which method a code is, and what its arguments are.
//!
//! [`parse`] reads the language as far as the wire needs it: constants, defaults and comments are
//! skipped. [`Table`] finds declarations. Its own ones are those of AOSP's service managers; a folder
//! of `.aidl` files comes before them.

use std::collections::BTreeMap;

mod lexer;
mod parse;
mod table;

pub use parse::parse;
pub use table::{Found, Table};

/// A file that cannot be read as AIDL.
#[derive(Debug, thiserror::Error)]
pub enum AidlError {
    /// The folder or a file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing in the folder.
    #[error("there are no .aidl files in {0}")]
    Empty(std::path::PathBuf),
    /// The text is not AIDL.
    #[error("{file}:{line}:{column}: {problem}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// A type as a declaration uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Type {
    /// As written, or fully qualified once it is found.
    pub name: String,
    /// `List<T>` has one.
    pub arguments: Vec<Type>,
    /// One for each `[]`.
    pub arrays: usize,
    /// `@nullable`.
    pub nullable: bool,
}

/// Which way an argument goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// With the call.
    #[default]
    In,
    /// With the reply.
    Out,
    /// With both.
    InOut,
}

/// An argument of a method, or a field of a parcelable or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Of an argument.
    pub direction: Direction,
}

/// A method of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Transaction code.
    pub code: u32,
    /// `None`: void.
    pub returns: Option<Type>,
    /// In order.
    pub arguments: Vec<Field>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its methods.
    pub methods: Vec<Method>,
    /// Its replies have no status in front (`@NoStatus`, a word of ours: interfaces written by hand).
    pub no_status: bool,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// An interface: on the wire a binder.
    Interface(Interface),
    /// A structured parcelable.
    Parcelable(Vec<Field>),
    /// A parcelable that only its own code can read.
    Unstructured,
    /// An enumeration; on the wire its backing type.
    Enum {
        /// `byte` if nothing else is said.
        backing: Type,
        /// The constants whose value is written plainly.
        constants: BTreeMap<i64, String>,
    },
    /// One of several fields.
    Union(Vec<Field>),
}

/// A declaration with its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// `package.Outer.Inner`.
    pub name: String,
    /// What it is.
    pub definition: Definition,
}
