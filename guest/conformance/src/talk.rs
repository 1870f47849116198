//! One thread's conversation with the driver, for workloads that run at full speed.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::bench::{carrying, delivery, encode};
use crate::device::Device;
use crate::object::Object;
use crate::stream::{
    self, Call, Command, Delivery, Return, acquire, acquire_done, call, dead_done, enter_looper, free,
    increfs_done, release, reply, unwatch, watch,
};
use crate::uapi::br;

/// Codes of what the clients of a workload ask of its server.
pub mod code {
    /// The data follows from a seed in the flags; so does the reply's.
    pub const ECHO: u32 = 1;
    /// A oneway.
    pub const EVENT: u32 = 2;
    /// The call brings a binder, which the server calls before it replies.
    pub const CALL_ME_BACK: u32 = 3;
    /// The call brings a binder, whose death the server watches for.
    pub const REGISTER: u32 = 4;
}

/// What became of a call back.
pub enum CallBack {
    /// Its answer was right.
    Right,
    /// Its answer was wrong.
    Wrong,
    /// It failed.
    Failed,
}

/// The code of a call that comes while another one is waited for: its bytes go back in reverse.
pub const CALL_BACK: u32 = 5;

/// Commands collect until the next exchange.
pub struct Talk<'a> {
    device: &'a Device,
    pending: Vec<u8>,
}

impl<'a> Talk<'a> {
    pub fn new(device: &'a Device) -> Self {
        Self { device, pending: encode(&[enter_looper()]) }
    }

    pub fn say(&mut self, command: Command) {
        self.pending.extend(encode(&[command]));
    }

    /// One BINDER_WRITE_READ; reference counting is answered here. After a signal there are no items.
    pub fn exchange(&mut self) -> io::Result<Vec<Return>> {
        let mut read = [0; 512];
        let (written, filled) = self.device.write_read(&self.pending, &mut read)?;
        self.pending.drain(..written);
        let items = stream::decode(&read[..filled]);
        for item in &items {
            match item {
                Return::Words(br::INCREFS, ids) => self.say(increfs_done(ids[0], ids[1])),
                Return::Words(br::ACQUIRE, ids) => self.say(acquire_done(ids[0], ids[1])),
                _ => {}
            }
        }
        Ok(items)
    }

    /// Serves calls until this process ends. Who dies is let go of, and counted.
    pub fn serve(
        &mut self,
        deaths: &AtomicU64,
        mut serve: impl FnMut(&mut Self, Delivery) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            for item in &self.exchange()? {
                match item {
                    Return::Delivery(request) => serve(self, *request)?,
                    Return::Words(br::DEAD_BINDER, ids) => {
                        deaths.fetch_add(1, SeqCst);
                        self.bury(ids[0]);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes a synchronous call; calls back are answered meanwhile. `None` if it failed.
    pub fn call(&mut self, command: Command) -> io::Result<Option<Delivery>> {
        self.call_serving(command, |_| Ok(()))
    }

    /// The same, with something to do for each call back before it is answered.
    pub fn call_serving(
        &mut self,
        command: Command,
        mut serve: impl FnMut(&Delivery) -> io::Result<()>,
    ) -> io::Result<Option<Delivery>> {
        self.say(command);
        loop {
            let items = self.exchange()?;
            match delivery(&items) {
                Some(found) if found.word == br::REPLY => return Ok(Some(found)),
                Some(request) => {
                    serve(&request)?;
                    self.answer_call_back(request)?;
                }
                None if items.iter().any(failed) => return Ok(None),
                None => {}
            }
        }
    }

    /// Sends a oneway; false if it was refused.
    pub fn send(&mut self, command: Command) -> io::Result<bool> {
        self.say(command);
        self.is_done()
    }

    /// Replies with bytes; they are needed only until the exchange has copied them. False if it was refused.
    pub fn reply(&mut self, buffer: u64, bytes: &[u8]) -> io::Result<bool> {
        self.reply_with(buffer, carrying(reply(), bytes))
    }

    /// The same with a reply that carries more.
    pub fn reply_with(&mut self, buffer: u64, reply: Call) -> io::Result<bool> {
        self.say(free(buffer));
        self.say(reply.into());
        self.is_done()
    }

    /// Exchanges until what was sent is done or refused; nothing else can come that would need an answer.
    fn is_done(&mut self) -> io::Result<bool> {
        loop {
            let items = self.exchange()?;
            if items.iter().any(|item| is_sent(item.word())) {
                return Ok(true);
            }
            if items.iter().any(failed) {
                return Ok(false);
            }
        }
    }

    /// A delivered buffer's data.
    pub fn data(&self, delivery: &Delivery) -> io::Result<Vec<u8>> {
        let data = self.device.copy(delivery.buffer, delivery.data_size);
        data.ok_or_else(|| io::Error::other("a buffer outside the mapping"))
    }

    /// Calls `handle` with `bytes`, which its owner is to answer in reverse.
    pub fn call_back(&mut self, handle: u32, bytes: &[u8]) -> io::Result<CallBack> {
        let Some(answer) = self.call(carrying(call(handle, CALL_BACK), bytes).into())? else {
            return Ok(CallBack::Failed);
        };
        let mut got = self.data(&answer)?;
        got.reverse();
        self.say(free(answer.buffer));
        Ok(if got == bytes { CallBack::Right } else { CallBack::Wrong })
    }

    /// Keeps the binder that `data` brings, and watches for its death. False if it brings none.
    pub fn adopt(&mut self, data: &[u8]) -> bool {
        let Some(Object::Handle { handle, .. }) = Object::decode(data) else { return false };
        self.say(acquire(handle));
        self.say(watch(handle, handle.into()));
        true
    }

    /// Lets go of a binder that was [adopted](Self::adopt), and is dead.
    pub fn bury(&mut self, cookie: u64) {
        self.say(dead_done(cookie));
        self.say(unwatch(cookie as u32, cookie));
        self.say(release(cookie as u32));
    }

    fn answer_call_back(&mut self, request: Delivery) -> io::Result<()> {
        if request.code != CALL_BACK {
            return Err(io::Error::other("an unexpected call"));
        }
        let mut bytes = self.data(&request)?;
        bytes.reverse();
        self.reply(request.buffer, &bytes).map(|_| ())
    }

    /// The last commands are done, and the thread leaves nothing behind.
    pub fn finish(self) -> io::Result<()> {
        self.device.write_read(&self.pending, &mut []).map(|_| ())
    }
}

fn is_sent(word: u32) -> bool {
    matches!(word, br::TRANSACTION_COMPLETE | br::ONEWAY_SPAM_SUSPECT | br::TRANSACTION_PENDING_FROZEN)
}

fn failed(item: &Return) -> bool {
    matches!(item.word(), br::FAILED_REPLY | br::DEAD_REPLY | br::FROZEN_REPLY)
}
