//! `bindervm test` as its user runs it: a plan in a folder, and the results beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bindervm;

/// A folder with a plan, and the results of running it.
pub struct Bench {
    /// The folder.
    pub folder: tempfile::TempDir,
}

/// A finished run.
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// The folder of the results.
    pub results: PathBuf,
    /// `run.json`.
    pub run: Value,
}

impl Bench {
    /// A folder with this plan.
    pub fn new(plan: &str) -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("plan.toml"), plan).expect("the plan is written");
        Bench { folder }
    }

    /// Where the results go.
    pub fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    /// The command, with options.
    pub fn command<const N: usize>(&self, options: [&str; N]) -> Command {
        let mut command = bindervm();
        command.arg("test").arg(self.folder.path().join("plan.toml")).args(options);
        command.arg("--results").arg(self.results()).args(["--engine", "soft"]);
        if !options.contains(&"--jobs") {
            command.args(["--jobs", "2"]);
        }
        for name in ["GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "TEST_TOTAL_SHARDS", "XML_OUTPUT_FILE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs the plan.
    pub fn run<const N: usize>(&self, options: [&str; N]) -> Ran {
        self.ran(self.command(options).output().expect("bindervm starts"))
    }

    /// What a run gave.
    pub fn ran(&self, output: Output) -> Ran {
        let results = self.results();
        let run = fs::read(results.join("run.json")).unwrap_or_default();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            run: serde_json::from_slice(&run).unwrap_or_default(),
            results,
        }
    }
}

impl Ran {
    /// A test of `run.json`.
    #[track_caller]
    pub fn test(&self, name: &str) -> &Value {
        let tests = self.run["tests"].as_array().unwrap_or_else(|| panic!("{}", self.stderr));
        tests.iter().find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}\n{}", self.stderr))
    }

    /// A test ended so, for a reason that has this text in it.
    #[track_caller]
    pub fn expect(&self, name: &str, verdict: &str, reason: &str) {
        let test = self.test(name);
        assert_eq!(test["verdict"], verdict, "{name}: {}\n{}", test["reasons"], self.stderr);
        assert!(test["reasons"].to_string().contains(reason), "{name}: {}", test["reasons"]);
    }

    /// A file of a test's results.
    pub fn file(&self, test: &str, name: &str) -> String {
        fs::read_to_string(self.results.join("tests").join(test).join(name)).unwrap_or_default()
    }
}

/// The schema, strictly, with the tool that everybody has.
#[track_caller]
pub fn assert_junit(path: &Path) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/junit.xsd");
    let output = Command::new("xmllint").args(["--noout", "--nonet", "--schema", schema]).arg(path).output();
    let output = output.expect("xmllint is installed: ci/setup libxml2-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// No process has the folder in its command line. The kernel may take a moment to end one.
#[track_caller]
pub fn no_process_uses(folder: &Path) {
    let text = folder.to_str().expect("temporary paths are plain").as_bytes().to_vec();
    let users = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        commands.filter(|command| command.windows(text.len()).any(|part| part == text)).count()
    };
    let until = Instant::now() + Duration::from_secs(10);
    while users() > 0 {
        assert!(Instant::now() < until, "{} processes are left", users());
        std::thread::sleep(Duration::from_millis(50));
    }
}
