//! Freeze notifications: there since Linux 6.12, unknown commands before.

use super::freeze::set;
use super::{Case, publish};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{Command, enter_looper, release};
use crate::uapi::bc;
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case {
        name: "freeze-notices",
        covers: "B114, B280, B282, B283, B284, B285, B286, B287, B291",
        play: notices,
    },
    Case { name: "freeze-notice-misuse", covers: "B114, B281", play: misuse },
    Case { name: "freeze-notice-clear", covers: "B288, B292", play: clear },
    Case { name: "freeze-notice-of-the-dead", covers: "B289, B290", play: dead },
];

fn request(handle: u32, cookie: u64) -> Command {
    Command::Watch(bc::REQUEST_FREEZE_NOTIFICATION, handle, cookie)
}

fn withdraw(handle: u32, cookie: u64) -> Command {
    Command::Watch(bc::CLEAR_FREEZE_NOTIFICATION, handle, cookie)
}

fn done(cookie: u64) -> Command {
    Command::Words(bc::FREEZE_NOTIFICATION_DONE, vec![cookie])
}

/// A manager, a server, a looper with a handle to it, and who freezes.
fn cast(world: &World) -> Result<(Actor<'_>, Actor<'_>, Actor<'_>, Actor<'_>, u32)> {
    let m = world.manager("M")?;
    let s = world.process("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    c.w(commands![enter_looper()])?;
    let f = world.process("F")?;
    Ok((m, s, c, f, handle))
}

fn notices(world: &World) -> Result {
    let (_m, s, c, f, handle) = cast(world)?;
    c.try_wr(commands![request(handle, 5)])?;
    world.note("the next one comes after DONE, with the latest state");
    set(&f, &s, 1, 0)?;
    c.try_r()?;
    c.try_wr(commands![done(5)])?;
    set(&f, &s, 0, 0)?;
    set(&f, &s, 1, 0)?;
    c.try_wr(commands![done(5)])?;
    world.note("frozen once more");
    set(&f, &s, 1, 0)?;
    c.try_wr(commands![done(5)])?;
    set(&f, &s, 0, 0)?;
    c.try_wr(commands![done(5)])?;
    c.try_wr(commands![done(5)])?;
    Ok(())
}

fn misuse(world: &World) -> Result {
    let (_m, _s, c, _f, handle) = cast(world)?;
    for command in [request(99, 5), withdraw(handle, 5), done(5)] {
        c.try_wr(commands![enter_looper(), command])?;
    }
    c.try_wr(commands![request(handle, 5), request(handle, 6)])?;
    c.try_wr(commands![withdraw(handle, 6)])?;
    c.try_wr(commands![done(6)])?;
    Ok(())
}

fn clear(world: &World) -> Result {
    let (_m, _s, c, _f, handle) = cast(world)?;
    world.note("not yet read, read, acknowledged");
    c.try_wr(commands![request(handle, 1), withdraw(handle, 1)])?;
    c.try_wr(commands![request(handle, 2)])?;
    c.try_wr(commands![withdraw(handle, 2)])?;
    c.try_wr(commands![done(2)])?;
    c.try_wr(commands![request(handle, 3)])?;
    c.try_wr(commands![done(3), withdraw(handle, 3)])?;
    world.note("the handle goes");
    c.try_wr(commands![request(handle, 4), release(handle)])?;
    c.try_wr(commands![done(4)])?;
    Ok(())
}

fn dead(world: &World) -> Result {
    let (_m, s, c, f, handle) = cast(world)?;
    c.try_wr(commands![request(handle, 1)])?;
    c.try_wr(commands![done(1)])?;
    let other = c.thread("C.2")?;
    world.note("a freeze that fails");
    c.start(commands![crate::stream::call(handle, 1)])?;
    set(&f, &s, 1, 0)?;
    other.try_wr(commands![enter_looper()])?;
    s.kill()?;
    c.finish()?;
    other.try_wr(commands![withdraw(handle, 1)])?;
    other.try_wr(commands![request(handle, 2)])?;
    Ok(())
}
