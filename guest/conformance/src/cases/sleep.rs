//! What ends a sleep: signals, need-return, closing a duplicate; and what must survive it.

use super::Case;
use crate::commands;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{Result, World};
use crate::write_read::Io;

pub const CASES: &[Case] = &[
    Case { name: "signal-idle", covers: "B077, B086", play: signal_idle },
    Case { name: "signal-waiting-for-reply", covers: "B086, B315", play: signal_waiting },
    Case { name: "signal-with-write", covers: "B086, B077", play: signal_with_write },
    Case { name: "flush-wakes", covers: "B028, B029, B089", play: flush_wakes },
    Case { name: "flush-flushes-deferred", covers: "B029, B082, B089", play: flush_deferred },
    Case { name: "nonblock-by-fcntl", covers: "B004", play: nonblock_by_fcntl },
    Case { name: "last-close", covers: "B030, B276", play: last_close },
];

fn signal_idle(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.start(commands![])?;
    m.interrupt()?;
    m.finish()?;
    m.try_r()?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    Ok(())
}

/// The call stays outstanding; a later read of the thread has the reply.
fn signal_waiting(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1)])?;
    c.interrupt()?;
    c.finish()?;
    let request = m.r()?.received()?;
    c.start(commands![])?;
    c.interrupt()?;
    c.finish()?;
    m.wr(commands![reply().bytes(b"kept"), free(request.buffer())])?;
    c.r()?;
    Ok(())
}

/// The commands are done and counted, though the call returns EINTR.
fn signal_with_write(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start_io(Io { read_consumed: 4, ..Io::new(commands![enter_looper(), call(0, 1)]) })?;
    c.interrupt()?;
    c.finish()?;
    m.r()?;
    Ok(())
}

/// Closing any duplicate makes every thread return once.
fn flush_wakes(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    let m3 = m.thread("M.3")?;
    m2.start(commands![enter_looper()])?;
    let copy = m.sys("dup", libc::SYS_dup, &[m.device() as u64])?;
    m.sys("close the duplicate", libc::SYS_close, &[copy as u64])?;
    m2.finish()?;
    m3.try_r()?;
    m3.try_r()?;
    m.try_r()?;
    m.try_r()?;
    m2.try_r()?;
    Ok(())
}

/// A withheld completion comes out with the early return.
fn flush_deferred(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let c2 = c.thread("C.2")?;
    c.start(commands![call(0, 1)])?;
    let copy = c2.sys("dup", libc::SYS_dup, &[c2.device() as u64])?;
    c2.sys("close the duplicate", libc::SYS_close, &[copy as u64])?;
    c.finish()?;
    m.r()?.received()?;
    m.wr(commands![reply()])?;
    c.r()?;
    Ok(())
}

fn nonblock_by_fcntl(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    m.set_flags(libc::O_NONBLOCK)?;
    m.r()?;
    m2.r()?;
    m.set_flags(0)?;
    m2.start(commands![])?;
    m2.interrupt()?;
    m2.finish()?;
    Ok(())
}

/// A process of the driver lives as long as its open file: here a forked child keeps it.
fn last_close(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let child = m.fork("K")?;
    m.kill()?;
    c.wr(commands![call(0, 1).oneway()])?;
    child.kill()?;
    c.wr(commands![call(0, 1).oneway()])?;
    Ok(())
}
