//! Flags and registers that only a page fault sees: the interpreter and compiled code show it the same,
//! in random programs whose every few instructions fault.

mod board;
mod lockstep;

use board::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lockstep::Side;
use softcpu::{Config, Execution, Exit};

/// A page that is never there.
const MISSING: u64 = DATA + 0x1000;
const FAULTS: u64 = DATA + 0x800;
const SEEN: u64 = DATA + 0x808;
const ROUND: u64 = DATA + 0x810;
const ON_FAULT: u64 = CODE + 0x5000;
/// Bytes of an instruction that faults, which the handler steps over.
const FAULTING_LEN: i32 = 6;

/// A pseudo-random number (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Registers with and without a home in the host's.
const WIDE: [AsmRegister64; 7] = [rax, rbx, rsi, r8, r10, r13, r14];
const NARROW: [AsmRegister32; 7] = [eax, ebx, esi, r8d, r10d, r13d, r14d];
const BYTES: [AsmRegister8; 7] = [al, bl, sil, r8b, r10b, r13b, r14b];

fn on_fault(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.add(qword_ptr(rsp + 8), FAULTING_LEN)?;
    a.inc(qword_ptr(FAULTS))?;
    a.push(rax)?;
    a.mov(rax, qword_ptr(rsp + 32))?;
    for register in WIDE {
        a.rol(qword_ptr(SEEN), 7)?;
        a.xor(qword_ptr(SEEN), register)?;
    }
    a.pop(rax)?;
    a.xor(qword_ptr(SEEN), rax)?;
    a.lea(rsp, qword_ptr(rsp + 8))?;
    a.iretq()
}

/// An instruction on registers, most of which write flags.
fn on_registers(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let (x, y) = (random.pick(&WIDE), random.pick(&WIDE));
    let (d, e) = (random.pick(&NARROW), random.pick(&NARROW));
    let (b, c) = (random.pick(&BYTES), random.pick(&BYTES));
    let (number, count) = (random.below(1 << 32) as i32, random.below(40) as u32);
    match random.below(32) {
        0 => a.add(x, y),
        1 => a.add(d, number),
        2 => a.add(b, c),
        3 => a.sub(d, e),
        4 => a.sub(x, number),
        5 => a.sub(b, number as i8 as i32),
        6 => a.and(x, y),
        7 => a.or(b, c),
        8 => a.xor(d, e),
        9 => a.xor(x, number),
        10 => a.cmp(d, e),
        11 => a.cmp(x, number),
        12 => a.test(b, c),
        13 => a.test(d, number),
        14 => a.neg(x),
        15 => a.neg(b),
        16 => a.inc(d),
        17 => a.dec(x),
        18 => a.dec(b),
        19 => a.rol(d, count),
        20 => a.ror(x, count),
        21 => a.rol(b, count),
        22 => a.shl(d, count),
        23 => a.sar(x, count),
        24 => a.adc(d, e),
        25 => a.imul_2(x, y),
        26 => a.mov(x, y),
        27 => a.mov(d, e),
        28 => a.lea(x, qword_ptr(x + y * 2 + 5)),
        29 => a.setb(b),
        30 => a.cmovs(x, y),
        _ => a.bswap(d),
    }
}

/// An access to a page that is there.
fn on_memory(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let at = rbp + 8 * random.below(16) as i32;
    let d = random.pick(&NARROW);
    match random.below(5) {
        0 => a.mov(dword_ptr(at), d),
        1 => a.mov(d, dword_ptr(at)),
        2 => a.add(d, dword_ptr(at)),
        3 => a.xor(dword_ptr(at), d),
        _ => a.cmp(d, dword_ptr(at)),
    }
}

fn faulting(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let at = rdi + 0x200;
    match random.below(6) {
        0 => a.mov(dword_ptr(at), eax),
        1 => a.mov(ebx, dword_ptr(at)),
        2 => a.add(esi, dword_ptr(at)),
        3 => a.inc(dword_ptr(at)),
        4 => a.adc(dword_ptr(at), ebx),
        _ => a.cmp(dword_ptr(at), eax),
    }
}

fn program(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let mut round = a.create_label();
    a.mov(rdi, MISSING)?;
    a.mov(rbp, DATA)?;
    a.mov(dword_ptr(ROUND), 6)?;
    for register in WIDE {
        a.mov(register, random.below(u64::MAX))?;
    }
    a.set_label(&mut round)?;
    for _ in 0..4 {
        for _ in 0..2 + random.below(8) {
            if random.below(4) == 0 { on_memory(a, random) } else { on_registers(a, random) }?;
        }
        faulting(a, random)?;
        // A loop of one block, which faults only behind its last round.
        let mut again = a.create_label();
        a.mov(ecx, 1 + random.below(5) as u32)?;
        a.set_label(&mut again)?;
        for _ in 0..1 + random.below(10) {
            if random.below(4) == 0 { on_memory(a, random) } else { on_registers(a, random) }?;
        }
        a.dec(ecx)?;
        a.jne(again)?;
        faulting(a, random)?;
    }
    a.dec(dword_ptr(ROUND))?;
    a.jne(round)?;
    a.hlt()
}

fn side(execution: Execution, seed: u64) -> Side {
    let mut board = Board::exactly(Config { execution, ..Config::default() });
    board.gate(14, ON_FAULT, 0, 0);
    board.assemble(ON_FAULT, |a| on_fault(a).unwrap());
    board.put(Board::entry(MISSING), 0);
    board.prepare(|a| program(a, &mut Random(0x9e37_79b9_7f4a_7c15 ^ seed << 32)).unwrap());
    Side { ram: board.ram, vm: board.vm, bus: Box::new(board.bus) }
}

#[test]
fn page_faults_see_the_same_flags() {
    for seed in 0..400 {
        let agreement = lockstep::compare(&|execution| side(execution, seed), 1, 2003, 100_000);
        let agreement = agreement.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
        assert_eq!(agreement.end, Some(Exit::DeadHalt), "seed {seed}");
        assert!(agreement.compiled_blocks > 8, "seed {seed}: {agreement:?}");
    }
}

#[test]
fn every_round_faults() {
    let mut side = side(Execution::Compile { after: 1 }, 1);
    while side.vm.run(&mut *side.bus) == Exit::Slice {}
    let faults: u64 = vm_memory::Bytes::read_obj(&*side.ram, vm_memory::GuestAddress(FAULTS)).unwrap();
    assert_eq!(faults, 6 * 8);
}
