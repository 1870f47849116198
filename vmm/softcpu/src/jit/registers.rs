//! Which guest registers an instruction touches.

use super::insn::{Base, Count, Form, Insn, Kind, Memory, Operand};

const RAX: u16 = 1 << 0;
const RCX: u16 = 1 << 1;
const RDX: u16 = 1 << 2;
const RSP: u16 = 1 << 4;
const RBP: u16 = 1 << 5;
const RSI: u16 = 1 << 6;
const RDI: u16 = 1 << 7;

/// Guest registers, a bit each.
pub type Set = u16;

/// The set of one register.
pub fn one(register: u8) -> Set {
    1 << register
}

impl Insn {
    /// Those it may change.
    pub fn changes(&self) -> Set {
        let rm = match self.rm {
            Operand::Register(register) => one(register),
            Operand::Memory(_) => 0,
        };
        let reg = || one(self.reg);
        match self.kind {
            Kind::Binary(7, _)
            | Kind::Test(_)
            | Kind::BitTest { op: 4, .. }
            | Kind::Nop
            | Kind::Pause
            | Kind::VectorMove { .. }
            | Kind::VectorXor
            | Kind::Carry(_)
            | Kind::Interrupts { .. }
            | Kind::HighByte(7 | 8)
            | Kind::JumpIf(_)
            | Kind::Jump
            | Kind::JumpTo => 0,
            Kind::Binary(_, Form::RegRm) | Kind::Mov(Form::RegRm) => reg(),
            Kind::Binary(..)
            | Kind::Mov(_)
            | Kind::Set(_)
            | Kind::Not
            | Kind::Neg
            | Kind::Inc
            | Kind::Dec
            | Kind::Shift(..)
            | Kind::Bswap
            | Kind::HighByte(_)
            | Kind::BitTest { .. } => rm,
            Kind::Lea
            | Kind::Extend { .. }
            | Kind::Cmov(_)
            | Kind::Imul
            | Kind::ImulImmediate
            | Kind::Scan { .. } => reg(),
            Kind::Xchg | Kind::Xadd => rm | reg(),
            Kind::Cmpxchg => rm | RAX,
            Kind::Multiply { .. } => RAX | RDX,
            Kind::ExtendRax => RAX,
            Kind::ExtendToRdx => RDX,
            Kind::Push | Kind::PushImmediate | Kind::PushFlags => RSP,
            Kind::Call | Kind::CallTo | Kind::Return(_) => RSP,
            Kind::Pop => rm | RSP,
            Kind::Leave => RSP | RBP,
            Kind::RepeatedMove => RCX | RSI | RDI,
            Kind::RepeatedStore => RCX | RDI,
        }
    }

    /// Those it reads or may change, each as often as it is named.
    pub fn touches(&self, mut touch: impl FnMut(u8)) {
        let (rm, reg) = self.names();
        if rm {
            match self.rm {
                Operand::Register(register) => touch(register),
                Operand::Memory(Memory { base, index, .. }) => {
                    if let Base::Register(base) = base {
                        touch(base);
                    }
                    if let Some((index, _)) = index {
                        touch(index);
                    }
                }
            }
        }
        if reg {
            touch(self.reg);
        }
        let implied = match self.kind {
            Kind::Multiply { .. } | Kind::ExtendToRdx => RAX | RDX,
            Kind::ExtendRax | Kind::Cmpxchg => RAX,
            Kind::Shift(_, Count::Cl) => RCX,
            Kind::Push | Kind::PushImmediate | Kind::PushFlags | Kind::Pop => RSP,
            Kind::Call | Kind::CallTo | Kind::Return(_) => RSP,
            Kind::Leave => RSP | RBP,
            Kind::RepeatedMove => RCX | RSI | RDI,
            Kind::RepeatedStore => RAX | RCX | RDI,
            _ => 0,
        };
        for register in 0..16 {
            if implied & one(register) != 0 {
                touch(register);
            }
        }
    }

    /// Whether it has the operand that may be in memory, and the one in a register.
    fn names(&self) -> (bool, bool) {
        match self.kind {
            Kind::Binary(_, form) | Kind::Test(form) | Kind::Mov(form) => (true, form != Form::RmImm),
            Kind::Lea
            | Kind::Extend { .. }
            | Kind::Cmov(_)
            | Kind::Imul
            | Kind::ImulImmediate
            | Kind::BitTest { immediate: false, .. }
            | Kind::Scan { .. }
            | Kind::Xchg
            | Kind::Xadd
            | Kind::Cmpxchg => (true, true),
            Kind::Set(_)
            | Kind::Multiply { .. }
            | Kind::Not
            | Kind::Neg
            | Kind::Inc
            | Kind::Dec
            | Kind::Shift(..)
            | Kind::Push
            | Kind::Pop
            | Kind::BitTest { immediate: true, .. }
            | Kind::Bswap
            | Kind::HighByte(_)
            | Kind::JumpTo
            | Kind::CallTo => (true, false),
            Kind::VectorMove { .. } => (self.rm.is_memory(), false),
            Kind::PushImmediate
            | Kind::VectorXor
            | Kind::Leave
            | Kind::ExtendRax
            | Kind::ExtendToRdx
            | Kind::Nop
            | Kind::Pause
            | Kind::Carry(_)
            | Kind::PushFlags
            | Kind::Interrupts { .. }
            | Kind::RepeatedMove
            | Kind::RepeatedStore
            | Kind::JumpIf(_)
            | Kind::Jump
            | Kind::Call
            | Kind::Return(_) => (false, false),
        }
    }
}
