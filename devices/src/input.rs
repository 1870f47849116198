//! Bytes typed on the host that wait for the guest to take them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// A bounded queue of host input. Clones share it: one end is kept by the host's reader, the other
/// by a device.
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

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the oldest bytes, as many as `buffer` holds or as wait.
    pub(crate) fn take(&self, buffer: &mut [u8]) -> usize {
        let mut queue = self.lock();
        let taken = buffer.len().min(queue.len());
        for (to, from) in buffer.iter_mut().zip(queue.drain(..taken)) {
            *to = from;
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        // A queue of bytes is valid whatever panicked while it was held.
        self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let queue = InputQueue::new();
        let host = queue.clone();
        assert_eq!(host.push(&vec![7; InputQueue::CAPACITY - 2]), InputQueue::CAPACITY - 2);
        assert_eq!(host.push(b"abc"), 2);
        assert_eq!(host.push(b"c"), 0);

        let mut buffer = vec![0; InputQueue::CAPACITY];
        assert_eq!(queue.take(&mut buffer), InputQueue::CAPACITY);
        assert_eq!(&buffer[InputQueue::CAPACITY - 2..], b"ab");
        assert!(host.is_empty());
    }
}
