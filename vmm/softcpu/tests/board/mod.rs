//! A small machine for assembled programs: page tables, descriptor tables and a stub behind every
//! interrupt vector that stops the CPU with the vector on the stack.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::sync::Arc;

use guest_ram::GuestRam;
use iced_x86::code_asm::{self, CodeAssembler, qword_ptr};
use softcpu::{Bus, Config, EntryState, Execution, Exit, Registers, Vm};
use vm_memory::{Bytes, GuestAddress};

pub const PML4: u64 = 0x1000;
/// Maps the first 2 MiB in pages of 4 KiB; the second 2 MiB are one large page.
pub const PAGE_TABLE: u64 = 0x4000;
pub const GDT: u64 = 0x5000;
pub const IDT: u64 = 0x6000;
pub const TSS: u64 = 0x8000;
const STUBS: u64 = 0x9000;
/// Where programs start.
pub const CODE: u64 = 0x2_0000;
/// Two pages of data; tests unmap the second.
pub const DATA: u64 = 0x4_0000;
/// The initial stack pointer.
pub const STACK: u64 = 0x6_0000;
/// RSP0 of the task-state segment.
pub const KERNEL_STACK: u64 = 0x7_0000;
/// IST1.
pub const SPARE_STACK: u64 = 0x7_8000;
pub const RAM: usize = 8 << 20;

pub const KERNEL_CODE: u64 = 0x10;
pub const USER_DATA: u64 = 0x23;
pub const USER_CODE: u64 = 0x2b;

/// Page-table entry bits.
pub const PRESENT: u64 = 1;
pub const WRITABLE: u64 = 2;
pub const USER: u64 = 4;
pub const NO_EXECUTE: u64 = 1 << 63;

/// The tests of the crate `compiled` compile, all others interpret.
fn execution() -> Execution {
    if env!("CARGO_CRATE_NAME") == "compiled" {
        Execution::Compile { after: 1 }
    } else {
        Execution::Interpret
    }
}

/// The stub behind a vector.
pub fn stub(vector: u64) -> u64 {
    STUBS + 16 * vector
}

pub struct Board {
    pub ram: Arc<GuestRam>,
    pub vm: Vm,
    pub bus: Devices,
    started: bool,
}

/// A bus whose callbacks a test may set.
#[derive(Default)]
pub struct Devices {
    pub written: Vec<(u64, Vec<u8>)>,
    pub ports: Vec<(u16, Vec<u8>)>,
    pub on_port: Option<Box<dyn FnMut(u16) + Send>>,
}

impl Bus for Devices {
    fn mmio_read(&mut self, addr: GuestAddress, data: &mut [u8]) {
        data.fill(addr.0 as u8);
    }

    fn mmio_write(&mut self, addr: GuestAddress, data: &[u8]) {
        self.written.push((addr.0, data.to_vec()));
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.ports.push((port, data.to_vec()));
        if let Some(f) = &mut self.on_port {
            f(port);
        }
    }
}

/// What the CPU pushed when it entered an interrupt handler.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub vector: u64,
    pub code: Option<u64>,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Board {
    pub fn new() -> Board {
        Board::with(Config::default())
    }

    pub fn with(config: Config) -> Board {
        Board::exactly(Config { execution: execution(), ..config })
    }

    /// With the execution that `config` names.
    pub fn exactly(config: Config) -> Board {
        let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), RAM)]).unwrap());
        let all = PRESENT | WRITABLE | USER;
        let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at)).unwrap();
        put(PML4, 0x2000 | all);
        put(0x2000, 0x3000 | all);
        put(0x3000, PAGE_TABLE | all);
        put(0x3008, 0x20_0000 | all | 0x80);
        // A large page of the local APIC and one of a device at 0xd0000000.
        put(0x2018, 0xd000 | all);
        put(0xd000 + 8 * 0x1f7, 0xfee0_0000 | all | 0x80);
        put(0xd000 + 8 * 0x1f6, 0xfec0_0000 | all | 0x80);
        put(0xd000 + 8 * 0x80, 0xd000_0000 | all | 0x80);
        for page in 0..512 {
            put(PAGE_TABLE + 8 * page, page << 12 | all);
        }
        let descriptors = [
            0,
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8900_0000_0067 | (TSS & 0xff_ffff) << 16,
            0,
        ];
        for (i, descriptor) in descriptors.into_iter().enumerate() {
            put(GDT + 8 * i as u64, descriptor);
        }
        put(TSS + 4, KERNEL_STACK);
        put(TSS + 0x24, SPARE_STACK);
        // No I/O permission map.
        put(TSS + 0x60, 0x68 << 48);
        for vector in 0..256u64 {
            // push imm32; hlt
            let mut code = vec![0x68];
            code.extend((vector as u32).to_le_bytes());
            code.push(0xf4);
            ram.write_slice(&code, GuestAddress(stub(vector))).unwrap();
        }
        let mut vm = Vm::new(ram.clone(), config).unwrap();
        vm.set_entry(&EntryState {
            rip: CODE,
            rsp: STACK,
            rsi: 0,
            cr3: GuestAddress(PML4),
            gdt: GuestAddress(GDT),
            gdt_limit: 0x3f,
        });
        let mut board = Board { ram, vm, bus: Devices::default(), started: false };
        for vector in 0..256 {
            board.gate(vector, stub(vector), 0, 0);
        }
        board
    }

    /// Sets an interrupt gate.
    pub fn gate(&mut self, vector: u64, target: u64, ist: u64, dpl: u64) {
        let low = target & 0xffff
            | KERNEL_CODE << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (target & 0xffff_0000) << 32;
        self.put(IDT + 16 * vector, low);
        self.put(IDT + 16 * vector + 8, target >> 32);
    }

    pub fn put(&self, at: u64, value: u64) {
        self.ram.write_obj(value, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64) -> u64 {
        self.ram.read_obj(GuestAddress(at)).unwrap()
    }

    /// The page-table entry of a page below 2 MiB.
    pub fn entry(at: u64) -> u64 {
        PAGE_TABLE + (at >> 12) * 8
    }

    /// Has page faults handled by a program at `handler`, which counts them at `count` and makes `page` present.
    pub fn map_on_fault(&mut self, handler: u64, page: u64, count: u64) {
        self.gate(14, handler, 0, 0);
        self.assemble(handler, |a| {
            a.inc(qword_ptr(count)).unwrap();
            a.or(qword_ptr(Board::entry(page)), PRESENT as i32).unwrap();
            a.add(code_asm::rsp, 8).unwrap();
            a.iretq().unwrap();
        });
    }

    /// Assembles a program at `at`.
    pub fn assemble(&self, at: u64, program: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        program(&mut assembler);
        self.ram.write_slice(&assembler.assemble(at).unwrap(), GuestAddress(at)).unwrap();
    }

    /// A machine that is in the middle of something.
    pub fn of(ram: Arc<GuestRam>, vm: Vm) -> Board {
        Board { ram, vm, bus: Devices::default(), started: true }
    }

    /// Runs `program` until the CPU stops; the first time, IDTR and TR are loaded before.
    pub fn run(&mut self, program: impl FnOnce(&mut CodeAssembler)) -> Exit {
        self.prepare(program);
        self.go_on()
    }

    /// Makes `program` what runs next.
    pub fn prepare(&mut self, program: impl FnOnce(&mut CodeAssembler)) {
        self.assemble(CODE, program);
        self.begin();
    }

    /// Makes the program at [`CODE`] the next to run.
    pub fn begin(&mut self) {
        use iced_x86::code_asm::*;
        let mut start = Registers { rip: CODE, gpr: [0; 16], rflags: 2 };
        start.gpr[4] = STACK;
        if std::mem::replace(&mut self.started, true) {
            return self.vm.set_registers(&start);
        }
        let pointer = 0xb000u64;
        self.put(pointer, 0xfff | IDT << 16);
        self.put(pointer + 8, 0);
        self.assemble(CODE - 0x100, |a| {
            a.lidt(ptr(pointer)).unwrap();
            a.mov(eax, 0x30).unwrap();
            a.ltr(ax).unwrap();
            a.xor(eax, eax).unwrap();
            a.jmp(CODE).unwrap();
        });
        self.vm.set_registers(&Registers { rip: CODE - 0x100, ..start });
    }

    /// Runs on, jumping over idle time.
    pub fn go_on(&mut self) -> Exit {
        loop {
            match self.vm.run(&mut self.bus) {
                Exit::Slice => {}
                Exit::Idle { until: Some(until) } => self.vm.skip_to(until),
                exit => return exit,
            }
        }
    }

    /// The frame that the handler's stub stopped on.
    pub fn frame(&self) -> Frame {
        let rsp = self.vm.registers().gpr[4];
        let word = |i: u64| self.get(rsp + 8 * i);
        let vector = word(0);
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let at = 1 + has_code as u64;
        Frame {
            vector,
            code: has_code.then(|| word(1)),
            rip: word(at),
            cs: word(at + 1),
            rflags: word(at + 2),
            rsp: word(at + 3),
            ss: word(at + 4),
        }
    }
}
