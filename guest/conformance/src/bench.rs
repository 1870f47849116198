//! Round trips between two processes, as fast as one thread each can go.

use std::io;
use std::time::Instant;

use crate::child::{Child, Signal};
use crate::device::Device;
use crate::stream::{self, Arena, Call, Command, Delivery, Return, call, enter_looper, free, pattern, reply};
use crate::uapi::br;

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

/// Answers every call with `payload` until killed.
fn serve(ready: &Signal, payload: &[u8]) -> io::Result<()> {
    let device = Device::open("binder", MAP_SIZE)?;
    device.become_manager()?;
    ready.give();
    let mut read = [0; ROOM];
    let mut write = encode(&[enter_looper()]);
    loop {
        let (_, filled) = device.write_read(&write, &mut read)?;
        write = match delivery(&stream::decode(&read[..filled])) {
            Some(delivery) => encode(&[free(delivery.buffer), carrying(reply(), payload).into()]),
            None => vec![],
        };
    }
}

/// One call; the reply's buffer.
fn round_trip(device: &Device, payload: &[u8], last: Option<u64>) -> io::Result<u64> {
    let mut commands: Vec<Command> = last.map(free).into_iter().collect();
    commands.push(carrying(call(0, 1), payload).into());
    let mut write = encode(&commands);
    let mut read = [0; ROOM];
    loop {
        let (_, filled) = device.write_read(&write, &mut read)?;
        let items = stream::decode(&read[..filled]);
        if items.iter().any(|item| matches!(item.word(), br::FAILED_REPLY | br::DEAD_REPLY)) {
            return Err(io::Error::other("a call failed"));
        }
        match delivery(&items) {
            Some(delivery) if delivery.data_size == payload.len() as u64 => return Ok(delivery.buffer),
            Some(delivery) => {
                return Err(io::Error::other(format!("a reply of {} bytes", delivery.data_size)));
            }
            None => write.clear(),
        }
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
    let mut last = None;
    let start = Instant::now();
    for _ in 0..iterations {
        last = Some(round_trip(&device, &payload, last)?);
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
