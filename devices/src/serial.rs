//! A 16550A serial port: `vm-superio`'s registers, our line, sink and input.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};

use crate::input::{GuestInput, InputQueue};
use crate::irq::IrqLine;
use crate::port::PortDevice;
use crate::virtio::NotRestored;

/// First port of COM1, Linux's ttyS0.
pub const COM1: u16 = 0x3f8;
/// Ports that a 16550A takes.
pub const PORTS: u16 = 8;

/// A serial port as plain data, for snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSerial {
    registers: [u8; 9],
    /// Received and not read.
    fifo: Vec<u8>,
    /// Waits for room in the FIFO.
    input: Vec<u8>,
}

/// A serial port. What the guest sends goes to the sink byte by byte, flushed, for a prompt ends
/// without a newline; a sink that fails loses the byte, as an unplugged cable would.
pub struct SerialPort {
    uart: Serial<Line, NoEvents, Box<dyn Write + Send>>,
    input: GuestInput,
}

impl SerialPort {
    /// A port whose interrupts arrive on `line`, whose output goes to `sink`, and whose input is `input`.
    pub fn new(line: Arc<dyn IrqLine>, sink: Box<dyn Write + Send>, input: InputQueue) -> Self {
        SerialPort { uart: Serial::new(Line(line), sink), input: GuestInput::new(input) }
    }

    /// The port as plain data.
    pub fn save(&self) -> SavedSerial {
        let state = self.uart.state();
        SavedSerial {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            fifo: state.in_buffer,
            input: self.input.saved(),
        }
    }

    /// Makes a new port what another one was saved as. An interrupt that it had raised is raised again.
    pub fn restore(&mut self, saved: SavedSerial) -> Result<(), NotRestored> {
        let [low, high, enable, identification, control, status, modem, modem_status, scratch] =
            saved.registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: control,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: saved.fifo,
        };
        if saved.input.len() > InputQueue::CAPACITY {
            return Err(NotRestored::new("more input waits for the serial port than can"));
        }
        let line = Arc::clone(&self.uart.interrupt_evt().0);
        let unused: Serial<Line, NoEvents, Box<dyn Write + Send>> =
            Serial::new(Line(Arc::clone(&line)), Box::new(std::io::sink()));
        let sink = std::mem::replace(&mut self.uart, unused).into_writer();
        self.uart = Serial::from_state(&state, Line(line), NoEvents, sink)
            .map_err(|_| NotRestored::new("the serial port's FIFO is longer than it can be"))?;
        self.input.restore(saved.input);
        Ok(())
    }

    /// Makes what the host pushed visible to the guest.
    pub fn service(&mut self) {
        self.input.service();
        self.fill_fifo();
    }

    fn fill_fifo(&mut self) {
        let mut fifo = [0; 64];
        let room = self.uart.fifo_capacity().min(fifo.len());
        let taken = self.input.take(&mut fifo[..room]);
        if taken > 0 {
            // The room was measured, so all of it fits. In loopback mode the UART does not listen.
            let _ = self.uart.enqueue_raw_bytes(&fifo[..taken]);
        }
    }
}

impl PortDevice for SerialPort {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.uart.read(offset as u8);
            // The driver may just have made room.
            if offset == 0 {
                self.fill_fifo();
            }
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        if let Some(&byte) = data.first() {
            // The one possible error is the sink's; the UART goes on without it.
            let _ = self.uart.write(offset as u8, byte);
        }
    }
}

struct Line(Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.pulse();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CountedLine, SharedSink};
    use std::io::{self, LineWriter};

    const DATA: u16 = 0;
    const IER: u16 = 1;
    const LSR: u16 = 5;

    fn read(port: &mut SerialPort, offset: u16) -> u8 {
        let mut byte = [0];
        port.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn output_reaches_the_sink() {
        let sink = SharedSink::default();
        let mut port = SerialPort::new(CountedLine::new(), Box::new(sink.clone()), InputQueue::new());
        for byte in b"hello" {
            port.write(DATA, &[*byte]);
        }
        assert_eq!(sink.bytes(), b"hello");
    }

    #[test]
    fn a_prompt_is_shown_before_its_line_ends() {
        let sink = SharedSink::default();
        let buffered = LineWriter::new(sink.clone());
        let mut port = SerialPort::new(CountedLine::new(), Box::new(buffered), InputQueue::new());
        for byte in b"login: " {
            port.write(DATA, &[*byte]);
        }
        assert_eq!(sink.bytes(), b"login: ");
    }

    #[test]
    fn input_beyond_the_fifo_waits_for_the_guest_to_read() {
        let line = CountedLine::new();
        let input = InputQueue::new();
        let mut port = SerialPort::new(line.clone(), Box::new(io::sink()), input.clone());
        port.write(IER, &[1]);
        let typed: Vec<u8> = (0..200).collect();
        input.push(&typed);
        port.service();
        assert_eq!(line.pulses(), 1);

        let mut got = Vec::new();
        while read(&mut port, LSR) & 1 == 1 {
            got.push(read(&mut port, DATA));
        }
        assert_eq!(got, typed);
    }

    #[test]
    fn a_restored_port_goes_on_where_the_saved_one_was() {
        let input = InputQueue::new();
        let mut port = SerialPort::new(CountedLine::new(), Box::new(io::sink()), input.clone());
        port.write(IER, &[1]);
        let typed: Vec<u8> = (0..200).collect();
        input.push(&typed);
        port.service();
        assert_eq!(read(&mut port, DATA), 0);
        let saved = port.save();

        let (line, sink) = (CountedLine::new(), SharedSink::default());
        let mut again = SerialPort::new(line.clone(), Box::new(sink.clone()), InputQueue::new());
        again.restore(saved.clone()).unwrap();
        assert_eq!(again.save(), saved);
        assert_eq!(line.pulses(), 1, "the interrupt that waits");
        let mut got = Vec::new();
        while read(&mut again, LSR) & 1 == 1 {
            got.push(read(&mut again, DATA));
        }
        assert_eq!(got, typed[1..]);
        again.write(DATA, b"x");
        assert_eq!(sink.bytes(), b"x");

        assert!(again.restore(SavedSerial { fifo: vec![0; 65], ..saved.clone() }).is_err());
        assert!(again.restore(SavedSerial { input: vec![0; InputQueue::CAPACITY + 1], ..saved }).is_err());
    }

    #[test]
    fn wide_accesses_see_an_8_bit_device() {
        let mut port = SerialPort::new(CountedLine::new(), Box::new(io::sink()), InputQueue::new());
        let mut word = [0; 4];
        port.read(LSR, &mut word);
        assert_eq!(word, [0x60, 0xff, 0xff, 0xff]);
    }
}
