//! Which commands of the guest belong to clients of the control socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::{AgentLink, ExecId, ExecRequest, LinkError};

use super::exec::RemoteExec;

/// The commands of clients, by the agent's number. Clones share them: clients add, and the listener on
/// the vCPU's thread finds and removes.
#[derive(Clone, Default)]
pub struct Commands(Arc<Mutex<BTreeMap<ExecId, Arc<RemoteExec>>>>);

impl Commands {
    /// Asks the agent to run a command for a client.
    pub fn ask(
        &self,
        link: &AgentLink,
        request: ExecRequest,
        exec: &Arc<RemoteExec>,
    ) -> Result<(), LinkError> {
        // Held over both, so that the listener never hears of a command that is not here yet.
        let mut commands = self.lock();
        let id = link.exec(request)?;
        exec.asked(link.clone(), id);
        commands.insert(id, exec.clone());
        Ok(())
    }

    /// The client's command `id`, if it is one's.
    pub fn find(&self, id: ExecId) -> Option<Arc<RemoteExec>> {
        self.lock().get(&id).cloned()
    }

    /// The command `id` has ended.
    pub fn remove(&self, id: ExecId) -> Option<Arc<RemoteExec>> {
        self.lock().remove(&id)
    }

    /// All have ended.
    pub fn take(&self) -> Vec<Arc<RemoteExec>> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ExecId, Arc<RemoteExec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
