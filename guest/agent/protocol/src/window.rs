//! Flow control: how much of a stream may be under way.

/// Bytes of one stream that its sender may send before the receiver took any.
pub const WINDOW: u32 = 64 << 10;

/// The peer broke the window's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// More was sent than the window had room for.
    #[error("the sender overran its window")]
    Overrun,
    /// More was granted than was ever sent.
    #[error("the receiver granted more than the window")]
    OverGrant,
}

/// The sender's end of a stream.
#[derive(Clone, Debug)]
pub struct SendWindow {
    size: u32,
    room: u32,
}

impl SendWindow {
    /// A stream that has not begun.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        SendWindow::of(WINDOW)
    }

    /// One with a window of `size` bytes.
    pub fn of(size: u32) -> Self {
        SendWindow { size, room: size }
    }

    /// Bytes that may be sent now.
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// `bytes`, which fitted into `room`, were sent.
    pub fn spend(&mut self, bytes: usize) {
        self.room = self.room.saturating_sub(bytes as u32);
    }

    /// The receiver took `bytes` more.
    pub fn grant(&mut self, bytes: u32) -> Result<(), WindowError> {
        self.room =
            self.room.checked_add(bytes).filter(|room| *room <= self.size).ok_or(WindowError::OverGrant)?;
        Ok(())
    }
}

/// The receiver's end of a stream.
#[derive(Clone, Debug)]
pub struct ReceiveWindow {
    size: u32,
    /// What the sender may still send, as it knows.
    room: u32,
    /// Taken, and not yet told to the sender.
    owed: u32,
}

impl ReceiveWindow {
    /// A stream that has not begun.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        ReceiveWindow::of(WINDOW)
    }

    /// One with a window of `size` bytes.
    pub fn of(size: u32) -> Self {
        ReceiveWindow { size, room: size, owed: 0 }
    }

    /// A stream in the middle with a window of [`WINDOW`] bytes: its room and debt, which are no more than that.
    pub(crate) fn restore((room, owed): (u32, u32)) -> Self {
        ReceiveWindow { size: WINDOW, room, owed }
    }

    /// Room and debt.
    pub(crate) fn saved(&self) -> (u32, u32) {
        (self.room, self.owed)
    }

    /// `bytes` arrived.
    pub fn arrived(&mut self, bytes: usize) -> Result<(), WindowError> {
        let bytes = u32::try_from(bytes).map_err(|_| WindowError::Overrun)?;
        self.room = self.room.checked_sub(bytes).ok_or(WindowError::Overrun)?;
        Ok(())
    }

    /// `bytes` of what arrived were taken. Returns the credit that is to be sent now, if any.
    pub fn taken(&mut self, bytes: usize) -> Option<u32> {
        // No more can be taken than arrived.
        let arrived = self.size - self.room - self.owed;
        self.owed += arrived.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        // Credits are collected, so that short streams need none.
        if self.owed < self.size / 2 {
            return None;
        }
        self.room += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_flows_for_ever_and_never_beyond_the_window() {
        let (mut send, mut receive) = (SendWindow::new(), ReceiveWindow::new());
        let mut credits = 0;
        for _ in 0..1000 {
            let bytes = send.room().min(5000);
            assert!(bytes > 0);
            send.spend(bytes);
            receive.arrived(bytes).unwrap();
            if let Some(credit) = receive.taken(bytes) {
                send.grant(credit).unwrap();
                credits += 1;
            }
        }
        assert_eq!(credits, 1000 / 7);
    }

    #[test]
    fn a_receiver_that_takes_nothing_stops_the_sender() {
        let (mut send, mut receive) = (SendWindow::new(), ReceiveWindow::new());
        send.spend(WINDOW as usize);
        receive.arrived(WINDOW as usize).unwrap();
        assert_eq!(send.room(), 0);
        assert_eq!(receive.arrived(1), Err(WindowError::Overrun));
        assert_eq!(receive.taken(1), None);
        assert_eq!(receive.taken(usize::MAX), Some(WINDOW));
    }

    #[test]
    fn credit_cannot_be_invented() {
        let mut send = SendWindow::new();
        assert_eq!(send.grant(1), Err(WindowError::OverGrant));
        let mut receive = ReceiveWindow::new();
        assert_eq!(receive.taken(WINDOW as usize), None);
    }
}
