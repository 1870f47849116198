//! The agent's port: [`AgentLink`] as what a console port talks to.

use agent_protocol::AgentLink;

use crate::virtio::console::{PortHandler, SavedPort};
use crate::virtio::{NotRestored, NotSaved};

impl PortHandler for AgentLink {
    fn opened(&mut self, open: bool) {
        AgentLink::opened(self, open);
    }

    fn output(&mut self, bytes: &[u8]) {
        self.receive(bytes);
    }

    fn service(&mut self) {
        AgentLink::service(self);
    }

    fn input(&mut self, buffer: &mut [u8]) -> usize {
        self.send_into(buffer)
    }

    fn save(&self) -> Result<SavedPort, NotSaved> {
        AgentLink::save(self).map(SavedPort::Agent).map_err(|error| NotSaved(error.to_string()))
    }

    fn restore(&mut self, saved: SavedPort) -> Result<(), NotRestored> {
        match saved {
            SavedPort::Agent(saved) => {
                AgentLink::restore(self, &saved).map_err(|error| NotRestored(error.to_string()))
            }
            SavedPort::Stream(_) => Err(NotRestored::new("the agent's port was saved as a console")),
        }
    }
}
