//! The cast of most tests: a manager, the owner of an object, and a client that holds it.

use binder::protocol::{Command, object};

use crate::payloads::*;
use crate::world::*;

/// A manager, an owner of one object, and a client that holds a handle on it.
pub struct Trio {
    pub w: World,
    pub manager: Th,
    pub owner: Th,
    pub client: Th,
    pub handle: u32,
}

pub const PTR: u64 = 0x1000;

/// `flags`: of the object.
pub fn trio_with(mut w: World, flags: u32) -> Trio {
    let manager = w.process(10);
    w.become_manager(manager);
    w.write(manager, &[Command::EnterLooper]);
    let owner = w.process(20);
    w.write(owner, &[Command::EnterLooper]);
    let client = w.process(30);
    let handle = w.publish(manager, owner, client, PTR, flags);
    for th in [manager, owner, client] {
        w.trim(th.proc);
    }
    w.trace.clear();
    w.asked.clear();
    Trio { w, manager, owner, client, handle }
}

pub fn trio() -> Trio {
    trio_with(World::new(), 0x100 | 0x7f)
}

impl World {
    /// Registers a node of `owner` with the manager, which hands it on to `client`: returns the
    /// client's handle. The manager must be idle; nobody sleeps.
    pub fn publish(&mut self, manager: Th, owner: Th, client: Th, ptr: u64, flags: u32) -> u32 {
        let object = flat_object(object::BINDER, flags, ptr, ptr + 1);
        let add = self.call(owner, 0, &object, &[0]);
        assert!(add.parked, "{add:?}");
        let got = self.read(manager).data();
        let handle = word(&self.look(manager.proc, got.data, 24), 8);
        self.write(manager, &[Command::Acquire { handle }, Command::FreeBuffer { data: got.data }]);
        self.reply_now(manager, &[], &[]);
        let done = self.woken(owner);
        let told =
            [Command::IncrefsDone { ptr, cookie: ptr + 1 }, Command::AcquireDone { ptr, cookie: ptr + 1 }];
        self.write(owner, &told);
        self.free(owner, done.data().data);
        assert!(self.call(client, 0, &[], &[]).parked);
        let got = self.read(manager).data();
        self.write(manager, &[Command::FreeBuffer { data: got.data }]);
        self.reply_now(manager, &flat_object(object::HANDLE, 0, u64::from(handle), 0), &[0]);
        let answer = self.woken(client).data();
        let handle = word(&self.look(client.proc, answer.data, 24), 8);
        self.write(client, &[Command::Acquire { handle }, Command::FreeBuffer { data: answer.data }]);
        handle
    }
}
