//! The agent's port: [`AgentLink`] as what a console port talks to.

use agent_protocol::AgentLink;

use crate::virtio::console::PortHandler;

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
}
