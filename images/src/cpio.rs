//! The "newc" cpio format of an initramfs: a writer, and a reader that checks what was written.
//!
//! Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. The writer is
//! deterministic: entries come out sorted by path, owned by root, with one modification time.

use std::collections::BTreeMap;

use thiserror::Error;

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const HEADER_SIZE: usize = 110;

const S_IFCHR: u32 = 0o020000;
const S_IFDIR: u32 = 0o040000;
const S_IFREG: u32 = 0o100000;
const S_IFLNK: u32 = 0o120000;

/// What stands at a path of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder, mode 0755.
    Directory,
    /// A regular file: its permission bits and content.
    File {
        /// Permission bits, e.g. 0o755.
        mode: u32,
        /// Content.
        data: Vec<u8>,
    },
    /// A symbolic link to this target.
    Symlink(String),
    /// A character device: permission bits, major and minor number.
    CharDevice {
        /// Permission bits, e.g. 0o600.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Why an archive cannot be made or read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpioError {
    /// Paths are relative, without `.`, `..`, empty parts or NUL.
    #[error("'{0}' is not a path for an archive")]
    BadPath(String),
    /// Two different things were put at one path.
    #[error("two different entries for '{0}'")]
    Conflict(String),
    /// The format's sizes have 32 bits.
    #[error("'{0}' is larger than 4 GiB")]
    TooLarge(String),
    /// The reader met something that is not newc.
    #[error("damaged cpio archive at byte {0}")]
    Damaged(usize),
}

/// An archive being put together: path (relative, no leading slash) to node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// Puts `node` at `path`, and the folders above it. Putting the same thing twice is fine.
    pub fn add(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        let path = path.trim_start_matches('/');
        if path.is_empty()
            || path == TRAILER
            || path.contains('\0')
            || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(CpioError::BadPath(path.to_owned()));
        }
        for (slash, _) in path.match_indices('/') {
            self.put(&path[..slash], Node::Directory)?;
        }
        self.put(path, node)
    }

    fn put(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        match self.nodes.get(path) {
            Some(there) if *there != node => Err(CpioError::Conflict(path.to_owned())),
            Some(_) => Ok(()),
            None => {
                self.nodes.insert(path.to_owned(), node);
                Ok(())
            }
        }
    }

    /// The entries, sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The archive's bytes, every entry with this modification time (seconds since 1970).
    pub fn write(&self, mtime: u32) -> Result<Vec<u8>, CpioError> {
        let mut out = Vec::new();
        // A folder's path is a prefix of what is in it, so sorted order makes folders first.
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            write_entry(&mut out, inode, mtime, path, node)?;
        }
        write_header(&mut out, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], TRAILER);
        out.resize(out.len().next_multiple_of(512), 0);
        Ok(out)
    }
}

fn write_entry(out: &mut Vec<u8>, inode: u32, mtime: u32, path: &str, node: &Node) -> Result<(), CpioError> {
    let (mode, links, device, data) = match node {
        Node::Directory => (S_IFDIR | 0o755, 2, (0, 0), &[][..]),
        Node::File { mode, data } => (S_IFREG | mode & 0o7777, 1, (0, 0), data.as_slice()),
        Node::Symlink(target) => (S_IFLNK | 0o777, 1, (0, 0), target.as_bytes()),
        Node::CharDevice { mode, major, minor } => (S_IFCHR | mode & 0o7777, 1, (*major, *minor), &[][..]),
    };
    let size = u32::try_from(data.len()).map_err(|_| CpioError::TooLarge(path.to_owned()))?;
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor
    write_header(out, [inode, mode, 0, 0, links, mtime, size, 0, 0, device.0, device.1], path);
    out.extend_from_slice(data);
    pad(out);
    Ok(())
}

/// `fields` are all but the name size and the (unused) checksum.
fn write_header(out: &mut Vec<u8>, fields: [u32; 11], name: &str) {
    out.extend_from_slice(MAGIC);
    for field in fields.into_iter().chain([name.len() as u32 + 1, 0]) {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Reads an archive back. Hard links are not understood: each entry is taken by itself.
pub fn read(bytes: &[u8]) -> Result<Archive, CpioError> {
    let mut archive = Archive::default();
    let mut at = 0;
    loop {
        let damaged = CpioError::Damaged(at);
        let field = |n: usize| -> Option<u32> {
            let start = at + MAGIC.len() + n * 8;
            u32::from_str_radix(std::str::from_utf8(bytes.get(start..start + 8)?).ok()?, 16).ok()
        };
        let entry = || -> Option<(&str, Node, usize)> {
            (bytes.get(at..at + MAGIC.len())? == MAGIC).then_some(())?;
            let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
            let name_start = at + HEADER_SIZE;
            let name = bytes.get(name_start..name_start.checked_add(name_size.checked_sub(1)?)?)?;
            let name = std::str::from_utf8(name).ok()?;
            let data_start = (name_start + name_size).next_multiple_of(4);
            let data = bytes.get(data_start..data_start + size)?;
            let node = match mode & 0o170000 {
                S_IFDIR => Node::Directory,
                S_IFREG => Node::File { mode: mode & 0o7777, data: data.to_vec() },
                S_IFLNK => Node::Symlink(String::from_utf8(data.to_vec()).ok()?),
                S_IFCHR => Node::CharDevice { mode: mode & 0o7777, major: field(9)?, minor: field(10)? },
                _ if name == TRAILER => Node::Directory,
                _ => return None,
            };
            Some((name, node, (data_start + size).next_multiple_of(4)))
        };
        let (name, node, next) = entry().ok_or(damaged)?;
        if name == TRAILER {
            return Ok(archive);
        }
        archive.add(name, node)?;
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.add("init", Node::File { mode: 0o755, data: b"#!".to_vec() }).unwrap();
        archive.add("/bin/sh", Node::Symlink("busybox".into())).unwrap();
        archive.add("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 }).unwrap();
        archive.add("bin/busybox", Node::File { mode: 0o755, data: vec![9; 4097] }).unwrap();
        archive.add("proc", Node::Directory).unwrap();
        archive
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let archive = sample();
        let bytes = archive.write(1_700_000_000).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(read(&bytes).unwrap(), archive);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let paths: Vec<_> = sample().entries().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(paths, ["bin", "bin/busybox", "bin/sh", "dev", "dev/console", "init", "proc"]);
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut other = Archive::default();
        for (path, node) in sample().entries().collect::<Vec<_>>().into_iter().rev() {
            other.add(path, node.clone()).unwrap();
        }
        assert_eq!(other.write(7).unwrap(), sample().write(7).unwrap());
    }

    #[test]
    fn two_things_at_one_path_are_refused() {
        let mut archive = sample();
        let error = archive.add("init/sub", Node::Directory).unwrap_err();
        assert_eq!(error, CpioError::Conflict("init".into()));
        archive.add("proc", Node::Directory).unwrap();
    }

    #[test]
    fn bad_paths_are_refused() {
        for path in ["", "/", "a//b", "../x", "a/./b", "a\0b", TRAILER] {
            assert!(matches!(sample().add(path, Node::Directory), Err(CpioError::BadPath(_))), "{path:?}");
        }
    }

    #[test]
    fn damaged_archives_are_refused() {
        let bytes = sample().write(0).unwrap();
        assert_eq!(read(b""), Err(CpioError::Damaged(0)));
        assert_eq!(read(&bytes[..200]), Err(CpioError::Damaged(116)));
        let mut huge = bytes.clone();
        huge[6 + 8 * 11..6 + 8 * 12].copy_from_slice(b"ffffffff");
        assert_eq!(read(&huge), Err(CpioError::Damaged(0)));
    }

    /// Where the reference tool is installed, it must see the same list.
    #[test]
    fn cpio_agrees() {
        let child = Command::new("cpio")
            .arg("-t")
            .arg("--quiet")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            return; // not installed: `reads_back_what_it_wrote` is the check then
        };
        use std::io::Write;
        child.stdin.take().unwrap().write_all(&sample().write(0).unwrap()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "bin\nbin/busybox\nbin/sh\ndev\ndev/console\ninit\nproc\n"
        );
    }
}
