//! A guest that stays up for commands over its control socket.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::{Client, ExecRequest, Output};

use crate::{LIMIT, bindervm};

/// A guest in a runtime folder of its own. Dropping it ends it.
pub struct Serving {
    child: Child,
    name: String,
    folder: tempfile::TempDir,
}

impl Serving {
    /// Boots `image` under `name` and waits until it takes commands.
    pub fn of<const N: usize>(image: &str, name: &str, options: [&str; N]) -> Serving {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let serving = Serving::in_folder(folder, image, name, &options);
        serving.client().wait_ready(LIMIT).expect("the guest comes up");
        serving
    }

    /// Goes on from a snapshot under `name`, and waits until it takes commands.
    pub fn restored(snapshot: &str, name: &str) -> Serving {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let serving = Serving::start(folder, &["--from", snapshot], name, &[]);
        serving.client().wait_ready(LIMIT).expect("the guest goes on");
        serving
    }

    /// As [`of`](Self::of), in a runtime folder that is there already, and without waiting.
    pub fn in_folder(folder: tempfile::TempDir, image: &str, name: &str, options: &[&str]) -> Serving {
        Serving::start(folder, &[image], name, options)
    }

    fn start(folder: tempfile::TempDir, begins: &[&str], name: &str, options: &[&str]) -> Serving {
        let mut command = bindervm();
        command.arg("run").args(begins).args(["--engine", "soft", "--serve", "--name", name]).args(options);
        command.arg("--timeout").arg(format!("{}ms", LIMIT.as_millis()));
        let child = command
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("bindervm starts");
        Serving { child, name: name.to_owned(), folder }
    }

    /// The guest's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("bindervm").join(format!("{}.sock", self.name))
    }

    /// The runtime folder.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A new connection.
    pub fn client(&self) -> Client {
        Client::connect_within(&self.socket(), LIMIT).expect("the guest listens")
    }

    /// `bindervm` as its user has it.
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = bindervm();
        command.args(args).env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// Runs a script in the guest's shell.
    pub fn shell(&self, script: &str) -> Output {
        let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let running = self.client().exec(ExecRequest { argv, ..ExecRequest::default() });
        running.and_then(|running| running.output(LIMIT, usize::MAX)).expect("the script runs")
    }

    /// Waits for the end of the run; gives the exit code.
    pub fn wait(&mut self) -> i32 {
        self.child.wait().expect("it is our child").code().unwrap_or(-1)
    }

    /// Stops the guest; gives the exit code.
    pub fn stop(mut self) -> i32 {
        self.client().stop(Duration::from_secs(60)).expect("it takes the request");
        self.wait()
    }

    /// Process that runs the guest.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
