//! Boots a Linux kernel on the software CPU alone: RAM, a serial port, nothing else.
//!
//!     cargo run --release -p softcpu --example bootlinux -- [--interpret] VMLINUX CPIO ["more command line"]
//!
//! `VMLINUX` is the uncompressed ELF kernel, `CPIO` an initramfs. The serial console goes to
//! standard output and the CPU's counters to standard error. It is the smallest whole-system test
//! of this crate; the real machine, with ACPI and virtio devices, is the `machine` crate.

mod pc;

use std::time::Instant;

use pc::Pc;
use softcpu::{Config, Execution, Exit};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments: Vec<String> = std::env::args().collect();
    let mut config = Config { execution: Execution::COMPILE, ..Config::default() };
    if arguments.get(1).is_some_and(|argument| argument == "--interpret") {
        arguments.remove(1);
        config.execution = Execution::Interpret;
    }
    let [_, kernel, initramfs, more @ ..] = arguments.as_slice() else {
        return Err("usage: bootlinux VMLINUX CPIO [COMMAND LINE]".into());
    };
    let mut pc = Pc::new(&std::fs::read(kernel)?, &std::fs::read(initramfs)?, &more.join(" "), config)?;
    let started = Instant::now();
    loop {
        match pc.vm.run(&mut pc.serial) {
            Exit::Idle { until: Some(until) } => pc.vm.skip_to(until),
            Exit::Slice => {}
            exit => {
                eprintln!("{exit:?}");
                break;
            }
        }
    }
    let stats = pc.vm.stats();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{stats:?}");
    eprintln!(
        "guest time {:.2?}, host time {seconds:.2} s, {:.0} MIPS",
        pc.vm.now(),
        stats.instructions as f64 / seconds / 1e6
    );
    Ok(())
}
