//! Guests of a few instructions, as ELF files, and how to run them.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, dx};
use machine::{
    Activity, ClockMode, ConsoleLog, Execution, Inputs, Kind, Machine, MachineConfig, SerialConsole, Start,
    choose,
};
use tempfile::NamedTempFile;

/// Where a guest's code is.
const ENTRY: u64 = 0x100_0000;
/// No test comes near it; a guest that hangs fails by it.
const LIMIT: Duration = Duration::from_secs(60);

/// An ELF executable of what `write` assembles.
pub fn kernel(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> NamedTempFile {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler).unwrap();
    let code = assembler.assemble(ENTRY).unwrap();

    let mut elf = vec![0; 120];
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, value: &[u8]| elf[at..at + value.len()].copy_from_slice(value);
    put(16, &[2, 0, 62, 0]); // executable for x86-64
    put(24, &ENTRY.to_le_bytes());
    put(32, &64u64.to_le_bytes()); // one program header, at 64
    put(54, &[56, 0, 1, 0]);
    put(64, &1u32.to_le_bytes()); // PT_LOAD
    put(72, &120u64.to_le_bytes()); // from byte 120
    put(80, &ENTRY.to_le_bytes());
    put(88, &ENTRY.to_le_bytes());
    put(96, &(code.len() as u64).to_le_bytes());
    put(104, &0x1000u64.to_le_bytes());
    elf.extend_from_slice(&code);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// Writes `text` to the first serial port.
pub fn print(a: &mut CodeAssembler, text: &str) -> Result<(), IcedError> {
    a.mov(dx, 0x3f8)?;
    for byte in text.bytes() {
        a.mov(al, u32::from(byte))?;
        a.out(dx, al)?;
    }
    Ok(())
}

/// Writes `value` to a port.
pub fn out(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dx, port)?;
    a.mov(al, value)?;
    a.out(dx, al)
}

/// Switches the machine off through ACPI's sleep control register: SLP_EN, SLP_TYP 5.
pub fn power_off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    out(a, 0x600, 1 << 5 | 5 << 2)?;
    forever(a)
}

/// Spins.
pub fn forever(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

/// What a guest printed.
#[derive(Clone, Default)]
pub struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The engines of this computer; prints why one is left out.
pub fn engines() -> Vec<Kind> {
    let mut kinds = vec![Kind::Soft];
    match choose(Kind::Kvm) {
        Ok(_) => kinds.push(Kind::Kvm),
        Err(error) => eprintln!("skipping kvm: {error}"),
    }
    kinds
}

/// A configuration that runs `kernel` on `engine`, and what it will print.
pub fn config(engine: Kind, kernel: &NamedTempFile) -> (MachineConfig, Printed) {
    let printed = Printed::default();
    let config = MachineConfig {
        memory_bytes: 96 << 20,
        start: Start::Boot { kernel: kernel.path().into(), initrd: None, cmdline: String::new() },
        engine,
        cpus: 1,
        clock: ClockMode::Virtual,
        seed: 0,
        execution: Execution::default(),
        timeout: Some(LIMIT),
        rtc_base: Duration::ZERO,
        serial: SerialConsole { output: Box::new(printed.clone()), input: None },
        log: ConsoleLog::new(),
        activity: Activity::new(),
        inputs: Inputs::Live,
        debugger: None,
    };
    (config, printed)
}

/// A machine that reads its serial port from `input`.
pub fn machine(engine: Kind, kernel: &NamedTempFile, input: Option<OwnedFd>) -> (Machine, Printed) {
    let (mut config, printed) = config(engine, kernel);
    config.serial.input = input;
    (Machine::new(config).unwrap(), printed)
}
