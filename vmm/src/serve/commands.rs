//! Which commands of the guest belong to clients of the control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::{AgentLink, ExecId, ExecRequest, LinkError};

use super::exec::RemoteExec;

/// The commands of clients, by the agent's number. Clones share them: clients add, and the listener on
/// the vCPU's thread finds and removes.
#[derive(Clone, Default)]
pub struct Commands(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    clients: BTreeMap<ExecId, Arc<RemoteExec>>,
    /// Of bindervm's own: nobody wants to hear of them.
    nobodys: BTreeSet<ExecId>,
}

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
        commands.clients.insert(id, exec.clone());
        Ok(())
    }

    /// Asks the agent to run a command whose output and end are nobody's.
    pub fn ask_for_nobody(&self, link: &AgentLink, request: ExecRequest) -> Result<(), LinkError> {
        let mut commands = self.lock();
        commands.nobodys.insert(link.exec(request)?);
        Ok(())
    }

    /// Whether the command `id` is nobody's; `ended`: it is over, and forgotten.
    pub fn is_nobodys(&self, id: ExecId, ended: bool) -> bool {
        let nobodys = &mut self.lock().nobodys;
        if ended { nobodys.remove(&id) } else { nobodys.contains(&id) }
    }

    /// The client's command `id`, if it is one's.
    pub fn find(&self, id: ExecId) -> Option<Arc<RemoteExec>> {
        self.lock().clients.get(&id).cloned()
    }

    /// The command `id` has ended.
    pub fn remove(&self, id: ExecId) -> Option<Arc<RemoteExec>> {
        self.lock().clients.remove(&id)
    }

    /// All have ended.
    pub fn take(&self) -> Vec<Arc<RemoteExec>> {
        let book = std::mem::take(&mut *self.lock());
        book.clients.into_values().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let book = self.lock();
        book.clients.len() + book.nobodys.len()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
