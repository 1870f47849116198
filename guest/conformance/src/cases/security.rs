//! What SELinux has to say, with the policy of the image `selinux`. `conformance selinux` loads it and plays
//! these cases; they are not among those of `run`, because a policy cannot be taken back.

use std::fs;
use std::io;

use super::fds::pipe;
use super::namespaces::write_file;
use super::{Case, fetch, give};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{call, enter_looper, free, reply};
use crate::uapi::{flat, ioctl, tf};
use crate::world::{MAP_SIZE, Result, World, unexpected};

pub const CASES: &[Case] = &[
    Case { name: "security-manager", covers: "B046, B047, B341, B342, B343", play: manager },
    Case { name: "security-call", covers: "B117, B124, B341, B342, B343", play: calls },
    Case { name: "security-transfer", covers: "B133, B181, B341, B342, B343", play: transfer },
    Case { name: "security-file", covers: "B190, B341, B342, B343", play: files },
    Case { name: "security-impersonate", covers: "B334, B342, B481", play: impersonate },
    Case { name: "security-label", covers: "B335, B336, B338", play: label },
    Case { name: "security-change", covers: "B341, B343", play: change },
];

const POLICY: &str = "/etc/selinux/binder.policy";

/// Loads the policy and enforces it.
pub fn enforce() -> io::Result<()> {
    // The kernel wants it in one write.
    fs::write("/sys/fs/selinux/load", fs::read(POLICY)?)?;
    enforcing(true)
}

fn enforcing(on: bool) -> io::Result<()> {
    fs::write("/sys/fs/selinux/enforce", if on { "1" } else { "0" })
}

fn enter(actor: &Actor<'_>, domain: &str) -> Result {
    write_file(actor, "/proc/self/attr/current", &format!("u:r:{domain}"))
}

fn process_in<'w>(world: &'w World, name: &str, domain: &str) -> Result<Actor<'w>> {
    let actor = world.spawn(name)?;
    enter(&actor, domain)?;
    actor.use_device("binder", MAP_SIZE)?;
    Ok(actor)
}

fn manager_with<'w>(world: &'w World, flags: u32) -> Result<Actor<'w>> {
    let m = process_in(world, "M", "manager")?;
    m.become_manager_ext(0, 0, flags)?;
    m.w(commands![enter_looper()])?;
    Ok(m)
}

/// Reads what is there, if anything, and frees it.
fn take(m: &Actor<'_>) -> Result {
    if let Ok(event) = m.try_r()?.received() {
        m.w(commands![free(event.buffer())])?;
    }
    Ok(())
}

fn manager(world: &World) -> Result {
    let s = process_in(world, "S", "stranger")?;
    s.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    let _m = manager_with(world, 0)?;
    s.ioctl_at("SET_CONTEXT_MGR", ioctl::SET_CONTEXT_MGR, 0)?;
    Ok(())
}

/// Calls and oneways are asked about, replies are not.
fn calls(world: &World) -> Result {
    let m = manager_with(world, 0)?;
    let c = process_in(world, "C", "client")?;
    let s = process_in(world, "S", "stranger")?;
    for _ in 0..2 {
        c.start(commands![call(0, 1)])?;
        let request = m.r()?.received()?;
        m.wr(commands![free(request.buffer()), reply()])?;
        c.finish()?;
        s.try_wr(commands![call(0, 1)])?;
    }
    s.try_wr(commands![call(0, 2).oneway()])?;
    world.note("a handle that is not there comes before the question");
    s.try_wr(commands![call(77, 2)])?;
    Ok(())
}

fn transfer(world: &World) -> Result {
    let m = manager_with(world, 0)?;
    let c = process_in(world, "C", "client")?;
    let k = process_in(world, "K", "caller")?;
    let given = give(&c, &m, Object::binder(0x10, 1))?;
    let fetched = fetch(&c, &m, Object::handle(given.handle(0)?))?;
    c.w(commands![free(fetched.buffer())])?;
    world.note("K may call, but not pass a binder, nor may the manager pass it one");
    k.try_wr(commands![call(0, 1).oneway().object(Object::binder(0x20, 1))])?;
    k.start(commands![call(0, 2)])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply().object(Object::handle(given.handle(0)?))])?;
    k.finish()?;
    Ok(())
}

fn files(world: &World) -> Result {
    let m = manager_with(world, flat::ACCEPTS_FDS)?;
    for (name, domain) in [("C", "client"), ("S", "sender"), ("D", "client")] {
        let sender = process_in(world, name, domain)?;
        let (end, _) = pipe(&sender)?;
        sender.try_wr(commands![call(0, 1).oneway().flags(tf::ACCEPT_FDS).object(Object::fd(end))])?;
        take(&m)?;
    }
    Ok(())
}

/// Who has become another since it opened the device acts as who opened it, if it may.
fn impersonate(world: &World) -> Result {
    let m = manager_with(world, 0)?;
    let c = process_in(world, "C", "client")?;
    c.try_wr(commands![call(0, 1).oneway()])?;
    take(&m)?;
    for domain in ["stranger", "caller", "client"] {
        enter(&c, domain)?;
        c.try_wr(commands![call(0, 2).oneway().object(Object::binder(0x10, 1))])?;
        take(&m)?;
    }
    Ok(())
}

/// The label is that of the opener.
fn label(world: &World) -> Result {
    let m = manager_with(world, flat::TXN_SECURITY_CTX)?;
    let c = process_in(world, "C", "client")?;
    c.try_wr(commands![call(0, 1).oneway()])?;
    take(&m)?;
    enter(&c, "caller")?;
    c.try_wr(commands![call(0, 1).oneway()])?;
    take(&m)?;
    Ok(())
}

/// An answer of yesterday counts no more.
fn change(world: &World) -> Result {
    let m = manager_with(world, 0)?;
    let s = process_in(world, "S", "stranger")?;
    for on in [true, false, true] {
        world.note(if on { "enforcing" } else { "permissive" });
        if let Err(error) = enforcing(on) {
            return unexpected(format!("enforce: {error}"));
        }
        s.try_wr(commands![call(0, 1).oneway()])?;
        take(&m)?;
    }
    Ok(())
}
