//! Pids and uids across namespaces.

use super::Case;
use crate::actor::Actor;
use crate::commands;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "pid-namespace-sender", covers: "B330, B367", play: pid_sender },
    Case { name: "pid-namespace-reader", covers: "B330", play: pid_reader },
    Case { name: "user-namespace-reader", covers: "B331", play: user_reader },
    Case { name: "user-namespace-sender", covers: "B331, B332", play: user_sender },
];

fn unshare(actor: &Actor<'_>, what: &str, flag: i32) -> Result {
    actor.sys(&format!("unshare {what}"), libc::SYS_unshare, &[flag as u64])?;
    Ok(())
}

/// Writes text into a file of /proc.
pub(super) fn write_file(actor: &Actor<'_>, path: &str, text: &str) -> Result {
    let name = actor.place(format!("{path}\0").as_bytes())?;
    let fd = actor.ask(libc::SYS_openat, &[libc::AT_FDCWD as u64, name, libc::O_WRONLY as u64, 0])?;
    let bytes = actor.place(text.as_bytes())?;
    actor.sys(
        &format!("write {text:?} to {path}"),
        libc::SYS_write,
        &[fd as u64, bytes, text.len() as u64],
    )?;
    actor.ask(libc::SYS_close, &[fd as u64])?;
    Ok(())
}

/// A reader outside sees the number outside.
fn pid_sender(world: &World) -> Result {
    let m = world.manager("M")?;
    let parent = world.spawn("P")?;
    unshare(&parent, "pid", libc::CLONE_NEWPID)?;
    let child = parent.fork("K")?;
    child.use_device("binder", MAP_SIZE)?;
    child.start(commands![call(0, 1)])?;
    m.r()?;
    m.wr(commands![reply()])?;
    child.finish()?;
    world.note("BINDER_FREEZE knows it by that number, too");
    super::freeze::set(&m, &child, 1, 0)?;
    super::freeze::set(&m, &child, 0, 0)?;
    Ok(())
}

/// A reader inside sees 0 for who is outside, and the inner number for who is inside.
fn pid_reader(world: &World) -> Result {
    let parent = world.spawn("P")?;
    unshare(&parent, "pid", libc::CLONE_NEWPID)?;
    let manager = parent.fork("K")?;
    manager.use_device("binder", MAP_SIZE)?;
    manager.become_manager()?;
    manager.w(commands![enter_looper()])?;
    let outside = world.process("C")?;
    let inside = parent.fork("L")?;
    inside.use_device("binder", MAP_SIZE)?;
    for caller in [&outside, &inside] {
        caller.start(commands![call(0, 1)])?;
        let request = manager.r()?.received()?;
        manager.wr(commands![free(request.buffer()), reply()])?;
        caller.finish()?;
    }
    Ok(())
}

/// A uid without a name in the reader's namespace is -1, not the overflow uid.
fn user_reader(world: &World) -> Result {
    let m = world.spawn("M")?;
    unshare(&m, "user", libc::CLONE_NEWUSER)?;
    m.use_device("binder", MAP_SIZE)?;
    m.become_manager()?;
    m.w(commands![enter_looper()])?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    world.note("uid 0 outside is 5 inside");
    write_file(&m, "/proc/self/uid_map", "5 0 1")?;
    c.wr(commands![call(0, 1).oneway()])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    c.sys("setresuid euid=1000", libc::SYS_setresuid, &[u64::MAX, 1000, u64::MAX])?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    Ok(())
}

/// What the sender calls itself does not matter.
fn user_sender(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.spawn("C")?;
    unshare(&c, "user", libc::CLONE_NEWUSER)?;
    write_file(&c, "/proc/self/uid_map", "7 0 1")?;
    c.use_device("binder", MAP_SIZE)?;
    c.sys("geteuid", libc::SYS_geteuid, &[])?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    Ok(())
}
