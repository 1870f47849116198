//! A link where what comes from outside is written down, so that a run repeats.
//!
//! What the listener sends is the guest's own doing, and happens again by itself. What other threads ask
//! for does not: on a link that is [held](AgentLink::hold) it waits for [`AgentLink::take_asked`], which tells
//! what it lets through, and in another run [`AgentLink::ask_again`] lets the same through instead.

use super::{AgentLink, LinkState, MAX_OUTBOX};
use crate::frame::Decoder;
use crate::message::HostMessage;

/// What is to be asked for again is not what a link lets through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it would tell the guest's agent makes no sense: {0}")]
pub struct BadFrames(&'static str);

impl AgentLink {
    /// From now on nothing that other threads ask for is sent by itself, not even before Ready, and nothing
    /// that the listener sends waits for it.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Lets through what other threads asked for, and returns it: whole frames.
    pub fn take_asked(&self) -> Vec<u8> {
        let mut state = self.lock();
        let asked = std::mem::take(&mut state.asked);
        state.outbox.extend(&asked);
        asked
    }

    /// Lets through what [`take_asked`](Self::take_asked) returned in another run of the same guest: stdin,
    /// its end, signals and sizes of terminals. Nothing where the agent is gone.
    pub fn ask_again(&self, frames: &[u8]) -> Result<(), BadFrames> {
        let mut state = self.lock();
        if state.phase == LinkState::Lost {
            return Ok(());
        }
        // Some of it may have been asked for when less was in the outbox.
        if state.outbox.len().saturating_add(frames.len()) > 2 * MAX_OUTBOX {
            return Err(BadFrames("more than can wait"));
        }
        let mut decoder = Decoder::new();
        decoder.push(frames);
        while let Some(message) =
            HostMessage::decode(&mut decoder).map_err(|_| BadFrames("a frame of no known form"))?
        {
            match message {
                // A command may have ended before it got them.
                HostMessage::Stdin { id, bytes } => {
                    if let Ok(window) = state.stdin(id) {
                        if bytes.len() > window.room() {
                            return Err(BadFrames("stdin that the command has no room for"));
                        }
                        window.spend(bytes.len());
                    }
                }
                HostMessage::StdinClosed { id } => {
                    if let Some(command) = state.commands.get_mut(&id) {
                        command.stdin = None;
                    }
                }
                HostMessage::Signal { .. } | HostMessage::Resize { .. } => {}
                _ => return Err(BadFrames("a message that nobody outside sends")),
            }
        }
        if !decoder.rest().is_empty() {
            return Err(BadFrames("a frame that is cut short"));
        }
        state.outbox.extend(frames);
        Ok(())
    }
}
