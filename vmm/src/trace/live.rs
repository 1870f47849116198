//! The recording of a running guest, from now on.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use control::{Client, ClientError, Following};

/// Follows the guest of this name, or of this socket. `None`: there is none.
pub fn find(guest: &Path) -> Option<io::Result<Following>> {
    let is_socket = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    let connected = match guest.to_str() {
        Some(name) if !name.contains('/') => Client::connect(name),
        _ if is_socket(guest) => Client::connect_path(guest),
        _ => return None,
    };
    match connected.and_then(|client| client.trace()) {
        Ok(following) => Some(Ok(following)),
        Err(ClientError::NoGuest(_) | ClientError::Place(_)) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    }
}
