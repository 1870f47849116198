//! Alignment checks: what makes them happen, and what the exception says.

use engine::{Exit, Kind};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::payload::{DATA, Payload, RESULT_PORT, Seen, kvm_interprets, on_every_engine};
use crate::{end, load_idt, result};

const AC: u32 = 1 << 18;
const AM: u32 = 1 << 18;
/// The payload's own descriptors, with a task-state segment that has a stack for exceptions of programs.
const GDT: u64 = DATA + 0x100;
const TASK: u64 = DATA + 0x200;
const KERNEL_STACK: u64 = DATA + 0xe00;
const USER_STACK: u64 = DATA + 0xc00;
const USER_DATA: u32 = 0x2b;
const USER_CODE: u32 = 0x33;
const TASK_SELECTOR: u32 = 0x40;
/// A place that is at no multiple of 8, 4 or 2.
const ODD: u64 = DATA + 0x801;

/// Writes one instruction, or a few.
type Access = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Loads the descriptors.
fn prepare(a: &mut CodeAssembler) -> Result<(), IcedError> {
    load_idt(a)?;
    let descriptors = [
        (0x10, 0x00af_9b00_0000_ffff),
        (0x18, 0x00cf_9300_0000_ffff),
        (0x28, 0x00cf_f300_0000_ffff),
        (0x30, 0x00af_fb00_0000_ffffu64),
        (u64::from(TASK_SELECTOR), 0x0000_8900_0000_0067 | TASK << 16),
    ];
    for (selector, descriptor) in descriptors {
        a.mov(rax, descriptor)?;
        a.mov(qword_ptr(GDT + selector), rax)?;
    }
    a.mov(eax, KERNEL_STACK as u32)?;
    a.mov(qword_ptr(TASK + 4), rax)?;
    a.mov(word_ptr(DATA), TASK_SELECTOR + 15)?;
    a.mov(eax, GDT as u32)?;
    a.mov(qword_ptr(DATA + 2), rax)?;
    a.lgdt(ptr(DATA))?;
    a.mov(eax, TASK_SELECTOR)?;
    a.ltr(ax)
}

/// Reads and writes at the odd place with and without RFLAGS.AC, first privileged and then as a program, which
/// ends with UD2.
fn payload(checked: bool) -> Payload {
    Payload::new(|a| {
        prepare(a)?;
        a.mov(rax, cr0)?;
        if checked {
            a.or(eax, AM)?;
        } else {
            a.and(eax, !AM)?;
        }
        a.mov(cr0, rax)?;
        // Nothing privileged is checked.
        a.push(AC as i32)?;
        a.popfq()?;
        a.mov(eax, dword_ptr(ODD))?;
        let mut program = a.create_label();
        a.push(USER_DATA as i32)?;
        a.push(USER_STACK as i32)?;
        a.push(AC as i32 | 2)?;
        a.push(USER_CODE as i32)?;
        a.lea(rax, qword_ptr(program))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut program)?;
        a.mov(ebx, ODD as u32)?;
        let accesses: [Access; 6] = [
            |a| a.mov(eax, dword_ptr(rbx)),
            |a| a.mov(word_ptr(rbx), ax),
            |a| a.inc(qword_ptr(rbx)),
            // These are where they should be.
            |a| a.mov(al, byte_ptr(rbx)),
            |a| a.mov(eax, dword_ptr(rbx + 3)),
            // Checks are off behind this one.
            |a| {
                a.push(2)?;
                a.popfq()?;
                a.mov(eax, dword_ptr(rbx))
            },
        ];
        for access in accesses {
            let mut behind = a.create_label();
            a.lea(r8, qword_ptr(behind))?;
            access(a)?;
            a.set_label(&mut behind)?;
            a.nop()?;
        }
        a.ud2()
    })
    .on(17, |a| {
        a.pop(rax)?;
        result(a)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        result(a)?;
        a.mov(qword_ptr(rsp), r8)?;
        a.iretq()
    })
    .on(6, |a| {
        a.mov(eax, 6)?;
        result(a)?;
        end(a)
    })
}

/// Runs it on every engine; a KVM that is excused for `why` may show something else.
fn expect_unless(checked: bool, expected: &[u32], excused: bool, why: &str) {
    let expected: Vec<_> =
        expected.iter().map(|value| Seen::Out(RESULT_PORT, value.to_le_bytes().to_vec())).collect();
    on_every_engine(&payload(checked), |kind, exit, seen| {
        if kind == Kind::Kvm && excused && seen != expected {
            return eprintln!("skipping kvm: {why}");
        }
        assert_eq!((exit, seen), (&Exit::Stopped, &expected[..]), "{kind}");
    });
}

#[test]
fn a_program_that_asks_for_it_is_denied_what_is_not_aligned() {
    // "TCGTCGTCGTCG", where a hypervisor has its name.
    let is_tcg = std::arch::x86_64::__cpuid(0x4000_0000).ebx == u32::from_le_bytes(*b"TCGT");
    // An error code of 0, and a program's code segment, three times.
    let expected = [0, USER_CODE, 0, USER_CODE, 0, USER_CODE, 6];
    expect_unless(true, &expected, is_tcg, "QEMU's TCG checks no alignment");
}

#[test]
fn alignment_is_not_checked_where_the_kernel_does_not_allow_it() {
    expect_unless(false, &[6], kvm_interprets(), "programs run with the host's CR0.AM there");
}
