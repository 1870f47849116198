//! Boots a Linux kernel on two machines, of which one interprets and one compiles, and compares all
//! registers and all memory as they go.
//!
//!     cargo run --release -p softcpu --example lockstep -- VMLINUX CPIO ["more command line"]
//!
//! The status is 1 where they differ; the difference is then searched for and described.

#[path = "../../tests/lockstep/mod.rs"]
mod lockstep;
#[path = "../bootlinux/pc.rs"]
mod pc;

use std::process::ExitCode;

use lockstep::Side;
use pc::{Error, Pc};
use softcpu::{Config, Execution};

/// Instructions between two comparisons. A prime, so that they fall anywhere in a loop.
const INTERVAL: u64 = 4_999_999;

/// A boot takes a tenth of this.
const LIMIT: u64 = 4_000_000_000;

/// Few, so that nearly all of the boot is compiled.
const COMPILE_AFTER: u32 = 2;

fn main() -> Result<ExitCode, Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, initramfs, more @ ..] = arguments.as_slice() else {
        return Err("usage: lockstep VMLINUX CPIO [COMMAND LINE]".into());
    };
    let (kernel, initramfs, more) = (std::fs::read(kernel)?, std::fs::read(initramfs)?, more.join(" "));
    // The first machine shows whether the files are good.
    Pc::new(&kernel, &initramfs, &more, Config::default())?;
    let make = |execution: Execution| {
        let config = Config { execution, ..Config::default() };
        let mut pc = Pc::new(&kernel, &initramfs, &more, config).expect("made before");
        pc.serial.silent = execution != Execution::Interpret;
        Side { ram: pc.ram, vm: pc.vm, bus: Box::new(pc.serial) }
    };
    match lockstep::compare(&make, COMPILE_AFTER, INTERVAL, LIMIT) {
        Ok(agreement) => {
            println!("\nthe two agree: {agreement:?}");
            Ok(ExitCode::SUCCESS)
        }
        Err(difference) => {
            println!("\nthe two differ: {difference}");
            Ok(ExitCode::FAILURE)
        }
    }
}
