//! The local APIC's timer. (SDM volume 3, 11.5.4.)
//!
//! Nothing is counted: the count register is worked out from the time at which it was loaded.

use serde::{Deserialize, Serialize};

use super::{TSC_PER_CRYSTAL, Ticks};

/// Bits 17..18 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl TimerMode {
    pub(super) fn from_lvt(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            // 3 is reserved.
            _ => Self::TscDeadline,
        }
    }
}

/// The down counter and the deadline register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    mode: TimerMode,
    /// What software last wrote; a periodic timer reloads it.
    initial_count: u32,
    /// Divide configuration register.
    divide: u32,
    /// The count at `loaded`; 0 when stopped.
    count: u32,
    loaded: Ticks,
    /// Armed deadline; 0 when disarmed.
    deadline: u64,
}

impl Default for Timer {
    fn default() -> Self {
        Self {
            mode: TimerMode::OneShot,
            initial_count: 0,
            divide: 0,
            count: 0,
            loaded: Ticks(0),
            deadline: 0,
        }
    }
}

impl Timer {
    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) fn divide_configuration(&self) -> u32 {
        self.divide
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.deadline
    }

    /// Loads the counter; 0 stops it. In TSC-deadline mode the write is ignored.
    pub(super) fn start(&mut self, count: u32, now: Ticks) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial_count = count;
        self.count = count;
        self.loaded = now;
    }

    /// The counter at `now`.
    pub(super) fn current_count(&self, now: Ticks) -> u32 {
        let elapsed = now.0.saturating_sub(self.loaded.0) / self.step();
        match (self.mode, u64::from(self.count).checked_sub(elapsed)) {
            (TimerMode::TscDeadline, _) => 0,
            (_, Some(left)) if left > 0 => left as u32,
            (TimerMode::Periodic, _) if self.count > 0 && self.initial_count > 0 => {
                let beyond = elapsed - u64::from(self.count);
                let period = u64::from(self.initial_count);
                (period - beyond % period) as u32
            }
            _ => 0,
        }
    }

    pub(super) fn set_divide_configuration(&mut self, value: u32, now: Ticks) {
        self.count = self.current_count(now);
        self.loaded = now;
        self.divide = value & 0b1011;
    }

    /// Entering or leaving TSC-deadline mode disarms the timer.
    pub(super) fn set_mode(&mut self, mode: TimerMode, now: Ticks) {
        if (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline) {
            self.start(0, now);
            self.count = 0;
            self.initial_count = 0;
            self.deadline = 0;
        } else {
            self.count = self.current_count(now);
            self.loaded = now;
        }
        self.mode = mode;
    }

    pub(super) fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.deadline = deadline;
        }
    }

    /// Whether the counter was loaded before `now`.
    pub(super) fn is_valid(&self, now: Ticks) -> bool {
        self.loaded <= now && self.divide & !0b1011 == 0
    }

    /// When it expires next.
    pub(super) fn expiry(&self) -> Option<Ticks> {
        match self.mode {
            TimerMode::TscDeadline => (self.deadline != 0).then_some(Ticks(self.deadline)),
            _ if self.count == 0 => None,
            _ => Some(Ticks(self.loaded.0.saturating_add(u64::from(self.count).saturating_mul(self.step())))),
        }
    }

    /// Whether it has expired by `now`; it then stops or begins its next period.
    pub(super) fn expire(&mut self, now: Ticks) -> bool {
        let Some(due) = self.expiry().filter(|&due| due <= now) else {
            return false;
        };
        match self.mode {
            TimerMode::TscDeadline => self.deadline = 0,
            TimerMode::OneShot => self.count = 0,
            TimerMode::Periodic => {
                let period = u64::from(self.initial_count).saturating_mul(self.step());
                self.count = self.initial_count;
                // Stays in phase however late `now` is.
                self.loaded = match (now.0 - due.0).checked_rem(period) {
                    Some(phase) => Ticks(now.0 - phase),
                    None => now,
                };
            }
        }
        true
    }

    /// TSC ticks in one step of the counter: bits 0, 1 and 3 of the divide configuration are the
    /// power of two less one, with 7 for "by 1".
    fn step(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        u64::from(TSC_PER_CRYSTAL) << ((code + 1) & 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = TSC_PER_CRYSTAL as u64;

    fn divided_by_one() -> Timer {
        let mut timer = Timer::default();
        timer.set_divide_configuration(0b1011, Ticks(0));
        timer
    }

    #[test]
    fn divide_codes_are_powers_of_two() {
        let mut timer = Timer::default();
        for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            timer.set_divide_configuration(code, Ticks(0));
            timer.start(10, Ticks(5));
            assert_eq!(timer.expiry(), Some(Ticks(5 + 10 * divisor * STEP)), "code {code}");
        }
    }

    #[test]
    fn one_shot_counts_down_once() {
        let mut timer = divided_by_one();
        timer.start(100, Ticks(0));
        assert_eq!(timer.current_count(Ticks(0)), 100);
        assert_eq!(timer.current_count(Ticks(30 * STEP)), 70);
        assert!(!timer.expire(Ticks(100 * STEP - 1)));
        assert!(timer.expire(Ticks(100 * STEP)));
        assert!(!timer.expire(Ticks(1000 * STEP)));
        assert_eq!(timer.current_count(Ticks(1000 * STEP)), 0);
        assert_eq!((timer.initial_count(), timer.expiry()), (100, None));
    }

    #[test]
    fn periodic_stays_in_phase_when_seen_late() {
        let mut timer = divided_by_one();
        timer.set_mode(TimerMode::Periodic, Ticks(0));
        timer.start(100, Ticks(0));
        assert!(timer.expire(Ticks(350 * STEP)));
        assert_eq!(timer.expiry(), Some(Ticks(400 * STEP)));
        assert_eq!(timer.current_count(Ticks(360 * STEP)), 40);
        timer.start(0, Ticks(0));
        assert_eq!(timer.expiry(), None);
    }

    #[test]
    fn a_new_divisor_keeps_the_count() {
        let mut timer = divided_by_one();
        timer.start(100, Ticks(0));
        timer.set_divide_configuration(0, Ticks(40 * STEP));
        assert_eq!(timer.current_count(Ticks(40 * STEP)), 60);
        assert_eq!(timer.expiry(), Some(Ticks((40 + 120) * STEP)));
    }

    #[test]
    fn changing_to_or_from_deadline_mode_disarms() {
        let mut timer = divided_by_one();
        timer.start(100, Ticks(0));
        timer.set_tsc_deadline(5);
        assert_eq!(timer.tsc_deadline(), 0, "not in deadline mode");
        timer.set_mode(TimerMode::TscDeadline, Ticks(0));
        assert_eq!(timer.expiry(), None);
        timer.start(100, Ticks(0));
        assert_eq!((timer.initial_count(), timer.expiry()), (0, None));
        timer.set_tsc_deadline(5);
        assert!(timer.expire(Ticks(5)));
        timer.set_tsc_deadline(9);
        timer.set_mode(TimerMode::OneShot, Ticks(5));
        assert_eq!((timer.tsc_deadline(), timer.expiry()), (0, None));
    }
}
