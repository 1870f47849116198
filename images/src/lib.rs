//! Images: what a guest boots, and how it is made.
//!
//! An *image* is a folder with a kernel (`vmlinux`), an initramfs (`initramfs.cpio`) and a `manifest.json` that
//! says what went into them. A *recipe* (`images/NAME/recipe.toml`) is data that says what should: which Debian
//! kernel, which of its modules and of ours, which sources pinned by checksum with which edits, what to compile,
//! where each file of the guest comes from. The *builder* ([`build`]) walks a recipe in steps:
//!
//! ```text
//! check     the host has the programs needed           host
//! kernel    Debian package -> vmlinux, modules          apt, debian_kernel, kernel
//! headers   Debian packages -> a tree for make -C       debian_kernel
//! module    our module, against those headers           compile
//! source    archive, checked, unpacked, edited          source_set
//! compile   make in an empty folder                     compile
//! packages  files taken from other Debian packages      apt
//! program   /init and other programs of ours, with cargo  compile
//! pack      all of it -> image folder                   cpio, pack, manifest
//! ```
//!
//! Every step's result stands in the [`Cache`] under the digest of what went into it, so a step is done again
//! exactly when its input changed. Results are made under a temporary name and renamed when complete; a lock
//! keeps builders apart. Packages come through a private apt whose archive addresses are the machine's own
//! ([`apt`]); nothing outside the cache is written, and no root is needed.
//!
//! Without a builder, [`open`] finds a built image, and [`kernel::extract_vmlinux`] unpacks any bzImage.

pub mod apt;
mod build;
mod cache;
mod command;
mod compile;
pub mod cpio;
mod debian_kernel;
mod digest;
mod error;
mod host;
mod image;
pub mod kernel;
mod manifest;
pub mod modules;
mod pack;
mod progress;
pub mod recipe;
mod source_set;
mod step;

pub use apt::{Package, Refresh};
pub use build::{
    ListedRecipe, Options, build, find_recipe, kernel_headers, kernel_module, missing_tools, recipes,
};
pub use cache::Cache;
pub use debian_kernel::Headers;
pub use digest::Digest;
pub use error::{BuildError, Failure, Purpose};
pub use image::{
    Image, ImageError, Listed, did_you_mean, find_built, find_built_in, list, list_in, open, open_in,
};
pub use kernel::{KernelError, extract_vmlinux};
pub use manifest::{FileRecord, LoadedFor, Manifest, ModuleRecord, PackageRecord, SourceRecord};
pub use progress::{Event, Progress};
pub use recipe::LsmMode;
