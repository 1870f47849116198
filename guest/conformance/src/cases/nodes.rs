//! The owner's side of a node: what it is told about references, and when.

use super::{Case, fetch, give, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, acquire_done, call, decrefs, free, increfs, increfs_done, release, reply};
use crate::uapi::ioctl;
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "export", covers: "B112, B175, B178, B231, B232, B235, B237, B244", play: export },
    Case { name: "export-in-call", covers: "B236, B092", play: export_in_call },
    Case { name: "export-in-reply", covers: "B233", play: export_in_reply },
    Case { name: "weak-export", covers: "B234, B243", play: weak_export },
    Case { name: "done-gating", covers: "B238, B239, B240, B241", play: done_gating },
    Case { name: "release-then-acquire", covers: "B243, B255", play: release_then_acquire },
    Case { name: "gain-and-loss-cancel", covers: "B242", play: gain_and_loss },
    Case { name: "call-pins-node", covers: "B180, B245, B228", play: call_pins_node },
    Case { name: "node-forgotten", covers: "B246, B175, B176", play: node_forgotten },
    Case { name: "same-node-again", covers: "B176, B179, B177", play: same_node_again },
    Case { name: "failed-export", covers: "B225, B226, B227", play: failed_export },
    Case { name: "client-death-drops", covers: "B262, B237", play: client_death_drops },
    Case { name: "node-debug-info", covers: "B053", play: node_debug_info },
    Case { name: "node-info-for-ref", covers: "B054", play: node_info_for_ref },
];

const PTR: u64 = 0x1000;
const COOKIE: u64 = 0x2000;

fn export(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::binder_with(PTR, COOKIE, 0x17f))?;
    s.w(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    s.try_r()?;
    m.w(commands![free(given.buffer())])?;
    s.r()?;
    s.try_r()?;
    Ok(())
}

/// The reference work of a call's object is withheld with the completion.
fn export_in_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    s.start(commands![call(0, 1).object(Object::binder(PTR, COOKIE))])?;
    let request = m.r()?.received()?;
    m.wr(commands![acquire(request.handle(0)?), free(request.buffer()), reply()])?;
    s.finish()?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    m.w(commands![release(request.handle(0)?)])?;
    s.r()?;
    Ok(())
}

fn export_in_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let fetched = fetch(&c, &m, Object::binder(PTR, COOKIE))?;
    m.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    let handle = fetched.handle(0)?;
    c.w(commands![acquire(handle), free(fetched.buffer())])?;
    c.wr(commands![call(handle, 7).oneway()])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    c.w(commands![release(handle)])?;
    m.r()?;
    Ok(())
}

fn weak_export(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::weak_binder(PTR, COOKIE))?;
    s.try_wr(commands![increfs_done(PTR, COOKIE)])?;
    let weak = match Object::decode(&given.contents.data) {
        Some(Object::Handle { handle, .. }) => handle,
        _ => return crate::world::unexpected("no handle"),
    };
    m.w(commands![increfs(weak), free(given.buffer())])?;
    s.try_r()?;
    world.note("the same node strongly: only ACQUIRE is new, then RELEASE alone");
    let strong = give(&s, &m, Object::binder(PTR, COOKIE))?;
    s.try_wr(commands![acquire_done(PTR, COOKIE)])?;
    m.w(commands![free(strong.buffer())])?;
    s.r()?;
    m.w(commands![decrefs(weak)])?;
    s.r()?;
    s.try_r()?;
    Ok(())
}

/// RELEASE and DECREFS wait for the owner's DONEs.
fn done_gating(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::binder(PTR, COOKIE))?;
    m.w(commands![free(given.buffer())])?;
    s.try_r()?;
    s.try_wr(commands![acquire_done(PTR, COOKIE + 1), acquire_done(PTR + 8, COOKIE)])?;
    s.try_wr(commands![acquire_done(PTR, COOKIE)])?;
    s.try_wr(commands![acquire_done(PTR, COOKIE)])?;
    s.try_wr(commands![increfs_done(PTR, COOKIE)])?;
    s.try_wr(commands![increfs_done(PTR, COOKIE)])?;
    Ok(())
}

fn release_then_acquire(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::binder(PTR, COOKIE))?;
    let handle = given.handle(0)?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    m.w(commands![acquire(handle), acquire(handle), increfs(handle), free(given.buffer())])?;
    m.w(commands![release(handle)])?;
    s.try_r()?;
    m.w(commands![release(handle)])?;
    s.r()?;
    world.note("the weak count holds the node; a new strong reference is an ACQUIRE only");
    let again = give(&s, &m, Object::binder(PTR, COOKIE))?;
    s.try_wr(commands![acquire_done(PTR, COOKIE)])?;
    m.w(commands![free(again.buffer())])?;
    s.r()?;
    m.w(commands![decrefs(handle)])?;
    s.r()?;
    Ok(())
}

/// References that come and go before the owner reads are not reported.
fn gain_and_loss(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    s.w(commands![call(0, 1).oneway().object(Object::binder(PTR, COOKIE))])?;
    let given = m.r()?.received()?;
    m.w(commands![free(given.buffer())])?;
    s.r()?;
    s.try_r()?;
    world.note("the pointer is free for another cookie");
    s.wr(commands![call(0, 2).oneway().object(Object::binder(PTR, COOKIE + 8))])?;
    Ok(())
}

/// A call holds its target until its buffer is freed.
fn call_pins_node(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(PTR, COOKIE))?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    c.wr(commands![call(handle, 1).oneway()])?;
    c.w(commands![release(handle)])?;
    let event = s.r()?.received()?;
    s.try_r()?;
    s.wr(commands![free(event.buffer())])?;
    s.try_r()?;
    Ok(())
}

fn node_forgotten(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    for cookie in [COOKIE, COOKIE + 0x100] {
        let given = give(&s, &m, Object::binder(PTR, cookie))?;
        s.try_wr(commands![increfs_done(PTR, cookie), acquire_done(PTR, cookie)])?;
        m.w(commands![free(given.buffer())])?;
        s.r()?;
    }
    Ok(())
}

fn same_node_again(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let first = give(&s, &m, Object::binder(0, COOKIE))?;
    let again = Object::binder_with(0, COOKIE, 0x1ff);
    s.wr(commands![call(0, 1).oneway().object(again).object(Object::weak_binder(0, COOKIE))])?;
    m.wr(commands![free(first.buffer())])?;
    world.note("another cookie is refused");
    s.wr(commands![call(0, 1).oneway().object(Object::binder(0, COOKIE + 8))])?;
    Ok(())
}

/// What the first objects did is undone when a later one fails.
fn failed_export(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let bad = call(0, 1).oneway().object(Object::binder(PTR, COOKIE)).object(Object::handle(55));
    s.wr(commands![bad])?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    m.try_r()?;
    world.note("the pointer is free for another cookie, the handle number for another node");
    let given = give(&s, &m, Object::binder(PTR, COOKIE + 8))?;
    given.handle(0)?;
    Ok(())
}

fn client_death_drops(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(PTR, COOKIE))?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    c.w(commands![acquire(handle), increfs(handle)])?;
    c.kill()?;
    s.r()?;
    s.try_r()?;
    Ok(())
}

fn node_debug_info(world: &World) -> Result {
    let _m = world.manager("M")?;
    let s = world.server("S")?;
    let next = |after: u64| {
        let mut argument = after.to_le_bytes().to_vec();
        argument.resize(24, 0);
        s.ioctl(&format!("NODE_DEBUG_INFO after {after:#x}"), ioctl::GET_NODE_DEBUG_INFO, &argument)
    };
    next(0)?;
    s.wr(commands![
        call(0, 1).oneway().object(Object::binder(0x30, 3)).object(Object::weak_binder(0x10, 1))
    ])?;
    s.wr(commands![call(0, 1).oneway().object(Object::binder(0x20, 2))])?;
    next(0)?;
    next(0x10)?;
    next(0x20)?;
    next(0x30)?;
    next(u64::MAX)?;
    Ok(())
}

fn node_info_for_ref(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let ask = |handle: u32, other: u32| {
        let mut argument = handle.to_le_bytes().to_vec();
        argument.extend(other.to_le_bytes());
        argument.resize(24, 0);
        m.ioctl(&format!("NODE_INFO_FOR_REF {handle}"), ioctl::GET_NODE_INFO_FOR_REF, &argument)
    };
    let given = give(&s, &m, Object::binder(PTR, COOKIE))?;
    let handle = given.handle(0)?;
    ask(handle, 0)?;
    s.try_wr(commands![increfs_done(PTR, COOKIE), acquire_done(PTR, COOKIE)])?;
    ask(handle, 0)?;
    m.w(commands![acquire(handle), increfs(handle)])?;
    ask(handle, 0)?;
    fetch(&c, &m, Object::handle(handle))?;
    ask(handle, 0)?;
    ask(handle, 1)?;
    ask(99, 0)?;
    s.wr(commands![call(0, 1).oneway().object(Object::weak_binder(0x50, 0x60))])?;
    let weak = m.wr(commands![free(given.buffer())])?.received()?;
    ask(weak.handle(0)?, 0)?;
    world.note("only the manager may ask");
    let mut argument = vec![0; 24];
    argument[0] = 1;
    c.ioctl("NODE_INFO_FOR_REF", ioctl::GET_NODE_INFO_FOR_REF, &argument)?;
    c.start(commands![call(0, 3)])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply()])?;
    c.finish()?;
    Ok(())
}
