//! A program in ring 0 that programs whatever it finds on the board: both APICs, every virtio device and its
//! rings, the PC's ports, model-specific registers. It may start a second CPU and sleep. Nothing of it panics,
//! runs on or grows the process, no device has a fault of its own, and what it leaves can be saved and restored.

#![no_main]

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use devices::cmos::{Cmos, WallClock};
use devices::input::InputQueue;
use devices::irq::IrqLine;
use devices::power::{AcpiPower, KeyboardController, PowerRequest, PowerSink};
use devices::pvpanic::{PanicDevice, PanicSink};
use devices::serial::SerialPort;
use devices::virtio::VirtioDevice;
use devices::virtio::hostile;
use devices::virtio::mmio::MmioTransport;
use devices::virtio::share::{Access, Share};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use libfuzzer_sys::fuzz_target;
use machine::bus::{self, Legacy};
use machine::layout::VirtioSlot;
use proptest::prelude::*;
use softcpu::{Config, Execution, Exit, Remote, Vm};

#[path = "../../../softcpu/tests/board/mod.rs"]
mod board;
#[path = "../../../../devices/binder/fuzz/fuzz_targets/generated.rs"]
mod generated;

use board::{Board, DATA, STACK};

const STEPS: usize = 60;
const INSTRUCTIONS: u64 = 30_000;
/// Times that it may sleep until a timer.
const SLEEPS: usize = 20;
/// Instructions that a run may be longer than its limit.
const SLACK: u64 = 1000;

const LOCAL: u64 = 0xfee0_0000;
const IO: u64 = 0xfec0_0000;
const VIRTIO: u64 = 0xd000_0000;
const SLOTS: u64 = 6;
const QUEUES: u64 = 4;
/// The rings of a device's queues, 8 KiB each: descriptors, then what is available, then what is used.
const RINGS: u64 = 0x10_0000;
/// Buffers.
const BUFFERS: u64 = 0x1a_0000;
const ON_FAULT: u64 = 0x3_0000;
const ON_INTERRUPT: u64 = ON_FAULT + 0x100;
/// Where it goes on behind a fault.
const RESUME: u64 = DATA;
const FAULTS: u64 = DATA + 8;

fn ring(slot: u64, queue: u64) -> u64 {
    RINGS + (slot * QUEUES + queue) * 0x2000
}

/// One thing that the program does.
#[derive(Clone, Debug)]
enum Step {
    Local {
        register: u64,
        value: u32,
    },
    Io {
        register: u32,
        value: u32,
    },
    Read {
        address: u64,
        size: u8,
    },
    Write {
        address: u64,
        value: u64,
        size: u8,
    },
    /// Sets a device up as a driver does.
    Start {
        slot: u64,
        features: u64,
        size: u32,
    },
    Virtio {
        slot: u64,
        offset: u64,
        value: u32,
    },
    Descriptor {
        slot: u64,
        queue: u64,
        index: u64,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    },
    Offer {
        slot: u64,
        queue: u64,
        head: u16,
    },
    Message {
        at: u64,
        words: Vec<u32>,
    },
    Kick {
        slot: u64,
        queue: u32,
    },
    In {
        port: u16,
        size: u8,
    },
    Out {
        port: u16,
        value: u32,
        size: u8,
    },
    ReadMsr {
        number: u32,
    },
    WriteMsr {
        number: u32,
        value: u64,
    },
    Interrupts {
        on: bool,
    },
    Sleep,
    Wait {
        rounds: u32,
    },
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..70u32, 2 => any::<u8>().prop_map(u32::from), 1 => (0..32u32).prop_map(|bit| 1 << bit), 2 => any::<u32>()]
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let queue = || 0..QUEUES;
    let size = || prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    let buffer = || prop_oneof![6 => BUFFERS..BUFFERS + 0x4000, 1 => 0..0x90_0000u64, 1 => any::<u64>()];
    let device = || {
        prop_oneof![
            3 => (slot(), 0..0x200u64).prop_map(|(slot, offset)| VIRTIO + slot * 0x1000 + offset),
            2 => (0..0x400u64).prop_map(|offset| LOCAL + offset),
            1 => (0..0x40u64).prop_map(|offset| IO + offset),
            1 => 0xd000_0000..0xd020_0000u64,
        ]
    };
    let local = prop_oneof![
        // Task priority, EOI, spurious, ICR, LVT, initial count, divide.
        4 => prop::sample::select(vec![0x80u64, 0xb0, 0xf0, 0x300, 0x310, 0x320, 0x350, 0x360, 0x370, 0x380, 0x3e0]),
        1 => (0..0x40u64).prop_map(|n| n * 16),
    ];
    let local_value = prop_oneof![
        2 => number(),
        // Messages: INIT, start-up, fixed, with all destinations and modes.
        2 => (0..8u32, 0..4u32, any::<u8>(), any::<bool>()).prop_map(|(mode, to, vector, level)| {
            u32::from(vector) | mode << 8 | u32::from(level) << 14 | to << 18
        }),
        // A timer: vector, mask, mode.
        1 => (32..256u32, 0..4u32, any::<bool>()).prop_map(|(vector, mode, mask)| vector | u32::from(mask) << 16 | mode << 17),
    ];
    let port = || {
        prop_oneof![
            4 => prop::sample::select(vec![
                0x3f8u16, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x70, 0x71, 0x60, 0x64, 0x600, 0x602, 0x505,
                0x20, 0x21, 0x40, 0x43, 0xcf8
            ]),
            1 => any::<u16>(),
        ]
    };
    let msr = || {
        prop_oneof![
            4 => prop::sample::select(vec![
                0x10u32, 0x1b, 0x3b, 0x48, 0x49, 0x8b, 0x10a, 0x140, 0x174, 0x175, 0x176, 0x1a0, 0x1d9, 0x277, 0x6e0,
                0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102,
                0xc000_0103
            ]),
            1 => 0x800..0x840u32,
            1 => any::<u32>(),
        ]
    };
    prop_oneof![
        6 => (local, local_value).prop_map(|(register, value)| Step::Local { register, value }),
        3 => (0..0x44u32, prop_oneof![number(), (0..8u32, any::<u8>()).prop_map(|(mode, vector)| mode << 8 | u32::from(vector))])
            .prop_map(|(register, value)| Step::Io { register, value }),
        3 => (device(), size()).prop_map(|(address, size)| Step::Read { address, size }),
        2 => (device(), any::<u64>(), size()).prop_map(|(address, value, size)| Step::Write { address, value, size }),
        6 => (slot(), prop_oneof![4 => 0..16u64, 1 => any::<u64>()], prop_oneof![4 => Just(16u32), 1 => number()])
            .prop_map(|(slot, features, size)| Step::Start { slot, features, size }),
        3 => (slot(), (0..0x50u64).prop_map(|n| n * 4), number())
            .prop_map(|(slot, offset, value)| Step::Virtio { slot, offset, value }),
        8 => (slot(), queue(), 0..16u64, buffer(), number(), 0..8u16, 0..17u16).prop_map(
            |(slot, queue, index, address, length, flags, next)| {
                Step::Descriptor { slot, queue, index, address, length, flags, next }
            }
        ),
        6 => (slot(), queue(), 0..17u16).prop_map(|(slot, queue, head)| Step::Offer { slot, queue, head }),
        4 => (BUFFERS..BUFFERS + 0x4000, prop::collection::vec(number(), 1..12))
            .prop_map(|(at, words)| Step::Message { at, words }),
        8 => (slot(), 0..QUEUES as u32 + 1).prop_map(|(slot, queue)| Step::Kick { slot, queue }),
        2 => (port(), size()).prop_map(|(port, size)| Step::In { port, size }),
        3 => (port(), number(), size()).prop_map(|(port, value, size)| Step::Out { port, value, size }),
        1 => msr().prop_map(|number| Step::ReadMsr { number }),
        2 => (msr(), prop_oneof![number().prop_map(u64::from), any::<u64>()])
            .prop_map(|(number, value)| Step::WriteMsr { number, value }),
        1 => any::<bool>().prop_map(|on| Step::Interrupts { on }),
        1 => Just(Step::Sleep),
        1 => (1..500u32).prop_map(|rounds| Step::Wait { rounds }),
    ]
}

fn store(a: &mut CodeAssembler, address: u64, value: u64, size: u8) -> Result<(), IcedError> {
    a.mov(rdi, address)?;
    a.mov(rax, value)?;
    match size {
        1 => a.mov(byte_ptr(rdi), al),
        2 => a.mov(word_ptr(rdi), ax),
        4 => a.mov(dword_ptr(rdi), eax),
        _ => a.mov(qword_ptr(rdi), rax),
    }
}

fn virtio(a: &mut CodeAssembler, slot: u64, offset: u64, value: u32) -> Result<(), IcedError> {
    store(a, VIRTIO + slot * 0x1000 + offset, value.into(), 4)
}

fn perform(a: &mut CodeAssembler, step: &Step) -> Result<(), IcedError> {
    match step {
        &Step::Local { register, value } => store(a, LOCAL + register, value.into(), 4),
        &Step::Io { register, value } => {
            store(a, IO, register.into(), 4)?;
            store(a, IO + 0x10, value.into(), 4)
        }
        &Step::Read { address, size } => {
            a.mov(rdi, address)?;
            match size {
                1 => a.mov(al, byte_ptr(rdi)),
                2 => a.mov(ax, word_ptr(rdi)),
                4 => a.mov(eax, dword_ptr(rdi)),
                _ => a.mov(rax, qword_ptr(rdi)),
            }
        }
        &Step::Write { address, value, size } => store(a, address, value, size),
        &Step::Start { slot, features, size } => {
            for status in [0, 1, 3] {
                virtio(a, slot, 0x070, status)?;
            }
            let features = features | 1 << 32;
            for half in 0..2 {
                virtio(a, slot, 0x024, half)?;
                virtio(a, slot, 0x020, (features >> (32 * half)) as u32)?;
            }
            virtio(a, slot, 0x070, 11)?;
            for queue in 0..QUEUES {
                virtio(a, slot, 0x030, queue as u32)?;
                virtio(a, slot, 0x038, size)?;
                for (register, offset) in [(0x080, 0), (0x090, 0x800), (0x0a0, 0x1000)] {
                    virtio(a, slot, register, (ring(slot, queue) + offset) as u32)?;
                    virtio(a, slot, register + 4, 0)?;
                }
                virtio(a, slot, 0x044, 1)?;
            }
            virtio(a, slot, 0x070, 15)
        }
        &Step::Virtio { slot, offset, value } => virtio(a, slot, offset, value),
        &Step::Descriptor { slot, queue, index, address, length, flags, next } => {
            let at = ring(slot, queue) + 16 * index;
            store(a, at, address, 8)?;
            store(a, at + 8, u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48, 8)
        }
        &Step::Offer { slot, queue, head } => {
            let available = ring(slot, queue) + 0x800;
            a.mov(rdi, available)?;
            a.movzx(ecx, word_ptr(rdi + 2))?;
            a.and(ecx, 15)?;
            a.mov(word_ptr(rdi + rcx * 2 + 4), u32::from(head))?;
            a.inc(word_ptr(rdi + 2))
        }
        Step::Message { at, words } => {
            for (i, word) in words.iter().enumerate() {
                store(a, at + 4 * i as u64, (*word).into(), 4)?;
            }
            Ok(())
        }
        &Step::Kick { slot, queue } => virtio(a, slot, 0x050, queue),
        &Step::In { port, size } => {
            a.mov(edx, u32::from(port))?;
            match size {
                1 => a.in_(al, dx),
                2 => a.in_(ax, dx),
                _ => a.in_(eax, dx),
            }
        }
        &Step::Out { port, value, size } => {
            a.mov(edx, u32::from(port))?;
            a.mov(eax, value)?;
            match size {
                1 => a.out(dx, al),
                2 => a.out(dx, ax),
                _ => a.out(dx, eax),
            }
        }
        &Step::ReadMsr { number } => {
            a.mov(ecx, number)?;
            a.rdmsr()
        }
        &Step::WriteMsr { number, value } => {
            a.mov(ecx, number)?;
            a.mov(eax, value as u32)?;
            a.mov(edx, (value >> 32) as u32)?;
            a.wrmsr()
        }
        &Step::Interrupts { on: true } => a.sti(),
        &Step::Interrupts { on: false } => a.cli(),
        Step::Sleep => {
            a.sti()?;
            a.hlt()
        }
        &Step::Wait { rounds } => {
            let mut again = a.create_label();
            a.mov(ecx, rounds)?;
            a.set_label(&mut again)?;
            a.dec(ecx)?;
            a.jne(again)
        }
    }
}

fn program(a: &mut CodeAssembler, steps: &[Step]) -> Result<(), IcedError> {
    for step in steps {
        let mut behind = a.create_label();
        a.lea(rax, ptr(behind))?;
        a.mov(qword_ptr(RESUME), rax)?;
        perform(a, step)?;
        a.set_label(&mut behind)?;
        a.mov(rsp, STACK)?;
    }
    a.cli()?;
    a.hlt()
}

fn handlers(board: &mut Board) {
    board.assemble(ON_FAULT, |a| {
        (|| {
            a.inc(dword_ptr(FAULTS))?;
            a.mov(rsp, STACK)?;
            a.jmp(qword_ptr(RESUME))
        })()
        .expect("a handler");
    });
    board.assemble(ON_INTERRUPT, |a: &mut CodeAssembler| {
        (|| {
            a.push(rax)?;
            a.mov(eax, 0xfee0_00b0u32)?;
            a.mov(dword_ptr(rax), 0)?;
            a.pop(rax)?;
            a.iretq()
        })()
        .expect("a handler");
    });
    for vector in 0..256 {
        board.gate(vector, if vector < 32 { ON_FAULT } else { ON_INTERRUPT }, 0, 0);
    }
}

struct Line {
    remote: Remote,
    gsi: u32,
}

impl IrqLine for Line {
    fn pulse(&self) {
        self.remote.pulse(self.gsi);
    }
}

/// Whoever is told of the guest's wishes, and has none.
struct Unmoved;

impl PowerSink for Unmoved {
    fn request(&self, _request: PowerRequest) {}
}

impl PanicSink for Unmoved {
    fn panicked(&self) {}
}

impl WallClock for Unmoved {
    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }
}

/// A folder to show, with a file and a folder in it.
fn shared() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("file"), [7; 5000]).expect("a file");
            std::fs::create_dir(folder.path().join("folder")).expect("a folder");
            folder
        })
        .path()
}

fn virtio_devices() -> Vec<Box<dyn VirtioDevice>> {
    let mut devices: Vec<_> = hostile::subjects().into_iter().map(|subject| subject.device).collect();
    devices.push(Box::new(Share::new(shared(), "shared", Access::ReadOnly).expect("a share")));
    assert_eq!(devices.len() as u64, SLOTS);
    devices
}

/// The board of [`machine::Machine`], with every device that a guest can have.
fn devices(ram: &Arc<guest_ram::GuestRam>, remote: &Remote) -> bus::Board {
    let mut board = bus::Board::default();
    let line = |gsi| Arc::new(Line { remote: remote.clone(), gsi });
    let typed = InputQueue::new();
    typed.push(b"typed");
    for device in [
        Legacy::Serial(SerialPort::new(line(machine::layout::SERIAL_GSI), Box::new(io::sink()), typed)),
        Legacy::Cmos(Cmos::new(Box::new(Unmoved))),
        Legacy::Power(AcpiPower::new(Arc::new(Unmoved))),
        Legacy::Keyboard(KeyboardController::new(Arc::new(Unmoved))),
        Legacy::Panic(PanicDevice::new(Arc::new(Unmoved))),
    ] {
        board.add_legacy(device).expect("ports of their own");
    }
    for (index, device) in virtio_devices().into_iter().enumerate() {
        let slot = VirtioSlot::new(index).expect("a slot");
        let transport = MmioTransport::new(ram.clone(), device, line(slot.gsi));
        board.add_virtio(slot, Arc::new(transport)).expect("slots do not overlap");
    }
    board
}

fuzz_target!(|input: &[u8]| {
    let steps = generated::list(step(), input, STEPS);
    let config = Config { execution: Execution::Compile { after: 2 }, cpus: 2, ..Config::default() };
    let mut board = Board::exactly(config);
    handlers(&mut board);
    let mut devices = devices(&board.ram, &board.vm.remote());
    board.prepare(|a| program(a, &steps).expect("a program"));
    let mut sleeps = 0;
    loop {
        match board.vm.run_until(&mut devices, INSTRUCTIONS) {
            Exit::Slice if board.vm.instructions() < INSTRUCTIONS => devices.service(),
            Exit::Idle { until: Some(until) } if sleeps < SLEEPS => {
                sleeps += 1;
                devices.service();
                board.vm.skip_to(until);
            }
            _ => break,
        }
    }
    assert!(board.vm.instructions() < INSTRUCTIONS + SLACK, "{} instructions", board.vm.instructions());
    assert_eq!(devices.fault(), None);
    let mut again = Vm::new(board.ram.clone(), config).expect("a machine");
    again.restore(&board.vm.save(), 0).expect("a state that the guest came into can be restored");
    assert_eq!(board.vm.describe(), again.describe());
});
