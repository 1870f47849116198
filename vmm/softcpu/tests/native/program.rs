//! The code around the instructions under test: it loads a state, runs them and stores what they
//! left. Every address is absolute, so it may lie anywhere.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::state::{FXSAVE, window};

/// Loads the state at [`window::INPUT`] after saving what the host's calling convention wants kept.
pub fn prologue() -> Vec<u8> {
    let mut a = assembler();
    let input = |index: usize| qword_ptr(window::INPUT + (FXSAVE + 8 * index) as u64);
    let registers = registers();
    (|| {
        for register in [rbx, rbp, r12, r13, r14, r15] {
            a.push(register)?;
        }
        a.mov(qword_ptr(window::HOST_STACK), rsp)?;
        a.mov(rsp, window::OUTER_STACK)?;
        a.fxrstor64(ptr(window::INPUT))?;
        a.push(input(16))?;
        a.popfq()?;
        for (i, &register) in registers.iter().enumerate() {
            a.mov(register, input(i))?;
        }
        // The instructions under test begin a block of their own, which can be compiled from its start.
        let mut test = a.create_label();
        a.jmp(test)?;
        a.set_label(&mut test)?;
        a.zero_bytes()?;
        a.assemble(0)
    })()
    .expect("the prologue assembles")
}

/// Stores the state at [`window::OUTPUT`] and jumps to what [`window::EXIT`] holds.
pub fn epilogue() -> Vec<u8> {
    let mut a = assembler();
    let output = |index: usize| qword_ptr(window::OUTPUT + (FXSAVE + 8 * index) as u64);
    let registers = registers();
    (|| {
        for (i, &register) in registers.iter().enumerate() {
            a.mov(output(i), register)?;
        }
        a.mov(rsp, window::OUTER_STACK)?;
        a.pushfq()?;
        a.pop(output(16))?;
        a.fxsave64(ptr(window::OUTPUT))?;
        a.jmp(qword_ptr(window::EXIT))?;
        a.assemble(0)
    })()
    .expect("the epilogue assembles")
}

/// Goes back to the host's caller.
pub fn host_exit() -> Vec<u8> {
    let mut a = assembler();
    (|| {
        a.mov(rsp, window::OUTER_STACK)?;
        a.push(2)?;
        a.popfq()?;
        a.fninit()?;
        a.push(0x1f80)?;
        a.ldmxcsr(dword_ptr(rsp))?;
        a.mov(rsp, qword_ptr(window::HOST_STACK))?;
        for register in [r15, r14, r13, r12, rbp, rbx] {
            a.pop(register)?;
        }
        a.ret()?;
        a.assemble(0)
    })()
    .expect("the exit assembles")
}

/// Linux's selectors of 64-bit code and of data. (arch/x86/include/asm/segment.h.)
pub const USER_CODE: u16 = 0x33;
pub const USER_DATA: u16 = 0x2b;

/// How many words of what the kernel saves the signal handler keeps.
pub const SAVED_WORDS: usize = 23;

/// A signal handler: keeps what the exception found at [`window::FAULT`] and [`window::OUTPUT`], and lets the program
/// go on at the exit. (The kernel does not clear AC for a handler, so there is nothing unaligned in it.)
pub fn host_handler() -> Vec<u8> {
    // Offsets in `ucontext_t` (the kernel's arch/x86/include/uapi/asm/sigcontext.h).
    const REGISTERS: i32 = 40;
    const RIP: i32 = REGISTERS + 8 * 16;
    const RFLAGS: i32 = REGISTERS + 8 * 17;
    const SELECTORS: i32 = REGISTERS + 8 * 18;
    const FLOATING_POINT: i32 = REGISTERS + 8 * 23;
    let mut a = assembler();
    (|| {
        a.lea(rsi, ptr(rdx + REGISTERS))?;
        a.mov(edi, window::FAULT as u32)?;
        a.mov(ecx, SAVED_WORDS as u32)?;
        a.rep().movsq()?;
        a.mov(rsi, qword_ptr(rdx + FLOATING_POINT))?;
        a.mov(edi, window::OUTPUT as u32)?;
        a.mov(ecx, FXSAVE as u32 / 8)?;
        a.rep().movsq()?;
        a.mov(rax, window::EXIT_CODE)?;
        a.mov(qword_ptr(rdx + RIP), rax)?;
        a.mov(qword_ptr(rdx + RFLAGS), 2)?;
        // 64-bit code again, whatever ran.
        a.mov(word_ptr(rdx + SELECTORS), USER_CODE as u32)?;
        a.mov(word_ptr(rdx + SELECTORS + 6), USER_DATA as u32)?;
        a.ret()?;
        a.assemble(0)
    })()
    .expect("the handler assembles")
}

/// Where the handler goes on: keeps the selectors and makes them what Linux gives a program, and goes back.
pub fn host_exit_behind_fault() -> Vec<u8> {
    const ARCH_SET_FS: u32 = 0x1002;
    let mut a = assembler();
    (|| {
        store_selectors(&mut a)?;
        a.xor(eax, eax)?;
        for segment in [ds, es, fs, gs] {
            a.mov(segment, eax)?;
        }
        a.mov(eax, libc::SYS_arch_prctl as u32)?;
        a.mov(edi, ARCH_SET_FS)?;
        a.mov(rsi, qword_ptr(window::FS_BASE))?;
        a.syscall()?;
        a.assemble(0)
    })()
    .map(|code: Vec<u8>| [code, host_exit()].concat())
    .expect("the exit assembles")
}

/// Keeps the selectors at [`window::SELECTORS`].
pub fn store_selectors(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for (i, segment) in [ds, es, fs, gs].into_iter().enumerate() {
        a.mov(word_ptr(window::SELECTORS + 2 * i as u64), segment)?;
    }
    Ok(())
}

/// Switches on SSE and, for programs, alignment checks.
pub fn switch_on(a: &mut CodeAssembler) -> Result<(), IcedError> {
    // CR4.OSFXSR and OSXMMEXCPT; CR0.AM, NE and MP set, TS and EM clear.
    a.mov(rax, cr4)?;
    a.or(rax, 0x600)?;
    a.mov(cr4, rax)?;
    a.mov(rax, cr0)?;
    a.or(rax, 0x4_0022)?;
    a.and(rax, !0xc)?;
    a.mov(cr0, rax)
}

/// Switches everything on and stops.
pub fn guest_start() -> Vec<u8> {
    let mut a = assembler();
    (|| {
        switch_on(&mut a)?;
        a.assemble(0)
    })()
    .map(|code: Vec<u8>| [code, guest_exit()].concat())
    .expect("the guest's start assembles")
}

/// Presses the stop button, and waits to be put elsewhere.
pub fn guest_exit() -> Vec<u8> {
    let mut a = assembler();
    (|| {
        let mut here = a.create_label();
        a.out(0x80, al)?;
        a.set_label(&mut here)?;
        a.jmp(here)?;
        a.assemble(0)
    })()
    .expect("the guest's exit assembles")
}

fn assembler() -> CodeAssembler {
    CodeAssembler::new(64).expect("64 is a bitness")
}

fn registers() -> [AsmRegister64; 16] {
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
}
