//! A service, its client, and the manager that made them known to each other.

use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, acquire_done, call, free, increfs_done, reply, watch};
use crate::world::{Result, World};

/// The service's pointer and cookie.
const NODE: (u64, u64) = (0x1000, 0x2000);

/// The processes, each with one thread. The manager and the client hold `service` of the server.
pub struct Cast<'w> {
    pub server: Actor<'w>,
    pub client: Actor<'w>,
    /// The client's handle, whose death it watches for with cookie 0x77.
    pub service: u32,
    /// Keeps its reference as long as it lives.
    _manager: Actor<'w>,
}

impl<'w> Cast<'w> {
    /// The server registers its node with the manager; the client looks it up, keeps it and watches it.
    pub fn of(world: &'w World) -> Result<Cast<'w>> {
        let manager = world.manager("manager")?;
        let server = world.server("server")?;
        let client = world.process("client")?;
        server.start(commands![call(0, 1).object(Object::binder(NODE.0, NODE.1))])?;
        let registration = manager.r()?.received()?;
        let kept = registration.handle(0)?;
        manager.w(commands![acquire(kept), free(registration.buffer()), reply()])?;
        manager.r()?;
        let done = server.finish()?.received()?;
        server.w(commands![
            increfs_done(NODE.0, NODE.1),
            acquire_done(NODE.0, NODE.1),
            free(done.buffer())
        ])?;
        client.start(commands![call(0, 2).bytes(b"name")])?;
        let lookup = manager.r()?.received()?;
        manager.w(commands![free(lookup.buffer()), reply().object(Object::handle(kept))])?;
        manager.r()?;
        let found = client.finish()?.received()?;
        let service = found.handle(0)?;
        client.w(commands![acquire(service), free(found.buffer()), watch(service, 0x77)])?;
        Ok(Cast { server, client, service, _manager: manager })
    }
}
