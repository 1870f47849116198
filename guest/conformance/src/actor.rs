//! One thread of one process, as a case sees it: its memory, its system calls, its binder device.
//!
//! BINDER_WRITE_READ has a file of its own, `write_read.rs`.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::channel::{self, Channel, FORK, LEAVE, MEMORY_FILE, NoAnswer, RUN, SPAWN, TOUCH};
use crate::object::Object;
use crate::transcript;
use crate::uapi::ioctl;
use crate::world::{LIMIT, Result, Stop, World, unexpected};
use crate::write_read::Pending;

/// The memory an actor fills and reads: the argument and the commands of a step ...
pub const MEM_WRITE: u64 = 0x100;
/// ... the argument of any other call ...
pub const MEM_ARGUMENT: u64 = 0x8000;
/// ... the read buffer ...
pub const MEM_READ: u64 = 0x1_0000;
/// ... what the commands of a step point to ...
pub const MEM_ARENA: u64 = 0x2_0000;
/// ... and what a case places for longer.
pub const MEM_STATIC: u64 = 0x30_0000;
const MEM_SIZE: u64 = 0x40_0000;

/// One thread of one process.
#[derive(Debug)]
pub struct Actor<'w> {
    pub world: &'w World,
    /// Index into the world's processes.
    pub process: usize,
    name: String,
    pub channel: Channel,
    tid: i32,
    /// Where its memory begins.
    pub mem: u64,
    placed: Cell<u64>,
    /// The binder descriptor that the steps use.
    device: Cell<i64>,
    /// A BINDER_WRITE_READ that was sent and has not been completed.
    pub pending: RefCell<Option<Pending>>,
}

impl<'w> Actor<'w> {
    /// The actor that serves this channel.
    pub fn new(world: &'w World, process: usize, name: String, channel: Channel) -> Result<Self> {
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
        actor.mem = actor.alloc(MEM_SIZE)?;
        Ok(actor)
    }

    /// The first thread of a process has the process's number. In another pid namespace it calls itself otherwise.
    pub fn leading(mut self, pid: i32) -> Self {
        self.tid = pid;
        self
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
        let child = self.world.add(name, pid as i32, vec![Some(channel)])?;
        child.device.set(self.device.get());
        // The parent's mapping has its name in the child's lines too: there may be work that points into it.
        let mut areas = self.world.processes.borrow()[self.process].areas.clone();
        areas.retain(|(name, ..)| name == "map");
        self.world.processes.borrow_mut()[child.process].areas.splice(0..0, areas);
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

    /// Gives a part of the memory a name of its own in the transcript.
    pub fn call_area(&self, name: &str, start: u64, length: u64) {
        self.world.processes.borrow_mut()[self.process].areas.insert(0, (name.into(), start, length));
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

    /// Sends a system call.
    pub fn send(&self, number: i64, arguments: &[u64]) -> Result {
        if self.pending.borrow().is_some() {
            return unexpected(format!("{} is still in its last call", self.name));
        }
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        self.channel.send(number, six).or_else(|error| self.gone(error))
    }

    /// Waits for the result of a system call.
    pub fn receive(&self) -> Result<i64> {
        self.channel.receive(LIMIT).or_else(|error| self.gone(error))
    }

    /// Turns the lack of an answer into the end of the case.
    pub fn gone<T>(&self, error: NoAnswer) -> Result<T> {
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

    /// The same for a call whose result is an address that the caller chose.
    pub fn sys_at(&self, label: &str, number: i64, arguments: &[u64]) -> Result<i64> {
        let result = self.ask(number, arguments)?;
        let shown = if result < 0 { transcript::result(result) } else { "mapped".into() };
        self.say(&format!("{label} -> {shown}"));
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

    /// Fresh zeroed memory of any size.
    pub fn alloc(&self, size: u64) -> Result<u64> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let address = self.ask(libc::SYS_mmap, &[0, size, protection, flags, u64::MAX, 0])?;
        if address < 0 {
            return unexpected("no memory");
        }
        self.add_area("alloc", address as u64, size);
        Ok(address as u64)
    }

    /// Loads one byte of the mapping and prints it, or how the process died of it.
    pub fn touch(&self, address: u64) -> Result {
        let name = self.world.names(self.process).address(address);
        match self.ask(TOUCH, &[address]) {
            Ok(byte) => self.say(&format!("load {name} -> {byte:#04x}")),
            Err(Stop::Died(how)) => self.say(&format!("load {name} -> killed ({how})")),
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Runs the function that was delivered, many times, and prints its result.
    pub fn run(&self, address: u64, times: u64) -> Result {
        let name = self.world.names(self.process).address(address);
        let result = self.ask(RUN, &[address, times])?;
        self.say(&format!("run {name} -> {result}"));
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

    /// Opens and maps a device and makes the first ioctl, as one line.
    pub fn use_device(&self, device: &str, size: u64) -> Result<i64> {
        let fd = self.open_device(device)?;
        if fd < 0 || self.map_device(size, libc::PROT_READ, libc::MAP_PRIVATE, 0)? < 0 {
            return unexpected("cannot open and map the device");
        }
        self.settle_first()?;
        self.say(&format!("uses /dev/{device} as {fd} with {size:#x} mapped"));
        Ok(fd)
    }

    /// Lets the next steps use another descriptor.
    pub fn on(&self, fd: i64) {
        self.device.set(fd);
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

    /// Becomes the context manager.
    pub fn become_manager(&self) -> Result {
        self.register(ioctl::SET_CONTEXT_MGR, &[0; 4])?;
        self.say("context manager");
        Ok(())
    }

    /// Registers; a manager of an earlier case may take a moment to disappear.
    fn register(&self, number: u32, argument: &[u8]) -> Result {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ioctl_quiet(number, argument)?.0 {
                0 => return Ok(()),
                busy if busy == -i64::from(libc::EBUSY) && Instant::now() < deadline => self.world.settle(),
                error => return unexpected(format!("SET_CONTEXT_MGR: {}", transcript::result(error))),
            }
        }
    }

    /// Becomes the context manager with a node of these numbers and flags, by the EXT form.
    pub fn become_manager_ext(&self, ptr: u64, cookie: u64, flags: u32) -> Result {
        let argument = Object::binder_with(ptr, cookie, flags).encode();
        self.register(ioctl::SET_CONTEXT_MGR_EXT, &argument)?;
        self.say(&format!("context manager ptr={ptr:#x} cookie={cookie:#x} flags={flags:#x}"));
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

    /// BINDER_GET_EXTENDED_ERROR as text.
    pub fn read_extended_error(&self) -> Result<String> {
        let (result, bytes) = self.ioctl_quiet(ioctl::GET_EXTENDED_ERROR, &[0; 12])?;
        if result != 0 || bytes.len() != 12 {
            return Ok(format!("EE({})", transcript::result(result)));
        }
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Ok(transcript::extended_error(half(4), half(8) as i32))
    }

    // Calls that may sleep.

    /// Makes a system call that is expected to sleep, and waits until it does.
    pub fn start_sys(&self, label: &str, number: i64, arguments: &[u64]) -> Result {
        self.send(number, arguments)?;
        if self.wait_asleep(number)? {
            self.say(&format!("{label} -> parked"));
        }
        Ok(())
    }

    /// Waits for the result of the call that was started.
    pub fn finish_sys(&self) -> Result<i64> {
        let result = self.receive()?;
        self.say(&format!("returns -> {}", transcript::result(result)));
        Ok(result)
    }

    /// Waits until the call that was sent sleeps (true) or has returned (false).
    pub fn wait_asleep(&self, number: i64) -> Result<bool> {
        let deadline = Instant::now() + LIMIT;
        while !self.channel.ready(Duration::ZERO) {
            if channel::sleeps_in(self.pid(), self.tid, number) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return self.gone(NoAnswer::Timeout);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(false)
    }

    /// Says whether the call that was started still sleeps.
    pub fn still_parked(&self) -> Result {
        self.world.settle();
        self.say(if self.channel.ready(Duration::ZERO) { "no longer parked" } else { "still parked" });
        Ok(())
    }

    /// Sends the signal that interrupts a sleeping call.
    pub fn interrupt(&self) -> Result {
        self.say("signal");
        // SAFETY: a thread of a process of ours, with a handler installed for this signal.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid(), self.tid, libc::SIGUSR1) };
        Ok(())
    }

    fn poll_arguments(&self, milliseconds: u64) -> Result<[u64; 3]> {
        let mut entry = (self.device.get() as i32).to_le_bytes().to_vec();
        entry.extend((libc::POLLIN | libc::POLLOUT).to_le_bytes());
        entry.extend([0; 2]);
        let address = self.mem + MEM_ARGUMENT;
        self.poke(address, &entry)?;
        Ok([address, 1, milliseconds])
    }

    fn poll_events(&self) -> Result<String> {
        let events = self.peek(self.mem + MEM_ARGUMENT + 6, 2)?;
        let events = i16::from_le_bytes([events[0], events[1]]);
        let names =
            [(libc::POLLIN, "IN"), (libc::POLLOUT, "OUT"), (libc::POLLERR, "ERR"), (libc::POLLHUP, "HUP")];
        let shown: Vec<&str> =
            names.iter().filter(|(bit, _)| events & bit != 0).map(|(_, name)| *name).collect();
        Ok(format!("[{}]", shown.join("|")))
    }

    /// Polls the device for reading and writing without waiting.
    pub fn poll(&self) -> Result {
        let result = self.ask(libc::SYS_poll, &self.poll_arguments(0)?)?;
        self.say(&format!("poll -> {} {}", transcript::result(result), self.poll_events()?));
        Ok(())
    }

    /// Starts a poll that is expected to sleep.
    pub fn start_poll(&self) -> Result {
        self.start_sys("poll", libc::SYS_poll, &self.poll_arguments(15_000)?)
    }

    /// Waits for the poll that was started.
    pub fn finish_poll(&self) -> Result {
        let result = self.receive()?;
        self.say(&format!("poll returns -> {} {}", transcript::result(result), self.poll_events()?));
        Ok(())
    }
}
