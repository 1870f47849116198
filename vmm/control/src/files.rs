//! Files and folders to and from a guest: archives over the streams of the guest's own `tar`.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::{ExecRequest, ExitStatus};
use tar::{Builder, EntryType, Header};

use crate::client::{Client, ClientError};
use crate::running::{Event, Running};
use crate::unpack::{self, Limits, UnpackError, Unpacked};
use crate::wire::Stream;

/// The most that is kept of what the guest complains about.
const MAX_COMPLAINT: usize = 4096;

/// The most that may follow an archive's end; `tar` fills its last record of 10 KiB.
const MAX_PADDING: u64 = 1 << 20;

/// Files were not copied, or only some of them.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The guest cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The guest cannot do it.
    #[error("the guest says: {0}")]
    Guest(String),
    /// A file of the host.
    #[error("{path}: {source}")]
    Host {
        /// Which.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// What the guest sends is not taken.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A path that names nothing.
    #[error("{0} names no file")]
    NoName(String),
}

impl Client {
    /// Copies a file or folder of the host to `to` in the guest: into it, where it is a folder, else
    /// under that name. Folders on the way are made. Sockets, pipes and devices stay behind.
    pub fn push(&self, from: &Path, to: &str, limit: Duration) -> Result<(), CopyError> {
        let host = |source| CopyError::Host { path: from.display().to_string(), source };
        let real = fs::canonicalize(from).map_err(host)?;
        let name = unpack::base(&real).ok_or_else(|| CopyError::NoName(from.display().to_string()))?;
        let (folder, name) = self.destination(to, &name, limit)?;
        self.send(&folder, limit, |archive| add(archive, &real, &name))
    }

    /// Writes a file in the guest, with these permission bits. Folders on the way are made.
    pub fn write_file(&self, bytes: &[u8], to: &str, mode: u32, limit: Duration) -> Result<(), CopyError> {
        let (folder, name) = self.destination(to, b"", limit)?;
        if name.is_empty() {
            return Err(CopyError::NoName(to.to_owned()));
        }
        self.send(&folder, limit, |archive| {
            let mut header = header(EntryType::Regular, mode, bytes.len() as u64, 0);
            append(archive, &mut header, &name, bytes)
        })
    }

    /// Copies a file or folder of the guest to `to` on the host: into it, where it is a folder, else
    /// under that name. The guest is not trusted: see [`Unpacked::left_out`].
    pub fn pull(
        &self,
        from: &str,
        to: &Path,
        limits: Limits,
        limit: Duration,
    ) -> Result<Unpacked, CopyError> {
        let trimmed = from.trim_end_matches('/');
        let (parent, base) = match trimmed.rsplit_once('/') {
            _ if trimmed.is_empty() => ("/", "."),
            Some(("", base)) => ("/", base),
            Some((parent, base)) => (parent, base),
            None => (".", trimmed),
        };
        if base == ".." || (base == "." && parent != "/") {
            return Err(CopyError::NoName(from.to_owned()));
        }
        let (into, name) = match (to.is_dir(), base) {
            (true, ".") => {
                return Err(CopyError::NoName(format!("{} is there, and a name for {from}", to.display())));
            }
            (true, base) => (to.to_owned(), base.as_bytes().to_vec()),
            (false, _) => {
                let name = unpack::base(to).ok_or_else(|| CopyError::NoName(to.display().to_string()))?;
                let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")).to_owned(), name)
            }
        };
        let member = if base == "." { ".".to_owned() } else { format!("./{base}") };
        let running = self.exec(tar(&["-c", "-f", "-", "-C", parent, &member], false))?;
        let mut output = Printed::new(running, limit);
        let unpacked = unpack::unpack(&mut output, base.as_bytes(), &into, &name, limits);
        if unpacked.is_ok() {
            // What follows the archive's end is padding.
            io::copy(&mut (&mut output).take(MAX_PADDING), &mut io::sink()).map_err(UnpackError::Archive)?;
        }
        let status = output.ended.as_ref().and_then(|ended| ended.as_ref().ok());
        match (unpacked, status) {
            (Ok(unpacked), Some(ExitStatus::Code(0))) => Ok(unpacked),
            // The guest's own words say more than that its archive is cut off.
            (Ok(_) | Err(UnpackError::Archive(_)), _) if !output.complaint.is_empty() => {
                Err(CopyError::Guest(output.complaint()))
            }
            (Err(error), _) => Err(output.failed(error.into())),
            (Ok(_), _) => Err(output.failed(CopyError::Guest("tar failed, and does not say why".to_owned()))),
        }
    }

    /// Reads a file of the guest, up to `most` bytes; also one that has no size, as in `/proc`.
    pub fn read_file(&self, from: &str, most: usize, limit: Duration) -> Result<Vec<u8>, CopyError> {
        let argv = ["cat", "--", from].map(str::to_owned).to_vec();
        let output = self.exec(ExecRequest { argv, ..ExecRequest::default() })?.output(limit, most)?;
        match output.status {
            _ if output.truncated => Err(UnpackError::TooMuch(format!("{most} bytes")).into()),
            ExitStatus::Code(0) => Ok(output.stdout),
            _ => Err(CopyError::Guest(plain(&output.stderr))),
        }
    }

    /// The folder in the guest, made if need be, and the name in it, for something called `name`.
    fn destination(&self, to: &str, name: &[u8], limit: Duration) -> Result<(String, Vec<u8>), CopyError> {
        let script = r#"case $1 in */) mkdir -p "$1";; *) mkdir -p "$(dirname "$1")";; esac || exit
                        if [ -d "$1" ]; then echo folder; else echo name; fi"#;
        let argv = ["/bin/sh", "-c", script, "sh", to].map(str::to_owned).to_vec();
        let output =
            self.exec(ExecRequest { argv, ..ExecRequest::default() })?.output(limit, MAX_COMPLAINT)?;
        if output.status != ExitStatus::Code(0) {
            return Err(CopyError::Guest(plain(&output.stderr)));
        }
        if output.stdout == b"folder\n" {
            return Ok((to.to_owned(), name.to_vec()));
        }
        Ok(match to.rsplit_once('/') {
            Some(("", name)) => ("/".to_owned(), name.as_bytes().to_vec()),
            Some((folder, name)) => (folder.to_owned(), name.as_bytes().to_vec()),
            None => (".".to_owned(), to.as_bytes().to_vec()),
        })
    }

    /// Has the guest unpack what `write` packs, in its `folder`.
    fn send(
        &self,
        folder: &str,
        limit: Duration,
        write: impl FnOnce(&mut Builder<io::BufWriter<crate::Input>>) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let running = self.exec(tar(&["-x", "-p", "-f", "-", "-C", folder], true))?;
        let input = running.input();
        // It may complain while it is being written to.
        let output = thread::spawn(move || running.output(limit, MAX_COMPLAINT));
        let mut archive = Builder::new(io::BufWriter::with_capacity(64 << 10, input.clone()));
        let mut sent = write(&mut archive);
        if sent.is_ok() {
            let finished = archive.into_inner().and_then(|mut out| out.flush());
            sent = finished.map_err(|error| ClientError::Broken(error.to_string()).into());
        }
        match sent.is_ok() {
            true => input.close()?,
            // Half an archive is of no use to anybody.
            false => input.cancel()?,
        }
        let output = match output.join() {
            Ok(output) => output,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match output {
            Ok(output) if output.status == ExitStatus::Code(0) => sent,
            Ok(output) if !output.stderr.is_empty() => Err(CopyError::Guest(plain(&output.stderr))),
            Ok(_) => sent.and(Err(CopyError::Guest("tar failed, and does not say why".to_owned()))),
            Err(error) => sent.and(Err(error.into())),
        }
    }
}

/// The guest's `tar`, by its shell: busybox's has it built in, and no file of that name need be there.
fn tar(arguments: &[&str], stdin: bool) -> ExecRequest {
    let argv = ["/bin/sh", "-c", "tar \"$@\"", "sh"].iter().chain(arguments);
    ExecRequest { argv: argv.map(|part| (*part).to_owned()).collect(), stdin, ..ExecRequest::default() }
}

/// Adds `path` as `name`, with all below it.
fn add<W: Write>(archive: &mut Builder<W>, path: &Path, name: &[u8]) -> Result<(), CopyError> {
    let failed = |source| CopyError::Host { path: path.display().to_string(), source };
    let data = fs::symlink_metadata(path).map_err(failed)?;
    let of = |kind, size| header(kind, data.permissions().mode(), size, modified(&data));
    if data.is_dir() {
        append(archive, &mut of(EntryType::Directory, 0), &[name, b"/"].concat(), io::empty())?;
        let mut entries: Vec<_> =
            fs::read_dir(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            add(archive, &entry.path(), &[name, b"/", entry.file_name().as_bytes()].concat())?;
        }
    } else if data.is_symlink() {
        let target = fs::read_link(path).map_err(failed)?;
        let mut header = of(EntryType::Symlink, 0);
        archive
            .append_link(&mut header, Path::new(std::ffi::OsStr::from_bytes(name)), target)
            .map_err(failed)?;
    } else if data.is_file() {
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        // It may grow or shrink meanwhile; the archive says one size.
        let content = file.take(size).chain(io::repeat(0)).take(size);
        append(archive, &mut of(EntryType::Regular, size), name, content)?;
    }
    Ok(())
}

fn append<W: Write>(
    archive: &mut Builder<W>,
    header: &mut Header,
    name: &[u8],
    content: impl Read,
) -> Result<(), CopyError> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let failed = |source| CopyError::Host { path: path.display().to_string(), source };
    archive.append_data(header, path, content).map_err(failed)
}

/// Everything belongs to root in the guest.
fn header(kind: EntryType, mode: u32, size: u64, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_size(size);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn modified(data: &Metadata) -> u64 {
    u64::try_from(data.mtime()).unwrap_or(0)
}

/// Stdout of a command as a reader; what it says on stderr is kept.
struct Printed {
    running: Running,
    until: Instant,
    limit: Duration,
    bytes: Vec<u8>,
    at: usize,
    complaint: Vec<u8>,
    ended: Option<Result<ExitStatus, ClientError>>,
}

impl Printed {
    fn new(running: Running, limit: Duration) -> Printed {
        let until = Instant::now() + limit;
        Printed { running, until, limit, bytes: Vec::new(), at: 0, complaint: Vec::new(), ended: None }
    }

    fn complaint(&self) -> String {
        plain(&self.complaint)
    }

    /// What went wrong: the connection, if it did.
    fn failed(self, error: CopyError) -> CopyError {
        match self.ended {
            Some(Err(error)) => error.into(),
            _ => error,
        }
    }
}

impl Read for Printed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.bytes.len() && self.ended.is_none() {
            let left = self.until.saturating_duration_since(Instant::now());
            match self.running.next(Some(left)) {
                Ok(Event::Output(Stream::Stderr, bytes)) => {
                    let room = MAX_COMPLAINT - self.complaint.len();
                    self.complaint.extend(&bytes[..bytes.len().min(room)]);
                }
                Ok(Event::Output(_, bytes)) => (self.bytes, self.at) = (bytes, 0),
                Ok(Event::Exited(status)) => self.ended = Some(Ok(status)),
                Ok(Event::NotStarted(failure)) => self.ended = Some(Err(ClientError::NotStarted(failure))),
                Ok(_) => {}
                Err(ClientError::TimedOut(_)) => self.ended = Some(Err(ClientError::TimedOut(self.limit))),
                Err(error) => self.ended = Some(Err(error)),
            }
        }
        let length = buffer.len().min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// What the guest said, without what would control a terminal.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text: String = text.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    if text.is_empty() { "nothing, but that it failed".to_owned() } else { text }
}
