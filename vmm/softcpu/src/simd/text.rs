//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM. (SDM volume 2, chapter 4.1.)

use super::context::ArithFlags;

/// How the immediate byte asks for a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregation {
    /// Bit j: the second operand's element j is one of the first's.
    EqualAny,
    /// Bit j: it lies in one of the ranges that the first's pairs give.
    Ranges,
    /// Bit j: the elements j are equal.
    EqualEach,
    /// Bit j: the first operand occurs in the second from j on.
    EqualOrdered,
}

/// What a comparison finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    bits: u16,
    elements: u32,
    immediate: u8,
    /// EFLAGS.
    pub(super) flags: ArithFlags,
}

/// Compares `b` with `a`, whose valid elements are the first `length_a` and `length_b`, or those
/// before the first zero where a length is `None`.
pub(super) fn compare(
    a: u128,
    length_a: Option<i64>,
    b: u128,
    length_b: Option<i64>,
    immediate: u8,
) -> Match {
    let elements = if immediate & 1 == 0 { 16 } else { 8 };
    let (a, b) = (Text::new(a, length_a, immediate), Text::new(b, length_b, immediate));
    let aggregation = match immediate >> 2 & 3 {
        0 => Aggregation::EqualAny,
        1 => Aggregation::Ranges,
        2 => Aggregation::EqualEach,
        _ => Aggregation::EqualOrdered,
    };
    let found = (0..elements)
        .filter(|&j| matches(aggregation, &a, &b, elements, j))
        .fold(0u16, |bits, j| bits | 1 << j);
    let all = (u32::MAX >> (32 - elements)) as u16;
    let bits = match immediate >> 4 & 3 {
        1 => found ^ all,
        // Masked negation: only where the second operand is valid.
        3 => found ^ ((1u32 << b.length) - 1) as u16,
        _ => found,
    };
    let flags = ArithFlags {
        cf: bits != 0,
        zf: b.length < elements,
        sf: a.length < elements,
        of: bits & 1 != 0,
        af: false,
        pf: false,
    };
    Match { bits, elements: elements as u32, immediate, flags }
}

impl Match {
    /// ECX for the index forms: the lowest (or with bit 6 the highest) match, or the number of
    /// elements.
    pub(super) fn index(self) -> u64 {
        let index = match (self.bits, self.immediate & 0x40) {
            (0, _) => self.elements,
            (bits, 0) => bits.trailing_zeros(),
            (bits, _) => bits.ilog2(),
        };
        u64::from(index)
    }

    /// XMM0 for the mask forms: the bits, or with bit 6 whole elements of ones.
    pub(super) fn mask(self) -> u128 {
        if self.immediate & 0x40 == 0 {
            return u128::from(self.bits);
        }
        let width = 128 / self.elements;
        let ones = u128::MAX >> (128 - width);
        (0..self.elements).filter(|i| self.bits >> i & 1 != 0).fold(0, |mask, i| mask | ones << (i * width))
    }
}

/// An operand taken apart into elements, sign-extended where the immediate says so.
struct Text {
    elements: [i32; 16],
    length: usize,
}

impl Text {
    fn new(bits: u128, length: Option<i64>, immediate: u8) -> Self {
        let bytes = bits.to_le_bytes();
        let word = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        let (count, elements): (usize, [i32; 16]) = match immediate & 3 {
            0 => (16, std::array::from_fn(|i| i32::from(bytes[i]))),
            1 => (8, std::array::from_fn(|i| i32::from(word(i % 8)))),
            2 => (16, std::array::from_fn(|i| i32::from(bytes[i] as i8))),
            _ => (8, std::array::from_fn(|i| i32::from(word(i % 8) as i16))),
        };
        let length = match length {
            Some(length) => length.unsigned_abs().min(count as u64) as usize,
            None => elements[..count].iter().position(|&element| element == 0).unwrap_or(count),
        };
        Self { elements, length }
    }

    fn valid(&self) -> &[i32] {
        &self.elements[..self.length]
    }
}

/// Bit `j` of the intermediate result, with invalid elements overriding the comparison as SDM
/// table 4-7 has it.
fn matches(aggregation: Aggregation, a: &Text, b: &Text, elements: usize, j: usize) -> bool {
    match aggregation {
        Aggregation::EqualAny => j < b.length && a.valid().contains(&b.elements[j]),
        Aggregation::Ranges => {
            // A lone last element is no range.
            let ranges = a.valid().as_chunks::<2>().0;
            j < b.length && ranges.iter().any(|[low, high]| (low..=high).contains(&&b.elements[j]))
        }
        Aggregation::EqualEach => match (j < a.length, j < b.length) {
            (true, true) => a.elements[j] == b.elements[j],
            (a_valid, b_valid) => a_valid == b_valid,
        },
        Aggregation::EqualOrdered => {
            // Past the register's end nothing contradicts; past the valid length it does.
            a.valid().iter().zip(j..elements).all(|(x, k)| k < b.length && *x == b.elements[k])
        }
    }
}
