//! `agent vsock`: joins standard input and output to a stream of AF_VSOCK (vsock(7)), for guests whose
//! programs do not speak it themselves.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::thread;

use rustix::net::{AddressFamily, Shutdown, SocketType, accept, listen, shutdown, socket};

/// What the command line says.
const USAGE: &str = "usage: vsock connect CID PORT | vsock listen PORT";

/// Runs `agent vsock ARGUMENTS`.
pub fn run(arguments: &[&str]) -> ExitCode {
    let stream = match arguments {
        ["connect", cid, port] => numbers(cid, port).map(|(cid, port)| connect(cid, port)),
        ["listen", port] => numbers("0", port).map(|(_, port)| take_one(port)),
        _ => None,
    };
    let joined = match stream {
        Some(stream) => stream.and_then(join),
        None => {
            eprintln!("bindervm-agent: {USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match joined {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bindervm-agent: vsock: {error}");
            ExitCode::FAILURE
        }
    }
}

fn numbers(cid: &str, port: &str) -> Option<(u32, u32)> {
    Some((cid.parse().ok()?, port.parse().ok()?))
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: `sockaddr_vm` is plain data for which zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn connect(cid: u32, port: u32) -> io::Result<OwnedFd> {
    let stream = socket(AddressFamily::VSOCK, SocketType::STREAM, None)?;
    let address = address(cid, port);
    // SAFETY: the pointer and the length are those of `address`, which the kernel only reads.
    let failed = unsafe {
        libc::connect(stream.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_vm>() as u32)
    };
    if failed == 0 { Ok(stream) } else { Err(io::Error::last_os_error()) }
}

/// Waits for one stream to the guest's `port`.
fn take_one(port: u32) -> io::Result<OwnedFd> {
    let listener = socket(AddressFamily::VSOCK, SocketType::STREAM, None)?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the pointer and the length are those of `address`, which the kernel only reads.
    let failed = unsafe {
        libc::bind(listener.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_vm>() as u32)
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    listen(&listener, 1)?;
    Ok(accept(&listener)?)
}

/// Copies both ways, each until its end.
fn join(stream: OwnedFd) -> io::Result<()> {
    let (mut incoming, mut outgoing) = (File::from(stream.try_clone()?), File::from(stream));
    let sender = thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut outgoing)?;
        io::Result::Ok(shutdown(&outgoing, Shutdown::Write)?)
    });
    io::copy(&mut incoming, &mut io::stdout())?;
    // It does not panic.
    sender.join().unwrap_or(Ok(()))
}
