//! A debugger outside the guest: what it waits for, and the registers that it sees.
//!
//! The guest does not notice it: the debugger's points are kept beside the guest's own debug
//! registers (`debug`), and its INT3s stop the machine in place of raising #BP. While there are points,
//! instructions are executed one by one. Nothing pays for a debugger that is not there.

use crate::board::Activity;
use crate::cpu::{Abort, Cause, Cpu};
use crate::flags::Flags;
use crate::segment::Segment;
use crate::state::CpuState;
use crate::vm::Vm;

/// Which accesses to an address stop the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Before the instruction there is executed.
    Execute,
    /// Behind an instruction that writes.
    Write,
    /// Behind an instruction that reads or writes.
    Access,
}

/// A breakpoint or watchpoint that is not in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Linear address, a multiple of `len`.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8; for [`Watch::Execute`] 1.
    pub len: u8,
    /// What is waited for.
    pub watch: Watch,
}

/// Most [`Point`]s at a time: as many as a CPU has address registers for.
pub const MAX_POINTS: usize = 4;

/// What a debugger waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Linear addresses of the INT3 instructions that are the debugger's.
    pub int3: Vec<u64>,
    /// At most [`MAX_POINTS`].
    pub points: Vec<Point>,
    /// One instruction of this CPU, while the others stand still and interrupts wait.
    pub step: Option<u8>,
}

/// Why the machine stopped for the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An instruction was executed.
    Step,
    /// RIP is at one of [`Waits::int3`].
    Int3,
    /// What a point waits for happened.
    Point(Point),
}

/// What a debugger sees of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugRegisters {
    /// In encoding order: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15.
    pub gpr: [u64; 16],
    /// Linear address of the next instruction.
    pub rip: u64,
    /// All flags.
    pub rflags: u64,
    /// Selectors of ES, CS, SS, DS, FS and GS. Not to be changed.
    pub selectors: [u16; 6],
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// CR0. The control registers and EFER are not to be changed.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The EFER register.
    pub efer: u64,
    /// XMM0..XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

/// The flags that a debugger may change: the arithmetic ones, TF, IF, DF and AC.
pub const CHANGEABLE_FLAGS: u64 = 0x4_0fd5;

/// The debugger's part of the CPU.
#[derive(Default)]
pub struct Debugger {
    /// What the debugger waits for.
    pub waits: Waits,
    /// What was met, until the machine has stopped for it.
    pub stop: Option<Stop>,
}

impl Cpu {
    /// INT3 at `address` is executed: gives it up if it is the debugger's.
    pub fn stop_at_int3(&mut self, address: u64) -> Result<(), Abort> {
        if !self.debugger.waits.int3.contains(&address) {
            return Ok(());
        }
        self.debugger.stop = Some(Stop::Int3);
        self.abort = Cause::Debugger;
        Err(Abort)
    }

    /// Whether the debugger waits for the instruction at RIP.
    pub fn stop_at_point(&mut self) -> bool {
        let rip = self.rip;
        let here = |point: &&Point| point.watch == Watch::Execute && point.address == rip;
        let point = self.debugger.waits.points.iter().find(here).copied();
        if let Some(point) = point {
            self.debugger.stop = Some(Stop::Point(point));
        }
        point.is_some()
    }

    /// The instruction reads or writes data.
    pub fn stop_behind_access(&mut self, address: u64, len: u64, write: bool) {
        let hit = |point: &&Point| {
            (point.watch == Watch::Access || write && point.watch == Watch::Write)
                && address < point.address.wrapping_add(point.len.into())
                && point.address < address.wrapping_add(len)
        };
        if let Some(point) = self.debugger.waits.points.iter().find(hit) {
            self.debugger.stop = Some(Stop::Point(*point));
        }
    }
}

impl Vm {
    /// From now on the machine stops for what `waits` says, with [`Exit::Debug`](crate::Exit::Debug).
    pub fn debug(&mut self, waits: Waits) {
        self.cpu.debugger = Debugger { waits, stop: None };
        self.cpu.breakpoints_changed();
        // A page that is watched has no entry: every access to it is judged.
        self.turns.flush_tlbs();
    }

    /// The registers of a CPU.
    pub fn debug_registers(&self, cpu: u8) -> DebugRegisters {
        let current = self.cpu.board.current();
        let parked = self.turns.parked(current).nth(cpu.into()).flatten();
        let state = parked.cloned().unwrap_or_else(|| self.cpu.state());
        let selector = |segment| state.segments[segment].selector;
        DebugRegisters {
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            selectors: [Segment::Es, Segment::Cs, Segment::Ss, Segment::Ds, Segment::Fs, Segment::Gs]
                .map(selector),
            fs_base: state.fs_base,
            gs_base: state.gs_base,
            cr0: state.cr0,
            cr2: state.cr2,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.msr.efer,
            xmm: state.vector.xmm,
            mxcsr: state.vector.mxcsr,
        }
    }

    /// Changes the registers of a CPU: the general ones, RIP, some flags, the bases of FS and GS, and XMM.
    pub fn set_debug_registers(&mut self, cpu: u8, new: &DebugRegisters) {
        let current = self.cpu.board.current();
        if usize::from(cpu) == current {
            let cpu = &mut *self.cpu;
            let moved = cpu.rip != new.rip;
            cpu.gpr[..16].copy_from_slice(&new.gpr);
            cpu.rip = new.rip;
            let rflags = mixed_flags(cpu.flags.bits(), new.rflags);
            cpu.flags = Flags::default();
            cpu.flags.set_bits(rflags);
            cpu.gpr[crate::uop::FS_BASE as usize] = new.fs_base;
            cpu.gpr[crate::uop::GS_BASE as usize] = new.gs_base;
            cpu.vector.xmm = new.xmm;
            if moved && cpu.board.own().activity == Activity::Halted {
                cpu.board.own().activity = Activity::Running;
            }
        } else if let Some(state) = self.turns.parked_mut(cpu.into()) {
            let CpuState { gpr, rip, rflags, fs_base, gs_base, vector, .. } = state;
            (*gpr, *rip, *fs_base, *gs_base) = (new.gpr, new.rip, new.fs_base, new.gs_base);
            *rflags = mixed_flags(*rflags, new.rflags);
            vector.xmm = new.xmm;
        }
    }

    /// The CPU that executed last, and how many there are.
    pub fn cpu_numbers(&self) -> (u8, u8) {
        (self.cpu.board.current() as u8, self.cpu.board.cpus() as u8)
    }
}

fn mixed_flags(old: u64, new: u64) -> u64 {
    old & !CHANGEABLE_FLAGS | new & CHANGEABLE_FLAGS
}
