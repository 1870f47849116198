//! The client's side: handle numbers, counts, what may be called and sent on.

use super::{Case, fetch, give, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, call, decrefs, free, increfs, release, reply, watch};
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "handle-numbers", covers: "B249, B250, B254", play: handle_numbers },
    Case { name: "weak-handle", covers: "B119, B182, B187, B258, B468", play: weak_handle },
    Case { name: "count-misuse", covers: "B255, B259, B260, B497", play: count_misuse },
    Case { name: "handle-zero", covers: "B120, B183, B249, B256, B257", play: handle_zero },
    Case { name: "stale-zero", covers: "B051, B251, B499", play: stale_zero },
    Case { name: "back-home", covers: "B184, B185", play: back_home },
    Case { name: "third-party", covers: "B179, B186", play: third_party },
    Case { name: "odd-handle-fields", covers: "B156, B178, B182, B186", play: odd_handle_fields },
    Case { name: "dead-handle", covers: "B123, B188", play: dead_handle },
];

fn handle_numbers(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let mut handles = Vec::new();
    for ptr in [0x10, 0x20, 0x30, 0x40] {
        let given = give(&s, &m, Object::binder(ptr, 1))?;
        handles.push(given.handle(0)?);
        m.w(commands![acquire(given.handle(0)?), free(given.buffer())])?;
    }
    world.note("the lowest free number comes next");
    m.w(commands![release(handles[2]), release(handles[1])])?;
    for ptr in [0x50, 0x60, 0x70] {
        let given = give(&s, &m, Object::binder(ptr, 1))?;
        m.w(commands![acquire(given.handle(0)?), free(given.buffer())])?;
    }
    world.note("a buffer's count keeps a handle; then the number is free at once");
    let given = give(&s, &m, Object::binder(0x80, 1))?;
    m.w(commands![free(given.buffer())])?;
    m.wr(commands![call(given.handle(0)?, 1).oneway()])?;
    give(&s, &m, Object::binder(0x90, 1))?;
    Ok(())
}

fn weak_handle(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::weak_binder(0x10, 1))?;
    let weak = given.handle(0)?;
    m.w(commands![increfs(weak), free(given.buffer())])?;
    m.wr(commands![call(weak, 1).oneway()])?;
    world.note("there is no promotion");
    m.w(commands![acquire(weak)])?;
    m.wr(commands![call(weak, 1).oneway()])?;
    let c = world.process("C")?;
    c.start(commands![call(0, 2)])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply().object(Object::handle(weak))])?;
    c.finish()?;
    world.note("but it can be sent on as a weak one");
    let fetched = fetch(&c, &m, Object::weak_handle(weak))?;
    c.w(commands![increfs(fetched.handle(0)?)])?;
    Ok(())
}

fn count_misuse(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    c.try_wr(commands![acquire(1234), increfs(1234), release(1234), decrefs(1234), release(0), decrefs(0)])?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    world.note("a weak count that is not there; the strong one is not touched");
    c.try_wr(commands![decrefs(handle), decrefs(handle)])?;
    c.wr(commands![call(handle, 1).oneway()])?;
    let event = s.r()?.received()?;
    s.w(commands![free(event.buffer())])?;
    c.try_wr(commands![release(handle), release(handle)])?;
    c.wr(commands![call(handle, 1).oneway()])?;
    Ok(())
}

fn handle_zero(world: &World) -> Result {
    let c = world.process("C")?;
    c.try_wr(commands![acquire(0), increfs(0)])?;
    let m = world.manager("M")?;
    m.try_wr(commands![acquire(0)])?;
    m.try_wr(commands![increfs(0)])?;
    world.note("calling 0 needs no reference, sending it does");
    c.wr(commands![call(0, 1).oneway()])?;
    c.wr(commands![call(0, 1).oneway().object(Object::handle(0))])?;
    c.try_wr(commands![increfs(0)])?;
    c.wr(commands![call(0, 1).oneway().object(Object::handle(0))])?;
    c.try_wr(commands![acquire(0), decrefs(0)])?;
    c.wr(commands![call(0, 2).oneway().object(Object::handle(0))])?;
    let first = m.r()?.received()?;
    m.wr(commands![free(first.buffer())])?;
    Ok(())
}

/// After the manager's death 0 means two things.
fn stale_zero(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.try_wr(commands![acquire(0)])?;
    m.kill()?;
    c.wr(commands![call(0, 1).oneway()])?;
    let n = world.manager("N")?;
    c.wr(commands![call(0, 2).oneway()])?;
    let event = n.r()?.received()?;
    n.w(commands![free(event.buffer())])?;
    world.note("a count on 0 goes to the new manager, under another number");
    c.try_wr(commands![acquire(0)])?;
    c.wr(commands![call(1, 3).oneway()])?;
    let event = n.r()?.received()?;
    n.w(commands![free(event.buffer())])?;
    world.note("as an object 0 is the dead one");
    c.wr(commands![call(0, 4).oneway().object(Object::handle(0)).object(Object::handle(1))])?;
    n.r()?;
    Ok(())
}

/// A handle that comes back to its owner becomes the owner's own pointer, without any reference work.
fn back_home(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let given = give(&s, &m, Object::binder_with(0x10, 0x20, 0x1aa))?;
    let home = fetch(
        &s,
        &m,
        Object::Handle { weak: false, handle: given.handle(0)?, high: 0, cookie: 0, flags: 0x55 },
    )?;
    s.try_r()?;
    s.try_wr(commands![free(home.buffer())])?;
    let weak = fetch(&s, &m, Object::weak_handle(given.handle(0)?))?;
    s.try_wr(commands![free(weak.buffer())])?;
    Ok(())
}

fn third_party(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let filler = give(&s, &m, Object::binder(0x10, 1))?;
    m.w(commands![acquire(filler.handle(0)?), free(filler.buffer())])?;
    let given = give(&s, &m, Object::binder(0x20, 2))?;
    m.w(commands![acquire(given.handle(0)?), free(given.buffer())])?;
    let fetched = fetch(&c, &m, Object::handle(given.handle(0)?))?;
    c.w(commands![acquire(fetched.handle(0)?), free(fetched.buffer())])?;
    c.wr(commands![call(fetched.handle(0)?, 7).oneway()])?;
    let event = s.r()?.received()?;
    s.w(commands![free(event.buffer())])?;
    let again = fetch(&c, &m, Object::handle(given.handle(0)?))?;
    c.w(commands![free(again.buffer())])?;
    Ok(())
}

fn odd_handle_fields(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let given = give(&s, &m, Object::binder(0x10, 1))?;
    let handle = given.handle(0)?;
    m.w(commands![acquire(handle), free(given.buffer())])?;
    let odd = |weak| Object::Handle { weak, handle, high: 0xaaaa, cookie: 0xbbbb, flags: 0xffff_ffff };
    fetch(&c, &m, odd(false))?;
    fetch(&c, &m, odd(true))?;
    fetch(&s, &m, odd(false))?;
    Ok(())
}

fn dead_handle(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    let given = fetch(&c, &m, Object::binder(0x99, 9))?;
    s.kill()?;
    c.wr(commands![call(handle, 1)])?;
    c.wr(commands![call(handle, 1).oneway()])?;
    c.w(commands![free(given.buffer())])?;
    world.note("a handle on a dead node can still be sent on");
    c.wr(commands![call(0, 2).oneway().object(Object::handle(handle))])?;
    let received = m.try_r()?.received()?;
    m.wr(commands![call(received.handle(0)?, 1).oneway()])?;
    m.try_wr(commands![watch(received.handle(0)?, 0x77)])?;
    Ok(())
}
