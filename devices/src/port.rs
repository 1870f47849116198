//! Devices in the I/O port space.

/// A device that answers `in` and `out` on a range of ports.
///
/// `offset` is relative to the first port of the device's range. `data` is 1, 2 or 4 bytes, as the
/// instruction was; the devices of this crate have 8-bit registers, and take the first byte and
/// answer ones in the rest, as an 8-bit device on a wider bus does.
pub trait PortDevice: Send {
    /// `in`: fills `data`.
    fn read(&mut self, offset: u16, data: &mut [u8]);
    /// `out`: takes `data`.
    fn write(&mut self, offset: u16, data: &[u8]);
}
