//! A run with live input is run again from its log, to the instruction.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Winsize, tcsetwinsize};
use tests::{bindervm, bindervm_with, file};

/// Answers each word with what binder has to say of it, until SIGINT comes; then echoes the rest.
const SCRIPT: &str = "trap 'echo interrupted' INT; echo ready
    while read word; do echo got $word; service check $word; done
    echo over; cat";

/// What a run leaves: instructions, output, trace.
type Left = (u64, String, Vec<u8>);

/// The arguments of a run of the script, and of one that is a shell on the terminal.
const OF_SCRIPT: &[&str] = &["--", "/bin/sh", "-c", SCRIPT];
const OF_SHELL: &[&str] = &[];

/// A run with an option that names the log.
fn command(folder: &Path, option: &str, log: &str, of: &[&str]) -> Command {
    let mut command = bindervm();
    command.args(["run", "aosp14", "--engine", "soft", "--cpus", "2", "--seed", "5", "--timeout", "300s"]);
    command.args([option, log]).arg("--trace").arg(folder.join("trace"));
    command.arg("--status").arg(folder.join("status")).args(of);
    command
}

fn left(folder: &Path, output: String) -> Left {
    let status = std::fs::read(folder.join("status")).expect("a status file");
    let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
    assert_eq!(status["code"], 0, "{status}\n{output}");
    let instructions = status["run"]["instructions"].as_u64().expect("the soft engine counts");
    (instructions, output, std::fs::read(folder.join("trace")).expect("a trace"))
}

/// Talks to the guest as a person does: says something, waits for the answer, thinks, interrupts.
fn talk(folder: &Path, log: &str) -> Left {
    let mut child = command(folder, "--record-input", log, OF_SCRIPT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bindervm starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut output = String::new();
    // The run's --timeout ends what does not answer.
    let mut heard = |output: &mut String, wanted: &str| {
        let begin = output.len();
        while !output[begin..].contains(wanted) {
            assert!(stdout.read_line(output).expect("text") > 0, "it ended without {wanted:?}:\n{output}");
        }
    };
    heard(&mut output, "ready\n");
    for (index, word) in ["manager", "nobody", "activity"].into_iter().enumerate() {
        std::thread::sleep(Duration::from_millis(30 * index as u64));
        writeln!(stdin, "{word}").expect("it listens");
        heard(&mut output, &format!("Service {word}:"));
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is our child");
    heard(&mut output, "over\n");
    writeln!(stdin, "the rest").expect("it listens");
    drop(stdin);
    stdout.read_to_string(&mut output).expect("text");
    child.wait().expect("it is our child");
    assert!(output.contains("interrupted\nover\nthe rest\n"), "{output}");
    left(folder, output)
}

/// The log once more, while somebody says something else.
fn again(folder: &Path, log: &str, of: &[&str], said: &[u8]) -> Left {
    let mut child = command(folder, "--replay-input", log, of)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bindervm starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may be over already: nobody reads it.
    let _ = stdin.write_all(said);
    let output = child.wait_with_output().expect("bindervm ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the replay is the recorded run"), "{}", text(&output.stderr));
    left(folder, text(&output.stdout))
}

#[test]
fn a_run_that_was_talked_to_is_replayed_to_the_instruction() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("input.log");
    let log = log.to_str().expect("a plain path");
    let first = talk(folder.path(), log);
    for said in [&b""[..], b"manager\nsomething else\n"] {
        let again = again(folder.path(), log, OF_SCRIPT, said);
        assert_eq!(again.0, first.0, "instructions");
        assert_eq!(again.1, first.1, "output");
        assert!(again.2 == first.2, "traces differ");
    }

    // Another run does not take it, and says what is another.
    let refused = |args: &[&str], code: i32, what: &str| {
        let (got, output) = bindervm_with(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(got == code && told.contains(what), "{args:?}: {got}, {told}");
    };
    let same = ["--engine", "soft", "--cpus", "2", "--seed", "5", "--replay-input", log];
    let with = |image: &'static str, more: &[&'static str]| [&["run", image][..], &same, more].concat();
    refused(&with("minimal", &["--", "/bin/sh", "-c", SCRIPT]), 240, "its guest was 'image ");
    refused(&with("aosp14", &["--", "true"]), 240, "its command was ");
    refused(
        &with("aosp14", &["--memory", "256M", "--", "/bin/sh", "-c", SCRIPT]),
        240,
        "its memory was '536870912'",
    );
    refused(
        &["run", "aosp14", "--engine", "soft", "--replay-input", log, "--", "/bin/sh", "-c", SCRIPT],
        240,
        "its cpus was '2', here it is '1'",
    );
    let mut bytes = std::fs::read(log).expect("the log");
    let middle = bytes.len() - 60;
    bytes[middle] ^= 1;
    let damaged = file(folder.path(), "damaged.log", &bytes);
    refused(
        &["run", "aosp14", "--engine", "soft", "--replay-input", &damaged, "--", "true"],
        241,
        "it is damaged",
    );
}

/// Whoever sits at a terminal, and all that was ever shown on it.
struct Person {
    terminal: File,
    shown: Vec<u8>,
}

impl Person {
    /// Looks on for a moment; false once nobody is at the other side any more.
    fn look(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // A terminal whose other side was closed gives an error.
        let length = self.terminal.read(&mut buffer).unwrap_or(0);
        self.shown.extend(&buffer[..length]);
        length > 0
    }

    /// Types, and looks on until something new is shown. The run's --timeout ends what does not answer.
    fn types(&mut self, keys: &str, until: &str) {
        let begin = self.shown.len();
        self.terminal.write_all(keys.as_bytes()).expect("it listens");
        while !String::from_utf8_lossy(&self.shown[begin..]).contains(until) {
            assert!(self.look(), "no {until:?} after {keys:?} in\n{}", String::from_utf8_lossy(&self.shown));
        }
    }
}

/// A run with its stdin and stdout on a terminal of its own, and what it says of itself in a file.
fn on_terminal(folder: &Path, mut command: Command, rows: u16, columns: u16) -> (Person, Child) {
    let (terminal, slave) = tests::terminal::open(rows, columns);
    let told = File::create(folder.join("told")).expect("a file");
    let twin = slave.try_clone().expect("a second handle");
    let child = command.stdin(slave).stdout(twin).stderr(told).spawn().expect("bindervm starts");
    // The command holds the other side as well.
    drop(command);
    (Person { terminal, shown: Vec::new() }, child)
}

/// Works at a shell: commands, a typing error, Ctrl-C, another size of the window, the end.
fn sit(folder: &Path, log: &str) -> Left {
    let run = command(folder, "--record-input", log, OF_SHELL);
    let (mut person, mut child) = on_terminal(folder, run, 33, 99);
    person.types("", "# ");
    person.types("stty size\r", "33 99");
    person.types("service check manager\r", "Service manager:");
    person.types("echo $((40+3\x7f2))\r", "\n42");
    // What it interrupts has begun when the shell has said so.
    person.types("(echo be''gun; sleep 100000000)\r", "begun");
    person.types("\x03", "# ");
    person.types("service check nobody\r", "Service nobody:");
    tcsetwinsize(&person.terminal, Winsize { ws_row: 11, ws_col: 55, ws_xpixel: 0, ws_ypixel: 0 })
        .expect("it has a size");
    kill_process(Pid::from_child(&child), Signal::WINCH).expect("it is our child");
    // The signal and the keys have ways of their own: the size may come behind them.
    let mut sizes = 0..100;
    while !String::from_utf8_lossy(&person.shown).contains("11 55") {
        sizes.next().expect("the new size arrives");
        person.types("stty size\r", "# ");
    }
    person.types("exit\r", "");
    while person.look() {}
    assert!(child.wait().expect("it is our child").success());
    left(folder, String::from_utf8(person.shown).expect("text"))
}

#[test]
fn a_shell_on_a_terminal_is_replayed_to_the_instruction() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("input.log");
    let log = log.to_str().expect("a plain path");
    let first = sit(folder.path(), log);

    // Without a terminal: the guest has the recorded one, with its sizes.
    let piped = again(folder.path(), log, OF_SHELL, b"exit 3\n");
    assert_eq!(piped.0, first.0, "instructions");
    assert_eq!(piped.1, first.1, "output");
    assert!(piped.2 == first.2, "traces differ");

    // On a terminal of another size, with somebody who types.
    let run = command(folder.path(), "--replay-input", log, OF_SHELL);
    let (mut person, mut child) = on_terminal(folder.path(), run, 24, 80);
    person.types("exit 3\r", "33 99");
    person.terminal.write_all(b"\x04").expect("it is there");
    while person.look() {}
    assert!(child.wait().expect("it is our child").success());
    let told = std::fs::read_to_string(folder.path().join("told")).expect("text");
    assert!(told.contains("the replay is the recorded run"), "{told}");
    let seen = left(folder.path(), String::new());
    assert_eq!(seen.0, first.0, "instructions");
    assert!(seen.2 == first.2, "traces differ");
}

#[test]
fn what_is_no_log_or_cannot_be_logged_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let garbage = file(folder.path(), "garbage", &[7; 300]);
    let log = folder.path().join("log");
    let log = log.to_str().expect("a plain path");
    for (args, code, what) in [
        (&["--replay-input", garbage.as_str()][..], 241, "not a log"),
        (&["--replay-input", "/no/such/log"], 241, "No such file"),
        (&["--replay-input", "/dev/zero"], 241, "not a regular file"),
        (&["--record-input", "/no/such/folder/log"], 240, "No such file"),
        (&["--record-input", log, "--clock", "host"], 240, "--clock host"),
        (&["--record-input", log, "--share", "/tmp=/mnt"], 240, "the host may change the folder"),
        (&["--record-input", log, "--name", "g"], 240, "control socket"),
        (&["--record-input", log, "--vsock", "cid=3,path=/tmp/v"], 240, "--vsock"),
        (&["--record-input", log, "--engine", "kvm"], -1, ""),
    ] {
        let (got, output) = bindervm_with(&[&["run", "minimal"][..], args, &["--", "true"]].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        // With or without a KVM that works, it is not taken.
        assert!(if code < 0 { got != 0 } else { got == code }, "{args:?}: {got}, {told}");
        assert!(told.contains(what), "{args:?}: {told}");
    }
}
