//! Which instructions are compared, and what the architecture says about them.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

/// Whether the form is one the software CPU has and a test may run in 64-bit mode.
pub fn is_eligible(code: Code) -> bool {
    is_eligible_in(64, code)
}

/// The same in a mode of 64, 32 or 16 bits.
pub fn is_eligible_in(bits: u32, code: Code) -> bool {
    use CpuidFeature::*;
    let info = code.op_code();
    let known = |feature: &CpuidFeature| {
        matches!(
            feature,
            INTEL8086
                | INTEL186
                | INTEL286
                | INTEL386
                | INTEL486
                | X64
                | CMOV
                | CMPXCHG16B
                | CX8
                | FPU
                | FPU287
                | FPU387
                | FXSR
                | MMX
                | POPCNT
                | SSE
                | SSE2
                | SSE3
                | SSSE3
                | SSE4_1
                | SSE4_2
                | MULTIBYTENOP
                | PAUSE
        )
    };
    info.is_instruction()
        && match bits {
            64 => info.mode64(),
            32 => info.mode32(),
            _ => info.mode16(),
        }
        && code.encoding() == EncodingKind::Legacy
        && code.cpuid_features().iter().all(known)
        && code.flow_control() == FlowControl::Next
        && !code.is_privileged()
        && !info.is_input_output()
        && !is_excluded(code)
}

/// Whether it is an x87 instruction.
pub fn is_x87(code: Code) -> bool {
    use CpuidFeature::*;
    code.mnemonic() == Mnemonic::Fisttp
        || code.cpuid_features().iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387))
}

pub fn is_comparison(code: Code) -> bool {
    use Mnemonic::*;
    matches!(
        code.mnemonic(),
        Fcom | Fcomp
            | Fcompp
            | Ficom
            | Ficomp
            | Fucom
            | Fucomp
            | Fucompp
            | Ftst
            | Fcomi
            | Fcomip
            | Fucomi
            | Fucomip
    )
}

/// Whether it is an MMX or SSE instruction, or POPCNT or CRC32.
pub fn is_vector(code: Code) -> bool {
    use CpuidFeature::*;
    use Mnemonic::*;
    !is_x87(code)
        && code.cpuid_features().iter().any(|feature| {
            matches!(feature, FXSR | MMX | SSE | SSE2 | SSE3 | SSSE3 | SSE4_1 | SSE4_2 | POPCNT)
        })
        && !matches!(
            code.mnemonic(),
            Lfence | Mfence | Sfence | Pause | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Clflush
        )
}

/// Forms that would fault, leave the window, or see the host.
fn is_excluded(code: Code) -> bool {
    use Mnemonic::*;
    let segment = code.op_code().op_kinds().iter().any(|kind| {
        use OpCodeOperandKind::*;
        matches!(kind, seg_reg | fs | gs | es | cs | ss | ds | cr_reg | dr_reg | tr_reg)
    });
    segment
        || matches!(
            code.mnemonic(),
            // Segments, system state, and what is only reserved.
            Reservednop | Lar | Lsl | Verr | Verw | Sgdt | Sidt | Sldt | Str | Smsw | Lfs | Lgs | Lss | Cli | Sti
            // IF, TF and AC are not the test's to choose.
            | Pushf | Pushfq | Popf | Popfq
            // No second form of these is decoded: WAIT and the rest are two instructions.
            | Fstcw | Fstsw | Fstenv | Fsave | Fclex | Finit | Feni | Fdisi | Fsetpm | Frstpm | Fstdw | Fstsg
            | Fnstdw | Fnstsg | Fneni | Fndisi | Fnsetpm
            // An undocumented FSTP whose faults differ between makers.
            | Fstpnce
        )
}

pub fn is_string(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Movsb
            | Movsw
            | Movsd
            | Movsq
            | Cmpsb
            | Cmpsw
            | Cmpsd
            | Cmpsq
            | Stosb
            | Stosw
            | Stosd
            | Stosq
            | Scasb
            | Scasw
            | Scasd
            | Scasq
            | Lodsb
            | Lodsw
            | Lodsd
            | Lodsq
    )
}

/// MOVSD and CMPSD are also SSE instructions.
pub fn is_string_form(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| {
        use OpKind::*;
        matches!(instruction.op_kind(i), MemorySegRSI | MemoryESRDI | MemorySegESI | MemoryESEDI)
    })
}

/// Whether it needs no state of its own and harms none that others need.
pub fn is_safe_in_sequence(code: Code) -> bool {
    use Mnemonic::*;
    let mnemonic = code.mnemonic();
    let string = code.op_code().op_kinds().iter().any(|kind| {
        use OpCodeOperandKind::*;
        matches!(kind, seg_rSI | es_rDI | seg_rDI | seg_rBX_al)
    });
    !string
        && !matches!(
            mnemonic,
            Div | Idiv | Bt | Btc | Btr | Bts | Shld | Shrd | Push | Pop | Enter | Leave | Ldmxcsr | Fxrstor | Fxrstor64 | Std
                // An exception that these unmask would trap on the host.
                | Fldcw | Fldenv | Frstor
                // What they store has undefined or model-dependent bits.
                | Fxsave | Fxsave64 | Fnstenv | Fnsave | Fnstsw
        )
}

/// The undefined flags (as iced's bits) after an instruction that finds some undefined.
pub fn undefined_after(instruction: &Instruction, before: u32) -> u32 {
    // A shift by CL may shift by nothing, and then defines nothing.
    let by_cl =
        instruction.op_count() > 1 && instruction.op_register(instruction.op_count() - 1) == Register::CL;
    let defined = match instruction.mnemonic() {
        Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Sal
        | Mnemonic::Sar
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Shld
        | Mnemonic::Shrd
            if by_cl =>
        {
            0
        }
        _ => instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set(),
    };
    before & !defined | instruction.rflags_undefined()
}
