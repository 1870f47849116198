//! What the comparison with the host CPU cannot show: exceptions, and published examples.

use super::context::ArithFlags;
use super::state::VectorState;
use super::testing::Bench;
use crate::exception::Exception;

/// Four singles as an XMM register, lane 0 first.
fn singles(lanes: [f32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |register, lane| register << 32 | u128::from(lane.to_bits()))
}

const ADDPS_0_1: &[u8] = &[0x0f, 0x58, 0xc1];
const DIVSD_0_1: &[u8] = &[0xf2, 0x0f, 0x5e, 0xc1];
/// `[rax]` is the bench's memory whatever RAX holds.
const MOVAPS_0_MEM: &[u8] = &[0x0f, 0x28, 0x00];
const MOVAPS_MEM_0: &[u8] = &[0x0f, 0x29, 0x00];
const MOVUPS_0_MEM: &[u8] = &[0x0f, 0x10, 0x00];
const PADDD_0_MEM: &[u8] = &[0x66, 0x0f, 0xfe, 0x00];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x10];
const STMXCSR: &[u8] = &[0x0f, 0xae, 0x18];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x00];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x08];

const ZERO_DIVIDE: u32 = 4;
const UNDERFLOW: u32 = 0x10;
const PRECISION: u32 = 0x20;

#[test]
fn sixteen_byte_operands_have_to_be_aligned_unless_unaligned_by_name() {
    let mut bench = Bench::new();
    bench.address = 0x1008;
    for code in [MOVAPS_0_MEM, MOVAPS_MEM_0, PADDD_0_MEM, FXSAVE64, FXRSTOR64] {
        assert_eq!(bench.run(code), Err(Exception::GeneralProtection(0)), "{code:x?}");
    }
    assert_eq!(bench.run(MOVUPS_0_MEM), Ok(()));
}

#[test]
fn a_masked_exception_is_sticky_and_an_unmasked_one_writes_nothing() {
    let mut bench = Bench::new();
    bench.vector.xmm[0] = 1.0f64.to_bits().into();
    bench.run(DIVSD_0_1).unwrap();
    assert_eq!(bench.vector.xmm[0], f64::INFINITY.to_bits().into());
    assert_eq!(bench.vector.mxcsr, 0x1f80 | ZERO_DIVIDE);

    bench.vector.xmm[0] = 1.0f64.to_bits().into();
    bench.vector.mxcsr = 0x1f80 & !(ZERO_DIVIDE << 7);
    assert_eq!(bench.run(DIVSD_0_1), Err(Exception::SimdFloatingPoint));
    assert_eq!(bench.vector.xmm[0], 1.0f64.to_bits().into());
    assert_eq!(bench.vector.mxcsr & 0x3f, ZERO_DIVIDE);
}

#[test]
fn an_unmasked_operand_exception_hides_those_of_the_result() {
    // Lane 0 divides by zero, lane 1 is inexact.
    let mut bench = Bench::new();
    bench.vector.xmm[0] = singles([1.0, 1.0, 0.0, 0.0]);
    bench.vector.xmm[1] = singles([0.0, 3.0, 1.0, 1.0]);
    bench.vector.mxcsr = 0x1f80 & !(ZERO_DIVIDE << 7);
    assert_eq!(bench.run(&[0x0f, 0x5e, 0xc1]), Err(Exception::SimdFloatingPoint));
    assert_eq!(bench.vector.mxcsr & 0x3f, ZERO_DIVIDE);
    bench.vector.mxcsr = 0x1f80;
    bench.run(&[0x0f, 0x5e, 0xc1]).unwrap();
    assert_eq!(bench.vector.mxcsr & 0x3f, ZERO_DIVIDE | PRECISION);
}

#[test]
fn an_exact_denormal_result_underflows_only_when_unmasked() {
    let mut bench = Bench::new();
    let halves = singles([f32::MIN_POSITIVE, 0.0, 0.0, 0.0]);
    // MIN_POSITIVE + -0.5 * MIN_POSITIVE is exact and denormal.
    let minus_half = u128::from((-f32::MIN_POSITIVE / 2.0).to_bits());
    (bench.vector.xmm[0], bench.vector.xmm[1]) = (halves, minus_half);
    bench.run(ADDPS_0_1).unwrap();
    assert_eq!(bench.vector.mxcsr & UNDERFLOW, 0);
    (bench.vector.xmm[0], bench.vector.xmm[1]) = (halves, minus_half);
    bench.vector.mxcsr = 0x1f80 & !(UNDERFLOW << 7);
    assert_eq!(bench.run(ADDPS_0_1), Err(Exception::SimdFloatingPoint));
    assert_eq!(bench.vector.mxcsr & (UNDERFLOW | PRECISION), UNDERFLOW);
}

#[test]
fn the_hosts_own_settings_survive() {
    let mut bench = Bench::new();
    // Flush to zero, denormals are zero, round down.
    bench.vector.mxcsr = 0x1f80 | 0x8000 | 0x40 | 0x2000;
    bench.vector.xmm[0] = singles([1.0; 4]);
    bench.vector.xmm[1] = singles([1e-30; 4]);
    bench.run(ADDPS_0_1).unwrap();
    assert_eq!(bench.vector.xmm[0], singles([1.0; 4]));
    let tiny = std::hint::black_box(f32::MIN_POSITIVE);
    assert_ne!(tiny / 2.0, 0.0);
}

#[test]
fn reserved_mxcsr_bits_are_refused() {
    let mut bench = Bench::new();
    bench.memory[..4].copy_from_slice(&0x0001_1f80u32.to_le_bytes());
    assert_eq!(bench.run(LDMXCSR), Err(Exception::GeneralProtection(0)));
    bench.memory[..4].copy_from_slice(&0x0000_9fa1u32.to_le_bytes());
    bench.run(LDMXCSR).unwrap();
    bench.memory[..4].fill(0);
    bench.run(STMXCSR).unwrap();
    assert_eq!(bench.memory[..4], 0x9fa1u32.to_le_bytes());
    // FXRSTOR with such a value changes nothing at all.
    bench.memory[24..28].copy_from_slice(&0x8000_1f80u32.to_le_bytes());
    bench.memory[160] = 1;
    assert_eq!(bench.run(FXRSTOR64), Err(Exception::GeneralProtection(0)));
    assert_eq!((bench.vector.xmm[0], bench.vector.mxcsr), (0, 0x9fa1));
}

#[test]
fn fxsave_keeps_what_it_does_not_own() {
    let mut bench = Bench::new();
    bench.memory.fill(0xaa);
    bench.vector.xmm[15] = 0x1234;
    bench.run(FXSAVE64).unwrap();
    assert_eq!(bench.memory[28..32], VectorState::MXCSR_MASK.to_le_bytes());
    assert_eq!(bench.memory[400..402], [0x34, 0x12]);
    assert_eq!(bench.memory[416..], [0xaa; 96]);
    let saved = bench.memory;
    let mut other = Bench::new();
    other.memory = saved;
    other.run(FXRSTOR64).unwrap();
    assert_eq!((other.vector, other.x87), (bench.vector, bench.x87));
}

#[test]
fn masked_stores_touch_only_their_bytes() {
    let mut bench = Bench::new();
    bench.memory.fill(0xee);
    bench.vector.xmm[0] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    bench.vector.xmm[1] = 0x80 << 8 | 0x80 << 120;
    bench.gpr[7] = 0x2003;
    // maskmovdqu xmm0, xmm1
    bench.run(&[0x66, 0x0f, 0xf7, 0xc1]).unwrap();
    assert_eq!((bench.address, bench.memory[1], bench.memory[15]), (0x2003, 1, 15));
    assert!(bench.memory[2..15].iter().all(|&byte| byte == 0xee) && bench.memory[0] == 0xee);
}

#[test]
fn pcmpistri_finds_a_character_and_the_end() {
    let text = |text: &str| {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        u128::from_le_bytes(bytes)
    };
    let mut bench = Bench::new();
    bench.vector.xmm[0] = text(",;");
    bench.vector.xmm[1] = text("name;value");
    // pcmpistri xmm0, xmm1, equal any
    bench.run(&[0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x00]).unwrap();
    assert_eq!(bench.gpr[1], 4);
    assert_eq!(bench.flags, ArithFlags { cf: true, zf: true, sf: true, ..ArithFlags::default() });
    // pcmpistri xmm0, xmm1, equal ordered: a substring
    bench.vector.xmm[0] = text("val");
    bench.run(&[0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x0c]).unwrap();
    assert_eq!(bench.gpr[1], 5);
}

#[test]
fn mmx_takes_over_the_x87_registers_until_emms() {
    let mut bench = Bench::new();
    bench.x87.set_top(5);
    // paddb mm1, mm1
    bench.run(&[0x0f, 0xfc, 0xc9]).unwrap();
    assert_eq!((bench.x87.top(), bench.x87.valid), (0, 0xff));
    assert_eq!(bench.x87.registers[1].sign_exponent, 0xffff);
    bench.run(&[0x0f, 0x77]).unwrap();
    assert_eq!(bench.x87.valid, 0);
}

#[test]
fn cr0_ts_spares_the_instructions_without_fpu_registers() {
    let needs = |code: &[u8]| {
        let mut decoder = iced_x86::Decoder::new(64, code, iced_x86::DecoderOptions::NONE);
        super::lower(&decoder.decode()).unwrap().needs_fpu()
    };
    // popcnt eax, eax; crc32 eax, eax; movnti [rax], eax
    assert!(!needs(&[0xf3, 0x0f, 0xb8, 0xc0]));
    assert!(!needs(&[0xf2, 0x0f, 0x38, 0xf1, 0xc0]));
    assert!(!needs(&[0x0f, 0xc3, 0x00]));
    assert!(needs(ADDPS_0_1) && needs(&[0x0f, 0x77]) && needs(LDMXCSR));
}
