//! Debug registers: breakpoints on instructions and data. (SDM volume 3, 18.2.)
//!
//! While DR7 enables one, instructions are executed one by one, and pages with watched data are kept
//! out of the TLB, so that every access to them passes [`Cpu::note_access`]. Nothing else pays for it.

use crate::cpu::Cpu;
use crate::flags;
use crate::memory::PAGE;

/// DR7: the local and global enable bits of the four breakpoints.
const ENABLES: u64 = 0xff;

/// What a breakpoint waits for: the two R/W bits of DR7.
const ON_EXECUTION: u64 = 0;
const ON_WRITE: u64 = 1;
const ON_ACCESS: u64 = 3;

/// An enabled breakpoint.
struct Breakpoint {
    /// Its bit in DR6.
    bit: u64,
    kind: u64,
    address: u64,
    len: u64,
}

impl Cpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> {
        let (control, addresses) = (self.dr[7], [self.dr[0], self.dr[1], self.dr[2], self.dr[3]]);
        (0..4).filter(move |i| control >> (2 * i) & 3 != 0).map(move |i| {
            let len = [1, 2, 8, 4][(control >> (18 + 4 * i) & 3) as usize];
            let kind = control >> (16 + 4 * i) & 3;
            // Data is watched in aligned pieces.
            let address = addresses[i as usize] & if kind == ON_EXECUTION { u64::MAX } else { !(len - 1) };
            Breakpoint { bit: 1 << i, kind, address, len }
        })
    }

    /// DR7 or the addresses changed.
    pub fn breakpoints_changed(&mut self) {
        let watched = self.watching;
        self.watching = self.has_breakpoints();
        if self.watching || watched {
            self.flush_tlb();
        }
    }

    /// The guest or the debugger waits for an address.
    pub fn has_breakpoints(&self) -> bool {
        self.dr[7] & ENABLES != 0 || !self.debugger.waits.points.is_empty()
    }

    /// The breakpoints on the instruction at RIP, as bits of DR6. RF holds them back for one
    /// instruction, the one that the debugger steps over.
    pub fn instruction_breakpoints(&mut self) -> u64 {
        let resume = self.flags.system & flags::RF != 0;
        self.flags.system &= !flags::RF;
        if resume {
            return 0;
        }
        let rip = self.rip;
        let here = |at: &Breakpoint| at.kind == ON_EXECUTION && at.address == rip;
        self.breakpoints().filter(here).fold(0, |bits, at| bits | at.bit)
    }

    /// Whether accesses to the page at a linear address must not be missed.
    pub fn is_watched_page(&self, address: u64) -> bool {
        let data = |at: &Breakpoint| at.kind != ON_EXECUTION && (at.address ^ address) & !(PAGE - 1) == 0;
        let debugger = &self.debugger.waits.points;
        self.watching
            && (self.breakpoints().any(|at| data(&at))
                || debugger.iter().any(|point| (point.address ^ address) & !(PAGE - 1) == 0))
    }

    /// The instruction reads or writes data.
    pub fn note_access(&mut self, address: u64, len: u64, write: bool) {
        if !self.watching {
            return;
        }
        let hit = |at: &Breakpoint| {
            let kind = at.kind == ON_ACCESS || write && at.kind == ON_WRITE;
            kind && address < at.address.wrapping_add(at.len) && at.address < address.wrapping_add(len)
        };
        let bits = self.breakpoints().filter(hit).fold(0, |bits, at| bits | at.bit);
        self.data_hits |= bits;
        self.stop_behind_access(address, len, write);
    }
}
