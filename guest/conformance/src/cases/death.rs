//! Death notifications, in every order of death, acknowledgement and clearing.

use super::{Case, fetch, give, publish, watched};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, call, dead_done, enter_looper, free, increfs, release, unwatch, watch};
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "death", covers: "B113, B263, B265, B268, B269, B273", play: death },
    Case { name: "death-misuse", covers: "B263, B264, B268, B270", play: misuse },
    Case { name: "death-of-two-nodes", covers: "B090, B265, B266", play: two_nodes },
    Case { name: "death-before-request", covers: "B267", play: already_dead },
    Case { name: "clear-alive", covers: "B091, B271", play: clear_alive },
    Case { name: "clear-before-done", covers: "B272", play: clear_before_done },
    Case { name: "clear-before-read", covers: "B272", play: clear_before_read },
    Case { name: "clear-after-done", covers: "B273, B269", play: clear_after_done },
    Case { name: "drop-watched-ref", covers: "B254, B274", play: drop_watched },
    Case { name: "death-same-cookie", covers: "B278", play: same_cookie },
    Case { name: "watch-weakly", covers: "B263, B468", play: watch_weakly },
    Case { name: "watch-manager", covers: "B264, B267", play: watch_manager },
    Case { name: "death-during-call", covers: "B031, B032, B134, B311", play: during_call },
    Case { name: "death-wakes-looper", covers: "B083, B265", play: wakes_looper },
];

fn death(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    s.kill()?;
    c.try_r()?;
    c.try_wr(commands![dead_done(0x77)])?;
    world.note("the registration is still there");
    c.try_wr(commands![watch(handle, 0x78)])?;
    c.try_wr(commands![unwatch(handle, 0x77)])?;
    c.try_wr(commands![watch(handle, 0x79)])?;
    Ok(())
}

fn misuse(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    world.note("unknown handle, 0 without a reference, a second request");
    c.try_wr(commands![watch(99, 1), watch(0, 2), watch(handle, 0x78)])?;
    world.note("nothing registered, wrong cookie, unknown acknowledgement");
    c.try_wr(commands![unwatch(99, 1), unwatch(0, 2), unwatch(handle, 0x78), dead_done(0x77), dead_done(5)])?;
    s.kill()?;
    c.try_wr(commands![dead_done(0x77)])?;
    c.try_wr(commands![dead_done(0x78)])?;
    c.try_wr(commands![dead_done(0x77), unwatch(handle, 0x77)])?;
    c.try_wr(commands![unwatch(handle, 0x77)])?;
    Ok(())
}

/// In the order of the owner's pointers, one a read.
fn two_nodes(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let mut cookie = 0;
    for ptr in [0x30, 0x10, 0x20] {
        let given = give(&s, &m, Object::binder(ptr, 1))?;
        let handle = given.handle(0)?;
        cookie += 1;
        m.try_wr(commands![acquire(handle), free(given.buffer()), watch(handle, cookie)])?;
    }
    s.kill()?;
    m.try_r()?;
    m.try_r()?;
    m.try_r()?;
    m.try_r()?;
    Ok(())
}

fn already_dead(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    s.kill()?;
    c.try_wr(commands![watch(handle, 0x77)])?;
    c.try_wr(commands![dead_done(0x77)])?;
    Ok(())
}

/// To the thread itself if it is a looper, else to the process.
fn clear_alive(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    c.w(commands![unwatch(handle, 0x77)])?;
    let c2 = c.thread("C.2")?;
    c2.w(commands![enter_looper()])?;
    c2.try_r()?;
    c.try_r()?;
    world.note("from a thread that is no looper");
    let plain = c.thread("C.3")?;
    plain.w(commands![watch(handle, 0x78), unwatch(handle, 0x78)])?;
    c2.try_r()?;
    plain.try_r()?;
    s.kill()?;
    c.try_r()?;
    Ok(())
}

fn clear_before_done(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    s.kill()?;
    c.r()?;
    c.try_wr(commands![unwatch(handle, 0x77)])?;
    c.try_wr(commands![dead_done(0x77)])?;
    c.try_r()?;
    Ok(())
}

fn clear_before_read(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    s.kill()?;
    c.w(commands![unwatch(handle, 0x77)])?;
    c.try_r()?;
    c.try_r()?;
    c.try_wr(commands![dead_done(0x77)])?;
    c.try_r()?;
    Ok(())
}

fn clear_after_done(world: &World) -> Result {
    let (_m, s, c, handle) = watched(world)?;
    s.kill()?;
    c.r()?;
    c.try_wr(commands![dead_done(0x77)])?;
    c.try_wr(commands![unwatch(handle, 0x77)])?;
    world.note("and again on the same dead node");
    c.try_wr(commands![watch(handle, 0x88)])?;
    c.try_wr(commands![dead_done(0x88), unwatch(handle, 0x88)])?;
    Ok(())
}

/// The last count takes the registration along, silently.
fn drop_watched(world: &World) -> Result {
    let (m, s, c, handle) = watched(world)?;
    c.try_wr(commands![release(handle)])?;
    world.note("the same node gets the number again, without the registration");
    let again = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    c.try_wr(commands![unwatch(again, 0x77)])?;
    c.try_wr(commands![watch(again, 0x99)])?;
    s.kill()?;
    world.note("dropped before the notification is read");
    c.try_wr(commands![release(again)])?;
    c.try_wr(commands![dead_done(0x99)])?;
    Ok(())
}

/// Cookies need not be unique; an acknowledgement takes the first that was delivered.
fn same_cookie(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let mut handles = Vec::new();
    for ptr in [0x10, 0x20] {
        let given = give(&s, &m, Object::binder(ptr, 1))?;
        handles.push(given.handle(0)?);
        m.try_wr(commands![acquire(given.handle(0)?), free(given.buffer()), watch(given.handle(0)?, 7)])?;
    }
    s.kill()?;
    m.try_r()?;
    m.try_r()?;
    m.try_wr(commands![unwatch(handles[0], 7)])?;
    m.try_wr(commands![dead_done(7)])?;
    m.try_wr(commands![unwatch(handles[1], 7)])?;
    m.try_wr(commands![dead_done(7)])?;
    m.try_wr(commands![dead_done(7)])?;
    Ok(())
}

fn watch_weakly(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::weak_binder(0x10, 1))?;
    let handle = given.handle(0)?;
    m.try_wr(commands![increfs(handle), free(given.buffer()), watch(handle, 0x55)])?;
    s.kill()?;
    m.r()?;
    Ok(())
}

fn watch_manager(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![watch(0, 0x11)])?;
    c.try_wr(commands![acquire(0), watch(0, 0x12)])?;
    m.kill()?;
    c.r()?;
    c.try_wr(commands![dead_done(0x12)])?;
    Ok(())
}

/// A delivered call fails before the notification, a queued one after it.
fn during_call(world: &World) -> Result {
    let (m, s, c, handle) = watched(world)?;
    let c2 = c.thread("C.2")?;
    let c3 = c.thread("C.3")?;
    c2.start(commands![call(handle, 1)])?;
    s.r()?.received()?;
    c3.start(commands![call(handle, 2)])?;
    c.wr(commands![call(handle, 3).oneway()])?;
    s.kill()?;
    c2.finish()?;
    c3.finish()?;
    c.try_r()?;
    let fetched = fetch(&c, &m, Object::binder(0x40, 4))?;
    c.w(commands![free(fetched.buffer())])?;
    Ok(())
}

fn wakes_looper(world: &World) -> Result {
    let (_m, s, c, _handle) = watched(world)?;
    let c2 = c.thread("C.2")?;
    c.start(commands![])?;
    c2.start(commands![enter_looper()])?;
    s.kill()?;
    c2.finish()?;
    c.still_parked()?;
    c.interrupt()?;
    c.finish()?;
    Ok(())
}
