//! What a step did, as one line that is the same on every run and on every driver.
//!
//! Process ids become actor names, addresses become an area's name and an offset, long payloads become a hash.
//! Handles, descriptor numbers, pointers, cookies, codes, flags and sizes are printed as they are.

use std::fmt::Write;

use crate::object::Object;
use crate::stream::{Call, Command, Delivery, Return, Source};
use crate::uapi;

/// A named area of one process: (name, start, length).
pub type Area = (String, u64, u64);

/// What a line needs to know to replace numbers by names.
#[derive(Debug, Default)]
pub struct Names {
    /// (process id, name).
    pub pids: Vec<(i32, String)>,
    /// Areas of the process that the line is about.
    pub areas: Vec<Area>,
}

impl Names {
    /// An address as an offset into an area, or as it is.
    pub fn address(&self, address: u64) -> String {
        match self.areas.iter().find(|(_, start, length)| address.wrapping_sub(*start) < *length) {
            Some((name, start, _)) => format!("{name}+{:#x}", address - start),
            None => format!("{address:#x}"),
        }
    }

    fn pid(&self, pid: i32) -> String {
        match self.pids.iter().find(|(number, _)| *number == pid) {
            Some((_, name)) => name.clone(),
            None if pid == 0 => "0".to_string(),
            None => "?".to_string(),
        }
    }

    /// Bytes in which aligned words that are addresses of known areas are shown as such.
    fn words(&self, bytes: &[u8]) -> String {
        let mut out = format!("{}:", bytes.len());
        if bytes.len() > SHORT {
            return out + &hash(bytes);
        }
        for chunk in bytes.chunks(8) {
            let address = chunk.try_into().map(u64::from_le_bytes).unwrap_or(0);
            let name = self.address(address);
            if name.contains('+') {
                let _ = write!(out, "<{name}>");
            } else {
                out += &digits(chunk);
            }
        }
        out
    }
}

/// Payloads up to this many bytes are printed in full.
const SHORT: usize = 64;

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// FNV-1a of 32 bits.
fn hash(bytes: &[u8]) -> String {
    let hash =
        bytes.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("fnv={hash:08x}")
}

fn hex(bytes: &[u8]) -> String {
    if bytes.len() > SHORT { hash(bytes) } else { digits(bytes) }
}

/// An errno as its name, 0 and positive results as they are.
pub fn result(value: i64) -> String {
    let name = match -value as i32 {
        _ if value >= 0 => return value.to_string(),
        libc::EPERM => "EPERM",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::EIO => "EIO",
        libc::EPROTO => "EPROTO",
        libc::ENOENT => "ENOENT",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ESPIPE => "ESPIPE",
        libc::EXDEV => "EXDEV",
        other => return format!("errno {other}"),
    };
    name.to_string()
}

fn short_name(word: u32) -> String {
    match uapi::name(word) {
        Some(name) => name[3..].to_string(),
        None => format!("{word:#010x}"),
    }
}

fn object(object: &Object, names: &Names, bodies: &mut std::slice::Iter<'_, Vec<u8>>) -> String {
    let weak = |weak: bool| if weak { "WEAK_" } else { "" };
    match *object {
        Object::Binder { weak: w, ptr, cookie, flags } => {
            format!("{}BINDER(ptr={ptr:#x} cookie={cookie:#x} flags={flags:#x})", weak(w))
        }
        Object::Handle { weak: w, handle, high, cookie, flags } => {
            let rest = if high != 0 || cookie != 0 {
                format!(" high={high:#x} cookie={cookie:#x}")
            } else {
                String::new()
            };
            format!("{}HANDLE({handle} flags={flags:#x}{rest})", weak(w))
        }
        Object::Fd { fd, high, cookie, pad } => {
            format!("FD({} high={high:#x} cookie={cookie:#x} pad={pad:#x})", fd as i32)
        }
        Object::Ptr { buffer, length, parent, flags } => {
            let parent = match parent {
                Some((index, offset)) => format!(" parent={index}/{offset:#x}"),
                None => String::new(),
            };
            let body = bodies.next().map(|body| format!(" body={}", names.words(body))).unwrap_or_default();
            format!("PTR({} len={length:#x}{parent} flags={flags:#x}{body})", names.address(buffer))
        }
        Object::Fda { num_fds, parent, parent_offset, pad } => {
            format!("FDA({num_fds:#x} parent={parent}/{parent_offset:#x} pad={pad:#x})")
        }
        Object::Unknown { kind } => format!("OBJECT({kind:#010x})"),
    }
}

/// Data as plain bytes and the objects at its offsets; offsets that name no object are left out here.
fn data(bytes: &[u8], offsets: &[u64], names: &Names, bodies: &[Vec<u8>]) -> String {
    let mut bodies = bodies.iter();
    let mut out = format!("{}:", bytes.len());
    let mut at = 0usize;
    for offset in offsets {
        let Some(start) = usize::try_from(*offset).ok().filter(|start| *start >= at && *start < bytes.len())
        else {
            continue;
        };
        let Some(found) = Object::decode(&bytes[start..]) else { continue };
        if start > at {
            out += &hex(&bytes[at..start]);
            out.push('+');
        }
        out += &object(&found, names, &mut bodies);
        out.push('+');
        at = start + found.encode().len();
    }
    out += &hex(&bytes[at..]);
    out.trim_end_matches('+').to_string()
}

fn offsets_of(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

fn list(offsets: &[u64]) -> String {
    let items: Vec<String> = offsets.iter().map(|offset| format!("{offset:#x}")).collect();
    format!("[{}]", items.join(","))
}

fn call(call: &Call, names: &Names) -> String {
    let mut out = format!("{}(", short_name(call.word()));
    if !call.reply || call.target != 0 {
        let _ = write!(out, "h={} ", call.target);
    }
    let _ = write!(out, "code={:#x} flags={:#x}", call.code, call.flags);
    let range = |source: &Source| match source {
        Source::Inline(_) => String::new(),
        Source::At { address, size } => format!("{}:{size:#x}", names.address(*address)),
    };
    let offsets = match &call.offsets {
        Source::Inline(bytes) => offsets_of(bytes),
        Source::At { .. } => vec![],
    };
    match &call.data {
        Source::Inline(bytes) => out += &format!(" data={}", data(bytes, &offsets, names, &[])),
        source => out += &format!(" data@{}", range(source)),
    }
    match &call.offsets {
        Source::Inline(_) if offsets.is_empty() => {}
        Source::Inline(_) => out += &format!(" offs={}", list(&offsets)),
        source => out += &format!(" offs@{}", range(source)),
    }
    if let Some(extra) = call.extra {
        let _ = write!(out, " extra={extra:#x}");
    }
    out + ")"
}

/// A command of the write stream.
pub fn command(command: &Command, names: &Names) -> String {
    match command {
        Command::Call(it) => call(it, names),
        Command::Words(word, arguments) if arguments.is_empty() => short_name(*word),
        Command::Words(word, arguments) => {
            let arguments: Vec<String> = arguments.iter().map(|argument| names.address(*argument)).collect();
            format!("{}({})", short_name(*word), arguments.join(" "))
        }
        Command::Count(word, handle) => format!("{}({handle})", short_name(*word)),
        Command::Watch(word, handle, cookie) => format!("{}({handle} {cookie:#x})", short_name(*word)),
        Command::Raw(bytes) => format!("RAW({})", digits(bytes)),
    }
}

/// What the memory that a delivery points to held when it was read.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub data: Vec<u8>,
    pub offsets: Vec<u64>,
    /// The buffers of the PTR objects, in order.
    pub bodies: Vec<Vec<u8>>,
    pub secctx: String,
}

fn delivery(it: &Delivery, contents: &Contents, names: &Names) -> String {
    let mut out = format!("{}(", short_name(it.word));
    if it.word != uapi::br::REPLY {
        let _ = write!(out, "ptr={:#x} cookie={:#x} ", it.target, it.cookie);
    }
    let _ = write!(
        out,
        "code={:#x} flags={:#x} pid={} euid={} buf={} data={}",
        it.code,
        it.flags,
        names.pid(it.sender_pid),
        it.sender_euid,
        names.address(it.buffer),
        data(&contents.data, &contents.offsets, names, &contents.bodies),
    );
    let at = it.offsets.wrapping_sub(it.buffer);
    let _ = write!(out, " offs=+{at:#x}{}", list(&contents.offsets));
    if let Some(secctx) = it.secctx {
        let _ = write!(out, " sec=+{:#x}:{:?}", secctx.wrapping_sub(it.buffer), contents.secctx);
    }
    out + ")"
}

/// An item of the read stream, with what a delivery's memory held.
pub fn item(item: &Return, contents: Option<&Contents>, names: &Names) -> String {
    match item {
        Return::Bare(word) => short_name(*word),
        Return::Delivery(it) => delivery(it, contents.unwrap_or(&Contents::default()), names),
        Return::Words(word, values) => {
            let values: Vec<String> = values.iter().map(|value| format!("{value:#x}")).collect();
            format!("{}({})", short_name(*word), values.join(" "))
        }
        Return::Garbage(bytes) => format!("GARBAGE({})", hex(bytes)),
    }
}

/// An extended error: the command and its parameter.
pub fn extended_error(command: u32, param: i32) -> String {
    format!("EE({} {param})", short_name(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{self, free};

    fn names() -> Names {
        Names { pids: vec![(77, "A".into())], areas: vec![("map".into(), 0x7000, 0x1000)] }
    }

    #[test]
    fn addresses_and_pids_become_names() {
        assert_eq!(command(&free(0x7010), &names()), "FREE_BUFFER(map+0x10)");
        assert_eq!(command(&free(0x10), &names()), "FREE_BUFFER(0x10)");
        assert_eq!(names().pid(77), "A");
        assert_eq!((names().pid(0), names().pid(5)), ("0".to_string(), "?".to_string()));
    }

    #[test]
    fn data_is_shown_as_bytes_and_objects_in_order() {
        let it = stream::call(1, 2).bytes(&[1, 2, 3, 4]).object(Object::handle(3)).bytes(&[9]);
        let line = command(&it.into(), &names());
        assert_eq!(
            line,
            "TRANSACTION(h=1 code=0x2 flags=0x0 data=29:01020304+HANDLE(3 flags=0x0)+09 offs=[0x4])"
        );
    }

    #[test]
    fn long_payloads_are_hashed_and_pointers_in_bodies_are_named() {
        let it = stream::call(1, 2).pattern(100, 0);
        assert!(command(&it.into(), &names()).contains("data=100:fnv="));
        let body = [0x7020u64.to_le_bytes(), 5u64.to_le_bytes()].concat();
        assert_eq!(names().words(&body), "16:<map+0x20>0500000000000000");
    }

    #[test]
    fn results_are_numbers_or_names() {
        assert_eq!(result(3), "3");
        assert_eq!(result(-i64::from(libc::EAGAIN)), "EAGAIN");
    }
}
