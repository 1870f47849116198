//! OpenBinder's attempt-acquire, which no Linux driver has and ours only where the guest's driver was loaded with it.

use super::{Case, publish};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{Command, acquire_done, call, decrefs, free, increfs, increfs_done, release, reply};
use crate::uapi::bc;
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "attempt-given", covers: "B458", play: given },
    Case { name: "attempt-refused", covers: "B458", play: refused },
    Case { name: "attempt-unanswered", covers: "B458", play: unanswered },
    Case { name: "attempt-in-calls", covers: "B298, B458", play: in_calls },
    Case { name: "attempt-misuse", covers: "B116, B257, B458", play: misuse },
];

/// BC_ATTEMPT_ACQUIRE.
fn attempt(priority: u32, handle: u32) -> Command {
    Command::Words(bc::ATTEMPT_ACQUIRE, vec![u64::from(priority) | u64::from(handle) << 32])
}

/// BC_ACQUIRE_RESULT.
fn result(value: u32) -> Command {
    Command::Count(bc::ACQUIRE_RESULT, value)
}

/// A server's object that the client holds weakly and nobody strongly, and the client's handle.
fn weakly<'w>(world: &'w World) -> Result<(Actor<'w>, Actor<'w>, Actor<'w>, u32)> {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let (c, handle) = holder("C", world, &s, &m, 0x10)?;
    Ok((m, s, c, handle))
}

/// A process that holds an object of the server weakly, and its handle.
fn holder<'w>(
    name: &str,
    world: &'w World,
    server: &Actor<'w>,
    manager: &Actor<'w>,
    ptr: u64,
) -> Result<(Actor<'w>, u32)> {
    let client = world.process(name)?;
    let handle = publish(server, manager, &client, Object::binder(ptr, 1))?;
    server.w(commands![increfs_done(ptr, 1), acquire_done(ptr, 1)])?;
    client.w(commands![increfs(handle), release(handle)])?;
    server.r()?;
    Ok((client, handle))
}

fn given(world: &World) -> Result {
    let (_m, s, c, handle) = weakly(world)?;
    c.start(commands![attempt(5, handle)])?;
    s.r()?;
    c.still_parked()?;
    s.try_wr(commands![result(1)])?;
    c.finish()?;
    world.note("the handle is strong now");
    c.wr(commands![call(handle, 1).oneway()])?;
    let event = s.r()?.received()?;
    s.w(commands![free(event.buffer())])?;
    world.note("what is held strongly is granted without the owner");
    c.wr(commands![attempt(5, handle)])?;
    s.try_r()?;
    world.note("the owner's count goes back to it once");
    c.w(commands![release(handle), release(handle)])?;
    s.r()?;
    c.w(commands![decrefs(handle)])?;
    s.r()?;
    Ok(())
}

fn refused(world: &World) -> Result {
    let (_m, s, c, handle) = weakly(world)?;
    c.start(commands![attempt(0, handle)])?;
    s.r()?;
    s.try_wr(commands![result(0)])?;
    c.finish()?;
    c.wr(commands![call(handle, 1).oneway()])?;
    world.note("a signal ends the sleep, not the question");
    c.start(commands![attempt(0, handle)])?;
    c.interrupt()?;
    c.finish()?;
    s.r()?;
    s.try_wr(commands![result(1)])?;
    c.r()?;
    Ok(())
}

fn unanswered(world: &World) -> Result {
    let (m, s, c, handle) = weakly(world)?;
    let (d, other) = holder("D", world, &s, &m, 0x20)?;
    world.note("the asker dies: the count goes back");
    d.start(commands![attempt(0, other)])?;
    s.r()?;
    d.kill()?;
    s.wr(commands![result(1)])?;
    world.note("the owner dies");
    c.start(commands![attempt(0, handle)])?;
    s.r()?;
    s.kill()?;
    c.finish()?;
    c.wr(commands![attempt(0, handle)])?;
    Ok(())
}

/// The client asks while it serves a call, and is called by the server while that is asked.
fn in_calls(world: &World) -> Result {
    let (m, s, c, handle) = weakly(world)?;
    let clients = publish(&c, &m, &s, Object::binder(0x30, 3))?;
    let s2 = s.thread("S2")?;
    s2.start(commands![call(clients, 1)])?;
    let request = c.r()?.received()?;
    c.start(commands![free(request.buffer()), attempt(0, handle)])?;
    world.note("the thread that waits for the client is asked");
    s2.finish()?;
    s2.start(commands![call(clients, 2)])?;
    let nested = c.finish()?.received()?;
    c.try_wr(commands![result(1)])?;
    c.wr(commands![free(nested.buffer()), reply()])?;
    let answer = s2.finish()?.received()?;
    s2.wr(commands![free(answer.buffer()), reply()])?;
    s2.start(commands![result(1)])?;
    c.r()?;
    c.wr(commands![reply()])?;
    s2.finish()?;
    Ok(())
}

fn misuse(world: &World) -> Result {
    let (m, s, c, handle) = weakly(world)?;
    world.note("a handle that is not there; the manager's");
    c.wr(commands![attempt(0, 1234)])?;
    c.wr(commands![attempt(0, 0)])?;
    m.try_wr(commands![attempt(0, 0)])?;
    world.note("who waits cannot ask, who was not asked cannot answer");
    c.try_wr(commands![result(1)])?;
    c.try_wr(commands![attempt(0, handle), attempt(0, handle)])?;
    s.r()?;
    s.wr(commands![reply()])?;
    s.try_wr(commands![result(0), result(0)])?;
    c.r()?;
    Ok(())
}
