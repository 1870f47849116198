//! Where buffers are placed, when they may be freed, and what is left in them.

use super::Case;
use crate::commands;
use crate::stream::{call, free, reply};
use crate::uapi::tf;
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "packed", covers: "B344, B345", play: packed },
    Case { name: "best-fit", covers: "B346, B347", play: best_fit },
    Case { name: "fragmented", covers: "B347, B128", play: fragmented },
    Case { name: "free-misuse", covers: "B110, B359, B360, B361, B474", play: free_misuse },
    Case { name: "free-undelivered", covers: "B110, B359, B474", play: free_undelivered },
    Case { name: "clear-buf", covers: "B143, B356", play: clear_buf },
];

/// Back to back from offset 0; also nothing takes eight bytes.
fn packed(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for size in [0, 0, 1, 8, 9, 0] {
        c.wr(commands![call(0, size).oneway().pattern(size as usize, 0)])?;
    }
    let mut last = m.r()?.received()?;
    for _ in 0..5 {
        last = m.wr(commands![free(last.buffer())])?.received()?;
    }
    Ok(())
}

/// Sends one call from each of some threads, so that all are delivered at once: their buffers.
fn holes(world: &World, sizes: &[usize]) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let mut buffers = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let thread = c.thread(&format!("C.{}", index + 1))?;
        thread.try_wr(commands![call(0, index as u32).pattern(*size, 0)])?;
    }
    for _ in sizes {
        let request = m.r()?.received()?;
        m.wr(commands![reply()])?;
        buffers.push(request.buffer());
    }
    world.note("every second buffer goes");
    for buffer in buffers.iter().skip(1).step_by(2) {
        m.w(commands![free(*buffer)])?;
    }
    for (code, size) in [(10, 4992), (11, 96), (12, 40), (13, 1000)] {
        c.wr(commands![call(0, code).oneway().pattern(size, 0)])?;
    }
    let mut last = m.r()?.received()?;
    for _ in 0..3 {
        last = m.wr(commands![free(last.buffer())])?.received()?;
    }
    Ok(())
}

fn best_fit(world: &World) -> Result {
    holes(world, &[100, 5000, 100, 48, 100])?;
    Ok(())
}

/// Room in all, but not in one piece; neighbours join at once.
fn fragmented(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 8 << 10)?;
    let c = world.process("C")?;
    let mut buffers = Vec::new();
    for code in 0..4 {
        let thread = c.thread(&format!("C.{code}"))?;
        thread.try_wr(commands![call(0, code).pattern(2048, 0)])?;
        let request = m.r()?.received()?;
        m.wr(commands![reply()])?;
        buffers.push(request.buffer());
    }
    m.w(commands![free(buffers[0]), free(buffers[2])])?;
    c.wr(commands![call(0, 9).oneway().pattern(4096, 0)])?;
    m.w(commands![free(buffers[1])])?;
    c.wr(commands![call(0, 9).oneway().pattern(4096, 0)])?;
    m.try_r()?;
    Ok(())
}

fn free_misuse(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).bytes(&[7; 32])])?;
    let request = m.r()?.received()?;
    m.wr(commands![reply().bytes(&[8; 32])])?;
    let answer = c.finish()?.received()?;
    world.note("0, inside, beyond, another process's, twice");
    m.try_wr(commands![
        free(0),
        free(request.buffer() + 8),
        free(request.buffer() + 0x2000),
        free(u64::MAX)
    ])?;
    m.try_wr(commands![free(answer.buffer())])?;
    c.try_wr(commands![free(answer.buffer()), free(answer.buffer())])?;
    m.try_wr(commands![free(request.buffer()), free(request.buffer())])?;
    world.note("the place is used again at once");
    c.wr(commands![call(0, 2).oneway().bytes(&[9; 32])])?;
    m.r()?;
    m.try_wr(commands![free(request.buffer())])?;
    Ok(())
}

fn free_undelivered(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway().bytes(&[1; 16])])?;
    m.try_wr(commands![free(m.map_start())])?;
    c.wr(commands![call(0, 2).oneway().bytes(&[2; 16])])?;
    m.w(commands![free(m.map_start() + 16)])?;
    m.w(commands![free(m.map_start())])?;
    m.try_r()?;
    Ok(())
}

fn clear_buf(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for flags in [0, tf::CLEAR_BUF] {
        c.wr(commands![call(0, 1).oneway().flags(flags).bytes(&[0x5a; 16])])?;
        let event = m.try_r()?.received()?;
        m.w(commands![free(event.buffer())])?;
        m.touch(event.buffer())?;
        m.touch(event.buffer() + 15)?;
    }
    world.note("a reply's buffer in the caller");
    c.start(commands![call(0, 2)])?;
    m.r()?;
    m.wr(commands![reply().flags(tf::CLEAR_BUF).bytes(&[0x5b; 16])])?;
    let answer = c.finish()?.received()?;
    c.w(commands![free(answer.buffer())])?;
    c.touch(answer.buffer())?;
    Ok(())
}
