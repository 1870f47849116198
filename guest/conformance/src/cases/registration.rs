//! First ioctls, version, thread limits, context managers.

use super::Case;
use crate::commands;
use crate::stream::{call, enter_looper, exit_looper, free, register_looper, reply};
use crate::uapi::ioctl;
use crate::world::{Io, MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "first-ioctl", covers: "B003, B036, B087, B004", play: first_ioctl },
    Case { name: "version", covers: "B042, B033", play: version },
    Case { name: "unknown-ioctls", covers: "B033, B034, B463, B041", play: unknown_ioctls },
];

/// A thread's first read returns at once with NOOP; afterwards it would block.
fn first_ioctl(world: &World) -> Result {
    let a = world.spawn("A")?;
    a.open("binder")?;
    a.map(MAP_SIZE)?;
    a.r()?;
    a.try_r()?;
    let second = a.fresh_thread("A.2")?;
    second.try_r()?;
    second.try_r()?;
    world.note("any first ioctl spends the early return");
    let third = a.fresh_thread("A.3")?;
    third.ioctl("UNUSED", ioctl::UNUSED, &[])?;
    third.try_r()?;
    Ok(())
}

fn version(world: &World) -> Result {
    let a = world.process("A")?;
    a.ioctl("VERSION", ioctl::VERSION, &[0xff; 4])?;
    a.ioctl_at("VERSION at 0", ioctl::VERSION, 0)?;
    a.ioctl("VERSION of 8 bytes", 0xc008_6209, &[0; 8])?;
    Ok(())
}

fn unknown_ioctls(world: &World) -> Result {
    let a = world.process("A")?;
    a.ioctl("TCGETS", libc::TCGETS as u32, &[0; 64])?;
    a.ioctl("UNUSED", ioctl::UNUSED, &[])?;
    a.ioctl("SET_IDLE_TIMEOUT", ioctl::SET_IDLE_TIMEOUT, &[0; 8])?;
    a.ioctl("SET_IDLE_PRIORITY", ioctl::SET_IDLE_PRIORITY, &[0; 4])?;
    a.ioctl("WRITE_READ of 24 bytes", 0xc018_6201, &[0; 24])?;
    a.ioctl("WRITE_READ write-only", 0x4030_6201, &[0; 48])?;
    a.ioctl_at("WRITE_READ at 8", ioctl::WRITE_READ, 8)?;
    a.ioctl("WRITE_READ of nothing", ioctl::WRITE_READ, &[0; 48])?;
    Ok(())
}
