//! A fixed workload after which every process's commands and returns are known.
//!
//! Registration of a service, synchronous calls, oneways and a death, between processes of our own. The lines at
//! the end are what a trace of this guest must count too: no command can be missing there, and none added.

use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, acquire_done, call, dead_done, free, increfs_done, release, reply, watch};
use crate::world::{Result, World};

const CALLS: usize = 10;
const ONEWAYS: usize = 5;
const NODE: (u64, u64) = (0x1000, 0x2000);

fn workload(world: &World) -> Result {
    let manager = world.manager("manager")?;
    let server = world.server("server")?;
    let client = world.process("client")?;

    // The server registers its node; the manager keeps a strong reference.
    server.start(commands![call(0, 1).object(Object::binder(NODE.0, NODE.1))])?;
    let registration = manager.r()?.received()?;
    let kept = registration.handle(0)?;
    manager.w(commands![acquire(kept), free(registration.buffer()), reply()])?;
    manager.r()?;
    let done = server.finish()?.received()?;
    server.w(commands![increfs_done(NODE.0, NODE.1), acquire_done(NODE.0, NODE.1), free(done.buffer())])?;

    // The client looks it up, keeps it and watches it.
    client.start(commands![call(0, 2).bytes(b"name")])?;
    let lookup = manager.r()?.received()?;
    manager.w(commands![free(lookup.buffer()), reply().object(Object::handle(kept))])?;
    manager.r()?;
    let found = client.finish()?.received()?;
    let service = found.handle(0)?;
    client.w(commands![acquire(service), free(found.buffer()), watch(service, 0x77)])?;

    for round in 0..CALLS {
        client.start(commands![call(service, 3).pattern(4 << round, round as u8)])?;
        let request = server.r()?.received()?;
        server.w(commands![free(request.buffer()), reply().bytes(&request.contents.data[..4])])?;
        server.r()?;
        let answer = client.finish()?.received()?;
        client.w(commands![free(answer.buffer())])?;
    }
    for round in 0..ONEWAYS {
        client.wr(commands![call(service, 4).oneway().bytes(&[round as u8; 4])])?;
        let event = server.r()?.received()?;
        server.w(commands![free(event.buffer())])?;
    }
    server.kill()?;
    client.r()?;
    client.w(commands![dead_done(0x77), release(service)])?;
    Ok(())
}

/// Runs the workload and prints `count pid=<pid> <command> <number>` lines, and who the processes are.
pub fn run() -> std::io::Result<()> {
    let world = World::new("count", true)?;
    workload(&world).map_err(|stop| std::io::Error::other(format!("the workload did not end: {stop}")))?;
    for (pid, name, counts) in world.counts() {
        println!("count pid={pid} is {name}");
        for (command, number) in counts {
            println!("count pid={pid} {command} {number}");
        }
    }
    Ok(())
}
