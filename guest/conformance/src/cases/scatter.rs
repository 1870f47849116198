//! PTR and FDA objects: buffers copied behind the offsets, and descriptors inside them.

use super::Case;
use super::fds::{accepting, close, pipe, read_from, write_to};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{Call, call, free, reply};
use crate::uapi::tf;
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "ptr", covers: "B158, B202, B203, B204, B214", play: ptr },
    Case { name: "ptr-space", covers: "B202, B207", play: space },
    Case { name: "ptr-parent", covers: "B205, B212", play: parent },
    Case { name: "ptr-parent-refused", covers: "B208, B209, B210, B479", play: parent_refused },
    Case { name: "ptr-fixup-order", covers: "B211, B485", play: fixup_order },
    Case { name: "ptr-in-reply", covers: "B109, B204", play: in_reply },
    Case { name: "fda", covers: "B159, B217, B219, B220, B221, B224", play: fda },
    Case { name: "fda-refused", covers: "B215, B216, B217, B218, B493", play: fda_refused },
    Case { name: "fda-freed-by-child", covers: "B005, B223", play: fda_freed_by_child },
    Case { name: "fda-closes-device", covers: "B221, B222, B475", play: fda_closes_device },
    Case { name: "fda-undone", covers: "B225, B196", play: fda_undone },
];

/// A call that begins with eight plain bytes, because an object at offset 0 cannot be a parent in the C driver (B213).
fn sg(extra: u64) -> Call {
    call(0, 1).oneway().bytes(&[0xee; 8]).extra(extra)
}

fn ptr(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let one = c.place(b"0123456789abcdef")?;
    let two = c.place(b"tail!")?;
    c.wr(commands![sg(24).object(Object::ptr(one, 16)).object(Object::ptr(two, 5))])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    world.note("length 0, odd flags, more room than needed");
    let odd = Object::Ptr { buffer: 0, length: 0, parent: None, flags: 0xf0 };
    c.wr(commands![sg(64).object(odd).object(Object::ptr(one, 16))])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    world.note("an object at offset 0 that is nobody's parent");
    c.wr(commands![call(0, 1).oneway().extra(16).object(Object::ptr(one, 16))])?;
    m.r()?;
    Ok(())
}

fn refuse(world: &World, c: &Actor<'_>, calls: Vec<(&str, Call)>) -> Result {
    for (what, call) in calls {
        world.note(what);
        c.wr(commands![call])?;
    }
    Ok(())
}

fn space(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let one = c.place(b"0123456789abcdef")?;
    refuse(
        world,
        &c,
        vec![
            ("one byte too long", sg(16).object(Object::ptr(one, 17))),
            ("the second does not fit", sg(24).object(Object::ptr(one, 9)).object(Object::ptr(one, 9))),
            ("without the SG form", call(0, 1).oneway().bytes(&[0; 8]).object(Object::ptr(one, 1))),
            ("length -1", sg(16).object(Object::ptr(one, u64::MAX))),
            ("length -8", sg(16).object(Object::ptr(one, -8i64 as u64))),
            ("an unreadable source", sg(16).object(Object::ptr(8, 16))),
        ],
    )?;
    m.try_r()?;
    Ok(())
}

fn parent(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let outer = c.place(&[0x11; 32])?;
    let inner = c.place(b"inner---")?;
    let leaf = c.place(b"leaf----")?;
    world.note("a child in its parent");
    let one = sg(40).object(Object::ptr(outer, 32)).object(Object::child(inner, 8, 0, 8));
    c.wr(commands![one])?;
    let event = m.r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    world.note("two children, a child of a child, and back to the ancestor");
    let many = sg(64)
        .object(Object::ptr(outer, 32))
        .object(Object::child(inner, 8, 0, 0))
        .object(Object::child(leaf, 8, 1, 0))
        .object(Object::child(leaf, 8, 0, 8));
    c.wr(commands![many])?;
    m.r()?;
    Ok(())
}

fn parent_refused(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let outer = c.place(&[0x11; 32])?;
    let small = c.place(&[0x22; 8])?;
    let under =
        |index, offset| sg(40).object(Object::ptr(outer, 32)).object(Object::child(small, 8, index, offset));
    refuse(
        world,
        &c,
        vec![
            ("its own index", under(1, 0)),
            ("a later one", under(2, 0)),
            ("out of range", under(1 << 40, 0)),
            ("the first object has none", sg(40).object(Object::child(small, 8, 0, 0))),
            ("beyond the parent", under(0, 28)),
            ("past the parent", under(0, 32)),
            ("far past the parent", under(0, -8i64 as u64)),
            (
                "a parent of less than 8 bytes",
                sg(40).object(Object::ptr(outer, 4)).object(Object::child(small, 8, 0, 0)),
            ),
            ("an odd offset in the parent", under(0, 9)),
            ("no PTR", sg(40).object(Object::binder(0x10, 1)).object(Object::child(small, 8, 0, 0))),
        ],
    )?;
    m.try_r()?;
    Ok(())
}

fn fixup_order(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let outer = c.place(&[0x11; 32])?;
    let small = c.place(&[0x22; 16])?;
    let root = || sg(128).object(Object::ptr(outer, 32));
    refuse(
        world,
        &c,
        vec![
            ("backwards", root().object(Object::child(small, 8, 0, 8)).object(Object::child(small, 8, 0, 0))),
            (
                "the same word",
                root().object(Object::child(small, 8, 0, 8)).object(Object::child(small, 8, 0, 8)),
            ),
            (
                "overlapping words",
                root().object(Object::child(small, 8, 0, 8)).object(Object::child(small, 8, 0, 12)),
            ),
            (
                "a parent that is neither last nor an ancestor",
                root().object(Object::ptr(outer, 32)).object(Object::child(small, 8, 0, 0)),
            ),
            (
                "a sibling after another parent",
                root()
                    .object(Object::child(small, 16, 0, 0))
                    .object(Object::child(small, 16, 0, 8))
                    .object(Object::child(small, 8, 1, 0)),
            ),
        ],
    )?;
    m.try_r()?;
    Ok(())
}

fn in_reply(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1)])?;
    m.r()?;
    let body = m.place(b"from the manager")?;
    m.wr(commands![reply().bytes(&[1; 8]).extra(16).object(Object::ptr(body, 16))])?;
    c.finish()?;
    Ok(())
}

/// A buffer that holds two words and then descriptors.
fn with_fds(actor: &Actor<'_>, fds: &[i64]) -> Result<u64> {
    let mut bytes = vec![0x33; 8];
    fds.iter().for_each(|fd| bytes.extend((*fd as u32).to_le_bytes()));
    bytes.resize(32, 0x44);
    actor.place(&bytes)
}

fn fda(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    let body = with_fds(&c, &[write, write])?;
    let array = Object::Fda { num_fds: 2, parent: 0, parent_offset: 8, pad: 0x77 };
    c.try_wr(commands![sg(32).object(Object::ptr(body, 32)).object(array)])?;
    close(&c, write)?;
    let event = m.r()?.received()?;
    write_to(&m, 4)?;
    read_from(&c, read)?;
    world.note("freeing the buffer closes them and returns at once");
    m.wr(commands![free(event.buffer())])?;
    write_to(&m, 4)?;
    read_from(&c, read)?;
    m.try_r()?;
    Ok(())
}

fn fda_refused(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    let body = with_fds(&c, &[write, 777])?;
    let of = |array| sg(32).object(Object::ptr(body, 32)).object(array);
    refuse(
        world,
        &c,
        vec![
            ("the node does not accept them", of(Object::fd_array(1, 0, 8))),
            ("none of them", of(Object::fd_array(0, 0, 8))),
            ("its own index", of(Object::fd_array(1, 1, 8))),
            ("beyond the parent", of(Object::fd_array(7, 0, 8))),
            ("2^61", of(Object::fd_array(1 << 61, 0, 8))),
            ("2^62", of(Object::fd_array(1 << 62, 0, 8))),
            ("2^64 - 1", of(Object::fd_array(u64::MAX, 0, 8))),
            ("misaligned", of(Object::fd_array(1, 0, 6))),
        ],
    )?;
    m.try_r()?;
    m.kill()?;
    let m = accepting(world, MAP_SIZE)?;
    refuse(
        world,
        &c,
        vec![
            ("a bad one", of(Object::fd_array(2, 0, 8))),
            ("a misaligned source", {
                sg(32).object(Object::ptr(body + 2, 24)).object(Object::fd_array(1, 0, 8))
            }),
        ],
    )?;
    m.try_r()?;
    world.note("in a reply the call decides");
    c.start(commands![call(0, 2).flags(tf::ACCEPT_FDS)])?;
    m.r()?;
    let (_, end) = pipe(&m)?;
    let own = with_fds(&m, &[end])?;
    let answer =
        reply().bytes(&[0; 8]).extra(32).object(Object::ptr(own, 32)).object(Object::fd_array(1, 0, 8));
    m.wr(commands![answer])?;
    let received = c.finish()?.received()?;
    c.try_wr(commands![free(received.buffer())])?;
    Ok(())
}

/// Who frees the buffer closes the descriptors in its own table.
fn fda_freed_by_child(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    let body = with_fds(&c, &[write])?;
    c.wr(commands![sg(32).object(Object::ptr(body, 32)).object(Object::fd_array(1, 0, 8))])?;
    let event = m.r()?.received()?;
    let child = m.fork("K")?;
    child.try_r()?;
    child.sys("F_GETFD 4", libc::SYS_fcntl, &[4, libc::F_GETFD as u64])?;
    child.try_wr(commands![free(event.buffer())])?;
    child.sys("F_GETFD 4", libc::SYS_fcntl, &[4, libc::F_GETFD as u64])?;
    m.sys("F_GETFD 4", libc::SYS_fcntl, &[4, libc::F_GETFD as u64])?;
    Ok(())
}

/// The number in the array is closed whatever it is by then: here the device in use.
fn fda_closes_device(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (_, write) = pipe(&c)?;
    let body = with_fds(&c, &[write])?;
    c.wr(commands![sg(32).object(Object::ptr(body, 32)).object(Object::fd_array(1, 0, 8))])?;
    let event = m.r()?.received()?;
    m.sys("dup2 3 4", libc::SYS_dup2, &[3, 4])?;
    close(&m, 3)?;
    m.on(4);
    m.wr(commands![free(event.buffer())])?;
    m.try_r()?;
    m.sys("munmap", libc::SYS_munmap, &[m.map_start(), MAP_SIZE])?;
    world.settle();
    c.wr(commands![call(0, 1)])?;
    Ok(())
}

/// The files of an array are let go when a later object fails.
fn fda_undone(world: &World) -> Result {
    let m = accepting(world, MAP_SIZE)?;
    let c = world.process("C")?;
    let (read, write) = pipe(&c)?;
    let body = with_fds(&c, &[write, write])?;
    let bad =
        sg(32).object(Object::ptr(body, 32)).object(Object::fd_array(2, 0, 8)).object(Object::handle(9));
    c.wr(commands![bad])?;
    close(&c, write)?;
    read_from(&c, read)?;
    m.try_r()?;
    Ok(())
}
