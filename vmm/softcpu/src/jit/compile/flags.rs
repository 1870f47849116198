//! Where the guest's arithmetic flags are.

use std::mem::offset_of;

use super::super::emit::*;
use super::super::frame::{self, CPU, Context};
use super::super::insn::{Insn, Writes};
use super::Compiler;
use super::deferred::Deferred;

/// In [`Context::parked`], the byte with all flags but OF.
pub(super) const PARK_HIGH: usize = 1;

/// For each instruction, whether the flags before it may be seen; and once more for the end.
pub(super) fn live_flags(insns: &[Insn]) -> Vec<bool> {
    let mut live = vec![true; insns.len() + 1];
    for (i, insn) in insns.iter().enumerate().rev() {
        let after = live[i + 1];
        live[i] = insn.shows_flags() || insn.reads_flags() || after && insn.writes_flags() != Writes::All;
    }
    live
}

impl Compiler<'_, '_> {
    pub(super) fn parked_field(&self) -> Rm {
        Rm::Mem(CPU, frame::context(offset_of!(Context, parked)))
    }

    /// Before an instruction from which the interpreter may take over: sees to it that it will find the
    /// flags. Clobbers RAX.
    pub(super) fn show(&mut self, insns: &[Insn], live: &[bool], at: usize) {
        if self.parked || !self.deferred.is_empty() {
            return;
        }
        if self.host {
            self.deferred = Deferred::new(insns, live, at);
        }
        if self.deferred.is_empty() {
            self.park();
        }
    }

    /// Puts the flags where they survive. Clobbers RAX.
    pub(super) fn park(&mut self) {
        if self.parked {
            return;
        }
        debug_assert!(self.host, "flags that are seen are somewhere");
        // LAHF; SETO AL.
        self.e.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
        if !self.auxiliary {
            self.e.arithmetic(4, 4, Rm::Reg(RAX), !0x1000);
            self.host = false;
        }
        self.store_parked();
    }

    /// Parks AX.
    pub(super) fn store_parked(&mut self) {
        let parked = self.parked_field();
        self.e.op(2, MOV_STORE, RAX, parked);
        self.parked = true;
        self.deferred.clear();
    }

    /// Brings the flags back into the host's. Clobbers RAX.
    pub(super) fn unpark(&mut self) {
        if self.host {
            return;
        }
        let parked = self.parked_field();
        // As many bytes as were stored, or the host could not forward them.
        self.e.op(4, Opcode::two(0xb7), RAX, parked);
        // ADD AL, 127; SAHF.
        self.e.bytes.extend([0x04, 0x7f, 0x9e]);
        self.host = true;
        self.auxiliary = true;
    }

    /// Brings back CF alone. The host's other flags are anything.
    pub(super) fn unpark_carry(&mut self) {
        if !self.host {
            let parked = self.parked_field();
            self.e.group(2, Opcode::two(0xba), 4, parked);
            self.e.byte(8);
        }
    }

    /// The host's flags became the guest's.
    pub(super) fn flags_set(&mut self) {
        (self.host, self.parked, self.auxiliary) = (true, false, true);
        self.deferred.clear();
    }

    /// The guest's flags are nowhere, for nothing will see them.
    pub(super) fn flags_gone(&mut self) {
        (self.host, self.parked) = (false, false);
        self.deferred.clear();
    }
}
