//! Takes an archive of a guest apart on the host, trusting nothing that it says.
//!
//! - Nothing is made outside the destination: names are taken component by component, `..` is refused,
//!   and no symbolic link is ever followed on the way.
//! - A link is made only where it leads inside, whatever other links of the archive do: `..` only at
//!   its beginning, where the folders are real, and no more of them than there are folders.
//! - Set-user-id bits, owners, devices, pipes and sockets do not come along.
//! - Bytes and entries are bounded, and so is what is kept in memory of either.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{Archive, EntryType};

/// The longest name that is believed; Linux takes no longer path.
const MAX_NAME: u64 = 4096;

/// How much a guest may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 1 << 30, entries: 100_000 }
    }
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What was left out, and why; for people.
    pub left_out: Vec<String>,
}

/// An archive was not taken, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// More than the limits allow.
    #[error("the guest sends more than {0}; raise the limit if it is meant to")]
    TooMuch(String),
    /// A name that leads elsewhere, or is none.
    #[error("the guest names {0:?}, which does not lie below what was asked for")]
    BadName(String),
    /// The archive makes no sense.
    #[error("the guest's archive cannot be read: {0}")]
    Archive(io::Error),
    /// Something could not be made here.
    #[error("cannot make {name}: {source}")]
    Make {
        /// What.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks what `input` holds below its folder or file `from`, as `name` in the folder `into`.
pub fn unpack(
    input: impl Read,
    from: &[u8],
    into: &Path,
    name: &[u8],
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let make = |source: Errno| UnpackError::Make { name: into.display().to_string(), source: source.into() };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, into, flags, Mode::empty()).map_err(make)?;
    let mut unpacker = Unpacker {
        root,
        from: from.to_vec(),
        name: name.to_vec(),
        limits,
        done: Unpacked::default(),
        modes: Vec::new(),
    };
    unpacker.run(input)?;
    Ok(unpacker.done)
}

/// Removes the file or link of that name, if there is one. A folder, a device, a pipe or a socket stays.
fn clear(folder: &OwnedFd, leaf: &[u8]) -> Result<(), Errno> {
    match statat(folder, leaf, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::RegularFile | FileType::Symlink) => unlinkat(folder, leaf, AtFlags::empty()),
        Ok(FileType::Directory) => Err(Errno::ISDIR),
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Unpacker {
    root: OwnedFd,
    /// First component of the archive's names.
    from: Vec<u8>,
    /// What takes its place here.
    name: Vec<u8>,
    limits: Limits,
    done: Unpacked,
    /// Of folders, set last: one that may not be written to is filled first.
    modes: Vec<(Vec<Vec<u8>>, Mode)>,
}

impl Unpacker {
    fn run(&mut self, input: impl Read) -> Result<(), UnpackError> {
        let mut archive = Archive::new(input);
        // Raw: the crate would read a long name of any length into memory.
        let entries = archive.entries().map_err(UnpackError::Archive)?.raw(true);
        let (mut long_name, mut long_link) = (None, None);
        for entry in entries {
            let mut entry = entry.map_err(UnpackError::Archive)?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(text(&mut entry)?),
                EntryType::GNULongLink => long_link = Some(text(&mut entry)?),
                _ => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = long_link.take().or_else(|| entry.link_name_bytes().map(|l| l.into_owned()));
                    let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o777);
                    self.entry(kind, &name, link.as_deref(), mode, &mut entry)?;
                }
            }
        }
        for (path, mode) in std::mem::take(&mut self.modes).into_iter().rev() {
            let folder = self.folder(&path).map_err(|error| self.failed(&path, error))?;
            fchmod(&folder, mode | Mode::RWXU).map_err(|error| self.failed(&path, error))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        name: &[u8],
        link: Option<&[u8]>,
        mode: Mode,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let path = self.place(name)?;
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::TooMuch(format!("{} files", self.limits.entries)));
        }
        let Some((leaf, parents)) = path.split_last() else { return Ok(()) };
        match kind {
            EntryType::Directory => {
                self.folder(&path).map_err(|error| self.failed(&path, error))?;
                self.modes.push((path, mode));
            }
            EntryType::Regular | EntryType::Continuous => {
                let file = self.file(parents, leaf).map_err(|error| self.failed(&path, error))?;
                self.fill(&path, file, mode, content)?;
            }
            EntryType::Link => {
                let target = self.place(link.unwrap_or_default())?;
                let failed = |error| self.failed(&target, error);
                let Some((last, above)) = target.split_last() else { return Ok(()) };
                let above = self.folder(above).map_err(failed)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(&above, last.as_slice(), flags, Mode::empty()).map_err(failed)?;
                let source = File::from(source);
                // Of its content a copy: the same as the guest has it, without a second name for it.
                if source.metadata().is_ok_and(|data| data.is_file()) {
                    let file = self.file(parents, leaf).map_err(|error| self.failed(&path, error))?;
                    self.fill(&path, file, mode, &mut &source)?;
                } else {
                    self.leave_out(&path, "a link to what is no file");
                }
            }
            EntryType::Symlink => match link {
                Some(target) if leads_inside(target, parents.len()) => {
                    let folder = self.folder(parents).map_err(|error| self.failed(&path, error))?;
                    let made =
                        clear(&folder, leaf).and_then(|()| symlinkat(target, &folder, leaf.as_slice()));
                    made.map_err(|error| self.failed(&path, error))?;
                }
                _ => self.leave_out(&path, "a link that leads out"),
            },
            _ => self.leave_out(&path, "neither file, folder nor link"),
        }
        Ok(())
    }

    /// Where a name of the archive belongs, by components below the root.
    fn place(&self, name: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
        let bad = || UnpackError::BadName(String::from_utf8_lossy(name).into_owned());
        if name.first() == Some(&b'/') || name.contains(&0) || name.len() as u64 > MAX_NAME {
            return Err(bad());
        }
        let mut parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let mut path = vec![self.name.clone()];
        if self.from != b"." && parts.next() != Some(self.from.as_slice()) {
            return Err(bad());
        }
        for part in parts {
            if part == b".." {
                return Err(bad());
            }
            path.push(part.to_vec());
        }
        Ok(path)
    }

    /// Opens the folder at `path`, and makes what is missing of it. Follows no link.
    fn folder(&self, path: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = self.root.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        for part in path {
            match mkdirat(&folder, part.as_slice(), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            folder = openat(&folder, part.as_slice(), flags, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Makes a new file, in the [place](clear) of one.
    fn file(&self, parents: &[Vec<u8>], leaf: &[u8]) -> Result<File, Errno> {
        let folder = self.folder(parents)?;
        clear(&folder, leaf)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, leaf, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    fn fill(
        &mut self,
        path: &[Vec<u8>],
        mut file: File,
        mode: Mode,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let left = self.limits.bytes - self.done.bytes;
        let failed = |source| UnpackError::Make { name: shown(path), source };
        let copied = io::copy(&mut content.take(left + 1), &mut file).map_err(failed)?;
        if copied > left {
            return Err(UnpackError::TooMuch(format!("{} bytes", self.limits.bytes)));
        }
        self.done.bytes += copied;
        fchmod(&file, mode).map_err(|error| failed(error.into()))
    }

    fn leave_out(&mut self, path: &[Vec<u8>], why: &str) {
        self.done.entries -= 1;
        // A few are enough for a person.
        if self.done.left_out.len() < 100 {
            self.done.left_out.push(format!("{}: {why}", shown(path)));
        }
    }

    fn failed(&self, path: &[Vec<u8>], error: Errno) -> UnpackError {
        UnpackError::Make { name: shown(path), source: error.into() }
    }
}

/// Whether a link in a folder `depth` levels below the root stays below the first of them (the thing
/// that was asked for), or where it leads from a lone file: nowhere.
fn leads_inside(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.first() == Some(&b'/') || target.contains(&0) {
        return false;
    }
    let parts: Vec<_> =
        target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let ups = parts.iter().take_while(|part| **part == b"..").count();
    ups < depth && parts[ups..].iter().all(|part| *part != b"..")
}

/// A long name, of a length that is believed.
fn text(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut text = Vec::new();
    entry.take(MAX_NAME + 2).read_to_end(&mut text).map_err(UnpackError::Archive)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn shown(path: &[Vec<u8>]) -> String {
    let text = String::from_utf8_lossy(&path.join(&b'/')).into_owned();
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// The last component of a path, as a name.
pub(crate) fn base(path: &Path) -> Option<Vec<u8>> {
    path.file_name().map(|name| name.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use tar::{Builder, Header};

    /// An archive with names and types as no decent program writes them.
    struct Hostile(Builder<Vec<u8>>);

    impl Hostile {
        fn new() -> Hostile {
            Hostile(Builder::new(Vec::new()))
        }

        fn with(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Hostile {
            let mut header = Header::new_gnu();
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_size(content.len() as u64);
            header.set_cksum();
            self.0.append(&header, content).unwrap();
            self
        }

        fn file(self, name: &str, content: &[u8]) -> Hostile {
            self.with(EntryType::Regular, name, "", content)
        }

        fn unpack(self, into: &Path) -> Result<Unpacked, UnpackError> {
            let limits = Limits { bytes: 1000, entries: 20 };
            unpack(&self.0.into_inner().unwrap()[..], b"top", into, b"got", limits)
        }
    }

    #[test]
    fn a_tree_arrives_with_its_modes_and_without_what_is_dangerous() {
        let folder = tempfile::tempdir().unwrap();
        let done = Hostile::new()
            .with(EntryType::Directory, "./top/", "", b"")
            .with(EntryType::Directory, "top/sub", "", b"")
            .file("top/sub/file", b"content")
            .with(EntryType::Link, "top/same", "top/sub/file", b"")
            .with(EntryType::Symlink, "top/sub/up", "../sub/file", b"")
            .with(EntryType::Fifo, "top/fifo", "", b"")
            .with(EntryType::Char, "top/mem", "", b"")
            .unpack(folder.path())
            .unwrap();
        let path = folder.path().join("got");
        assert_eq!(fs::read(path.join("sub/file")).unwrap(), b"content");
        assert_eq!(fs::read(path.join("sub/up")).unwrap(), b"content");
        assert_eq!(fs::read(path.join("same")).unwrap(), b"content");
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("sub/file"), mode("sub")), (0o755, 0o755), "no set-user-id");
        assert_eq!((done.entries, done.bytes, done.left_out.len()), (5, 14, 2), "{done:?}");
    }

    #[test]
    fn no_name_leads_out() {
        for name in ["../x", "/etc/x", "top/../../x", "other/x", "top/a/../../../x", "..", ""] {
            let folder = tempfile::tempdir().unwrap();
            let into = folder.path().join("into");
            fs::create_dir(&into).unwrap();
            let result = Hostile::new().file(name, b"x").unpack(&into);
            assert!(matches!(result, Err(UnpackError::BadName(_))), "{name}: {result:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
            assert_eq!(fs::read_dir(&into).unwrap().count(), 0, "{name}");
        }
    }

    #[test]
    fn links_that_lead_out_are_left_out_and_none_is_followed() {
        for target in ["/etc", "..", "../..", "a/../../..", "sub/up/..", ""] {
            let folder = tempfile::tempdir().unwrap();
            let done =
                Hostile::new().with(EntryType::Symlink, "top/l", target, b"").unpack(folder.path()).unwrap();
            assert_eq!((done.entries, done.left_out.len()), (0, 1), "{target}");
        }
        // One that was there before, or that came with the archive, is no way in.
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        let into = folder.path().join("into");
        fs::create_dir_all(into.join("got/d")).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, into.join("got/there")).unwrap();
        let result = Hostile::new().file("top/there/x", b"x").unpack(&into);
        assert!(matches!(result, Err(UnpackError::Make { .. })), "{result:?}");
        let chain = Hostile::new().with(EntryType::Symlink, "top/l", "d", b"").file("top/l/x", b"x");
        assert!(matches!(chain.unpack(&into), Err(UnpackError::Make { .. })));
        // A file takes the place of a link, and is not written through it.
        Hostile::new().file("top/there", b"mine").unpack(&into).unwrap();
        assert_eq!(fs::read(into.join("got/there")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("got");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for archive in [
            Hostile::new().file("top", b"x"),
            Hostile::new().with(EntryType::Directory, "top/", "", b"").with(
                EntryType::Symlink,
                "top/got",
                "x",
                b"",
            ),
        ] {
            let result = archive.unpack(folder.path());
            assert!(matches!(result, Err(UnpackError::Make { .. })), "{result:?}");
        }
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&pipe.metadata().unwrap().file_type()));
    }

    #[test]
    fn too_much_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let big = Hostile::new().file("top/big", &[0; 1001]).unpack(folder.path());
        assert!(matches!(big, Err(UnpackError::TooMuch(_))), "{big:?}");
        let mut many = Hostile::new();
        for n in 0..21 {
            many = many.file(&format!("top/{n}"), b"");
        }
        assert!(matches!(many.unpack(folder.path()), Err(UnpackError::TooMuch(_))));
        // A long name that claims to be a GiB is not waited for.
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let bytes = [&header.as_bytes()[..], &[b'a'; 8192]].concat();
        let result = unpack(&bytes[..], b"top", folder.path(), b"got", Limits::default());
        assert!(result.is_err(), "{result:?}");
        assert!(unpack(&[0xff; 4096][..], b"top", folder.path(), b"got", Limits::default()).is_err());
    }
}
