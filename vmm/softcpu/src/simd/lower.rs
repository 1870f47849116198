//! From decoded instructions to [`Op`]s.

use iced_x86::{Code, CodeSize, Instruction, Mnemonic, OpKind, Register};

use super::float::Host;
use super::integer::Integer;
use super::op::{Format, Kind, Op, Place};
use super::shuffle::Shuffle;

/// Lowers `insn`, or `None` if it is not an instruction of this unit.
pub(crate) fn lower(insn: &Instruction) -> Option<Op> {
    let kind = kind(insn)?;
    let dst = place(insn, 0)?;
    let src = if insn.op_count() > 1 { place(insn, 1)? } else { Place::Immediate };
    let memory = matches!(dst, Place::Memory) || matches!(src, Place::Memory);
    let bytes = if memory { insn.memory_size().size() as u8 } else { register_bytes(insn) };
    let immediate = match insn.op_count() {
        count if count > 0 && insn.op_kind(count - 1) == OpKind::Immediate8 => insn.immediate8(),
        _ => 0,
    };
    let mmx = kind == Kind::EmptyMmx || matches!(dst, Place::Mm(_)) || matches!(src, Place::Mm(_));
    Some(Op { kind, dst, src, bytes, aligned: alignment_matters(insn.mnemonic()), immediate, mmx })
}

/// Operand `index`.
fn place(insn: &Instruction, index: u32) -> Option<Place> {
    if index >= insn.op_count() {
        // EMMS alone has no operand.
        return Some(Place::Immediate);
    }
    Some(match insn.op_kind(index) {
        OpKind::Register => {
            let register = insn.op_register(index);
            match register {
                Register::AH | Register::CH | Register::DH | Register::BH => {
                    Place::HighByte((register as u32 - Register::AH as u32) as u8)
                }
                _ if register.is_xmm() => Place::Xmm(register.number() as u8),
                _ if register.is_mm() => Place::Mm(register.number() as u8),
                _ if register.is_gpr() => Place::Gpr(register.full_register().number() as u8),
                _ => return None,
            }
        }
        OpKind::Memory => Place::Memory,
        OpKind::Immediate8 => Place::Immediate,
        // The implicit destination of MASKMOVDQU. The data is operand 1, the mask operand 2.
        OpKind::MemorySegRDI | OpKind::MemorySegEDI | OpKind::MemorySegDI => return place(insn, 2),
        _ => return None,
    })
}

/// How much of a source register counts, for the few instructions where it is not all of it.
fn register_bytes(insn: &Instruction) -> u8 {
    use Mnemonic::*;
    match insn.mnemonic() {
        Pextrb | Pinsrb => 1,
        Pextrw | Pinsrw => 2,
        Movd | Movss | Pextrd | Pinsrd | Extractps => 4,
        Movq | Movsd | Pextrq | Pinsrq | Movq2dq | Movdq2q => 8,
        Popcnt | Crc32 => insn.op_register(1).size() as u8,
        _ => 16,
    }
}

/// Whether a 16-byte memory operand must be aligned. (SDM volume 2, chapter 2.4, types 2 to 4.)
fn alignment_matters(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    !matches!(mnemonic, Movups | Movupd | Movdqu | Lddqu | Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64)
        && !matches!(mnemonic, Pcmpistri | Pcmpistrm)
}

fn kind(insn: &Instruction) -> Option<Kind> {
    let mnemonic = insn.mnemonic();
    // Two mnemonics name a string instruction too.
    match insn.code() {
        Code::Movsd_m32_m32 | Code::Cmpsd_m32_m32 => return None,
        _ => {}
    }
    if let Some(op) = Integer::from_mnemonic(mnemonic) {
        return Some(Kind::Integer(op));
    }
    if let Some(op) = Shuffle::from_mnemonic(mnemonic) {
        return Some(Kind::Shuffle(op));
    }
    if let Some(op) = Host::from_mnemonic(mnemonic) {
        return Some(float(op));
    }
    other(insn)
}

fn float(op: Host) -> Kind {
    match op {
        Host::Roundps | Host::Roundpd | Host::Roundss | Host::Roundsd => Kind::Round(op),
        Host::Dpps | Host::Dppd => Kind::DotProduct(op),
        _ => Kind::Float(op),
    }
}

/// Everything that is not one of a large family.
fn other(insn: &Instruction) -> Option<Kind> {
    // What FXSAVE and FXRSTOR reach.
    let registers = if insn.code_size() == CodeSize::Code64 { 16 } else { 8 };
    use Mnemonic::*;
    let registers_only = insn.op_kind(0) == OpKind::Register && insn.op_kind(1) == OpKind::Register;
    let wide_gpr = |index| insn.op_kind(index) == OpKind::Register && insn.op_register(index).is_gpr64();
    let wide_source = wide_gpr(1) || insn.memory_size().size() == 8;
    let half = |dst_high, src_high| Kind::MoveHalf { dst_high, src_high };
    let flags = |signaling, format| Kind::OrderFlags { signaling, format };
    let to_gpr = |format, truncate| Kind::ToGpr { format, truncate, wide: wide_gpr(0) };
    let text = |explicit, wide, mask| Kind::Text { explicit, wide, mask };
    Some(match insn.mnemonic() {
        // The same bits under another name.
        Andps | Andpd => Kind::Integer(Integer::Pand),
        Andnps | Andnpd => Kind::Integer(Integer::Pandn),
        Orps | Orpd => Kind::Integer(Integer::Por),
        Xorps | Xorpd => Kind::Integer(Integer::Pxor),
        Unpcklps => Kind::Shuffle(Shuffle::Punpckldq),
        Unpcklpd => Kind::Shuffle(Shuffle::Punpcklqdq),
        Unpckhps => Kind::Shuffle(Shuffle::Punpckhdq),
        Unpckhpd => Kind::Shuffle(Shuffle::Punpckhqdq),

        Movss | Movsd if registers_only => Kind::Merge,
        Movaps | Movapd | Movdqa | Movups | Movupd | Movdqu | Lddqu | Movntdqa | Movntps | Movntpd
        | Movntdq | Movntq | Movnti | Movd | Movq | Movss | Movsd | Movq2dq | Movdq2q => Kind::Move,
        Movlps | Movlpd => half(false, false),
        Movhps | Movhpd => half(true, true),
        Movhlps => half(false, true),
        Movlhps => half(true, false),
        Maskmovdqu | Maskmovq => Kind::MaskedStore,
        Pinsrb | Pinsrw | Pinsrd | Pinsrq => Kind::Insert,
        Pextrb | Pextrw | Pextrd | Pextrq | Extractps => Kind::Extract,
        Insertps => Kind::InsertSingle,
        Pblendvb => Kind::Blend(1),
        Blendvps => Kind::Blend(4),
        Blendvpd => Kind::Blend(8),
        Pmovmskb => Kind::SignMask(1),
        Movmskps => Kind::SignMask(4),
        Movmskpd => Kind::SignMask(8),

        Cmpps => Kind::Compare(Format::Ps),
        Cmppd => Kind::Compare(Format::Pd),
        Cmpss => Kind::Compare(Format::Ss),
        Cmpsd => Kind::Compare(Format::Sd),
        Comiss => flags(true, Format::Ss),
        Comisd => flags(true, Format::Sd),
        Ucomiss => flags(false, Format::Ss),
        Ucomisd => flags(false, Format::Sd),
        Cvtsi2ss => Kind::FromGpr { format: Format::Ss, wide: wide_source },
        Cvtsi2sd => Kind::FromGpr { format: Format::Sd, wide: wide_source },
        Cvtss2si => to_gpr(Format::Ss, false),
        Cvttss2si => to_gpr(Format::Ss, true),
        Cvtsd2si => to_gpr(Format::Sd, false),
        Cvttsd2si => to_gpr(Format::Sd, true),
        // Between MMX and XMM registers: the packed conversions on half a register.
        Cvtpi2ps => Kind::LowHalf(Host::Cvtdq2ps),
        Cvtpi2pd => Kind::Float(Host::Cvtdq2pd),
        Cvtps2pi => Kind::LowHalf(Host::Cvtps2dq),
        Cvttps2pi => Kind::LowHalf(Host::Cvttps2dq),
        Cvtpd2pi => Kind::Float(Host::Cvtpd2dq),
        Cvttpd2pi => Kind::Float(Host::Cvttpd2dq),

        Ptest => Kind::Test,
        Pcmpestri => text(true, false, false),
        Pcmpestri64 => text(true, true, false),
        Pcmpestrm => text(true, false, true),
        Pcmpestrm64 => text(true, true, true),
        Pcmpistri => text(false, false, false),
        Pcmpistrm => text(false, false, true),
        Popcnt => Kind::PopulationCount,
        Crc32 => Kind::Crc32,
        Ldmxcsr => Kind::LoadMxcsr,
        Stmxcsr => Kind::StoreMxcsr,
        Emms => Kind::EmptyMmx,
        Fxsave => Kind::Fxsave { wide: false, registers },
        Fxsave64 => Kind::Fxsave { wide: true, registers },
        Fxrstor => Kind::Fxrstor { wide: false, registers },
        Fxrstor64 => Kind::Fxrstor { wide: true, registers },
        _ => return None,
    })
}
