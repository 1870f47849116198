//! `repro.sh`: the same test again, alone.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::plan::{Engine, TestSpec};

/// What the script needs to know of the run.
#[derive(Clone, Debug)]
pub struct Repro {
    /// The `bindervm` program.
    pub bindervm: PathBuf,
    /// The plan, from the root.
    pub plan: PathBuf,
    /// Its profile.
    pub profile: Option<String>,
    /// What executed the guests.
    pub engine: Engine,
    /// What timeouts were multiplied with.
    pub timeout_scale: f64,
    /// What was added to seeds.
    pub seed: u64,
}

impl Repro {
    /// Writes the script for a test into its folder.
    pub fn write(&self, folder: &Path, test: &TestSpec) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let path = folder.join("repro.sh");
        fs::write(&path, self.script(test))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    }

    fn script(&self, test: &TestSpec) -> String {
        let mut script = "#!/bin/sh\n# Runs this test again, alone. Options are added: ./repro.sh --repeat until-failure\n\
                          # BINDERVM names another bindervm, RESULTS another folder for the results.\nset -eu\n"
            .to_owned();
        // Where images are found.
        for name in ["XDG_CACHE_HOME", "HOME"] {
            if let Some(value) = env::var_os(name) {
                let value = quoted(&value.to_string_lossy());
                script += &format!("export {name}=\"${{{name}:-{}}}\"\n", in_double_quotes(&value));
            }
        }
        let mut words = vec![
            "exec".to_owned(),
            format!("\"${{BINDERVM:-{}}}\"", in_double_quotes(&quoted(&self.bindervm.to_string_lossy()))),
            "test".to_owned(),
            quoted(&self.plan.to_string_lossy()),
            "--filter".to_owned(),
            quoted(&format!("name==\"{}\"", test.name)),
            "--jobs 1 --retries 0".to_owned(),
            format!("--engine {}", self.engine.word()),
            format!("--timeout-scale {}", self.timeout_scale),
        ];
        let seed = self.seed.wrapping_add(test.round.into());
        if seed != 0 {
            words.push(format!("--seed {seed}"));
        }
        if let Some(profile) = &self.profile {
            words.push(format!("--profile {}", quoted(profile)));
        }
        words.push("--results \"${RESULTS:-$(dirname \"$0\")/repro}\" \"$@\"".to_owned());
        script + &words.join(" ") + "\n"
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+:@%,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The same inside `"${X:-...}"`, where single quotes are plain and four characters are not.
fn in_double_quotes(quoted: &str) -> String {
    let word = match quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace(r"'\''", "'"),
        None => quoted.to_owned(),
    };
    let mut escaped = String::new();
    for char in word.chars() {
        if "\"\\$`}".contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::plan::file::RunEntry;
    use std::process::Command;

    #[test]
    fn a_shell_reads_it_as_it_was_meant() {
        let text = "guest.default.image = \"x\"\n[[test]]\nname = \"t+1\"\nscript = \"\"\nshards = 2\n";
        let plan = Plan::parse("p".as_ref(), text, None, &RunEntry::default()).unwrap();
        let repro = Repro {
            bindervm: "/bin/echo".into(),
            plan: "/a 'b' $c/plan.toml".into(),
            profile: Some("c i".into()),
            engine: Engine::Soft,
            timeout_scale: 1.5,
            seed: 6,
        };
        let folder = tempfile::tempdir().unwrap();
        let test = TestSpec { round: 1, ..plan.tests[1].clone() };
        repro.write(folder.path(), &test).unwrap();
        let output =
            Command::new(folder.path().join("repro.sh")).arg("x y").env_remove("BINDERVM").output().unwrap();
        let results = folder.path().join("repro");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!(
                "test /a 'b' $c/plan.toml --filter name==\"t+1#2of2\" --jobs 1 --retries 0 --engine soft \
                 --timeout-scale 1.5 --seed 7 --profile c i --results {} x y\n",
                results.display()
            )
        );
    }

    #[test]
    fn odd_paths_survive_double_quotes() {
        for word in ["plain", "a b", "it's", "$HOME`x`\\\"}"] {
            let script = format!("printf %s \"${{UNSET_X:-{}}}\"", in_double_quotes(&quoted(word)));
            let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
    }
}
