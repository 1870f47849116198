//! Copies and fills of all lengths, compiled and interpreted side by side.

mod board;
mod lockstep;

use board::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lockstep::Side;
use softcpu::{Config, Execution, Exit};

const ON_FAULT: u64 = CODE + 0x5000;
const FAULTS: u64 = DATA + 0x110;
/// Four pages, the third of which comes and goes.
const FIELD: u64 = DATA + 0x4000;
const FLEETING: u64 = FIELD + 0x2000;
const ROUNDS: u32 = 4000;

/// A machine that copies and fills within [`FIELD`], at places and for lengths that follow from each other.
fn moving(execution: Execution) -> Side {
    let mut board = Board::exactly(Config { execution, ..Config::default() });
    board.map_on_fault(ON_FAULT, FLEETING, FAULTS);
    board.prepare(|a| program(a).unwrap());
    Side { ram: board.ram, vm: board.vm, bus: Box::new(board.bus) }
}

fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.xor(ebx, ebx)?;
    a.mov(r8, 0x9e37_79b9_7f4a_7c15u64)?;
    let mut round = a.create_label();
    a.set_label(&mut round)?;
    for number in 0..8 {
        operands(a, number)?;
        // What has flags before it must have them behind it.
        a.add(rax, r9)?;
        match number {
            0 => a.rep().movsb()?,
            1 => a.rep().movsw()?,
            2 => a.rep().movsd()?,
            3 => a.rep().movsq()?,
            4 => a.rep().stosb()?,
            5 => a.rep().stosw()?,
            6 => a.rep().stosd()?,
            _ => a.rep().stosq()?,
        }
        a.adc(r9, rdi)?;
        a.pushfq()?;
        a.pop(r10)?;
        a.add(r9, r10)?;
        a.xor(r9, rsi)?;
        a.add(r9, rcx)?;
        a.cld()?;
    }
    let mut mapped = a.create_label();
    a.test(ebx, 31)?;
    a.jnz(mapped)?;
    a.and(qword_ptr(Board::entry(FLEETING)), -2)?;
    a.invlpg(ptr(FLEETING))?;
    a.set_label(&mut mapped)?;
    a.inc(ebx)?;
    a.cmp(ebx, ROUNDS)?;
    a.jb(round)?;
    a.hlt()
}

/// RSI and RDI in [`FIELD`], often close to each other, RCX mostly small, now and then backwards.
fn operands(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(r11, 0x5851_f42d_4c95_7f2du64)?;
    a.imul_2(r8, r11)?;
    a.lea(r8, qword_ptr(r8 + number as i32 + 1))?;
    a.mov(rax, r8)?;
    a.shr(rax, 20)?;
    a.mov(esi, eax)?;
    a.and(esi, 0x1fff)?;
    a.shr(rax, 13)?;
    a.mov(edi, eax)?;
    a.and(edi, 0x1fff)?;
    let (mut far, mut forwards) = (a.create_label(), a.create_label());
    a.test(eax, 0x4000)?;
    a.jz(far)?;
    a.mov(edi, eax)?;
    a.and(edi, 63)?;
    a.add(edi, esi)?;
    a.set_label(&mut far)?;
    a.shr(rax, 15)?;
    a.mov(ecx, eax)?;
    a.and(ecx, 0x1f)?;
    // Of a length that one page, or the field, does not always have.
    a.test(eax, 0x1e0)?;
    let mut short = a.create_label();
    a.jnz(short)?;
    a.shl(ecx, 5)?;
    a.set_label(&mut short)?;
    a.add(rsi, FIELD as i32)?;
    a.add(rdi, FIELD as i32)?;
    a.test(eax, 0xe00)?;
    a.jnz(forwards)?;
    a.std()?;
    a.set_label(&mut forwards)?;
    a.mov(rax, r8)
}

#[test]
fn strings_are_moved_alike() {
    let agreement = lockstep::compare(&moving, 1, 1009, 20_000_000);
    let agreement = agreement.unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(agreement.end, Some(Exit::DeadHalt));
    assert!(agreement.compiled_blocks > 10, "{agreement:?}");
}

#[test]
fn some_of_them_fault_in_the_middle() {
    let mut side = moving(Execution::Compile { after: 1 });
    while side.vm.run(&mut *side.bus) == Exit::Slice {}
    let faults = vm_memory::Bytes::read_obj::<u64>(&*side.ram, vm_memory::GuestAddress(FAULTS)).unwrap();
    assert!(faults > 50, "{faults} faults");
}
