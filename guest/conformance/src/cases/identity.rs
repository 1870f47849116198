//! Who the sender is, and which priority the receiver gets.

use super::{Case, publish};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{call, enter_looper, free, reply};
use crate::uapi::flat;
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "sender", covers: "B330, B331", play: sender },
    Case { name: "sender-thread-euid", covers: "B332", play: thread_euid },
    Case { name: "two-opens", covers: "B001, B279, B303, B498", play: two_opens },
    Case { name: "foreign-user-of-fd", covers: "B005, B030, B330", play: foreign_user },
    Case { name: "nice-of-call", covers: "B320, B322, B323", play: nice_of_call },
    Case { name: "nice-of-oneway", covers: "B321, B324", play: nice_of_oneway },
    Case { name: "nice-of-open", covers: "B002, B324", play: nice_of_open },
    Case { name: "nice-limited", covers: "B325", play: nice_limited },
    Case { name: "security-context", covers: "B335, B336, B337", play: security_context },
];

fn set_euid(actor: &Actor<'_>, uid: u64) -> Result {
    actor.sys(&format!("setresuid euid={uid}"), libc::SYS_setresuid, &[u64::MAX, uid, u64::MAX])?;
    Ok(())
}

fn sender(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    set_euid(&c, 1000)?;
    c.start(commands![call(0, 1)])?;
    m.r()?;
    set_euid(&m, 2000)?;
    m.wr(commands![reply()])?;
    c.finish()?;
    c.wr(commands![call(0, 2).oneway()])?;
    m.r()?;
    Ok(())
}

/// Debian 6.1 uses the euid of the thread group's leader.
fn thread_euid(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let thread = c.thread("C.2")?;
    set_euid(&thread, 1000)?;
    thread.start(commands![call(0, 1)])?;
    m.r()?;
    m.wr(commands![reply()])?;
    thread.finish()?;
    set_euid(&c, 3000)?;
    thread.wr(commands![call(0, 2).oneway()])?;
    m.r()?;
    Ok(())
}

/// Two opens of one process are two processes of the driver: they can call and watch each other.
fn two_opens(world: &World) -> Result {
    let m = world.manager("M")?;
    let a = world.server("A")?;
    let second = a.thread("A.2")?;
    second.use_device("binder", MAP_SIZE)?;
    let handle = publish(&a, &m, &second, Object::binder(0x10, 1))?;
    second.start(commands![call(handle, 1).bytes(b"self")])?;
    let request = a.r()?.received()?;
    a.wr(commands![free(request.buffer()), reply()])?;
    second.finish()?;
    second.try_wr(commands![crate::stream::watch(handle, 0x77)])?;
    a.sys("munmap", libc::SYS_munmap, &[a.map_start(), MAP_SIZE])?;
    a.sys("close", libc::SYS_close, &[a.device() as u64])?;
    world.settle();
    second.r()?;
    Ok(())
}

/// A child that uses the inherited descriptor is a thread of its parent's process.
fn foreign_user(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let child = c.fork("K")?;
    child.try_r()?;
    child.start(commands![call(0, 1).bytes(b"from the child")])?;
    m.r()?;
    world.note("no data in the reply: it would be in the mapping, which the child has not");
    m.wr(commands![reply()])?;
    child.finish()?;
    c.try_r()?;
    Ok(())
}

fn set_nice(actor: &Actor<'_>, nice: i64) -> Result {
    actor.sys(&format!("nice {nice}"), libc::SYS_setpriority, &[0, 0, nice as u64])?;
    Ok(())
}

/// The raw call gives 20 minus the nice value.
fn show_nice(actor: &Actor<'_>) -> Result {
    let raw = actor.ask(libc::SYS_getpriority, &[0, 0])?;
    actor.say(&format!("nice is {}", 20 - raw));
    Ok(())
}

fn nice_of_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let mut handles = Vec::new();
    for (ptr, minimum) in [(0x10, 0), (0x20, 10), (0x30, 0xec)] {
        handles.push(publish(&s, &m, &c, Object::binder_with(ptr, 1, minimum))?);
    }
    for nice in [-5, 5, 15] {
        set_nice(&c, nice)?;
        for handle in &handles {
            c.start(commands![call(*handle, 1)])?;
            let request = s.r()?.received()?;
            show_nice(&s)?;
            s.wr(commands![free(request.buffer()), reply()])?;
            show_nice(&s)?;
            let answer = c.finish()?.received()?;
            c.w(commands![free(answer.buffer())])?;
        }
    }
    Ok(())
}

fn nice_of_oneway(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let low = publish(&s, &m, &c, Object::binder_with(0x10, 1, 10))?;
    set_nice(&c, -10)?;
    for nice in [15, 5] {
        set_nice(&s, nice)?;
        c.wr(commands![call(low, 1).oneway()])?;
        let event = s.r()?.received()?;
        show_nice(&s)?;
        s.w(commands![free(event.buffer())])?;
    }
    world.note("a thread that waits for process work goes back to the nice value of the open");
    set_nice(&s, 12)?;
    s.start(commands![])?;
    s.interrupt()?;
    s.finish()?;
    show_nice(&s)?;
    Ok(())
}

/// The default is the nice value of the thread that opened the device.
fn nice_of_open(world: &World) -> Result {
    let a = world.spawn("A")?;
    set_nice(&a, 7)?;
    a.use_device("binder", MAP_SIZE)?;
    set_nice(&a, 3)?;
    a.start(commands![enter_looper()])?;
    a.interrupt()?;
    a.finish()?;
    show_nice(&a)?;
    let other = a.thread("A.2")?;
    set_nice(&other, 0)?;
    other.try_r()?;
    show_nice(&other)?;
    Ok(())
}

/// A receiver that may not raise itself gets what its limit allows.
fn nice_limited(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let s = world.server("S")?;
    let free_for_all = publish(&s, &m, &c, Object::binder_with(0x10, 1, 0xec))?;
    set_nice(&s, 5)?;
    s.sys("setresuid 1000", libc::SYS_setresuid, &[1000, 1000, 1000])?;
    set_nice(&c, -10)?;
    for limit in [0u64, 25] {
        let value = [limit.to_le_bytes(), limit.to_le_bytes()].concat();
        let address = c.place(&value)?;
        let whom = s.pid() as u64;
        c.sys(
            &format!("RLIMIT_NICE of S {limit}"),
            libc::SYS_prlimit64,
            &[whom, libc::RLIMIT_NICE as u64, address, 0],
        )?;
        c.start(commands![call(free_for_all, 1)])?;
        let request = s.r()?.received()?;
        show_nice(&s)?;
        s.wr(commands![free(request.buffer()), reply()])?;
        show_nice(&s)?;
        c.finish()?;
    }
    Ok(())
}

/// Needs a security module that has contexts, as SELinux has even without a policy.
fn security_context(world: &World) -> Result {
    let m = world.process("M")?;
    m.become_manager_ext(0, 0, flat::TXN_SECURITY_CTX)?;
    m.w(commands![enter_looper()])?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).bytes(b"who am I")])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply()])?;
    c.finish()?;
    let body = c.place(b"sixteen bytes...")?;
    c.wr(commands![call(0, 2).oneway().bytes(&[0; 8]).extra(16).object(Object::ptr(body, 16))])?;
    m.r()?;
    Ok(())
}
