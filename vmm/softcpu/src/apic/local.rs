//! The local APIC in xAPIC mode. (SDM volume 3, chapter "Advanced Programmable Interrupt
//! Controller".)
//!
//! Fixed interrupts collect in IRR. The highest one whose priority class (its upper four bits)
//! is above the processor priority is [`pending`](LocalApic::pending); taking it moves it to
//! ISR, where it blocks its class and those below until software writes EOI.

use serde::{Deserialize, Serialize};

use super::timer::{Timer, TimerMode};
use super::{Delivery, DestinationMode, Message, Ticks};

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt with this vector has ended: tell every IOAPIC.
    Eoi(u8),
    /// An interprocessor interrupt leaves for the bus. With `to_others` it is for every other
    /// CPU whatever its destination field says; without, for every CPU that
    /// [`accepts`](LocalApic::accepts) it, the sender included.
    Ipi {
        /// The interrupt.
        message: Message,
        /// "All excluding self" (or the rest of "all including self").
        to_others: bool,
    },
}

/// Offsets of the registers in the APIC page. (SDM table 11-1.)
mod register {
    pub const ID: u16 = 0x20;
    pub const VERSION: u16 = 0x30;
    pub const TPR: u16 = 0x80;
    pub const PPR: u16 = 0xa0;
    pub const EOI: u16 = 0xb0;
    pub const LDR: u16 = 0xd0;
    pub const DFR: u16 = 0xe0;
    pub const SVR: u16 = 0xf0;
    pub const ISR: u16 = 0x100;
    pub const TMR: u16 = 0x180;
    pub const IRR: u16 = 0x200;
    pub const ESR: u16 = 0x280;
    pub const ICR_LOW: u16 = 0x300;
    pub const ICR_HIGH: u16 = 0x310;
    pub const LVT_TIMER: u16 = 0x320;
    pub const LVT_ERROR: u16 = 0x370;
    pub const INITIAL_COUNT: u16 = 0x380;
    pub const CURRENT_COUNT: u16 = 0x390;
    pub const DIVIDE: u16 = 0x3e0;
}

/// Version 0x14 (integrated APIC), six LVT entries.
const VERSION: u32 = 0x50014;
/// LVT bit 16: the entry delivers nothing.
const LVT_MASKED: u32 = 1 << 16;
/// SVR bit 8: software enable.
const SVR_ENABLED: u32 = 1 << 8;
/// The writable bits of SVR: vector, enable, focus checking.
const SVR_WRITABLE: u32 = 0x3ff;
/// IA32_APIC_BASE: this is the bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: globally enabled.
const BASE_ENABLED: u64 = 1 << 11;
/// IA32_APIC_BASE: the page's address.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where the page is after reset.
const DEFAULT_PAGE: u64 = 0xfee0_0000;

/// LVT entries in register order from 0x320.
const LVT_ENTRIES: usize = 6;
const TIMER: usize = 0;
const ERROR: usize = 5;
/// The bits software may write in each LVT entry: timer, thermal, performance, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; LVT_ENTRIES] = [0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];

/// ESR bits.
mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// A set of vectors, as IRR, ISR and TMR are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VectorSet([u32; 8]);

impl VectorSet {
    fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word * 32) as u8 + self.0[word].ilog2() as u8)
    }
}

/// One CPU's local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApic {
    id: u8,
    base: u64,
    tpr: u8,
    ldr: u8,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// What ESR reads as.
    esr: u32,
    /// Errors since ESR was last written.
    errors: u32,
    icr: u64,
    lvt: [u32; LVT_ENTRIES],
    timer: Timer,
}

impl LocalApic {
    /// A local APIC as after reset, for the CPU with this APIC id; `bootstrap` sets the BSP flag.
    pub fn new(id: u8, bootstrap: bool) -> Self {
        let bsp = if bootstrap { BASE_BSP } else { 0 };
        Self {
            id,
            base: DEFAULT_PAGE | BASE_ENABLED | bsp,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; LVT_ENTRIES],
            timer: Timer::default(),
        }
    }

    /// The state after INIT: as after reset, but with its id, its page and the BSP flag. (SDM volume 3,
    /// 11.4.7.3.)
    pub fn init(&mut self) {
        *self = Self { base: self.base, ..Self::new(self.id, false) };
    }

    /// Reads the 32-bit register at `offset` in the APIC page. Registers that do not exist read
    /// as zero.
    pub fn read(&mut self, offset: u16, now: Ticks) -> u32 {
        match offset {
            register::ID => u32::from(self.id) << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            register::PPR => u32::from(self.processor_priority()),
            register::LDR => u32::from(self.ldr) << 24,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            register::ESR => self.esr,
            register::ICR_LOW => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT_TIMER..=register::LVT_ERROR if offset.is_multiple_of(0x10) => {
                self.lvt[usize::from((offset - register::LVT_TIMER) >> 4)]
            }
            register::INITIAL_COUNT => self.timer.initial_count(),
            register::CURRENT_COUNT => self.timer.current_count(now),
            register::DIVIDE => self.timer.divide_configuration(),
            register::ISR..0x180 => Self::word(&self.isr, offset),
            register::TMR..0x200 => Self::word(&self.tmr, offset),
            register::IRR..0x280 => Self::word(&self.irr, offset),
            // Write-only.
            register::EOI => 0,
            _ => {
                self.report(error::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the 32-bit register at `offset` in the APIC page.
    pub fn write(&mut self, offset: u16, value: u32, now: Ticks) -> Effect {
        match offset {
            register::ID => self.id = (value >> 24) as u8,
            register::TPR => self.tpr = value as u8,
            register::EOI => return self.end_of_interrupt(),
            register::LDR => self.ldr = (value >> 24) as u8,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::SVR => {
                self.svr = value & SVR_WRITABLE;
                if !self.software_enabled() {
                    for entry in &mut self.lvt {
                        *entry |= LVT_MASKED;
                    }
                }
            }
            register::ESR => self.esr = std::mem::take(&mut self.errors),
            register::ICR_LOW => {
                // Bit 12, delivery status, stays "idle": sending takes no time here.
                self.icr = self.icr >> 32 << 32 | u64::from(value & 0x000c_cfff);
                return self.send(value);
            }
            register::ICR_HIGH => {
                self.icr = u64::from(self.icr as u32) | u64::from(value & 0xff00_0000) << 32;
            }
            register::LVT_TIMER..=register::LVT_ERROR if offset.is_multiple_of(0x10) => {
                self.write_lvt(usize::from((offset - register::LVT_TIMER) >> 4), value, now);
            }
            register::INITIAL_COUNT => self.timer.start(value, now),
            register::DIVIDE => self.timer.set_divide_configuration(value, now),
            // Read-only.
            register::VERSION | register::PPR | register::CURRENT_COUNT => {}
            register::ISR..0x280 => {}
            _ => self.report(error::ILLEGAL_REGISTER),
        }
        Effect::None
    }

    /// Whether a state that was loaded is one that register writes lead to, at `now`.
    pub fn is_valid(&self, now: Ticks) -> bool {
        self.base & !(BASE_ADDRESS | BASE_ENABLED | BASE_BSP) == 0
            && self.svr & !SVR_WRITABLE == 0
            && self.timer.is_valid(now)
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The address of the register page, or `None` while the APIC is globally disabled.
    pub fn page(&self) -> Option<u64> {
        self.globally_enabled().then_some(self.base & BASE_ADDRESS)
    }

    /// Writes IA32_APIC_BASE. `Err` for reserved bits and for x2APIC mode, which this CPU does
    /// not have: a #GP. Disabling the APIC resets it.
    pub fn set_base(&mut self, value: u64) -> Result<(), InvalidBase> {
        if value & !(BASE_ADDRESS | BASE_ENABLED | BASE_BSP) != 0 {
            return Err(InvalidBase(value));
        }
        if value & BASE_ENABLED == 0 {
            *self = Self::new(self.id, false);
        }
        self.base = value;
        Ok(())
    }

    /// IA32_TSC_DEADLINE: 0 when disarmed or not in TSC-deadline mode.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE: 0 disarms, a time that has passed fires at the next
    /// [`advance`](Self::advance). Ignored outside TSC-deadline mode.
    pub fn set_tsc_deadline(&mut self, deadline: u64) {
        self.timer.set_tsc_deadline(deadline);
    }

    /// CR8: the task priority class, 0..=15.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8 (the low four bits count). (SDM volume 3, 11.8.6.)
    pub fn set_cr8(&mut self, class: u8) {
        self.tpr = class << 4;
    }

    /// Whether a message on the bus is for this CPU.
    pub fn accepts(&self, message: &Message) -> bool {
        let wanted = message.destination;
        match message.mode {
            DestinationMode::Physical => wanted == 0xff || wanted == self.id,
            // Flat model: one bit a CPU.
            DestinationMode::Logical if self.dfr >> 28 == 0xf => wanted & self.ldr != 0,
            // Cluster model: cluster in the upper half (15 is all), one bit a CPU in the lower.
            DestinationMode::Logical => {
                (wanted >> 4 == 0xf || wanted >> 4 == self.ldr >> 4) && wanted & self.ldr & 0xf != 0
            }
        }
    }

    /// Latches a fixed interrupt. A disabled APIC drops it.
    pub fn deliver(&mut self, vector: u8, level: bool) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.report(error::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.irr.insert(vector);
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
    }

    /// The vector that would interrupt the CPU now, if its flags allow it.
    pub fn pending(&self) -> Option<u8> {
        if !self.software_enabled() {
            return None;
        }
        self.irr.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// The CPU takes the interrupt: the vector moves from IRR to ISR. If there is none any more
    /// (software raised its priority in between), that is the spurious one, which needs no EOI.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending() else {
            return self.svr as u8;
        };
        self.irr.remove(vector);
        self.isr.insert(vector);
        vector
    }

    /// The earliest time from `now` on at which the timer sends its interrupt; `None` if it is
    /// stopped or masked.
    pub fn next_timer(&self, now: Ticks) -> Option<Ticks> {
        if self.lvt[TIMER] & LVT_MASKED != 0 {
            return None;
        }
        self.timer.expiry().map(|due| due.max(now))
    }

    /// Sends the timer's interrupt if it is due at `now`. Periods that went by unseen count as
    /// one, as they would on hardware with the interrupt still pending.
    pub fn advance(&mut self, now: Ticks) {
        if self.timer.expire(now) {
            self.local_interrupt(TIMER);
        }
    }

    fn word(set: &VectorSet, offset: u16) -> u32 {
        set.0[usize::from((offset >> 4) & 7)]
    }

    fn globally_enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    fn software_enabled(&self) -> bool {
        self.globally_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// PPR: the higher of the task priority and the class in service. (SDM volume 3, 11.8.3.1.)
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else {
            return Effect::None;
        };
        self.isr.remove(vector);
        if self.tmr.contains(vector) { Effect::Eoi(vector) } else { Effect::None }
    }

    fn write_lvt(&mut self, entry: usize, value: u32, now: Ticks) {
        let forced = if self.software_enabled() { 0 } else { LVT_MASKED };
        self.lvt[entry] = value & LVT_WRITABLE[entry] | forced;
        if entry == TIMER {
            self.timer.set_mode(TimerMode::from_lvt(value), now);
        }
    }

    fn local_interrupt(&mut self, entry: usize) {
        let lvt = self.lvt[entry];
        if lvt & LVT_MASKED == 0 {
            self.deliver(lvt as u8, false);
        }
    }

    fn report(&mut self, error: u32) {
        self.errors |= error;
        // A broken vector in the error entry itself must not recurse.
        if self.lvt[ERROR] as u8 >= 16 {
            self.local_interrupt(ERROR);
        }
    }

    /// Executes a write to the low half of ICR. (SDM volume 3, 11.6.1.)
    fn send(&mut self, command: u32) -> Effect {
        let delivery = match command >> 8 & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::Startup,
            _ => return Effect::None,
        };
        // INIT level de-assert only synchronised arbitration ids, long ago.
        let deassert = command & (1 << 14) == 0;
        if delivery == Delivery::Init && deassert {
            return Effect::None;
        }
        let message = Message {
            vector: command as u8,
            destination: (self.icr >> 56) as u8,
            mode: if command & (1 << 11) == 0 { DestinationMode::Physical } else { DestinationMode::Logical },
            delivery,
            level: false,
        };
        let fixed = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        if fixed && message.vector < 16 {
            self.report(error::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        match command >> 18 & 3 {
            0 => Effect::Ipi { message, to_others: false },
            shorthand => {
                // The self shorthands exist for fixed interrupts only.
                if shorthand != 3 && fixed {
                    self.deliver(message.vector, false);
                }
                if shorthand == 1 { Effect::None } else { Effect::Ipi { message, to_others: true } }
            }
        }
    }
}

/// A value IA32_APIC_BASE cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IA32_APIC_BASE cannot be {0:#x}")]
pub struct InvalidBase(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Ticks = Ticks(1_000_000);

    fn enabled() -> LocalApic {
        let mut apic = LocalApic::new(3, true);
        apic.write(register::SVR, 0x1ff, T0);
        apic
    }

    #[test]
    fn reset_state_is_the_manuals() {
        let mut apic = LocalApic::new(3, true);
        assert_eq!(apic.base(), 0xfee0_0900);
        assert_eq!(apic.page(), Some(0xfee0_0000));
        assert_eq!(apic.read(register::ID, T0), 3 << 24);
        assert_eq!(apic.read(register::VERSION, T0), 0x50014);
        assert_eq!(apic.read(register::SVR, T0), 0xff);
        assert_eq!(apic.read(register::DFR, T0), u32::MAX);
        for offset in (0x320..=0x370).step_by(0x10) {
            assert_eq!(apic.read(offset, T0), 0x10000);
        }
        // Software-disabled: nothing is accepted, LVT masks cannot be cleared.
        apic.deliver(0x40, false);
        assert_eq!(apic.pending(), None);
        apic.write(register::LVT_TIMER, 0x20, T0);
        assert_eq!(apic.read(register::LVT_TIMER, T0), 0x10020);
    }

    #[test]
    fn a_higher_class_preempts_and_the_same_class_waits() {
        let mut apic = enabled();
        apic.deliver(0x41, false);
        assert_eq!(apic.acknowledge(), 0x41);
        apic.deliver(0x4f, false);
        assert_eq!(apic.pending(), None, "same class as the one in service");
        apic.deliver(0x51, false);
        assert_eq!(apic.acknowledge(), 0x51);
        assert_eq!(apic.read(register::PPR, T0), 0x50);
        assert_eq!(apic.write(register::EOI, 0, T0), Effect::None);
        assert_eq!(apic.pending(), None);
        assert_eq!(apic.write(register::EOI, 0, T0), Effect::None);
        assert_eq!(apic.pending(), Some(0x4f));
    }

    #[test]
    fn task_priority_blocks_classes_up_to_its_own() {
        let mut apic = enabled();
        apic.deliver(0x41, false);
        apic.set_cr8(4);
        assert_eq!(apic.read(register::TPR, T0), 0x40);
        assert_eq!(apic.pending(), None);
        assert_eq!(apic.acknowledge(), 0xff, "spurious");
        apic.write(register::TPR, 0x3f, T0);
        assert_eq!(apic.cr8(), 3);
        assert_eq!(apic.pending(), Some(0x41));
    }

    #[test]
    fn only_a_level_interrupt_broadcasts_its_end() {
        let mut apic = enabled();
        apic.deliver(0x60, true);
        apic.acknowledge();
        assert_eq!(apic.read(register::TMR + 0x30, T0), 1);
        assert_eq!(apic.read(register::ISR + 0x30, T0), 1);
        assert_eq!(apic.write(register::EOI, 0, T0), Effect::Eoi(0x60));
        apic.deliver(0x60, false);
        apic.acknowledge();
        assert_eq!(apic.write(register::EOI, 0, T0), Effect::None);
        assert_eq!(apic.write(register::EOI, 0, T0), Effect::None, "nothing in service");
    }

    #[test]
    fn errors_show_after_a_write_and_raise_the_error_entry() {
        let mut apic = enabled();
        apic.write(register::LVT_ERROR, 0xfe, T0);
        apic.deliver(3, false);
        assert_eq!(apic.pending(), Some(0xfe));
        assert_eq!(apic.read(register::ESR, T0), 0);
        apic.write(register::ESR, 0, T0);
        assert_eq!(apic.read(register::ESR, T0), error::RECEIVE_ILLEGAL_VECTOR);
        apic.write(register::ESR, 0, T0);
        assert_eq!(apic.read(register::ESR, T0), 0);
        apic.read(0x40, T0);
        apic.write(register::ICR_LOW, 0x0005, T0);
        apic.write(register::ESR, 0, T0);
        assert_eq!(apic.read(register::ESR, T0), error::ILLEGAL_REGISTER | error::SEND_ILLEGAL_VECTOR);
    }

    #[test]
    fn an_ipi_carries_its_destination() {
        let mut apic = enabled();
        apic.write(register::ICR_HIGH, 3 << 24, T0);
        let Effect::Ipi { message, to_others: false } = apic.write(register::ICR_LOW, 0x40fd, T0) else {
            panic!("no message");
        };
        assert!(apic.accepts(&message));
        assert_eq!(message.vector, 0xfd);
        // Self shorthand stays inside.
        assert_eq!(apic.write(register::ICR_LOW, 0x4_40f0, T0), Effect::None);
        assert_eq!(apic.pending(), Some(0xf0));
        // INIT, all but self; then the de-assert nobody needs.
        let init = apic.write(register::ICR_LOW, 0xc_4500, T0);
        assert!(
            matches!(init, Effect::Ipi { message, to_others: true } if message.delivery == Delivery::Init)
        );
        assert_eq!(apic.write(register::ICR_LOW, 0xc_8500, T0), Effect::None);
    }

    #[test]
    fn logical_destinations_match_by_model() {
        let mut apic = enabled();
        let to = |destination| Message {
            vector: 0x40,
            destination,
            mode: DestinationMode::Logical,
            delivery: Delivery::Fixed,
            level: false,
        };
        apic.write(register::LDR, 0x21 << 24, T0);
        assert!(apic.accepts(&to(0x01)) && apic.accepts(&to(0x20)) && !apic.accepts(&to(0x12)));
        apic.write(register::DFR, 0, T0);
        assert!(apic.accepts(&to(0x21)) && apic.accepts(&to(0xf1)) && !apic.accepts(&to(0x11)));
    }

    #[test]
    fn base_refuses_x2apic_and_disabling_resets() {
        let mut apic = enabled();
        assert_eq!(apic.set_base(0xfee0_0d00), Err(InvalidBase(0xfee0_0d00)));
        apic.deliver(0x40, false);
        apic.set_base(0xfee0_0100).unwrap();
        assert_eq!((apic.page(), apic.pending()), (None, None));
        apic.set_base(0xfee0_0900).unwrap();
        assert_eq!(apic.read(register::SVR, T0), 0xff);
    }

    #[test]
    fn the_timer_interrupts_through_its_entry() {
        let mut apic = enabled();
        apic.write(register::LVT_TIMER, 0x4_00ec, T0);
        apic.set_tsc_deadline(T0.0 + 500);
        assert_eq!(apic.next_timer(T0), Some(Ticks(T0.0 + 500)));
        apic.advance(Ticks(T0.0 + 499));
        assert_eq!(apic.pending(), None);
        apic.advance(Ticks(T0.0 + 500));
        assert_eq!(apic.pending(), Some(0xec));
        assert_eq!((apic.tsc_deadline(), apic.next_timer(T0)), (0, None));
        // Masked, it counts but does not interrupt.
        apic.acknowledge();
        apic.write(register::LVT_TIMER, 0x5_00ec, T0);
        apic.set_tsc_deadline(T0.0 + 600);
        assert_eq!(apic.next_timer(T0), None);
        apic.advance(Ticks(T0.0 + 600));
        assert_eq!((apic.pending(), apic.tsc_deadline()), (None, 0));
    }
}
