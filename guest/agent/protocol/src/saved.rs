//! A link as plain data, for snapshots.
//!
//! What runs in the guest goes on in a restored guest, but whoever listened to it does not: the
//! commands of a saved link are *orphans* afterwards. Their output is taken and dropped, and their
//! end is nobody's event.

use serde::{Deserialize, Serialize};

use crate::window::WINDOW;

/// The host's end of a channel whose agent is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLink {
    /// The next command's number.
    pub(crate) next_id: u32,
    pub(crate) commands: Vec<SavedCommand>,
    /// Bytes on their way to the agent.
    pub(crate) outbox: Vec<u8>,
    /// The beginning of what the agent is saying.
    pub(crate) heard: Vec<u8>,
}

/// A command that ran when the link was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedCommand {
    pub id: u32,
    pub started: bool,
    /// Room and debt of stdout's and stderr's windows.
    pub output: [(u32, u32); 2],
}

/// A link cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSaved {
    /// There is nobody yet who could be told of the restore.
    #[error("the guest's agent is not ready")]
    NotReady,
    /// The agent does not know what to do after a restore.
    #[error("the guest's agent cannot resume: build the image again")]
    CannotResume,
}

/// A saved link that no link was saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent's channel contradicts itself")]
pub struct BadLink;

impl SavedLink {
    /// Whether a link could have been saved as this. `most` bytes wait in either direction.
    pub(crate) fn check(&self, most: usize) -> Result<(), BadLink> {
        let SavedLink { next_id, commands, outbox, heard } = self;
        let windows = commands.iter().flat_map(|command| command.output);
        let mut flows = windows.map(|(room, owed)| room.checked_add(owed));
        let known = commands.iter().all(|command| command.id < *next_id);
        let ascending = commands.windows(2).all(|pair| pair[0].id < pair[1].id);
        let bounded = outbox.len() <= most && heard.len() <= most && *next_id < u32::MAX;
        let flow = flows.all(|sum| sum.is_some_and(|sum| sum <= WINDOW));
        if known && ascending && bounded && flow { Ok(()) } else { Err(BadLink) }
    }
}
