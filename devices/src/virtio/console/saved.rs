//! A console as plain data, for snapshots.

use agent_protocol::SavedLink;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use super::control::{Control, event};
use super::{Active, Console, MAX_PENDING, PORT_QUEUES, PORTS, PortRings, QUEUE_SIZES};
use crate::input::InputQueue;
use crate::virtio::{NotRestored, NotSaved, SavedQueue};

/// A console device without its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedConsole {
    /// Console, agent.
    ports: Vec<(bool, SavedPort)>,
    /// Port, event and value of the control messages that wait.
    pending: Vec<(u32, u16, u16)>,
}

/// The host's end of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedPort {
    /// Input that the guest has not taken.
    Stream(Vec<u8>),
    /// The agent's channel.
    Agent(SavedLink),
}

impl SavedPort {
    /// The input of a stream.
    pub(crate) fn stream(self) -> Result<Vec<u8>, NotRestored> {
        match self {
            SavedPort::Stream(input) if input.len() <= InputQueue::CAPACITY => Ok(input),
            SavedPort::Stream(_) => Err(NotRestored::new("more input waits than can")),
            SavedPort::Agent(_) => Err(NotRestored::new("the console was saved as the agent's port")),
        }
    }
}

impl Active {
    pub(super) fn saved(&self) -> Vec<SavedQueue> {
        // Queues of ports that the driver did not ask for are there, and not ready.
        let unset = |size: &u16| SavedQueue::of(&Queue::new(*size).expect("queue size"));
        let mut queues: Vec<SavedQueue> = QUEUE_SIZES.iter().map(unset).collect();
        let mut put = |first: u16, rings: &PortRings| {
            queues[usize::from(first)] = rings.receive.saved();
            queues[usize::from(first) + 1] = rings.transmit.saved();
        };
        self.ports.iter().zip(PORT_QUEUES).for_each(|(rings, first)| put(first, rings));
        self.control.iter().for_each(|rings| put(super::CONTROL_RECEIVE, rings));
        queues
    }
}

impl Console {
    pub(super) fn to_saved(&self) -> Result<SavedConsole, NotSaved> {
        let ports = self.ports.iter().map(|port| Ok((port.open, port.handler.save()?)));
        let pending = self.pending.iter().map(|message| (message.port, message.event, message.value));
        Ok(SavedConsole { ports: ports.collect::<Result<_, _>>()?, pending: pending.collect() })
    }

    pub(super) fn take_saved(&mut self, saved: SavedConsole) -> Result<(), NotRestored> {
        let SavedConsole { ports, pending } = saved;
        if ports.len() != PORTS || pending.len() > MAX_PENDING {
            return Err(NotRestored::new("the console has another number of ports or messages"));
        }
        for (port, (open, handler)) in self.ports.iter_mut().zip(ports) {
            port.open = open;
            port.handler.restore(handler)?;
        }
        self.pending = pending
            .into_iter()
            .map(|(port, event, value)| {
                let text = if event == event::PORT_NAME { agent_protocol::PORT_NAME } else { "" };
                Control { text, ..Control::new(port, event, value) }
            })
            .collect();
        Ok(())
    }
}
