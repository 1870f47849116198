//! Running the host's programs: output into the step's log and to the progress, failures with their last lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cache::create_dir_all;
use crate::error::{Failure, Purpose};

/// Lines of a failed program that go into the error.
const TAIL_LINES: usize = 12;
/// Longer lines (linkers write whole command lines) are cut in errors and progress, not in the log.
const LINE_LENGTH: usize = 300;

/// The log of one step, in which its programs run.
#[derive(Debug)]
pub struct StepLog {
    file: File,
}

impl StepLog {
    /// Starts the log anew.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        if let Some(folder) = path.parent() {
            create_dir_all(folder)?;
        }
        let file = File::create(path).map_err(|source| Failure::file("create", path, source))?;
        Ok(Self { file })
    }

    /// Runs `command` to its end. Standard output and error go, line by line, to the log and to `on_line`.
    pub fn run(
        &mut self,
        command: &mut Command,
        purpose: Purpose,
        mut on_line: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let shown = shown(command);
        let _ = writeln!(self.file, "$ {shown}");
        let program = command.get_program().to_string_lossy().into_owned();
        let spawn = |source| Failure::Spawn { program: program.clone(), source };
        let (reader, mut child) = (|| -> io::Result<_> {
            let (reader, writer) = io::pipe()?;
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            let child = command.spawn()?;
            // The command holds the pipe's other end: without this the reader would never see its end.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            Ok((reader, child))
        })()
        .map_err(spawn)?;

        let mut tail = VecDeque::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = self.file.write_all(&line);
            let text = String::from_utf8_lossy(&line);
            let text: String = text.trim_end().chars().take(LINE_LENGTH).collect();
            if !text.is_empty() {
                on_line(&text);
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(format!("  {text}"));
            }
            line.clear();
        }
        let status = child.wait().map_err(spawn)?;
        if status.success() {
            return Ok(());
        }
        let tail = Vec::from(tail).join("\n");
        Err(Failure::Command { command: shown, status, tail, purpose })
    }

    /// Runs `command` and gives its standard output; standard error goes to the log.
    pub fn output(&mut self, command: &mut Command, purpose: Purpose) -> Result<String, Failure> {
        let shown = shown(command);
        let program = command.get_program().to_string_lossy().into_owned();
        let output =
            command.stdin(Stdio::null()).output().map_err(|source| Failure::Spawn { program, source })?;
        let _ = writeln!(self.file, "$ {shown}");
        let _ = self.file.write_all(&output.stderr);
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<_> = stderr.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            return Err(Failure::Command { command: shown, status: output.status, tail, purpose });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The command line, for logs and errors.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    line.join(" ").chars().take(LINE_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, StepLog) {
        let folder = tempfile::tempdir().unwrap();
        let log = StepLog::create(&folder.path().join("logs/step.log")).unwrap();
        (folder, log)
    }

    #[test]
    fn lines_arrive_from_both_streams() {
        let (folder, mut log) = log();
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2"]);
        log.run(&mut command, Purpose::Compile, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
        let text = std::fs::read_to_string(folder.path().join("logs/step.log")).unwrap();
        assert_eq!(text, "$ sh -c echo one; echo two >&2\none\ntwo\n");
    }

    #[test]
    fn failures_have_their_last_lines() {
        let (_folder, mut log) = log();
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 40; exit 3"]);
        let error = log.run(&mut command, Purpose::Compile, |_| {}).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("exit status: 3") && said.ends_with("  39\n  40") && !said.contains("  28\n"),
            "{said}"
        );
    }

    #[test]
    fn a_program_that_does_not_exist() {
        let (_folder, mut log) = log();
        let error = log.run(&mut Command::new("/no/such/program"), Purpose::Fetch, |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "cannot run /no/such/program");
    }

    #[test]
    fn output_is_standard_output_only() {
        let (_folder, mut log) = log();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2"]);
        assert_eq!(log.output(&mut command, Purpose::Fetch).unwrap(), "one\n");
    }
}
