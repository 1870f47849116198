//! A lowered MMX or SSE instruction.

use super::float::Host;
use super::integer::Integer;
use super::shuffle::Shuffle;

/// Where an operand lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// XMM register.
    Xmm(u8),
    /// MMX register.
    Mm(u8),
    /// General register; a 32-bit write zeroes the upper half.
    Gpr(u8),
    /// AH, CH, DH or BH, named by the register that contains it.
    HighByte(u8),
    /// The instruction's memory operand.
    Memory,
    /// The immediate byte itself.
    Immediate,
}

/// What an instruction does with its operands. `dst` and `src` are the first and the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// dst = the low `bytes` of src, the rest of a register becoming zero.
    Move,
    /// The low `bytes` of dst = those of src (MOVSS and MOVSD between registers).
    Merge,
    /// A half of dst = a half of src, or 8 bytes of memory; `true` is the upper half.
    MoveHalf {
        /// Which half of the XMM register at `dst`, unless `dst` is memory.
        dst_high: bool,
        /// Which half of the XMM register at `src`, unless `src` is memory.
        src_high: bool,
    },
    /// dst = op(dst, src), lane by lane or bitwise.
    Integer(Integer),
    /// dst = op(dst, src, imm), moving lanes about.
    Shuffle(Shuffle),
    /// dst = dst with src under the sign mask in XMM0, in lanes of `bytes` given here.
    Blend(u8),
    /// Lane `imm` of dst = the low `bytes` of src.
    Insert,
    /// INSERTPS.
    InsertSingle,
    /// dst = lane `imm`, of `bytes`, of src.
    Extract,
    /// dst = the sign bits of the lanes (of so many bytes) of src.
    SignMask(u8),
    /// The bytes of src to DS:RDI where the byte of dst has its top bit.
    MaskedStore,
    /// dst = op(dst, src) on the host's floating-point unit.
    Float(Host),
    /// dst = op(dst, src, imm) with the rounding mode of the immediate.
    Round(Host),
    /// dst = dot product.
    DotProduct(Host),
    /// A floating-point comparison: lanes of all ones or all zeros.
    Compare(Format),
    /// COMISS, UCOMISS, COMISD, UCOMISD: EFLAGS.
    OrderFlags {
        /// COMIS*: a quiet NaN is an invalid operand too.
        signaling: bool,
        /// Single or double.
        format: Format,
    },
    /// The low half of dst = op(the low half of src): conversions between two singles and two
    /// integers in an MMX register.
    LowHalf(Host),
    /// CVTSI2SS, CVTSI2SD. `wide` is a 64-bit source.
    FromGpr {
        /// Single or double.
        format: Format,
        /// 64-bit source.
        wide: bool,
    },
    /// CVT(T)SS2SI, CVT(T)SD2SI.
    ToGpr {
        /// Single or double.
        format: Format,
        /// CVTT*: towards zero.
        truncate: bool,
        /// 64-bit destination.
        wide: bool,
    },
    /// PTEST.
    Test,
    /// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM.
    Text {
        /// Lengths in EAX and EDX (`wide`: RAX and RDX) instead of a terminating zero.
        explicit: bool,
        /// REX.W: 64-bit lengths.
        wide: bool,
        /// The result is a mask in XMM0 instead of an index in ECX.
        mask: bool,
    },
    /// POPCNT of `bytes`.
    PopulationCount,
    /// CRC32 of `bytes`.
    Crc32,
    /// LDMXCSR.
    LoadMxcsr,
    /// STMXCSR.
    StoreMxcsr,
    /// EMMS.
    EmptyMmx,
    /// FXSAVE; `wide` is the REX.W form with 64-bit pointers.
    Fxsave {
        /// FXSAVE64.
        wide: bool,
        /// XMM registers: 16, or outside 64-bit mode 8.
        registers: u8,
    },
    /// FXRSTOR.
    Fxrstor {
        /// FXRSTOR64.
        wide: bool,
        /// As in FXSAVE.
        registers: u8,
    },
}

/// The four floating-point shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Packed single.
    Ps,
    /// Packed double.
    Pd,
    /// Scalar single.
    Ss,
    /// Scalar double.
    Sd,
}

/// A lowered instruction: 16 bytes at most, no references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(super) kind: Kind,
    pub(super) dst: Place,
    pub(super) src: Place,
    /// Size of the memory operand, or of the part of the source register that counts.
    pub(super) bytes: u8,
    /// A 16-byte memory operand has to be aligned. (SDM volume 1, 11.3.)
    pub(super) aligned: bool,
    pub(super) immediate: u8,
    /// An MMX register takes part, or it is EMMS: the x87 unit reports its pending exceptions.
    pub(super) mmx: bool,
}

const _: () = assert!(size_of::<Op>() <= 16);

impl Op {
    /// Whether CR0.TS makes this instruction raise #NM (and CR0.EM #UD). POPCNT, CRC32 and
    /// MOVNTI use no register of the FPU and are exempt. (SDM volume 3, 2.5.)
    pub(crate) fn needs_fpu(self) -> bool {
        match self.kind {
            Kind::PopulationCount | Kind::Crc32 => false,
            Kind::Move => !matches!((self.dst, self.src), (Place::Memory, Place::Gpr(_))),
            _ => true,
        }
    }
}
