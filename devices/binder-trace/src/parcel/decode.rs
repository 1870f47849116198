//! The arguments and the result of a call whose method is known.
//!
//! The signature is walked value by value. At the first one that is not known, or that the payload
//! cannot hold, decoding stops: what follows is shown as bytes, never guessed at.

use std::fmt;

use binder::trace::{ObjectRecord, SentObject};

use super::cursor::{Cursor, Stop};
use super::{plain, token::Layout};
use crate::aidl::{Definition, Direction, Field, Found, Table, Type};

/// Values nest no deeper than this, however a parcelable contains itself.
const MAX_DEPTH: usize = 16;

/// Elements of one list that are kept.
const MAX_ELEMENTS: usize = 1024;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `null`.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `byte`, `char`, `int`, `long`.
    Integer(i64),
    /// `float`, `double`.
    Float(f64),
    /// `String`.
    Text(String),
    /// Of an array that only comes back, its length.
    Length(usize),
    /// `byte[]`.
    Bytes(Vec<u8>),
    /// `IBinder`, interfaces, file descriptors.
    Object(SentObject),
    /// Arrays and lists; what is left out is counted.
    List(Vec<Data>, usize),
    /// A parcelable, or a union with its one field.
    Fields(Vec<(String, Data)>),
    /// A constant of an enum.
    Constant(String, i64),
}

/// Where decoding ended before the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecoded {
    /// Why.
    pub why: Stop,
    /// Where the bytes stand in the payload.
    pub at: usize,
    /// The rest, as far as it was recorded.
    pub bytes: Vec<u8>,
}

/// Named values, and what is left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Name and value, in order. The result of a call is named `return`.
    pub values: Vec<(String, Data)>,
    /// `None`: all was decoded.
    pub rest: Option<Undecoded>,
}

/// A failure that a reply's status tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `EX_*`, below 0.
    pub code: i32,
    /// With `EX_SERVICE_SPECIFIC`, the service's own number.
    pub specific: Option<i32>,
    /// What the service says.
    pub message: String,
}

/// A payload as a recording holds it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// Bytes that it had.
    pub total: u64,
    /// Its objects.
    pub objects: &'a [ObjectRecord],
}

impl<'a> Payload<'a> {
    fn cursor(&self, at: usize, layout: Layout) -> Cursor<'a> {
        Cursor::new(self.bytes, self.total, self.objects, at, layout == Layout::Eleven)
    }
}

/// The arguments of a call. They begin at `at`.
pub fn arguments(
    table: &Table,
    found: &Found<'_>,
    payload: Payload<'_>,
    at: usize,
    layout: Layout,
) -> Decoded {
    let mut walk = Walk { table, found, cursor: payload.cursor(at, layout), depth: 0 };
    let mut decoded = Decoded::default();
    for field in &found.method.arguments {
        let value = match (field.direction, field.ty.arrays) {
            // Of an array that only comes back, its length goes out.
            (Direction::Out, 1..) => {
                walk.cursor.length().map(|length| length.map_or(Data::Null, Data::Length))
            }
            (Direction::Out, 0) => continue,
            _ => walk.value(&field.ty),
        };
        if !walk.keep(&mut decoded, &field.name, value) {
            return decoded;
        }
    }
    walk.finish(decoded)
}

/// The result of a call from its reply: an exception, or the values that come back.
pub fn reply(
    table: &Table,
    found: &Found<'_>,
    payload: Payload<'_>,
    layout: Layout,
) -> (Option<Exception>, Decoded) {
    let mut walk = Walk { table, found, cursor: payload.cursor(0, layout), depth: 0 };
    let mut decoded = Decoded::default();
    if !found.interface.no_status {
        match status(&mut walk.cursor) {
            Ok(None) => {}
            Ok(Some(exception)) => return (Some(exception), decoded),
            Err(why) => {
                decoded.rest = Some(walk.undecoded(why));
                return (None, decoded);
            }
        }
    }
    let back = |field: &&Field| field.direction != Direction::In;
    let outs = found.method.arguments.iter().filter(back).map(|field| (field.name.as_str(), &field.ty));
    for (name, ty) in found.method.returns.iter().map(|ty| ("return", ty)).chain(outs) {
        let value = walk.value(ty);
        if !walk.keep(&mut decoded, name, value) {
            return (None, decoded);
        }
    }
    (None, walk.finish(decoded))
}

/// `EX_*` by number (libbinder's Status.h).
pub fn exception_name(code: i32) -> String {
    let name = match code {
        -1 => "EX_SECURITY",
        -2 => "EX_BAD_PARCELABLE",
        -3 => "EX_ILLEGAL_ARGUMENT",
        -4 => "EX_NULL_POINTER",
        -5 => "EX_ILLEGAL_STATE",
        -6 => "EX_NETWORK_MAIN_THREAD",
        -7 => "EX_UNSUPPORTED_OPERATION",
        -8 => "EX_SERVICE_SPECIFIC",
        -9 => "EX_PARCELABLE",
        -129 => "EX_TRANSACTION_FAILED",
        other => return format!("exception {other}"),
    };
    name.to_owned()
}

/// The status that AIDL replies begin with (libbinder's Status::readFromParcel).
fn status(cursor: &mut Cursor<'_>) -> Result<Option<Exception>, Stop> {
    const NOTED_APPOPS: i32 = -127;
    const REPLY_HEADER: i32 = -128;
    const SERVICE_SPECIFIC: i32 = -8;
    let mut code = cursor.i32()?;
    // Headers that begin with their own size; the second kind is sent only where all went well.
    for header in [NOTED_APPOPS, REPLY_HEADER] {
        if code == header {
            let start = cursor.at;
            let size = cursor.length()?.unwrap_or(0);
            cursor.skip_to(start + size.max(4))?;
            code = if header == NOTED_APPOPS { cursor.i32()? } else { 0 };
        }
    }
    if code == 0 {
        return Ok(None);
    }
    let message = cursor.string16()?.unwrap_or_default();
    let start = cursor.at;
    // The remote stack trace, if there is one.
    let trace = cursor.length()?.unwrap_or(0);
    if trace > 0 {
        cursor.skip_to(start + trace.max(4))?;
    }
    let specific = if code == SERVICE_SPECIFIC { Some(cursor.i32()?) } else { None };
    Ok(Some(Exception { code, specific, message: plain(&message) }))
}

/// A walk along a signature.
struct Walk<'a> {
    table: &'a Table,
    found: &'a Found<'a>,
    cursor: Cursor<'a>,
    depth: usize,
}

impl Walk<'_> {
    fn undecoded(&self, why: Stop) -> Undecoded {
        Undecoded { why, at: self.cursor.at, bytes: self.cursor.rest().to_vec() }
    }

    /// Takes a value, or the reason why there is none. False: the walk is over.
    fn keep(&self, decoded: &mut Decoded, name: &str, value: Result<Data, Stop>) -> bool {
        match value {
            Ok(value) => decoded.values.push((name.to_owned(), value)),
            Err(why) => decoded.rest = Some(self.undecoded(why)),
        }
        decoded.rest.is_none()
    }

    /// The walk came to its end; are the bytes at theirs?
    fn finish(&self, mut decoded: Decoded) -> Decoded {
        if !self.cursor.is_at_end() {
            decoded.rest = Some(self.undecoded(Stop::Wrong("more than the signature says")));
        }
        decoded
    }

    fn value(&mut self, ty: &Type) -> Result<Data, Stop> {
        self.depth += 1;
        let value = if self.depth > MAX_DEPTH {
            Err(Stop::Wrong("values nested too deep"))
        } else if ty.arrays > 0 {
            let element = Type { arrays: ty.arrays - 1, ..ty.clone() };
            self.array(&element)
        } else {
            self.single(ty)
        };
        self.depth -= 1;
        value
    }

    fn array(&mut self, element: &Type) -> Result<Data, Stop> {
        let start = self.cursor.clone();
        let Some(length) = self.cursor.length()? else { return Ok(Data::Null) };
        let is_byte =
            element.arrays == 0 && self.backing(&element.name).as_deref().unwrap_or(&element.name) == "byte";
        if is_byte {
            let bytes = self.cursor.take(length);
            if bytes == Err(Stop::Cut) {
                self.cursor = start;
            }
            return Ok(Data::Bytes(bytes?.to_vec()));
        }
        let mut elements = Vec::new();
        let mut left_out = 0;
        for _ in 0..length {
            let value = self.value(element)?;
            if elements.len() < MAX_ELEMENTS { elements.push(value) } else { left_out += 1 }
        }
        Ok(Data::List(elements, left_out))
    }

    fn single(&mut self, ty: &Type) -> Result<Data, Stop> {
        let cursor = &mut self.cursor;
        Ok(match ty.name.as_str() {
            "boolean" => Data::Bool(cursor.i32()? != 0),
            "byte" => Data::Integer((cursor.i32()? as i8).into()),
            "char" => Data::Integer((cursor.i32()? as u16).into()),
            "int" => Data::Integer(cursor.i32()?.into()),
            "long" => Data::Integer(cursor.i64()?),
            "float" => Data::Float(f32::from_bits(cursor.i32()? as u32).into()),
            "double" => Data::Float(f64::from_bits(cursor.i64()? as u64)),
            "String" => cursor.string16()?.map_or(Data::Null, |text| Data::Text(plain(&text))),
            "IBinder" => cursor.binder()?.map_or(Data::Null, Data::Object),
            "FileDescriptor" => cursor.object()?.map_or(Data::Null, Data::Object),
            "ParcelFileDescriptor" => {
                if cursor.i32()? == 0 {
                    return Ok(Data::Null);
                }
                // Whether a channel for its owner's messages comes along.
                if cursor.i32()? != 0 {
                    return Err(Stop::Unknown("a ParcelFileDescriptor with a channel".to_owned()));
                }
                cursor.object()?.map_or(Data::Null, Data::Object)
            }
            "List" if ty.arguments.len() == 1 => return self.array(&ty.arguments[0]),
            name => return self.declared(name),
        })
    }

    /// The backing type of an enum.
    fn backing(&self, name: &str) -> Option<String> {
        match self.table.definition(self.found, name)? {
            Definition::Enum { backing, .. } => Some(backing.name.clone()),
            _ => None,
        }
    }

    fn declared(&mut self, name: &str) -> Result<Data, Stop> {
        let unknown = || Stop::Unknown(name.to_owned());
        match self.table.definition(self.found, name).ok_or_else(unknown)? {
            Definition::Interface(_) => Ok(self.cursor.binder()?.map_or(Data::Null, Data::Object)),
            Definition::Unstructured => Err(unknown()),
            Definition::Enum { backing, constants } => {
                let Data::Integer(value) = self.single(backing)? else { return Err(unknown()) };
                Ok(match constants.get(&value) {
                    Some(constant) => Data::Constant(constant.clone(), value),
                    None => Data::Integer(value),
                })
            }
            Definition::Parcelable(fields) => {
                let before = self.cursor.clone();
                if self.cursor.i32()? == 0 {
                    return Ok(Data::Null);
                }
                let start = self.cursor.at;
                let size = self.cursor.length()?.unwrap_or(0);
                let mut values = Vec::new();
                for field in fields {
                    // Its sender may be older and have fewer fields.
                    if self.cursor.at >= start + size {
                        break;
                    }
                    match self.value(&field.ty) {
                        Ok(value) => values.push((field.name.clone(), value)),
                        Err(why) => {
                            // What is shown as bytes begins with the parcelable.
                            self.cursor = before;
                            return Err(why);
                        }
                    }
                }
                self.cursor.skip_to(start + size)?;
                Ok(Data::Fields(values))
            }
            Definition::Union(fields) => {
                if self.cursor.i32()? == 0 {
                    return Ok(Data::Null);
                }
                let tag = self.cursor.i32()?;
                let field = usize::try_from(tag).ok().and_then(|tag| fields.get(tag));
                let field = field.ok_or(Stop::Wrong("a union without that field"))?;
                let value = self.value(&field.ty)?;
                Ok(Data::Fields(vec![(field.name.clone(), value)]))
            }
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Null => f.write_str("null"),
            Data::Bool(value) => write!(f, "{value}"),
            Data::Integer(value) => write!(f, "{value}"),
            Data::Float(value) => write!(f, "{value}"),
            Data::Text(text) => write!(f, "\"{}\"", text.replace('"', "\\\"")),
            Data::Length(length) => write!(f, "out[{length}]"),
            Data::Bytes(bytes) => write!(f, "bytes[{}] {}", bytes.len(), hex(bytes, 16)),
            Data::Object(object) => write!(f, "{}", object_name(object)),
            Data::List(elements, left_out) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if index > 0 { ", " } else { "" })?;
                }
                if *left_out > 0 {
                    write!(f, ", ... {left_out} more")?;
                }
                f.write_str("]")
            }
            Data::Fields(fields) => {
                f.write_str("{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
            Data::Constant(name, value) => write!(f, "{name}({value})"),
        }
    }
}

/// An object in a few words.
pub fn object_name(object: &SentObject) -> String {
    let node = |node: &Option<binder::DebugId>| {
        node.map_or("binder".to_owned(), |node| format!("binder(node {node})"))
    };
    match object {
        SentObject::Binder { node: id, .. } | SentObject::Handle { node: id, .. } => node(id),
        SentObject::Fd { fd } => format!("fd({fd})"),
        SentObject::Ptr { length } => format!("ptr[{length}]"),
        SentObject::FdArray { count } => format!("fds[{count}]"),
    }
}

/// Bytes as hexadecimal words, at most `most` bytes of them.
pub fn hex(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().take(most).enumerate() {
        if index > 0 && index % 4 == 0 {
            text.push(' ');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    if bytes.len() > most {
        text.push_str(" ...");
    }
    text
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.values.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            if name == "return" {
                write!(f, "{separator}{value}")?
            } else {
                write!(f, "{separator}{name}={value}")?
            }
        }
        if let Some(rest) = &self.rest {
            let separator = if self.values.is_empty() { "" } else { ", " };
            write!(f, "{separator}<{}; from byte {}: {}>", rest.why, rest.at, hex(&rest.bytes, 64))?;
        }
        Ok(())
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&exception_name(self.code))?;
        if let Some(specific) = self.specific {
            write!(f, "({specific})")?;
        }
        if !self.message.is_empty() {
            write!(f, " \"{}\"", self.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
