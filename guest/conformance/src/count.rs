//! A fixed workload after which every process's commands and returns are known.
//!
//! Registration of a service, synchronous calls, oneways and a death, between processes of our own. The lines at
//! the end are what a trace of this guest must count too: no command can be missing there, and none added.

use crate::cast::Cast;
use crate::commands;
use crate::stream::{call, dead_done, free, release, reply};
use crate::world::{Result, World};

const CALLS: usize = 10;
const ONEWAYS: usize = 5;

fn workload(world: &World) -> Result {
    let Cast { server, client, service, .. } = &Cast::of(world)?;
    for round in 0..CALLS {
        client.start(commands![call(*service, 3).pattern(4 << round, round as u8)])?;
        let request = server.r()?.received()?;
        server.w(commands![free(request.buffer()), reply().bytes(&request.contents.data[..4])])?;
        server.r()?;
        let answer = client.finish()?.received()?;
        client.w(commands![free(answer.buffer())])?;
    }
    for round in 0..ONEWAYS {
        client.wr(commands![call(*service, 4).oneway().bytes(&[round as u8; 4])])?;
        let event = server.r()?.received()?;
        server.w(commands![free(event.buffer())])?;
    }
    server.kill()?;
    client.r()?;
    client.w(commands![dead_done(0x77), release(*service)])?;
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
