//! What a test requires of the machine.

use std::env;
use std::fs;

use crate::plan::RequiresEntry;

/// What is missing, if something is.
pub fn missing(requires: &RequiresEntry) -> Option<String> {
    if requires.kvm && machine::choose(machine::Kind::Kvm).is_err() {
        return Some("requires hardware virtualization; see `bindervm doctor`".to_owned());
    }
    if let Some(needed) = requires.memory
        && let Some(free) = free_memory()
        && free < needed.0
    {
        return Some(format!("requires {needed} of free memory, {}M are", free >> 20));
    }
    let unset = requires.env.iter().find(|name| env::var_os(name).is_none_or(|value| value.is_empty()));
    unset.map(|name| format!("requires the environment variable {name}"))
}

/// Bytes that could be used without swapping.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::value::Memory;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&RequiresEntry::default()), None);
        let env =
            RequiresEntry { env: vec!["PATH".into(), "NO_SUCH_VARIABLE_X".into()], ..Default::default() };
        assert_eq!(missing(&env).as_deref(), Some("requires the environment variable NO_SUCH_VARIABLE_X"));
        let memory = RequiresEntry { memory: Some(Memory(1 << 60)), ..Default::default() };
        assert!(missing(&memory).is_some_and(|text| text.contains("free memory")));
    }
}
