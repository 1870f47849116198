//! The software CPU: a guest with nothing in it but page tables and the window.

use std::sync::Arc;

use guest_ram::GuestRam;
use softcpu::{Bus, Config, EntryState, Execution, Exit, Registers, Remote, Vm};
use vm_memory::{Bytes, GuestAddress};

use super::program;
use super::state::{Case, Fault, STATE, State, window};

/// Guest-physical layout: tables, then the window (mapped at its own virtual address).
const GDT: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const DIRECTORY: u64 = 0x4000;
const START: u64 = 0x5000;
const STACK: u64 = 0x8000;
const PHYSICAL_WINDOW: u64 = 0x20_0000;
const RAM: usize = 0x40_0000;

/// One guest and what it runs.
pub struct Guest {
    ram: Arc<GuestRam>,
    vm: Vm,
    execution: Execution,
    prologue: Vec<u8>,
    epilogue: Vec<u8>,
}

/// One device: a port that stops the CPU.
struct StopButton(Remote);

impl Bus for StopButton {
    fn mmio_read(&mut self, _: GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: GuestAddress, _: &[u8]) {}
    fn port_in(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_out(&mut self, _: u16, _: &[u8]) {
        self.0.kick();
    }
}

impl Guest {
    pub fn new(execution: Execution) -> Self {
        let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), RAM)]).expect("a few MiB of RAM"));
        let vm = start(&ram, execution);
        Self { ram, vm, execution, prologue: program::prologue(), epilogue: program::epilogue() }
    }

    /// Runs the case to its end.
    pub fn run(&mut self, case: &Case) -> Result<State, Fault> {
        let code = [&self.prologue[..], &case.code, &self.epilogue].concat();
        self.put(window::BASE, &code);
        self.put(window::INPUT, &case.before.image());
        self.put(window::SCRATCH, &case.before.scratch);
        self.vm.set_registers(&Registers { gpr: stack_only(), rip: window::BASE, rflags: 2 });
        match run(&mut self.vm) {
            Exit::Stopped => {}
            exit => {
                // It may be in any state now.
                self.vm = start(&self.ram, self.execution);
                return Err(Fault(format!("the guest left by {exit:?}")));
            }
        }
        let mut image = [0; STATE];
        self.get(window::OUTPUT, &mut image);
        let mut scratch = vec![0; window::SCRATCH_LENGTH];
        self.get(window::SCRATCH, &mut scratch);
        Ok(State::from_image(&image, scratch))
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, physical(address)).expect("the window is RAM");
    }

    fn get(&self, address: u64, bytes: &mut [u8]) {
        self.ram.read_slice(bytes, physical(address)).expect("the window is RAM");
    }
}

fn physical(address: u64) -> GuestAddress {
    GuestAddress(PHYSICAL_WINDOW + (address - window::BASE))
}

fn stack_only() -> [u64; 16] {
    let mut gpr = [0; 16];
    gpr[4] = STACK;
    gpr
}

fn run(vm: &mut Vm) -> Exit {
    let mut button = StopButton(vm.remote());
    loop {
        match vm.run(&mut button) {
            Exit::Slice => {}
            exit => return exit,
        }
    }
}

/// Builds the tables and lets the guest switch its SSE unit on.
fn start(ram: &Arc<GuestRam>, execution: Execution) -> Vm {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let put = |address: u64, value: u64| {
        ram.write_slice(&value.to_le_bytes(), GuestAddress(address)).expect("in RAM");
    };
    put(GDT + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT + 0x18, 0x00cf_9300_0000_ffff);
    put(PML4, PDPT | PRESENT_WRITABLE);
    put(PDPT, DIRECTORY | PRESENT_WRITABLE);
    put(DIRECTORY, PRESENT_WRITABLE | LARGE);
    put(DIRECTORY + 8 * (window::BASE >> 21), PHYSICAL_WINDOW | PRESENT_WRITABLE | LARGE);
    ram.write_slice(&program::guest_exit(), physical(window::EXIT_CODE)).expect("in RAM");
    ram.write_slice(&window::EXIT_CODE.to_le_bytes(), physical(window::EXIT)).expect("in RAM");
    ram.write_slice(&program::guest_start(), GuestAddress(START)).expect("in RAM");

    let mut vm = Vm::new(Arc::clone(ram), Config { execution, ..Config::default() })
        .expect("the default configuration runs");
    vm.set_entry(&EntryState {
        rip: START,
        rsp: STACK,
        rsi: 0,
        cr3: GuestAddress(PML4),
        gdt: GuestAddress(GDT),
        gdt_limit: 0x1f,
    });
    assert_eq!(run(&mut vm), Exit::Stopped, "the guest switches SSE on");
    vm
}
