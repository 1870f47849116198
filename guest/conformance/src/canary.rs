//! A service, its client and somebody who watches, all of whose bytes are one token.
//!
//! For isolation tests: the host plays this in one guest, does its worst in another one, and looks for the
//! token where it must not be. Each line on stdin plays a batch of calls and is answered with `ok` if every
//! byte and every sender was as it should be, and nothing came that nobody here caused.

use std::io::BufRead;

use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, acquire_done, call, enter_looper, free, increfs_done, reply, watch};
use crate::world::{Result, World, unexpected};

const BATCH: usize = 20;
const NODE: (u64, u64) = (0x1000, 0x2000);

/// The cast: the client holds `service` of the server, and `watcher` is a thread of it that waits.
struct Cast<'w> {
    server: Actor<'w>,
    client: Actor<'w>,
    watcher: Actor<'w>,
    service: u32,
}

fn cast(world: &World) -> Result<Cast<'_>> {
    let manager = world.manager("manager")?;
    let server = world.server("server")?;
    let client = world.process("client")?;
    server.start(commands![call(0, 1).object(Object::binder(NODE.0, NODE.1))])?;
    let registration = manager.r()?.received()?;
    let kept = registration.handle(0)?;
    manager.w(commands![acquire(kept), free(registration.buffer()), reply()])?;
    manager.r()?;
    let done = server.finish()?.received()?;
    server.w(commands![increfs_done(NODE.0, NODE.1), acquire_done(NODE.0, NODE.1), free(done.buffer())])?;
    client.start(commands![call(0, 2)])?;
    let lookup = manager.r()?.received()?;
    manager.w(commands![free(lookup.buffer()), reply().object(Object::handle(kept))])?;
    manager.r()?;
    let found = client.finish()?.received()?;
    let service = found.handle(0)?;
    client.w(commands![acquire(service), free(found.buffer()), watch(service, 0x77)])?;
    // A death or a freeze of anybody it knows would end this wait.
    let watcher = client.thread("watcher")?;
    watcher.w(commands![enter_looper()])?;
    watcher.start(commands![])?;
    Ok(Cast { server, client, watcher, service })
}

fn batch(cast: &Cast<'_>, token: &[u8]) -> Result {
    let Cast { server, client, watcher, service } = cast;
    for round in 1..=BATCH {
        let bytes = token.repeat(round);
        client.start(commands![call(*service, 3).bytes(&bytes)])?;
        let request = server.r()?.received()?;
        if request.delivery.sender_pid != client.pid() {
            return unexpected("a call came from somebody else");
        }
        if request.contents.data[..bytes.len()] != bytes {
            return unexpected("a call carried something else");
        }
        server.w(commands![free(request.buffer()), reply().bytes(&bytes)])?;
        server.r()?;
        let answer = client.finish()?.received()?;
        if answer.contents.data[..bytes.len()] != bytes {
            return unexpected("a reply carried something else");
        }
        client.w(commands![free(answer.buffer())])?;
    }
    match watcher.wait_asleep(libc::SYS_ioctl)? {
        true => Ok(()),
        false => unexpected("something happened to a service that nobody touched"),
    }
}

/// Plays batches until stdin ends.
pub fn run(token: &str) -> std::io::Result<()> {
    let failed = |stop: crate::world::Stop| std::io::Error::other(stop.to_string());
    let world = World::new("canary", true)?;
    let cast = cast(&world).map_err(failed)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        batch(&cast, token.as_bytes()).map_err(failed)?;
        println!("ok");
    }
    Ok(())
}
