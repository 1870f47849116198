//! Floating-point arithmetic, run on the host's own SSE unit.
//!
//! Rounding, NaN propagation, denormals and the sticky flags are then the hardware's by
//! construction. Every operation is one `asm!` block that loads the guest's MXCSR, executes one
//! instruction and puts the host's MXCSR back, so compiled code never runs under the guest's
//! settings. Exceptions stay masked on the host; [`Environment::settle`] decides from the flags
//! whether the guest has one. Needs a host with SSE4.1.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use super::op::Format;
use super::state::VectorState;
use crate::exception::Exception;

/// MXCSR as compiled code expects it.
static HOST_MXCSR: u32 = VectorState::RESET_MXCSR;

/// The six sticky exception flags, I D Z O U P; their masks are 7 bits higher.
const FLAGS: u32 = 0x3f;
/// I, D and Z are found before anything is computed and then rule out O, U and P.
const PRECOMPUTATION: u32 = 0x07;
const UNDERFLOW: u32 = 0x10;
const PRECISION: u32 = 0x20;
const MASKS: u32 = FLAGS << 7;
const ROUNDING: u32 = 3 << 13;
const FLUSH_TO_ZERO: u32 = 1 << 15;

fn vector(bits: u128) -> __m128i {
    // SAFETY: both types are 16 plain bytes.
    unsafe { std::mem::transmute(bits) }
}

fn bits(vector: __m128i) -> u128 {
    // SAFETY: both types are 16 plain bytes.
    unsafe { std::mem::transmute(vector) }
}

/// Runs `$instruction`, which may use the operands that follow, with MXCSR from `$mxcsr` and
/// leaves the resulting MXCSR there.
macro_rules! guarded {
    ($mxcsr:expr, $instruction:expr, $($operands:tt)*) => {
        // SAFETY: the instruction works on registers only; MXCSR is put back before the block
        // ends and no exception is unmasked meanwhile (`Environment` sees to it).
        unsafe {
            asm!(
                "ldmxcsr dword ptr [{mxcsr}]",
                $instruction,
                "stmxcsr dword ptr [{mxcsr}]",
                "ldmxcsr dword ptr [{host}]",
                $($operands)*,
                mxcsr = in(reg) $mxcsr,
                host = in(reg) &raw const HOST_MXCSR,
                options(nostack),
            )
        }
    };
}

/// Defines [`Host`] with one variant for each instruction of the form `op xmm, xmm`.
macro_rules! host_instructions {
    ($($name:ident: $instruction:literal,)*) => {
        mnemonics! {
            /// A floating-point instruction of two XMM operands (an immediate, if any, is fixed).
            pub(super) enum Host { $($name,)* }
        }

        impl Host {
            /// Executes it with the given MXCSR, which receives the flags.
            fn run(self, a: u128, b: u128, mxcsr: &mut u32) -> u128 {
                let mut a = vector(a);
                let b = vector(b);
                match self {
                    $(Self::$name => guarded!(
                        &raw mut *mxcsr,
                        $instruction,
                        a = inout(xmm_reg) a,
                        b = in(xmm_reg) b
                    ),)*
                }
                bits(a)
            }
        }
    };
}

host_instructions! {
    Addps: "addps {a}, {b}", Addpd: "addpd {a}, {b}", Addss: "addss {a}, {b}", Addsd: "addsd {a}, {b}",
    Subps: "subps {a}, {b}", Subpd: "subpd {a}, {b}", Subss: "subss {a}, {b}", Subsd: "subsd {a}, {b}",
    Mulps: "mulps {a}, {b}", Mulpd: "mulpd {a}, {b}", Mulss: "mulss {a}, {b}", Mulsd: "mulsd {a}, {b}",
    Divps: "divps {a}, {b}", Divpd: "divpd {a}, {b}", Divss: "divss {a}, {b}", Divsd: "divsd {a}, {b}",
    Minps: "minps {a}, {b}", Minpd: "minpd {a}, {b}", Minss: "minss {a}, {b}", Minsd: "minsd {a}, {b}",
    Maxps: "maxps {a}, {b}", Maxpd: "maxpd {a}, {b}", Maxss: "maxss {a}, {b}", Maxsd: "maxsd {a}, {b}",
    Sqrtps: "sqrtps {a}, {b}", Sqrtpd: "sqrtpd {a}, {b}", Sqrtss: "sqrtss {a}, {b}",
    Sqrtsd: "sqrtsd {a}, {b}",
    Rcpps: "rcpps {a}, {b}", Rcpss: "rcpss {a}, {b}",
    Rsqrtps: "rsqrtps {a}, {b}", Rsqrtss: "rsqrtss {a}, {b}",
    Addsubps: "addsubps {a}, {b}", Addsubpd: "addsubpd {a}, {b}",
    Haddps: "haddps {a}, {b}", Haddpd: "haddpd {a}, {b}",
    Hsubps: "hsubps {a}, {b}", Hsubpd: "hsubpd {a}, {b}",
    // All lanes of both; unselected ones are zeroed before and after.
    Dpps: "dpps {a}, {b}, 0xff", Dppd: "dppd {a}, {b}, 0x33",
    // Rounding mode from MXCSR.
    Roundps: "roundps {a}, {b}, 4", Roundpd: "roundpd {a}, {b}, 4",
    Roundss: "roundss {a}, {b}, 4", Roundsd: "roundsd {a}, {b}, 4",
    Cvtdq2ps: "cvtdq2ps {a}, {b}", Cvtps2dq: "cvtps2dq {a}, {b}", Cvttps2dq: "cvttps2dq {a}, {b}",
    Cvtdq2pd: "cvtdq2pd {a}, {b}", Cvtpd2dq: "cvtpd2dq {a}, {b}", Cvttpd2dq: "cvttpd2dq {a}, {b}",
    Cvtps2pd: "cvtps2pd {a}, {b}", Cvtpd2ps: "cvtpd2ps {a}, {b}",
    Cvtss2sd: "cvtss2sd {a}, {b}", Cvtsd2ss: "cvtsd2ss {a}, {b}",
}

/// The guest's MXCSR during one instruction.
pub(super) struct Environment<'a>(&'a mut u32);

impl<'a> Environment<'a> {
    pub(super) fn new(mxcsr: &'a mut u32) -> Self {
        Self(mxcsr)
    }

    /// The host's MXCSR for the operation: the guest's modes, nothing sticky, nothing unmasked.
    fn controls(&self) -> u32 {
        let flush = if *self.0 & UNDERFLOW << 7 == 0 { FLUSH_TO_ZERO } else { 0 };
        // With underflow unmasked, flush-to-zero has no effect. (SDM volume 1, 10.2.3.3.)
        (*self.0 | MASKS) & !FLAGS & !flush
    }

    /// Runs `operation` with host controls and enters its flags in the guest's MXCSR. #XM if one
    /// of them is unmasked; the caller then leaves the destination alone. (SDM volume 1, 11.5.)
    fn settle<T>(&mut self, mut operation: impl FnMut(&mut u32) -> T) -> Result<T, Exception> {
        let mut controls = self.controls();
        let result = operation(&mut controls);
        let mut raised = controls & FLAGS;
        if *self.0 & UNDERFLOW << 7 == 0 {
            // A tiny result that is exact underflows only where underflow is unmasked; flushing
            // makes the host report it.
            let mut flushing = self.controls() | FLUSH_TO_ZERO;
            operation(&mut flushing);
            raised |= flushing & UNDERFLOW;
        }
        self.raise(raised)?;
        Ok(result)
    }

    fn raise(&mut self, mut raised: u32) -> Result<(), Exception> {
        let enabled = !*self.0 >> 7 & FLAGS;
        if raised & enabled & PRECOMPUTATION != 0 {
            raised &= PRECOMPUTATION;
        }
        *self.0 |= raised;
        if raised & enabled == 0 { Ok(()) } else { Err(Exception::SimdFloatingPoint) }
    }

    /// `op(a, b)`; `a` is the destination operand.
    pub(super) fn binary(&mut self, op: Host, a: u128, b: u128) -> Result<u128, Exception> {
        self.settle(|mxcsr| op.run(a, b, mxcsr))
    }

    /// ROUNDPS and its like: bits 0..1 are the mode unless bit 2 leaves it to MXCSR; bit 3
    /// suppresses the precision exception.
    pub(super) fn round(&mut self, op: Host, a: u128, b: u128, immediate: u8) -> Result<u128, Exception> {
        let mut controls = self.controls();
        if immediate & 4 == 0 {
            controls = controls & !ROUNDING | u32::from(immediate & 3) << 13;
        }
        let result = op.run(a, b, &mut controls);
        let suppressed = if immediate & 8 == 0 { 0 } else { PRECISION };
        self.raise(controls & FLAGS & !suppressed)?;
        Ok(result)
    }

    /// DPPS and DPPD: bits 4.. of the immediate choose the products that are added, bits 0.. the
    /// lanes that receive the sum.
    pub(super) fn dot_product(
        &mut self,
        op: Host,
        a: u128,
        b: u128,
        immediate: u8,
    ) -> Result<u128, Exception> {
        let width = if op == Host::Dppd { 64 } else { 32 };
        let lanes = |selected: u8| {
            (0..128 / width)
                .filter(|i| selected >> i & 1 != 0)
                .fold(0u128, |mask, i| mask | (u128::MAX >> (128 - width)) << (i * width))
        };
        let taken = lanes(immediate >> 4);
        Ok(self.binary(op, a & taken, b & taken)? & lanes(immediate))
    }

    /// CMPPS and its like, with one of the eight predicates.
    pub(super) fn compare(
        &mut self,
        format: Format,
        predicate: u8,
        a: u128,
        b: u128,
    ) -> Result<u128, Exception> {
        self.settle(|mxcsr| match predicate & 7 {
            0 => compare::<0>(format, a, b, mxcsr),
            1 => compare::<1>(format, a, b, mxcsr),
            2 => compare::<2>(format, a, b, mxcsr),
            3 => compare::<3>(format, a, b, mxcsr),
            4 => compare::<4>(format, a, b, mxcsr),
            5 => compare::<5>(format, a, b, mxcsr),
            6 => compare::<6>(format, a, b, mxcsr),
            _ => compare::<7>(format, a, b, mxcsr),
        })
    }

    /// (U)COMISS and (U)COMISD: the low byte of EFLAGS, of which ZF, PF and CF are defined.
    pub(super) fn order(
        &mut self,
        format: Format,
        signaling: bool,
        a: u128,
        b: u128,
    ) -> Result<u8, Exception> {
        let (a, b) = (vector(a), vector(b));
        macro_rules! order {
            ($mxcsr:expr, $instruction:literal) => {{
                let flags: u16;
                guarded!(
                    &raw mut *$mxcsr,
                    concat!($instruction, " {a}, {b}\nlahf"),
                    a = in(xmm_reg) a,
                    b = in(xmm_reg) b,
                    out("ax") flags
                );
                (flags >> 8) as u8
            }};
        }
        self.settle(|mxcsr| match (format, signaling) {
            (Format::Ss | Format::Ps, true) => order!(mxcsr, "comiss"),
            (Format::Ss | Format::Ps, false) => order!(mxcsr, "ucomiss"),
            (Format::Sd | Format::Pd, true) => order!(mxcsr, "comisd"),
            (Format::Sd | Format::Pd, false) => order!(mxcsr, "ucomisd"),
        })
    }

    /// CVTSI2SS and CVTSI2SD: the low lane of `a` becomes `value`.
    pub(super) fn convert_integer(
        &mut self,
        format: Format,
        wide: bool,
        a: u128,
        value: u64,
    ) -> Result<u128, Exception> {
        macro_rules! convert {
            ($mxcsr:expr, $instruction:literal) => {{
                let mut a = vector(a);
                guarded!(
                    &raw mut *$mxcsr,
                    $instruction,
                    a = inout(xmm_reg) a,
                    value = in(reg) value
                );
                bits(a)
            }};
        }
        self.settle(|mxcsr| match (format, wide) {
            (Format::Ss | Format::Ps, false) => convert!(mxcsr, "cvtsi2ss {a}, {value:e}"),
            (Format::Ss | Format::Ps, true) => convert!(mxcsr, "cvtsi2ss {a}, {value:r}"),
            (Format::Sd | Format::Pd, false) => convert!(mxcsr, "cvtsi2sd {a}, {value:e}"),
            (Format::Sd | Format::Pd, true) => convert!(mxcsr, "cvtsi2sd {a}, {value:r}"),
        })
    }

    /// CVTSS2SI and its like: the low lane of `b` as a signed integer, or the integer indefinite
    /// (only the top bit set) with the invalid flag where it does not fit.
    pub(super) fn convert_to_integer(
        &mut self,
        format: Format,
        truncate: bool,
        wide: bool,
        b: u128,
    ) -> Result<u64, Exception> {
        macro_rules! convert {
            ($mxcsr:expr, $instruction:literal) => {{
                let value: u64;
                guarded!(
                    &raw mut *$mxcsr,
                    $instruction,
                    value = out(reg) value,
                    b = in(xmm_reg) vector(b)
                );
                value
            }};
        }
        self.settle(|mxcsr| match (format, truncate, wide) {
            (Format::Ss | Format::Ps, false, false) => convert!(mxcsr, "cvtss2si {value:e}, {b}"),
            (Format::Ss | Format::Ps, false, true) => convert!(mxcsr, "cvtss2si {value:r}, {b}"),
            (Format::Ss | Format::Ps, true, false) => convert!(mxcsr, "cvttss2si {value:e}, {b}"),
            (Format::Ss | Format::Ps, true, true) => convert!(mxcsr, "cvttss2si {value:r}, {b}"),
            (Format::Sd | Format::Pd, false, false) => convert!(mxcsr, "cvtsd2si {value:e}, {b}"),
            (Format::Sd | Format::Pd, false, true) => convert!(mxcsr, "cvtsd2si {value:r}, {b}"),
            (Format::Sd | Format::Pd, true, false) => convert!(mxcsr, "cvttsd2si {value:e}, {b}"),
            (Format::Sd | Format::Pd, true, true) => convert!(mxcsr, "cvttsd2si {value:r}, {b}"),
        })
    }
}

fn compare<const PREDICATE: u8>(format: Format, a: u128, b: u128, mxcsr: &mut u32) -> u128 {
    let mut a = vector(a);
    let b = vector(b);
    macro_rules! compare {
        ($instruction:literal) => {
            guarded!(
                &raw mut *mxcsr,
                $instruction,
                a = inout(xmm_reg) a,
                b = in(xmm_reg) b,
                predicate = const PREDICATE
            )
        };
    }
    match format {
        Format::Ps => compare!("cmpps {a}, {b}, {predicate}"),
        Format::Pd => compare!("cmppd {a}, {b}, {predicate}"),
        Format::Ss => compare!("cmpss {a}, {b}, {predicate}"),
        Format::Sd => compare!("cmpsd {a}, {b}, {predicate}"),
    }
    bits(a)
}
