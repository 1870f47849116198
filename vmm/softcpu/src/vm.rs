//! The public face: a virtual machine of CPUs, RAM and interrupt controllers.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use guest_ram::GuestRam;
use vm_memory::GuestAddress;

use crate::board::Activity;
use crate::code;
use crate::cpu::{Cause, Cpu};
use crate::debugger::Stop;
use crate::flags;
use crate::interrupt::TripleFault;
use crate::memory::{PAGE, Ram};
use crate::remote::Remote;
use crate::turns::Turns;
use crate::uop::Flow;

/// Most CPUs of a machine: what one message of the local APICs' flat logical mode can name.
pub const MAX_CPUS: u8 = 8;

/// How guest time passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockMode {
    /// One executed instruction is one tick; runs are reproducible.
    #[default]
    Virtual,
    /// Guest time is the host's monotonic time.
    Host,
}

/// How instructions are executed. The guest cannot tell, except by the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// One after the other.
    Interpret,
    /// Blocks of instructions that were executed `after` times are compiled to host code. Where the
    /// host allows no executable memory, nothing is.
    Compile {
        /// Executions by the interpreter before a block is compiled.
        after: u32,
    },
}

impl Default for Execution {
    fn default() -> Execution {
        Execution::COMPILE
    }
}

impl Execution {
    /// Compiles what is worth compiling.
    pub const COMPILE: Execution = Execution::Compile { after: 16 };
}

/// What a [`Vm`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How guest time passes.
    pub clock: ClockMode,
    /// Seeds RDRAND; in virtual mode, a seed other than 0 also varies where timer interrupts fall.
    pub seed: u64,
    /// Ticks of the time-stamp counter in a second (in virtual mode also instructions a second).
    pub tsc_hz: u64,
    /// CPUs: 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// How instructions are executed.
    pub execution: Execution,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            clock: ClockMode::Virtual,
            seed: 0,
            tsc_hz: 1_000_000_000,
            cpus: 1,
            execution: Execution::default(),
        }
    }
}

/// A [`Config`] that cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The number of CPUs is not supported.
    #[error("a machine in software has 1 to {MAX_CPUS} CPUs, not {0}")]
    Cpus(u8),
    /// The time-stamp counter's frequency is out of range.
    #[error("a time-stamp counter of {0} Hz is not between 1 MHz and 100 GHz")]
    TscHz(u64),
    /// Floating point is computed by the host's own instructions, up to SSE4.1.
    #[error("the software CPU needs a host CPU with SSE4.1")]
    HostCpu,
}

/// Everything outside RAM, the CPU and its interrupt controllers.
///
/// Callbacks run on the thread that called [`Vm::run`]; an engine that runs CPUs on several threads
/// makes one call at a time. They may write guest RAM through
/// [`GuestRam`] and may raise interrupts through a [`Remote`].
pub trait Bus: Send {
    /// A load of 1, 2, 4 or 8 bytes at a guest-physical address that is not RAM.
    fn mmio_read(&mut self, addr: GuestAddress, data: &mut [u8]);
    /// A store of 1, 2, 4 or 8 bytes at a guest-physical address that is not RAM.
    fn mmio_write(&mut self, addr: GuestAddress, data: &[u8]);
    /// `in` of 1, 2 or 4 bytes.
    fn port_in(&mut self, port: u16, data: &mut [u8]);
    /// `out` of 1, 2 or 4 bytes.
    fn port_out(&mut self, port: u16, data: &[u8]);
}

/// Why [`Vm::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All CPUs are halted and wait for an interrupt.
    Idle {
        /// Guest time of the next timer interrupt; `None`: no timer is armed.
        until: Option<Duration>,
    },
    /// [`Remote::kick`] was called.
    Stopped,
    /// The guest reset itself by a fault while delivering a double fault: cause and RIP.
    TripleFault(String),
    /// Every CPU executed `hlt` with interrupts disabled: nothing can wake them.
    DeadHalt,
    /// 10 ms of guest time passed in virtual mode: a moment to hand in host input.
    Slice,
    /// What the debugger waits for ([`Vm::debug`]) was met by this CPU.
    Debug(u8, Stop),
}

/// The registers that the 64-bit boot protocol wants set; the others start as zero.
#[derive(Clone, Copy, Debug)]
pub struct EntryState {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Address of `boot_params`.
    pub rsi: u64,
    /// Page-table root (4 levels, identity-mapped).
    pub cr3: GuestAddress,
    /// Global descriptor table; CS = 0x10 and the data segments = 0x18 are in it.
    pub gdt: GuestAddress,
    /// Last byte of the table.
    pub gdt_limit: u16,
}

/// The general registers, in encoding order (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General registers.
    pub gpr: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// All flags.
    pub rflags: u64,
}

/// Counters since the VM was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions executed (a `rep` string instruction counts one for each page-sized piece).
    pub instructions: u64,
    /// Blocks decoded.
    pub blocks: u64,
    /// Blocks dropped because their bytes were overwritten.
    pub invalidations: u64,
    /// Translations put into the TLB.
    pub tlb_fills: u64,
    /// TLB flushes.
    pub tlb_flushes: u64,
    /// Blocks compiled to host code.
    pub compiled: u64,
    /// How often all compiled code was dropped to make room.
    pub compiled_dropped: u64,
    /// Instructions this CPU does not know, by mnemonic, each of which raised #UD in the guest.
    pub unknown: Vec<(String, u64)>,
}

/// A virtual machine.
pub struct Vm {
    /// The CPU whose turn it is.
    pub(crate) cpu: Box<Cpu>,
    pub(crate) turns: Turns,
}

impl Vm {
    /// A machine in its reset state; [`set_entry`](Self::set_entry) makes it ready to run.
    pub fn new(ram: Arc<GuestRam>, config: Config) -> Result<Vm, ConfigError> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(ConfigError::Cpus(config.cpus));
        }
        if !(1_000_000..=100_000_000_000).contains(&config.tsc_hz) {
            return Err(ConfigError::TscHz(config.tsc_hz));
        }
        if !std::arch::is_x86_feature_detected!("sse4.1") {
            return Err(ConfigError::HostCpu);
        }
        let mut vm = Vm {
            cpu: Cpu::boxed(Ram::new(ram), &config),
            turns: Turns::new(config.cpus as usize, config.seed),
        };
        if config.cpus > 1 {
            vm.turns.begin(&mut vm.cpu, 0);
        }
        Ok(vm)
    }

    /// Puts the first CPU into 64-bit mode as the boot protocol wants it. To be called before the first
    /// [`run`](Self::run). The other CPUs wait for their start-up messages.
    pub fn set_entry(&mut self, entry: &EntryState) {
        self.cpu.board.own().activity = Activity::Running;
        self.cpu.enter_long_mode(entry);
    }

    /// Runs until something happens that the caller must see.
    pub fn run(&mut self, bus: &mut dyn Bus) -> Exit {
        let bus = NonNull::from(bus);
        // SAFETY: only the lifetime changes. The pointer is used by `Cpu::with_bus` alone, and
        // taken back below, before the borrow of `bus` ends. (If a device panics it stays, unused,
        // until the next run replaces it.)
        self.cpu.bus =
            Some(unsafe { std::mem::transmute::<NonNull<dyn Bus + '_>, NonNull<dyn Bus + 'static>>(bus) });
        let exit = self.run_with_bus();
        self.cpu.bus = None;
        self.cpu.publish_time();
        exit
    }

    /// Like [`run`](Self::run), but returns [`Exit::Slice`] also when the machine has executed
    /// `instructions` since it was made (or a few more, where a string instruction counts as many).
    pub fn run_until(&mut self, bus: &mut dyn Bus, instructions: u64) -> Exit {
        self.cpu.clock.stop = instructions;
        let exit = self.run(bus);
        self.cpu.clock.stop = u64::MAX;
        exit
    }

    fn run_with_bus(&mut self) -> Exit {
        if let Some(exit) = self.events() {
            return exit;
        }
        loop {
            let cpu = &mut *self.cpu;
            cpu.block = code::NONE;
            cpu.code.collect(&cpu.ram);
            let due = cpu.remaining <= 0 || cpu.board.remote.attention();
            if due && let Some(exit) = self.events() {
                return exit;
            }
            let stepping = self.turn_to_step();
            self.cpu.check_alignment();
            let cpu = &mut *self.cpu;
            if cpu.interrupt_pending
                && !cpu.shadow
                && !stepping
                && let Err(TripleFault(cause)) = cpu.take_signals()
            {
                return self.crashed(cause);
            }
            if self.cpu.board.activity() != Activity::Running {
                match self.turns.next(&self.cpu.board) {
                    Some(next) => {
                        self.begin_turn(next);
                        continue;
                    }
                    None => return self.idle(),
                }
            }
            let cpu = &mut *self.cpu;
            let flow =
                if stepping || cpu.shadow || cpu.alone || cpu.watching || cpu.flags.system & flags::TF != 0 {
                    cpu.single_step()
                } else {
                    cpu.run_blocks()
                };
            // What is delivered now may write where that block was.
            cpu.block = code::NONE;
            match flow {
                Flow::Halt => {
                    let interrupts_on = cpu.flags.interrupts();
                    let own = cpu.board.own();
                    (own.activity, own.interrupts_on) = (Activity::Halted, interrupts_on);
                    // Time or other threads may have something already.
                    if !stepping && let Some(exit) = self.events() {
                        return exit;
                    }
                }
                Flow::Abort if self.cpu.abort == Cause::Alone => {
                    self.cpu.alone = true;
                    continue;
                }
                Flow::Abort if self.cpu.abort == Cause::Debugger => {}
                Flow::Abort => {
                    if let Err(TripleFault(cause)) = self.cpu.abort_delivered() {
                        return self.crashed(cause);
                    }
                }
                Flow::Link0 | Flow::Link1 | Flow::Jump | Flow::Sync => {}
            }
            if let Some(exit) = self.stopped_for_debugger(stepping) {
                return exit;
            }
        }
    }

    /// True if the debugger waits for an instruction of a CPU that can execute one; it is its turn then.
    fn turn_to_step(&mut self) -> bool {
        let Some(step) = self.cpu.debugger.waits.step.map(usize::from) else { return false };
        if step != self.cpu.board.current() && self.cpu.board.local(step).is_ready() {
            self.begin_turn(step);
        }
        step == self.cpu.board.current() && self.cpu.board.activity() == Activity::Running
    }

    fn stopped_for_debugger(&mut self, stepped: bool) -> Option<Exit> {
        let stop = self.cpu.debugger.stop.take().or(stepped.then_some(Stop::Step))?;
        Some(Exit::Debug(self.cpu.board.current() as u8, stop))
    }

    /// Looks at the clock, at what other threads asked for and at what devices wrote.
    fn events(&mut self) -> Option<Exit> {
        let cpu = &mut *self.cpu;
        cpu.drain_stale();
        let kicked = cpu.board.take_requests();
        let now = cpu.now();
        cpu.board.advance(now);
        let slice = cpu.clock.slice_ended(cpu.remaining);
        let yielded = std::mem::take(&mut cpu.yielded);
        let turn_over = yielded || cpu.clock.turn_ended(cpu.remaining);
        if turn_over && let Some(next) = self.turns.next(&cpu.board) {
            self.turns.begin(cpu, next);
        }
        cpu.interrupt_pending = cpu.board.pending();
        cpu.others_ready = Turns::others_ready(&cpu.board);
        cpu.reschedule();
        if kicked {
            return Some(Exit::Stopped);
        }
        (slice || cpu.clock.stopped(cpu.remaining)).then_some(Exit::Slice)
    }

    /// The executing CPU sleeps and another one does not.
    fn begin_turn(&mut self, next: usize) {
        let cpu = &mut *self.cpu;
        self.turns.begin(cpu, next);
        cpu.interrupt_pending = cpu.board.pending();
        cpu.others_ready = Turns::others_ready(&cpu.board);
        cpu.reschedule();
    }

    fn idle(&self) -> Exit {
        let cpu = &self.cpu;
        if !Turns::can_wake(&cpu.board) {
            return Exit::DeadHalt;
        }
        let timer = cpu.board.next_waking_timer(cpu.now());
        Exit::Idle { until: timer.map(|ticks| cpu.clock.duration(ticks)) }
    }

    fn crashed(&self, cause: String) -> Exit {
        let board = &self.cpu.board;
        Exit::TripleFault(match board.cpus() {
            1 => cause,
            _ => format!("{cause} on CPU {}", board.current()),
        })
    }

    /// A handle for other threads.
    pub fn remote(&self) -> Remote {
        self.cpu.board.remote.clone()
    }

    /// Guest time since power-on.
    pub fn now(&self) -> Duration {
        self.cpu.clock.duration(self.cpu.now())
    }

    /// Instructions executed.
    pub fn instructions(&self) -> u64 {
        self.cpu.clock.instructions(self.cpu.remaining)
    }

    /// Virtual mode: guest time jumps forward to `until` (a time that [`Exit::Idle`] named).
    pub fn skip_to(&mut self, until: Duration) {
        self.cpu.clock.skip_to(self.cpu.remaining, until);
        self.cpu.publish_time();
    }

    /// How many different instructions the guest has executed that are not there; [`Stats::unknown`] names them.
    pub fn missing_instructions(&self) -> usize {
        self.cpu.unknown.len()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let cpu = &self.cpu;
        let unknown = cpu.unknown.iter().map(|(mnemonic, count)| {
            let name = iced_x86::Mnemonic::try_from(*mnemonic as usize);
            (name.map_or_else(|_| mnemonic.to_string(), |name| format!("{name:?}")), *count)
        });
        Stats {
            instructions: self.instructions(),
            blocks: cpu.code.decoded,
            invalidations: cpu.code.invalidated,
            tlb_fills: cpu.tlb.fills,
            tlb_flushes: cpu.tlb.flushes,
            compiled: cpu.code.jit.as_ref().map_or(0, |jit| jit.compiled),
            compiled_dropped: cpu.code.jit.as_ref().map_or(0, |jit| jit.flushes),
            unknown: unknown.collect(),
        }
    }

    /// All registers of the CPU that executed last, one a line, to compare two machines by.
    pub fn describe(&self) -> String {
        format!("{:#x?}", self.cpu.state())
    }

    /// Reads code at a linear address, as the CPU that executed last would fetch it. Returns the number of
    /// bytes up to an address that cannot be executed.
    pub fn read_code(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let Ok((physical, page)) = self.cpu.translate_fetch(address.wrapping_add(i as u64)) else {
                return i;
            };
            *byte = page.read(physical % PAGE);
        }
        bytes.len()
    }

    /// The general registers, RIP and RFLAGS of the CPU that executed last.
    pub fn registers(&self) -> Registers {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.cpu.gpr[..16]);
        Registers { gpr, rip: self.cpu.rip, rflags: self.cpu.flags.bits() }
    }

    /// Replaces the general registers, RIP and RFLAGS, and wakes the CPU from `hlt`.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.cpu.board.own().activity = Activity::Running;
        self.cpu.gpr[..16].copy_from_slice(&registers.gpr);
        self.cpu.rip = registers.rip;
        self.cpu.flags.set_bits(registers.rflags);
    }
}
