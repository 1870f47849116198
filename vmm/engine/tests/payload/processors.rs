//! Payloads on two CPUs: how the second one starts, and what they say to each other.

use engine::{Exit, Kind};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::lifecycle::NoBus;
use crate::payload::*;
use crate::{LOCAL_APIC, end, end_of_interrupt, load_idt, result};

/// Where the second CPU starts, in each mode on its way.
const REAL: u64 = 0x2_0000;
const PROTECTED: u64 = 0x2_1000;
const LONG: u64 = 0x2_2000;

/// Interrupt command register, low half.
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600 | (REAL >> 12) as u32;
const FIXED: u32 = 0x4000;
const NMI: u32 = 0x4400;
const TO_OTHERS: u32 = 3 << 18;

/// Sends an interrupt to a CPU.
fn send(a: &mut CodeAssembler, cpu: u32, command: u32) -> Result<(), IcedError> {
    a.mov(edi, LOCAL_APIC)?;
    a.mov(dword_ptr(rdi + 0x310), cpu << 24)?;
    a.mov(dword_ptr(rdi + 0x300), command)
}

fn enable_apic(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(edi, LOCAL_APIC)?;
    a.mov(dword_ptr(rdi + 0xf0), 0x1ff)
}

/// Spins until the word at `address` is `value`.
fn await_value(a: &mut CodeAssembler, address: u64, value: u32) -> Result<(), IcedError> {
    let (mut again, mut there) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.cmp(dword_ptr(address), value)?;
    a.je(there)?;
    a.pause()?;
    a.jmp(again)?;
    a.set_label(&mut there)?;
    a.zero_bytes()
}

/// A payload whose second CPU goes from real mode to `work` in 64-bit mode, as Linux's does.
fn two_cpus(
    main: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    work: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Payload {
    let far_jump = |selector: u16, target: u64| {
        let mut bytes = vec![0xea];
        bytes.extend((target as u32).to_le_bytes());
        bytes.extend(selector.to_le_bytes());
        bytes
    };
    Payload::new(main)
        .on_cpus(2)
        .at(16, REAL, |a| {
            a.cli()?;
            a.xor(ax, ax)?;
            a.mov(ds, ax)?;
            // A 32-bit operand size for the whole base.
            a.db(&[0x66])?;
            a.lgdt(ptr(GDT_POINTER as u32))?;
            a.mov(eax, cr0)?;
            a.or(al, 1)?;
            a.mov(cr0, eax)?;
            a.db(&[0x66])?;
            a.db(&far_jump(CODE_32, PROTECTED))
        })
        .at(32, PROTECTED, |a| {
            a.mov(eax, 0x18)?;
            a.mov(ds, eax)?;
            a.mov(ss, eax)?;
            a.mov(esp, DATA as u32 + 0x800)?;
            // The stack, a call and back, and BCD for good measure.
            a.push(0x1234)?;
            a.pop(ebx)?;
            a.mov(eax, 0x20)?;
            a.mov(cr4, eax)?;
            a.mov(eax, PAGE_TABLES as u32)?;
            a.mov(cr3, eax)?;
            a.mov(ecx, 0xc000_0080u32)?;
            a.rdmsr()?;
            a.or(eax, 0x100)?;
            a.wrmsr()?;
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000u32)?;
            a.mov(cr0, eax)?;
            a.db(&far_jump(0x10, LONG))
        })
        .at(64, LONG, |a| {
            a.mov(esp, DATA as u32 + 0x800)?;
            load_idt(a)?;
            enable_apic(a)?;
            work(a)?;
            let mut forever = a.create_label();
            a.set_label(&mut forever)?;
            a.hlt()?;
            a.jmp(forever)
        })
}

/// Brings the second CPU up.
fn start_other(a: &mut CodeAssembler) -> Result<(), IcedError> {
    load_idt(a)?;
    enable_apic(a)?;
    send(a, 1, INIT)?;
    send(a, 1, STARTUP)
}

#[test]
fn the_second_cpu_starts_and_knows_its_number() {
    let payload = two_cpus(
        |a| {
            start_other(a)?;
            await_value(a, DATA, 1)?;
            a.mov(eax, dword_ptr(DATA + 4))?;
            result(a)?;
            a.mov(eax, dword_ptr(DATA + 8))?;
            result(a)?;
            end(a)
        },
        |a| {
            a.mov(dword_ptr(DATA + 8), ebx)?;
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.shr(ebx, 24)?;
            a.mov(dword_ptr(DATA + 4), ebx)?;
            a.lock().inc(dword_ptr(DATA))
        },
    );
    expect_results(&payload, &[1, 0x1234]);
}

#[test]
fn cpus_interrupt_each_other() {
    let payload = two_cpus(
        |a| {
            start_other(a)?;
            // Sleeps until the other one calls.
            let (mut again, mut there) = (a.create_label(), a.create_label());
            a.set_label(&mut again)?;
            a.cli()?;
            a.cmp(dword_ptr(DATA), 1)?;
            a.je(there)?;
            a.sti()?;
            a.hlt()?;
            a.jmp(again)?;
            a.set_label(&mut there)?;
            // And answers, to all but itself.
            send(a, 0, TO_OTHERS | FIXED | 0x41)?;
            await_value(a, DATA + 4, 1)?;
            a.mov(eax, dword_ptr(DATA + 4))?;
            result(a)?;
            end(a)
        },
        |a| {
            a.sti()?;
            send(a, 0, FIXED | 0x40)
        },
    )
    .on(0x40, |a| {
        a.lock().inc(dword_ptr(DATA))?;
        end_of_interrupt(a)
    })
    .on(0x41, |a| {
        a.lock().inc(dword_ptr(DATA + 4))?;
        end_of_interrupt(a)
    });
    expect_results(&payload, &[1]);
}

#[test]
fn an_nmi_wakes_a_cpu_that_takes_no_interrupts_and_one_waits_for_the_other() {
    let payload = two_cpus(
        |a| {
            start_other(a)?;
            await_value(a, DATA, 1)?;
            send(a, 1, NMI)?;
            // In the handler now: the next one is held back until it returns.
            await_value(a, DATA + 4, 1)?;
            send(a, 1, NMI)?;
            a.mov(ecx, 1000)?;
            let mut spin = a.create_label();
            a.set_label(&mut spin)?;
            a.pause()?;
            a.loop_(spin)?;
            a.mov(eax, dword_ptr(DATA + 4))?;
            result(a)?;
            a.mov(dword_ptr(DATA + 8), 1)?;
            await_value(a, DATA + 4, 2)?;
            end(a)
        },
        |a| {
            a.cli()?;
            a.lock().inc(dword_ptr(DATA))
        },
    )
    .on(2, |a| {
        a.lock().inc(dword_ptr(DATA + 4))?;
        await_value(a, DATA + 8, 1)?;
        a.iretq()
    });
    expect_results(&payload, &[1]);
}

#[test]
fn a_machine_whose_cpus_all_sleep_for_good_is_halted() {
    let payload = two_cpus(
        |a| {
            start_other(a)?;
            await_value(a, DATA, 1)?;
            a.cli()?;
            a.hlt()
        },
        |a| {
            a.cli()?;
            a.mov(dword_ptr(DATA), 1)
        },
    );
    let mut engine = prepare(Kind::Soft, &payload);
    let mut bus = NoBus;
    let exit = std::iter::repeat_with(|| engine.run(&mut bus)).find(|exit| *exit != Exit::Slice);
    assert_eq!(exit, Some(Exit::DeadHalt));
}
