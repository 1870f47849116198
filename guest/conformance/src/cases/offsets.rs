//! What is refused in a transaction's data and offsets, and with which error.

use super::Case;
use crate::commands;
use crate::object::Object;
use crate::stream::{Call, call};
use crate::world::{Result, World};

pub const CASES: &[Case] = &[
    Case { name: "offsets-array", covers: "B161, B162, B168, B483", play: array },
    Case { name: "offsets-place", covers: "B163, B164, B165, B484", play: place },
    Case { name: "offsets-good", covers: "B163, B166, B172", play: good },
    Case { name: "object-types", covers: "B155, B167", play: types },
    Case { name: "unreadable", covers: "B169, B127", play: unreadable },
    Case { name: "order-of-checks", covers: "B117, B126", play: order_of_checks },
    Case { name: "overflow", covers: "B170, B354, B493", play: overflow },
];

/// 64 bytes of data with an object at 8, and these offsets.
fn with(offsets: &[u64]) -> Call {
    call(0, 1).oneway().bytes(&[0; 8]).object(Object::binder(0x10, 1)).bytes(&[0; 32]).offsets(offsets)
}

fn refuse(world: &World, calls: Vec<(&str, Call)>) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    for (what, call) in calls {
        world.note(what);
        c.wr(commands![call])?;
    }
    m.try_r()?;
    Ok(())
}

fn array(world: &World) -> Result {
    let mut odd = with(&[8]);
    odd.offsets = crate::stream::Source::Inline(vec![8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut short = with(&[8]);
    short.offsets = crate::stream::Source::Inline(vec![8, 0, 0, 0]);
    refuse(
        world,
        vec![
            ("12 bytes of offsets", odd),
            ("4 bytes of offsets", short),
            ("buffers_size 4", call(0, 1).oneway().extra(4)),
            ("buffers_size 1", call(0, 1).oneway().extra(1)),
            ("offsets without data", call(0, 1).oneway().offsets(&[0])),
        ],
    )
}

fn place(world: &World) -> Result {
    refuse(
        world,
        vec![
            ("not a multiple of 4", with(&[9])),
            ("2 more", with(&[10])),
            (
                "does not fit by a byte",
                call(0, 1).oneway().bytes(&Object::binder(0x10, 1).encode()[..23]).offsets(&[0]),
            ),
            ("no room for a header", with(&[60])),
            ("at the end", with(&[64])),
            ("beyond the end", with(&[72])),
            ("far beyond", with(&[1 << 63])),
            ("minus eight", with(&[-8i64 as u64])),
            ("twice the same", with(&[8, 8])),
            ("decreasing", with(&[8, 0])),
            ("overlapping", with(&[8, 16])),
        ],
    )
}

fn good(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    world.note("multiples of 4 that are none of 8, gaps, a tail");
    let sparse = call(0, 1)
        .oneway()
        .bytes(&[0xa; 4])
        .object(Object::binder(0x10, 1))
        .bytes(&[0xb; 8])
        .object(Object::binder(0x20, 2))
        .object(Object::weak_binder(0x10, 1))
        .bytes(&[0xc; 3]);
    c.wr(commands![sparse])?;
    m.r()?;
    Ok(())
}

fn types(world: &World) -> Result {
    let unknown = |kind| call(0, 1).oneway().object(Object::Unknown { kind });
    refuse(
        world,
        vec![
            ("zero", unknown(0)),
            ("the wrong low byte", unknown(0x7362_2a86)),
            ("the letters turned", unknown(0x852a_6273)),
            ("the compiler's offset", unknown(0x7362_2a00)),
        ],
    )
}

fn unreadable(world: &World) -> Result {
    refuse(
        world,
        vec![
            ("data", call(0, 1).oneway().data_at(8, 16)),
            ("data with an object", call(0, 1).oneway().data_at(8, 64).offsets(&[0])),
            ("offsets", call(0, 1).oneway().bytes(&[0; 32]).offsets_at(8, 8)),
            ("data at the top of memory", call(0, 1).oneway().data_at(-64i64 as u64, 16)),
        ],
    )
}

/// Which error wins when there are two.
fn order_of_checks(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let cases = [
        ("no room, unreadable offsets", call(0, 1).data_at(8, 1 << 20).offsets_at(8, 8)),
        ("unreadable offsets, their odd size", call(0, 1).bytes(&[0; 8]).offsets_at(8, 12)),
        ("unknown handle, no room", call(9, 1).data_at(8, 1 << 20)),
        ("a bad object, unreadable data behind it", call(0, 1).data_at(8, 4096).offsets(&[0])),
        ("a bad object behind an unreadable gap", call(0, 1).data_at(8, 4096).offsets(&[64])),
    ];
    for (what, call) in cases {
        world.note(what);
        c.wr(commands![call])?;
    }
    world.note("a second call: after the handle, before the room");
    c.try_wr(commands![call(0, 2)])?;
    c.try_wr(commands![call(9, 3)])?;
    c.try_wr(commands![call(0, 4).data_at(8, 1 << 20)])?;
    m.r()?;
    Ok(())
}

fn overflow(world: &World) -> Result {
    refuse(
        world,
        vec![
            ("data_size -8", call(0, 1).oneway().data_at(8, -8i64 as u64)),
            ("data_size -1", call(0, 1).oneway().data_at(8, u64::MAX)),
            ("offsets_size -8", call(0, 1).oneway().bytes(&[0; 8]).offsets_at(8, -8i64 as u64)),
            ("buffers_size -8", call(0, 1).oneway().extra(-8i64 as u64)),
            ("buffers_size above 2^63", call(0, 1).oneway().extra((1 << 63) + 8)),
            ("the sum overflows", call(0, 1).oneway().data_at(8, 1 << 63).offsets_at(8, 1 << 63)),
            ("only large", call(0, 1).oneway().data_at(8, 1 << 40)),
        ],
    )
}
