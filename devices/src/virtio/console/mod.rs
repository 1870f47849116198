//! The console device with two ports (virtio 1.2, section 5.3; Linux `drivers/char/virtio_console.c`):
//! port 0 is the console hvc0, port 1 is the agent's channel, which the guest finds by its name.
//!
//! Start-up, driver on the left: DEVICE_READY -> PORT_ADD for each port; PORT_READY -> CONSOLE_PORT
//! (port 0) or PORT_NAME (port 1), then PORT_OPEN, for the host's end is always there; PORT_OPEN
//! when a program opens the port, and from then on it gets input. The driver waits inside its
//! doorbell for each control message to be used, so all of it is served inline.

use std::collections::VecDeque;
use std::io::Read;

use super::{ActivateError, ActiveQueues, ChainReader, DeviceError, Ring, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};
use control::{Control, HEADER, event};

mod control;
mod port;
mod saved;
#[cfg(test)]
mod tests;

pub use port::{PortHandler, StreamPort};
pub use saved::{SavedConsole, SavedPort};

/// The console device's id.
pub const DEVICE_ID: u32 = 3;

/// Feature: more than one port, and control queues.
pub const F_MULTIPORT: u64 = 1 << 1;

const PORTS: usize = 2;

/// The receive queue of each port; its transmit queue is the next.
const PORT_QUEUES: [u16; PORTS] = [0, 4];

/// Linux fills a receive queue with one page for each entry, so they are kept short.
const QUEUE_SIZES: &[u16] = &[16, 16, 16, 16, 16, 64];

const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;

/// The longest output buffer. Linux writes 32 KiB at most; splice may chain a pipe's worth.
const MAX_OUTPUT: usize = 1 << 20;

/// The most control messages that wait for the driver to post buffers: two ports need seven.
const MAX_PENDING: usize = 32;

/// The console device.
pub struct Console {
    ports: [Port; PORTS],
    pending: VecDeque<Control>,
    active: Option<Active>,
}

struct Port {
    handler: Box<dyn PortHandler>,
    /// A program in the guest has it open, so that input may be delivered.
    open: bool,
}

/// The rings of an active device.
struct Active {
    ports: Vec<PortRings>,
    /// Only with F_MULTIPORT.
    control: Option<PortRings>,
}

/// Both directions of a port, seen from the guest as virtio names them.
struct PortRings {
    receive: Ring,
    transmit: Ring,
}

impl PortRings {
    fn take(guest: &mut ActiveQueues, first: u16) -> Result<Self, ActivateError> {
        Ok(PortRings { receive: guest.take_ring(first)?, transmit: guest.take_ring(first + 1)? })
    }
}

impl Console {
    /// A device whose port 0 (hvc0) is served by `console` and whose port 1 by `agent`.
    pub fn new(console: Box<dyn PortHandler>, agent: Box<dyn PortHandler>) -> Self {
        let ports = [console, agent].map(|handler| Port { handler, open: false });
        Console { ports, pending: VecDeque::new(), active: None }
    }

    /// Answers a control message of the driver.
    fn answer(&mut self, message: Control) -> Result<(), DeviceError> {
        let Control { port, event, value, .. } = message;
        let yes = value != 0;
        let known = self.ports.get_mut(port as usize);
        match (event, known) {
            (event::DEVICE_READY, _) if yes => {
                self.pending.extend((0..PORTS as u32).map(|port| Control::new(port, event::PORT_ADD, 1)));
            }
            (event::PORT_READY, Some(_)) if yes => {
                self.pending.push_back(match port {
                    0 => Control::new(port, event::CONSOLE_PORT, 1),
                    _ => {
                        Control { text: agent_protocol::PORT_NAME, ..Control::new(port, event::PORT_NAME, 1) }
                    }
                });
                self.pending.push_back(Control::new(port, event::PORT_OPEN, 1));
            }
            (event::PORT_OPEN, Some(port)) => port.set_open(yes),
            // A driver that could not make a port, or says what we do not know, is left alone.
            _ => {}
        }
        match self.pending.len() {
            0..=MAX_PENDING => Ok(()),
            _ => Err(DeviceError::Driver {
                queue: CONTROL_TRANSMIT,
                problem: "no room for answers to control messages",
            }),
        }
    }

    /// Moves everything that waits for the guest into the buffers it posted.
    fn deliver(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if let Some(control) = &mut active.control {
            let pending = &mut self.pending;
            control.receive.fill(|buffer| send(pending, buffer))?;
        }
        for (port, rings) in self.ports.iter_mut().zip(&mut active.ports) {
            if port.open {
                rings.receive.fill(|buffer| Ok(port.handler.input(buffer)))?;
            }
        }
        Ok(())
    }
}

impl Port {
    fn set_open(&mut self, open: bool) {
        if self.open != open {
            self.open = open;
            self.handler.opened(open);
        }
    }
}

/// Writes the next control message into the driver's buffer.
fn send(pending: &mut VecDeque<Control>, buffer: &mut [u8]) -> Result<usize, DeviceError> {
    let Some(message) = pending.pop_front() else { return Ok(0) };
    let bytes = message.bytes();
    match buffer.get_mut(..bytes.len()) {
        Some(place) => place.copy_from_slice(&bytes),
        None => {
            return Err(DeviceError::Driver {
                queue: CONTROL_RECEIVE,
                problem: "a control buffer that is too short",
            });
        }
    }
    Ok(bytes.len())
}

/// Reads one control message of the driver.
fn receive(mut reader: ChainReader<'_>) -> Result<Control, DeviceError> {
    let mut bytes = [0; HEADER];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Control::parse(bytes)),
        Err(_) => Err(DeviceError::Driver {
            queue: CONTROL_TRANSMIT,
            problem: "a control message that is too short",
        }),
    }
}

/// Hands what the guest wrote to the port's host side.
fn output(queue: u16, handler: &mut dyn PortHandler, mut reader: ChainReader<'_>) -> Result<(), DeviceError> {
    if reader.available_bytes() > MAX_OUTPUT {
        return Err(DeviceError::Driver { queue, problem: "an output buffer of more than 1 MiB" });
    }
    let mut chunk = [0; Ring::CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => handler.output(&chunk[..length]),
            Err(e) => return Err(DeviceError::Host(e.to_string())),
        }
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// The configuration is cols and rows (not offered), then max_nr_ports at offset 4.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = ((PORTS as u64) << 32).to_le_bytes();
        for (byte, from) in data.iter_mut().zip(config.iter().skip(offset as usize)) {
            *byte = *from;
        }
    }

    fn activate(&mut self, mut guest: ActiveQueues) -> Result<(), ActivateError> {
        let mut ports = vec![PortRings::take(&mut guest, PORT_QUEUES[0])?];
        let mut control = None;
        if guest.features & F_MULTIPORT != 0 {
            ports.push(PortRings::take(&mut guest, PORT_QUEUES[1])?);
            control = Some(PortRings::take(&mut guest, CONTROL_RECEIVE)?);
        } else {
            // Without control messages the one port is simply there.
            self.ports[0].set_open(true);
        }
        self.active = Some(Active { ports, control });
        Ok(())
    }

    fn notify(&mut self, queue: u16) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if queue == CONTROL_TRANSMIT {
            let mut messages = Vec::new();
            if let Some(control) = &mut active.control {
                control.transmit.drain(|reader| receive(reader).map(|message| messages.push(message)))?;
            }
            messages.into_iter().try_for_each(|message| self.answer(message))?;
        } else if let Some(index) = PORT_QUEUES.iter().position(|receive| receive + 1 == queue)
            && let Some(rings) = active.ports.get_mut(index)
        {
            let handler = &mut *self.ports[index].handler;
            rings.transmit.drain(|reader| output(queue, handler, reader))?;
        }
        // What the guest said may have brought an answer, on this port or another.
        self.deliver()
    }

    fn service(&mut self) -> Result<(), DeviceError> {
        self.ports.iter_mut().for_each(|port| port.handler.service());
        self.deliver()
    }

    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        self.active.as_ref().map(Active::saved)
    }

    fn save(&self) -> Result<SavedDevice, NotSaved> {
        self.to_saved().map(SavedDevice::Console)
    }

    fn restore(&mut self, saved: SavedDevice) -> Result<(), NotRestored> {
        match saved {
            SavedDevice::Console(saved) => self.take_saved(saved),
            _ => Err(NotRestored::new("it was saved as another device")),
        }
    }

    fn reset(&mut self) {
        self.active = None;
        self.pending.clear();
        self.ports.iter_mut().for_each(|port| port.set_open(false));
    }
}
