//! Flags that are worked out only if they are asked for.
//!
//! Most flags are seen by nobody, but the next access to memory might be the one that faults. Where
//! the instructions that made the flags can be taken back and done again, and nothing else reads the
//! flags before they are overwritten, the code that leaves the block does that, and the block itself
//! does nothing for them.

use super::super::emit::*;
use super::super::frame::{self, CPU, SCRATCH2};
use super::super::insn::{Count, Form, Insn, Kind, Operand, Writes};
use super::super::registers::{Set, one};
use super::Compiler;

/// The instructions that made the flags, in their order; none if the flags need no work.
#[derive(Clone, Default)]
pub(super) struct Deferred(Vec<Insn>);

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// For the flags that `insns` leave. Empty if that cannot be done.
    pub(super) fn behind(insns: &[Insn]) -> Deferred {
        makers(insns).map(|(steps, _)| Deferred(steps)).unwrap_or_default()
    }

    /// For the flags before instruction `at`, as long as they live. Empty if that cannot be done.
    pub(super) fn new(insns: &[Insn], live: &[bool], at: usize) -> Deferred {
        makers(&insns[..at])
            .filter(|&(_, needs)| only_shown(&insns[at..], &live[at + 1..], needs))
            .map(|(steps, _)| Deferred(steps))
            .unwrap_or_default()
    }
}

/// The instructions that made the flags which `insns` leave, and the registers they can be repeated with.
fn makers(insns: &[Insn]) -> Option<(Vec<Insn>, Set)> {
    let (mut steps, mut needs, mut changed) = (Vec::new(), 0, 0);
    for insn in insns.iter().rev() {
        let writes = insn.writes_flags();
        if writes == Writes::Nothing {
            changed |= insn.changes();
            continue;
        }
        let registers = repeatable(insn)?;
        if registers & changed != 0 {
            return None;
        }
        steps.push(*insn);
        needs |= registers;
        if writes == Writes::All {
            steps.reverse();
            return Some((steps, needs));
        }
    }
    None
}

/// Whether the flags before `insns` are overwritten before anything but the interpreter sees them, and
/// before any of the registers changes. `live` is for the flags behind each.
fn only_shown(insns: &[Insn], live: &[bool], registers: Set) -> bool {
    for (insn, &live) in insns.iter().zip(live) {
        if insn.reads_flags() {
            return false;
        }
        match insn.writes_flags() {
            Writes::All => return true,
            _ if !live => return true,
            Writes::Some => return false,
            Writes::Nothing if insn.changes() & registers != 0 => return false,
            Writes::Nothing => {}
        }
    }
    false
}

/// The registers with which an instruction can be taken back and done again, as [`Compiler::make_up`] does,
/// if it can.
fn repeatable(insn: &Insn) -> Option<Set> {
    let Operand::Register(rm) = insn.rm else {
        // The result is enough.
        return match insn.kind {
            Kind::Binary(1 | 4 | 6, Form::RegRm) => Some(one(insn.reg)),
            _ => None,
        };
    };
    let both = one(rm) | one(insn.reg);
    match insn.kind {
        Kind::Binary(1 | 4 | 6, Form::RegRm) => Some(one(insn.reg)),
        Kind::Binary(1 | 4 | 6, _) => Some(one(rm)),
        Kind::Binary(0 | 5 | 7, Form::RmImm) | Kind::Test(Form::RmImm) => Some(one(rm)),
        Kind::Binary(7, _) | Kind::Test(_) => Some(both),
        Kind::Binary(0 | 5, _) if rm != insn.reg => Some(both),
        Kind::Neg | Kind::Inc | Kind::Dec | Kind::Shift(0 | 1, Count::Immediate(_)) => Some(one(rm)),
        _ => None,
    }
}

impl Compiler<'_, '_> {
    /// Works deferred flags out and parks them. Clobbers RAX and R14.
    pub(super) fn make_up(&mut self, deferred: &Deferred) {
        if deferred.is_empty() {
            return;
        }
        for insn in deferred.0.iter().rev() {
            let back = match insn.kind {
                Kind::Binary(0, form) => Kind::Binary(5, form),
                Kind::Binary(5, form) => Kind::Binary(0, form),
                Kind::Inc => Kind::Dec,
                Kind::Dec => Kind::Inc,
                Kind::Shift(op, count) => Kind::Shift(1 - op, count),
                Kind::Neg => Kind::Neg,
                // Nothing to take back: the flags follow from what there is.
                _ => continue,
            };
            self.again(&Insn { kind: back, ..*insn });
        }
        for insn in &deferred.0 {
            self.again(insn);
        }
        // LAHF; SETO AL.
        self.e.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
        self.store_parked();
    }

    /// Executes an instruction on registers for its flags.
    fn again(&mut self, insn: &Insn) {
        let size = insn.size;
        let rm = match insn.rm {
            Operand::Register(rm) => rm,
            Operand::Memory(_) => insn.reg,
        };
        let place = |compiler: &Self, guest| match compiler.home(guest) {
            Some(home) => Rm::Reg(home),
            None => Rm::Mem(CPU, frame::slot(guest)),
        };
        let to = place(self, rm);
        match insn.kind {
            Kind::Binary(1 | 4 | 6, form) => {
                let result = if form == Form::RegRm { insn.reg } else { rm };
                let result = self.read(result, SCRATCH2);
                let opcode = self.bytes(insn, 0x85);
                self.e.op(size, opcode, result, Rm::Reg(result));
            }
            Kind::Binary(op, Form::RmImm) => self.binary_immediate(insn, op, to),
            Kind::Binary(op, form) => {
                let (to, from) =
                    if form == Form::RegRm { (place(self, insn.reg), rm) } else { (to, insn.reg) };
                let from = self.read(from, SCRATCH2);
                let opcode = self.bytes(insn, op << 3 | 1);
                self.e.op(size, opcode, from, to);
            }
            Kind::Test(Form::RmImm) => self.test_immediate(insn, to),
            Kind::Test(_) => {
                let from = self.read(insn.reg, SCRATCH2);
                let opcode = self.bytes(insn, 0x85);
                self.e.op(size, opcode, from, to);
            }
            Kind::Neg => {
                let opcode = self.bytes(insn, 0xf7);
                self.e.group(size, opcode, 3, to);
            }
            Kind::Inc | Kind::Dec => {
                let opcode = self.bytes(insn, 0xff);
                self.e.group(size, opcode, (insn.kind == Kind::Dec) as u8, to);
            }
            Kind::Shift(op, Count::Immediate(count)) => {
                let opcode = self.bytes(insn, 0xc1);
                self.e.group(size, opcode, op, to);
                self.e.byte(count);
            }
            _ => unreachable!("`repeatable` lets nothing else through"),
        }
    }
}
