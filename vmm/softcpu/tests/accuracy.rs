//! Instructions that the architecture lets be inexact, held to the bounds that it states, with arithmetic of any
//! precision (`astro-float-num`) as judge.
//!
//! The software CPU has the host's own do them, so what is tested is that operands and results reach and leave
//! them whole, and that the host keeps to what is documented.

mod inexact;
mod native;

use inexact::Bench;
use inexact::reference::{self, Reference};
use native::random::Random;
use softcpu::Execution;

/// Operands of each instruction, range and rounding mode, unless `SOFTCPU_NATIVE_ROUNDS` says otherwise.
const ROUNDS: usize = 500;

fn rounds() -> usize {
    native::setting("SOFTCPU_NATIVE_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize)
}

/// The four rounding modes, and how far from the exact result they may be, in units of the last place.
/// (SDM volume 1, 8.3.10, from the Pentium processor on.)
const TO_NEAREST: u16 = 0;
const BOUNDS: [f64; 4] = [1.0, 1.5, 1.5, 1.5];
/// What two-operand logarithms keep to the nearest where y is not 1.
const LOGARITHM_TO_NEAREST: f64 = 1.35;

/// Largest error for each rounding mode.
fn measure(
    name: &str,
    code: &[u8],
    bounds: [f64; 4],
    operands: impl Fn(&mut Random) -> [u128; 2],
    exact: impl Fn(&mut Reference, [u128; 2]) -> Vec<reference::Exact>,
) {
    let mut bench = Bench::new(Execution::Interpret);
    let mut reference = Reference::new();
    let mut random = native::random(30);
    for (mode, bound) in (0..4).zip(bounds) {
        let mut worst = (0.0, [0; 2]);
        for _ in 0..rounds() {
            let operands = operands(&mut random);
            let results = bench.x87(code, operands, mode);
            for (result, exact) in results.into_iter().zip(exact(&mut reference, operands)) {
                let error = reference.error(result, &exact);
                if error.is_nan() || error > worst.0 {
                    worst = (error, operands);
                }
            }
        }
        println!("{name}, rounding mode {mode}: at most {:.4} units in the last place", worst.0);
        assert!(
            worst.0 <= bound,
            "{name}, rounding mode {mode}: {} units in the last place for {:#x?}",
            worst.0,
            worst.1
        );
    }
}

/// Sines and the like.
fn trigonometry(angle: impl Fn(&mut Random) -> u128) {
    let one = |random: &mut Random| [angle(random), 0];
    measure("FSIN", &[0xd9, 0xfe], BOUNDS, one, |r, [x, _]| vec![r.sin(x)]);
    measure("FCOS", &[0xd9, 0xff], BOUNDS, one, |r, [x, _]| vec![r.cos(x)]);
    measure("FSINCOS", &[0xd9, 0xfb], BOUNDS, one, |r, [x, _]| vec![r.cos(x), r.sin(x)]);
    // It pushes 1 behind the tangent.
    measure("FPTAN", &[0xd9, 0xf2], BOUNDS, one, |r, [x, _]| vec![r.one(), r.tan(x)]);
}

#[test]
fn trigonometric_functions_of_small_angles_are_as_near_as_documented() {
    trigonometry(|random| inexact::extended(random, -70..0));
}

#[test]
fn trigonometric_functions_of_denormals_are_as_near_as_documented() {
    trigonometry(|random| inexact::extended(random, -16445..-16380));
}

#[test]
fn trigonometric_functions_reduce_their_argument_as_documented() {
    trigonometry(|random| inexact::extended(random, 0..63));
    trigonometry(inexact::quarter_turns);
}

#[test]
fn angles_beyond_the_range_are_left_alone() {
    /// C2: the operand is out of range. (SDM volume 1, 8.1.3.3.)
    const OUT_OF_RANGE: u16 = 1 << 10;
    let mut bench = Bench::new(Execution::Interpret);
    let mut random = native::random(31);
    for code in [[0xd9, 0xfe], [0xd9, 0xff], [0xd9, 0xfb], [0xd9, 0xf2]] {
        for _ in 0..rounds() {
            let x = inexact::extended(&mut random, 63..16384);
            let [st0, _] = bench.x87(&code, [x, 0], TO_NEAREST);
            assert!(st0 == x && bench.status() & OUT_OF_RANGE != 0, "{code:x?} of {x:#x}: {st0:#x}");
        }
    }
}

#[test]
fn arctangents_are_as_near_as_documented() {
    for exponents in [-70..70, -16445..-16380, -16445..16384] {
        let two = |random: &mut Random| [(); 2].map(|()| inexact::extended(random, exponents.clone()));
        measure("FPATAN", &[0xd9, 0xf3], BOUNDS, two, |r, [x, y]| vec![r.atan(y, x)]);
    }
}

#[test]
fn powers_of_two_are_as_near_as_documented() {
    for exponents in [-8..0, -70..0, -16445..-16380] {
        let one = |random: &mut Random| [inexact::extended(random, exponents.clone()), 0];
        measure("F2XM1", &[0xd9, 0xf0], BOUNDS, one, |r, [x, _]| vec![r.two_to_x_minus_1(x)]);
    }
}

#[test]
fn logarithms_are_as_near_as_documented() {
    let bounds = [LOGARITHM_TO_NEAREST, 1.5, 1.5, 1.5];
    for exponents in [-1..1, -70..70, -16445..-16380, -16445..16384] {
        let of_one = |random: &mut Random| [inexact::positive(random, exponents.clone()), inexact::ONE];
        let with_y = |random: &mut Random| {
            [inexact::positive(random, exponents.clone()), inexact::extended(random, -60..60)]
        };
        measure("FYL2X, y = 1", &[0xd9, 0xf1], BOUNDS, of_one, |r, [x, y]| vec![r.y_log2_x(y, x)]);
        measure("FYL2X", &[0xd9, 0xf1], bounds, with_y, |r, [x, y]| vec![r.y_log2_x(y, x)]);
    }
    // x from -(1 - sqrt(1/2)) to 1 - sqrt(1/2), of which -2 is the highest exponent.
    for exponents in [-2..-1, -70..-2, -16445..-16380] {
        let near_one = |random: &mut Random| inexact::within_logarithm(random, exponents.clone());
        let of_one = |random: &mut Random| [near_one(random), inexact::ONE];
        let with_y = |random: &mut Random| [near_one(random), inexact::extended(random, -60..60)];
        measure("FYL2XP1, y = 1", &[0xd9, 0xf9], BOUNDS, of_one, |r, [x, y]| vec![r.y_log2_x_plus_1(y, x)]);
        measure("FYL2XP1", &[0xd9, 0xf9], bounds, with_y, |r, [x, y]| vec![r.y_log2_x_plus_1(y, x)]);
    }
}

/// How far RCPPS and RSQRTPS may be from the exact result, relative to it. (SDM volume 2.)
const RECIPROCAL_BOUND: f64 = 1.5 / 4096.0;

#[test]
fn reciprocals_of_every_significand_are_as_near_as_documented() {
    // The exponent does not matter but for its parity: every significand at 1 and at 2.
    let all = (0..2u32).flat_map(|exponent| (0..1u32 << 23).map(move |low| (127 + exponent) << 23 | low));
    let mut bench = Bench::new(Execution::Interpret);
    for (name, opcode, exact) in APPROXIMATIONS {
        let worst = bench.singles(opcode, all.clone()).fold((0.0, 0), |worst, (x, result)| {
            let error = (f64::from(f32::from_bits(result)) / exact(f64::from(f32::from_bits(x))) - 1.0).abs();
            if error.is_nan() || error > worst.0 { (error, x) } else { worst }
        });
        println!("{name}: relative error at most {:.3} / 4096", worst.0 * 4096.0);
        assert!(worst.0 <= RECIPROCAL_BOUND, "{name} of {:#x}: {}", worst.1, worst.0);
    }
}

/// Name, opcode and what it approximates.
type Approximation = (&'static str, u8, fn(f64) -> f64);

const APPROXIMATIONS: [Approximation; 2] =
    [("RCPPS", 0x53, |x| 1.0 / x), ("RSQRTPS", 0x52, |x| 1.0 / x.sqrt())];

#[test]
fn reciprocals_of_all_exponents_are_as_near_as_documented() {
    let mut random = native::random(32);
    // Every exponent with both signs, zeros, denormals, infinities and numbers that are none among them.
    let all: Vec<u32> = (0..512u32)
        .flat_map(|top| [0, 1, 0x7f_ffff, random.next() as u32 & 0x7f_ffff].map(|low| top << 23 | low))
        .collect();
    let mut bench = Bench::new(Execution::Interpret);
    for (name, opcode, exact) in APPROXIMATIONS {
        for (x, result) in bench.singles(opcode, all.iter().copied()) {
            let (x, result) = (f32::from_bits(x), f32::from_bits(result));
            // A denormal is a zero of its sign.
            let x = if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
            let exact = if name == "RSQRTPS" && x == 0.0 {
                f64::INFINITY.copysign(x.into())
            } else {
                exact(x.into())
            };
            let error = (f64::from(result) / exact - 1.0).abs();
            let good = if exact.is_nan() {
                result.is_nan()
            } else if exact.is_infinite() || exact == 0.0 {
                f64::from(result) == exact && result.is_sign_negative() == exact.is_sign_negative()
            } else if exact.abs() * (1.0 - RECIPROCAL_BOUND) < f64::from(f32::MIN_POSITIVE) {
                // What is too small for a normal number: zero, or as near as the others.
                result == 0.0 || error <= RECIPROCAL_BOUND
            } else {
                error <= RECIPROCAL_BOUND
            };
            assert!(good, "{name} of {x:e}: {result:e}, not {exact:e}");
        }
    }
}
