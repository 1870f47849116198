//! Exceptions and images; arithmetic is compared with the host CPU in `tests/native_x87.rs`.

use super::state::F80;
use crate::exception::Exception;
use crate::simd::testing::Bench;

const FLD1: &[u8] = &[0xd9, 0xe8];
const FLDZ: &[u8] = &[0xd9, 0xee];
const FDIVP: &[u8] = &[0xde, 0xf9];
const FWAIT: &[u8] = &[0x9b];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
/// Operands at `[rax]`, which is the bench's memory.
const FLDCW: &[u8] = &[0xd9, 0x28];
const FSTP_M64: &[u8] = &[0xdd, 0x18];
const FNSAVE: &[u8] = &[0xdd, 0x30];
const FRSTOR: &[u8] = &[0xdd, 0x20];
const FNSTENV: &[u8] = &[0xd9, 0x30];

const ONE: F80 = F80 { significand: 1 << 63, sign_exponent: 0x3fff };
const ZERO_DIVIDE: u16 = 4;

fn unmask(bench: &mut Bench, exception: u16) {
    bench.memory[..2].copy_from_slice(&(0x037f & !exception).to_le_bytes());
    bench.run(FLDCW).unwrap();
}

#[test]
fn an_unmasked_exception_waits_for_the_next_waiting_instruction() {
    let mut bench = Bench::new();
    unmask(&mut bench, ZERO_DIVIDE);
    bench.run(FLD1).unwrap();
    bench.run(FLDZ).unwrap();
    assert_eq!(bench.run(FDIVP), Ok(()), "the instruction itself completes");
    assert_eq!(bench.x87.register(1), ONE, "with its operands untouched");
    assert_eq!(bench.x87.last_instruction, 0xffff_8000_1234_5678);
    bench.run(FNSTSW_AX).unwrap();
    assert_eq!(bench.gpr[0] & 0x80ff, 0x8084, "B, ES, ZE");
    assert_eq!(bench.run(FWAIT), Err(Exception::X87FloatingPoint));
    // MMX instructions wait too.
    assert_eq!(bench.run(&[0x0f, 0x77]), Err(Exception::X87FloatingPoint));
    bench.run(FNCLEX).unwrap();
    assert_eq!(bench.run(FWAIT), Ok(()));
}

#[test]
fn without_cr0_ne_nothing_is_reported() {
    let mut bench = Bench::new();
    bench.numeric_error = false;
    unmask(&mut bench, ZERO_DIVIDE);
    for code in [FLD1, FLDZ, FDIVP] {
        bench.run(code).unwrap();
    }
    assert!(bench.x87.pending());
    assert_eq!(bench.run(FWAIT), Ok(()));
}

#[test]
fn the_ninth_push_overflows_the_stack() {
    let mut bench = Bench::new();
    for _ in 0..8 {
        bench.run(FLD1).unwrap();
    }
    assert_eq!((bench.x87.valid, bench.x87.status & 0x241), (0xff, 0));
    bench.run(FLD1).unwrap();
    assert_eq!(bench.x87.status & 0x241, 0x241, "C1, SF, IE");
    assert_eq!(bench.x87.register(0), F80::INDEFINITE);
}

#[test]
fn a_store_that_faults_pops_nothing_and_flags_nothing() {
    let mut bench = Bench::new();
    // FLDPI: not exact as a double.
    bench.run(&[0xd9, 0xeb]).unwrap();
    let before = bench.x87;
    bench.absent = true;
    assert!(matches!(bench.run(FSTP_M64), Err(Exception::PageFault { .. })));
    assert_eq!(bench.x87, before);
    bench.absent = false;
    bench.run(FSTP_M64).unwrap();
    assert_eq!(bench.memory[..8], std::f64::consts::PI.to_le_bytes());
    assert_eq!(bench.x87.status & 0x20, 0x20);
}

#[test]
fn fnsave_initializes_and_frstor_brings_it_back() {
    let mut bench = Bench::new();
    for code in [FLD1, FLDZ, &[0xd9, 0xeb][..]] {
        bench.run(code).unwrap();
    }
    let before = bench.x87;
    bench.run(FNSAVE).unwrap();
    assert_eq!((bench.x87.valid, bench.x87.control, bench.x87.status), (0, 0x37f, 0));
    // Tags of R7, R6, R5: valid, zero, valid; the others empty.
    assert_eq!(bench.memory[8..10], 0b0001_0011_1111_1111u16.to_le_bytes());
    bench.run(FRSTOR).unwrap();
    assert_eq!(bench.x87, before);
}

#[test]
fn fnstenv_masks_everything_afterwards() {
    let mut bench = Bench::new();
    unmask(&mut bench, 0x3f);
    bench.run(FNSTENV).unwrap();
    assert_eq!(bench.memory[..4], 0xffff_0340u32.to_le_bytes());
    assert_eq!(bench.x87.control, 0x37f);
}

#[test]
fn a_double_that_does_not_fit_stays_on_the_stack_when_unmasked() {
    let mut bench = Bench::new();
    // Overflow unmasked: 2^16000 is no double.
    unmask(&mut bench, 8);
    bench.x87.push(F80 { significand: 1 << 63, sign_exponent: 0x3fff + 16000 });
    bench.memory.fill(0x55);
    bench.run(FSTP_M64).unwrap();
    assert_eq!((bench.memory[0], bench.x87.is_empty(0)), (0x55, false));
    assert!(bench.x87.pending());
}
