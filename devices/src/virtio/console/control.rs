//! Messages of the control queues (virtio 1.2, 5.3.6.2; Linux `include/uapi/linux/virtio_console.h`).

/// Bytes of a message's fixed part.
pub const HEADER: usize = 8;

/// `event` values.
pub mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// One message, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The port it is about.
    pub port: u32,
    /// One of [`event`].
    pub event: u16,
    /// Mostly 1 for yes and 0 for no.
    pub value: u16,
    /// What follows the fixed part: the name in a PORT_NAME.
    pub text: &'static str,
}

impl Control {
    /// A message without text.
    pub fn new(port: u32, event: u16, value: u16) -> Self {
        Control { port, event, value, text: "" }
    }

    /// A message from the driver. It never has text.
    pub fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Control::new(u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]))
    }

    /// The bytes for the driver.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.text.len());
        bytes.extend(self.port.to_le_bytes());
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(self.text.as_bytes());
        bytes
    }
}
