//! `--vsock cid=N,path=PATH`: streams between the guest and sockets of the host.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use devices::virtio::vsock::{GUEST_CIDS, Vsock, VsockHost};
use machine::{Activity, Handle, Listening, Machine, Working};

use super::verdict::machine_failure;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// `--vsock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockArg {
    cid: u64,
    path: PathBuf,
}

/// Reads the option.
pub fn parse(text: &str) -> Result<VsockArg, String> {
    let rest = text.strip_prefix("cid=").ok_or("write cid=3,path=PATH")?;
    let (cid, path) = rest.split_once(",path=").ok_or("write cid=3,path=PATH")?;
    let (least, most) = GUEST_CIDS.into_inner();
    let cid = cid.parse().ok().filter(|cid| GUEST_CIDS.contains(cid));
    let cid = cid.ok_or(format!("a guest's CID is a number from {least} to {most}"))?;
    if path.is_empty() {
        return Err("path= needs a file name".to_owned());
    }
    Ok(VsockArg { cid, path: path.into() })
}

/// Puts the device on the board.
pub fn add(args: &RunArgs, machine: &mut Machine, activity: &Activity) -> Result<(), Failure> {
    let Some(VsockArg { cid, path }) = &args.vsock else { return Ok(()) };
    let host = Host {
        handle: machine.handle(),
        activity: activity.clone(),
        _listening: activity.listen(),
        working: Mutex::default(),
    };
    let device = Vsock::new(*cid, path, Arc::new(host)).map_err(|error| {
        Failure::because(Code::Usage, format!("cannot listen at {}", path.display()), error)
    })?;
    machine.add_virtio(Box::new(device)).map_err(machine_failure)
}

/// The machine, as the device sees it.
struct Host {
    handle: Handle,
    activity: Activity,
    /// Somebody may call at any moment.
    _listening: Listening,
    /// While there is a stream: what comes over it is work.
    working: Mutex<Option<Working>>,
}

impl VsockHost for Host {
    fn wake(&self) {
        self.handle.wake();
    }

    fn streams(&self, open: usize) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        match (open, working.is_some()) {
            (0, true) => *working = None,
            (1.., false) => *working = Some(self.activity.work()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsock_has_an_address_and_a_path() {
        assert_eq!(parse("cid=3,path=a,b"), Ok(VsockArg { cid: 3, path: "a,b".into() }));
        for wrong in
            ["", "3", "cid=3", "cid=2,path=x", "cid=4294967295,path=x", "cid=3,path=", "path=x,cid=3"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
