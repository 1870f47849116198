//! Whole runs of tiny guests, on every engine that this computer offers: from an ELF file to the
//! reason why the run ended.

mod guest;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use devices::virtio::{ActivateError, ActiveQueues, DeviceError, VirtioDevice};
use guest::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::{
    ClockMode, End, InputReader, InputWriter, Inputs, Kind, Labels, Machine, MachineError, Outcome, Settings,
    Snapshot, SnapshotRequest, Start,
};

/// Runs a guest on every engine; `check` judges each run.
fn run(
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    check: impl Fn(Kind, &Outcome, &str),
) {
    let kernel = kernel(write);
    for engine in engines() {
        let (machine, printed) = machine(engine, &kernel, None);
        let outcome = machine.run().unwrap();
        check(engine, &outcome, &printed.text());
    }
}

#[test]
fn a_guest_prints_and_switches_itself_off() {
    run(
        |a| {
            print(a, "hello\nunfinished")?;
            power_off(a)
        },
        |engine, outcome, printed| {
            assert_eq!((&outcome.end, printed), (&End::PoweredOff, "hello\nunfinished"), "{engine}");
            assert_eq!(outcome.console, ["hello", "unfinished"]);
            assert_eq!(outcome.stats.accesses.port_writes, 17);
            assert_eq!(outcome.stats.engine, engine);
            assert_eq!(outcome.stats.instructions.is_some(), engine == Kind::Soft);
        },
    );
}

#[test]
fn both_ways_to_reset_are_a_reset() {
    for (port, value) in [(0x602, 1), (0x64, 0xfe)] {
        run(
            |a| {
                out(a, port, value)?;
                forever(a)
            },
            |engine, outcome, _| assert_eq!(outcome.end, End::Reset, "{engine} {port:#x}"),
        );
    }
}

#[test]
fn a_crashed_cpu_is_named() {
    run(
        |a| a.ud2(),
        |engine, outcome, _| assert!(matches!(outcome.end, End::TripleFault(_)), "{engine} {outcome:?}"),
    );
}

#[test]
fn a_cpu_that_halts_for_good_ends_the_run() {
    run(
        |a| {
            a.cli()?;
            a.hlt()
        },
        |engine, outcome, _| assert_eq!(outcome.end, End::Halted, "{engine}"),
    );
}

#[test]
fn a_reset_after_a_panic_is_the_panic() {
    run(
        |a| {
            print(a, "Kernel panic - not syncing: Attempted to kill init!\n")?;
            out(a, 0x602, 1)?;
            forever(a)
        },
        |engine, outcome, _| {
            assert_eq!(outcome.end, End::Panic("Attempted to kill init!".into()), "{engine}");
            assert_eq!(outcome.console.len(), 1);
        },
    );
}

#[test]
fn a_kernel_that_hangs_after_its_panic_does_not_hang_the_host() {
    run(
        |a| {
            print(a, "Kernel panic - not syncing: x\n---[ end Kernel panic - not syncing: x ]---\n")?;
            forever(a)
        },
        |engine, outcome, _| assert_eq!(outcome.end, End::Panic("x".into()), "{engine}"),
    );
}

/// A device with a bug in its reset.
struct Faulty;

impl VirtioDevice for Faulty {
    fn id(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _guest: ActiveQueues) -> Result<(), ActivateError> {
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        Ok(())
    }

    fn service(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        panic!("no reset");
    }
}

#[test]
fn a_device_that_fails_by_its_own_fault_ends_the_run() {
    let kernel = kernel(|a| {
        // The Status register of the first slot.
        a.mov(rax, machine::layout::VIRTIO_BASE.0 + 0x70)?;
        a.mov(dword_ptr(rax), 0)?;
        forever(a)
    });
    for engine in engines() {
        let (mut machine, _) = machine(engine, &kernel, None);
        machine.add_virtio(Box::new(Faulty)).unwrap();
        let outcome = machine.run().unwrap();
        let End::DeviceFailed(reason) = &outcome.end else { panic!("{engine}: {:?}", outcome.end) };
        assert!(reason.contains("no reset"), "{engine}: {reason}");
    }
}

#[test]
fn a_guest_that_never_ends_is_stopped_by_the_clock_or_by_hand() {
    let kernel = kernel(forever);
    for engine in engines() {
        let (mut config, _) = config(engine, &kernel);
        config.timeout = Some(Duration::ZERO);
        assert_eq!(Machine::new(config).unwrap().run().unwrap().end, End::Timeout, "{engine}");

        let (machine, _) = machine(engine, &kernel, None);
        let running = machine.spawn().unwrap();
        running.handle().stop();
        assert_eq!(running.join().unwrap().end, End::Stopped, "{engine}");

        // Dropping a run stops it, too; otherwise this would not return.
        let (machine, _) = guest::machine(engine, &kernel, None);
        drop(machine.spawn().unwrap());
    }
}

#[test]
fn the_boot_protocol_is_kept() {
    run(
        |a| {
            // RSI is the zero page: its header magic, then the command line's first byte.
            a.mov(ebx, dword_ptr(rsi + 0x202))?;
            a.cmp(ebx, u32::from_le_bytes(*b"HdrS") as i32)?;
            a.sete(cl)?;
            a.add(cl, i32::from(b'0'))?;
            a.mov(dx, 0x3f8)?;
            a.mov(al, cl)?;
            a.out(dx, al)?;
            // The RSDP's first byte.
            a.mov(rbx, qword_ptr(rsi + 0x70))?;
            a.mov(al, byte_ptr(rbx))?;
            a.out(dx, al)?;
            // Selectors.
            a.mov(eax, cs)?;
            a.add(al, 0x20)?;
            a.out(dx, al)?;
            a.mov(eax, ss)?;
            a.add(al, 0x20)?;
            a.out(dx, al)?;
            power_off(a)
        },
        |engine, _, printed| assert_eq!(printed, "1R08", "{engine}"),
    );
}

#[test]
fn typed_bytes_reach_the_guest() {
    // Echoes what it receives, by polling the line status, until a line ends.
    let echo = kernel(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.jz(again)?;
        a.mov(dx, 0x3f8)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.cmp(al, i32::from(b'\n'))?;
        a.jne(again)?;
        power_off(a)
    });
    for engine in engines() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"good morning\n").unwrap();
        // A regular file cannot be waited for, and is read all the same.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"good morning\n").unwrap();
        for input in [OwnedFd::from(reader), file.reopen().unwrap().into()] {
            let (machine, printed) = machine(engine, &echo, Some(input));
            let outcome = machine.run().unwrap();
            assert_eq!(
                (outcome.end, printed.text().as_str()),
                (End::PoweredOff, "good morning\n"),
                "{engine}"
            );
        }
    }
}

/// Echoes bytes, each with how many there were before it, until a line ends; it polls.
fn counting_echo(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ebx, 0x30)?;
    a.set_label(&mut again)?;
    a.mov(dx, 0x3fd)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jz(again)?;
    a.mov(dx, 0x3f8)?;
    a.in_(al, dx)?;
    a.out(dx, al)?;
    a.mov(ecx, eax)?;
    a.mov(eax, ebx)?;
    a.inc(ebx)?;
    a.out(dx, al)?;
    a.cmp(cl, i32::from(b'\n'))?;
    a.jne(again)?;
    power_off(a)
}

/// Runs `counting_echo` with these inputs; how it ended, what it executed and what it printed.
fn echoed(inputs: Inputs, typed: Option<OwnedFd>) -> (Outcome, String) {
    let kernel = kernel(counting_echo);
    let (mut config, printed) = config(Kind::Soft, &kernel);
    config.inputs = inputs;
    config.serial.input = typed;
    (Machine::new(config).unwrap().run().unwrap(), printed.text())
}

#[test]
fn a_run_with_live_input_is_repeated_from_its_log() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings::from([("what".to_owned(), "echo".to_owned())]);
    let writer = InputWriter::new(log.reopen().unwrap(), &settings).unwrap();
    let (reader, mut pipe) = std::io::pipe().unwrap();
    let typist = std::thread::spawn(move || {
        for bytes in [&b"a"[..], b"bc", &[b'd'; 20], b"\n"] {
            std::thread::sleep(Duration::from_millis(20));
            pipe.write_all(bytes).unwrap();
        }
    });
    let (recorded, printed) = echoed(Inputs::Record(writer), Some(reader.into()));
    typist.join().unwrap();
    assert_eq!((&recorded.end, printed.len()), (&End::PoweredOff, 2 * 24));

    let replay = || Inputs::Replay(InputReader::open(log.path()).unwrap());
    assert!(matches!(replay(), Inputs::Replay(log) if *log.settings() == settings));
    for _ in 0..2 {
        // What is typed now is not looked at.
        let (reader, mut pipe) = std::io::pipe().unwrap();
        pipe.write_all(b"no\n").unwrap();
        let (again, text) = echoed(replay(), Some(reader.into()));
        assert_eq!((again.end, text.as_str()), (End::PoweredOff, printed.as_str()));
        assert_eq!(again.stats.instructions, recorded.stats.instructions);
        assert_eq!(again.stats.guest_time, recorded.stats.guest_time);
    }

    // Another guest does not go that way.
    let other = kernel(forever);
    let (mut config, _) = config(Kind::Soft, &other);
    config.inputs = replay();
    let end = Machine::new(config).unwrap().run().unwrap().end;
    assert!(matches!(&end, End::InputLog(reason) if reason.contains("another way")), "{end:?}");
}

#[test]
fn guests_go_on_from_a_snapshot_apart_from_each_other() {
    let kernel = kernel(counting_echo);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (machine, printed) = machine(Kind::Soft, &kernel, Some(reader.into()));
    let running = machine.spawn().unwrap();
    writer.write_all(b"abc").unwrap();
    while printed.text().len() < 6 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let request = |stop| SnapshotRequest { path: path.clone(), labels: Labels::new(), stop };
    let header = running.handle().snapshot(request(false)).recv().unwrap().unwrap();
    assert_eq!((header.engine.as_str(), header.cpus, header.memory_bytes), ("soft", 1, 96 << 20));
    writer.write_all(b"d").unwrap();
    while printed.text().len() < 8 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The one that was saved goes on as well, until it is asked to end with a second snapshot.
    let second = folder.path().join("second");
    let answer = running.handle().snapshot(SnapshotRequest { path: second.clone(), ..request(true) });
    assert_eq!(running.join().unwrap().end, End::Stopped);
    answer.recv().unwrap().unwrap();

    let restored = |path: &Path, typed: &[u8]| {
        let (mut config, printed) = config(Kind::Soft, &kernel);
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(typed).unwrap();
        config.serial.input = Some(reader.into());
        config.start = Start::Restore(Snapshot::open(path).unwrap());
        let outcome = Machine::new(config).unwrap().run().unwrap();
        assert_eq!(outcome.end, End::PoweredOff);
        printed.text()
    };
    assert_eq!(restored(&path, b"x\n"), "x3\n4");
    assert_eq!(restored(&path, b"yz\n"), "y3z4\n5");
    assert_eq!(restored(&second, b"\n"), "\n4");
}

#[test]
fn a_snapshot_fits_one_machine_only() {
    let kernel = kernel(counting_echo);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let running = machine(Kind::Soft, &kernel, None).0.spawn().unwrap();
    let request = SnapshotRequest { path: path.clone(), labels: Labels::new(), stop: true };
    running.handle().snapshot(request.clone()).recv().unwrap().unwrap();
    let handle = running.handle();
    running.join().unwrap();
    assert!(handle.snapshot(request).recv().is_err(), "nobody takes it any more");

    let restored = |change: &dyn Fn(&mut machine::MachineConfig)| {
        let (mut config, _) = config(Kind::Soft, &kernel);
        config.start = Start::Restore(Snapshot::open(&path).unwrap());
        change(&mut config);
        Machine::new(config)
    };
    assert!(restored(&|_| ()).is_ok());
    let changes: [fn(&mut machine::MachineConfig); 2] = [|c| c.cpus = 2, |c| c.memory_bytes += 4096];
    for change in changes {
        let error = restored(&change).err().expect("refused").to_string();
        assert!(error.starts_with("it does not fit"), "{error}");
    }
    let mut more = restored(&|_| ()).unwrap();
    let rng = devices::virtio::rng::SeededEntropy::new(1);
    let error = more.add_virtio(Box::new(devices::virtio::rng::Rng::new(Box::new(rng)))).unwrap_err();
    assert!(error.to_string().contains("a device more"), "{error}");
}

#[test]
fn the_clock_shows_the_configured_date() {
    // Seconds, minutes and hours of the CMOS clock, BCD, as letters from 'A'.
    let kernel = kernel(|a| {
        for register in [4, 2, 0] {
            out(a, 0x70, register)?;
            a.mov(dx, 0x71)?;
            a.in_(al, dx)?;
            a.add(al, i32::from(b'A'))?;
            a.mov(dx, 0x3f8)?;
            a.out(dx, al)?;
        }
        power_off(a)
    });
    let (mut config, printed) = config(Kind::Soft, &kernel);
    config.rtc_base = Duration::from_secs(3 * 3600 + 2 * 60 + 1);
    Machine::new(config).unwrap().run().unwrap();
    assert_eq!(printed.text(), "DCB");
}

/// A guest that sleeps until its timer, a millisecond away, and then switches itself off.
fn sleeper() -> tempfile::NamedTempFile {
    const IDT: u64 = 0x20_0000;
    const IDT_POINTER: u64 = 0x1f_0000;
    const VECTOR: u64 = 0x42;
    kernel(|a| {
        let mut handler = a.create_label();
        // One interrupt gate; fresh RAM is zero.
        a.lea(rax, qword_ptr(handler))?;
        a.mov(rbx, IDT + VECTOR * 16)?;
        a.mov(word_ptr(rbx), ax)?;
        a.mov(word_ptr(rbx + 2), 0x10)?;
        a.mov(word_ptr(rbx + 4), 0x8e00)?;
        a.shr(rax, 16)?;
        a.mov(word_ptr(rbx + 6), ax)?;
        a.mov(rbx, IDT_POINTER)?;
        a.mov(word_ptr(rbx), 0xfff)?;
        a.mov(dword_ptr(rbx + 2), IDT as u32)?;
        a.lidt(ptr(rbx))?;
        // Local APIC on; its timer in TSC-deadline mode.
        a.mov(edi, 0xfee0_0000u32)?;
        a.mov(dword_ptr(rdi + 0xf0), 0x1ff)?;
        a.mov(dword_ptr(rdi + 0x320), 2 << 17 | VECTOR as u32)?;
        a.rdtsc()?;
        a.add(eax, 1_000_000)?;
        a.adc(edx, 0)?;
        a.mov(ecx, 0x6e0)?;
        a.wrmsr()?;
        a.sti()?;
        a.hlt()?;
        a.set_label(&mut handler)?;
        power_off(a)
    })
}

#[test]
fn idle_time_is_skipped_while_the_guest_is_busy_and_stands_still_otherwise() {
    let kernel = sleeper();
    let (machine, _) = machine(Kind::Soft, &kernel, None);
    let outcome = machine.run().unwrap();
    assert_eq!((outcome.end, outcome.stats.exits.idle), (End::PoweredOff, 1));
    assert!(outcome.stats.guest_time >= Duration::from_millis(1));

    // Nothing to do: the timer never comes, however long the host waits.
    let (mut config, _) = config(Kind::Soft, &kernel);
    config.activity.set_busy(false);
    config.timeout = Some(Duration::from_millis(20));
    let outcome = Machine::new(config).unwrap().run().unwrap();
    assert_eq!(outcome.end, End::Timeout);
    assert!(outcome.stats.guest_time < Duration::from_millis(1));

    // Until there is work.
    let (config, _) = guest::config(Kind::Soft, &kernel);
    config.activity.set_busy(false);
    let running = Machine::new(config).unwrap().spawn().unwrap();
    running.handle().begin_work();
    assert_eq!(running.join().unwrap().end, End::PoweredOff);
}

#[test]
fn on_the_host_clock_the_timer_comes_by_itself() {
    let kernel = sleeper();
    let (mut config, _) = config(Kind::Soft, &kernel);
    config.clock = ClockMode::Host;
    config.activity.set_busy(false);
    assert_eq!(Machine::new(config).unwrap().run().unwrap().end, End::PoweredOff);
}

#[test]
fn on_the_soft_engine_a_run_repeats_exactly() {
    let kernel = kernel(|a| {
        a.mov(ecx, 100_000)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        print(a, "done\n")?;
        power_off(a)
    });
    let run = || {
        let (machine, _) = machine(Kind::Soft, &kernel, None);
        let stats = machine.run().unwrap().stats;
        (stats.instructions, stats.guest_time, stats.accesses, stats.exits)
    };
    let first = run();
    assert!(first.0 > Some(200_000));
    assert_eq!(first, run());
}

#[test]
fn a_machine_that_cannot_be_is_an_error() {
    let kernel = kernel(power_off);
    let with = |change: &dyn Fn(&mut machine::MachineConfig)| {
        let (mut config, _) = config(Kind::Soft, &kernel);
        change(&mut config);
        Machine::new(config).err().expect("refused")
    };
    assert!(matches!(with(&|c| c.memory_bytes = 1 << 20), MachineError::MemoryTooSmall { .. }));
    assert!(matches!(with(&|c| c.memory_bytes = 1 << 50), MachineError::MemoryTooLarge { .. }));
    let boot = |kernel: &Path, initrd: Option<&str>, cmdline: &str| Start::Boot {
        kernel: kernel.into(),
        initrd: initrd.map(Into::into),
        cmdline: cmdline.into(),
    };
    let path = kernel.path();
    assert!(matches!(with(&|c| c.start = boot(Path::new("/dev/null"), None, "")), MachineError::Read { .. }));
    assert!(matches!(with(&|c| c.start = boot(path, Some("/nonexistent"), "")), MachineError::Read { .. }));
    let log = tempfile::NamedTempFile::new().unwrap();
    let on_the_host_clock = with(&|c| {
        c.clock = ClockMode::Host;
        c.inputs = Inputs::Record(InputWriter::new(log.reopen().unwrap(), &Settings::new()).unwrap());
    });
    assert!(matches!(on_the_host_clock, MachineError::DoesNotRepeat));
    let long = "x".repeat(5000);
    assert!(matches!(with(&|c| c.start = boot(path, None, &long)), MachineError::CommandLineTooLong { .. }));
}
