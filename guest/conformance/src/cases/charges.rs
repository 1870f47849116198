//! Processes in a memory cgroup: what is charged to them for binder, and what becomes of their calls when the kernel
//! kills them for what they use.
//!
//! They are of the group `race`, played on both drivers side by side: they need a cgroup file system at `/sys/fs/cgroup`
//! with the memory controller.

use super::{Case, watched};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, call, free, reply, watch};
use crate::world::{Result, Stop, World, unexpected};

pub const CASES: &[Case] = &[
    Case { name: "race-cgroup-charge", covers: "B355", play: charge },
    Case { name: "race-cgroup-oom-receiver", covers: "B031, B134", play: receiver_killed },
    Case { name: "race-cgroup-oom-sender", covers: "B031, B134, B265", play: sender_killed },
];

const ROOT: &str = "/sys/fs/cgroup";
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
/// Room for a process of ours, and not for much more.
const LIMIT: u64 = 4 << 20;

/// A cgroup of the case's own, which goes when its processes have.
struct Group(String);

impl Group {
    fn new(name: &str) -> Result<Group> {
        let path = format!("{ROOT}/{name}");
        let made = std::fs::write(format!("{ROOT}/cgroup.subtree_control"), "+memory")
            .and_then(|()| std::fs::create_dir_all(&path))
            .and_then(|()| std::fs::write(format!("{path}/memory.max"), LIMIT.to_string()));
        match made {
            Ok(()) => Ok(Group(path)),
            Err(error) => unexpected(format!("no memory cgroup {path}: {error}")),
        }
    }

    /// Moves a process in: what it is charged for from now on counts.
    fn add(&self, actor: &Actor<'_>) -> Result {
        match std::fs::write(format!("{}/cgroup.procs", self.0), actor.pid().to_string()) {
            Ok(()) => Ok(()),
            Err(error) => unexpected(format!("cannot enter the cgroup: {error}")),
        }
    }

    /// Bytes charged now.
    fn charged(&self) -> u64 {
        let text = std::fs::read_to_string(format!("{}/memory.current", self.0)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// How often a process of it was killed for its memory.
    fn kills(&self) -> String {
        let text = std::fs::read_to_string(format!("{}/memory.events", self.0)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap_or("unknown").to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are gone, or go with the world; the next boot has no such group.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Uses more memory than the group has, and says how that ended.
fn eat(actor: &Actor<'_>) -> Result {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE) as u64;
    match actor.ask(libc::SYS_mmap, &[0, 4 * LIMIT, READ_WRITE, flags, u64::MAX, 0]) {
        Err(Stop::Died(how)) => actor.say(&format!("uses too much memory -> killed ({how})")),
        Ok(_) => return unexpected("it used more than its group has, and lives"),
        Err(other) => return Err(other),
    }
    Ok(())
}

/// Buffers are not charged to the receiver: it can hold more of them than its group has room for.
fn charge(world: &World) -> Result {
    let group = Group::new("charge")?;
    let m = world.manager_on("M", "binder", 4 << 20)?;
    let c = world.process("C")?;
    group.add(&m)?;
    let before = group.charged();
    let mut held = Vec::new();
    for code in 1..=30 {
        c.start(commands![call(0, code).pattern(130_000, code as u8)])?;
        let request = m.r()?.received()?;
        held.push(request.buffer());
        m.wr(commands![reply()])?;
        let answer = c.finish()?.received()?;
        c.w(commands![free(answer.buffer())])?;
    }
    let grown = group.charged().saturating_sub(before);
    m.say(&format!("is charged for what it received: {}", if grown > 2 << 20 { "yes" } else { "no" }));
    for buffer in held {
        m.w(commands![free(buffer)])?;
    }
    m.say(&format!("killed for its memory: {}", group.kills()));
    Ok(())
}

/// The kernel kills a server for its memory in the middle of a call: the caller hears that it is dead.
fn receiver_killed(world: &World) -> Result {
    let group = Group::new("receiver")?;
    let (m, s, c, handle) = watched(world)?;
    let t = c.thread("C.2")?;
    t.start(commands![call(handle, 1).pattern(20_000, 1)])?;
    s.r()?.received()?;
    c.wr(commands![call(handle, 2).oneway().pattern(3000, 2)])?;
    group.add(&s)?;
    eat(&s)?;
    world.settle();
    t.finish()?;
    c.try_r()?;
    m.say(&format!("killed for its memory: {}", group.kills()));
    Ok(())
}

/// The kernel kills a caller while its call is served: the answer goes nowhere, and its nodes die.
fn sender_killed(world: &World) -> Result {
    let group = Group::new("sender")?;
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let t = c.thread("C.2")?;
    t.start(commands![call(0, 1).object(Object::binder(0x10, 1))])?;
    let request = m.r()?.received()?;
    let handle = request.handle(0)?;
    m.try_wr(commands![acquire(handle), watch(handle, 0x77)])?;
    group.add(&c)?;
    eat(&c)?;
    world.settle();
    m.wr(commands![free(request.buffer()), reply().bytes(b"late")])?;
    m.try_r()?;
    m.say(&format!("killed for its memory: {}", group.kills()));
    Ok(())
}
