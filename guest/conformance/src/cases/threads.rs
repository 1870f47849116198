//! Which thread gets work, and what becomes of the work of a thread that exits.

use super::{Case, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "last-parked-first", covers: "B083, B467", play: last_parked_first },
    Case { name: "queue-order", covers: "B081, B084", play: queue_order },
    Case { name: "reply-to-its-thread", covers: "B304, B085", play: reply_to_its_thread },
    Case { name: "plain-thread-reads", covers: "B024, B101", play: plain_thread_reads },
    Case { name: "exit-owing-a-reply", covers: "B052, B305, B306, B501", play: exit_owing },
    Case { name: "exit-with-queued-work", covers: "B307, B308", play: exit_waiting },
    Case { name: "caller-exits-before-read", covers: "B309, B330", play: caller_exits_early },
    Case { name: "caller-dies-before-read", covers: "B309", play: caller_dies_early },
    Case { name: "caller-dies-before-reply", covers: "B308", play: caller_dies_late },
    Case { name: "linux-thread-ends", covers: "B510", play: linux_thread_ends },
    Case { name: "server-dies", covers: "B123, B311, B134", play: server_dies },
];

fn last_parked_first(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    let m3 = m.thread("M.3")?;
    let c = world.process("C")?;
    m.start(commands![])?;
    m2.start(commands![enter_looper()])?;
    m3.start(commands![enter_looper()])?;
    for (thread, code) in [(&m3, 1), (&m2, 2), (&m, 3)] {
        let d = c.thread(&format!("C.{code}"))?;
        d.start(commands![call(0, code)])?;
        thread.finish()?.received()?;
        thread.w(commands![reply()])?;
        d.finish()?;
    }
    Ok(())
}

fn queue_order(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let threads = [c.thread("C.1")?, c.thread("C.2")?, c.thread("C.3")?];
    for (index, thread) in threads.iter().enumerate() {
        thread.start(commands![call(0, index as u32)])?;
    }
    for thread in &threads {
        let request = m.r()?.received()?;
        m.wr(commands![free(request.buffer()), reply()])?;
        thread.finish()?;
    }
    Ok(())
}

/// Only the calling thread can read the reply.
fn reply_to_its_thread(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.w(commands![enter_looper()])?;
    let c2 = c.thread("C.2")?;
    c.start(commands![call(0, 1)])?;
    c2.start(commands![enter_looper()])?;
    m.r()?.received()?;
    m.wr(commands![reply()])?;
    c2.still_parked()?;
    c.finish()?;
    c2.interrupt()?;
    c2.finish()?;
    Ok(())
}

fn plain_thread_reads(world: &World) -> Result {
    let m = world.manager("M")?;
    let plain = m.thread("M.2")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1)])?;
    plain.r()?.received()?;
    plain.wr(commands![reply()])?;
    c.finish()?;
    Ok(())
}

fn exit_owing(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1)])?;
    m.r()?.received()?;
    m.thread_exit()?;
    c.finish()?;
    world.note("the thread is a new one: an early return, no stack");
    m.try_r()?;
    m.wr(commands![reply()])?;
    Ok(())
}

/// A caller that exits while it waits: the server's reply goes nowhere.
fn exit_waiting(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1)])?;
    let request = m.r()?.received()?;
    c.thread_exit()?;
    m.wr(commands![reply(), free(request.buffer())])?;
    m.extended_error()?;
    c.try_r()?;
    c.try_r()?;
    world.note("a call in the exiting thread's own queue fails");
    let s = world.server("S")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    c.try_wr(commands![call(to_s, 1)])?;
    s.r()?.received()?;
    s.start(commands![call(to_c, 2)])?;
    c.thread_exit()?;
    s.finish()?;
    s.wr(commands![reply()])?;
    Ok(())
}

fn caller_exits_early(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1).bytes(b"from nobody")])?;
    c.thread_exit()?;
    m.r()?.received()?;
    m.wr(commands![reply()])?;
    Ok(())
}

fn caller_dies_early(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1).bytes(b"from the dead")])?;
    c.wr(commands![call(0, 2).oneway().bytes(b"event")])?;
    c.kill()?;
    let request = m.r()?.received()?;
    m.wr(commands![reply(), free(request.buffer())])?;
    m.r()?;
    Ok(())
}

fn caller_dies_late(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1)])?;
    m.r()?.received()?;
    c.kill()?;
    m.wr(commands![reply().bytes(b"too late")])?;
    m.extended_error()?;
    m.try_r()?;
    Ok(())
}

/// The driver does not notice: the call stays owed until the process goes.
fn linux_thread_ends(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    let c = world.process("C")?;
    m2.w(commands![enter_looper()])?;
    c.start(commands![call(0, 1)])?;
    m2.r()?.received()?;
    m2.leave()?;
    c.still_parked()?;
    m.wr(commands![reply()])?;
    m.kill()?;
    c.finish()?;
    Ok(())
}

/// Calls that the server read and calls it did not read fail alike.
fn server_dies(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let c2 = c.thread("C.2")?;
    c.start(commands![call(0, 1)])?;
    m.r()?.received()?;
    c2.start(commands![call(0, 2)])?;
    m.kill()?;
    c.finish()?;
    c2.finish()?;
    c.wr(commands![call(0, 3)])?;
    Ok(())
}
