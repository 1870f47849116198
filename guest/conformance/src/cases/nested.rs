//! Calls inside calls, and who gets them.

use super::{Case, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "nested-call", covers: "B298, B299, B301, B312", play: nested_call },
    Case { name: "nested-deep", covers: "B301, B302", play: nested_deep },
    Case { name: "nested-through-third", covers: "B298, B301", play: through_third },
    Case { name: "nested-oneway", covers: "B300, B312, B023", play: nested_oneway },
    Case { name: "nested-not-reading", covers: "B298, B299", play: not_reading },
    Case { name: "other-thread-calls-back", covers: "B298, B084", play: other_thread },
    Case { name: "chain-death", covers: "B310, B305", play: chain_death },
];

/// The thread that waits gets the call back, not the pool.
fn nested_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    let idle = c.thread("C.2")?;
    idle.start(commands![enter_looper()])?;
    c.start(commands![call(to_s, 1)])?;
    let outer = s.r()?.received()?;
    s.start(commands![call(to_c, 2)])?;
    let inner = c.finish()?.received()?;
    idle.still_parked()?;
    world.note("the inner call is to be answered first");
    c.wr(commands![free(inner.buffer()), reply().bytes(b"inner")])?;
    let answer = s.finish()?.received()?;
    s.w(commands![free(answer.buffer()), free(outer.buffer()), reply().bytes(b"outer")])?;
    c.r()?;
    s.r()?;
    Ok(())
}

/// A to B to A to B ..., in the same two threads.
fn nested_deep(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    c.start(commands![call(to_s, 0)])?;
    s.r()?.received()?;
    for depth in 1..6 {
        let (from, to, handle) = if depth % 2 == 1 { (&s, &c, to_c) } else { (&c, &s, to_s) };
        from.start(commands![call(handle, depth)])?;
        to.finish()?.received()?;
    }
    for depth in (0..6).rev() {
        let (by, to) = if depth % 2 == 1 { (&c, &s) } else { (&s, &c) };
        by.wr(commands![reply().bytes(&[depth as u8])])?;
        to.finish()?.received()?;
        if depth > 0 {
            by.start(commands![])?;
        }
    }
    Ok(())
}

/// A to B to C to A: the thread of A that waits for B is found through the chain.
fn through_third(world: &World) -> Result {
    let a = world.manager("A")?;
    let b = world.server("B")?;
    let c = world.server("C")?;
    let b_of_c = publish(&c, &a, &b, Object::binder(0x30, 3))?;
    let given = super::give(&b, &a, Object::binder(0x20, 2))?;
    a.start(commands![call(given.handle(0)?, 1)])?;
    b.r()?.received()?;
    b.start(commands![call(b_of_c, 2)])?;
    c.r()?.received()?;
    c.start(commands![call(0, 3)])?;
    a.finish()?.received()?;
    a.w(commands![reply().bytes(b"a")])?;
    c.finish()?.received()?;
    c.w(commands![reply().bytes(b"c")])?;
    b.finish()?.received()?;
    b.w(commands![reply().bytes(b"b")])?;
    a.r()?;
    a.try_r()?;
    Ok(())
}

/// A oneway goes to the pool; the waiting thread takes no process work.
fn nested_oneway(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.server("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    c.try_wr(commands![call(to_s, 1)])?;
    s.r()?.received()?;
    s.wr(commands![call(to_c, 2).oneway()])?;
    c.try_r()?;
    c.poll()?;
    s.wr(commands![reply()])?;
    c.r()?;
    c.poll()?;
    c.r()?;
    Ok(())
}

/// The chosen thread is chosen even while it is elsewhere.
fn not_reading(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    let idle = c.thread("C.2")?;
    idle.start(commands![enter_looper()])?;
    c.try_wr(commands![call(to_s, 1)])?;
    s.r()?.received()?;
    s.start(commands![call(to_c, 2)])?;
    idle.still_parked()?;
    c.r()?.received()?;
    c.w(commands![reply()])?;
    s.finish()?;
    Ok(())
}

/// A call back from a thread outside the chain goes to the pool.
fn other_thread(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    let idle = c.thread("C.2")?;
    idle.start(commands![enter_looper()])?;
    c.start(commands![call(to_s, 1)])?;
    s.r()?.received()?;
    let s2 = s.thread("S.2")?;
    s2.start(commands![call(to_c, 2)])?;
    idle.finish()?.received()?;
    c.still_parked()?;
    idle.wr(commands![reply().bytes(b"pool")])?;
    s2.finish()?;
    s.w(commands![reply()])?;
    c.finish()?;
    Ok(())
}

/// The middle of a chain goes away: its caller hears of it only when the end of the chain answers.
fn chain_death(world: &World) -> Result {
    let m = world.manager("M")?;
    let b = world.server("B")?;
    let c = world.server("C")?;
    let a = world.process("A")?;
    let to_b = publish(&b, &m, &a, Object::binder(0x20, 2))?;
    let to_c = publish(&c, &m, &b, Object::binder(0x30, 3))?;
    a.start(commands![call(to_b, 1)])?;
    b.r()?.received()?;
    b.try_wr(commands![call(to_c, 2)])?;
    c.r()?.received()?;
    b.thread_exit()?;
    a.still_parked()?;
    c.wr(commands![reply()])?;
    a.finish()?;
    Ok(())
}
