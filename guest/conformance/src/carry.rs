//! Calls whose bytes are in memory once, and which say in what pages.
//!
//! For isolation tests of guests that share a domain: the host looks for the tokens in all RAM of every guest, and
//! must find them in the pages that are named here, and nowhere else. So nothing is copied: tokens come as hex text
//! and become bytes in the page that they are sent from, what arrives is summed up where it lies, and no buffer is
//! freed before stdin ends.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::bench::{carrying, delivery};
use crate::device::Device;
use crate::stream::{Delivery, call, reply};
use crate::talk::Talk;

const MAP_SIZE: usize = 2 << 20;
const PAGE: usize = 4096;
/// Far more than any test sends.
const MOST: usize = 1 << 20;

fn wrong<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(what.into()))
}

#[repr(align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// Pages that hold one token from end to end.
struct Payload {
    pages: Vec<Page>,
    size: usize,
}

impl Payload {
    /// `size` bytes of the token that `hex` writes. No other copy of it is made.
    fn of(hex: &str, size: usize) -> io::Result<Payload> {
        let length = hex.len() / 2;
        if length == 0 || !hex.len().is_multiple_of(2) || !(length..=MOST).contains(&size) {
            return wrong(format!("{size} bytes of {hex:?}: not a token, or not room for it"));
        }
        let mut payload = Payload { pages: vec![Page([0; PAGE]); size.div_ceil(PAGE)], size };
        for at in 0..size {
            let digits = hex.get(at % length * 2..at % length * 2 + 2).unwrap_or_default();
            let Ok(byte) = u8::from_str_radix(digits, 16) else { return wrong("a token is hex digits") };
            payload.pages[at / PAGE].0[at % PAGE] = byte;
        }
        Ok(payload)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: pages lie one behind the other, are nothing but bytes, and `size` is not beyond their end.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.size) }
    }

    fn frames(&self) -> io::Result<Vec<u64>> {
        frames(self.pages.as_ptr() as usize, self.pages.len())
    }
}

/// Numbers of the page frames behind those of `count` pages that are there.
fn frames(start: usize, count: usize) -> io::Result<Vec<u64>> {
    let map = std::fs::File::open("/proc/self/pagemap")?;
    let mut entries = vec![0; count * 8];
    map.read_exact_at(&mut entries, (start / PAGE * 8) as u64)?;
    let (entries, _) = entries.as_chunks::<8>();
    let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry));
    Ok(entries.filter(|entry| entry >> 63 == 1).map(|entry| entry & ((1 << 55) - 1)).collect())
}

/// Says where bytes are.
fn tell(what: &str, frames: &[u64]) {
    let frames: Vec<String> = frames.iter().map(u64::to_string).collect();
    println!("{what} {}", frames.join(" "));
}

/// One kind of call: its code, and what is sent with it from here.
struct Message {
    code: u32,
    payload: Payload,
}

impl Message {
    /// Reads `CODE:SIZE:TOKEN`.
    fn parse(text: &str) -> io::Result<Message> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [code, size, token] => match (code.parse(), size.parse()) {
                (Ok(code), Ok(size)) => Ok(Message { code, payload: Payload::of(token, size)? }),
                _ => wrong(format!("{text:?} has no numbers")),
            },
            _ => wrong(format!("{text:?} is not CODE:SIZE:TOKEN")),
        }
    }
}

/// Says what arrived, without a copy: FNV-1a of the bytes where the driver put them.
fn arrived(device: &Device, code: u32, delivery: &Delivery) -> io::Result<()> {
    let Some(bytes) = device.bytes(delivery.buffer, delivery.data_size) else {
        return wrong("a buffer outside the mapping");
    };
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    println!("got {code} {} {:016x}", bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, step));
    Ok(())
}

/// Who takes part: the manager that answers, or one who calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Serve,
    Send,
}

/// Exchanges `count` calls (one who sends: of each kind), says where all bytes are, and keeps them until stdin ends.
pub fn run(part: Part, count: &str, mark: &str, messages: &[&str]) -> io::Result<()> {
    let Ok(count) = count.parse::<usize>() else { return wrong("how many calls is a number") };
    let mark = Payload::of(mark, mark.len() / 2)?;
    let messages: Vec<Message> =
        messages.iter().map(|text| Message::parse(text)).collect::<io::Result<_>>()?;
    let device = Device::open("binder", MAP_SIZE)?;
    let mut talk = Talk::new(&device);
    match part {
        Part::Serve => {
            device.become_manager()?;
            println!("serving");
            serve(&device, &mut talk, count, &messages)?;
        }
        Part::Send => send(&device, &mut talk, count, &messages)?,
    }
    tell("mark", &mark.frames()?);
    for message in &messages {
        tell(&format!("sent {}", message.code), &message.payload.frames()?);
    }
    let (start, size) = device.area();
    tell("mapping", &frames(start, size / PAGE)?);
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn serve(device: &Device, talk: &mut Talk<'_>, calls: usize, replies: &[Message]) -> io::Result<()> {
    for _ in 0..calls {
        let request = loop {
            if let Some(request) = delivery(&talk.exchange()?) {
                break request;
            }
        };
        arrived(device, request.code, &request)?;
        let Some(answer) = replies.iter().find(|answer| answer.code == request.code) else {
            return wrong(format!("nothing to answer to code {}", request.code));
        };
        if !talk.send(carrying(reply(), answer.payload.bytes()).into())? {
            return wrong("a reply was refused");
        }
    }
    Ok(())
}

fn send(device: &Device, talk: &mut Talk<'_>, rounds: usize, messages: &[Message]) -> io::Result<()> {
    for _ in 0..rounds {
        for message in messages {
            let sent = carrying(call(0, message.code), message.payload.bytes());
            let Some(answer) = talk.call(sent.into())? else { return wrong("a call failed") };
            arrived(device, message.code, &answer)?;
        }
    }
    Ok(())
}
