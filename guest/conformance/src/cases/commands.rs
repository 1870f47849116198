//! The write and read halves themselves: malformed streams, bad addresses, sizes and positions.

use super::Case;
use crate::actor::MEM_WRITE;
use crate::commands;
use crate::object::Object;
use crate::stream::{Command, acquire_done, call, enter_looper, free, increfs_done, reply};
use crate::uapi::bc;
use crate::world::{Result, World};
use crate::write_read::Io;

pub const CASES: &[Case] = &[
    Case { name: "bad-commands", covers: "B062, B063, B103, B114, B116, B280, B458", play: bad_commands },
    Case { name: "write-position", covers: "B060, B061, B102", play: write_position },
    Case { name: "bad-write-buffer", covers: "B062, B063", play: bad_write_buffer },
    Case { name: "read-room", covers: "B070, B071, B072, B073, B503", play: read_room },
    Case { name: "overlapping-buffers", covers: "B494", play: overlapping_buffers },
    Case { name: "bad-read-buffer", covers: "B075, B134", play: bad_read_buffer },
    Case { name: "read-buffer-taken-away", covers: "B075", play: read_buffer_taken_away },
    Case { name: "one-delivery-a-read", covers: "B081, B090, B091", play: one_delivery_a_read },
];

fn words(word: u32, rest: &[u8]) -> Command {
    Command::Raw([&word.to_le_bytes()[..], rest].concat())
}

/// Errors of the stream itself are errnos; wc points at the command.
fn bad_commands(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for (what, bad) in [
        ("number 0", words(0, &[])),
        ("an unknown number", words(0x0000_6399, &[])),
        ("a return", words(0x0000_720c, &[])),
        ("a watch with 16 bytes", words(0x4010_630e, &[0; 16])),
        ("a transaction with 60 bytes", words(0x403c_6300, &[0; 60])),
        ("ATTEMPT_ACQUIRE", words(bc::ATTEMPT_ACQUIRE, &[0; 8])),
        ("ACQUIRE_RESULT", words(bc::ACQUIRE_RESULT, &[0; 4])),
        ("REQUEST_FREEZE_NOTIFICATION", words(bc::REQUEST_FREEZE_NOTIFICATION, &[0; 12])),
        ("CLEAR_FREEZE_NOTIFICATION", words(bc::CLEAR_FREEZE_NOTIFICATION, &[0; 12])),
        ("FREEZE_NOTIFICATION_DONE", words(bc::FREEZE_NOTIFICATION_DONE, &[0; 8])),
    ] {
        world.note(what);
        c.wr(commands![call(0, 1).oneway(), bad, call(0, 2).oneway()])?;
        c.r()?;
        let event = m.r()?.received()?;
        m.try_wr(commands![free(event.buffer())])?;
    }
    Ok(())
}

fn write_position(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    world.note("starts at write_consumed");
    c.io(Io { write_consumed: 68, ..Io::new(commands![call(0, 1).oneway(), call(0, 2).oneway()]) })?;
    world.note("at or past the end: nothing happens");
    c.io(Io { write_consumed: 68, ..Io::new(commands![call(0, 3).oneway()]) }.nonblock())?;
    c.io(Io { write_consumed: 1000, ..Io::new(commands![call(0, 4).oneway()]) }.nonblock())?;
    c.io(Io { write_size: Some(0), ..Io::new(commands![call(0, 5).oneway()]) }.nonblock())?;
    world.note("stops at write_size");
    c.io(Io { write_size: Some(4), ..Io::new(commands![enter_looper(), call(0, 6).oneway()]) }.nonblock())?;
    let event = m.r()?.received()?;
    m.try_wr(commands![free(event.buffer())])?;
    Ok(())
}

fn bad_write_buffer(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.io(Io { write_buffer: Some(8), ..Io::new(commands![enter_looper()]) })?;
    world.note("the stream runs out of readable memory after its first command");
    let area = c.alloc(0x2000)?;
    c.sys("munmap the second page", libc::SYS_munmap, &[area + 0x1000, 0x1000])?;
    let mut stream = bc::ENTER_LOOPER.to_le_bytes().to_vec();
    stream.extend(bc::TRANSACTION.to_le_bytes());
    stream.extend([0; 32]);
    let start = area + 0x1000 - stream.len() as u64;
    c.poke(start, &stream)?;
    c.io(Io { write_buffer: Some(start), write_size: Some(72), ..Io::new(vec![]) })?;
    world.note("and in the middle of a command word");
    c.poke(area + 0x1000 - 6, &bc::EXIT_LOOPER.to_le_bytes())?;
    c.io(Io { write_buffer: Some(area + 0x1000 - 6), write_size: Some(8), ..Io::new(vec![]) })?;
    m.try_r()?;
    Ok(())
}

fn read_room(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().bytes(b"data")])?;
    for room in [4, 8, 72, 79] {
        m.io(Io::new(vec![]).room(room))?;
    }
    m.io(Io::new(vec![]).room(80))?;
    world.note("with read_consumed, nothing is prepended");
    c.w(commands![call(0, 2).oneway()])?;
    c.io(Io { read_consumed: 12, ..Io::new(vec![]) })?;
    world.note("small items need the same room");
    c.w(commands![call(0, 3).oneway(), call(0, 4).oneway(), call(0, 5).oneway()])?;
    c.io(Io::new(vec![]).room(84))?;
    c.io(Io::new(vec![]).room(80))?;
    c.io(Io::new(vec![]).room(80).nonblock())?;
    c.io(Io::new(vec![]).room(76).nonblock())?;
    c.try_r()?;
    Ok(())
}

/// What is read may overwrite what was written, and the argument itself may lie in either buffer.
fn overlapping_buffers(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let same = Some(c.mem + MEM_WRITE);
    c.io(Io { read_buffer: same, ..Io::new(commands![call(0, 1).oneway(), call(0, 2).oneway()]) })?;
    c.w(commands![call(0, 3).oneway()])?;
    world.note("the argument is in the read buffer: it is written last");
    c.io(Io { read_buffer: Some(c.mem), ..Io::new(vec![]) })?;
    m.r()?;
    Ok(())
}

/// A call whose receiver cannot be told fails back to its sender.
fn bad_read_buffer(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).bytes(b"lost")])?;
    m.io(Io { read_buffer: Some(8), ..Io::new(vec![]) })?;
    let area = m.alloc(0x2000)?;
    m.sys("munmap the second page", libc::SYS_munmap, &[area + 0x1000, 0x1000])?;
    world.note("room for the NOOP alone");
    m.io(Io { read_buffer: Some(area + 0x1000 - 4), ..Io::new(vec![]) })?;
    c.finish()?;
    m.try_r()?;
    world.note("the stack is clean");
    m.wr(commands![reply()])?;
    Ok(())
}

/// Small items come before it, the next delivery with the next read.
fn one_delivery_a_read(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let d = world.process("D")?;
    c.try_wr(commands![call(0, 1).bytes(b"first")])?;
    d.try_wr(commands![call(0, 2).bytes(b"second")])?;
    c.w(commands![call(0, 3).oneway().object(Object::binder(0x10, 0x20))])?;
    c.r()?;
    c.w(commands![increfs_done(0x10, 0x20), acquire_done(0x10, 0x20)])?;
    m.io(Io::new(vec![]).room(4096))?.received()?;
    m.wr(commands![reply().bytes(b"1")])?;
    m.io(Io::new(vec![]).room(4096))?;
    m.wr(commands![reply().bytes(b"2")])?;
    m.io(Io::new(vec![]).room(4096))?;
    c.r()?;
    d.r()?;
    Ok(())
}

/// A buffer that was read into before, and cannot be written any more: nothing is taken from the queue.
fn read_buffer_taken_away(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let page = m.alloc(0x1000)?;
    let read = |address| m.io(Io { read_buffer: Some(address), ..Io::new(commands![]).nonblock() });
    let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    for (what, protection) in [("read-only", libc::PROT_READ as u64), ("without access", 0)] {
        c.wr(commands![call(0, 1).oneway()])?;
        let first = read(page)?.received()?;
        m.w(commands![free(first.buffer())])?;
        c.wr(commands![call(0, 2).oneway()])?;
        world.note(what);
        m.ask(libc::SYS_mprotect, &[page, 0x1000, protection])?;
        read(page)?;
        read(page + 2)?;
        m.ask(libc::SYS_mprotect, &[page, 0x1000, writable])?;
        let second = read(page)?.received()?;
        m.w(commands![free(second.buffer())])?;
    }
    Ok(())
}
