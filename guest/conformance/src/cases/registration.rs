//! First ioctls, version, context managers, the thread pool.

use super::{Case, fetch, give, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{
    acquire, acquire_done, call, enter_looper, exit_looper, free, increfs_done, register_looper, reply,
};
use crate::uapi::ioctl;
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "first-ioctl", covers: "B003, B036, B087, B089", play: first_ioctl },
    Case { name: "version", covers: "B033, B042, B057, B058, B059", play: version },
    Case { name: "unknown-ioctls", covers: "B033, B034, B041, B463", play: unknown_ioctls },
    Case { name: "manager", covers: "B044, B046, B051, B120, B121, B500", play: manager },
    Case { name: "manager-ext", covers: "B045, B046", play: manager_ext },
    Case { name: "manager-uid", covers: "B048", play: manager_uid },
    Case { name: "manager-self", covers: "B001, B122, B257", play: manager_self },
    Case { name: "manager-node", covers: "B049, B053, B247, B256", play: manager_node },
    Case { name: "manager-reuses-node", covers: "B050, B500", play: reuses_node },
    Case { name: "two-worlds", covers: "B006", play: two_worlds },
    Case { name: "spawn-looper", covers: "B043, B096, B097, B098, B100, B459", play: spawn_looper },
    Case { name: "looper-misuse", covers: "B094, B095, B115", play: looper_misuse },
];

/// A thread's first read returns at once with NOOP; afterwards it would block.
fn first_ioctl(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    a.map(MAP_SIZE)?;
    a.r()?;
    a.try_r()?;
    let second = a.fresh_thread("A.2")?;
    second.try_r()?;
    second.try_r()?;
    world.note("any first ioctl spends the early return");
    let third = a.fresh_thread("A.3")?;
    third.ioctl("UNUSED", ioctl::UNUSED, &[])?;
    third.try_r()?;
    Ok(())
}

fn version(world: &World) -> Result {
    let a = world.process("A")?;
    a.ioctl("VERSION", ioctl::VERSION, &[0xff; 4])?;
    a.ioctl_at("VERSION at 0", ioctl::VERSION, 0)?;
    a.ioctl("VERSION of 8 bytes", 0xc008_6209, &[0; 8])?;
    a.ioctl("MAX_THREADS", ioctl::SET_MAX_THREADS, &[0xff; 4])?;
    a.ioctl_at("MAX_THREADS at 0", ioctl::SET_MAX_THREADS, 0)?;
    a.ioctl("EXTENDED_ERROR", ioctl::GET_EXTENDED_ERROR, &[0xff; 12])?;
    a.ioctl_at("EXTENDED_ERROR at 0", ioctl::GET_EXTENDED_ERROR, 0)?;
    a.ioctl_at("SPAM_DETECTION at 0", ioctl::ENABLE_ONEWAY_SPAM_DETECTION, 0)?;
    a.ioctl_at("NODE_DEBUG_INFO at 0", ioctl::GET_NODE_DEBUG_INFO, 0)?;
    a.ioctl_at("NODE_INFO_FOR_REF at 0", ioctl::GET_NODE_INFO_FOR_REF, 0)?;
    Ok(())
}

fn unknown_ioctls(world: &World) -> Result {
    let a = world.process("A")?;
    a.ioctl("TCGETS", libc::TCGETS as u32, &[0; 64])?;
    a.ioctl("UNUSED", ioctl::UNUSED, &[])?;
    a.ioctl("SET_IDLE_TIMEOUT", ioctl::SET_IDLE_TIMEOUT, &[0; 8])?;
    a.ioctl("SET_IDLE_PRIORITY", ioctl::SET_IDLE_PRIORITY, &[0; 4])?;
    a.ioctl("WRITE_READ of 24 bytes", 0xc018_6201, &[0; 24])?;
    a.ioctl("WRITE_READ write-only", 0x4030_6201, &[0; 48])?;
    a.ioctl_at("WRITE_READ at 8", ioctl::WRITE_READ, 8)?;
    a.ioctl("WRITE_READ of nothing", ioctl::WRITE_READ, &[0; 48])?;
    Ok(())
}

fn manager(world: &World) -> Result {
    let c = world.process("C")?;
    c.wr(commands![call(0, 1)])?;
    c.wr(commands![call(0, 1).oneway()])?;
    let m = world.manager("M")?;
    m.ioctl_at("SET_CONTEXT_MGR again", ioctl::SET_CONTEXT_MGR, 0)?;
    c.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    m.kill()?;
    c.wr(commands![call(0, 1).oneway()])?;
    c.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    let d = world.process("D")?;
    d.wr(commands![call(0, 1).oneway()])?;
    c.r()?;
    Ok(())
}

fn manager_ext(world: &World) -> Result {
    let m = world.process("M")?;
    m.ioctl_at("SET_CONTEXT_MGR_EXT at 0", ioctl::SET_CONTEXT_MGR_EXT, 0)?;
    m.become_manager_ext(0x1234_5678, 0x9abc_def0, 0x100)?;
    m.w(commands![enter_looper()])?;
    m.ioctl("SET_CONTEXT_MGR_EXT", ioctl::SET_CONTEXT_MGR_EXT, &[0; 24])?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    m.ioctl("NODE_DEBUG_INFO", ioctl::GET_NODE_DEBUG_INFO, &[0; 24])?;
    Ok(())
}

fn set_euid(actor: &crate::actor::Actor<'_>, uid: u64) -> Result {
    actor.sys(&format!("setresuid euid={uid}"), libc::SYS_setresuid, &[u64::MAX, uid, u64::MAX])?;
    Ok(())
}

/// The first manager's euid is pinned for the life of the context.
fn manager_uid(world: &World) -> Result {
    let m = world.manager("M")?;
    let other = world.process("U")?;
    set_euid(&other, 1000)?;
    other.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    m.kill()?;
    other.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    set_euid(&other, 0)?;
    other.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    Ok(())
}

/// The manager cannot call itself, not even through another open of its process.
fn manager_self(world: &World) -> Result {
    let m = world.manager("M")?;
    m.wr(commands![call(0, 1)])?;
    m.wr(commands![call(0, 1).oneway()])?;
    m.w(commands![acquire(0)])?;
    let second = m.thread("M.2")?;
    second.use_device("binder", MAP_SIZE)?;
    second.wr(commands![call(0, 1).oneway()])?;
    world.note("the second open is a process of its own");
    second.try_wr(commands![acquire(0)])?;
    second.try_r()?;
    m.try_r()?;
    Ok(())
}

/// The manager's node is never reported to its owner.
fn manager_node(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.w(commands![acquire(0)])?;
    m.try_r()?;
    let found = fetch(&c, &m, Object::binder(0, 0))?;
    found.handle(0)?;
    c.w(commands![free(found.buffer())])?;
    m.try_r()?;
    m.ioctl("NODE_DEBUG_INFO", ioctl::GET_NODE_DEBUG_INFO, &[0; 24])?;
    c.kill()?;
    m.try_r()?;
    let d = world.process("D")?;
    d.wr(commands![call(0, 9).oneway()])?;
    m.r()?;
    Ok(())
}

/// A node that exists already becomes the manager's, and keeps the number it has elsewhere.
fn reuses_node(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0, 0))?;
    s.try_wr(commands![increfs_done(0, 0), acquire_done(0, 0)])?;
    m.kill()?;
    s.try_r()?;
    s.become_manager()?;
    c.wr(commands![call(handle, 1).oneway()])?;
    let event = s.r()?.received()?;
    s.w(commands![free(event.buffer())])?;
    c.wr(commands![call(0, 2).oneway()])?;
    let event = s.r()?.received()?;
    s.w(commands![free(event.buffer())])?;
    world.note("a count on 0 goes to the reference that exists");
    c.try_wr(commands![acquire(0)])?;
    c.wr(commands![call(0, 3).oneway().object(Object::handle(0))])?;
    c.wr(commands![call(0, 4).oneway().object(Object::handle(handle))])?;
    s.r()?;
    c.kill()?;
    s.try_r()?;
    Ok(())
}

/// The contexts of two devices share nothing.
fn two_worlds(world: &World) -> Result {
    let m = world.manager("M")?;
    let h = world.manager_on("H", "hwbinder", MAP_SIZE)?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    h.try_r()?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    let d = world.process_on("D", "hwbinder", MAP_SIZE)?;
    d.wr(commands![call(0, 2).oneway()])?;
    m.try_r()?;
    h.r()?;
    world.note("a handle of one context is unknown in the other, also within one process");
    let given = give(&c, &m, Object::binder(0x1000, 0x2000))?;
    m.w(commands![acquire(given.handle(0)?), free(given.buffer())])?;
    let hw = m.thread("M.hw")?;
    hw.use_device("hwbinder", MAP_SIZE)?;
    hw.wr(commands![call(given.handle(0)?, 3).oneway()])?;
    let v = world.process_on("V", "vndbinder", MAP_SIZE)?;
    v.wr(commands![call(0, 3).oneway()])?;
    Ok(())
}

/// The driver asks for one thread at a time, up to the limit, in place of the leading NOOP.
fn spawn_looper(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.ioctl("MAX_THREADS 2", ioctl::SET_MAX_THREADS, &2u32.to_le_bytes())?;
    m.try_r()?;
    c.wr(commands![call(0, 1).oneway()])?;
    let first = m.r()?.received()?;
    c.wr(commands![call(0, 2).oneway()])?;
    world.note("a request is outstanding, so there is no second one");
    let second = m.wr(commands![free(first.buffer())])?.received()?;
    let m2 = m.thread("M.2")?;
    m2.w(commands![register_looper()])?;
    c.wr(commands![call(0, 3).oneway()])?;
    let third = m2.wr(commands![free(second.buffer())])?.received()?;
    m2.w(commands![free(third.buffer())])?;
    let m3 = m.thread("M.3")?;
    m3.w(commands![register_looper()])?;
    c.wr(commands![call(0, 4).oneway()])?;
    world.note("two started: the limit is reached");
    let fourth = m3.r()?.received()?;
    m3.w(commands![free(fourth.buffer())])?;
    m.ioctl("MAX_THREADS 3", ioctl::SET_MAX_THREADS, &3u32.to_le_bytes())?;
    world.note("nothing is asked for while a thread waits");
    m2.start(commands![])?;
    m3.start(commands![])?;
    c.wr(commands![call(0, 5).oneway()])?;
    let fifth = m3.finish()?.received()?;
    m3.w(commands![free(fifth.buffer())])?;
    c.wr(commands![call(0, 6).oneway()])?;
    let sixth = m2.finish()?.received()?;
    m2.w(commands![free(sixth.buffer()), exit_looper()])?;
    world.note("a thread that is no looper is not asked, small items count as a read");
    c.wr(commands![call(0, 7).oneway().object(Object::binder(0x1000, 0x2000))])?;
    c.w(commands![increfs_done(0x1000, 0x2000), acquire_done(0x1000, 0x2000)])?;
    let plain = m.thread("M.4")?;
    plain.r()?;
    Ok(())
}

fn looper_misuse(world: &World) -> Result {
    let a = world.process("A")?;
    let a2 = a.thread("A.2")?;
    let a3 = a.thread("A.3")?;
    a.try_wr(commands![enter_looper(), register_looper()])?;
    a2.try_wr(commands![register_looper(), enter_looper()])?;
    a3.try_wr(commands![exit_looper()])?;
    a3.try_wr(commands![enter_looper(), enter_looper(), exit_looper(), exit_looper()])?;
    world.note("none of this changes what a thread can do");
    let m = world.manager("M")?;
    a.start(commands![call(0, 1)])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply()])?;
    a.finish()?;
    Ok(())
}
