//! The host's end of a console port.

use std::io::Write;

use super::SavedPort;
use crate::input::{GuestInput, InputQueue};
use crate::virtio::{NotRestored, NotSaved};

/// What the host does with one port. Called on the vCPU's thread, from inside the guest's doorbell.
pub trait PortHandler: Send {
    /// A program in the guest opened or closed the port.
    fn opened(&mut self, open: bool);

    /// The guest wrote `bytes`. They have to be taken; who cannot must tell the guest beforehand.
    fn output(&mut self, bytes: &[u8]);

    /// What other threads of the host have for the guest may become visible to it. This is the only
    /// time: what `input` gives must not depend on the host's clock.
    fn service(&mut self);

    /// What waits for the guest, and what else is remembered between two calls.
    fn save(&self) -> Result<SavedPort, NotSaved>;

    /// Takes over what `save` gave. It is not to be trusted.
    fn restore(&mut self, saved: SavedPort) -> Result<(), NotRestored>;

    /// Fills `buffer` with what waits for the guest and returns how much that was. What the guest
    /// has no buffer for stays with the handler: it is only asked when there is room.
    fn input(&mut self, buffer: &mut [u8]) -> usize;
}

/// A port that is a plain pair of streams.
pub struct StreamPort {
    sink: Box<dyn Write + Send>,
    input: GuestInput,
}

impl StreamPort {
    /// Guest output goes to `sink` (a failing sink loses it), `input` goes to the guest.
    pub fn new(sink: Box<dyn Write + Send>, input: InputQueue) -> Self {
        StreamPort { sink, input: GuestInput::new(input) }
    }
}

impl PortHandler for StreamPort {
    fn opened(&mut self, _open: bool) {}

    fn output(&mut self, bytes: &[u8]) {
        // Console output is for a person to see; a closed terminal must not stop the guest.
        let _ = self.sink.write_all(bytes).and_then(|()| self.sink.flush());
    }

    fn service(&mut self) {
        self.input.service();
    }

    fn input(&mut self, buffer: &mut [u8]) -> usize {
        self.input.take(buffer)
    }

    fn save(&self) -> Result<SavedPort, NotSaved> {
        Ok(SavedPort::Stream(self.input.saved()))
    }

    fn restore(&mut self, saved: SavedPort) -> Result<(), NotRestored> {
        self.input.restore(saved.stream()?);
        Ok(())
    }
}
