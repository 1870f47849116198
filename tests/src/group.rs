//! Several guests of one process, as `bindervm group` runs them.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};

use control::{Client, ExecRequest, Output, Running};

use crate::{LIMIT, bindervm, file};

/// A group that runs. Dropping it ends it.
pub struct Group {
    child: Child,
    folder: tempfile::TempDir,
}

/// How a group ended.
pub struct GroupEnd {
    /// Exit code of `bindervm group`.
    pub code: i32,
    /// Its stdout, the output of all guests.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    folder: tempfile::TempDir,
}

impl Group {
    /// Starts the guests of a file; `$DIR` in it is a folder of the test's own.
    pub fn start(text: &str) -> Group {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = text.replace("$DIR", folder.path().to_str().expect("temporary paths are plain"));
        let path = file(folder.path(), "group.toml", text.as_bytes());
        let output = |name| std::fs::File::create(folder.path().join(name)).expect("a temporary file");
        let child = bindervm()
            .args(["group", &path])
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .expect("bindervm starts");
        Group { child, folder }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process that runs them all.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to a guest that takes commands.
    pub fn client(&self, guest: &str) -> Client {
        let socket = self.folder.path().join("bindervm").join(format!("{guest}.sock"));
        let client = Client::connect_within(&socket, LIMIT).expect("the guest listens");
        client.wait_ready(LIMIT).expect("the guest comes up");
        client
    }

    /// Starts a script in a guest's shell.
    pub fn begin(&self, guest: &str, script: &str) -> Running {
        let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        self.client(guest).exec(ExecRequest { argv, ..ExecRequest::default() }).expect("the script starts")
    }

    /// Runs a script in a guest's shell.
    pub fn shell(&self, guest: &str, script: &str) -> Output {
        self.begin(guest, script).output(LIMIT, usize::MAX).expect("the script runs")
    }

    /// Waits for the end of all guests, which have limits of their own.
    pub fn wait(mut self) -> GroupEnd {
        let code = self.child.wait().expect("it is our child").code().unwrap_or(-1);
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"));
        let mut end = GroupEnd { code, stdout: String::new(), stderr: String::new(), folder };
        end.stdout = end.read("stdout");
        end.stderr = end.read("stderr");
        end
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl GroupEnd {
    /// A file of its folder, as text.
    pub fn read(&self, name: &str) -> String {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.folder.path().join(name));
        file.and_then(|mut file| file.read_to_end(&mut bytes))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where a guest's control socket was.
    pub fn socket(&self, guest: &str) -> std::path::PathBuf {
        self.folder.path().join("bindervm").join(format!("{guest}.sock"))
    }

    /// A guest's status file.
    pub fn status(&self, guest: &str) -> serde_json::Value {
        serde_json::from_str(&self.read(&format!("{guest}.json"))).expect("a status file is JSON")
    }

    /// Prints a recording in its folder.
    pub fn trace(&self, options: &[&str], name: &str) -> String {
        let path = self.folder.path().join(name);
        let output = bindervm().arg("trace").args(options).arg(path).output().expect("bindervm starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
