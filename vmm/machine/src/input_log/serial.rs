//! The serial port's way in.

use devices::input::InputQueue;

use super::InputPort;

/// Stands between the queue that the event thread fills and the one that the serial port takes from.
pub(crate) struct SerialInput {
    /// Filled from outside.
    pub outside: InputQueue,
    /// The device's.
    pub device: InputQueue,
}

impl InputPort for SerialInput {
    fn take(&mut self) -> Vec<u8> {
        let bytes = self.outside.pop(self.device.room());
        // There is room for all of it: only this thread pushes.
        self.device.push(&bytes);
        bytes
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), String> {
        match bytes.len() <= self.device.room() {
            true => {
                self.device.push(bytes);
                Ok(())
            }
            false => Err("it has more input than the serial port takes at once".to_owned()),
        }
    }
}
