//! What a guest may ask of the 9P server. Message layouts are 9P2000.L's (diod `protocol.md`,
//! Linux `include/net/9p/9p.h`): size[4] type[1] tag[2], then the fields; a string is a length[2]
//! and its bytes.

use std::collections::BTreeSet;

use super::Access;

/// Files that a guest may have open at once: the server takes up to two descriptors for each, and
/// a process has 1024 by default.
pub const MAX_FIDS: usize = 256;

const EPERM: u32 = 1;
const ENOENT: u32 = 2;
const EMFILE: u32 = 24;
const EROFS: u32 = 30;

const RLERROR: u8 = 7;
const TLOPEN: u8 = 12;
const TLCREATE: u8 = 14;
const TSYMLINK: u8 = 16;
const TMKNOD: u8 = 18;
const TRENAME: u8 = 20;
const TSETATTR: u8 = 26;
const TXATTRCREATE: u8 = 32;
const TLINK: u8 = 70;
const TMKDIR: u8 = 72;
const TRENAMEAT: u8 = 74;
const TUNLINKAT: u8 = 76;
const TVERSION: u8 = 100;
const TATTACH: u8 = 104;
const TWALK: u8 = 110;
const TWRITE: u8 = 118;
const TCLUNK: u8 = 120;
const TREMOVE: u8 = 122;

/// `P9_DOTL_*` open flags, which have the values of x86 Linux's `O_*`.
const ACCESS_MODE: u32 = 0o3;
const CREATE: u32 = 0o100;
const TRUNCATE: u32 = 0o1000;
const NONBLOCK: u32 = 0o4000;

const HEADER: usize = 7;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server may have it.
    Serve,
    /// It gets this answer instead.
    Refuse(Vec<u8>),
    /// It is no request.
    Malformed,
}

/// Judges requests and keeps count of the files they open.
pub struct Guard {
    access: Access,
    fids: BTreeSet<u32>,
}

impl Guard {
    pub fn new(access: Access) -> Guard {
        Guard { access, fids: BTreeSet::new() }
    }

    /// Judges a request; one that opens a file is made not to wait (a FIFO on the host would hold up the
    /// guest, and everything that waits for it, until somebody writes).
    pub fn judge(&mut self, request: &mut [u8]) -> Verdict {
        let Some(message) = Message::read(request) else { return Verdict::Malformed };
        let Message { kind, tag, .. } = message;
        let refuse = |errno| Verdict::Refuse(error(tag, errno));
        let names = match message.names() {
            Some(names) => names,
            None => return Verdict::Malformed,
        };
        if names.iter().any(|name| !is_name(name)) {
            return refuse(ENOENT);
        }
        match kind {
            TSYMLINK | TMKNOD | TRENAME | TREMOVE | TXATTRCREATE => return refuse(EPERM),
            TLCREATE | TSETATTR | TLINK | TMKDIR | TRENAMEAT | TUNLINKAT | TWRITE
                if self.access == Access::ReadOnly =>
            {
                return refuse(EROFS);
            }
            TATTACH | TWALK if self.fids.len() >= MAX_FIDS && message.new_fid().is_some() => {
                return refuse(EMFILE);
            }
            _ => {}
        }
        if kind == TLOPEN {
            let Some(flags) = word(request, HEADER + 4) else { return Verdict::Malformed };
            let writes = flags & ACCESS_MODE != 0 || flags & (CREATE | TRUNCATE) != 0;
            if writes && self.access == Access::ReadOnly {
                return refuse(EROFS);
            }
            request[HEADER + 4..HEADER + 8].copy_from_slice(&(flags | NONBLOCK).to_le_bytes());
        }
        Verdict::Serve
    }

    /// Takes note of what a request that was served did to the open files.
    pub fn note(&mut self, request: &[u8], answer: &[u8]) {
        let Some(message) = Message::read(request) else { return };
        if answer.get(4) == Some(&RLERROR) {
            return;
        }
        match message.kind {
            TVERSION => self.fids.clear(),
            TCLUNK => {
                word(request, HEADER).map(|fid| self.fids.remove(&fid));
            }
            TATTACH | TWALK => self.fids.extend(message.new_fid()),
            _ => {}
        }
    }
}

/// A request's header and fields.
struct Message<'a> {
    kind: u8,
    tag: u16,
    fields: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` where the bytes are not as many as they say.
    fn read(request: &'a [u8]) -> Option<Message<'a>> {
        let size = word(request, 0)? as usize;
        let request = request.get(..size).filter(|_| size >= HEADER)?;
        Some(Message {
            kind: request[4],
            tag: u16::from_le_bytes([request[5], request[6]]),
            fields: &request[HEADER..],
        })
    }

    /// The names of files in it. `None` where it is cut short.
    fn names(&self) -> Option<Vec<&'a [u8]>> {
        let fields = self.fields;
        Some(match self.kind {
            TLCREATE | TMKDIR | TUNLINKAT => vec![string(fields, 4)?],
            TLINK => vec![string(fields, 8)?],
            TRENAMEAT => {
                let old = string(fields, 4)?;
                vec![old, string(fields, 4 + 2 + old.len() + 4)?]
            }
            TWALK => {
                let count = half(fields, 8)?;
                let mut names = Vec::new();
                let mut at = 10;
                for _ in 0..count {
                    let name = string(fields, at)?;
                    at += 2 + name.len();
                    names.push(name);
                }
                names
            }
            _ => Vec::new(),
        })
    }

    /// The fid that the request makes, if it makes one.
    fn new_fid(&self) -> Option<u32> {
        match self.kind {
            TATTACH => word(self.fields, 0),
            TWALK => word(self.fields, 4).filter(|new| word(self.fields, 0) != Some(*new)),
            _ => None,
        }
    }
}

/// One file in the folder it is looked for in: no path, not the folder itself nor the one above.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn string(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = half(bytes, at)?;
    bytes.get(at + 2..at + 2 + length)
}

/// Rlerror: size, type, tag, error number.
fn error(tag: u16, errno: u32) -> Vec<u8> {
    let mut answer = 11u32.to_le_bytes().to_vec();
    answer.push(RLERROR);
    answer.extend(tag.to_le_bytes());
    answer.extend(errno.to_le_bytes());
    answer
}
