//! The builder's folder: `$XDG_CACHE_HOME/bindervm`. Everything in it can be made again.
//!
//! ```text
//! apt/<hash>/        lists and settings of a private apt, one folder a set of suites
//! downloads/         packages and source archives, named by sha256
//! kernels/<hash>/    unpacked kernel packages, with the extracted vmlinux
//! headers/<hash>/    unpacked kernel headers
//! sources/<hash>/    unpacked and patched source archives
//! objects/<hash>/    products of compile steps and kernel modules
//! cargo-target/      the agent's build
//! images/<name>-<hash>/, images/<name>   built images, and the link to each name's current one
//! logs/              output of the last run of each step
//! ```
//!
//! A folder with a hash in its name is made under a temporary name and renamed when it is complete, so what
//! exists is whole.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::Failure;

/// Where the builder keeps its files.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/bindervm`, or `~/.cache/bindervm`; `None` without a home folder.
    pub fn of_user() -> Option<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(Self::at(base.join("bindervm")))
    }

    /// A cache in this folder, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Built images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The log of a step.
    pub fn log(&self, step: &str) -> PathBuf {
        self.root.join("logs").join(format!("{}.log", step.replace(' ', "-")))
    }

    /// The place of a downloaded file.
    pub fn download(&self, digest: &Digest, name: &str) -> PathBuf {
        self.root.join("downloads").join(format!("{}-{name}", digest.short()))
    }

    /// Gives `kind/key`, made by `make` in a temporary folder if it does not exist yet. The flag tells
    /// whether it did.
    pub fn folder<E: From<Failure>>(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(PathBuf, bool), E> {
        let parent = self.root.join(kind);
        let folder = parent.join(key);
        if folder.is_dir() {
            return Ok((folder, true));
        }
        create_dir_all(&parent)?;
        // Dropped, and so removed, on every way out but the last.
        let temporary = tempfile::Builder::new()
            .prefix(".making-")
            .tempdir_in(&parent)
            .map_err(|source| Failure::file("create a folder in", &parent, source))?;
        make(temporary.path())?;
        let made = temporary.keep();
        publish(&made, &folder)?;
        Ok((folder, false))
    }

    /// Removes what builders that were killed left half made. Call it with the lock held.
    pub(crate) fn sweep(&self) {
        for kind in ["kernels", "headers", "sources", "objects", "images"] {
            for entry in fs::read_dir(self.root.join(kind)).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(".making-") {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    /// Takes the lock that keeps two builders apart; `on_wait` is called before waiting for another.
    pub(crate) fn lock(&self, on_wait: impl FnOnce()) -> Result<CacheLock, Failure> {
        create_dir_all(&self.root)?;
        let path = self.root.join("lock");
        let failed = |source| Failure::file("lock", &path, source);
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                on_wait();
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        Ok(CacheLock { _file: file })
    }
}

/// The builders' lock; freed when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct CacheLock {
    _file: File,
}

/// Gives a complete folder its final name. `tempdir` makes folders only their owner can enter.
pub(crate) fn publish(made: &Path, folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let publish = || -> io::Result<()> {
        fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
        fs::rename(made, folder)
    };
    publish().map_err(|source| Failure::file("publish", folder, source))
}

/// `create_dir_all` with an error that names the folder.
pub(crate) fn create_dir_all(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|source| Failure::file("create", folder, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_and_never_half() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let failed = cache.folder::<Failure>("objects", "k", |folder| {
            fs::write(folder.join("half"), "").unwrap();
            Err(Failure::file("make", folder, io::Error::other("no")))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(root.path().join("objects")).unwrap().count(), 0, "nothing is left behind");

        let make = |folder: &Path| {
            fs::write(folder.join("whole"), "").map_err(|e| Failure::file("write", folder, e))
        };
        let (folder, cached) = cache.folder::<Failure>("objects", "k", make).unwrap();
        assert!(folder.join("whole").exists() && !cached);
        let (_, cached) = cache.folder::<Failure>("objects", "k", |_| panic!("it is there")).unwrap();
        assert!(cached);
    }

    #[test]
    fn the_sweep_takes_only_unfinished_folders() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        for name in ["objects/.making-x", "objects/k", "images/.making-y"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        cache.sweep();
        assert!(root.path().join("objects/k").exists());
        assert!(
            !root.path().join("objects/.making-x").exists() && !root.path().join("images/.making-y").exists()
        );
    }

    #[test]
    fn the_lock_excludes() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let held = cache.lock(|| panic!("nobody else has it")).unwrap();
        let (waiting, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| cache.lock(|| waiting.send(()).unwrap()).map(drop));
            told.recv().unwrap();
            drop(held);
            other.join().unwrap().unwrap();
        });
    }
}
