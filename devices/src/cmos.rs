//! The real-time clock and CMOS memory at ports 0x70 and 0x71 (Motorola MC146818; Linux
//! `drivers/rtc/rtc-mc146818-lib.c`).
//!
//! The clock is read-only: it shows what the machine's [`WallClock`] says, and writes to the time
//! are dropped. There is no alarm and no periodic interrupt; Linux keeps time by other means.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::port::PortDevice;
use crate::virtio::NotRestored;

/// Index port; the data port is the next.
pub const PORT: u16 = 0x70;
/// Ports of the CMOS.
pub const PORTS: u16 = 2;
/// Register of the century, for FADT.CENTURY.
pub const CENTURY: u8 = 0x32;

/// The time that the guest's RTC shows.
pub trait WallClock: Send {
    /// Time since 1970-01-01 00:00 UTC.
    fn since_epoch(&self) -> Duration;
}

mod reg {
    pub const SECONDS: u8 = 0x00;
    pub const MINUTES: u8 = 0x02;
    pub const HOURS: u8 = 0x04;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
}

/// Register A: 32768 Hz base, 1024 Hz rate, no update in progress.
const A_DEFAULT: u8 = 0x26;
/// Register B: the hours count to 24.
const B_24_HOURS: u8 = 1 << 1;
/// Register B: values are binary, not BCD.
const B_BINARY: u8 = 1 << 2;
/// Register D: the battery is good.
const D_VALID: u8 = 1 << 7;
const HOUR_PM: u8 = 1 << 7;

/// Bit of the index port that masks NMIs, of which there are none.
const NMI_MASK: u8 = 1 << 7;
const SIZE: usize = 128;

/// A CMOS as plain data, for snapshots. The time is its clock's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCmos {
    index: u8,
    memory: Vec<u8>,
}

/// The RTC and its memory.
pub struct Cmos {
    clock: Box<dyn WallClock>,
    index: u8,
    memory: [u8; SIZE],
}

impl Cmos {
    /// A CMOS that shows `clock`.
    pub fn new(clock: Box<dyn WallClock>) -> Self {
        let mut memory = [0; SIZE];
        memory[usize::from(reg::A)] = A_DEFAULT;
        memory[usize::from(reg::B)] = B_24_HOURS;
        Cmos { clock, index: 0, memory }
    }

    /// Index and memory, for a snapshot.
    pub fn save(&self) -> SavedCmos {
        SavedCmos { index: self.index, memory: self.memory.to_vec() }
    }

    /// Makes a new CMOS what another one was saved as.
    pub fn restore(&mut self, saved: SavedCmos) -> Result<(), NotRestored> {
        let memory = saved.memory.try_into().map_err(|_| NotRestored::new("the CMOS has another size"))?;
        (self.index, self.memory) = (saved.index, memory);
        Ok(())
    }

    fn register(&self) -> u8 {
        self.index & !NMI_MASK
    }

    fn read_register(&self) -> u8 {
        let register = self.register();
        match register {
            reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | CENTURY => {
                self.read_time(register)
            }
            // No interrupt flag is ever set.
            reg::C => 0,
            reg::D => D_VALID,
            _ => self.memory[usize::from(register)],
        }
    }

    fn read_time(&self, register: u8) -> u8 {
        let time = self.clock.since_epoch().as_secs();
        let date = Date::from_days(time / 86_400);
        let second = time % 86_400;
        let value = match register {
            reg::SECONDS => second % 60,
            reg::MINUTES => second / 60 % 60,
            reg::HOURS => return self.hour((second / 3600) as u8),
            // 1970-01-01 was a Thursday; Sunday is 1.
            reg::WEEKDAY => (time / 86_400 + 4) % 7 + 1,
            reg::DAY => date.day,
            reg::MONTH => date.month,
            reg::YEAR => date.year % 100,
            _ => date.year / 100 % 100,
        };
        self.encode(value as u8)
    }

    fn hour(&self, hour: u8) -> u8 {
        if self.memory[usize::from(reg::B)] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { HOUR_PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    /// A value below 100 as register B wants it.
    fn encode(&self, value: u8) -> u8 {
        if self.memory[usize::from(reg::B)] & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }
}

impl PortDevice for Cmos {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        // The index port is write-only on the PC.
        if let (1, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.read_register();
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data.first()) {
            (0, Some(&index)) => self.index = index,
            (1, Some(&value)) => self.memory[usize::from(self.register())] = value,
            _ => {}
        }
    }
}

/// A day of the Gregorian calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The date `days` after 1970-01-01. Counts in eras of 400 years that begin on 1 March, so that
    /// the leap day is the last of its year.
    fn from_days(days: u64) -> Self {
        let since_era = days + 719_468;
        let era = since_era / 146_097;
        let of_era = since_era % 146_097;
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Date { year: era * 400 + year_of_era + u64::from(month <= 2), month, day }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(u64);

    impl WallClock for At {
        fn since_epoch(&self) -> Duration {
            Duration::from_secs(self.0)
        }
    }

    fn read(cmos: &mut Cmos, register: u8) -> u8 {
        cmos.write(0, &[register]);
        let mut byte = [0];
        cmos.read(1, &mut byte);
        byte[0]
    }

    const ALL: [u8; 8] =
        [CENTURY, reg::YEAR, reg::MONTH, reg::DAY, reg::HOURS, reg::MINUTES, reg::SECONDS, reg::WEEKDAY];

    #[test]
    fn time_is_shown_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let mut cmos = Cmos::new(Box::new(At(1_709_251_198)));
        assert_eq!(ALL.map(|r| read(&mut cmos, r)), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 5]);
        // Two seconds later: Friday, 1 March.
        let mut cmos = Cmos::new(Box::new(At(1_709_251_200)));
        assert_eq!(ALL.map(|r| read(&mut cmos, r)), [0x20, 0x24, 0x03, 0x01, 0, 0, 0, 6]);
        // Year ends, a century without leap day.
        let mut cmos = Cmos::new(Box::new(At(4_107_542_399)));
        assert_eq!(ALL.map(|r| read(&mut cmos, r)), [0x21, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59, 1]);
    }

    #[test]
    fn register_b_chooses_binary_and_twelve_hours() {
        let mut cmos = Cmos::new(Box::new(At(12 * 3600 + 34 * 60)));
        cmos.write(0, &[reg::B]);
        cmos.write(1, &[B_BINARY]);
        assert_eq!(read(&mut cmos, reg::HOURS), 12 | HOUR_PM);
        assert_eq!(read(&mut cmos, reg::MINUTES), 34);
        let mut midnight = Cmos::new(Box::new(At(0)));
        midnight.write(0, &[reg::B]);
        midnight.write(1, &[0]);
        assert_eq!(read(&mut midnight, reg::HOURS), 0x12);
    }

    #[test]
    fn the_rest_is_memory_behind_the_nmi_bit() {
        let mut cmos = Cmos::new(Box::new(At(0)));
        cmos.write(0, &[0x0f | NMI_MASK]);
        cmos.write(1, &[0x0a]);
        assert_eq!(read(&mut cmos, 0x0f), 0x0a);
        assert_eq!(read(&mut cmos, reg::D), D_VALID);
        // The time is not the guest's to set.
        cmos.write(0, &[reg::YEAR]);
        cmos.write(1, &[0x99]);
        assert_eq!(read(&mut cmos, reg::YEAR), 0x70);
    }
}
