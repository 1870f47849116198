//! Readiness: what poll and epoll report, and when they wake.

use super::{Case, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire_done, call, enter_looper, free, increfs_done, release, reply};
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "poll-new-thread", covers: "B018, B019, B020", play: new_thread },
    Case { name: "poll-work", covers: "B018, B021", play: work },
    Case { name: "poll-deferred", covers: "B021, B022, B023", play: deferred },
    Case { name: "poll-plain-thread", covers: "B024", play: plain_thread },
    Case { name: "poll-wakes", covers: "B021, B026", play: wakes },
    Case { name: "poll-wakes-by-death", covers: "B021, B026, B265", play: wakes_by_death },
    Case { name: "poll-reply", covers: "B021, B023", play: wakes_by_reply },
    Case { name: "epoll-own-work", covers: "B025, B472", play: epoll_own_work },
    Case { name: "epoll-thread-exit", covers: "B027, B318, B471", play: epoll_thread_exit },
    Case { name: "poll-flush", covers: "B021, B028", play: flush },
];

fn new_thread(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    a.map(MAP_SIZE)?;
    a.poll()?;
    a.poll()?;
    a.try_r()?;
    a.poll()?;
    Ok(())
}

fn work(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.poll()?;
    c.w(commands![call(0, 1).oneway()])?;
    m.poll()?;
    c.poll()?;
    c.r()?;
    c.poll()?;
    let event = m.r()?.received()?;
    m.poll()?;
    c.wr(commands![call(0, 2).oneway()])?;
    world.note("one in the backlog is not work yet");
    m.poll()?;
    m.w(commands![free(event.buffer())])?;
    m.poll()?;
    Ok(())
}

fn deferred(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.server("C")?;
    let to_s = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let to_c = publish(&c, &m, &s, Object::binder(0x20, 2))?;
    c.try_wr(commands![increfs_done(0x20, 2), acquire_done(0x20, 2)])?;
    c.poll()?;
    c.w(commands![call(to_s, 1).object(Object::binder(0x30, 3))])?;
    c.poll()?;
    world.note("process work is not for a thread that waits for a reply");
    s.w(commands![release(to_c)])?;
    c.poll()?;
    let request = s.r()?.received()?;
    s.poll()?;
    s.wr(commands![reply(), free(request.buffer())])?;
    c.poll()?;
    c.r()?;
    c.poll()?;
    c.r()?;
    Ok(())
}

fn plain_thread(world: &World) -> Result {
    let m = world.manager("M")?;
    let plain = m.thread("M.2")?;
    let c = world.process("C")?;
    plain.poll()?;
    c.wr(commands![call(0, 1).oneway()])?;
    plain.poll()?;
    plain.try_r()?;
    Ok(())
}

/// Every idle thread that polls is woken.
fn wakes(world: &World) -> Result {
    let m = world.manager("M")?;
    let m2 = m.thread("M.2")?;
    m2.w(commands![enter_looper()])?;
    let c = world.process("C")?;
    m.start_poll()?;
    m2.start_poll()?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.finish_poll()?;
    m2.finish_poll()?;
    m.try_r()?;
    m2.try_r()?;
    Ok(())
}

fn wakes_by_death(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.server("C")?;
    c.try_wr(commands![crate::stream::acquire(0), crate::stream::watch(0, 0x77)])?;
    c.start_poll()?;
    m.kill()?;
    c.finish_poll()?;
    c.r()?;
    Ok(())
}

fn wakes_by_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.w(commands![call(0, 1)])?;
    c.start_poll()?;
    m.r()?.received()?;
    c.still_parked()?;
    m.w(commands![reply()])?;
    c.finish_poll()?;
    c.r()?;
    m.r()?;
    Ok(())
}

/// epoll_event: events, then 64 bits of data, packed.
fn epoll(actor: &crate::actor::Actor<'_>) -> Result<(u64, u64)> {
    let set = actor.sys("epoll_create", libc::SYS_epoll_create1, &[0])? as u64;
    let event = actor.place(&[1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0])?;
    let add = [set, libc::EPOLL_CTL_ADD as u64, actor.device() as u64, event];
    actor.sys("epoll_ctl add", libc::SYS_epoll_ctl, &add)?;
    Ok((set, event))
}

fn epoll_own_work(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (set, events) = epoll(&c)?;
    let wait = [set, events, 1, 0];
    c.sys("epoll_wait", libc::SYS_epoll_wait, &wait)?;
    c.w(commands![call(0, 1).oneway()])?;
    c.sys("epoll_wait", libc::SYS_epoll_wait, &wait)?;
    c.r()?;
    c.sys("epoll_wait", libc::SYS_epoll_wait, &wait)?;
    m.r()?;
    Ok(())
}

fn epoll_thread_exit(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (set, events) = epoll(&m)?;
    m.sys("epoll_wait", libc::SYS_epoll_wait, &[set, events, 1, 0])?;
    m.thread_exit()?;
    m.sys("epoll_wait", libc::SYS_epoll_wait, &[set, events, 1, 0])?;
    m.poll()?;
    m.try_r()?;
    m.poll()?;
    c.wr(commands![call(0, 1).oneway()])?;
    m.poll()?;
    m.sys("close the set", libc::SYS_close, &[set])?;
    m.r()?;
    Ok(())
}

fn flush(world: &World) -> Result {
    let m = world.manager("M")?;
    m.poll()?;
    let copy = m.sys("dup", libc::SYS_dup, &[m.device() as u64])?;
    m.sys("close the duplicate", libc::SYS_close, &[copy as u64])?;
    m.poll()?;
    m.try_r()?;
    m.poll()?;
    Ok(())
}
