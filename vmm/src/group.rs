//! `bindervm group`: several guests in one process, each on threads of its own.
//!
//! Every guest is what `bindervm run` makes of the same options: it has its own machine, devices, console,
//! recording, control socket and status file, and (unless the file says otherwise) a binder world of its
//! own. What the process has once they share: its streams (each line says whose it is), its signals
//! (every guest gets them) and its confinement. The guests are made one after the other, and none starts
//! where one of them cannot be made. From then on each has its own end: a panic of its thread ends
//! that guest alone, and one that does not end in time is left behind.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use binder::GuestId;
use binder_trace::recording::GuestName;
use clap::Args;

use self::file::{Group, Member};
use crate::args::SandboxArg;
use crate::exit::{Code, Failure, Status};
use crate::run::report::Report;
use crate::run::standing::{Standing, Voice};
use crate::run::world::{DomainSpec, Membership, World};
use crate::run::{Guest, confine, die_with};

mod file;

/// Address space for the threads, compiled code and overlays of every guest beside the first.
const SPARE_MEMORY: u64 = 2 << 30;

/// Arguments of `bindervm group`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What runs: a `[guest.NAME]` table for each guest, with the options of `bindervm run` as keys.
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Whether the process gives up what it does not need before the guests run, as for `run`.
    #[arg(long, value_enum, default_value_t = SandboxArg::Auto)]
    sandbox: SandboxArg,
    /// End with the process that started this one, which is this.
    #[arg(long, value_name = "PID", hide = true)]
    die_with: Option<u32>,
}

/// A guest's number in its group, and its exit code.
type Ended = (usize, u8);

/// Runs the group. Its exit code is that of the first guest, by name, which did not end with 0.
pub fn run(args: &GroupArgs) -> Result<u8, Failure> {
    if let Some(parent) = args.die_with {
        die_with(parent);
    }
    let group = file::read(&args.file)?;
    let worlds = worlds(&group);
    let (tell, ends) = mpsc::channel();
    let guests = match prepare(&group.members, &worlds, &tell) {
        Ok(guests) => guests,
        Err(code) => return Ok(code),
    };
    let extra = SPARE_MEMORY.saturating_mul(guests.len() as u64 - 1);
    let memory = guests.iter().fold(extra, |sum, guest| sum.saturating_add(guest.args().memory.0));
    if let Err(failure) = confine::apply(args.sandbox, memory) {
        guests.into_iter().for_each(|guest| {
            guest.refuse(Failure::new(Code::Internal, "the group is not run"));
        });
        return Err(failure);
    }
    let mut codes = vec![None; guests.len()];
    for (index, guest) in guests.into_iter().enumerate() {
        start(index, guest, &tell);
    }
    while codes.iter().any(Option::is_none) {
        // We hold a sender ourselves, so there is always somebody to hear of.
        let Ok((index, code)) = ends.recv() else { break };
        codes[index].get_or_insert(code);
    }
    worlds.values().try_for_each(World::finish)?;
    Ok(codes.into_iter().flatten().find(|code| *code != 0).unwrap_or(0))
}

/// The binder worlds that guests share, by name.
fn worlds(group: &Group) -> BTreeMap<String, World> {
    let world = |(name, spec): (&String, &DomainSpec)| {
        let named =
            group.of_domain(name).map(|(guest, member)| GuestName { id: guest, name: member.name.clone() });
        (name.clone(), World::new(name, named.collect(), spec.clone()))
    };
    group.domains.iter().map(world).collect()
}

/// Makes all guests, or tells why there is none.
fn prepare(
    members: &[Member],
    worlds: &BTreeMap<String, World>,
    tell: &Sender<Ended>,
) -> Result<Vec<Guest>, u8> {
    let mut guests: Vec<Guest> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let tell = tell.clone();
        let world = member.domain.as_ref().and_then(|name| worlds.get(name)).cloned();
        let standing = Standing {
            voice: Voice::named(&member.name),
            // Nobody listens to a guest's second end.
            give_up: Arc::new(move |code| {
                let _ = tell.send((index, code));
            }),
            world: world.map(|world| Membership { world, guest: GuestId(index as u32) }),
        };
        match Guest::prepare(&member.args, standing) {
            Ok(guest) => guests.push(guest),
            Err(code) => {
                for guest in guests {
                    let message = format!("{} cannot be made, so the group is not run", member.name);
                    guest.refuse(Failure::new(Code::BootFailed, message));
                }
                return Err(code);
            }
        }
    }
    Ok(guests)
}

/// Runs a guest on a thread of its own, which tells how it ended.
fn start(index: usize, guest: Guest, tell: &Sender<Ended>) {
    let (args, voice) = (guest.args().clone(), guest.voice());
    let done = tell.clone();
    let run = move || {
        let code = contained(|| guest.run()).unwrap_or_else(|reason| {
            let message = format!("the thread that ran the guest failed: {reason}");
            voice.say(&message);
            let status = Status::Failed { reason: Code::Internal, message };
            if let Some(path) = &args.status {
                let _ = Report::default().write(&status, path);
            }
            status.exit_code()
        });
        let _ = done.send((index, code));
    };
    if let Err(error) = thread::Builder::new().name("guest".into()).spawn(run) {
        eprintln!("bindervm: cannot start a thread for a guest: {error}");
        let _ = tell.send((index, Code::Internal as u8));
    }
}

/// Runs it; a panic in it is an error with its message.
fn contained<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What a guest's thread owns goes with it; what it shares is behind locks that tell.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_guests_end() {
        assert_eq!(contained(|| 3), Ok(3));
        let failed: Result<u8, String> = contained(|| panic!("number {}", 7));
        assert_eq!(failed, Err("number 7".to_owned()));
    }
}
