//! Guest instructions as templates see them. [`recognise`](super::recognise) makes them of bytes.

/// Where an address starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    None,
    /// The address behind the instruction.
    Next,
    Register(u8),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub base: Base,
    /// Register and scale (as a shift).
    pub index: Option<(u8, u8)>,
    pub disp: i32,
    /// Pseudo-register with the segment's base.
    pub segment: Option<u8>,
}

/// The operand that may be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Register(u8),
    Memory(Memory),
}

impl Operand {
    pub fn is_memory(self) -> bool {
        matches!(self, Operand::Memory(_))
    }
}

/// Where the operands of a two-operand instruction are: destination first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    RmReg,
    RegRm,
    RmImm,
}

/// How far to shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Immediate(u8),
    Cl,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0 ADD, 1 OR, 2 ADC, 3 SBB, 4 AND, 5 SUB, 6 XOR, 7 CMP.
    Binary(u8, Form),
    Test(Form),
    Mov(Form),
    Lea,
    /// MOVZX, MOVSX, MOVSXD from so many bytes.
    Extend {
        from: u8,
        sign: bool,
    },
    Cmov(u8),
    Set(u8),
    Imul,
    ImulImmediate,
    /// One operand: RDX:RAX = RAX * operand.
    Multiply {
        signed: bool,
    },
    Not,
    Neg,
    Inc,
    Dec,
    /// Numbered as in ModRM: 0 ROL, 1 ROR, 4 SHL, 5 SHR, 7 SAR.
    Shift(u8, Count),
    Push,
    PushImmediate,
    Pop,
    Leave,
    /// CBW, CWDE, CDQE.
    ExtendRax,
    /// CWD, CDQ, CQO.
    ExtendToRdx,
    Nop,
    Pause,
    /// 4 BT, 5 BTS, 6 BTR, 7 BTC; the bit number is an immediate or, of a register, in a register.
    BitTest {
        op: u8,
        immediate: bool,
    },
    /// BSF, BSR.
    Scan {
        reverse: bool,
    },
    Bswap,
    Xchg,
    Xadd,
    Cmpxchg,
    /// MOVAPS, MOVUPS, MOVDQA and the like: 16 bytes between XMM registers or memory.
    VectorMove {
        /// To the operand that may be in memory.
        store: bool,
        /// What is in memory has to be aligned.
        aligned: bool,
    },
    /// XORPS, PXOR between XMM registers.
    VectorXor,
    /// CMC, CLC, STC by their opcode.
    Carry(u8),
    /// PUSHF of 8 bytes.
    PushFlags,
    /// CLI, STI.
    Interrupts {
        on: bool,
    },
    /// An operation on AH, CH, DH or BH and an immediate: 1 OR, 4 AND, 6 XOR, 7 CMP, 8 TEST. The operand is
    /// the register that the byte is in.
    HighByte(u8),
    /// REP MOVS, REP STOS.
    RepeatedMove,
    RepeatedStore,
    JumpIf(u8),
    Jump,
    Call,
    /// RET, which drops so many bytes more.
    Return(u16),
    JumpTo,
    CallTo,
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    pub kind: Kind,
    /// Bytes of its operands.
    pub size: u8,
    pub reg: u8,
    pub rm: Operand,
    /// The immediate, or the distance of a jump.
    pub imm: i64,
}

/// What an instruction does with the arithmetic flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    Nothing,
    /// Some, or perhaps none.
    Some,
    All,
}

impl Insn {
    /// True if it depends on the flags before it. (What keeps some of them depends on those.)
    pub fn reads_flags(&self) -> bool {
        matches!(
            self.kind,
            Kind::Binary(2 | 3, _)
                | Kind::Cmov(_)
                | Kind::Set(_)
                | Kind::JumpIf(_)
                | Kind::Carry(_)
                | Kind::PushFlags
        )
    }

    pub fn writes_flags(&self) -> Writes {
        match self.kind {
            Kind::Binary(..)
            | Kind::Test(_)
            | Kind::Imul
            | Kind::ImulImmediate
            | Kind::Multiply { .. }
            | Kind::Neg
            | Kind::Scan { .. }
            | Kind::Xadd
            | Kind::Cmpxchg
            | Kind::HighByte(_) => Writes::All,
            Kind::Shift(_, Count::Immediate(0)) => Writes::Nothing,
            Kind::Shift(4..=7, Count::Immediate(_)) => Writes::All,
            Kind::Shift(..) | Kind::Inc | Kind::Dec | Kind::BitTest { .. } | Kind::Carry(_) => Writes::Some,
            _ => Writes::Nothing,
        }
    }

    /// True if the interpreter may take over at this instruction, or an interrupt may come behind it,
    /// so that the flags before it may be seen.
    pub fn shows_flags(&self) -> bool {
        match self.kind {
            Kind::Push
            | Kind::PushImmediate
            | Kind::Pop
            | Kind::Leave
            | Kind::Pause
            | Kind::PushFlags
            | Kind::Interrupts { .. }
            | Kind::RepeatedMove
            | Kind::RepeatedStore
            | Kind::JumpIf(_)
            | Kind::Jump
            | Kind::Call
            | Kind::Return(_)
            | Kind::JumpTo
            | Kind::CallTo => true,
            Kind::VectorMove { .. } | Kind::VectorXor => true,
            Kind::Lea | Kind::Nop => false,
            _ => self.rm.is_memory(),
        }
    }
}
