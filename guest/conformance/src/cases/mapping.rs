//! What may be mapped, and what a process without its mapping can still do.

use super::{Case, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "mmap-protection", covers: "B008, B009", play: protection },
    Case { name: "mmap-once", covers: "B010", play: once },
    Case { name: "mmap-shared-with-offset", covers: "B009", play: shared_with_offset },
    Case { name: "mmap-clamped", covers: "B007, B348", play: clamped },
    Case { name: "mmap-by-child", covers: "B005, B011, B012", play: by_child },
    Case { name: "mmap-by-thread", covers: "B011", play: by_thread },
    Case { name: "untouched-page", covers: "B013, B355", play: untouched_page },
    Case { name: "munmap-all", covers: "B014, B365", play: munmap_all },
    Case { name: "munmap-one-page", covers: "B014, B365", play: munmap_one_page },
    Case { name: "never-mapped", covers: "B015, B016, B365", play: never_mapped },
];

const READ: i32 = libc::PROT_READ;

fn protection(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    a.mmap(MAP_SIZE, READ | libc::PROT_WRITE, libc::MAP_PRIVATE, 0)?;
    a.mmap(MAP_SIZE, READ | libc::PROT_WRITE, libc::MAP_SHARED, 0)?;
    let start = a.map(MAP_SIZE)?;
    let write = (READ | libc::PROT_WRITE) as u64;
    a.sys("mprotect read-write", libc::SYS_mprotect, &[start, MAP_SIZE, write])?;
    a.sys("mprotect read", libc::SYS_mprotect, &[start, MAP_SIZE, READ as u64])?;
    Ok(())
}

fn once(world: &World) -> Result {
    let a = world.process("A")?;
    a.mmap(MAP_SIZE, READ, libc::MAP_PRIVATE, 0)?;
    a.sys("munmap", libc::SYS_munmap, &[a.map_start(), MAP_SIZE])?;
    a.mmap(MAP_SIZE, READ, libc::MAP_PRIVATE, 0)?;
    Ok(())
}

fn shared_with_offset(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    a.mmap(MAP_SIZE, READ, libc::MAP_SHARED, 0x3000)?;
    a.become_manager()?;
    a.w(commands![enter_looper()])?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().bytes(b"seen")])?;
    a.r()?;
    Ok(())
}

/// Only the first 4 MiB of a larger mapping are used.
fn clamped(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 8 << 20)?;
    let c = world.process("C")?;
    let zeros = c.alloc(6 << 20)?;
    c.wr(commands![call(0, 1).data_at(zeros, (4 << 20) + 8)])?;
    c.try_wr(commands![call(0, 2).data_at(zeros, (4 << 20) - 64)])?;
    let d = world.process("D")?;
    d.wr(commands![call(0, 3).oneway().pattern(65, 0)])?;
    d.wr(commands![call(0, 4).oneway().pattern(64, 0)])?;
    m.try_r()?;
    m.try_r()?;
    Ok(())
}

/// A forked child inherits the descriptor, not the mapping, and may use but not map it.
fn by_child(world: &World) -> Result {
    // So large that the child's own memory does not fill the place where its parent has the mapping.
    let m = world.manager_on("M", "binder", 32 << 20)?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().bytes(b"here")])?;
    let event = m.r()?.received()?;
    m.touch(event.buffer())?;
    let child = m.fork("K")?;
    child.try_r()?;
    child.w(commands![free(m.map_start())])?;
    world.note("it reads what is for its parent's process, with data in its parent's mapping");
    c.wr(commands![call(0, 2).oneway()])?;
    child.r()?;
    let other = world.spawn("A")?;
    other.open("binder")?;
    let early = other.fork("E")?;
    early.mmap(MAP_SIZE, READ, libc::MAP_PRIVATE, 0)?;
    other.map(MAP_SIZE)?;
    child.touch(event.buffer())?;
    Ok(())
}

fn by_thread(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    let thread = a.fresh_thread("A.2")?;
    thread.map(MAP_SIZE)?;
    a.mmap(MAP_SIZE, READ, libc::MAP_PRIVATE, 0)?;
    Ok(())
}

fn untouched_page(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().pattern(5000, 3)])?;
    m.r()?;
    m.touch(m.map_start())?;
    m.touch(m.map_start() + 4096)?;
    m.touch(m.map_start() + 8192)?;
    Ok(())
}

fn munmap_all(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.sys("munmap", libc::SYS_munmap, &[m.map_start(), MAP_SIZE])?;
    c.wr(commands![call(0, 2).oneway()])?;
    c.wr(commands![call(0, 2)])?;
    world.note("what was queued is still delivered");
    m.r()?;
    Ok(())
}

fn munmap_one_page(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    c.try_wr(commands![call(handle, 1)])?;
    c.sys("munmap one page", libc::SYS_munmap, &[c.map_start() + 0x5000, 0x1000])?;
    world.note("the reply cannot be stored any more");
    let request = s.r()?.received()?;
    s.wr(commands![free(request.buffer()), reply().bytes(b"lost")])?;
    c.r()?;
    s.sys("munmap one page", libc::SYS_munmap, &[s.map_start() + 0x5000, 0x1000])?;
    c.wr(commands![call(handle, 2)])?;
    Ok(())
}

fn never_mapped(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.spawn("C")?;
    c.open("binder")?;
    c.try_r()?;
    c.wr(commands![call(0, 1).oneway().bytes(b"ok")])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    c.start(commands![call(0, 2).object(Object::binder(0x10, 1))])?;
    let request = m.r()?.received()?;
    world.note("it cannot be called");
    m.wr(commands![call(request.handle(0)?, 3).oneway()])?;
    m.wr(commands![reply()])?;
    c.finish()?;
    Ok(())
}
