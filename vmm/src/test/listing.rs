//! What `--list` and `--dry-run` print.

use std::io::{self, Write};

use ci::Prepared;
use ci::plan::Program;

/// A line a test: its name, its guests, what it runs, its tags.
pub fn list(prepared: &Prepared, out: &mut dyn Write) -> io::Result<()> {
    let width = prepared.tests.iter().map(|test| test.name.len()).max().unwrap_or(0);
    for test in &prepared.tests {
        let what = |program: &Program| match program {
            Program::Command(argv) => argv.join(" "),
            Program::Script => "script".to_owned(),
            Program::Gtest { path, filter: Some(filter), .. } => format!("gtest {path} {filter}"),
            Program::Gtest { path, .. } => format!("gtest {path}"),
        };
        let roles: Vec<String> = test
            .roles
            .iter()
            .map(|role| match role.name.is_empty() {
                true => format!("{}: {}", role.guest, what(&role.program)),
                false => format!("{} ({}): {}", role.name, role.guest, what(&role.program)),
            })
            .collect();
        let tags: Vec<String> = test.tags.iter().map(|tag| format!(" #{tag}")).collect();
        writeln!(out, "{:width$}  {}{}", test.name, roles.join(", "), tags.concat())?;
    }
    Ok(())
}

/// The plan with the selected tests, as JSON.
pub fn resolved(mut prepared: Prepared, out: &mut dyn Write) -> io::Result<()> {
    prepared.plan.tests = prepared.tests;
    let mut text = serde_json::to_vec_pretty(&prepared.plan)?;
    text.push(b'\n');
    out.write_all(&text)
}
