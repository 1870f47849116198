//! `manifest.json`: what went into an image.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::recipe::{LsmMode, Service};

/// The format written and understood here.
pub const FORMAT: u32 = 1;

/// What went into an image, and what the files beside it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The recipe's name.
    pub name: String,
    /// The recipe's summary.
    pub summary: String,
    /// Digest of the recipe's text.
    pub recipe: Digest,
    /// Digest of the image: of its kernel, initramfs content and command line.
    pub image: Digest,
    /// When it was built, seconds since 1970; the guest's clock starts here in virtual time.
    pub build_date: u64,
    /// Kernel release, as `uname -r` says.
    pub kernel: String,
    /// Kernel command line.
    pub command_line: String,
    /// `vmlinux` beside the manifest.
    pub vmlinux: FileRecord,
    /// `initramfs.cpio` beside the manifest.
    pub initramfs: FileRecord,
    /// Kernel modules, in load order.
    pub modules: Vec<ModuleRecord>,
    /// When the host's driver asks the guest's security module.
    #[serde(default)]
    pub lsm: LsmMode,
    /// Programs the agent starts.
    pub services: Vec<Service>,
    /// Debian packages used.
    pub packages: Vec<PackageRecord>,
    /// Source archives used.
    pub sources: Vec<SourceRecord>,
    /// Regular files of the initramfs.
    pub files: Vec<FileRecord>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its sha256.
    pub sha256: Digest,
}

/// A kernel module in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// Its name.
    pub name: String,
    /// Its path in the guest.
    pub path: String,
    /// Options it is loaded with.
    pub options: String,
    /// When it is loaded.
    pub loaded_for: LoadedFor,
}

/// When the agent loads a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadedFor {
    /// Always.
    EveryBoot,
    /// When the host serves binder.
    HostBinder,
    /// When the kernel's own driver does.
    KernelBinder,
    /// When the run has a device, or the kernel asks for something, that needs it.
    OnDemand,
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// sha256 of its file.
    pub sha256: Digest,
}

/// A source archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its name in the recipe.
    pub name: String,
    /// Its file name.
    pub file: String,
    /// Its sha256.
    pub sha256: Digest,
    /// Number of edits made to it.
    pub edits: usize,
}
