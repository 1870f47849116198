//! From one role of a test to its program, its input and what is expected of it.

use std::fs;

use regex::{Regex, RegexBuilder};

use super::super::error::PlanError;
use super::super::file::{ExpectEntry, Parser, PushEntry, RoleEntry};
use super::super::value::OneOrMany;
use super::super::{Expect, ExpectedEnd, Program, Push, RoleSpec};
use super::At;
use crate::policy::Rule;

/// The most bytes of a file that a plan feeds to a program.
const MAX_STDIN: u64 = 64 << 20;

/// The most bytes of a compiled regular expression.
const MAX_REGEX: usize = 1 << 20;

impl At<'_> {
    /// The meaning of a role. `name` is empty for the only one of a test without roles.
    pub(super) fn role(&self, test: &str, name: String, entry: RoleEntry) -> Result<RoleSpec, PlanError> {
        let of = |what: String| match name.is_empty() {
            true => format!("test `{test}`: {what}"),
            false => format!("test `{test}`, role `{name}`: {what}"),
        };
        let mut stdin = match (&entry.stdin, &entry.stdin_file) {
            (Some(_), Some(_)) => return Err(self.wrong(of("stdin or stdin-file, not both".into()))),
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(self.read(file, &of)?),
            (None, None) => None,
        };
        let script = match (&entry.script, &entry.script_file) {
            (Some(_), Some(_)) => return Err(self.wrong(of("script or script-file, not both".into()))),
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(file)) => Some(self.read(file, &of)?),
            (None, None) => None,
        };
        let program = match (entry.command, script, entry.gtest) {
            (Some(argv), None, None) => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(self.wrong(of("the command is empty".into())));
                }
                Program::Command(argv)
            }
            (None, Some(script), None) => {
                if stdin.is_some() {
                    return Err(self.wrong(of("a script is its shell's stdin; there is no other".into())));
                }
                stdin = Some(script);
                Program::Script
            }
            (None, None, Some(path)) => {
                Program::Gtest { path, filter: entry.gtest_filter.clone(), args: entry.gtest_args.clone() }
            }
            (None, None, None) => {
                return Err(self.wrong(of("nothing to run; write command, script or gtest".into())));
            }
            _ => return Err(self.wrong(of("one of command, script and gtest, not several".into()))),
        };
        let is_gtest = matches!(program, Program::Gtest { .. });
        if !is_gtest && (entry.gtest_filter.is_some() || !entry.gtest_args.is_empty()) {
            return Err(self.wrong(of("gtest-filter and gtest-args go with gtest".into())));
        }
        if program.words().any(|word| word.contains('\0')) {
            return Err(self.wrong(of("an argument contains a NUL".into())));
        }
        for (key, value) in &entry.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(self.wrong(of(format!("`{}` is no environment variable", key.escape_debug()))));
            }
        }
        for glob in &entry.artifacts {
            if !glob.starts_with('/') || globset::Glob::new(glob).is_err() {
                return Err(self.wrong(of(format!("`{glob}` is not a glob of absolute paths"))));
            }
        }
        let push = entry.push.iter().map(|push| self.push(push, &of)).collect::<Result<_, _>>()?;
        Ok(RoleSpec {
            guest: entry.guest.unwrap_or_default(),
            domain: entry.domain,
            program,
            parser: entry.parser.unwrap_or(if is_gtest { Parser::Gtest } else { Parser::Exit }),
            env: entry.env,
            cwd: entry.cwd,
            stdin: stdin.unwrap_or_default(),
            expect: self.expect(entry.expect, &of)?,
            artifacts: entry.artifacts,
            push,
            background: entry.background,
            name,
        })
    }

    fn push(&self, entry: &PushEntry, of: &dyn Fn(String) -> String) -> Result<Push, PlanError> {
        let from = self.folder.join(&entry.from);
        if !from.is_file() {
            return Err(self.wrong(of(format!("there is no file {} to push", from.display()))));
        }
        if !entry.to.starts_with('/') {
            return Err(self.wrong(of(format!("`{}` is not an absolute path of the guest", entry.to))));
        }
        let mode = match &entry.mode {
            None => None,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Some(mode),
                _ => return Err(self.wrong(of(format!("`{text}` is not a mode; write for example \"755\"")))),
            },
        };
        Ok(Push { from, to: entry.to.clone(), mode })
    }

    fn expect(&self, entry: ExpectEntry, of: &dyn Fn(String) -> String) -> Result<Expect, PlanError> {
        let ends = [entry.exit.is_some(), entry.signal.is_some(), entry.panic, entry.lost]
            .map(usize::from)
            .iter()
            .sum::<usize>();
        if ends > 1 {
            return Err(self.wrong(of("expect one of exit, signal, panic and lost".into())));
        }
        let end = match (entry.exit, entry.signal) {
            (Some(codes), _) => ExpectedEnd::Exit(codes.to_vec()),
            (_, Some(signal @ 1..=64)) => ExpectedEnd::Signal(signal),
            (_, Some(signal)) => return Err(self.wrong(of(format!("{signal} is not a signal")))),
            _ if entry.panic => ExpectedEnd::Panic,
            _ if entry.lost => ExpectedEnd::Lost,
            _ => ExpectedEnd::Exit(vec![0]),
        };
        if end == ExpectedEnd::Exit(Vec::new()) {
            return Err(self.wrong(of("expect.exit is an empty list".into())));
        }
        let patterns = |patterns: OneOrMany<String>| -> Result<Vec<Regex>, PlanError> {
            let compile = |pattern: &String| {
                RegexBuilder::new(pattern)
                    .multi_line(true)
                    .size_limit(MAX_REGEX)
                    .build()
                    .map_err(|error| self.wrong(of(format!("in expect: {error}"))))
            };
            patterns.to_vec().iter().map(compile).collect()
        };
        let rules = |rules: OneOrMany<String>| -> Result<Vec<Rule>, PlanError> {
            let parse = |text: &String| {
                Rule::parse(text).map_err(|error| self.wrong(of(format!("in expect.policy: {error}"))))
            };
            rules.to_vec().iter().map(parse).collect()
        };
        Ok(Expect {
            end,
            stdout: patterns(entry.stdout)?,
            stderr: patterns(entry.stderr)?,
            console: patterns(entry.console)?,
            never: patterns(entry.never)?,
            policy: rules(entry.policy)?,
        })
    }

    fn read(&self, file: &str, of: &dyn Fn(String) -> String) -> Result<Vec<u8>, PlanError> {
        let path = self.folder.join(file);
        let wrong = |error: &dyn std::fmt::Display| {
            self.wrong(of(format!("cannot read {}: {error}", path.display())))
        };
        let metadata = fs::metadata(&path).map_err(|error| wrong(&error))?;
        if !metadata.is_file() {
            return Err(wrong(&"it is not a regular file"));
        }
        if metadata.len() > MAX_STDIN {
            return Err(wrong(&format!("it is larger than {MAX_STDIN} bytes")));
        }
        fs::read(&path).map_err(|error| wrong(&error))
    }
}

impl Program {
    /// Every word of it.
    fn words(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Program::Command(argv) => Box::new(argv.iter()),
            Program::Script => Box::new(std::iter::empty()),
            Program::Gtest { path, filter, args } => {
                Box::new(std::iter::once(path).chain(filter).chain(args))
            }
        }
    }
}
