//! The guest as gdb sees it: threads with registers, memory, breakpoints.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use engine::{DebugRegisters, MAX_POINTS, Point, Waits, Watch};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps, outputln};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use vm_memory::{Bytes, GuestAddress};

use crate::paging::translate;
use crate::session::Guest;

const INT3: u8 = 0xcc;
const PAGE: u64 = 4096;

/// Most breakpoints in memory; gdb asks for no more than somebody typed.
const MAX_BREAKPOINTS: usize = 1024;

/// General registers in gdb's order, as numbers in instructions.
const GDB_ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

/// A CPU's thread number.
pub fn thread(cpu: u8) -> Tid {
    NonZeroUsize::MIN.saturating_add(cpu.into())
}

/// What of `len` bytes at `start` comes after the first `done`: its address, and how much lies in one page.
fn piece(start: u64, done: usize, len: usize) -> (u64, usize) {
    let linear = start.wrapping_add(done as u64);
    (linear, ((PAGE - linear % PAGE) as usize).min(len - done))
}

fn cpu_of(thread: Tid) -> u8 {
    (thread.get() - 1) as u8
}

/// A byte of guest memory in whose place is INT3.
struct Patched {
    at: GuestAddress,
    byte: u8,
}

/// A guest under a debugger.
pub struct Debugged<'g, G: Guest> {
    pub guest: &'g mut G,
    /// By linear address.
    patched: BTreeMap<u64, Patched>,
    points: Vec<Point>,
    step: Option<u8>,
    /// The CPU that stopped last.
    current: u8,
}

impl<'g, G: Guest> Debugged<'g, G> {
    pub fn new(guest: &'g mut G) -> Debugged<'g, G> {
        Debugged { guest, patched: BTreeMap::new(), points: Vec::new(), step: None, current: 0 }
    }

    /// The CPU that is shown first.
    pub fn current(&self) -> u8 {
        self.current
    }

    pub fn stopped(&mut self, cpu: u8) {
        self.current = cpu;
    }

    /// Takes everything back that the guest could notice.
    pub fn leave(&mut self) {
        for (_, patched) in std::mem::take(&mut self.patched) {
            self.repair(&patched);
        }
        // Nothing to watch is what it can always do.
        let _ = self.guest.engine().debug(Waits::default());
    }

    fn repair(&self, patched: &Patched) {
        let ram = self.guest.ram();
        // Unless the guest has put something else there.
        if ram.read_obj::<u8>(patched.at).is_ok_and(|byte| byte == INT3) {
            let _ = ram.write_obj(patched.byte, patched.at);
        }
    }

    fn registers(&mut self, cpu: u8) -> TargetResult<DebugRegisters, Self> {
        if cpu >= self.guest.engine().cpus() {
            return Err(TargetError::NonFatal);
        }
        self.guest.engine().debug_registers(cpu).map_err(|_| TargetError::NonFatal)
    }

    fn add_point(&mut self, point: Point) -> bool {
        let room = self.points.len() < MAX_POINTS;
        if room {
            self.points.push(point);
        }
        room
    }

    fn remove_point(&mut self, point: Point) -> bool {
        let at = self.points.iter().position(|other| *other == point);
        at.map(|at| self.points.remove(at)).is_some()
    }
}

impl<G: Guest> Target for Debugged<'_, G> {
    type Arch = X86_64_SSE;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64_SSE, &'static str> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Guest> MultiThreadBase for Debugged<'_, G> {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs, thread: Tid) -> TargetResult<(), Self> {
        let from = self.registers(cpu_of(thread))?;
        to.regs = GDB_ORDER.map(|register| from.gpr[register]);
        to.rip = from.rip;
        to.eflags = from.rflags as u32;
        let [es, cs, ss, ds, fs, gs] = from.selectors.map(u32::from);
        (to.segments.es, to.segments.cs, to.segments.ss) = (es, cs, ss);
        (to.segments.ds, to.segments.fs, to.segments.gs) = (ds, fs, gs);
        to.xmm = from.xmm;
        to.mxcsr = from.mxcsr;
        Ok(())
    }

    fn write_registers(&mut self, from: &X86_64CoreRegs, thread: Tid) -> TargetResult<(), Self> {
        let cpu = cpu_of(thread);
        let mut to = self.registers(cpu)?;
        for (value, register) in from.regs.into_iter().zip(GDB_ORDER) {
            to.gpr[register] = value;
        }
        (to.rip, to.rflags, to.xmm) = (from.rip, from.eflags.into(), from.xmm);
        self.guest.engine().set_debug_registers(cpu, &to).map_err(|_| TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], thread: Tid) -> TargetResult<usize, Self> {
        let cpu = self.registers(cpu_of(thread))?;
        let mut done = 0;
        while done < data.len() {
            let (linear, len) = piece(start, done, data.len());
            let ram = self.guest.ram();
            let piece = &mut data[done..done + len];
            match translate(ram, &cpu, linear).map(|at| ram.read_slice(piece, at)) {
                Some(Ok(())) => done += len,
                _ if done > 0 => break,
                _ => return Err(TargetError::NonFatal),
            }
        }
        Ok(done)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], thread: Tid) -> TargetResult<(), Self> {
        let cpu = self.registers(cpu_of(thread))?;
        let mut done = 0;
        while done < data.len() {
            let (linear, len) = piece(start, done, data.len());
            let ram = self.guest.ram();
            let at = translate(ram, &cpu, linear).ok_or(TargetError::NonFatal)?;
            ram.write_slice(&data[done..done + len], at).map_err(|_| TargetError::NonFatal)?;
            done += len;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, found: &mut dyn FnMut(Tid)) -> Result<(), &'static str> {
        (0..self.guest.engine().cpus()).map(thread).for_each(found);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Guest> MultiThreadResume for Debugged<'_, G> {
    fn resume(&mut self) -> Result<(), &'static str> {
        let waits = Waits {
            int3: self.patched.keys().copied().collect(),
            points: self.points.clone(),
            step: self.step,
        };
        self.guest.engine().debug(waits).map_err(|_| "the engine cannot be debugged")
    }

    fn clear_resume_actions(&mut self) -> Result<(), &'static str> {
        self.step = None;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, _: Tid, _: Option<Signal>) -> Result<(), &'static str> {
        Ok(())
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Guest> MultiThreadSchedulerLocking for Debugged<'_, G> {
    /// The other CPUs stand still during a step anyway; what goes on, goes on with all.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl<G: Guest> MultiThreadSingleStep for Debugged<'_, G> {
    fn set_resume_action_step(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), &'static str> {
        self.step = Some(cpu_of(thread)).filter(|cpu| *cpu < self.guest.engine().cpus());
        Ok(())
    }
}

impl<G: Guest> Breakpoints for Debugged<'_, G> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Guest> SwBreakpoint for Debugged<'_, G> {
    /// In the address space of the CPU that stopped last.
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if self.patched.len() >= MAX_BREAKPOINTS || self.patched.contains_key(&address) {
            return Ok(false);
        }
        let cpu = self.registers(self.current)?;
        let ram = self.guest.ram();
        let Some(at) = translate(ram, &cpu, address) else { return Ok(false) };
        let Ok(byte) = ram.read_obj(at) else { return Ok(false) };
        if ram.write_obj(INT3, at).is_err() {
            return Ok(false);
        }
        self.patched.insert(address, Patched { at, byte });
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let patched = self.patched.remove(&address);
        if let Some(patched) = &patched {
            self.repair(patched);
        }
        Ok(patched.is_some())
    }
}

fn execution(address: u64) -> Point {
    Point { address, len: 1, watch: Watch::Execute }
}

impl<G: Guest> HwBreakpoint for Debugged<'_, G> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_point(execution(address)))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_point(execution(address)))
    }
}

/// What the CPU can watch: aligned pieces. It knows no reads without writes; those stop it, too.
fn watched(address: u64, len: u64, kind: WatchKind) -> Option<Point> {
    let watch = if kind == WatchKind::Write { Watch::Write } else { Watch::Access };
    let fits = matches!(len, 1 | 2 | 4 | 8) && address.is_multiple_of(len);
    fits.then_some(Point { address, len: len as u8, watch })
}

impl<G: Guest> HwWatchpoint for Debugged<'_, G> {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(watched(address, len, kind).is_some_and(|point| self.add_point(point)))
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(watched(address, len, kind).is_some_and(|point| self.remove_point(point)))
    }
}

impl<G: Guest> MonitorCmd for Debugged<'_, G> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), &'static str> {
        match command {
            b"cpu" => {
                for cpu in 0..self.guest.engine().cpus() {
                    let Ok(registers) = self.registers(cpu) else { continue };
                    let DebugRegisters { cr0, cr2, cr3, cr4, efer, fs_base, gs_base, .. } = registers;
                    outputln!(out, "cpu {cpu}: cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x}");
                    outputln!(out, "       efer {efer:#x} fs_base {fs_base:#x} gs_base {gs_base:#x}");
                }
            }
            b"time" => {
                let engine = self.guest.engine();
                let counted = engine.instructions().map_or(String::new(), |n| format!(", {n} instructions"));
                let now = engine.now();
                outputln!(out, "{now:?} of guest time{counted}");
            }
            _ => outputln!(out, "bindervm knows: monitor cpu, monitor time"),
        }
        Ok(())
    }
}
