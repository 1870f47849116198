//! `bindervm push` and `pull`: files and folders to and from a running guest.

use std::path::Path;

use control::{CopyError, Limits, UnpackError};

use crate::args::{PullArgs, PushArgs};
use crate::exit::{Code, Failure};
use crate::guests::{connect, failed};

/// Copies into a guest.
pub fn push(args: &PushArgs) -> Result<(), Failure> {
    let (guest, path) = split(&args.to)?;
    let client = connect(guest)?;
    for from in &args.from {
        client.push(from, path, args.timeout).map_err(|error| told(&from.display().to_string(), error))?;
    }
    Ok(())
}

/// Copies out of a guest.
pub fn pull(args: &PullArgs) -> Result<(), Failure> {
    let (guest, path) = split(&args.from)?;
    let client = connect(guest)?;
    let limits = Limits { bytes: args.limit, ..Limits::default() };
    let to = args.to.as_deref().unwrap_or(Path::new("."));
    let pulled = client.pull(path, to, limits, args.timeout).map_err(|error| told(path, error))?;
    for text in &pulled.left_out {
        eprintln!("bindervm: left out: {text}");
    }
    Ok(())
}

/// GUEST and PATH of `GUEST:PATH`.
fn split(place: &str) -> Result<(&str, &str), Failure> {
    match place.split_once(':') {
        Some((guest, path)) if !guest.is_empty() && !path.is_empty() => Ok((guest, path)),
        _ => Err(Failure::new(Code::Usage, format!("write GUEST:PATH, not {place}"))),
    }
}

fn told(what: &str, error: CopyError) -> Failure {
    let message = format!("cannot copy {what}");
    match error {
        CopyError::Client(error) => failed(&message, error),
        error @ CopyError::Unpack(UnpackError::BadName(_) | UnpackError::Archive(_)) => {
            Failure::because(Code::Internal, message, error)
        }
        // What was named is not there, or is no place for a file.
        error => Failure::because(Code::Usage, message, error),
    }
}
