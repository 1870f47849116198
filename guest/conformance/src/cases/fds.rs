//! File descriptors in transactions.

use super::Case;
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, call, enter_looper, free, reply, watch};
use crate::uapi::{flat, tf};
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "fd-call", covers: "B157, B191, B193, B194, B195", play: fd_call },
    Case { name: "fd-reply", covers: "B142, B189, B193", play: fd_reply },
    Case { name: "fd-refused", covers: "B189, B190", play: fd_refused },
    Case { name: "fd-bad", covers: "B190, B196, B225", play: fd_bad },
    Case { name: "fd-lowest-number", covers: "B191", play: lowest_number },
    Case { name: "fd-undelivered", covers: "B196", play: undelivered },
    Case { name: "fd-of-binder", covers: "B030, B201, B276", play: of_binder },
    Case { name: "fd-limit-call", covers: "B088, B197, B198, B134", play: limit_call },
    Case { name: "fd-limit-oneway", covers: "B088, B199", play: limit_oneway },
    Case { name: "fd-limit-reply", covers: "B090, B200", play: limit_reply },
];

/// A manager whose node accepts descriptors.
pub fn accepting<'w>(world: &'w World, size: u64) -> Result<Actor<'w>> {
    let m = world.process_on("M", "binder", size)?;
    m.become_manager_ext(0, 0, flat::ACCEPTS_FDS)?;
    m.w(commands![enter_looper()])?;
    Ok(m)
}

/// A nonblocking pipe: (read end, write end).
pub fn pipe(actor: &Actor<'_>) -> Result<(i64, i64)> {
    let ends = actor.place(&[0; 8])?;
    actor.ask(libc::SYS_pipe2, &[ends, libc::O_NONBLOCK as u64])?;
    let bytes = actor.peek(ends, 8)?;
    let half = |at: usize| i64::from(i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
    actor.say(&format!("pipe -> {} {}", half(0), half(4)));
    Ok((half(0), half(4)))
}

/// Writes a byte into a descriptor.
pub fn write_to(actor: &Actor<'_>, fd: i64) -> Result {
    let byte = actor.place(b"x")?;
    actor.sys(&format!("write to {fd}"), libc::SYS_write, &[fd as u64, byte, 1])?;
    Ok(())
}

/// Reads what is in a pipe.
pub fn read_from(actor: &Actor<'_>, fd: i64) -> Result {
    let room = actor.place(&[0; 16])?;
    actor.sys(&format!("read from {fd}"), libc::SYS_read, &[fd as u64, room, 16])?;
    Ok(())
}

/// Closes a descriptor.
pub fn close(actor: &Actor<'_>, fd: i64) -> Result {
    actor.sys(&format!("close {fd}"), libc::SYS_close, &[fd as u64])?;
    Ok(())
}

fn is_open(actor: &Actor<'_>, fd: i64) -> Result {
    actor.sys(&format!("F_GETFD {fd}"), libc::SYS_fcntl, &[fd as u64, libc::F_GETFD as u64])?;
    Ok(())
}

fn set_limit(actor: &Actor<'_>, limit: u64) -> Result {
    let mut value = limit.to_le_bytes().to_vec();
    value.extend(4096u64.to_le_bytes());
    let address = actor.place(&value)?;
    actor.sys(
        &format!("RLIMIT_NOFILE {limit}"),
        libc::SYS_setrlimit,
        &[libc::RLIMIT_NOFILE as u64, address],
    )?;
    Ok(())
}

fn fd_call(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    let object = Object::Fd { fd: write as u32, high: 0xaaaa, cookie: 0xbbbb, pad: 0xcccc };
    c.try_wr(commands![call(0, 1).bytes(&[1, 2, 3, 4]).object(object)])?;
    close(&c, write)?;
    read_from(&c, read)?;
    let request = m.r()?.received()?;
    let fd = request.fd(0)?;
    is_open(&m, fd)?;
    m.sys("F_GETFL", libc::SYS_fcntl, &[fd as u64, libc::F_GETFL as u64])?;
    write_to(&m, fd)?;
    m.wr(commands![free(request.buffer()), reply()])?;
    c.r()?;
    read_from(&c, read)?;
    world.note("freeing the buffer does not close it");
    write_to(&m, fd)?;
    read_from(&c, read)?;
    close(&m, fd)?;
    read_from(&c, read)?;
    Ok(())
}

fn fd_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (read, write) = pipe(&m)?;
    c.start(commands![call(0, 1).flags(tf::ACCEPT_FDS)])?;
    m.r()?;
    m.wr(commands![reply().object(Object::fd(write))])?;
    let answer = c.finish()?.received()?;
    write_to(&c, answer.fd(0)?)?;
    read_from(&m, read)?;
    world.note("a call that does not accept them");
    c.start(commands![call(0, 2)])?;
    m.r()?;
    m.wr(commands![reply().object(Object::fd(write))])?;
    c.finish()?;
    Ok(())
}

fn fd_refused(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    c.wr(commands![call(0, 1).flags(tf::ACCEPT_FDS).object(Object::fd(write))])?;
    c.wr(commands![call(0, 1).oneway().object(Object::fd(write))])?;
    world.note("the rule is looked at before the descriptor");
    c.wr(commands![call(0, 1).object(Object::fd(777))])?;
    m.try_r()?;
    Ok(())
}

fn fd_bad(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    c.wr(commands![call(0, 1).object(Object::fd(777))])?;
    c.wr(commands![call(0, 1).object(Object::fd(-1))])?;
    world.note("the files captured before the bad one are let go");
    c.wr(commands![call(0, 1).object(Object::fd(write)).object(Object::fd(777))])?;
    close(&c, write)?;
    read_from(&c, read)?;
    m.try_r()?;
    Ok(())
}

fn lowest_number(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    let two = call(0, 1).object(Object::fd(write)).object(Object::fd(write));
    c.try_wr(commands![two])?;
    world.note("the numbers are those that are free when it is read");
    let (hole, _) = pipe(&m)?;
    close(&m, hole)?;
    m.r()?;
    Ok(())
}

fn undelivered(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    c.wr(commands![call(0, 1).oneway().object(Object::fd(write))])?;
    close(&c, write)?;
    read_from(&c, read)?;
    m.kill()?;
    read_from(&c, read)?;
    Ok(())
}

/// A process of the driver lives in whoever holds its file.
fn of_binder(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.server("C")?;
    let given = super::give(&c, &m, Object::binder(0x10, 1))?;
    let node = given.handle(0)?;
    m.try_wr(commands![acquire(node), free(given.buffer()), watch(node, 0x77)])?;
    c.wr(commands![call(0, 1).oneway().object(Object::fd(c.device()))])?;
    let event = m.r()?.received()?;
    m.try_wr(commands![free(event.buffer())])?;
    c.kill()?;
    m.try_r()?;
    world.note("its mapping went with its process");
    m.wr(commands![call(node, 2).oneway()])?;
    close(&m, event.fd(0)?)?;
    world.settle();
    m.r()?;
    Ok(())
}

/// The sender hears of it, the receiver does not.
fn limit_call(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    set_limit(&m, 5)?;
    c.try_wr(commands![call(0, 1).object(Object::fd(write)).object(Object::fd(write))])?;
    m.try_r()?;
    is_open(&m, 4)?;
    c.r()?;
    world.note("all or none: with one more it works");
    set_limit(&m, 6)?;
    c.try_wr(commands![call(0, 2).object(Object::fd(write)).object(Object::fd(write))])?;
    m.try_r()?;
    close(&c, write)?;
    read_from(&c, read)?;
    Ok(())
}

fn limit_oneway(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    set_limit(&m, 4)?;
    c.wr(commands![call(0, 1).oneway().object(Object::fd(write))])?;
    c.wr(commands![call(0, 2).oneway().bytes(b"next")])?;
    m.try_r()?;
    m.try_r()?;
    c.try_r()?;
    Ok(())
}

/// A caller whose table is full reads a failure instead of the reply.
fn limit_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (_, write) = pipe(&m)?;
    set_limit(&c, 4)?;
    c.start(commands![call(0, 1).flags(tf::ACCEPT_FDS)])?;
    m.r()?;
    m.wr(commands![reply().object(Object::fd(write))])?;
    c.finish()?;
    set_limit(&c, 64)?;
    c.start(commands![call(0, 2).flags(tf::ACCEPT_FDS)])?;
    m.r()?;
    m.wr(commands![reply().object(Object::fd(write))])?;
    c.finish()?;
    Ok(())
}
