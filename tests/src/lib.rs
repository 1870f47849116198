//! What the end-to-end tests share: a guest run as a user runs it, by the `bindervm` command.
//!
//! The tests in `tests/tests` read like sentences: boot, run, compare. They need the images
//! `minimal` and `aosp14` in the cache and a built `bindervm`; `ci/test` sees to both.
//!
//! `BINDERVM` names the binary (default: the debug build of this workspace).
//! `BINDERVM_TEST_KERNEL=6.12` takes the images with that kernel instead (`minimal-6.12`),
//! `BINDERVM_TEST_CPUS=4` gives every guest so many CPUs, and
//! `BINDERVM_TEST_DEVICE=late` gives every guest a binder device that answers late.

pub mod group;
pub mod harness;
pub mod memory;
pub mod serving;
pub mod terminal;
pub mod transcript;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Wall time that a run may take unless a test says otherwise. Far above what it takes: two
/// guests share two busy cores.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The command under test.
pub fn bindervm() -> Command {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/bindervm");
    let binary = std::env::var_os("BINDERVM").map_or_else(|| PathBuf::from(default), PathBuf::from);
    assert!(binary.exists(), "{} is not built; run ci/test, or set BINDERVM", binary.display());
    Command::new(binary)
}

/// The profile that does as the driver of the guests' own kernel.
pub fn kernels_profile() -> String {
    format!("linux-{}", std::env::var("BINDERVM_TEST_KERNEL").as_deref().unwrap_or("6.1"))
}

/// A run of an image: what to do in the guest, and how.
pub struct Guest {
    /// The command line up to what is for the guest.
    command: Command,
    argv: Vec<String>,
    folder: tempfile::TempDir,
    stdin: Vec<u8>,
    limit: Duration,
    watched: bool,
}

/// A finished run.
pub struct Ended {
    /// Exit code of `bindervm`.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// The file of `--status`.
    pub status: serde_json::Value,
    /// What memory `bindervm` had, twice a second, with [`Guest::watching_memory`].
    pub resident: Vec<memory::Resident>,
    folder: tempfile::TempDir,
}

impl Guest {
    /// A guest of `image`.
    pub fn of(image: &str) -> Guest {
        let mut guest = match std::env::var("BINDERVM_TEST_KERNEL") {
            Ok(kernel) => Guest::begins(&[&format!("{image}-{kernel}")]),
            Err(_) => Guest::begins(&[image]),
        };
        if let Some(cpus) = std::env::var_os("BINDERVM_TEST_CPUS") {
            guest.command.arg("--cpus").arg(cpus);
        }
        guest
    }

    /// A guest of `image` with so many CPUs, whatever the others have.
    pub fn with_cpus(image: &str, cpus: u8) -> Guest {
        Guest::begins(&[image, "--cpus", &cpus.to_string()])
    }

    /// A guest that goes on from a snapshot, with the CPUs that it was saved with.
    pub fn from(snapshot: &str) -> Guest {
        Guest::begins(&["--from", snapshot])
    }

    fn begins(with: &[&str]) -> Guest {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = bindervm();
        command.arg("run").args(with).args(["--engine", "soft"]);
        command.arg("--status").arg(folder.path().join("status.json"));
        // Names of guests are taken in a runtime folder; tests may use the same ones.
        command.env("XDG_RUNTIME_DIR", folder.path());
        // The user's own last run is theirs.
        command.env("XDG_STATE_HOME", folder.path());
        if std::env::var_os("BINDERVM_TEST_DEVICE").is_some_and(|device| device == "late") {
            command.args(["--binder-device", "late"]);
        }
        Guest { command, argv: Vec::new(), folder, stdin: Vec::new(), limit: LIMIT, watched: false }
    }

    /// Adds options.
    pub fn with<const N: usize>(mut self, options: [&str; N]) -> Guest {
        self.command.args(options);
        self
    }

    /// Records a trace; see [`Ended::trace`].
    pub fn traced(self) -> Guest {
        self.traced_with("")
    }

    /// Records a trace with options, for example `,replay`.
    pub fn traced_with(mut self, options: &str) -> Guest {
        let mut target = self.folder.path().join("trace").into_os_string();
        target.push(options);
        self.command.arg("--trace").arg(target);
        self
    }

    /// Ends the run after this time, as `--timeout` has it.
    pub fn within(mut self, limit: Duration) -> Guest {
        self.limit = limit;
        self
    }

    /// Notes how much memory `bindervm` has.
    pub fn watching_memory(mut self) -> Guest {
        self.watched = true;
        self
    }

    /// Runs a program of the guest.
    pub fn run<const N: usize>(mut self, argv: [&str; N]) -> Ended {
        self.argv = argv.map(str::to_owned).to_vec();
        self.finish()
    }

    /// Bytes for the program's standard input.
    pub fn input(mut self, bytes: &[u8]) -> Guest {
        self.stdin = bytes.to_vec();
        self
    }

    /// Runs a script in the guest's shell.
    pub fn shell(mut self, script: &str) -> Ended {
        self.stdin = script.as_bytes().to_vec();
        self.run(["/bin/sh", "-s"])
    }

    fn finish(mut self) -> Ended {
        self.command.arg("--timeout").arg(format!("{}ms", self.limit.as_millis()));
        self.command.arg("--").args(&self.argv);
        // From a file: bytes of a file reach the guest at moments that guest time defines.
        let mut stdin = tempfile::tempfile_in(self.folder.path()).expect("a temporary file");
        stdin.write_all(&self.stdin).expect("stdin is written");
        std::io::Seek::rewind(&mut stdin).expect("a file rewinds");
        self.command.stdin(Stdio::from(stdin)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.command.spawn().expect("bindervm starts");
        let watch = self.watched.then(|| memory::Watch::of(child.id()));
        let output = child.wait_with_output().expect("bindervm ends");
        let resident = watch.map(memory::Watch::end).unwrap_or_default();
        let status = std::fs::read(self.folder.path().join("status.json")).unwrap_or_default();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            status: serde_json::from_slice(&status).unwrap_or_default(),
            resident,
            folder: self.folder,
        }
    }
}

impl Ended {
    /// The run ended with `code`; else everything known of it is shown.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Every line of `lines` is a line of stdout, in this order.
    #[track_caller]
    pub fn prints(self, lines: &[&str]) -> Ended {
        let mut printed = self.stdout.lines().map(str::trim_end);
        for line in lines {
            assert!(printed.any(|other| other == *line), "no line {line:?} at its place\n{self}");
        }
        self
    }

    /// Every process of the guest gave back everything it had in the binder core.
    #[track_caller]
    pub fn leaves_nothing(self) -> Ended {
        let left = self.status["binder"]["left"].as_object().expect("the status file counts what is left");
        let some: Vec<_> = left.iter().filter(|(_, count)| count.as_u64() != Some(0)).collect();
        assert!(some.is_empty(), "left in the core: {some:?}\n{self}");
        assert_eq!(self.status["binder"]["malformed"], 0, "the shim sent nonsense\n{self}");
        self
    }

    /// Prints the recorded trace with `options`.
    #[track_caller]
    pub fn trace<const N: usize>(&self, options: [&str; N]) -> String {
        let output =
            bindervm().arg("trace").args(options).arg(self.trace_file()).output().expect("bindervm starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What `bindervm doctor` says of this run.
    pub fn last_run(&self) -> String {
        let mut doctor = bindervm();
        doctor.args(["doctor", "--last-run"]).env("XDG_STATE_HOME", self.folder.path());
        let output = doctor.stdin(Stdio::null()).output().expect("bindervm starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The recorded trace.
    pub fn trace_file(&self) -> PathBuf {
        self.folder.path().join("trace")
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {}\n--- stdout\n{}", self.code, self.stdout)?;
        writeln!(f, "--- stderr\n{}\n--- status\n{}", self.stderr, self.status)
    }
}

/// Runs `bindervm` with `args`, without a guest to speak of.
pub fn bindervm_with(args: &[&str]) -> (i32, Output) {
    let output = bindervm().args(args).stdin(Stdio::null()).output().expect("bindervm starts");
    (output.status.code().unwrap_or(-1), output)
}

/// Compiles a program of `tests/programs` statically, into `folder`.
pub fn compile(folder: &Path, source: &str, options: &[&str]) -> PathBuf {
    let program = folder.join(source.trim_end_matches(".c"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(source);
    let mut gcc = Command::new("gcc");
    gcc.args(["-w", "-O1", "-static", "-o"]).arg(&program).arg(source).args(options);
    assert!(gcc.status().expect("gcc is installed").success());
    program
}

/// Writes `bytes` to a file in `folder` and gives its path as text.
pub fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a temporary file is written");
    path.to_str().expect("temporary paths are plain").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
