//! Stand-ins for the host's side, for the tests of this crate.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::irq::IrqLine;

/// A line that counts its edges.
#[derive(Default)]
pub struct CountedLine(AtomicUsize);

impl CountedLine {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn pulses(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl IrqLine for CountedLine {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A sink that the test can read.
#[derive(Clone, Default)]
pub struct SharedSink(Arc<Mutex<Vec<u8>>>);

impl SharedSink {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for SharedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
