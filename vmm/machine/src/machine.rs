//! A guest from its configuration to its end.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use devices::cmos::Cmos;
use devices::cpu_time;
use devices::input::InputQueue;
use devices::power::{AcpiPower, KeyboardController, PowerRequest};
use devices::pvpanic::PanicDevice;
use devices::serial::SerialPort;
use devices::virtio::mmio::MmioTransport;
use devices::virtio::{SavedTransport, VirtioDevice};
use engine::{ClockMode, Engine, EntryState, Execution, Exit, GuestClock, Kind};
use gdb::Turn;
use guest_ram::GuestRam;

use crate::acpi;
use crate::boot::{self, BootSource};
use crate::bus::{Board, Legacy};
use crate::console::ConsoleLog;
use crate::error::MachineError;
use crate::events::{ConsoleSource, EventThread};
use crate::gauges::Gauges;
use crate::inbox::{Activity, Handle, Inbox, Pace, SnapshotRequest, StopReason, Wish};
use crate::input_log::{Gate, InputPort, Inputs, Moment, SerialInput};
use crate::layout::{ACPI_TABLES, MemorySize, SERIAL_GSI, VirtioSlot};
use crate::news::{News, Watch};
use crate::outcome::{End, ExitCounts, Outcome, RunStats};
use crate::snapshot::{self, Facts, Header, Labels, MachineState, Snapshot, SnapshotError};
use crate::wiring::{Line, PanicLatch, PowerSwitch, Rtc};

/// Guest time from the panic device's news to the end of the run: the kernel tells the device before
/// it has flushed what it prints of the panic.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// While a guest waits for its first debugger, how often it is looked at whether its run is to end.
const LOOK_FOR_DEBUGGER: Duration = Duration::from_millis(50);

/// What a guest is made from. [`Machine::new`] checks it.
pub struct MachineConfig {
    /// RAM in bytes; see [`MemorySize`].
    pub memory_bytes: u64,
    /// How the guest begins.
    pub start: Start,
    /// What executes the guest.
    pub engine: Kind,
    /// CPUs: 1 to [`engine::MAX_CPUS`].
    pub cpus: u8,
    /// How guest time passes on the soft engine.
    pub clock: ClockMode,
    /// Seeds what is random in the soft engine.
    pub seed: u64,
    /// How the soft engine executes instructions.
    pub execution: Execution,
    /// Wall time after which the run ends.
    pub timeout: Option<Duration>,
    /// What the guest's real-time clock shows at power-on: time since 1970-01-01 00:00 UTC.
    pub rtc_base: Duration,
    /// The first serial port.
    pub serial: SerialConsole,
    /// Listens to the consoles. Other consoles' sinks should pass through its `tee`, too.
    pub log: ConsoleLog,
    /// Whether the guest has something to do; see [`Activity`].
    pub activity: Activity,
    /// Whether what comes from outside is written down, or read.
    pub inputs: Inputs,
    /// Where debuggers may come in. While one is there, nothing is saved.
    pub debugger: Option<gdb::Server>,
}

/// How a guest begins.
pub enum Start {
    /// By booting a kernel.
    Boot {
        /// An ELF `vmlinux`.
        kernel: PathBuf,
        /// An initramfs.
        initrd: Option<PathBuf>,
        /// The kernel command line. [`boot::BOARD_WORDS`] is put before it, and nothing else.
        cmdline: String,
    },
    /// Where another one was saved. It needs the same virtio devices in the same order, as many CPUs
    /// and as much RAM.
    Restore(Snapshot),
}

/// The first serial port (`console=ttyS0`).
pub struct SerialConsole {
    /// Where output goes.
    pub output: Box<dyn Write + Send>,
    /// Where input comes from: read on the event thread until its end.
    pub input: Option<OwnedFd>,
}

/// A guest that is ready to run, or running.
pub struct Machine {
    engine: Engine,
    board: Board,
    ram: Arc<GuestRam>,
    config: MachineConfig,
    slots: Vec<VirtioSlot>,
    inbox: Arc<Inbox>,
    power: Arc<PowerSwitch>,
    panic: Arc<PanicLatch>,
    /// What is typed for the serial port.
    serial_input: InputQueue,
    gate: Gate,
    exits: ExitCounts,
    gauges: Gauges,
    observer: Option<Box<dyn FnMut() + Send>>,
    watch: Option<Watch>,
    memory: MemorySize,
    /// Saved virtio devices that were not added yet.
    to_restore: VecDeque<SavedTransport>,
    /// A debugger has hold of the guest, and may have put breakpoints into its memory.
    debugged: bool,
}

impl Machine {
    /// Makes RAM and CPU, loads kernel and initramfs or what was saved, and puts the PC's own devices
    /// on the board.
    pub fn new(mut config: MachineConfig) -> Result<Machine, MachineError> {
        let size = MemorySize::new(config.memory_bytes)?;
        let (ram, begin) = match &config.start {
            Start::Boot { kernel, initrd, cmdline } => {
                let ram = Arc::new(guest_ram::allocate(&size.ranges())?);
                let cmdline = boot::command_line(cmdline);
                let initrd = initrd.as_deref();
                let source = BootSource { kernel, initrd, cmdline: &cmdline, rsdp: ACPI_TABLES };
                let entry = boot::load(&ram, size, &source)?;
                (ram, Begin::Entry(entry))
            }
            Start::Restore(snapshot) => {
                let header = snapshot.header();
                if (header.memory_bytes, header.cpus) != (config.memory_bytes, config.cpus) {
                    let what = "the guest has other memory or another number of CPUs".to_owned();
                    return Err(SnapshotError::Mismatch(what).into());
                }
                let state = snapshot.state()?;
                (Arc::new(snapshot.ram()?), Begin::State(Box::new(state)))
            }
        };

        let cpu = engine::Config {
            cpus: config.cpus,
            clock: config.clock,
            seed: config.seed,
            execution: config.execution,
        };
        let mut engine = Engine::new(config.engine, ram.clone(), cpu)?;
        if let Begin::Entry(entry) = &begin {
            engine.set_entry(entry)?;
        }

        let kicker = engine.kicker();
        let deterministic = engine.kind() == Kind::Soft && config.clock == ClockMode::Virtual;
        let inbox = Inbox::new(kicker.clone(), !deterministic);
        let power = Arc::new(PowerSwitch::new(kicker.clone()));
        let panic = Arc::new(PanicLatch::new(engine.clock()));
        config.log.on_panic(Box::new(move || kicker.kick()));

        if !deterministic && !matches!(config.inputs, Inputs::Live) {
            return Err(MachineError::DoesNotRepeat);
        }
        let mut gate = Gate::new(std::mem::replace(&mut config.inputs, Inputs::Live));
        let device_input = InputQueue::new();
        let serial_input = if gate.is_live() { device_input.clone() } else { InputQueue::new() };
        gate.add(Box::new(SerialInput { outside: serial_input.clone(), device: device_input.clone() }));
        let output = std::mem::replace(&mut config.serial.output, Box::new(std::io::sink()));
        let mut serial = SerialPort::new(
            Arc::new(Line { irq: engine.irq(), gsi: SERIAL_GSI }),
            config.log.tee(output),
            device_input,
        );
        let mut to_restore = VecDeque::new();
        let mut cmos_saved = None;
        if let Begin::State(state) = begin {
            let MachineState { engine: cpus, serial: saved, cmos, rtc_base, virtio } = *state;
            let mismatch = |error: &dyn std::fmt::Display| SnapshotError::Mismatch(error.to_string());
            serial.restore(saved).map_err(|error| mismatch(&error))?;
            engine.restore(&cpus, config.seed).map_err(|error| mismatch(&error))?;
            // The host's time goes on while a guest is saved; virtual time does not.
            config.rtc_base = match config.clock {
                ClockMode::Virtual => rtc_base,
                ClockMode::Host => config.rtc_base.saturating_sub(engine.now()),
            };
            cmos_saved = Some(cmos);
            to_restore = virtio.into();
        }
        let rtc = Rtc { clock: engine.clock(), base: config.rtc_base };
        let mut cmos = Cmos::new(Box::new(rtc));
        if let Some(saved) = cmos_saved {
            cmos.restore(saved).map_err(|error| SnapshotError::Mismatch(error.to_string()))?;
        }
        let mut board = Board::default();
        for device in [
            Legacy::Serial(serial),
            Legacy::Cmos(cmos),
            Legacy::Power(AcpiPower::new(power.clone())),
            Legacy::Keyboard(KeyboardController::new(power.clone())),
            Legacy::Panic(PanicDevice::new(panic.clone())),
        ] {
            board.add_legacy(device).expect("the PC's own devices have ports of their own");
        }
        Ok(Machine {
            engine,
            board,
            ram,
            config,
            slots: Vec::new(),
            inbox,
            power,
            panic,
            serial_input,
            gate,
            exits: ExitCounts::default(),
            gauges: Gauges::default(),
            observer: None,
            watch: None,
            memory: size,
            to_restore,
            debugged: false,
        })
    }

    /// Puts a virtio device into the next slot. A machine that goes on from a snapshot restores it.
    pub fn add_virtio(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), MachineError> {
        let count = self.slots.len() + 1;
        let slot = VirtioSlot::new(self.slots.len()).ok_or(MachineError::TooManyDevices { count })?;
        let line = Arc::new(Line { irq: self.engine.irq(), gsi: slot.gsi });
        let transport = Arc::new(MmioTransport::new(self.ram.clone(), device, line));
        if let Start::Restore(_) = self.config.start {
            let more =
                || SnapshotError::Mismatch("the guest has a device more than it was saved with".to_owned());
            let saved = self.to_restore.pop_front().ok_or_else(more)?;
            transport
                .restore(saved)
                .map_err(|error| SnapshotError::Mismatch(format!("virtio device {}: {error}", slot.index)))?;
        }
        self.board.add_virtio(slot, transport).expect("slots do not overlap");
        self.slots.push(slot);
        Ok(())
    }

    /// Adds a way in for bytes from outside, where there is a log of them; the serial port's is there. Ports are
    /// told apart by their order.
    pub fn add_input(&mut self, port: Box<dyn InputPort>) {
        self.gate.add(port);
    }

    /// The engine that runs it: [`Kind::Soft`] or [`Kind::Kvm`].
    pub fn engine(&self) -> Kind {
        self.engine.kind()
    }

    /// Guest time, for devices and observers.
    pub fn clock(&self) -> GuestClock {
        self.engine.clock()
    }

    /// Shows from other threads how far the machine is.
    pub fn gauges(&self) -> Gauges {
        self.gauges.clone()
    }

    /// Calls `observer` whenever the engine returned, on the CPU's thread: at moments of guest time, at
    /// least once a slice.
    pub fn observe(&mut self, observer: Box<dyn FnMut() + Send>) {
        self.observer = Some(observer);
    }

    /// Calls `tell` when something goes wrong in the guest, on the CPU's thread.
    pub fn on_news(&mut self, tell: Box<dyn FnMut(News) + Send>) {
        self.watch = Some(Watch::new(tell));
    }

    /// Controls the machine from other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inbox.clone())
    }

    /// Runs the guest on this thread until the run is over. Fails only where it cannot begin.
    pub fn run(mut self) -> Result<Outcome, MachineError> {
        match self.config.start {
            Start::Boot { .. } => {
                acpi::write(&self.ram, self.config.cpus, &self.slots);
            }
            Start::Restore(_) if self.to_restore.is_empty() => {}
            Start::Restore(_) => {
                let less = "the guest has a device less than it was saved with".to_owned();
                return Err(SnapshotError::Mismatch(less).into());
            }
        }
        let source = self.config.serial.input.take();
        let source = source.filter(|_| !self.gate.is_replay());
        let source = source.map(|fd| ConsoleSource { fd, queue: self.serial_input.clone() });
        let heartbeat = (self.engine.kind() == Kind::Kvm).then(|| self.engine.kicker());
        let _events = EventThread::start(self.handle(), self.config.timeout, source, heartbeat)?;

        if let Some(server) = &mut self.config.debugger {
            let (handle, kicker) = (Handle::new(self.inbox.clone()), self.engine.kicker());
            let wake = move || {
                handle.wake();
                kicker.kick();
            };
            server.start(Box::new(wake)).map_err(|source| MachineError::Thread { source })?;
        }

        let (wall, cpu) = (Instant::now(), cpu_time::thread());
        let end = self.execute();
        let end = self.gate.finish(self.moment(true), &end).unwrap_or(end);
        if let Some(watch) = &mut self.watch {
            watch.finish(&end, &mut self.board, &self.engine);
        }
        Ok(Outcome {
            end,
            console: self.config.log.last_lines(),
            device_failures: self.board.failures(),
            stats: RunStats {
                engine: self.engine.kind(),
                instructions: self.engine.instructions(),
                accesses: self.board.counts(),
                exits: self.exits,
                guest_time: self.engine.now(),
                cpu_time: cpu_time::thread().saturating_sub(cpu),
                wall_time: wall.elapsed(),
                soft: self.engine.stats(),
            },
        })
    }

    /// Runs the guest on a thread of its own.
    pub fn spawn(self) -> Result<Running, MachineError> {
        let handle = self.handle();
        let thread = thread::Builder::new().name("vcpu".into()).spawn(move || self.run());
        let thread = thread.map_err(|source| MachineError::Thread { source })?;
        Ok(Running { handle, thread: Some(thread) })
    }

    fn execute(&mut self) -> End {
        let debuggers = self.config.debugger.take();
        let mut awaited = debuggers.as_ref().is_some_and(gdb::Server::waits);
        loop {
            if let Some(end) = self.ended() {
                return end;
            }
            if let Some(server) = &debuggers {
                let limit = if awaited { LOOK_FOR_DEBUGGER } else { Duration::ZERO };
                match server.debugger(limit) {
                    Some(debugger) => {
                        (awaited, self.debugged) = (false, true);
                        let end = gdb::attend(debugger, self);
                        self.debugged = false;
                        if let Some(end) = end {
                            return end;
                        }
                        continue;
                    }
                    None if awaited => continue,
                    None => {}
                }
            }
            if let Turn::Ended(end) = self.go_on() {
                return end;
            }
        }
    }

    /// Lets the engine run, and deals with why it returned.
    fn go_on(&mut self) -> Turn<End> {
        let exit = self.engine.run(&mut self.board);
        self.gauges.show(self.engine.instructions(), self.exits, self.board.counts());
        if let Some(watch) = &mut self.watch {
            watch.look(&self.config.log, &mut self.board, &self.engine);
        }
        if let Some(observer) = &mut self.observer {
            observer();
        }
        match exit {
            Exit::Idle { until } => {
                self.exits.idle += 1;
                self.idle(until);
            }
            Exit::Slice => {
                self.exits.slice += 1;
                self.take_snapshot();
                self.take_input(false);
            }
            Exit::Stopped => {
                self.exits.stopped += 1;
                // With a virtual clock a kick comes at no defined moment of guest time.
                if !self.is_virtual() {
                    self.take_snapshot();
                    self.take_input(false);
                }
            }
            Exit::Debug(cpu, stop) => return Turn::Stopped(cpu, stop),
            Exit::TripleFault(reason) => {
                return Turn::Ended(self.after_panic().unwrap_or(End::TripleFault(reason)));
            }
            Exit::DeadHalt => return Turn::Ended(self.after_panic().unwrap_or(End::Halted)),
            Exit::Failed(reason) => return Turn::Ended(End::EngineFailed(reason)),
        }
        Turn::Goes
    }

    /// Whether the run is over by something other than the CPU.
    fn ended(&mut self) -> Option<End> {
        match self.power.request() {
            Some(PowerRequest::PowerOff) => return Some(End::PoweredOff),
            Some(PowerRequest::Reset) => return Some(self.after_panic().unwrap_or(End::Reset)),
            None => {}
        }
        match self.inbox.stop_reason() {
            Some(StopReason::Asked) => return Some(End::Stopped),
            // A kernel that waits after its panic, until the time is over, has panicked.
            Some(StopReason::Timeout) => return Some(self.after_panic().unwrap_or(End::Timeout)),
            None => {}
        }
        if let Some(end) = self.gate.end() {
            return Some(end);
        }
        if let Some(reason) = self.board.fault() {
            return Some(End::DeviceFailed(reason));
        }
        if let Some(panic) = self.config.log.panic().filter(|panic| panic.complete) {
            return Some(End::Panic(panic.message));
        }
        let told = self.panic.told()?;
        (self.engine.now() > told + LAST_WORDS).then(|| self.after_panic()).flatten()
    }

    /// What a guest that stopped working really died of: its kernel's reason, if that was printed.
    fn after_panic(&self) -> Option<End> {
        let printed = self.config.log.panic().map(|panic| panic.message);
        let told = self.panic.told().map(|_| "its reason is not on the console".to_owned());
        printed.or(told).map(End::Panic)
    }

    /// Takes the snapshot that somebody asked for. The CPU is between two instructions, and no device is in
    /// the middle of anything.
    fn take_snapshot(&mut self) {
        if self.debugged {
            return;
        }
        let Some(Wish { request, reply }) = self.inbox.take_snapshot() else { return };
        let SnapshotRequest { path, labels, stop } = request;
        let result = self.save(&path, labels);
        if stop {
            self.handle().stop();
        }
        // Who does not wait for the answer does not need it.
        let _ = reply.send(result);
    }

    fn save(&mut self, path: &Path, labels: Labels) -> Result<Header, SnapshotError> {
        let not_saved = |error: &dyn std::fmt::Display| SnapshotError::NotSaved(error.to_string());
        let engine = self.engine.save().map_err(|error| not_saved(&error))?;
        let (serial, cmos, virtio) = self.board.save().map_err(|error| not_saved(&error))?;
        let state = MachineState { engine, serial, cmos, rtc_base: self.config.rtc_base, virtio };
        let facts = Facts {
            engine: self.engine.kind().to_string(),
            cpus: self.config.cpus,
            memory: self.memory,
            guest_time: self.engine.now(),
            labels,
        };
        snapshot::write(path, facts, &state, &self.ram)
    }

    fn is_virtual(&self) -> bool {
        self.engine.kind() == Kind::Soft && self.config.clock == ClockMode::Virtual
    }

    /// Where the run is, for the log of its input.
    fn moment(&self, idle: bool) -> Moment {
        Moment::new(self.engine.instructions(), self.engine.now(), idle)
    }

    /// Lets devices move waiting host input into the guest; false if there is none.
    fn take_input(&mut self, idle: bool) -> bool {
        let wake = self.gate.open(self.moment(idle), self.inbox.take_wake());
        if let Some(wake) = wake {
            if wake.work {
                self.config.activity.set_busy(true);
            }
            self.board.service();
        }
        wake.is_some()
    }

    /// The CPU is halted until an interrupt; its timer is due at `until`.
    fn idle(&mut self, until: Option<Duration>) {
        self.take_snapshot();
        if self.take_input(true) || self.gate.end().is_some() {
            return;
        }
        let pace = match self.config.activity.pace() {
            // Nobody outside is waited for.
            Pace::Host if self.gate.is_replay() => Pace::Jump,
            pace => pace,
        };
        if self.gate.is_replay() && (until.is_none() || pace == Pace::Still) {
            return self.gate.starve(self.moment(true));
        }
        match until {
            Some(due) if self.is_virtual() => {
                let left = || due.saturating_sub(self.engine.now());
                let time_passes = match pace {
                    Pace::Jump => true,
                    Pace::Host => !self.inbox.wait(Some(left())),
                    Pace::Still => !self.inbox.wait(None),
                };
                if time_passes {
                    self.engine.skip_to(due);
                }
            }
            until => {
                self.inbox.wait(until.map(|due| due.saturating_sub(self.engine.now())));
            }
        }
    }
}

impl gdb::Guest for Machine {
    type End = End;

    fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn advance(&mut self) -> Turn<End> {
        match self.ended() {
            Some(end) => Turn::Ended(end),
            None => self.go_on(),
        }
    }

    fn ended(&mut self) -> Option<End> {
        Machine::ended(self)
    }

    fn killed(&self) -> End {
        End::Stopped
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// What a CPU begins with.
enum Begin {
    Entry(EntryState),
    State(Box<MachineState>),
}

/// A guest on a thread of its own. Dropping it stops the guest and waits for the thread.
pub struct Running {
    handle: Handle,
    thread: Option<JoinHandle<Result<Outcome, MachineError>>>,
}

impl Running {
    /// Controls the machine.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the end of the run.
    ///
    /// # Panics
    /// Where the machine's thread panicked, with its panic.
    pub fn join(mut self) -> Result<Outcome, MachineError> {
        let thread = self.thread.take().expect("only join and drop take the thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            // Nobody is left to hear of a panic; it was printed.
            let _ = thread.join();
        }
    }
}
