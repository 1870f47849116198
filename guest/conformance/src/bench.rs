//! Round trips between two processes, as fast as one thread each can go.

use std::io;
use std::time::Instant;

use crate::child::{Child, Signal};
use crate::device::Device;
use crate::stream::{self, Arena, Call, Command, Delivery, Return, call, enter_looper, free, pattern, reply};
use crate::uapi::{br, payload_size};

const MAP_SIZE: usize = 4 << 20;
const ROOM: usize = 256;

/// The write stream of commands whose data stays in place in the caller's memory.
pub fn encode(commands: &[Command]) -> Vec<u8> {
    stream::encode(commands, &mut Arena::new(0))
}

/// Lets a call carry these bytes without copying them.
pub fn carrying(call: Call, payload: &[u8]) -> Call {
    call.data_at(payload.as_ptr() as u64, payload.len() as u64)
}

/// The transaction or reply among the items of a read.
pub fn delivery(items: &[Return]) -> Option<Delivery> {
    items.iter().find_map(|item| match item {
        Return::Delivery(delivery) => Some(*delivery),
        _ => None,
    })
}

fn number(text: &str, what: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::Error::other(format!("{what} must be a number, not {text:?}")))
}

/// A write stream that frees one buffer and sends one payload. It is made once, so that what is measured is the driver
/// and not this program.
struct Turn(Vec<u8>);

impl Turn {
    /// Where the address of the buffer stands, behind the word of FREE_BUFFER.
    const FREED: std::ops::Range<usize> = 4..12;

    fn new(send: Call) -> Self {
        Self(encode(&[free(0), send.into()]))
    }

    fn freeing(&mut self, buffer: u64) -> &[u8] {
        self.0[Self::FREED].copy_from_slice(&buffer.to_le_bytes());
        &self.0
    }

    /// The same without anything to free.
    fn first(&self) -> &[u8] {
        &self.0[Self::FREED.end..]
    }
}

/// The buffer and the size of the transaction or reply among the returns, if there is one.
fn arrival(mut returns: &[u8]) -> io::Result<Option<(u64, u64)>> {
    /// Where binder_transaction_data has them.
    const SIZE: usize = 32;
    const BUFFER: usize = 48;
    while let Some((word, rest)) = returns.split_first_chunk::<4>() {
        let word = u32::from_le_bytes(*word);
        let at = |offset: usize| rest.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
        match word {
            br::TRANSACTION | br::REPLY => {
                return Ok(at(BUFFER).map(u64::from_le_bytes).zip(at(SIZE).map(u64::from_le_bytes)));
            }
            br::FAILED_REPLY | br::DEAD_REPLY => return Err(io::Error::other("a call failed")),
            _ => returns = rest.get(payload_size(word)..).unwrap_or_default(),
        }
    }
    Ok(None)
}

/// Writes once, then reads until something arrives: its buffer and size.
fn exchange(device: &Device, mut write: &[u8]) -> io::Result<(u64, u64)> {
    let mut read = [0; ROOM];
    loop {
        let (_, filled) = device.write_read(write, &mut read)?;
        if let Some(arrived) = arrival(&read[..filled])? {
            return Ok(arrived);
        }
        write = &[];
    }
}

/// Answers every call with `payload` until killed.
fn serve(ready: &Signal, payload: &[u8]) -> io::Result<()> {
    let device = Device::open("binder", MAP_SIZE)?;
    device.become_manager()?;
    ready.give();
    let mut turn = Turn::new(carrying(reply(), payload));
    let (mut buffer, _) = exchange(&device, &encode(&[enter_looper()]))?;
    loop {
        (buffer, _) = exchange(&device, turn.freeing(buffer))?;
    }
}

/// Does `iterations` calls with `size` bytes each way and prints how long they took on the guest's clock.
pub fn run(iterations: &str, size: &str) -> io::Result<()> {
    let (iterations, size) = (number(iterations, "ITERATIONS")?, number(size, "SIZE")?);
    if size > MAP_SIZE / 4 {
        return Err(io::Error::other(format!("SIZE must be at most {}", MAP_SIZE / 4)));
    }
    let payload = pattern(size, 0);
    let ready = Signal::new()?;
    let server = Child::fork(|| serve(&ready, &payload))?;
    ready.wait()?;
    let device = Device::open("binder", MAP_SIZE)?;
    let mut turn = Turn::new(carrying(call(0, 1), &payload));
    let mut last = None;
    let start = Instant::now();
    for _ in 0..iterations {
        let (buffer, size) = match last {
            Some(buffer) => exchange(&device, turn.freeing(buffer))?,
            None => exchange(&device, turn.first())?,
        };
        if size != payload.len() as u64 {
            return Err(io::Error::other(format!("a reply of {size} bytes")));
        }
        last = Some(buffer);
    }
    let seconds = start.elapsed().as_secs_f64();
    server.kill();
    println!(
        "bench size={size} iterations={iterations} seconds={seconds:.3} per_second={:.0} microseconds_each={:.1}",
        iterations as f64 / seconds,
        seconds * 1e6 / iterations.max(1) as f64
    );
    Ok(())
}
