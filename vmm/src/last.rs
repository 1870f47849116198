//! The last run of this user, kept for `bindervm doctor --last-run`, and how to repeat it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure};
use crate::output;

/// Most bytes of the file that are looked at: it names a few dozen instructions.
const LIMIT: u64 = 1 << 20;

/// What is kept of a run.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRun {
    /// The command line, as a shell takes it.
    pub command: String,
    /// Exit code of `bindervm`.
    pub exit_code: u8,
    /// What that means, where bindervm ended the run.
    pub reason: Option<String>,
    /// The engine, where it got that far.
    pub engine: Option<String>,
    /// Instructions executed, where they are counted.
    pub instructions: Option<u64>,
    /// Instructions that the software CPU lacks and the guest met (it got #UD for each), with counts.
    pub missing: Vec<(String, u64)>,
}

impl LastRun {
    /// Keeps it. A folder that cannot be written must not spoil a run, so nobody hears of it.
    pub fn keep(&self) {
        let Some(path) = path() else { return };
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let kept = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&part, serde_json::to_vec_pretty(self)?)?;
            fs::rename(&part, &path)
        };
        if kept().is_err() {
            let _ = fs::remove_file(&part);
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "command       {}", self.command)?;
        match &self.reason {
            Some(reason) => writeln!(out, "exit code     {}: {reason}", self.exit_code)?,
            None => writeln!(out, "exit code     {}", self.exit_code)?,
        }
        if let Some(engine) = &self.engine {
            writeln!(out, "engine        {engine}")?;
        }
        if let Some(instructions) = self.instructions {
            writeln!(out, "instructions  {instructions}")?;
        }
        if self.missing.is_empty() {
            return writeln!(out, "missing       no instruction that the software CPU lacks was met");
        }
        for (name, count) in &self.missing {
            writeln!(
                out,
                "missing       {name}: {count} times, each an invalid-opcode exception in the guest"
            )?;
        }
        Ok(())
    }
}

/// `bindervm doctor --last-run`.
pub fn show() -> Result<(), Failure> {
    let path = path().ok_or_else(|| {
        Failure::new(Code::Usage, "no last run is kept: set HOME or XDG_STATE_HOME, it is kept there")
    })?;
    let refused = |what| format!("{what} {}; run a guest first", path.display());
    let file = fs::File::open(&path)
        .map_err(|error| Failure::because(Code::Usage, refused("there is no last run in"), error))?;
    let last: LastRun = serde_json::from_reader(io::Read::take(file, LIMIT))
        .map_err(|error| Failure::because(Code::Usage, refused("cannot read"), error))?;
    output::print(|out| last.print(out))
}

fn path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    Some(state.or_else(home)?.join("bindervm/last-run.json"))
}

/// This process's command line, quoted for a shell.
pub fn command_line() -> String {
    quoted(std::env::args_os())
}

fn quoted(words: impl Iterator<Item = OsString>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    let words = words.map(|word| {
        let word = word.to_string_lossy();
        if !word.is_empty() && word.bytes().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_for_a_shell() {
        let words = ["bindervm", "run", "a b", "--", "sh", "-c", "echo 'x'", ""];
        assert_eq!(
            quoted(words.into_iter().map(OsString::from)),
            r"bindervm run 'a b' -- sh -c 'echo '\''x'\''' ''"
        );
    }

    #[test]
    fn missing_instructions_are_named_with_their_counts() {
        let last = LastRun { missing: vec![("Vaddps".into(), 3)], ..LastRun::default() };
        let mut text = Vec::new();
        last.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("missing       Vaddps: 3 times"), "{text}");
        let read: LastRun = serde_json::from_slice(&serde_json::to_vec(&last).unwrap()).unwrap();
        assert_eq!(read, last);
    }
}
