//! Where the sockets stand: `bindervm/NAME.sock` in the user's runtime folder.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// The longest path of a socket that Linux takes (`sun_path` with its NUL).
const MAX_PATH: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

/// There is no place for the socket.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Somebody else's folder, or one that others may write to.
    #[error("{} is not a folder of yours alone: remove it, or set XDG_RUNTIME_DIR", .0.display())]
    NotOurs(PathBuf),
    /// The folder cannot be made or looked at.
    #[error("cannot use the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Linux cannot name it.
    #[error("the path {} is too long for a socket; {MAX_PATH} bytes are the most", .0.display())]
    TooLong(PathBuf),
    /// A running guest has the name.
    #[error("a guest listens at {} already: choose another name, or end it with `bindervm stop`", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{} is in the way, and it is not a socket", .0.display())]
    InTheWay(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the socket {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder of the sockets, made if it is not there: in `$XDG_RUNTIME_DIR`, else in
/// `/run/user/UID`, else `/tmp/bindervm-UID`. It belongs to the user alone.
pub fn folder() -> Result<PathBuf, PlaceError> {
    let uid = rustix::process::geteuid().as_raw();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let of_user = PathBuf::from(format!("/run/user/{uid}"));
    let path = match named {
        Some(runtime) => runtime.join("bindervm"),
        None if fs::metadata(&of_user).is_ok_and(|data| data.is_dir() && data.uid() == uid) => {
            of_user.join("bindervm")
        }
        None => PathBuf::from(format!("/tmp/bindervm-{uid}")),
    };
    let failed = |source| PlaceError::Folder { path: path.clone(), source };
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // Not followed: in /tmp anybody may have made a link of this name.
    let found = fs::symlink_metadata(&path).map_err(failed)?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
        return Err(PlaceError::NotOurs(path));
    }
    Ok(path)
}

/// Where the socket of the guest `name` stands, if it runs.
pub fn socket(name: &str) -> Result<PathBuf, PlaceError> {
    Ok(folder()?.join(format!("{name}.sock")))
}

/// The names that have a socket, sorted. Some may be dead.
pub fn names() -> Result<Vec<String>, PlaceError> {
    let path = folder()?;
    let entries = fs::read_dir(&path).map_err(|source| PlaceError::Folder { path: path.clone(), source })?;
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned)
    };
    let mut names: Vec<_> = entries.filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// A socket with a name in the file system. Dropping it removes the name.
pub struct Bound {
    /// Accepts connections.
    pub listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Bound {
    /// Binds to `path`, for this user alone. A socket that nobody listens at is replaced.
    pub fn new(path: &Path) -> Result<Bound, PlaceError> {
        let failed = |source| PlaceError::Bind { path: path.to_owned(), source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(PlaceError::TooLong(path.to_owned()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Held while the old socket is looked at and replaced, against another that does the same.
        let folder = File::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !is_socket(&found) => return Err(PlaceError::InTheWay(path.to_owned())),
            Ok(_) if is_dead(path) => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(PlaceError::InUse(path.to_owned())),
        }
        let socket = bind_private(path).map_err(|error| failed(error.into()))?;
        let made = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Bound {
            listener: UnixListener::from(socket),
            path: path.to_owned(),
            inode: (made.dev(), made.ino()),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Another guest's by now, if somebody removed ours and started one.
        if fs::symlink_metadata(&self.path).is_ok_and(|data| (data.dev(), data.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the user at the other end is this one, or root.
pub fn is_allowed(peer: impl AsFd) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(peer).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

/// Removes the socket of a process that died. Nothing happens where it lives.
pub fn remove_dead(path: &Path) {
    let Some(parent) = path.parent() else { return };
    let Ok(folder) = File::open(parent) else { return };
    if flock(&folder, FlockOperation::LockExclusive).is_ok()
        && fs::symlink_metadata(path).is_ok_and(|data| is_socket(&data))
        && is_dead(path)
    {
        let _ = fs::remove_file(path);
    }
}

/// Nobody listens at a socket that refuses a connection. One that is busy does not refuse.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn is_socket(data: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    data.file_type().is_socket()
}

/// The mode of an unbound socket is that of the name which it gets (Linux, `unix_bind_bsd`), so there
/// is no moment in which others could connect.
fn bind_private(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_use_is_refused_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g1.sock");
        let _bound = Bound::new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(Bound::new(&path), Err(PlaceError::InUse(_))));
        remove_dead(&path);
        assert!(path.exists(), "it lives");

        // A process that was killed leaves the name behind; so does dropping the bare listener.
        let dead = folder.path().join("g2.sock");
        drop(UnixListener::bind(&dead).unwrap());
        drop(Bound::new(&dead).unwrap());
        assert!(!dead.exists(), "the name goes with the guest");
        drop(UnixListener::bind(&dead).unwrap());
        remove_dead(&dead);
        assert!(!dead.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g1.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Bound::new(&path), Err(PlaceError::InTheWay(_))));
        remove_dead(&path);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(Bound::new(&long), Err(PlaceError::TooLong(_))));
    }

    #[test]
    fn a_socket_that_was_replaced_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g1.sock");
        let first = Bound::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Bound::new(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn ourselves_are_allowed() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_allowed(&one));
    }
}
