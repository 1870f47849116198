//! One case's processes, and the calls a case makes through its actors.
//!
//! A [`World`] owns the processes of a case and writes its transcript. An [`Actor`] is one thread of one of them;
//! its methods make the binder calls, wait for them with a time limit, decode what came back and print one line a
//! step. When the world is dropped every process is killed and waited for, so no case leaves work to the next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::actor::{self, Channel, FORK, LEAVE, MEMORY_FILE, NoAnswer, SPAWN};
use crate::object::Object;
use crate::stream::{self, Arena, Command, Delivery, Return};
use crate::transcript::{self, Area, Contents, Names};
use crate::uapi::{self, br, ioctl};

/// How long a call may take before the case is given up. Generous: guests can be slow, and only a bug waits this long.
const LIMIT: Duration = Duration::from_secs(20);
/// The memory an actor fills and reads, laid out as below.
const MEM_SIZE: u64 = 0x40_0000;
const MEM_WRITE: u64 = 0x100;
const MEM_ARGUMENT: u64 = 0x8000;
const MEM_READ: u64 = 0x1_0000;
const MEM_ARENA: u64 = 0x2_0000;
const MEM_STATIC: u64 = 0x30_0000;
/// The read buffer of an ordinary step.
pub const READ_SIZE: u64 = 1024;
/// The mapping of an ordinary process.
pub const MAP_SIZE: u64 = 64 << 10;

/// Why a case ended early.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    /// TIMEOUT
    #[error("TIMEOUT")]
    Timeout,
    /// An actor's process died where it should not.
    #[error("DIED {0}")]
    Died(String),
    /// The driver did something after which the case makes no sense.
    #[error("STOPPED {0}")]
    Unexpected(String),
}

/// The result of a case or of one of its steps.
pub type Result<T = ()> = std::result::Result<T, Stop>;

fn unexpected<T>(what: impl Into<String>) -> Result<T> {
    Err(Stop::Unexpected(what.into()))
}

/// How many commands and returns of each kind a process wrote and read.
pub type Counts = BTreeMap<&'static str, u64>;

#[derive(Debug)]
struct Process {
    name: String,
    pid: i32,
    alive: bool,
    /// Forked by an actor, so that actor's kernel reaps it.
    grandchild: bool,
    channels: Vec<Option<Channel>>,
    areas: Vec<Area>,
    counts: Counts,
}

/// The processes of one case and its transcript.
#[derive(Debug)]
pub struct World {
    case: String,
    quiet: bool,
    memory: File,
    processes: RefCell<Vec<Process>>,
}

impl World {
    /// A world without processes, whose lines begin with the case's name.
    pub fn new(case: &str, quiet: bool) -> std::io::Result<Self> {
        // SAFETY: makes orphaned grandchildren ours to wait for; no other effect.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        Ok(Self {
            case: case.into(),
            quiet,
            memory: actor::memory_file()?.into(),
            processes: RefCell::default(),
        })
    }

    fn line(&self, who: &str, what: &str) {
        if !self.quiet {
            println!("{} {who}: {what}", self.case);
        }
    }

    /// Prints a remark that explains the next lines.
    pub fn note(&self, text: &str) {
        self.line("-", text);
    }

    /// A new process that has done nothing with binder yet.
    pub fn spawn(&self, name: &str) -> Result<Actor<'_>> {
        let spawned = match actor::spawn(&self.memory) {
            Ok(spawned) => spawned,
            Err(error) => return unexpected(format!("fork: {error}")),
        };
        self.add(name, spawned.pid, false, spawned.channels.into_iter().map(Some).collect())
    }

    fn add(
        &self,
        name: &str,
        pid: i32,
        grandchild: bool,
        mut channels: Vec<Option<Channel>>,
    ) -> Result<Actor<'_>> {
        let channel = channels[0].take().expect("the first channel of a new process");
        let process = self.processes.borrow().len();
        let areas = Vec::new();
        let counts = Counts::new();
        self.processes.borrow_mut().push(Process {
            name: name.into(),
            pid,
            alive: true,
            grandchild,
            channels,
            areas,
            counts,
        });
        Actor::new(self, process, name.into(), channel)
    }

    /// A process with an open and mapped /dev/binder, past its first ioctl.
    pub fn process(&self, name: &str) -> Result<Actor<'_>> {
        self.process_on(name, "binder", MAP_SIZE)
    }

    /// The same with a chosen device and mapping size.
    pub fn process_on(&self, name: &str, device: &str, size: u64) -> Result<Actor<'_>> {
        let actor = self.spawn(name)?;
        if actor.open_device(device)? < 0
            || actor.map_device(size, libc::PROT_READ, libc::MAP_PRIVATE, 0)? < 0
        {
            return unexpected("cannot open and map the device");
        }
        actor.settle_first()?;
        actor.say(&format!("process on /dev/{device} with {size:#x} mapped"));
        Ok(actor)
    }

    /// A process that is the context manager.
    pub fn manager(&self, name: &str) -> Result<Actor<'_>> {
        self.manager_on(name, "binder", MAP_SIZE)
    }

    /// The same with a chosen device and mapping size.
    pub fn manager_on(&self, name: &str, device: &str, size: u64) -> Result<Actor<'_>> {
        let actor = self.process_on(name, device, size)?;
        actor.become_manager()?;
        Ok(actor)
    }

    /// Lets everything else in the guest run, for work that the kernel does in the background.
    pub fn settle(&self) {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// (pid, name, counts) of every process, in order of creation.
    pub fn counts(&self) -> Vec<(i32, String, Counts)> {
        self.processes.borrow().iter().map(|it| (it.pid, it.name.clone(), it.counts.clone())).collect()
    }

    fn names(&self, process: usize) -> Names {
        let processes = self.processes.borrow();
        Names {
            pids: processes.iter().map(|it| (it.pid, it.name.clone())).collect(),
            areas: processes[process].areas.clone(),
        }
    }

    /// Waits for a process that is ending, and says how it ended.
    fn reap(&self, process: usize) -> String {
        let (pid, grandchild) = {
            let mut processes = self.processes.borrow_mut();
            processes[process].alive = false;
            (processes[process].pid, processes[process].grandchild)
        };
        let deadline = Instant::now() + LIMIT;
        let mut status = 0;
        while Instant::now() < deadline {
            // SAFETY: a child of ours or nobody's; kill with signal 0 only asks.
            let done = unsafe {
                libc::waitpid(pid, &mut status, libc::WNOHANG) == pid
                    || (grandchild && libc::kill(pid, 0) == -1)
            };
            if done {
                return match libc::WIFSIGNALED(status) {
                    true if libc::WTERMSIG(status) == libc::SIGBUS => "SIGBUS".into(),
                    true if libc::WTERMSIG(status) == libc::SIGSEGV => "SIGSEGV".into(),
                    true => format!("signal {}", libc::WTERMSIG(status)),
                    false => format!("exit {}", libc::WEXITSTATUS(status)),
                };
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        "stuck".into()
    }

    fn end(&self, process: usize) {
        let (pid, alive) = {
            let processes = self.processes.borrow();
            (processes[process].pid, processes[process].alive)
        };
        if alive {
            // SAFETY: a process that this world forked and has not waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            self.reap(process);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Forked grandchildren first: their parents' end would otherwise leave them to somebody else.
        let count = self.processes.borrow().len();
        for process in (0..count).rev() {
            self.end(process);
        }
        self.settle();
    }
}

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
struct Pending {
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
    pub result: i64,
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

/// One thread of one process.
#[derive(Debug)]
pub struct Actor<'w> {
    world: &'w World,
    process: usize,
    name: String,
    channel: Channel,
    tid: i32,
    mem: u64,
    placed: Cell<u64>,
    /// The binder descriptor that the steps use.
    device: Cell<i64>,
    pending: RefCell<Option<Pending>>,
}

impl<'w> Actor<'w> {
    fn new(world: &'w World, process: usize, name: String, channel: Channel) -> Result<Self> {
        let mut actor = Self {
            world,
            process,
            name,
            channel,
            tid: 0,
            mem: 0,
            placed: Cell::new(MEM_STATIC),
            device: Cell::new(-1),
            pending: RefCell::new(None),
        };
        actor.tid = actor.ask(libc::SYS_gettid, &[])? as i32;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        actor.mem = actor.ask(libc::SYS_mmap, &[0, MEM_SIZE, protection, flags, u64::MAX, 0])? as u64;
        actor.add_area("mem", actor.mem, MEM_SIZE);
        Ok(actor)
    }

    /// Another thread of the same process, using the same descriptor, past its first ioctl.
    pub fn thread(&self, name: &str) -> Result<Actor<'w>> {
        let thread = self.fresh_thread(name)?;
        thread.settle_first()?;
        Ok(thread)
    }

    /// Another thread of the same process that has not used the driver.
    pub fn fresh_thread(&self, name: &str) -> Result<Actor<'w>> {
        let (channel, index) = self.take_channel()?;
        if self.ask(SPAWN, &[index])? != 0 {
            return unexpected("cannot start a thread");
        }
        let thread = Actor::new(self.world, self.process, name.into(), channel)?;
        thread.device.set(self.device.get());
        Ok(thread)
    }

    /// A forked child, which inherits the descriptors and not the mapping.
    pub fn fork(&self, name: &str) -> Result<Actor<'w>> {
        let (channel, index) = self.take_channel()?;
        let pid = self.ask(FORK, &[index])?;
        if pid <= 0 {
            return unexpected(format!("fork: {}", transcript::result(pid)));
        }
        let child = self.world.add(name, pid as i32, true, vec![Some(channel)])?;
        child.device.set(self.device.get());
        let areas = self.world.processes.borrow()[self.process].areas.clone();
        self.world.processes.borrow_mut()[child.process].areas.extend(areas);
        Ok(child)
    }

    fn take_channel(&self) -> Result<(Channel, u64)> {
        let mut processes = self.world.processes.borrow_mut();
        let channels = &mut processes[self.process].channels;
        match channels.iter().position(Option::is_some) {
            Some(index) => Ok((channels[index].take().expect("just found"), index as u64)),
            None => unexpected("no channel left in this process"),
        }
    }

    fn add_area(&self, name: &str, start: u64, length: u64) {
        let areas = &mut self.world.processes.borrow_mut()[self.process].areas;
        let same =
            areas.iter().filter(|(other, ..)| other.trim_end_matches(char::is_numeric) == name).count();
        let name = if same == 0 { name.to_string() } else { format!("{name}{}", same + 1) };
        areas.push((name, start, length));
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.world.processes.borrow()[self.process].pid
    }

    /// Prints a line about this actor.
    pub fn say(&self, what: &str) {
        self.world.line(&self.name, what);
    }

    // System calls.

    fn send(&self, number: i64, arguments: &[u64]) -> Result {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        self.channel.send(number, six).or_else(|error| self.gone(error))
    }

    fn receive(&self) -> Result<i64> {
        self.channel.receive(LIMIT).or_else(|error| self.gone(error))
    }

    fn gone<T>(&self, error: NoAnswer) -> Result<T> {
        match error {
            NoAnswer::Gone => Err(Stop::Died(format!("{}: {}", self.name, self.world.reap(self.process)))),
            NoAnswer::Timeout => {
                self.say("TIMEOUT");
                Err(Stop::Timeout)
            }
        }
    }

    /// Makes a system call without printing it; the result or minus an errno.
    pub fn ask(&self, number: i64, arguments: &[u64]) -> Result<i64> {
        self.send(number, arguments)?;
        self.receive()
    }

    /// Makes a system call and prints its result after `label`.
    pub fn sys(&self, label: &str, number: i64, arguments: &[u64]) -> Result<i64> {
        let result = self.ask(number, arguments)?;
        self.say(&format!("{label} -> {}", transcript::result(result)));
        Ok(result)
    }

    /// Writes bytes into the process's memory; false if the address is not accessible.
    pub fn poke(&self, address: u64, bytes: &[u8]) -> Result<bool> {
        if let Err(error) = self.world.memory.write_all_at(bytes, 0) {
            return unexpected(format!("memory file: {error}"));
        }
        let size = bytes.len() as u64;
        Ok(self.ask(libc::SYS_pread64, &[MEMORY_FILE as u64, address, size, 0])? == size as i64)
    }

    /// Reads the process's memory; the bytes up to the first inaccessible one.
    pub fn peek(&self, address: u64, size: u64) -> Result<Vec<u8>> {
        let size = size.min(MEM_SIZE);
        let got = self.ask(libc::SYS_pwrite64, &[MEMORY_FILE as u64, address, size, 0])?;
        let mut bytes = vec![0; got.max(0) as usize];
        match self.world.memory.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(bytes),
            Err(error) => unexpected(format!("memory file: {error}")),
        }
    }

    /// Puts bytes where they stay for the rest of the case, and gives their address.
    pub fn place(&self, bytes: &[u8]) -> Result<u64> {
        let address = self.mem + self.placed.get();
        self.placed.set(self.placed.get() + (bytes.len() as u64).next_multiple_of(16).max(16));
        self.poke(address, bytes)?;
        Ok(address)
    }

    /// An address of this actor's memory that holds bytes placed or poked by the case.
    pub fn mem(&self, offset: u64) -> u64 {
        self.mem + MEM_STATIC + offset
    }

    /// Loads one byte of the mapping and prints it, or how the process died of it.
    pub fn touch(&self, address: u64) -> Result {
        let name = self.world.names(self.process).address(address);
        match self.ask(actor::TOUCH, &[address]) {
            Ok(byte) => self.say(&format!("load {name} -> {byte:#04x}")),
            Err(Stop::Died(how)) => self.say(&format!("load {name} -> killed ({how})")),
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Ends the process with SIGKILL and lets the driver notice.
    pub fn kill(&self) -> Result {
        self.say("killed");
        self.world.end(self.process);
        self.world.settle();
        Ok(())
    }

    /// Ends this thread without BINDER_THREAD_EXIT.
    pub fn leave(&self) -> Result {
        self.ask(LEAVE, &[])?;
        self.say("thread ends");
        Ok(())
    }

    // The device.

    /// Opens a binder device, which the next steps use.
    pub fn open(&self, device: &str) -> Result<i64> {
        let fd = self.open_device(device)?;
        self.say(&format!("open /dev/{device} -> {}", transcript::result(fd)));
        if fd < 0 { unexpected("cannot open the device") } else { Ok(fd) }
    }

    fn open_device(&self, device: &str) -> Result<i64> {
        self.poke(self.mem + MEM_ARGUMENT, format!("/dev/{device}\0").as_bytes())?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let fd = self.ask(libc::SYS_openat, &[libc::AT_FDCWD as u64, self.mem + MEM_ARGUMENT, flags, 0])?;
        self.device.set(fd);
        Ok(fd)
    }

    /// Lets the next steps use another descriptor.
    pub fn on(&self, fd: i64) -> &Self {
        self.device.set(fd);
        self
    }

    /// The descriptor that the steps use.
    pub fn device(&self) -> i64 {
        self.device.get()
    }

    /// Maps the device for reading, which has to succeed.
    pub fn map(&self, size: u64) -> Result<u64> {
        let address = self.mmap(size, libc::PROT_READ, libc::MAP_PRIVATE, 0)?;
        if address < 0 { unexpected("cannot map the device") } else { Ok(address as u64) }
    }

    /// Maps the device in any way.
    pub fn mmap(&self, size: u64, protection: i32, flags: i32, offset: u64) -> Result<i64> {
        let address = self.map_device(size, protection, flags, offset)?;
        let shown = if address < 0 { transcript::result(address) } else { "mapped".into() };
        self.say(&format!(
            "mmap size={size:#x} prot={protection} flags={flags} offset={offset:#x} -> {shown}"
        ));
        Ok(address)
    }

    fn map_device(&self, size: u64, protection: i32, flags: i32, offset: u64) -> Result<i64> {
        let arguments = [0, size, protection as u64, flags as u64, self.device.get() as u64, offset];
        let address = self.ask(libc::SYS_mmap, &arguments)?;
        if address >= 0 {
            self.add_area("map", address as u64, size);
        }
        Ok(address)
    }

    /// The start of the process's first mapping of the device.
    pub fn map_start(&self) -> u64 {
        let processes = self.world.processes.borrow();
        processes[self.process]
            .areas
            .iter()
            .find(|(name, ..)| name == "map")
            .map_or(0, |(_, start, _)| *start)
    }

    /// Any ioctl with an argument of bytes, printed with its result and the bytes afterwards.
    pub fn ioctl(&self, label: &str, number: u32, argument: &[u8]) -> Result<(i64, Vec<u8>)> {
        let (result, after) = self.ioctl_quiet(number, argument)?;
        let shown: Vec<String> = after
            .chunks(4)
            .map(|word| format!("{:x}", word.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b))))
            .collect();
        self.say(&format!("{label} -> {} [{}]", transcript::result(result), shown.join(" ")));
        Ok((result, after))
    }

    fn ioctl_quiet(&self, number: u32, argument: &[u8]) -> Result<(i64, Vec<u8>)> {
        let address = self.mem + MEM_ARGUMENT;
        self.poke(address, argument)?;
        let result = self.ask(libc::SYS_ioctl, &[self.device.get() as u64, number.into(), address])?;
        Ok((result, self.peek(address, argument.len() as u64)?))
    }

    /// Any ioctl whose argument is a number or a bad address.
    pub fn ioctl_at(&self, label: &str, number: u32, address: u64) -> Result<i64> {
        self.sys(label, libc::SYS_ioctl, &[self.device.get() as u64, number.into(), address])
    }

    /// Spends the early return of a thread's first ioctl (B036).
    fn settle_first(&self) -> Result {
        match self.ioctl_quiet(ioctl::VERSION, &[0; 4])?.0 {
            0 => Ok(()),
            error => unexpected(format!("BINDER_VERSION: {}", transcript::result(error))),
        }
    }

    /// Becomes the context manager; a manager of an earlier case may take a moment to disappear.
    pub fn become_manager(&self) -> Result {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ioctl_quiet(ioctl::SET_CONTEXT_MGR, &[0; 4])?.0 {
                0 => break,
                busy if busy == -i64::from(libc::EBUSY) && Instant::now() < deadline => self.world.settle(),
                error => return unexpected(format!("SET_CONTEXT_MGR: {}", transcript::result(error))),
            }
        }
        self.say("context manager");
        Ok(())
    }

    /// BINDER_THREAD_EXIT.
    pub fn thread_exit(&self) -> Result<i64> {
        self.ioctl_at("THREAD_EXIT", ioctl::THREAD_EXIT, 0)
    }

    /// BINDER_GET_EXTENDED_ERROR, printed.
    pub fn extended_error(&self) -> Result {
        let shown = self.read_extended_error()?;
        self.say(&shown);
        Ok(())
    }

    fn read_extended_error(&self) -> Result<String> {
        let (result, bytes) = self.ioctl_quiet(ioctl::GET_EXTENDED_ERROR, &[0; 12])?;
        if result != 0 || bytes.len() != 12 {
            return Ok(format!("EE({})", transcript::result(result)));
        }
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Ok(transcript::extended_error(half(4), half(8) as i32))
    }

    // BINDER_WRITE_READ.

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
        let deadline = Instant::now() + LIMIT;
        while !self.channel.ready(Duration::ZERO) {
            if actor::sleeps_in(self.pid(), self.tid, libc::SYS_ioctl) {
                let text = self.pending.borrow().as_ref().map(|it| it.text.clone()).unwrap_or_default();
                self.say(&format!("{text} -> parked"));
                return Ok(());
            }
            if Instant::now() > deadline {
                return self.gone(NoAnswer::Timeout);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// Waits for the call that was started.
    pub fn finish(&self) -> Result<Outcome> {
        self.complete("returns")
    }

    /// Says whether the call that was started still sleeps.
    pub fn still_parked(&self) -> Result {
        self.world.settle();
        let parked =
            !self.channel.ready(Duration::ZERO) && actor::sleeps_in(self.pid(), self.tid, libc::SYS_ioctl);
        self.say(if parked { "still parked" } else { "not parked" });
        Ok(())
    }

    /// Sends the signal that interrupts a blocked call.
    pub fn interrupt(&self) -> Result {
        self.say("signal");
        // SAFETY: a thread of a process of ours, with a handler installed for this signal.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid(), self.tid, libc::SIGUSR1) };
        Ok(())
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
        self.send(libc::SYS_ioctl, &[self.device.get() as u64, ioctl::WRITE_READ.into(), self.mem])?;
        *self.pending.borrow_mut() = Some(Pending { io, text, stream, read_buffer });
        Ok(())
    }

    /// Sets the file status flags of the device.
    pub fn set_flags(&self, flags: i32) -> Result<i64> {
        self.ask(libc::SYS_fcntl, &[self.device.get() as u64, libc::F_SETFL as u64, flags as u64])
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
        let mut outcome = Outcome { result, items: Vec::new() };
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
