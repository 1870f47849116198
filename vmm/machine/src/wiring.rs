//! What devices of the board hold of the machine: interrupt lines, the time, and where they tell of a panic
//! or of the power switch.

use std::sync::OnceLock;
use std::time::Duration;

use devices::cmos::WallClock;
use devices::irq::IrqLine;
use devices::power::{PowerRequest, PowerSink};
use devices::pvpanic::PanicSink;
use engine::{GuestClock, IrqSender, Kicker};

/// An interrupt line of the engine, as a device sees it.
pub(crate) struct Line {
    pub(crate) irq: IrqSender,
    pub(crate) gsi: u32,
}

impl IrqLine for Line {
    fn pulse(&self) {
        self.irq.pulse(self.gsi);
    }
}

/// Guest time, counted from the configured date.
pub(crate) struct Rtc {
    pub(crate) clock: GuestClock,
    pub(crate) base: Duration,
}

impl WallClock for Rtc {
    fn since_epoch(&self) -> Duration {
        self.base + self.clock.now()
    }
}

/// When the guest told its panic device of its panic.
pub(crate) struct PanicLatch {
    at: OnceLock<Duration>,
    clock: GuestClock,
}

impl PanicLatch {
    pub(crate) fn new(clock: GuestClock) -> PanicLatch {
        PanicLatch { at: OnceLock::new(), clock }
    }

    /// Guest time of the panic, if there was one.
    pub(crate) fn told(&self) -> Option<Duration> {
        self.at.get().copied()
    }
}

impl PanicSink for PanicLatch {
    fn panicked(&self) {
        // The first time counts.
        let _ = self.at.set(self.clock.now());
    }
}

/// What the guest asked of its power supply.
pub(crate) struct PowerSwitch {
    request: OnceLock<PowerRequest>,
    kicker: Kicker,
}

impl PowerSwitch {
    pub(crate) fn new(kicker: Kicker) -> PowerSwitch {
        PowerSwitch { request: OnceLock::new(), kicker }
    }

    /// The first thing that the guest asked.
    pub(crate) fn request(&self) -> Option<PowerRequest> {
        self.request.get().copied()
    }
}

impl PowerSink for PowerSwitch {
    fn request(&self, request: PowerRequest) {
        // The first one counts.
        let _ = self.request.set(request);
        self.kicker.kick();
    }
}
