//! Freezing processes.

use super::{Case, fetch, publish};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{call, free, reply};
use crate::uapi::{ioctl, tf};
use crate::world::{MAP_SIZE, Result, World};

pub const CASES: &[Case] = &[
    Case { name: "freeze", covers: "B055, B056, B136, B367, B373, B377, B378, B380, B381", play: freeze },
    Case { name: "freeze-busy", covers: "B368, B369, B370", play: busy },
    Case { name: "freeze-wait", covers: "B368, B371, B376", play: wait },
    Case { name: "freeze-again", covers: "B374", play: again },
    Case { name: "frozen-caller", covers: "B369, B379", play: frozen_caller },
    Case { name: "freeze-signal", covers: "B372", play: signal },
    Case { name: "frozen-death", covers: "B383", play: frozen_death },
    Case { name: "update-txn", covers: "B144, B145, B362, B384", play: update },
    Case { name: "freeze-all-contexts", covers: "B367, B380", play: all_contexts },
    Case { name: "freeze-partly", covers: "B375", play: partly },
    Case { name: "frozen-and-bad", covers: "B117, B377", play: frozen_and_bad },
    Case { name: "freeze-unknown", covers: "B055, B056, B382, B504", play: unknown },
];

fn argument(pid: i32, enable: u32, milliseconds: u32) -> Vec<u8> {
    [pid as u32, enable, milliseconds].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn set(by: &Actor<'_>, whom: &Actor<'_>, enable: u32, milliseconds: u32) -> Result {
    let address = by.place(&argument(whom.pid(), enable, milliseconds))?;
    by.ioctl_at(&format!("FREEZE enable={enable} timeout={milliseconds}"), ioctl::FREEZE, address)?;
    Ok(())
}

fn info(by: &Actor<'_>, whom: &Actor<'_>) -> Result {
    let address = by.place(&argument(whom.pid(), 0, 0))?;
    let result = by.ask(libc::SYS_ioctl, &[by.device() as u64, ioctl::GET_FROZEN_INFO.into(), address])?;
    let bytes = by.peek(address + 4, 8)?;
    by.say(&format!(
        "FROZEN_INFO -> {} sync={} async={}",
        crate::transcript::result(result),
        bytes[0],
        bytes[4]
    ));
    Ok(())
}

fn freeze(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    info(&c, &m)?;
    set(&c, &m, 1, 0)?;
    info(&c, &m)?;
    c.wr(commands![call(0, 1)])?;
    info(&c, &m)?;
    c.wr(commands![call(0, 2).oneway()])?;
    info(&c, &m)?;
    world.note("the frozen process may read what was queued");
    let event = m.try_r()?.received()?;
    m.w(commands![free(event.buffer())])?;
    info(&c, &m)?;
    set(&c, &m, 0, 0)?;
    info(&c, &m)?;
    c.start(commands![call(0, 3)])?;
    m.r()?;
    m.wr(commands![reply()])?;
    c.finish()?;
    world.note("thawing what is not frozen");
    set(&c, &m, 0, 0)?;
    Ok(())
}

/// Anything outstanding is an obstacle, and leaves the process unfrozen.
fn busy(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let f = world.process("F")?;
    world.note("a queued call, a delivered call, a reply that is not read");
    c.try_wr(commands![call(0, 1)])?;
    set(&f, &m, 1, 0)?;
    let request = m.r()?.received()?;
    set(&f, &m, 1, 10)?;
    info(&f, &m)?;
    m.wr(commands![free(request.buffer()), reply()])?;
    set(&f, &c, 1, 0)?;
    c.r()?;
    set(&f, &c, 1, 0)?;
    set(&f, &c, 0, 0)?;
    world.note("an unread oneway and one in the backlog; not one that was read");
    c.wr(commands![call(0, 2).oneway()])?;
    c.wr(commands![call(0, 3).oneway()])?;
    set(&f, &m, 1, 0)?;
    let first = m.r()?.received()?;
    set(&f, &m, 1, 0)?;
    m.wr(commands![free(first.buffer())])?;
    set(&f, &m, 1, 0)?;
    Ok(())
}

/// A freeze that waits ends when the last answer has been read.
fn wait(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let f = world.process("F")?;
    c.start(commands![call(0, 1)])?;
    m.r()?;
    let address = f.place(&argument(m.pid(), 1, 15_000))?;
    let arguments = [f.device() as u64, ioctl::FREEZE.into(), address];
    f.start_sys("FREEZE enable=1 timeout=15000", libc::SYS_ioctl, &arguments)?;
    world.note("others see it frozen already");
    let d = world.process("D")?;
    d.wr(commands![call(0, 2)])?;
    m.wr(commands![reply()])?;
    c.finish()?;
    f.finish_sys()?;
    info(&f, &m)?;
    Ok(())
}

/// A second freeze after oneways came in fails and thaws.
fn again(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    set(&c, &m, 1, 0)?;
    set(&c, &m, 1, 0)?;
    c.wr(commands![call(0, 1).oneway()])?;
    set(&c, &m, 1, 0)?;
    info(&c, &m)?;
    c.start(commands![call(0, 2)])?;
    m.r()?;
    m.r()?;
    m.wr(commands![reply()])?;
    c.finish()?;
    Ok(())
}

/// Only incoming calls are filtered; a thread that waits for a reply is busy.
fn frozen_caller(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let f = world.process("F")?;
    set(&f, &c, 1, 0)?;
    c.start(commands![call(0, 1)])?;
    set(&f, &c, 1, 0)?;
    m.r()?;
    m.wr(commands![reply()])?;
    c.finish()?;
    set(&f, &c, 1, 0)?;
    let fetched = fetch(&c, &m, Object::binder(0x10, 1))?;
    c.w(commands![free(fetched.buffer())])?;
    Ok(())
}

fn signal(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let f = world.process("F")?;
    c.start(commands![call(0, 1)])?;
    m.r()?;
    let address = f.place(&argument(m.pid(), 1, 15_000))?;
    let arguments = [f.device() as u64, ioctl::FREEZE.into(), address];
    f.start_sys("FREEZE enable=1 timeout=15000", libc::SYS_ioctl, &arguments)?;
    f.interrupt()?;
    f.finish_sys()?;
    info(&f, &m)?;
    let d = world.process("D")?;
    d.try_wr(commands![call(0, 2)])?;
    Ok(())
}

fn frozen_death(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    set(&c, &s, 1, 0)?;
    c.wr(commands![call(handle, 1)])?;
    s.kill()?;
    c.wr(commands![call(handle, 1)])?;
    Ok(())
}

/// A oneway that updates replaces the one that waits behind another.
fn update(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let d = world.process("D")?;
    let update = |code, byte| call(0, code).oneway().flags(tf::UPDATE_TXN).bytes(&[byte; 4]);
    set(&c, &m, 1, 0)?;
    c.wr(commands![update(1, 1)])?;
    world.note("behind the first: replaced by the same sender, code and flags only");
    c.wr(commands![update(1, 2)])?;
    c.wr(commands![update(2, 3)])?;
    d.wr(commands![update(1, 4)])?;
    c.wr(commands![call(0, 1).oneway().bytes(&[5; 4])])?;
    c.wr(commands![update(1, 6)])?;
    set(&c, &m, 0, 0)?;
    world.note("not frozen: nothing is replaced");
    c.wr(commands![update(1, 7)])?;
    let mut last = m.r()?.received()?;
    loop {
        let next = m.try_wr(commands![free(last.buffer())])?;
        match next.received() {
            Ok(received) => last = received,
            Err(_) => return Ok(()),
        }
    }
}

/// Every open of the process is frozen, in every context.
fn all_contexts(world: &World) -> Result {
    let m = world.manager("M")?;
    let hw = m.thread("M.hw")?;
    hw.use_device("hwbinder", MAP_SIZE)?;
    hw.become_manager()?;
    let c = world.process("C")?;
    let d = world.process_on("D", "hwbinder", MAP_SIZE)?;
    set(&c, &m, 1, 0)?;
    d.wr(commands![call(0, 1)])?;
    info(&c, &m)?;
    c.wr(commands![call(0, 2)])?;
    set(&d, &m, 0, 0)?;
    c.wr(commands![call(0, 3).oneway()])?;
    d.wr(commands![call(0, 4).oneway()])?;
    m.r()?;
    hw.r()?;
    Ok(())
}

/// With one open of the process busy, the attempt fails. The last opened is frozen first, and stays so.
fn partly(world: &World) -> Result {
    let m = world.manager("M")?;
    let hw = m.thread("M.hw")?;
    hw.use_device("hwbinder", MAP_SIZE)?;
    hw.become_manager()?;
    let c = world.process("C")?;
    let d = world.process_on("D", "hwbinder", MAP_SIZE)?;
    world.note("the first open is busy");
    c.try_wr(commands![call(0, 1)])?;
    set(&d, &m, 1, 0)?;
    d.try_wr(commands![call(0, 2)])?;
    m.r()?;
    m.wr(commands![reply()])?;
    c.r()?;
    set(&d, &m, 0, 0)?;
    world.note("the second open is busy");
    let e = world.process_on("E", "hwbinder", MAP_SIZE)?;
    e.try_wr(commands![call(0, 3)])?;
    set(&d, &m, 1, 0)?;
    c.try_wr(commands![call(0, 4)])?;
    Ok(())
}

/// The state of the target is looked at last.
fn frozen_and_bad(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    set(&c, &m, 1, 0)?;
    c.wr(commands![call(0, 1).object(Object::handle(9))])?;
    c.wr(commands![call(0, 1).pattern(70_000, 0)])?;
    c.wr(commands![call(0, 1).object(Object::binder(0x10, 1))])?;
    info(&c, &m)?;
    m.try_r()?;
    Ok(())
}

fn unknown(world: &World) -> Result {
    let a = world.process("A")?;
    let b = world.spawn("B")?;
    set(&a, &b, 1, 0)?;
    info(&a, &b)?;
    a.ioctl_at("FREEZE at 0", ioctl::FREEZE, 0)?;
    a.ioctl_at("FROZEN_INFO at 0", ioctl::GET_FROZEN_INFO, 0)?;
    info(&a, &a)?;
    world.note("freezing oneself");
    set(&a, &a, 1, u32::MAX)?;
    info(&a, &a)?;
    set(&a, &a, 0, 0)?;
    Ok(())
}
