//! Bytes typed on the host that wait for the guest to take them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// The host's end: a bounded queue that any thread may push to. Clones share it; one is given to a
/// device.
#[derive(Clone, Debug, Default)]
pub struct InputQueue {
    bytes: Arc<Mutex<VecDeque<u8>>>,
}

impl InputQueue {
    /// The most bytes that wait. A terminal's line discipline holds 4096; pasting is a few of those.
    pub const CAPACITY: usize = 64 << 10;

    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends as much of `bytes` as fits and returns how much that was. The device sees it when
    /// it is next serviced.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut queue = self.lock();
        let taken = bytes.len().min(Self::CAPACITY - queue.len());
        queue.extend(&bytes[..taken]);
        taken
    }

    /// How much more fits.
    pub fn room(&self) -> usize {
        Self::CAPACITY - self.lock().len()
    }

    /// Takes the oldest bytes back, `most` of them at most.
    pub fn pop(&self, most: usize) -> Vec<u8> {
        let mut queue = self.lock();
        let count = most.min(queue.len());
        queue.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        // A queue of bytes is valid whatever panicked while it was held.
        self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The device's end. What the host pushed becomes the guest's to see at [`GuestInput::service`]
/// and at no other time: a register access that looked at the host's queue would make a run depend
/// on how fast somebody types.
#[derive(Debug)]
pub(crate) struct GuestInput {
    host: InputQueue,
    visible: VecDeque<u8>,
}

impl GuestInput {
    pub fn new(host: InputQueue) -> Self {
        GuestInput { host, visible: VecDeque::new() }
    }

    /// Takes over what the host pushed, as far as the guest keeps up.
    pub fn service(&mut self) {
        let mut queue = self.host.lock();
        let room = InputQueue::CAPACITY.saturating_sub(self.visible.len());
        let taken = queue.len().min(room);
        self.visible.extend(queue.drain(..taken));
    }

    /// What the guest may see and has not taken.
    pub fn saved(&self) -> Vec<u8> {
        self.visible.iter().copied().collect()
    }

    /// Makes `bytes` what the guest may see.
    pub fn restore(&mut self, bytes: Vec<u8>) {
        self.visible = bytes.into();
    }

    /// Takes the oldest visible bytes, as many as `buffer` holds or as there are.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let taken = buffer.len().min(self.visible.len());
        for (to, from) in buffer.iter_mut().zip(self.visible.drain(..taken)) {
            *to = from;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let host = InputQueue::new();
        let mut guest = GuestInput::new(host.clone());
        assert_eq!(host.push(&vec![7; InputQueue::CAPACITY - 2]), InputQueue::CAPACITY - 2);
        assert_eq!(host.push(b"abc"), 2);
        assert_eq!(host.push(b"c"), 0);
        assert_eq!((host.room(), host.pop(1), host.room()), (0, vec![7], 1));
        assert_eq!(host.push(b"cd"), 1);

        let mut buffer = vec![0; InputQueue::CAPACITY];
        guest.service();
        assert_eq!(guest.take(&mut buffer), InputQueue::CAPACITY);
        assert_eq!(&buffer[InputQueue::CAPACITY - 3..], b"abc");
    }

    #[test]
    fn a_guest_that_takes_nothing_stops_the_host() {
        let host = InputQueue::new();
        let mut guest = GuestInput::new(host.clone());
        let much = vec![0; InputQueue::CAPACITY];
        for _ in 0..2 {
            assert_eq!(host.push(&much), much.len());
            guest.service();
        }
        assert_eq!(host.push(&much), 0);
    }

    #[test]
    fn input_is_seen_when_serviced_and_not_before() {
        let host = InputQueue::new();
        let mut guest = GuestInput::new(host.clone());
        let mut buffer = [0; 8];
        host.push(b"a");
        assert_eq!(guest.take(&mut buffer), 0);
        guest.service();
        host.push(b"b");
        assert_eq!(guest.take(&mut buffer), 1);
    }
}
