//! Boots a kernel with its consoles (ttyS0, hvc0) on stdout and a virtio-rng beside them: `boot KERNEL [INITRD] [-- WORDS OF THE COMMAND LINE]`.
//! Environment: ENGINE is `auto` (default), `kvm` or `soft`; CLOCK is `virtual` (default) or `host`;
//! MEMORY is in MiB (default 256); TIMEOUT is in seconds.

use std::env;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use devices::input::InputQueue;
use devices::virtio::console::{Console, StreamPort};
use devices::virtio::rng::{Rng, SeededEntropy};
use machine::{
    Activity, ClockMode, ConsoleLog, Execution, Inputs, Kind, Machine, MachineConfig, SerialConsole, Start,
    choose,
};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (files, words) = match arguments.iter().position(|word| word == "--") {
        Some(index) => (&arguments[..index], &arguments[index + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let kernel = files.first().ok_or("usage: boot KERNEL [INITRD] [-- COMMAND LINE]")?;
    let kind: Kind = env::var("ENGINE").map_or(Ok(Kind::Auto), |name| name.parse())?;
    let timeout = env::var("TIMEOUT").ok().map(|seconds| seconds.parse()).transpose()?;
    let memory: u64 = env::var("MEMORY").map_or(Ok(256), |mib| mib.parse())?;
    let clock = match env::var("CLOCK").as_deref() {
        Ok("host") => ClockMode::Host,
        _ => ClockMode::Virtual,
    };
    let choice = choose(kind)?;
    eprintln!("engine {}", choice.reason);

    let log = ConsoleLog::new();
    let mut machine = Machine::new(MachineConfig {
        memory_bytes: memory << 20,
        start: Start::Boot {
            kernel: kernel.into(),
            initrd: files.get(1).map(Into::into),
            cmdline: format!("console=ttyS0 panic=-1 {}", words.join(" ")),
        },
        engine: choice.kind,
        cpus: env::var("CPUS").ok().map_or(Ok(1), |cpus| cpus.parse())?,
        clock,
        seed: 0,
        execution: Execution::default(),
        timeout: timeout.map(Duration::from_secs),
        rtc_base: Duration::from_secs(1_700_000_000),
        serial: SerialConsole {
            output: Box::new(std::io::stdout()),
            input: Some(std::io::stdin().as_fd().try_clone_to_owned()?),
        },
        log: log.clone(),
        activity: Activity::new(),
        inputs: Inputs::Live,
        debugger: None,
    })?;
    let virtio_console = StreamPort::new(log.tee(Box::new(std::io::stdout())), InputQueue::new());
    let unused_port = StreamPort::new(Box::new(std::io::sink()), InputQueue::new());
    machine.add_virtio(Box::new(Console::new(Box::new(virtio_console), Box::new(unused_port))))?;
    machine.add_virtio(Box::new(Rng::new(Box::new(SeededEntropy::new(0)))))?;
    let outcome = machine.run()?;
    eprintln!("{}", outcome.end);
    for failure in outcome.device_failures {
        eprintln!("{failure}");
    }
    eprintln!("{:#?}", outcome.stats);
    Ok(ExitCode::SUCCESS)
}
