//! A service, its client and somebody who watches, all of whose bytes are one token.
//!
//! For isolation tests: the host plays this in one guest, does its worst in another one, and looks for the
//! token where it must not be. Each line on stdin plays a batch of calls and is answered with `ok` if every
//! byte and every sender was as it should be, and nothing came that nobody here caused.

use std::io::BufRead;

use crate::actor::Actor;
use crate::cast::Cast;
use crate::commands;
use crate::stream::{call, enter_looper, free, reply};
use crate::world::{Result, World, unexpected};

const BATCH: usize = 20;

/// `watcher` is a thread of the client that waits for what must not come.
fn batch(cast: &Cast<'_>, watcher: &Actor<'_>, token: &[u8]) -> Result {
    let Cast { server, client, service, .. } = cast;
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

/// A death or a freeze of anybody that the client knows would end this wait.
fn watcher<'w>(cast: &Cast<'w>) -> Result<Actor<'w>> {
    let watcher = cast.client.thread("watcher")?;
    watcher.w(commands![enter_looper()])?;
    watcher.start(commands![])?;
    Ok(watcher)
}

/// Plays batches until stdin ends.
pub fn run(token: &str) -> std::io::Result<()> {
    let failed = |stop: crate::world::Stop| std::io::Error::other(stop.to_string());
    let world = World::new("canary", true)?;
    let cast = Cast::of(&world).map_err(failed)?;
    let watcher = watcher(&cast).map_err(failed)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        batch(&cast, &watcher, token.as_bytes()).map_err(failed)?;
        println!("ok");
    }
    Ok(())
}
