//! The cases, by topic, and the loop that plays them.

mod calls;
mod registration;

use std::io::Write;

use crate::world::{Result, World};

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// The numbers of BINDER.md it shows.
    pub covers: &'static str,
    pub play: fn(&World) -> Result,
}

/// Every case, in the order in which they are played.
fn all() -> impl Iterator<Item = &'static Case> {
    [registration::CASES, calls::CASES].into_iter().flatten()
}

/// Prints the names of all cases with the numbers they cover.
pub fn list() {
    all().for_each(|case| println!("{} covers: {}", case.name, case.covers));
}

/// Plays the named cases, or all; an error if one did not come to its end.
pub fn run(names: &[&str]) -> std::io::Result<()> {
    if let Some(unknown) = names.iter().find(|name| !all().any(|case| case.name == **name)) {
        return Err(std::io::Error::other(format!("no case is called {unknown}; try `conformance list`")));
    }
    let mut stopped = Vec::new();
    for case in all().filter(|case| names.is_empty() || names.contains(&case.name)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for case in all() {
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
