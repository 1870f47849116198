//! How a guest switches itself off: the sleep and reset registers of hardware-reduced ACPI
//! (ACPI 6.5, 4.8.3.7 and 4.8.3.6), and the keyboard controller's reset line as the fallback that
//! Linux tries when ACPI did not do it.

use std::sync::Arc;

use crate::port::PortDevice;

/// First of the power registers' ports: sleep control, sleep status, reset.
pub const PORT: u16 = 0x600;
/// Ports of the power registers.
pub const PORTS: u16 = 3;
/// Offset of the sleep control register (FADT SLEEP_CONTROL_REG).
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register (FADT SLEEP_STATUS_REG).
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register (FADT RESET_REG).
pub const RESET: u16 = 2;
/// SLP_TYP of S5, soft off: what `\_S5` must hold.
pub const SLEEP_TYPE_S5: u8 = 5;
/// FADT RESET_VALUE.
pub const RESET_VALUE: u8 = 1;

/// First port of the keyboard controller: data; its command port is 4 further, port B 1 further.
pub const I8042_PORT: u16 = 0x60;
/// Ports of the keyboard controller, port B (0x61) included.
pub const I8042_PORTS: u16 = 5;

const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7 << SLP_TYP_SHIFT;
const S5: u8 = SLEEP_TYPE_S5 << SLP_TYP_SHIFT;

const I8042_COMMAND: u16 = 4;
/// "Pulse output line 0", which is wired to the CPU's reset.
const I8042_RESET: u8 = 0xfe;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off.
    PowerOff,
    /// A cold restart.
    Reset,
}

/// Who is told. Called on the vCPU's thread; the vCPU should not run on afterwards.
pub trait PowerSink: Send + Sync {
    /// The guest asked for `request`.
    fn request(&self, request: PowerRequest);
}

/// The ACPI sleep and reset registers.
pub struct AcpiPower {
    sink: Arc<dyn PowerSink>,
}

impl AcpiPower {
    /// Registers that report to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        AcpiPower { sink }
    }
}

impl PortDevice for AcpiPower {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        // Sleep status: never woken, since S5 is the only state. Nothing else is readable.
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data.first()) {
            (SLEEP_CONTROL, Some(value)) if value & (SLP_EN | SLP_TYP_MASK) == SLP_EN | S5 => {
                self.sink.request(PowerRequest::PowerOff);
            }
            (RESET, Some(&RESET_VALUE)) => self.sink.request(PowerRequest::Reset),
            _ => {}
        }
    }
}

/// The keyboard controller, of which only the reset line is there. The FADT should say that there
/// is none (IAPC_BOOT_ARCH bit 1 clear): Linux's driver waits half a second for its answer.
pub struct KeyboardController {
    sink: Arc<dyn PowerSink>,
}

impl KeyboardController {
    /// A controller that reports to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        KeyboardController { sink }
    }
}

impl PortDevice for KeyboardController {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        // Status: both buffers empty, so that the reset path does not wait. Port B: no NMI source.
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        if (offset, data.first()) == (I8042_COMMAND, Some(&I8042_RESET)) {
            self.sink.request(PowerRequest::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Requests(Mutex<Vec<PowerRequest>>);

    impl PowerSink for Requests {
        fn request(&self, request: PowerRequest) {
            self.0.lock().unwrap().push(request);
        }
    }

    #[test]
    fn only_s5_with_the_enable_bit_switches_off() {
        let requests = Arc::new(Requests::default());
        let mut power = AcpiPower::new(requests.clone());
        power.write(SLEEP_CONTROL, &[SLEEP_TYPE_S5 << 2]);
        power.write(SLEEP_CONTROL, &[3 << 2 | SLP_EN]);
        power.write(SLEEP_STATUS, &[0xff]);
        power.write(RESET, &[0]);
        power.write(SLEEP_CONTROL, &[]);
        assert!(requests.0.lock().unwrap().is_empty());

        power.write(SLEEP_CONTROL, &[SLEEP_TYPE_S5 << 2 | SLP_EN]);
        power.write(RESET, &[RESET_VALUE]);
        assert_eq!(*requests.0.lock().unwrap(), [PowerRequest::PowerOff, PowerRequest::Reset]);
    }

    #[test]
    fn the_keyboard_controller_resets() {
        let requests = Arc::new(Requests::default());
        let mut keyboard = KeyboardController::new(requests.clone());
        let mut status = [0xff];
        keyboard.read(4, &mut status);
        assert_eq!(status, [0]);
        keyboard.write(0, &[0xfe]);
        keyboard.write(4, &[0xd1]);
        keyboard.write(4, &[0xfe]);
        assert_eq!(*requests.0.lock().unwrap(), [PowerRequest::Reset]);
    }
}
