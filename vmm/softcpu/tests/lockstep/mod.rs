//! Two machines that differ only in how they execute, side by side: one interprets, one compiles.
//!
//! Both run to the same instruction count, again and again, and must then agree in every register
//! and every byte of RAM. Where they do not, the count at which they part is searched for by
//! running both again from the start.

use std::fmt::Write as _;
use std::sync::Arc;

use guest_ram::{GuestRam, PAGE_SIZE};
use iced_x86::{Decoder, DecoderOptions};
use softcpu::{Bus, Execution, Exit, Vm};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// A machine with its devices.
pub struct Side {
    pub ram: Arc<GuestRam>,
    pub vm: Vm,
    pub bus: Box<dyn Bus>,
}

impl Side {
    /// Runs up to an instruction count. Returns why the guest cannot go on, if it cannot.
    fn go(&mut self, count: u64) -> Option<Exit> {
        loop {
            match self.vm.run_until(&mut *self.bus, count) {
                Exit::Slice if self.vm.instructions() >= count => return None,
                Exit::Slice => {}
                Exit::Idle { until: Some(until) } => self.vm.skip_to(until),
                exit => return Some(exit),
            }
        }
    }
}

/// What two machines agreed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreement {
    pub instructions: u64,
    pub end: Option<Exit>,
    pub compiled_blocks: u64,
}

/// Runs two machines that `make` makes until they end or have executed `limit` instructions, and
/// compares them every `interval`. `Err` is a description of the first difference.
pub fn compare(
    make: &dyn Fn(Execution) -> Side,
    after: u32,
    interval: u64,
    limit: u64,
) -> Result<Agreement, String> {
    let pair = || [make(Execution::Interpret), make(Execution::Compile { after })];
    let [mut a, mut b] = pair();
    let mut count = 0;
    loop {
        let (good, next) = (count, count + interval);
        count = next;
        let (end_a, end_b) = (a.go(count), b.go(count));
        if difference(&mut a, &mut b, &end_a, &end_b).is_some() {
            return Err(locate(&pair, interval, good, count));
        }
        if end_a.is_some() || count >= limit {
            let compiled_blocks = b.vm.stats().compiled;
            return Ok(Agreement { instructions: a.vm.instructions(), end: end_a, compiled_blocks });
        }
    }
}

fn difference(a: &mut Side, b: &mut Side, end_a: &Option<Exit>, end_b: &Option<Exit>) -> Option<String> {
    let mut text = String::new();
    if end_a != end_b {
        let _ = writeln!(text, "  end: interpreted {end_a:?}, compiled {end_b:?}");
    }
    let counts = (a.vm.instructions(), b.vm.instructions());
    if counts.0 != counts.1 {
        let _ = writeln!(text, "  instructions: interpreted {}, compiled {}", counts.0, counts.1);
    }
    let (registers_a, registers_b) = (a.vm.describe(), b.vm.describe());
    for (i, (a, b)) in registers_a.lines().zip(registers_b.lines()).enumerate() {
        if a != b {
            let _ = writeln!(
                text,
                "  line {i} of the registers: interpreted {}, compiled {}",
                a.trim(),
                b.trim()
            );
        }
    }
    memory_difference(a, b, &mut text);
    (!text.is_empty()).then_some(text)
}

/// Compares the pages that either machine wrote.
fn memory_difference(a: &Side, b: &Side, text: &mut String) {
    let (mut of_a, mut of_b) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for (region_a, region_b) in a.ram.iter().zip(b.ram.iter()) {
        let (map_a, map_b) = (region_a.get_mmap(), region_b.get_mmap());
        for offset in (0..region_a.len() as usize).step_by(PAGE_SIZE) {
            if !map_a.bitmap().dirty_at(offset) && !map_b.bitmap().dirty_at(offset) {
                continue;
            }
            let at = GuestAddress(region_a.start_addr().0 + offset as u64);
            a.ram.read_slice(&mut of_a, at).expect("a page of RAM");
            b.ram.read_slice(&mut of_b, at).expect("a page of RAM");
            if of_a != of_b {
                let first = (0..PAGE_SIZE).find(|&i| of_a[i] != of_b[i]).unwrap_or(0);
                let _ = writeln!(
                    text,
                    "  memory at {:#x}: interpreted {:#04x}, compiled {:#04x}",
                    at.0 + first as u64,
                    of_a[first],
                    of_b[first]
                );
                return;
            }
        }
    }
}

/// Searches between a count at which the machines agree and one at which they do not for the first
/// of the second kind, and describes it.
fn locate(pair: &dyn Fn() -> [Side; 2], interval: u64, mut good: u64, mut bad: u64) -> String {
    let start = good;
    let differ_at = |count: u64| {
        let [mut a, mut b] = pair();
        // In the steps of the run that found it, so that the same blocks are compiled by then.
        for stop in (1..=start / interval).map(|step| step * interval) {
            a.go(stop);
            b.go(stop);
        }
        let ends = (a.go(count), b.go(count));
        difference(&mut a, &mut b, &ends.0, &ends.1)
    };
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if differ_at(middle).is_some() { bad = middle } else { good = middle }
    }
    let mut text = format!("they agree at instruction {good} and differ at {bad}:\n");
    text += &differ_at(bad).unwrap_or_default();
    text += "the interpreter's last instructions (a compiled block ends with the last):\n";
    let [mut a, _] = pair();
    a.go(bad.saturating_sub(64));
    for count in bad.saturating_sub(63)..=bad {
        let rip = a.vm.registers().rip;
        let mut bytes = [0; 15];
        let len = a.vm.read_code(rip, &mut bytes);
        let insn = Decoder::with_ip(64, &bytes[..len], rip, DecoderOptions::NONE).decode();
        let bytes = &bytes[..insn.len()];
        let _ = writeln!(text, "  {rip:#x}: {bytes:02x?} {insn}");
        if a.go(count).is_some() {
            break;
        }
    }
    text
}
