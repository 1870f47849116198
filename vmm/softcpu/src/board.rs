//! The interrupt controllers on the board and how interrupts travel between them.

use serde::{Deserialize, Serialize};

use crate::apic::io::IoApic;
use crate::apic::local::{Effect, LocalApic};
use crate::apic::{Delivery, Message, Ticks};
use crate::memory::PAGE;
use crate::remote::{LINES, Remote};

/// Where the I/O APIC's registers are.
pub const IO_APIC: u64 = 0xfec0_0000;

/// Whether a CPU executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    Running,
    /// HLT was executed and nothing has woken the CPU.
    Halted,
    /// After INIT, and an application processor after reset.
    WaitForStartup,
}

/// One CPU as the board sees it: what it does, and what waits for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Local {
    pub apic: LocalApic,
    pub activity: Activity,
    /// RFLAGS.IF, as it was when the CPU last halted or its turn ended.
    pub interrupts_on: bool,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// The handler of one has not returned yet.
    pub nmi_blocked: bool,
    /// INIT waits.
    pub init: bool,
    /// A start-up message waits: the page number of the first instruction.
    pub startup: Option<u8>,
}

impl Local {
    fn new(id: u8) -> Local {
        Local {
            apic: LocalApic::new(id, id == 0),
            activity: if id == 0 { Activity::Running } else { Activity::WaitForStartup },
            interrupts_on: false,
            nmi: false,
            nmi_blocked: false,
            init: false,
            startup: None,
        }
    }

    /// True if the CPU has something to do.
    pub fn is_ready(&self) -> bool {
        self.init
            || match self.activity {
                Activity::Running => true,
                Activity::Halted => {
                    self.nmi && !self.nmi_blocked || self.interrupts_on && self.apic.pending().is_some()
                }
                Activity::WaitForStartup => self.startup.is_some(),
            }
    }

    fn take(&mut self, message: &Message) {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.apic.deliver(message.vector, message.level),
            Delivery::Nmi => self.nmi = true,
            Delivery::Init => {
                self.apic.init();
                (self.nmi, self.nmi_blocked, self.init, self.startup) = (false, false, true, None);
            }
            // Only the first one counts; a CPU that does not wait for one ignores it.
            Delivery::Startup => {
                if self.init || self.activity == Activity::WaitForStartup {
                    self.startup.get_or_insert(message.vector);
                }
            }
            // There is no 8259 and no system management mode.
            Delivery::Smi | Delivery::ExtInt => {}
        }
    }
}

/// All interrupt controllers, as plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoardState {
    locals: Vec<Local>,
    current: usize,
    io: IoApic,
    levels: u64,
    pulses: u64,
}

impl BoardState {
    /// Whether a board of `cpus` CPUs can have been saved as this, at `now`.
    pub fn is_valid(&self, cpus: usize, now: Ticks) -> bool {
        let lines = 1 << LINES;
        self.locals.len() == cpus
            && self.current < cpus
            && self.locals.iter().all(|local| local.apic.is_valid(now))
            && self.io.is_valid()
            && self.levels < lines
            && self.pulses < lines
    }

    /// The CPU that was executing.
    pub fn current(&self) -> usize {
        self.current
    }
}

pub struct Board {
    /// By CPU number, which is also the APIC id at reset.
    locals: Vec<Local>,
    /// The CPU that is executing.
    current: usize,
    io: IoApic,
    pub remote: Remote,
    /// Line levels as last given to the I/O APIC.
    levels: u64,
}

impl Board {
    /// A board of `cpus` CPUs (at least one).
    pub fn new(cpus: u8) -> Board {
        Board {
            locals: (0..cpus.max(1)).map(Local::new).collect(),
            current: 0,
            io: IoApic::new(0),
            remote: Remote::default(),
            levels: 0,
        }
    }

    /// The controllers as plain data, with the edges that nobody looked at yet.
    pub fn save(&self) -> BoardState {
        BoardState {
            locals: self.locals.clone(),
            current: self.current,
            io: self.io.clone(),
            levels: self.levels,
            pulses: self.remote.pulses(),
        }
    }

    /// Takes over a state that [`BoardState::is_valid`] for as many CPUs.
    pub fn restore(&mut self, state: &BoardState) {
        self.locals = state.locals.clone();
        self.current = state.current;
        self.io = state.io.clone();
        self.levels = state.levels;
        // What devices raised while they were restored is in the state already.
        self.remote.take();
        for gsi in 0..LINES {
            self.remote.set_level(gsi, state.levels & 1 << gsi != 0);
            if state.pulses & 1 << gsi != 0 {
                self.remote.pulse(gsi);
            }
        }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.locals.len()
    }

    /// The number of the CPU that is executing.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Another CPU executes from now on.
    pub fn switch(&mut self, cpu: usize) {
        debug_assert!(cpu < self.locals.len());
        self.current = cpu;
    }

    /// What waits for the CPU of that number.
    pub fn local(&self, cpu: usize) -> &Local {
        &self.locals[cpu]
    }

    /// What waits for the executing CPU.
    pub fn own(&mut self) -> &mut Local {
        &mut self.locals[self.current]
    }

    /// What the executing CPU does.
    pub fn activity(&self) -> Activity {
        self.locals[self.current].activity
    }

    /// The executing CPU's local APIC.
    pub fn apic(&self) -> &LocalApic {
        &self.locals[self.current].apic
    }

    /// The executing CPU's local APIC.
    pub fn apic_mut(&mut self) -> &mut LocalApic {
        &mut self.locals[self.current].apic
    }

    fn apic_offset(&self, physical: u64) -> Option<u16> {
        (self.apic().page()? == physical & !(PAGE - 1)).then_some((physical % PAGE) as u16)
    }

    /// Reads a register, if there is a controller at this guest-physical address.
    pub fn read(&mut self, physical: u64, now: Ticks) -> Option<u32> {
        if let Some(offset) = self.apic_offset(physical) {
            return Some(self.apic_mut().read(offset, now));
        }
        (physical & !(PAGE - 1) == IO_APIC).then(|| self.io.read(physical % PAGE))
    }

    /// Writes a register; false if there is no controller at this guest-physical address.
    pub fn write(&mut self, physical: u64, value: u32, now: Ticks) -> bool {
        if let Some(offset) = self.apic_offset(physical) {
            match self.apic_mut().write(offset, value, now) {
                Effect::None => {}
                Effect::Eoi(vector) => {
                    if let Some(message) = self.io.eoi(vector) {
                        self.deliver(message);
                    }
                }
                Effect::Ipi { message, to_others: false } => self.deliver(message),
                Effect::Ipi { message, to_others: true } => {
                    let sender = self.current;
                    let others = self.locals.iter_mut().enumerate().filter(|(cpu, _)| *cpu != sender);
                    others.for_each(|(_, local)| local.take(&message));
                }
            }
            return true;
        }
        if physical & !(PAGE - 1) != IO_APIC {
            return false;
        }
        if let Some(message) = self.io.write(physical % PAGE, value) {
            self.deliver(message);
        }
        true
    }

    fn deliver(&mut self, message: Message) {
        let accepting = self.locals.iter_mut().filter(|local| local.apic.accepts(&message));
        if message.delivery == Delivery::LowestPriority {
            // Of equals the first: a choice that every run makes alike.
            if let Some(local) = accepting.min_by_key(|local| local.apic.processor_priority()) {
                local.take(&message);
            }
        } else {
            accepting.for_each(|local| local.take(&message));
        }
    }

    /// Hands what [`Remote`] was asked to the I/O APIC. True if the run is to stop.
    pub fn take_requests(&mut self) -> bool {
        let requests = self.remote.take();
        let changed = requests.levels ^ self.levels;
        self.levels = requests.levels;
        if requests.pulses | changed != 0 {
            for gsi in 0..LINES {
                let bit = 1 << gsi;
                if requests.pulses & bit != 0 {
                    self.set_line(gsi, true);
                    self.set_line(gsi, requests.levels & bit != 0);
                } else if changed & bit != 0 {
                    self.set_line(gsi, requests.levels & bit != 0);
                }
            }
        }
        requests.kicked
    }

    fn set_line(&mut self, gsi: u32, level: bool) {
        if let Some(message) = self.io.set_line(gsi, level) {
            self.deliver(message);
        }
    }

    /// Sends the timer interrupts that are due.
    pub fn advance(&mut self, now: Ticks) {
        self.locals.iter_mut().for_each(|local| local.apic.advance(now));
    }

    /// When the next timer of any CPU is due.
    pub fn next_timer(&self, now: Ticks) -> Option<Ticks> {
        self.locals.iter().filter_map(|local| local.apic.next_timer(now)).min()
    }

    /// When the next timer is due that wakes a CPU.
    pub fn next_waking_timer(&self, now: Ticks) -> Option<Ticks> {
        let sleepers =
            self.locals.iter().filter(|local| local.activity == Activity::Halted && local.interrupts_on);
        sleepers.filter_map(|local| local.apic.next_timer(now)).min()
    }

    /// True if something waits for the executing CPU.
    pub fn pending(&self) -> bool {
        let local = &self.locals[self.current];
        local.nmi && !local.nmi_blocked
            || local.init
            || local.startup.is_some()
            || local.apic.pending().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::DestinationMode;

    const LOCAL_APIC: u64 = 0xfee0_0000;

    /// A board whose local APICs are enabled, with logical ids 1, 2, 4, ...
    fn board(cpus: u8) -> Board {
        let mut board = Board::new(cpus);
        for cpu in 0..cpus as usize {
            board.switch(cpu);
            board.write(LOCAL_APIC + 0xf0, 0x1ff, Ticks(0));
            board.write(LOCAL_APIC + 0xd0, 1 << (24 + cpu), Ticks(0));
        }
        board.switch(0);
        board
    }

    fn send(board: &mut Board, destination: u32, command: u32) {
        board.write(LOCAL_APIC + 0x310, destination << 24, Ticks(0));
        board.write(LOCAL_APIC + 0x300, command, Ticks(0));
    }

    /// The vectors that wait, by CPU.
    fn pending(board: &Board) -> Vec<Option<u8>> {
        board.locals.iter().map(|local| local.apic.pending()).collect()
    }

    #[test]
    fn an_interrupt_reaches_the_cpus_it_names() {
        let mut board = board(3);
        send(&mut board, 2, 0x40);
        assert_eq!(pending(&board), [None, None, Some(0x40)]);
        send(&mut board, 0b011, 0x850);
        assert_eq!(pending(&board), [Some(0x50), Some(0x50), Some(0x40)], "a logical set");
    }

    #[test]
    fn shorthands_name_self_all_and_others() {
        let mut board = board(3);
        board.switch(1);
        send(&mut board, 0, 0x4_0040);
        assert_eq!(pending(&board), [None, Some(0x40), None]);
        send(&mut board, 0, 0x8_0050);
        assert_eq!(pending(&board), [Some(0x50); 3]);
        send(&mut board, 0, 0xc_0060);
        assert_eq!(pending(&board), [Some(0x60), Some(0x50), Some(0x60)]);
    }

    #[test]
    fn the_lowest_priority_takes_it() {
        let mut board = board(2);
        board.apic_mut().set_cr8(3);
        send(&mut board, 0b11, 0x950);
        assert_eq!(pending(&board), [None, Some(0x50)]);
        board.deliver(Message {
            vector: 0x60,
            destination: 0b01,
            mode: DestinationMode::Logical,
            delivery: Delivery::LowestPriority,
            level: false,
        });
        assert_eq!(pending(&board)[0], Some(0x60));
    }

    #[test]
    fn init_forgets_what_waited_and_startup_comes_after_it() {
        let mut board = board(2);
        send(&mut board, 1, 0x400);
        send(&mut board, 1, 0x40);
        assert!(board.local(1).nmi);
        send(&mut board, 1, 0x4500);
        let local = board.local(1);
        assert!(local.init && !local.nmi && local.startup.is_none());
        assert_eq!(local.apic.pending(), None);
        send(&mut board, 1, 0x8500);
        send(&mut board, 1, 0x469a);
        send(&mut board, 1, 0x4677);
        assert_eq!(board.local(1).startup, Some(0x9a));
        assert_eq!((board.local(0).init, board.local(0).startup), (false, None));
    }
}
