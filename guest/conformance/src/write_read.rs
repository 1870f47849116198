//! BINDER_WRITE_READ as the step of a case: what goes in, what comes out, and its line in the transcript.

use crate::actor::{Actor, MEM_ARENA, MEM_ARGUMENT, MEM_READ, MEM_STATIC, MEM_WRITE};
use crate::object::Object;
use crate::stream::{self, Arena, Command, Delivery, Return};
use crate::transcript::{self, Contents};
use crate::uapi::{self, br, ioctl};
use crate::world::{Result, unexpected};

/// The read buffer of an ordinary step.
pub const READ_SIZE: u64 = 1024;

/// One BINDER_WRITE_READ.
#[derive(Clone, Debug)]
pub struct Io {
    pub commands: Vec<Command>,
    pub read_size: u64,
    pub read_consumed: u64,
    pub write_consumed: u64,
    pub nonblock: bool,
    /// Addresses to use instead of the actor's own buffers.
    pub write_buffer: Option<u64>,
    pub read_buffer: Option<u64>,
    /// `write_size` if it is not the length of the commands.
    pub write_size: Option<u64>,
}

impl Io {
    /// These commands, and a read buffer of ordinary size.
    pub fn new(commands: Vec<Command>) -> Self {
        Self {
            commands,
            read_size: READ_SIZE,
            read_consumed: 0,
            write_consumed: 0,
            nonblock: false,
            write_buffer: None,
            read_buffer: None,
            write_size: None,
        }
    }

    /// Sets O_NONBLOCK for this call.
    pub fn nonblock(self) -> Self {
        Self { nonblock: true, ..self }
    }

    /// Sets the size of the read buffer; 0 reads nothing.
    pub fn room(self, read_size: u64) -> Self {
        Self { read_size, ..self }
    }
}

/// A call that was sent and not yet answered.
#[derive(Debug)]
pub struct Pending {
    io: Io,
    text: String,
    stream: Vec<u8>,
    read_buffer: u64,
}

/// What a transaction or reply brought.
#[derive(Clone, Debug)]
pub struct Received {
    pub delivery: Delivery,
    pub contents: Contents,
}

impl Received {
    /// The address of the buffer.
    pub fn buffer(&self) -> u64 {
        self.delivery.buffer
    }

    fn object(&self, index: usize) -> Result<Object> {
        let offset = self.contents.offsets.get(index).map(|offset| *offset as usize);
        match offset.and_then(|offset| Object::decode(self.contents.data.get(offset..)?)) {
            Some(object) => Ok(object),
            None => unexpected(format!("no object number {index} in a delivery")),
        }
    }

    /// The number of the handle that is object number `index`.
    pub fn handle(&self, index: usize) -> Result<u32> {
        match self.object(index)? {
            Object::Handle { handle, .. } => Ok(handle),
            other => unexpected(format!("wanted a handle, got {other:?}")),
        }
    }

    /// The descriptor that is object number `index`.
    pub fn fd(&self, index: usize) -> Result<i64> {
        match self.object(index)? {
            Object::Fd { fd, .. } => Ok(fd.into()),
            other => unexpected(format!("wanted a descriptor, got {other:?}")),
        }
    }
}

/// What a BINDER_WRITE_READ gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub items: Vec<(Return, Option<Contents>)>,
}

impl Outcome {
    /// The transaction or reply among the items.
    pub fn received(&self) -> Result<Received> {
        let found = self.items.iter().find_map(|(item, contents)| match item {
            Return::Delivery(delivery) => {
                Some(Received { delivery: *delivery, contents: contents.clone().unwrap_or_default() })
            }
            _ => None,
        });
        found.map_or_else(|| unexpected("wanted a transaction or a reply"), Ok)
    }

    /// True if an item of this kind came.
    pub fn has(&self, word: u32) -> bool {
        self.items.iter().any(|(item, _)| item.word() == word)
    }
}

impl Actor<'_> {
    /// Writes commands and reads, and waits until the call returns.
    pub fn wr(&self, commands: Vec<Command>) -> Result<Outcome> {
        self.io(Io::new(commands))
    }

    /// Writes commands and does not read.
    pub fn w(&self, commands: Vec<Command>) -> Result<Outcome> {
        self.io(Io::new(commands).room(0))
    }

    /// Reads, and waits until the call returns.
    pub fn r(&self) -> Result<Outcome> {
        self.wr(vec![])
    }

    /// Writes and reads without blocking in the driver.
    pub fn try_wr(&self, commands: Vec<Command>) -> Result<Outcome> {
        self.io(Io::new(commands).nonblock())
    }

    /// Reads without blocking in the driver.
    pub fn try_r(&self) -> Result<Outcome> {
        self.try_wr(vec![])
    }

    /// Makes the call and waits until it returns.
    pub fn io(&self, io: Io) -> Result<Outcome> {
        self.begin(io)?;
        self.complete("")
    }

    /// Starts a call that is expected to sleep in the driver, and waits until it does.
    pub fn start(&self, commands: Vec<Command>) -> Result {
        self.start_io(Io::new(commands))
    }

    /// The same with all the choices.
    pub fn start_io(&self, io: Io) -> Result {
        self.begin(io)?;
        if self.wait_asleep(libc::SYS_ioctl)? {
            let text = self.pending.borrow().as_ref().map(|it| it.text.clone()).unwrap_or_default();
            self.say(&format!("{text} -> parked"));
        }
        Ok(())
    }

    /// Waits for the call that was started.
    pub fn finish(&self) -> Result<Outcome> {
        self.complete("returns")
    }

    fn begin(&self, io: Io) -> Result {
        let mut arena = Arena::new(self.mem + MEM_ARENA);
        let stream = stream::encode(&io.commands, &mut arena);
        if stream.len() as u64 > MEM_ARGUMENT - MEM_WRITE
            || arena.bytes().len() as u64 > MEM_STATIC - MEM_ARENA
        {
            return unexpected("the step does not fit the actor's memory");
        }
        let names = self.world.names(self.process);
        let commands: Vec<String> = io.commands.iter().map(|it| transcript::command(it, &names)).collect();
        let mut text = format!("W[{}]", commands.join(", "));
        if io.write_consumed != 0 || io.write_size.is_some() {
            text +=
                &format!(" from {} to {}", io.write_consumed, io.write_size.unwrap_or(stream.len() as u64));
        }
        if io.read_size == 0 {
            text += " write only";
        } else if io.read_size != READ_SIZE || io.read_consumed != 0 {
            text += &format!(" room {}..{}", io.read_consumed, io.read_size);
        }
        if io.nonblock {
            text += " nb";
        }
        let write_buffer = io.write_buffer.unwrap_or(self.mem + MEM_WRITE);
        let read_buffer = io.read_buffer.unwrap_or(self.mem + MEM_READ);
        let write_size = io.write_size.unwrap_or(stream.len() as u64);
        let words =
            [write_size, io.write_consumed, write_buffer, io.read_size, io.read_consumed, read_buffer];
        let mut head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        head.resize(MEM_WRITE as usize, 0);
        head.extend(&stream);
        self.poke(self.mem, &head)?;
        if !arena.bytes().is_empty() {
            self.poke(self.mem + MEM_ARENA, arena.bytes())?;
        }
        if io.nonblock {
            self.set_flags(libc::O_NONBLOCK)?;
        }
        self.send(libc::SYS_ioctl, &[self.device() as u64, ioctl::WRITE_READ.into(), self.mem])?;
        *self.pending.borrow_mut() = Some(Pending { io, text, stream, read_buffer });
        Ok(())
    }

    /// Sets the file status flags of the device.
    pub fn set_flags(&self, flags: i32) -> Result<i64> {
        self.ask(libc::SYS_fcntl, &[self.device() as u64, libc::F_SETFL as u64, flags as u64])
    }

    fn complete(&self, instead: &str) -> Result<Outcome> {
        let Some(pending) = self.pending.borrow_mut().take() else {
            return unexpected("no call was started");
        };
        let text = if instead.is_empty() { pending.text } else { instead.to_string() };
        let result = match self.receive() {
            Ok(result) => result,
            Err(stop) => {
                self.say(&format!("{text} -> {stop}"));
                return Err(stop);
            }
        };
        if pending.io.nonblock {
            self.set_flags(0)?;
        }
        let head = self.peek(self.mem, 48)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (write_consumed, read_consumed) = (word(8), word(32));
        let from = pending.io.read_consumed.min(read_consumed);
        let bytes = self.peek(pending.read_buffer + from, read_consumed - from)?;
        let items = stream::decode(&bytes);
        self.count(&pending.stream, pending.io.write_consumed, write_consumed, &items);
        let mut line = format!("{text} -> {}", transcript::result(result));
        if !pending.stream.is_empty() || pending.io.write_size.is_some() {
            line += &format!(
                " wc={write_consumed}/{}",
                pending.io.write_size.unwrap_or(pending.stream.len() as u64)
            );
        }
        if pending.io.read_size != 0 {
            line += &format!(" rc={read_consumed}");
        }
        let names = self.world.names(self.process);
        let mut outcome = Outcome { items: Vec::new() };
        let mut shown = Vec::new();
        for item in items {
            let contents = match &item {
                Return::Delivery(delivery) => Some(self.contents(delivery)?),
                _ => None,
            };
            shown.push(transcript::item(&item, contents.as_ref(), &names));
            outcome.items.push((item, contents));
        }
        if !shown.is_empty() {
            line += &format!(" R[{}]", shown.join(", "));
        }
        if [br::FAILED_REPLY, br::DEAD_REPLY, br::FROZEN_REPLY].iter().any(|word| outcome.has(*word)) {
            line += &format!(" {}", self.read_extended_error()?);
        }
        self.say(&line);
        Ok(outcome)
    }

    /// Copies out what a delivery's addresses point to.
    fn contents(&self, delivery: &Delivery) -> Result<Contents> {
        let data = self.peek(delivery.buffer, delivery.data_size)?;
        let words = self.peek(delivery.offsets, delivery.offsets_size)?;
        let offsets: Vec<u64> = words
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect();
        let mut bodies = Vec::new();
        for offset in &offsets {
            if let Some(Object::Ptr { buffer, length, .. }) =
                data.get(*offset as usize..).and_then(Object::decode)
            {
                bodies.push(self.peek(buffer, length)?);
            }
        }
        let secctx = match delivery.secctx {
            Some(address) => {
                let bytes = self.peek(address, 64)?;
                String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
                    .into_owned()
            }
            None => String::new(),
        };
        Ok(Contents { data, offsets, bodies, secctx })
    }

    fn count(&self, stream: &[u8], from: u64, to: u64, items: &[Return]) {
        let counts = &mut self.world.processes.borrow_mut()[self.process].counts;
        let mut rest = stream.get(from as usize..to as usize).unwrap_or_default();
        while let Some(word) = rest.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)) {
            let Some(name) = uapi::name(word) else { break };
            *counts.entry(name).or_default() += 1;
            rest = rest.get(4 + uapi::payload_size(word)..).unwrap_or_default();
        }
        for name in items.iter().filter_map(|item| uapi::name(item.word())) {
            *counts.entry(name).or_default() += 1;
        }
    }
}

/// The commands of one step.
#[macro_export]
macro_rules! commands {
    ($($command:expr),* $(,)?) => { vec![$($crate::stream::Command::from($command)),*] };
}
