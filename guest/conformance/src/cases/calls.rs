//! Synchronous calls, their replies, and everything that can be wrong with either.

use super::{Case, give};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire_done, call, free, increfs_done, reply};
use crate::uapi::tf;
use crate::world::{Result, World};
use crate::write_read::Io;

pub const CASES: &[Case] = &[
    Case {
        name: "sync-call",
        covers: "B092, B104, B129, B130, B132, B304, B314, B330, B331, B345",
        play: sync_call,
    },
    Case { name: "sync-sizes", covers: "B109, B172, B173, B344", play: sync_sizes },
    Case { name: "flags-and-fields", covers: "B107, B139, B140, B141", play: flags_and_fields },
    Case { name: "nonblocking-call", covers: "B004, B077, B087, B130", play: nonblocking_call },
    Case { name: "completions", covers: "B082, B091, B093, B129, B131", play: completions },
    Case { name: "own-work-first", covers: "B078, B079, B080", play: own_work_first },
    Case { name: "own-failure", covers: "B058, B062, B064, B065, B118, B119, B127", play: own_failure },
    Case { name: "second-call", covers: "B126, B297, B300", play: second_call },
    Case { name: "wrong-replies", covers: "B293, B294, B295, B296, B506", play: wrong_replies },
    Case { name: "failed-reply", covers: "B066, B133, B317", play: failed_reply },
    Case { name: "no-room", covers: "B128, B313, B366, B351", play: no_room },
    Case { name: "free-before-reply", covers: "B111, B230, B245", play: free_before_reply },
    Case { name: "reply-to-oneway", covers: "B294, B319", play: reply_to_oneway },
];

fn sync_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    m.start(commands![])?;
    c.start(commands![call(0, 0x10).bytes(b"ping")])?;
    let request = m.finish()?.received()?;
    m.wr(commands![free(request.buffer()), reply().bytes(b"pong!")])?;
    let answer = c.finish()?.received()?;
    c.w(commands![free(answer.buffer())])?;
    world.note("the call is taken from the queue when nobody waits");
    c.start(commands![call(0, 0x11)])?;
    let request = m.r()?.received()?;
    m.w(commands![reply()])?;
    c.finish()?.received()?;
    m.try_r()?;
    m.try_wr(commands![free(request.buffer())])?;
    c.try_r()?;
    Ok(())
}

fn sync_sizes(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 2 << 20)?;
    let c = world.process_on("C", "binder", 2 << 20)?;
    for (round, size) in [0, 1, 4, 4096, 5000, 70_000, 900_000].into_iter().enumerate() {
        c.start(commands![call(0, 1).pattern(size, round as u8)])?;
        let request = m.r()?.received()?;
        m.wr(commands![reply().pattern(size, round as u8 + 100), free(request.buffer())])?;
        let answer = c.finish()?.received()?;
        c.w(commands![free(answer.buffer())])?;
    }
    Ok(())
}

fn flags_and_fields(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for flags in
        [tf::ROOT_OBJECT, tf::STATUS_CODE, tf::ACCEPT_FDS, tf::CLEAR_BUF, tf::UPDATE_TXN, 0xffff_ff80]
    {
        let mut odd = call(0, 0xffff_ffff).flags(flags);
        odd.cookie = 0x5555;
        c.start(commands![odd])?;
        let request = m.r()?.received()?;
        let mut answer = reply().flags(flags);
        answer.target = 0x1_0000_0007;
        answer.code = 0x77;
        answer.cookie = 0x6666;
        m.wr(commands![free(request.buffer()), answer])?;
        let answer = c.finish()?.received()?;
        c.w(commands![free(answer.buffer())])?;
    }
    world.note("the upper half of the target is ignored; ONE_WAY on a reply means nothing");
    let mut high = call(0, 2);
    high.target = 0x7_0000_0000;
    c.start(commands![high])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply().oneway()])?;
    c.finish()?;
    Ok(())
}

fn nonblocking_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1)])?;
    c.try_r()?;
    let request = m.try_r()?.received()?;
    m.try_wr(commands![free(request.buffer()), reply().bytes(b"late")])?;
    c.try_r()?;
    c.io(Io { read_consumed: 8, ..Io::new(vec![]).nonblock() })?;
    Ok(())
}

fn completions(world: &World) -> Result {
    let _m = world.manager("M")?;
    let c = world.process("C")?;
    let oneway = || call(0, 1).oneway();
    c.w(commands![oneway(), oneway(), oneway(), oneway(), oneway()])?;
    c.r()?;
    world.note("a oneway's completion takes the call's withheld one along");
    c.w(commands![oneway()])?;
    c.wr(commands![call(0, 2)])?;
    c.try_r()?;
    world.note("and a call's withheld one comes along with a later oneway's");
    let d = world.process("D")?;
    d.try_wr(commands![call(0, 3)])?;
    d.try_wr(commands![call(0, 4).oneway()])?;
    d.try_r()?;
    Ok(())
}

/// Own work comes first, process work with the next read.
fn own_work_first(world: &World) -> Result {
    let m = world.manager("M")?;
    let p = world.server("P")?;
    let given = give(&p, &m, Object::binder(0x1000, 0x2000))?;
    let node = given.handle(0)?;
    p.w(commands![increfs_done(0x1000, 0x2000), acquire_done(0x1000, 0x2000)])?;
    m.wr(commands![call(node, 5).oneway()])?;
    p.wr(commands![call(0, 6).oneway()])?;
    p.r()?;
    Ok(())
}

fn own_failure(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    world.note("the commands behind a failing transaction are not executed");
    c.wr(commands![call(77, 1), call(0, 2).oneway()])?;
    m.try_r()?;
    world.note("without a read half, nothing more is executed until the error is read");
    c.w(commands![call(0, 3).oneway(), call(77, 1), call(0, 4).oneway()])?;
    c.w(commands![call(0, 5).oneway()])?;
    c.extended_error()?;
    c.extended_error()?;
    c.r()?;
    c.wr(commands![call(0, 6).oneway()])?;
    let first = m.r()?.received()?;
    m.wr(commands![free(first.buffer())])?;
    c.extended_error()?;
    world.note("every transaction resets the record");
    c.wr(commands![call(77, 1)])?;
    c.wr(commands![call(0, 6).oneway()])?;
    c.extended_error()?;
    Ok(())
}

fn second_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![call(0, 1)])?;
    c.try_wr(commands![call(0, 2)])?;
    world.note("a oneway is allowed meanwhile");
    c.try_wr(commands![call(0, 3).oneway()])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply().bytes(b"one")])?;
    c.r()?;
    m.r()?;
    Ok(())
}

fn wrong_replies(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    world.note("nothing to reply to");
    c.wr(commands![reply()])?;
    c.w(commands![reply(), call(0, 9).oneway()])?;
    c.r()?;
    world.note("the top of the stack is one's own call");
    c.try_wr(commands![call(0, 1)])?;
    c.try_wr(commands![reply()])?;
    world.note("another thread than the one that received the call");
    let m2 = m.thread("M.2")?;
    let request = m.r()?.received()?;
    m2.wr(commands![reply().bytes(b"forged")])?;
    m.wr(commands![free(request.buffer()), reply().bytes(b"true")])?;
    c.r()?;
    world.note("a second reply");
    m.wr(commands![reply()])?;
    Ok(())
}

fn failed_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    world.note("a bad object: the replier reads a completion, the caller the failure");
    c.start(commands![call(0, 1)])?;
    let request = m.r()?.received()?;
    m.wr(commands![reply().object(Object::handle(99)), free(request.buffer())])?;
    m.extended_error()?;
    c.finish()?;
    world.note("it cannot be tried again");
    m.wr(commands![reply().bytes(b"again")])?;
    world.note("an unreadable payload");
    c.start(commands![call(0, 2)])?;
    m.r()?.received()?;
    m.w(commands![reply().data_at(8, 16), free(request.buffer())])?;
    m.w(commands![free(request.buffer())])?;
    m.r()?;
    c.finish()?;
    c.try_r()?;
    Ok(())
}

fn no_room(world: &World) -> Result {
    let m = world.manager_on("M", "binder", 8 << 10)?;
    let c = world.process_on("C", "binder", 16 << 10)?;
    c.wr(commands![call(0, 1).pattern(8193, 0)])?;
    c.wr(commands![call(0, 1).pattern(70_000, 0)])?;
    world.note("all of the mapping can be used by one call");
    c.start(commands![call(0, 2).pattern(8192, 0)])?;
    let request = m.r()?.received()?;
    let d = world.process("D")?;
    d.wr(commands![call(0, 3)])?;
    world.note("a reply that is too large");
    m.wr(commands![free(request.buffer()), reply().pattern(16_385, 0)])?;
    m.extended_error()?;
    c.finish()?;
    Ok(())
}

fn free_before_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).bytes(b"data")])?;
    let request = m.r()?.received()?;
    m.try_wr(commands![free(request.buffer())])?;
    m.wr(commands![reply().bytes(b"ok")])?;
    c.finish()?;
    Ok(())
}

/// A oneway is not on the stack: there is nothing to reply.
fn reply_to_oneway(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.wr(commands![call(0, 1).oneway()])?;
    let event = m.r()?.received()?;
    m.wr(commands![reply()])?;
    m.wr(commands![free(event.buffer()), reply()])?;
    Ok(())
}
