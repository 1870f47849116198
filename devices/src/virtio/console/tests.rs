use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::input::InputQueue;
use crate::testing::{Driver, SharedSink, WRITE};
use crate::virtio::mmio::status;

const NEEDS_RESET: u32 = status::DEVICE_NEEDS_RESET;
const AGENT_RECEIVE: u16 = 4;
const AGENT_TRANSMIT: u16 = 5;

/// Sends back what it got, in brackets, and remembers being opened and closed.
#[derive(Clone, Default)]
struct Echo {
    waiting: Arc<Mutex<VecDeque<u8>>>,
    openings: Arc<Mutex<Vec<bool>>>,
}

impl PortHandler for Echo {
    fn opened(&mut self, open: bool) {
        self.openings.lock().unwrap().push(open);
    }

    fn output(&mut self, bytes: &[u8]) {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.push_back(b'<');
        waiting.extend(bytes);
        waiting.push_back(b'>');
    }

    fn service(&mut self) {}

    fn save(&self) -> Result<SavedPort, NotSaved> {
        Ok(SavedPort::Stream(self.waiting.lock().unwrap().iter().copied().collect()))
    }

    fn restore(&mut self, saved: SavedPort) -> Result<(), NotRestored> {
        *self.waiting.lock().unwrap() = saved.stream()?.into();
        Ok(())
    }

    fn input(&mut self, buffer: &mut [u8]) -> usize {
        let mut waiting = self.waiting.lock().unwrap();
        let length = buffer.len().min(waiting.len());
        buffer.iter_mut().zip(waiting.drain(..length)).for_each(|(to, from)| *to = from);
        length
    }
}

struct Guest {
    driver: Driver,
    console: SharedSink,
    typed: InputQueue,
    agent: Echo,
}

impl Guest {
    fn start() -> Self {
        let (console, typed, agent) = (SharedSink::default(), InputQueue::new(), Echo::default());
        let port = StreamPort::new(Box::new(console.clone()), typed.clone());
        let device = Console::new(Box::new(port), Box::new(agent.clone()));
        Guest { driver: Driver::start(Box::new(device), F_MULTIPORT), console, typed, agent }
    }

    /// As `start`, with both ports opened.
    fn open() -> Self {
        let mut guest = Guest::start();
        for port in 0..2 {
            guest.control(port, event::PORT_OPEN, 1);
        }
        guest
    }

    fn control(&mut self, port: u32, event: u16, value: u16) {
        self.write(CONTROL_TRANSMIT, &Control::new(port, event, value).bytes());
    }

    fn write(&mut self, queue: u16, bytes: &[u8]) {
        self.driver.ram.write_slice(bytes, GuestAddress(0x8000)).unwrap();
        self.driver.add(queue, &[(0x8000, bytes.len() as u32, 0)]);
        self.driver.kick(queue);
    }

    /// Posts `count` receive buffers of `length` bytes, side by side from `at`.
    fn post(&mut self, queue: u16, at: u64, length: u32, count: u64) {
        for n in 0..count {
            self.driver.add(queue, &[(at + n * u64::from(length), length, WRITE)]);
        }
        self.driver.kick(queue);
    }

    /// The control messages received in 64-byte buffers from `at`.
    fn controls(&mut self, at: u64) -> Vec<(u32, u16, u16, String)> {
        let used = self.driver.used(CONTROL_RECEIVE);
        used.into_iter()
            .map(|(head, length)| {
                let bytes = self.driver.bytes(at + u64::from(head) * 64, length as usize);
                let Control { port, event, value, .. } = Control::parse(bytes[..HEADER].try_into().unwrap());
                (port, event, value, String::from_utf8(bytes[HEADER..].to_vec()).unwrap())
            })
            .collect()
    }
}

#[test]
fn the_handshake_announces_both_ports() {
    let mut guest = Guest::start();
    assert_eq!(guest.driver.read(0x104), 2, "max_nr_ports");
    guest.post(CONTROL_RECEIVE, 0x4000, 64, 10);
    guest.control(u32::MAX, event::DEVICE_READY, 1);
    let none = String::new;
    assert_eq!(guest.controls(0x4000), [(0, event::PORT_ADD, 1, none()), (1, event::PORT_ADD, 1, none())]);

    guest.control(0, event::PORT_READY, 1);
    guest.control(1, event::PORT_READY, 1);
    assert_eq!(
        guest.controls(0x4000),
        [
            (0, event::CONSOLE_PORT, 1, none()),
            (0, event::PORT_OPEN, 1, none()),
            (1, event::PORT_NAME, 1, agent_protocol::PORT_NAME.to_owned()),
            (1, event::PORT_OPEN, 1, none()),
        ]
    );

    guest.control(1, event::PORT_OPEN, 1);
    guest.control(1, event::PORT_OPEN, 1);
    guest.control(1, event::PORT_OPEN, 0);
    guest.control(77, event::PORT_OPEN, 1);
    assert_eq!(*guest.agent.openings.lock().unwrap(), [true, false]);
}

#[test]
fn answers_wait_for_buffers() {
    let mut guest = Guest::start();
    guest.control(u32::MAX, event::DEVICE_READY, 1);
    assert!(guest.controls(0x4000).is_empty());
    guest.post(CONTROL_RECEIVE, 0x4000, 64, 1);
    guest.post(CONTROL_RECEIVE, 0x4040, 64, 1);
    assert_eq!(guest.controls(0x4000).len(), 2);
}

#[test]
fn an_answer_arrives_before_the_doorbell_returns() {
    let mut guest = Guest::open();
    guest.post(AGENT_RECEIVE, 0xa000, 64, 4);
    guest.write(AGENT_TRANSMIT, b"hello");
    assert_eq!(guest.driver.used(AGENT_TRANSMIT), [(0, 0)]);
    assert_eq!(guest.driver.used(AGENT_RECEIVE), [(0, 7)]);
    assert_eq!(guest.driver.bytes(0xa000, 7), b"<hello>");
}

#[test]
fn input_waits_until_the_guest_has_buffers() {
    let mut guest = Guest::open();
    let text: Vec<u8> = (0..100).collect();
    guest.write(AGENT_TRANSMIT, &text);
    guest.post(AGENT_RECEIVE, 0xa000, 32, 2);
    assert_eq!(guest.driver.used(AGENT_RECEIVE), [(0, 32), (1, 32)]);
    assert_eq!(guest.agent.waiting.lock().unwrap().len(), 38);
    guest.post(AGENT_RECEIVE, 0xa040, 32, 2);
    assert_eq!(guest.driver.used(AGENT_RECEIVE), [(2, 32), (3, 6)]);
    assert_eq!(guest.driver.bytes(0xa001, 100), text);
}

#[test]
fn a_closed_port_gets_no_input() {
    let mut guest = Guest::start();
    guest.post(AGENT_RECEIVE, 0xa000, 64, 1);
    guest.write(AGENT_TRANSMIT, b"early");
    assert!(guest.driver.used(AGENT_RECEIVE).is_empty());
    guest.control(1, event::PORT_OPEN, 1);
    assert_eq!(guest.driver.used(AGENT_RECEIVE), [(0, 7)]);
}

#[test]
fn the_console_port_is_a_pair_of_streams() {
    let mut guest = Guest::open();
    guest.write(1, b"login: ");
    assert_eq!(guest.console.bytes(), b"login: ");
    guest.post(0, 0xa000, 64, 1);
    guest.typed.push(b"root\n");
    guest.driver.kick(0);
    assert!(guest.driver.used(0).is_empty(), "not before the device is serviced");
    guest.driver.transport.service();
    assert_eq!(guest.driver.used(0), [(0, 5)]);
    assert_eq!(guest.driver.bytes(0xa000, 5), b"root\n");
}

#[test]
fn without_multiport_the_console_is_open_at_once() {
    let (typed, agent) = (InputQueue::new(), Echo::default());
    let port = StreamPort::new(Box::new(std::io::sink()), typed.clone());
    let mut driver = Driver::start(Box::new(Console::new(Box::new(port), Box::new(agent))), 0);
    typed.push(b"x");
    driver.add(0, &[(0xa000, 8, WRITE)]);
    driver.transport.service();
    assert_eq!(driver.used(0), [(0, 1)]);
}

#[test]
fn hostile_output_is_refused_or_ignored() {
    // Wrong direction and zero length: used, nothing taken.
    let mut guest = Guest::open();
    guest.driver.add(1, &[(0xa000, 64, WRITE)]);
    guest.driver.add(1, &[(0xa000, 0, 0)]);
    guest.driver.kick(1);
    assert_eq!(guest.driver.used(1), [(0, 0), (1, 0)]);
    assert!(guest.console.bytes().is_empty());
    assert_eq!(guest.driver.status() & NEEDS_RESET, 0);

    // A loop whose total is more than anyone writes.
    guest.driver.add(1, &[(0, 0xf_0000, 0), (0, 0xf_0000, 0)]);
    guest.driver.link(1, 3, 2);
    guest.driver.kick(1);
    assert!(guest.driver.status() & NEEDS_RESET != 0);
    assert!(guest.driver.transport.failure().unwrap().contains("1 MiB"));
}

#[test]
fn broken_rings_stop_the_device_alone() {
    type Break = fn(&mut Guest);
    let breaks: [Break; 5] = [
        |guest| guest.driver.add(AGENT_TRANSMIT, &[(0x10_0000 - 4, 8, 0)]),
        |guest| guest.driver.set_available(AGENT_TRANSMIT, 1000),
        |guest| guest.driver.offer(AGENT_TRANSMIT, 64),
        |guest| guest.write(CONTROL_TRANSMIT, &[0; 4]),
        |guest| (0..40).for_each(|_| guest.control(u32::MAX, event::DEVICE_READY, 1)),
    ];
    for (n, break_it) in breaks.into_iter().enumerate() {
        let mut guest = Guest::open();
        break_it(&mut guest);
        guest.driver.kick(AGENT_TRANSMIT);
        assert!(guest.driver.status() & NEEDS_RESET != 0, "case {n}");
        assert_eq!(guest.driver.read(0x060) & 2, 2, "case {n}: the driver is told");

        guest.driver.restart(F_MULTIPORT);
        guest.control(0, event::PORT_OPEN, 1);
        guest.write(1, b"back");
        assert_eq!(guest.console.bytes(), b"back", "case {n}");
    }
}

#[test]
fn a_reset_closes_the_ports() {
    let mut guest = Guest::open();
    guest.driver.restart(F_MULTIPORT);
    assert_eq!(*guest.agent.openings.lock().unwrap(), [true, false]);
    guest.post(AGENT_RECEIVE, 0xa000, 64, 1);
    guest.write(AGENT_TRANSMIT, b"x");
    assert!(guest.driver.used(AGENT_RECEIVE).is_empty());
}
