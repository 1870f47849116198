//! Programs on two machines at once, of which one interprets and one compiles.

mod board;
mod lockstep;

use board::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lockstep::Side;
use softcpu::{Config, Execution, Exit};

const TIMER: u64 = 0x40;
const APIC: u64 = 0xfee0_0000;
const INTERRUPTS: u64 = DATA + 0x100;
const INTERRUPTED: u64 = DATA + 0x108;
const FAULTS: u64 = DATA + 0x110;
const TABLE: u64 = DATA + 0x200;
const WORDS: u64 = DATA + 0x400;
const COPY: u64 = DATA + 0x800;
/// A page that comes and goes.
const FLEETING: u64 = DATA + 0x1000;
const FUNCTIONS: u64 = CODE + 0x3000;
const ON_TIMER: u64 = CODE + 0x4000;
const ON_FAULT: u64 = CODE + 0x5000;
const ROUNDS: u32 = 3000;

/// A machine whose program does a little of everything, interrupted by its timer all the while. The
/// places where it was interrupted are summed up in memory.
fn busy(execution: Execution, seed: u64) -> Side {
    let mut board = Board::exactly(Config { execution, seed, ..Config::default() });
    board.gate(TIMER, ON_TIMER, 0, 0);
    board.assemble(ON_TIMER, |a| on_timer(a).unwrap());
    board.map_on_fault(ON_FAULT, FLEETING, FAULTS);
    for i in 0..4u32 {
        let function = FUNCTIONS + 0x40 * i as u64;
        board.put(TABLE + 8 * i as u64, function);
        board.assemble(function, |a| {
            a.add(eax, 0x0101_0101 + i).unwrap();
            a.rol(rax, i + 1).unwrap();
            a.ret().unwrap();
        });
    }
    board.prepare(|a| program(a).unwrap());
    Side { ram: board.ram, vm: board.vm, bus: Box::new(board.bus) }
}

fn on_timer(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(rax)?;
    a.inc(qword_ptr(INTERRUPTS))?;
    a.mov(rax, qword_ptr(rsp + 8))?;
    a.add(qword_ptr(INTERRUPTED), rax)?;
    // The interrupted program's flags count as well.
    a.mov(rax, qword_ptr(rsp + 24))?;
    a.add(qword_ptr(INTERRUPTED), rax)?;
    a.mov(eax, (APIC + 0xb0) as u32)?;
    a.mov(dword_ptr(rax), 0)?;
    a.pop(rax)?;
    a.iretq()
}

/// Registers: RBX counts rounds, RAX and R8 are mixed all the time.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for (register, value) in
        [(0xf0u64, 0x1ffu32), (0x3e0, 0xb), (0x320, 0x2_0000 | TIMER as u32), (0x380, 11)]
    {
        a.mov(eax, (APIC + register) as u32)?;
        a.mov(dword_ptr(rax), value)?;
    }
    a.sti()?;
    a.xor(ebx, ebx)?;
    a.mov(r8, 0x9e37_79b9_7f4a_7c15u64)?;
    let mut round = a.create_label();
    a.set_label(&mut round)?;
    mix(a)?;
    calls(a)?;
    sort(a)?;
    memory(a)?;
    self_modifying(a)?;
    a.inc(ebx)?;
    a.cmp(ebx, ROUNDS)?;
    a.jb(round)?;
    a.cli()?;
    a.hlt()
}

/// Arithmetic whose flags are used in every way.
fn mix(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut skip = a.create_label();
    a.imul_3(r9, r8, 0x5851)?;
    a.add(r8, r9)?;
    a.adc(eax, 7)?;
    a.mov(ecx, r8d)?;
    a.shr(rcx, 59)?;
    a.ror(r8, cl)?;
    a.sbb(r10, r9)?;
    a.setc(dl)?;
    a.sets(dh)?;
    a.cmovns(r11d, r8d)?;
    a.shl(r11, cl)?;
    a.mov(qword_ptr(WORDS - 8), r11)?;
    a.pushfq()?;
    a.pop(r12)?;
    a.add(qword_ptr(WORDS - 16), r12)?;
    a.bt(r8, 17)?;
    a.rcl(r13, 1)?;
    a.bsf(r14, r8)?;
    a.jnz(skip)?;
    a.xchg(r14, r15)?;
    a.set_label(&mut skip)?;
    a.mov(rax, r8)?;
    a.mul(r9)?;
    a.xor(rax, rdx)?;
    a.mov(r9d, ebx)?;
    a.inc(r9)?;
    a.xor(edx, edx)?;
    a.div(r9)?;
    a.dec(word_ptr(WORDS - 24))?;
    a.adc(rax, rdx)
}

/// Calls through a table, recursion on the stack.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut down, mut over) = (a.create_label(), a.create_label());
    a.mov(esi, eax)?;
    a.and(esi, 3)?;
    a.call(qword_ptr(rsi * 8 + TABLE))?;
    a.mov(rdi, FUNCTIONS)?;
    a.call(rdi)?;
    a.mov(edi, ebx)?;
    a.and(edi, 7)?;
    a.call(down)?;
    a.jmp(over)?;
    a.set_label(&mut down)?;
    a.push(rdi)?;
    a.sub(edi, 1)?;
    let mut bottom = a.create_label();
    a.js(bottom)?;
    a.call(down)?;
    a.set_label(&mut bottom)?;
    a.pop(rdi)?;
    a.add(rax, rdi)?;
    a.ret()?;
    a.set_label(&mut over)
}

/// A pass of bubble sort over 32 words, one of which is new.
fn sort(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut ordered) = (a.create_label(), a.create_label());
    a.mov(ecx, ebx)?;
    a.and(ecx, 31)?;
    a.mov(dword_ptr(rcx * 4 + WORDS), eax)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut next)?;
    a.mov(edx, dword_ptr(rcx * 4 + WORDS))?;
    a.cmp(edx, dword_ptr(rcx * 4 + WORDS + 4))?;
    a.jbe(ordered)?;
    a.xchg(dword_ptr(rcx * 4 + WORDS + 4), edx)?;
    a.mov(dword_ptr(rcx * 4 + WORDS), edx)?;
    a.set_label(&mut ordered)?;
    a.inc(ecx)?;
    a.cmp(ecx, 31)?;
    a.jb(next)
}

/// Strings, atomic operations, vectors, and a page that is missing now and then.
fn memory(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut mapped = a.create_label();
    a.mov(esi, WORDS as u32)?;
    a.mov(edi, COPY as u32)?;
    a.mov(ecx, 130)?;
    a.rep().movsb()?;
    a.lock().xadd(qword_ptr(COPY), rax)?;
    a.lock().cmpxchg(dword_ptr(COPY + 8), r8d)?;
    a.lock().bts(dword_ptr(COPY + 16), 5)?;
    a.test(ebx, 63)?;
    a.jnz(mapped)?;
    a.and(qword_ptr(Board::entry(FLEETING)), -2)?;
    a.invlpg(ptr(FLEETING))?;
    a.set_label(&mut mapped)?;
    // Across the edge of the page.
    a.add(qword_ptr(FLEETING - 3), r8)?;
    a.movzx(edx, word_ptr(FLEETING + 1))?;
    a.add(r8, rdx)
}

/// Every 16 rounds the immediate of a function's first instruction changes.
fn self_modifying(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut unchanged = a.create_label();
    a.test(ebx, 15)?;
    a.jnz(unchanged)?;
    a.mov(byte_ptr(FUNCTIONS + 2), al)?;
    a.set_label(&mut unchanged)
}

#[test]
fn the_two_agree_whatever_the_program_does() {
    for (seed, after, interval) in [(0, 1, 1009), (7, 2, 30_011), (0, 16, 250_007)] {
        let agreement = lockstep::compare(&|execution| busy(execution, seed), after, interval, 20_000_000);
        let agreement = agreement.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
        assert_eq!(agreement.end, Some(Exit::DeadHalt));
        assert!(agreement.compiled_blocks > 20, "{agreement:?}");
    }
}

#[test]
fn the_program_is_interrupted_and_faults() {
    let mut side = busy(Execution::Compile { after: 1 }, 0);
    let exit = loop {
        match side.vm.run(&mut *side.bus) {
            Exit::Slice => {}
            exit => break exit,
        }
    };
    assert_eq!(exit, Exit::DeadHalt);
    let get = |at: u64| vm_memory::Bytes::read_obj::<u64>(&*side.ram, vm_memory::GuestAddress(at)).unwrap();
    assert!(get(INTERRUPTS) > 1000, "{} interrupts", get(INTERRUPTS));
    assert_eq!(get(FAULTS), (ROUNDS as u64).div_ceil(64));
    assert!(side.vm.stats().invalidations as u32 >= ROUNDS / 16);
}

/// The comparison itself: two different programs are told apart, at the right instruction.
#[test]
fn a_difference_is_found_at_its_instruction() {
    let make = |execution: Execution| {
        let mut board = Board::exactly(Config { execution, ..Config::default() });
        board.prepare(|a| {
            let mut again = a.create_label();
            a.mov(ecx, 500).unwrap();
            a.set_label(&mut again).unwrap();
            a.add(rax, rcx).unwrap();
            a.dec(ecx).unwrap();
            a.jnz(again).unwrap();
            a.mov(ebx, if execution == Execution::Interpret { 1 } else { 2 }).unwrap();
            a.hlt().unwrap();
        });
        Side { ram: board.ram, vm: board.vm, bus: Box::new(board.bus) }
    };
    let difference = lockstep::compare(&make, 1, 1000, 10_000).unwrap_err();
    // The program's own bytes differ in memory from the start.
    assert!(difference.contains("agree at instruction 0 and differ at 1"), "{difference}");
    assert!(difference.contains("memory at 0x2"), "{difference}");
}
