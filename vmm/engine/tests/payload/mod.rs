//! What a payload runs on: a few MiB of RAM, identity-mapped, an IDT, and a bus that writes down
//! everything it sees.

use std::sync::Arc;

use engine::{Bus, Config, Engine, EntryState, Exit, IrqSender, Kicker, Kind, choose};
use guest_ram::GuestRam;
use iced_x86::code_asm::CodeAssembler;
use vm_memory::{Bytes, GuestAddress};

const RAM_BYTES: usize = 4 << 20;
const GDT: u64 = 0x500;
/// Points at the IDT; payloads load it with `lidt`.
pub const IDT_POINTER: u64 = 0x600;
/// Points at the GDT, whose selector [`CODE_32`] is 32-bit code.
pub const GDT_POINTER: u64 = 0x610;
pub const CODE_32: u16 = 0x38;
const GDT_LIMIT: u16 = 8 * 8 - 1;
const IDT: u64 = 0x1000;
const STACK: u64 = 0x8000;
pub const PAGE_TABLES: u64 = 0x9000;
/// First instruction of a payload.
pub const CODE: u64 = 0x1_0000;
/// A page that payloads may use.
pub const DATA: u64 = 0x3_0000;
/// Selectors of user code and data, for `sysret`: STAR[63:48] is [`SYSRET_BASE`].
pub const SYSRET_BASE: u64 = 0x20;

/// A byte written here ends the payload.
pub const END_PORT: u16 = 0xf4;
/// A value written here raises one edge on that interrupt line.
pub const PULSE_PORT: u16 = 0xf8;
/// A value written here raises one edge on that interrupt line, from another thread.
pub const REMOTE_PULSE_PORT: u16 = 0xfa;
/// Results are written here.
pub const RESULT_PORT: u16 = 0x100;
/// Where MMIO starts.
pub const MMIO: u64 = 0xd000_0000;

/// What the outside saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

/// A program at [`CODE`], and its interrupt handlers at addresses of their own.
pub struct Payload {
    main: Vec<u8>,
    handlers: Vec<(u8, u64, Vec<u8>)>,
    /// More code, where it is told to be.
    pieces: Vec<(u64, Vec<u8>)>,
    cpus: u8,
}

impl Payload {
    pub fn new(write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Payload {
        Payload { main: assemble(64, CODE, write), handlers: Vec::new(), pieces: Vec::new(), cpus: 1 }
    }

    /// Adds the handler of `vector`.
    pub fn on(
        mut self,
        vector: u8,
        write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    ) -> Payload {
        let address = CODE + 0x1000 * (1 + self.handlers.len() as u64);
        self.handlers.push((vector, address, assemble(64, address, write)));
        self
    }

    /// Adds code of 16, 32 or 64 bits at an address.
    pub fn at(
        mut self,
        bits: u32,
        address: u64,
        write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    ) -> Payload {
        self.pieces.push((address, assemble(bits, address, write)));
        self
    }

    /// Runs with so many CPUs.
    pub fn on_cpus(mut self, cpus: u8) -> Payload {
        self.cpus = cpus;
        self
    }

    fn load(&self, ram: &GuestRam) {
        let put = |address: u64, bytes: &[u8]| ram.write_slice(bytes, GuestAddress(address)).unwrap();
        put(CODE, &self.main);
        for (address, code) in &self.pieces {
            put(*address, code);
        }
        for (vector, address, code) in &self.handlers {
            put(*address, code);
            // 64-bit interrupt gate: present, ring 0, selector 0x10 (SDM volume 3, 6.14.1).
            let gate = (address & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
            put(IDT + u64::from(*vector) * 16, &gate.to_le_bytes());
        }
    }
}

fn assemble(
    bits: u32,
    address: u64,
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    write(&mut assembler).unwrap();
    assembler.assemble(address).unwrap()
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

/// True where `/dev/kvm` opens without hardware behind it: that KVM interprets every guest
/// instruction, lacks some and gets some wrong, so it is no judge of them.
pub fn kvm_interprets() -> bool {
    choose(Kind::Auto).unwrap().kind == Kind::Soft
}

/// Runs `payload` on every engine; `check` judges each outcome.
pub fn on_every_engine(payload: &Payload, check: impl Fn(Kind, &Exit, &[Seen])) {
    for kind in engines() {
        let (exit, seen) = run(kind, payload);
        match &exit {
            Exit::Failed(reason) if kind == Kind::Kvm && kvm_interprets() => {
                eprintln!("skipping kvm: {reason}")
            }
            _ => check(kind, &exit, &seen),
        }
    }
}

/// Runs `payload` on every engine, which must show exactly `expected` before it ends itself.
pub fn expect(payload: &Payload, expected: &[Seen]) {
    on_every_engine(payload, |kind, exit, seen| {
        assert_eq!(exit, &Exit::Stopped, "{kind}: {seen:x?}");
        assert_eq!(seen, expected, "{kind}");
    });
}

/// Runs `payload` on every engine, which must write exactly these results.
pub fn expect_results(payload: &Payload, expected: &[u32]) {
    let expected: Vec<_> =
        expected.iter().map(|value| Seen::Out(RESULT_PORT, value.to_le_bytes().to_vec())).collect();
    expect(payload, &expected);
}

/// An engine that stands before the first instruction of `payload`.
pub fn prepare(kind: Kind, payload: &Payload) -> Engine {
    let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), RAM_BYTES)]).unwrap());
    write_tables(&ram);
    payload.load(&ram);
    let mut engine = Engine::new(kind, ram, Config { cpus: payload.cpus, ..Config::default() }).unwrap();
    let entry = EntryState {
        rip: CODE,
        rsp: STACK,
        rsi: 0,
        cr3: GuestAddress(PAGE_TABLES),
        gdt: GuestAddress(GDT),
        gdt_limit: GDT_LIMIT,
    };
    engine.set_entry(&entry).unwrap();
    engine
}

fn run(kind: Kind, payload: &Payload) -> (Exit, Vec<Seen>) {
    let mut engine = prepare(kind, payload);
    let mut bus =
        Recorder { seen: Vec::new(), irq: engine.irq(), kicker: engine.kicker(), threads: Vec::new() };
    loop {
        match engine.run(&mut bus) {
            Exit::Idle { until: Some(due) } => engine.skip_to(due),
            // Another thread is about to raise an interrupt.
            Exit::Idle { until: None } if bus.join() => {}
            Exit::Slice => {}
            exit => {
                bus.join();
                return (exit, bus.seen);
            }
        }
    }
}

fn write_tables(ram: &GuestRam) {
    let put = |address: u64, value: u64| ram.write_obj(value, GuestAddress(address)).unwrap();
    let descriptors = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        // What SYSRET goes to: 32-bit code, data, 64-bit code.
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_9b00_0000_ffff,
    ];
    for (index, descriptor) in (0u64..).zip(descriptors) {
        put(GDT + index * 8, descriptor);
    }
    ram.write_obj(GDT_LIMIT, GuestAddress(GDT_POINTER)).unwrap();
    put(GDT_POINTER + 2, GDT);
    ram.write_obj(0xfffu16, GuestAddress(IDT_POINTER)).unwrap();
    put(IDT_POINTER + 2, IDT);

    // Present, writable, user; 4 GiB in pages of 2 MiB.
    const TABLE: u64 = 0b111;
    const LARGE: u64 = TABLE | 1 << 7;
    put(PAGE_TABLES, (PAGE_TABLES + 0x1000) | TABLE);
    for gib in 0..4 {
        let directory = PAGE_TABLES + 0x2000 + gib * 0x1000;
        put(PAGE_TABLES + 0x1000 + gib * 8, directory | TABLE);
        for page in 0..512 {
            put(directory + page * 8, (gib << 30 | page << 21) | LARGE);
        }
    }
}

/// Writes down what it sees; answers every read with the address's low byte and its successors.
pub struct Recorder {
    seen: Vec<Seen>,
    irq: IrqSender,
    kicker: Kicker,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Recorder {
    /// Waits for the threads that were started; false if there were none.
    fn join(&mut self) -> bool {
        let any = !self.threads.is_empty();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        any
    }
}

fn pattern(address: u64, data: &mut [u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = (address as u8).wrapping_add(index as u8);
    }
}

impl Bus for Recorder {
    fn mmio_read(&mut self, addr: GuestAddress, data: &mut [u8]) {
        self.seen.push(Seen::Read(addr.0, data.len()));
        pattern(addr.0, data);
    }

    fn mmio_write(&mut self, addr: GuestAddress, data: &[u8]) {
        self.seen.push(Seen::Write(addr.0, data.to_vec()));
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        self.seen.push(Seen::In(port, data.len()));
        pattern(port.into(), data);
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        match port {
            END_PORT => self.kicker.kick(),
            PULSE_PORT => self.irq.pulse(data[0].into()),
            REMOTE_PULSE_PORT => {
                let (irq, line) = (self.irq.clone(), data[0].into());
                self.threads.push(std::thread::spawn(move || irq.pulse(line)));
            }
            _ => self.seen.push(Seen::Out(port, data.to_vec())),
        }
    }
}
