//! What a CPU is made of, apart from the machine around it.
//!
//! A machine of several CPUs has one [`Cpu`], which they take turns to be ([`Cpu::exchange`]). What
//! stays is shared by all: RAM, decoded code, the board and the clock.

use serde::{Deserialize, Serialize};

use crate::code;
use crate::cpu::{CR0_ET, CR0_PE, CR0_PG, CR4_PAE, Cpu, EFER_LMA, EFER_LME};
use crate::flags::Flags;
use crate::interp::system::{CR0_BITS, CR4_BITS};
use crate::msr::Msrs;
use crate::segment::{Loaded, Segment, Segments};
use crate::simd::state::VectorState;
use crate::tlb::ParkedTlb;
use crate::uop::{FS_BASE, GS_BASE};
use crate::x87::state::X87State;

/// RFLAGS bits that are ever set: all but virtual-8086 mode's and the reserved ones.
const RFLAGS_BITS: u64 = 0x25_7fd7;

/// The architectural state of one CPU between two instructions, as plain data. Its local APIC and
/// what waits for it are the board's ([`crate::board::Local`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    pub gpr: [u64; 16],
    /// Linear address of the next instruction.
    pub rip: u64,
    pub rflags: u64,
    /// Interrupts stay off for one instruction, after STI or a load of SS.
    pub shadow: bool,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr: [u64; 8],
    pub segments: Segments,
    /// The bases of FS and GS, which instructions change apart from the segments.
    pub fs_base: u64,
    pub gs_base: u64,
    pub msr: Msrs,
    pub vector: VectorState,
    pub x87: X87State,
}

impl CpuState {
    /// Whether instructions and events lead to such a state.
    pub fn is_valid(&self) -> bool {
        let (control, status) = (self.x87.control, self.x87.status);
        let mut x87 = self.x87;
        x87.set_control(control);
        x87.set_status(status);
        let paging = self.cr0 & CR0_PG != 0;
        let long_mode = self.cr0 & CR0_PE != 0 && self.cr4 & CR4_PAE != 0 && self.msr.efer & EFER_LME != 0;
        x87 == self.x87
            && paging == (self.msr.efer & EFER_LMA != 0)
            && (long_mode || !paging)
            && self.cr0 & !CR0_BITS == 0
            && self.cr4 & !CR4_BITS == 0
            && self.rflags & !RFLAGS_BITS == 0
            && self.vector.mxcsr & !VectorState::MXCSR_MASK == 0
            && self.msr.is_valid()
    }

    /// The state after INIT, and after reset for all but the floating point registers, which INIT
    /// leaves alone. (SDM volume 3, table 9-1.)
    pub fn reset() -> CpuState {
        CpuState {
            gpr: [0; 16],
            rip: 0xffff_fff0,
            rflags: 2,
            shadow: false,
            cr0: 3 << 29 | CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            segments: Segments::reset(),
            fs_base: 0,
            gs_base: 0,
            msr: Msrs::new(),
            vector: VectorState::default(),
            x87: X87State::default(),
        }
    }
}

/// A CPU that waits for its turn.
pub struct Parked {
    pub state: CpuState,
    pub tlb: ParkedTlb,
}

impl Parked {
    /// A CPU after reset.
    pub fn reset() -> Parked {
        Parked { state: CpuState::reset(), tlb: ParkedTlb::default() }
    }
}

impl Cpu {
    /// The state of the CPU that is executing; no block may be in execution.
    pub fn state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.gpr[..16]);
        CpuState {
            gpr,
            rip: self.rip,
            rflags: self.flags.bits(),
            shadow: self.shadow,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            dr: self.dr,
            segments: self.segments,
            fs_base: self.gpr[FS_BASE as usize],
            gs_base: self.gpr[GS_BASE as usize],
            msr: self.msr,
            vector: self.vector,
            x87: self.x87,
        }
    }

    /// Takes over a state. Translations that were made in another are the caller's to drop.
    pub fn set_state(&mut self, state: &CpuState) {
        self.gpr[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.flags = Flags::default();
        self.flags.set_bits(state.rflags);
        self.shadow = state.shadow;
        self.alone = false;
        self.block = code::NONE;
        (self.cr0, self.cr2, self.cr3, self.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        self.dr = state.dr;
        self.watching = self.has_breakpoints();
        for segment in Segment::ALL {
            self.set_segment(segment, state.segments[segment]);
        }
        (self.segments.gdt, self.segments.idt) = (state.segments.gdt, state.segments.idt);
        self.gpr[FS_BASE as usize] = state.fs_base;
        self.gpr[GS_BASE as usize] = state.gs_base;
        self.msr = state.msr;
        self.vector = state.vector;
        self.x87 = state.x87;
        self.mode_changed();
    }

    /// Ends this CPU's turn and begins that of one that was parked; the two change places.
    pub fn exchange(&mut self, parked: &mut Parked) {
        let state = std::mem::replace(&mut parked.state, self.state());
        self.set_state(&state);
        if self.aligned {
            // What the other holds may have been filled while alignment was not asked for.
            parked.tlb = ParkedTlb::default();
        }
        let Cpu { tlb, code, ram, .. } = self;
        tlb.exchange(&mut parked.tlb, code.marked_pages(), |physical| code.holds_code(ram, physical));
        code.translations_changed();
    }

    /// INIT: everything but the floating-point registers is as after reset.
    pub fn reset(&mut self) {
        let (vector, x87) = (self.vector, self.x87);
        self.set_state(&CpuState { vector, x87, ..CpuState::reset() });
        self.flush_tlb();
    }

    /// A start-up message: executes real-mode code at the start of a page below 1 MiB.
    pub fn start_up(&mut self, page: u8) {
        let base = (page as u64) << 12;
        let cs = Loaded { selector: (page as u16) << 8, base, ..self.segments[Segment::Cs] };
        self.set_segment(Segment::Cs, cs);
        self.rip = base;
        self.mode_changed();
    }
}
