//! `--gdb`: where debuggers come in. Bound before the process is confined, and said on stderr.

use gdb::Server;

use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// Listens where the arguments say.
pub fn listen(args: &RunArgs) -> Result<Option<Server>, Failure> {
    let Some(address) = &args.gdb else { return Ok(None) };
    let failed =
        |error| Failure::because(Code::Usage, format!("cannot listen for debuggers at {address}"), error);
    let server = Server::bind(address, args.gdb_wait).map_err(failed)?;
    let place = server.address().map_err(failed)?;
    let waits = if args.gdb_wait { "; the guest waits for it" } else { "" };
    eprintln!("bindervm: gdb may come in with 'target remote {place}'{waits}");
    Ok(Some(server))
}
