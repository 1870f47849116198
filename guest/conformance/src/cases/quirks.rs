//! What the C driver does although a new implementation need not: BINDER.md recommends or allows otherwise.
//!
//! Whoever compares transcripts decides case by case which of these are to be equal.

use super::{Case, fetch};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, acquire_done, call, enter_looper, free, increfs_done, release};
use crate::uapi::ioctl;
use crate::world::{Result, World};
use crate::write_read::Io;

pub const CASES: &[Case] = &[
    Case { name: "quirk-parent-at-zero", covers: "B213", play: parent_at_zero },
    Case { name: "quirk-write-past-end", covers: "B068", play: write_past_end },
    Case { name: "quirk-exit-drops-node-work", covers: "B248", play: exit_drops_node_work },
    Case { name: "quirk-spawn-overwrites", covers: "B099", play: spawn_overwrites },
    Case { name: "quirk-lost-oneway-blocks", covers: "B075, B149", play: lost_oneway_blocks },
];

/// A PTR at data offset 0 cannot be a parent; eight bytes later it can.
fn parent_at_zero(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let outer = c.place(&[0x11; 16])?;
    let inner = c.place(&[0x22; 8])?;
    let pair = |before: usize| {
        let start = call(0, 1).oneway().bytes(&vec![0; before]).extra(24);
        start.object(Object::ptr(outer, 16)).object(Object::child(inner, 8, 0, 0))
    };
    c.wr(commands![pair(0)])?;
    c.wr(commands![pair(8)])?;
    m.try_r()?;
    Ok(())
}

/// A command that begins before the end is done in full.
fn write_past_end(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.io(Io { write_size: Some(1), ..Io::new(commands![enter_looper()]) }.nonblock())?;
    c.io(Io { write_size: Some(8), ..Io::new(commands![call(0, 1).oneway()]) }.nonblock())?;
    m.try_r()?;
    Ok(())
}

/// The owner never hears of a reference whose work was in the queue of a thread that exited.
fn exit_drops_node_work(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let s2 = s.thread("S.2")?;
    s2.w(commands![call(0, 1).oneway().object(Object::binder(0x10, 1))])?;
    s2.thread_exit()?;
    s.try_r()?;
    let given = m.r()?.received()?;
    m.w(commands![acquire(given.handle(0)?), free(given.buffer())])?;
    s.try_r()?;
    m.w(commands![release(given.handle(0)?)])?;
    s.try_r()?;
    Ok(())
}

/// The request for a thread is put at the start of the buffer, wherever this read began.
fn spawn_overwrites(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.ioctl("MAX_THREADS 1", ioctl::SET_MAX_THREADS, &1u32.to_le_bytes())?;
    c.wr(commands![call(0, 1).oneway()])?;
    let area = m.place(&[0xaa; 128])?;
    m.io(Io { read_consumed: 8, read_buffer: Some(area), ..Io::new(vec![]).room(128) })?;
    let start = m.peek(area, 8)?;
    m.say(&format!("the buffer begins with {start:02x?}"));
    Ok(())
}

/// A oneway that was lost in an unwritable read buffer keeps its node's backlog waiting.
fn lost_oneway_blocks(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let area = m.alloc(0x2000)?;
    m.sys("munmap the second page", libc::SYS_munmap, &[area + 0x1000, 0x1000])?;
    c.wr(commands![call(0, 1).oneway()])?;
    c.wr(commands![call(0, 2).oneway()])?;
    m.io(Io { read_buffer: Some(area + 0x1000 - 4), ..Io::new(vec![]) })?;
    m.try_r()?;
    let s = world.server("S")?;
    let given = fetch(&s, &m, Object::binder(0x20, 2))?;
    m.try_wr(commands![increfs_done(0x20, 2), acquire_done(0x20, 2)])?;
    world.note("another node of the same process is not blocked");
    s.wr(commands![call(given.handle(0)?, 3).oneway()])?;
    m.try_r()?;
    Ok(())
}
