//! The cases, by topic, and the loop that plays them.

mod attempt;
mod binderfs;
mod buffers;
mod calls;
mod charges;
mod commands;
mod death;
mod fds;
mod freeze;
mod handles;
mod identity;
mod logs;
mod mapping;
mod namespaces;
mod nested;
mod nodes;
mod notices;
mod offsets;
mod oneway;
mod poll;
mod quirks;
mod races;
mod registration;
mod scatter;
mod security;
mod sleep;
mod threads;
mod uring;

use std::io::Write;

use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{acquire, call, enter_looper, free, reply, watch};
use crate::world::{Result, World};
use crate::write_read::Received;

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// The numbers of BINDER.md it shows.
    pub covers: &'static str,
    pub play: fn(&World) -> Result,
}

/// Groups that `run` plays only by their name, which begins their cases' names: not every driver has what they need.
const EXTRAS: [&str; 3] = ["attempt", "binderfs", "race"];

/// Whether the case belongs to the group.
fn is_of(group: &str, case: &Case) -> bool {
    case.name.strip_prefix(group).is_some_and(|rest| rest.starts_with('-'))
}

/// Every case, in the order in which they are played.
fn all() -> impl Iterator<Item = &'static Case> {
    let topics = [
        registration::CASES,
        calls::CASES,
        commands::CASES,
        nodes::CASES,
        handles::CASES,
        death::CASES,
        oneway::CASES,
        nested::CASES,
        threads::CASES,
        fds::CASES,
        poll::CASES,
        sleep::CASES,
        mapping::CASES,
        buffers::CASES,
        offsets::CASES,
        scatter::CASES,
        identity::CASES,
        namespaces::CASES,
        freeze::CASES,
        notices::CASES,
        logs::CASES,
        quirks::CASES,
        binderfs::CASES,
        races::CASES,
        uring::CASES,
        charges::CASES,
        attempt::CASES,
    ];
    topics.into_iter().flatten()
}

/// Prints the names of all cases with the numbers they cover, those of [`run_selinux`] last.
pub fn list() {
    all().chain(security::CASES).for_each(|case| println!("{} covers: {}", case.name, case.covers));
}

/// Loads the test policy, enforces it, and plays the cases about it.
pub fn run_selinux() -> std::io::Result<()> {
    security::enforce()?;
    play(security::CASES)
}

/// Plays the named cases, those of a group that is named ([`EXTRAS`]), or, without names, all others; an error
/// if one did not come to its end.
pub fn run(names: &[&str]) -> std::io::Result<()> {
    let known = |name: &str| EXTRAS.contains(&name) || all().any(|case| case.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(std::io::Error::other(format!("no case is called {unknown}; try `conformance list`")));
    }
    play(all().filter(|case| match names {
        [] => !EXTRAS.iter().any(|group| is_of(group, case)),
        names => names.iter().any(|name| *name == case.name || EXTRAS.contains(name) && is_of(name, case)),
    }))
}

fn play<'a>(cases: impl IntoIterator<Item = &'a Case>) -> std::io::Result<()> {
    let mut stopped = Vec::new();
    for case in cases {
        println!("== {} covers: {}", case.name, case.covers);
        let played = (case.play)(&World::new(case.name, false)?);
        match played {
            Ok(()) => println!("== {} end", case.name),
            Err(stop) => {
                println!("== {} {stop}", case.name);
                stopped.push(case.name);
            }
        }
        std::io::stdout().flush()?;
    }
    match stopped[..] {
        [] => Ok(()),
        _ => {
            Err(std::io::Error::other(format!("{} cases did not end: {}", stopped.len(), stopped.join(", "))))
        }
    }
}

/// Sends an object to the manager in a oneway; what the manager received, its buffer not yet freed.
fn give(from: &Actor<'_>, manager: &Actor<'_>, object: Object) -> Result<Received> {
    from.wr(commands![call(0, 1).oneway().object(object)])?;
    manager.r()?.received()
}

/// Asks the manager, who answers with an object; what was received, its buffer not yet freed.
fn fetch(to: &Actor<'_>, manager: &Actor<'_>, object: Object) -> Result<Received> {
    to.start(commands![call(0, 2)])?;
    let request = manager.r()?.received()?;
    manager.wr(commands![free(request.buffer()), reply().object(object)])?;
    to.finish()?.received()
}

/// Passes a node of `owner` through the manager to `user`, who keeps one strong count; the user's handle.
fn publish(owner: &Actor<'_>, manager: &Actor<'_>, user: &Actor<'_>, node: Object) -> Result<u32> {
    let given = give(owner, manager, node)?;
    let fetched = fetch(user, manager, Object::handle(given.handle(0)?))?;
    let handle = fetched.handle(0)?;
    user.w(commands![acquire(handle), free(fetched.buffer())])?;
    manager.w(commands![free(given.buffer())])?;
    Ok(handle)
}

/// A service of S that C holds and watches with cookie 0x77.
fn watched<'w>(world: &'w World) -> Result<(Actor<'w>, Actor<'w>, Actor<'w>, u32)> {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    c.w(commands![enter_looper()])?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 1))?;
    c.try_wr(commands![watch(handle, 0x77)])?;
    Ok((m, s, c, handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for case in all().chain(security::CASES) {
            assert!(seen.insert(case.name), "{} twice", case.name);
            for number in case.covers.split(", ") {
                let digits = number.strip_prefix('B').unwrap_or_default();
                assert!(
                    digits.len() == 3 && digits.parse::<u32>().is_ok_and(|n| (1..=513).contains(&n)),
                    "{number}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(run(&["no-such-case"]).is_err());
    }
}
