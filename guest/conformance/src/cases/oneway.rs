//! Oneway calls: order, backlog, budget, spam.

use super::{Case, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{call, free, reply};
use crate::uapi::ioctl;
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "oneway-order", covers: "B146, B148, B149, B150", play: order },
    Case { name: "oneway-by-another-thread", covers: "B146, B084", play: freed_by_another },
    Case { name: "oneway-nodes", covers: "B147", play: nodes },
    Case { name: "oneway-sync-bypass", covers: "B147", play: sync_bypass },
    Case { name: "oneway-to-back-of-queue", covers: "B146", play: back_of_queue },
    Case { name: "async-budget", covers: "B128, B349, B350, B351, B502", play: budget },
    Case { name: "oneway-spam", covers: "B057, B138, B151, B152, B153, B154", play: spam },
    Case { name: "oneway-spam-off", covers: "B138, B152", play: spam_off },
];

/// The next oneway of a node comes when the buffer of the last one is freed.
fn order(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for code in 1..=3 {
        c.wr(commands![call(0, code).oneway()])?;
    }
    let first = m.r()?.received()?;
    m.try_r()?;
    let second = m.try_wr(commands![free(first.buffer())])?.received()?;
    m.try_wr(commands![free(first.buffer() + 0x100)])?;
    let third = m.try_wr(commands![free(second.buffer())])?.received()?;
    m.try_wr(commands![free(third.buffer())])?;
    Ok(())
}

fn freed_by_another(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    c.wr(commands![call(0, 2).oneway()])?;
    let first = m.r()?.received()?;
    m.start(commands![])?;
    m2.w(commands![free(first.buffer())])?;
    m.finish()?;
    Ok(())
}

/// Different nodes do not wait for each other.
fn nodes(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let one = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let two = publish(&s, &m, &c, Object::binder(0x20, 2))?;
    for (handle, code) in [(one, 1), (one, 2), (two, 3), (two, 4)] {
        c.wr(commands![call(handle, code).oneway()])?;
    }
    let first = s.r()?.received()?;
    let third = s.r()?.received()?;
    s.try_r()?;
    let fourth = s.try_wr(commands![free(third.buffer())])?.received()?;
    let second = s.try_wr(commands![free(first.buffer())])?.received()?;
    s.try_wr(commands![free(second.buffer()), free(fourth.buffer())])?;
    Ok(())
}

fn sync_bypass(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for code in 1..=2 {
        c.wr(commands![call(0, code).oneway()])?;
    }
    let first = m.r()?.received()?;
    c.start(commands![call(0, 3)])?;
    let request = m.r()?.received()?;
    m.wr(commands![reply(), free(request.buffer())])?;
    c.finish()?;
    m.try_wr(commands![free(first.buffer())])?;
    Ok(())
}

/// A released oneway queues behind what came in meanwhile.
fn back_of_queue(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let d = world.process("D")?;
    c.wr(commands![call(0, 1).oneway()])?;
    c.wr(commands![call(0, 2).oneway()])?;
    let first = m.r()?.received()?;
    d.start(commands![call(0, 3)])?;
    m.w(commands![free(first.buffer())])?;
    let request = m.r()?.received()?;
    m.wr(commands![reply(), free(request.buffer())])?;
    m.try_r()?;
    d.finish()?;
    Ok(())
}

/// Oneways may use half of the mapping, to the byte; synchronous calls all of it.
fn budget(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 16 << 10)?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().pattern(8193, 0)])?;
    c.wr(commands![call(0, 1).oneway().pattern(8000, 0)])?;
    c.wr(commands![call(0, 2).oneway().pattern(193, 0)])?;
    c.wr(commands![call(0, 3).oneway().pattern(184, 0)])?;
    c.wr(commands![call(0, 4).oneway().pattern(8, 0)])?;
    c.wr(commands![call(0, 5).oneway()])?;
    world.note("nothing is left, also for an empty one; a call has the rest");
    let d = world.process("D")?;
    d.start(commands![call(0, 6).pattern(8192, 0)])?;
    let first = m.r()?.received()?;
    let second = m.try_wr(commands![free(first.buffer())])?.received()?;
    c.wr(commands![call(0, 7).oneway().pattern(8000, 0)])?;
    m.w(commands![free(second.buffer()), reply()])?;
    m.try_r()?;
    Ok(())
}

fn spam(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 64 << 10)?;
    let c = world.process("C")?;
    c.ioctl("SPAM_DETECTION", ioctl::ENABLE_ONEWAY_SPAM_DETECTION, &1u32.to_le_bytes())?;
    for code in 1..=17 {
        c.wr(commands![call(0, code).oneway().pattern(2048, 0)])?;
    }
    world.note("once an episode: with room again, then short of it again");
    let mut last = m.r()?.received()?;
    for _ in 0..8 {
        last = m.wr(commands![free(last.buffer())])?.received()?;
    }
    for code in 18..=24 {
        c.wr(commands![call(0, code).oneway().pattern(2048, 0)])?;
    }
    Ok(())
}

fn spam_off(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 64 << 10)?;
    let c = world.process("C")?;
    c.ioctl("SPAM_DETECTION off", ioctl::ENABLE_ONEWAY_SPAM_DETECTION, &0u32.to_le_bytes())?;
    for code in 1..=14 {
        c.wr(commands![call(0, code).oneway().pattern(2048, 0)])?;
    }
    m.r()?;
    Ok(())
}
