//! The exact results, to some hundred bits.

use astro_float_num::{BigFloat, Consts, RoundingMode, Sign};

/// Bits that are worked with: what the smallest argument of a subtraction from 1 loses, and 128 more.
const PRECISION: usize = 320;
const NEAREST: RoundingMode = RoundingMode::ToEven;
/// Below this exponent a function is the first two terms of its series.
const SMALL: i32 = -80;
/// Exponent of the smallest normal extended number.
const LEAST: i32 = -16382;

/// A result.
pub type Exact = BigFloat;

/// Works them out.
pub struct Reference(Consts);

impl Reference {
    pub fn new() -> Reference {
        Reference(Consts::new().expect("memory for constants"))
    }

    /// How far `result`, an extended number, is from the exact one, in units of its last place.
    pub fn error(&self, result: u128, exact: &Exact) -> f64 {
        if result >> 64 & 0x7fff == 0x7fff {
            return f64::NAN;
        }
        if exact.is_zero() {
            return if number(result).is_zero() { 0.0 } else { f64::INFINITY };
        }
        let difference = number(result).sub(exact, PRECISION, NEAREST);
        let place = exponent(exact).max(LEAST) - 63;
        near(&difference, -place).abs()
    }

    pub fn one(&self) -> Exact {
        integer(1)
    }

    /// The argument less a whole number of quarter turns, and that number. The CPU's pi has 66 bits. (SDM volume 1,
    /// 8.3.8.)
    fn reduced(&mut self, x: u128) -> (BigFloat, u64) {
        let x = number(x);
        // pi / 2 = 0xc90fdaa22168c234c / 2^67
        let quarter = BigFloat::from_words(&[0xc << 60, 0xc90f_daa2_2168_c234], Sign::Pos, 1);
        let turns = x.div(&quarter, PRECISION, NEAREST);
        let (nearest, count) = whole(&turns);
        (x.sub(&nearest.mul(&quarter, PRECISION, NEAREST), PRECISION, NEAREST), count)
    }

    pub fn sin(&mut self, x: u128) -> Exact {
        let (rest, turns) = self.reduced(x);
        self.turned(&rest, turns)
    }

    pub fn cos(&mut self, x: u128) -> Exact {
        let (rest, turns) = self.reduced(x);
        self.turned(&rest, turns.wrapping_add(1))
    }

    /// The sine of an angle and so many quarter turns.
    fn turned(&mut self, angle: &BigFloat, turns: u64) -> Exact {
        let value =
            if turns & 1 == 1 { angle.cos(PRECISION, NEAREST, &mut self.0) } else { self.sine(angle) };
        if turns & 2 == 2 { value.neg() } else { value }
    }

    fn sine(&mut self, x: &BigFloat) -> BigFloat {
        if x.is_zero() || exponent(x) > SMALL {
            return x.sin(PRECISION, NEAREST, &mut self.0);
        }
        // x - x^3 / 6
        let square = product(x, x);
        x.sub(&quotient(&product(x, &square), &integer(6)), PRECISION, NEAREST)
    }

    pub fn tan(&mut self, x: u128) -> Exact {
        let (rest, turns) = self.reduced(x);
        quotient(&self.turned(&rest, turns), &self.turned(&rest, turns.wrapping_add(1)))
    }

    /// The angle of the point (x, y).
    pub fn atan(&mut self, y: u128, x: u128) -> Exact {
        let (y, x) = (number(y), number(x));
        let ratio = quotient(&y, &x);
        let angle = if exponent(&ratio) > SMALL {
            ratio.atan(PRECISION, NEAREST, &mut self.0)
        } else {
            // t - t^3 / 3
            let cube = product(&ratio, &product(&ratio, &ratio));
            ratio.sub(&quotient(&cube, &integer(3)), PRECISION, NEAREST)
        };
        if !x.is_negative() {
            return angle;
        }
        let half = self.0.pi(PRECISION, NEAREST);
        let half = if y.is_negative() { half.neg() } else { half };
        angle.add(&half, PRECISION, NEAREST)
    }

    pub fn two_to_x_minus_1(&mut self, x: u128) -> Exact {
        let z = product(&number(x), &self.0.ln_2(PRECISION, NEAREST));
        if exponent(&z) > SMALL {
            let power = z.exp(PRECISION, NEAREST, &mut self.0);
            return power.sub(&integer(1), PRECISION, NEAREST);
        }
        // z + z^2 / 2
        z.add(&quotient(&product(&z, &z), &integer(2)), PRECISION, NEAREST)
    }

    pub fn y_log2_x(&mut self, y: u128, x: u128) -> Exact {
        product(&number(y), &number(x).log2(PRECISION, NEAREST, &mut self.0))
    }

    pub fn y_log2_x_plus_1(&mut self, y: u128, x: u128) -> Exact {
        let x = number(x);
        let logarithm = if exponent(&x) > SMALL {
            x.add(&integer(1), PRECISION, NEAREST).ln(PRECISION, NEAREST, &mut self.0)
        } else {
            // x - x^2 / 2
            x.sub(&quotient(&product(&x, &x), &integer(2)), PRECISION, NEAREST)
        };
        product(&number(y), &quotient(&logarithm, &self.0.ln_2(PRECISION, NEAREST)))
    }
}

fn product(a: &BigFloat, b: &BigFloat) -> BigFloat {
    a.mul(b, PRECISION, NEAREST)
}

fn quotient(a: &BigFloat, b: &BigFloat) -> BigFloat {
    a.div(b, PRECISION, NEAREST)
}

fn integer(value: u64) -> BigFloat {
    number(match value {
        0 => 0,
        value => {
            let shift = value.leading_zeros();
            u128::from(16383 + 63 - shift) << 64 | u128::from(value << shift)
        }
    })
}

/// A finite extended number.
fn number(bits: u128) -> BigFloat {
    let (significand, biased) = (bits as u64, (bits >> 64) as i32 & 0x7fff);
    let sign = if bits >> 79 & 1 == 1 { Sign::Neg } else { Sign::Pos };
    let shift = significand.leading_zeros() as i32;
    if shift == 64 {
        let mut zero = BigFloat::from_words(&[0], Sign::Pos, 0);
        zero.set_sign(sign);
        return zero;
    }
    // A fraction below 1 times a power of two.
    BigFloat::from_words(&[significand << shift], sign, biased.max(1) - 16383 + 1 - shift)
}

/// The exponent of a number that is 1.something times a power of two; very low of zero.
fn exponent(value: &BigFloat) -> i32 {
    match value.as_raw_parts() {
        Some((_, _, _, exponent, _)) if !value.is_zero() => exponent - 1,
        _ => i32::MIN,
    }
}

/// The value times a power of two, to 53 bits.
fn near(value: &BigFloat, power: i32) -> f64 {
    match value.as_raw_parts() {
        Some((words, _, sign, exponent, _)) if !value.is_zero() => {
            let fraction = words.last().map_or(0.0, |&word| word as f64 / 2f64.powi(64));
            let size = fraction * 2f64.powi((exponent + power).clamp(-1000, 1000));
            if sign == Sign::Neg { -size } else { size }
        }
        Some(_) => 0.0,
        None => f64::NAN,
    }
}

/// The nearest whole number to one below 2^64, and its lowest bits as a number that wraps below zero.
fn whole(value: &BigFloat) -> (BigFloat, u64) {
    let half = BigFloat::from_words(&[1 << 63], Sign::Pos, 0);
    let magnitude = if value.is_negative() { value.neg() } else { value.clone() };
    let moved = magnitude.add(&half, PRECISION, NEAREST);
    let count = match moved.as_raw_parts() {
        Some((words, _, _, exponent @ 1..=64, _)) => words.last().map_or(0, |word| word >> (64 - exponent)),
        _ => 0,
    };
    let nearest = integer(count);
    if value.is_negative() { (nearest.neg(), count.wrapping_neg()) } else { (nearest, count) }
}
