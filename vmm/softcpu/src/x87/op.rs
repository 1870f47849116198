//! A lowered x87 instruction, and the way there.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::host::{Arithmetic, Comparison, Constant, Expansion, Function, Reduction, Width};

/// An operand: ST(i) or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Register(u8),
    Memory(Width),
}

/// FCMOVcc's condition, before a possible negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Below,
    Equal,
    BelowOrEqual,
    Unordered,
}

/// A lowered instruction: at most 16 bytes, no references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op(pub(super) Kind);

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// FLD, FILD, FBLD.
    Load(Operand),
    /// FLD1 and its like.
    Constant(Constant),
    /// FST(P), FIST(P), FISTTP, FBSTP.
    Store { to: Operand, pop: bool, truncate: bool },
    /// FADD and its like: ST(`to`) op= source.
    Arithmetic { op: Arithmetic, to: u8, source: Operand, pop: bool },
    /// FCOM and its like; `eflags` is the I form.
    Compare { op: Comparison, source: Operand, pops: u8, eflags: bool },
    /// FTST.
    Test,
    /// FXAM.
    Examine,
    /// FABS.
    Absolute,
    /// FCHS.
    Negate,
    /// FXCH.
    Exchange(u8),
    /// FCMOVcc.
    Move { when: Condition, negated: bool, from: u8 },
    /// ST(0) = f(ST(0), ST(1)).
    Function(Function),
    /// ST(1) = f(ST(0), ST(1)), then a pop.
    Reduction(Reduction),
    /// ST(0) = f(ST(0)), then a push.
    Expansion(Expansion),
    /// FLDCW.
    LoadControl,
    /// FNSTCW.
    StoreControl,
    /// FNSTSW AX.
    StatusToAx,
    /// FNSTSW m16.
    StoreStatus,
    /// FLDENV; `short` is the 14-byte image.
    LoadEnvironment { short: bool },
    /// FNSTENV.
    StoreEnvironment { short: bool },
    /// FRSTOR; `short` is the 94-byte image.
    Restore { short: bool },
    /// FNSAVE.
    Save { short: bool },
    /// FNINIT.
    Initialize,
    /// FNCLEX.
    ClearExceptions,
    /// FFREE, and with a pop FFREEP.
    Free { index: u8, pop: bool },
    /// FINCSTP.
    IncrementTop,
    /// FDECSTP.
    DecrementTop,
    /// FNOP and WAIT: only a pending exception is reported.
    Wait,
    /// What the 8087 and 287 needed and nobody else does.
    Ignored,
}

const _: () = assert!(size_of::<Op>() <= 16);

/// Lowers `insn`, or `None` if it is not an x87 instruction.
pub(crate) fn lower(insn: &Instruction) -> Option<Op> {
    use Mnemonic::*;
    let store = |pop, truncate| Some(Kind::Store { to: operand(insn, 0)?, pop, truncate });
    let moved = |when, negated| Some(Kind::Move { when, negated, from: st(insn, 1)? });
    let short = matches!(insn.memory_size(), MemorySize::FpuEnv14 | MemorySize::FpuState94);
    let compare = |op, pops, eflags| {
        let source = match insn.op_count() {
            // FCOMPP and FUCOMPP.
            0 => Operand::Register(1),
            count => operand(insn, count - 1)?,
        };
        Some(Kind::Compare { op, source, pops, eflags })
    };
    let kind = match insn.mnemonic() {
        Fld | Fild | Fbld => Kind::Load(operand(insn, 0)?),
        Fst | Fist => store(false, false)?,
        Fstp | Fistp | Fbstp => store(true, false)?,
        Fisttp => store(true, true)?,
        Fadd | Fiadd => arithmetic(insn, Arithmetic::Add, false)?,
        Faddp => arithmetic(insn, Arithmetic::Add, true)?,
        Fsub | Fisub => arithmetic(insn, Arithmetic::Subtract, false)?,
        Fsubp => arithmetic(insn, Arithmetic::Subtract, true)?,
        Fsubr | Fisubr => arithmetic(insn, Arithmetic::SubtractReverse, false)?,
        Fsubrp => arithmetic(insn, Arithmetic::SubtractReverse, true)?,
        Fmul | Fimul => arithmetic(insn, Arithmetic::Multiply, false)?,
        Fmulp => arithmetic(insn, Arithmetic::Multiply, true)?,
        Fdiv | Fidiv => arithmetic(insn, Arithmetic::Divide, false)?,
        Fdivp => arithmetic(insn, Arithmetic::Divide, true)?,
        Fdivr | Fidivr => arithmetic(insn, Arithmetic::DivideReverse, false)?,
        Fdivrp => arithmetic(insn, Arithmetic::DivideReverse, true)?,
        Fcom | Ficom => compare(Comparison::Ordered, 0, false)?,
        Fcomp | Ficomp => compare(Comparison::Ordered, 1, false)?,
        Fcompp => compare(Comparison::Ordered, 2, false)?,
        Fucom => compare(Comparison::Unordered, 0, false)?,
        Fucomp => compare(Comparison::Unordered, 1, false)?,
        Fucompp => compare(Comparison::Unordered, 2, false)?,
        Fcomi => compare(Comparison::Ordered, 0, true)?,
        Fcomip => compare(Comparison::Ordered, 1, true)?,
        Fucomi => compare(Comparison::Unordered, 0, true)?,
        Fucomip => compare(Comparison::Unordered, 1, true)?,
        Ftst => Kind::Test,
        Fxam => Kind::Examine,
        Fabs => Kind::Absolute,
        Fchs => Kind::Negate,
        Fxch => Kind::Exchange(st(insn, 1)?),
        Fcmovb => moved(Condition::Below, false)?,
        Fcmovnb => moved(Condition::Below, true)?,
        Fcmove => moved(Condition::Equal, false)?,
        Fcmovne => moved(Condition::Equal, true)?,
        Fcmovbe => moved(Condition::BelowOrEqual, false)?,
        Fcmovnbe => moved(Condition::BelowOrEqual, true)?,
        Fcmovu => moved(Condition::Unordered, false)?,
        Fcmovnu => moved(Condition::Unordered, true)?,
        Fldcw => Kind::LoadControl,
        Fnstcw => Kind::StoreControl,
        Fnstsw if insn.op_kind(0) == OpKind::Register => Kind::StatusToAx,
        Fnstsw => Kind::StoreStatus,
        Fldenv => Kind::LoadEnvironment { short },
        Fnstenv => Kind::StoreEnvironment { short },
        Frstor => Kind::Restore { short },
        Fnsave => Kind::Save { short },
        Fninit => Kind::Initialize,
        Fnclex => Kind::ClearExceptions,
        Ffree => Kind::Free { index: st(insn, 0)?, pop: false },
        Ffreep => Kind::Free { index: st(insn, 0)?, pop: true },
        Fincstp => Kind::IncrementTop,
        Fdecstp => Kind::DecrementTop,
        Fnop | Wait => Kind::Wait,
        Fneni | Fndisi | Fnsetpm => Kind::Ignored,
        mnemonic => function(mnemonic)?,
    };
    Some(Op(kind))
}

fn function(mnemonic: Mnemonic) -> Option<Kind> {
    Function::from_mnemonic(mnemonic)
        .map(Kind::Function)
        .or_else(|| Reduction::from_mnemonic(mnemonic).map(Kind::Reduction))
        .or_else(|| Expansion::from_mnemonic(mnemonic).map(Kind::Expansion))
        .or_else(|| Constant::from_mnemonic(mnemonic).map(Kind::Constant))
}

fn arithmetic(insn: &Instruction, op: Arithmetic, pop: bool) -> Option<Kind> {
    let (to, source) = match insn.op_count() {
        1 => (0, operand(insn, 0)?),
        _ => (st(insn, 0)?, operand(insn, 1)?),
    };
    Some(Kind::Arithmetic { op, to, source, pop })
}

fn st(insn: &Instruction, index: u32) -> Option<u8> {
    match operand(insn, index)? {
        Operand::Register(i) => Some(i),
        Operand::Memory(_) => None,
    }
}

fn operand(insn: &Instruction, index: u32) -> Option<Operand> {
    match insn.op_kind(index) {
        OpKind::Register => {
            let register = insn.op_register(index);
            register.is_st().then(|| Operand::Register((register as u32 - Register::ST0 as u32) as u8))
        }
        OpKind::Memory => Some(Operand::Memory(match insn.memory_size() {
            MemorySize::Float32 => Width::Single,
            MemorySize::Float64 => Width::Double,
            MemorySize::Float80 => Width::Extended,
            MemorySize::Int16 => Width::Int16,
            MemorySize::Int32 => Width::Int32,
            MemorySize::Int64 => Width::Int64,
            MemorySize::Bcd => Width::Decimal,
            _ => return None,
        })),
        _ => None,
    }
}
