//! Synchronous calls and their replies.

use super::Case;
use crate::commands;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{Result, World};

pub const CASES: &[Case] =
    &[Case { name: "sync-call", covers: "B092, B130, B132, B304, B314, B330, B345", play: sync_call }];

fn sync_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.start(commands![enter_looper()])?;
    c.start(commands![call(0, 0x10).bytes(b"ping")])?;
    let request = m.finish()?.received()?;
    m.wr(commands![free(request.buffer()), reply().bytes(b"pong!")])?;
    let answer = c.finish()?.received()?;
    c.w(commands![free(answer.buffer())])?;
    c.try_r()?;
    m.try_r()?;
    Ok(())
}
