//! Guest time.
//!
//! Instructions are counted by counting down: `remaining` in the CPU is what is left until the
//! next event, so that a block's entry needs one subtraction and one test.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::apic::Ticks;
use crate::random::mix;
use crate::vm::{ClockMode, Config};

/// Guest time between two [`Exit::Slice`](crate::Exit::Slice) in virtual mode.
const SLICE: Duration = Duration::from_millis(10);

/// Virtual mode: at most so many instructions pass before the run loop looks at what other threads
/// asked for. (Compiled code does not look by itself.)
const LOOK: u64 = 1_000_000;

/// Host mode: instructions between two looks at the host's clock.
const HOST_STEP: u64 = 20_000;

/// Virtual mode with a seed: a timer interrupt falls up to this many instructions late.
const JITTER: u64 = 4096;

/// No guest runs for as many ticks: some 140 years.
const MAX_TICKS: u64 = 1 << 62;
/// No turn is longer.
const MAX_TURN: u64 = 1 << 20;

/// A clock as plain data.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ClockState {
    hz: u64,
    /// Guest time.
    pub ticks: u64,
    /// Executed by then.
    instructions: u64,
    /// Ticks until the present slice ends.
    until_slice: u64,
    /// Instructions until the present turn ends.
    turn_left: u64,
}

pub struct Clock {
    mode: ClockMode,
    hz: u64,
    seed: u64,
    /// The instruction count at which the CPU's `remaining` is zero.
    end: u64,
    /// Virtual mode: ticks that passed without instructions. Host mode: ticks before `started`.
    skipped: u64,
    next_slice: u64,
    /// The instruction count at which the executing CPU's turn ends.
    turn_end: u64,
    /// The instruction count at which the run stops.
    pub stop: u64,
    started: Instant,
}

impl Clock {
    pub fn new(config: &Config) -> Clock {
        let mut clock = Clock {
            mode: config.clock,
            hz: config.tsc_hz,
            seed: config.seed,
            end: 0,
            skipped: 0,
            next_slice: 0,
            turn_end: u64::MAX,
            stop: u64::MAX,
            started: Instant::now(),
        };
        clock.next_slice = clock.ticks(SLICE);
        clock
    }

    /// What goes on in a restored machine, where `remaining` is the CPU's.
    pub fn save(&self, remaining: i64) -> ClockState {
        let (now, instructions) = (self.now(remaining), self.instructions(remaining));
        ClockState {
            hz: self.hz,
            ticks: now.0,
            instructions,
            until_slice: self.next_slice.saturating_sub(now.0).min(self.ticks(SLICE)),
            turn_left: self.turn_end.saturating_sub(instructions).min(MAX_TURN),
        }
    }

    /// Goes on at a saved time, whatever passed on the host meanwhile. `remaining` is the CPU's, and zero
    /// afterwards. False: no clock of this frequency was saved as that.
    pub fn restore(&mut self, state: &ClockState, several: bool, remaining: &mut i64) -> bool {
        let ClockState { hz, ticks, instructions, until_slice, turn_left } = *state;
        let in_range = ticks < MAX_TICKS && instructions < MAX_TICKS && until_slice <= self.ticks(SLICE);
        if hz != self.hz || !in_range || turn_left > MAX_TURN {
            return false;
        }
        *remaining = 0;
        self.end = instructions;
        self.skipped = match self.mode {
            ClockMode::Virtual => ticks.wrapping_sub(instructions),
            ClockMode::Host => ticks,
        };
        self.next_slice = ticks + until_slice;
        self.turn_end = if several { instructions + turn_left } else { u64::MAX };
        self.started = Instant::now();
        true
    }

    /// Ticks in a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Instructions executed, where `remaining` is the CPU's.
    pub fn instructions(&self, remaining: i64) -> u64 {
        self.end.wrapping_sub(remaining as u64)
    }

    /// The time, where `remaining` is the CPU's.
    pub fn now(&self, remaining: i64) -> Ticks {
        match self.mode {
            ClockMode::Virtual => Ticks(self.instructions(remaining).wrapping_add(self.skipped)),
            ClockMode::Host => Ticks(self.ticks(self.started.elapsed()).wrapping_add(self.skipped)),
        }
    }

    /// Sets `remaining` so that it runs out at the next event.
    pub fn schedule(&mut self, remaining: &mut i64, timer: Option<Ticks>) {
        let executed = self.instructions(*remaining);
        let now = self.now(*remaining).0;
        let budget = match self.mode {
            ClockMode::Virtual => {
                let timer = timer.map_or(u64::MAX, |timer| timer.0.saturating_add(self.jitter(timer.0)));
                timer.min(self.next_slice).saturating_sub(now).min(LOOK)
            }
            ClockMode::Host => {
                // About four ticks (nanoseconds) pass in an instruction.
                let timer = timer.map_or(u64::MAX, |timer| timer.0.saturating_sub(now) / 4);
                timer.clamp(100, HOST_STEP)
            }
        };
        let budget = budget.min(self.turn_end.min(self.stop).saturating_sub(executed));
        *remaining = budget as i64;
        self.end = executed.wrapping_add(budget);
    }

    fn jitter(&self, deadline: u64) -> u64 {
        if self.seed == 0 { 0 } else { mix(self.seed ^ deadline) % JITTER }
    }

    /// Begins a turn of so many instructions.
    pub fn begin_turn(&mut self, remaining: i64, length: u64) {
        self.turn_end = self.instructions(remaining) + length;
    }

    /// True when the executing CPU's turn is over.
    pub fn turn_ended(&self, remaining: i64) -> bool {
        self.instructions(remaining) >= self.turn_end
    }

    /// True when as many instructions were executed as the run is to execute.
    pub fn stopped(&self, remaining: i64) -> bool {
        self.instructions(remaining) >= self.stop
    }

    /// True once for each slice of virtual time.
    pub fn slice_ended(&mut self, remaining: i64) -> bool {
        let now = self.now(remaining).0;
        if self.mode == ClockMode::Host || now < self.next_slice {
            return false;
        }
        self.next_slice = now + self.ticks(SLICE);
        true
    }

    /// Virtual mode: lets time pass until `until`.
    pub fn skip_to(&mut self, remaining: i64, until: Duration) {
        if self.mode == ClockMode::Virtual {
            let now = self.now(remaining).0;
            self.skipped += self.ticks(until).saturating_sub(now);
        }
    }

    /// A duration in ticks, rounded down.
    fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_nanos() * self.hz as u128 / 1_000_000_000) as u64
    }

    /// Ticks as a duration, rounded up, so that its ticks are no fewer.
    pub fn duration(&self, ticks: Ticks) -> Duration {
        let nanos = (ticks.0 as u128 * 1_000_000_000).div_ceil(self.hz as u128);
        Duration::from_nanos(nanos.min(u64::MAX as u128) as u64)
    }
}
