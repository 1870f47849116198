//! The agent's loop with real processes: the built agent serves a socket, and the host's
//! [`AgentLink`] talks to it.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_protocol::{
    AgentEvent, AgentEvents, AgentLink, ExecId, ExecRequest, ExitStatus, LinkState, Stream, WindowSize,
};

/// What a hung agent gets before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exits: Vec<(ExecId, ExitStatus)>,
    failures: Vec<i32>,
    lines: Vec<String>,
    stdin_room: usize,
    /// Bytes of output kept without credit, until it is emptied by the test.
    kept: usize,
    keeps: bool,
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Heard>>);

impl AgentEvents for Listener {
    fn event(&mut self, _link: &AgentLink, event: AgentEvent<'_>) {
        let mut heard = self.0.lock().unwrap();
        match event {
            AgentEvent::Exited(id, status) => heard.exits.push((id, status)),
            AgentEvent::Failed(_, failure) => heard.failures.push(failure.errno),
            AgentEvent::StdinRoom(_, room) => heard.stdin_room = room,
            AgentEvent::Synced(token) => heard.lines.push(format!("synced {token}")),
            AgentEvent::Log(text) | AgentEvent::Fatal(text) => heard.lines.push(text.to_owned()),
            _ => {}
        }
    }

    fn output(&mut self, _id: ExecId, stream: Stream, bytes: &[u8]) -> usize {
        let mut heard = self.0.lock().unwrap();
        match stream {
            Stream::Stdout => heard.stdout.extend(bytes),
            Stream::Stderr => heard.stderr.extend(bytes),
        }
        if heard.keeps {
            heard.kept += bytes.len();
            return 0;
        }
        bytes.len()
    }
}

struct Agent {
    process: Child,
    socket: UnixStream,
    link: AgentLink,
    heard: Arc<Mutex<Heard>>,
}

impl Agent {
    fn start() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_agent"))
            .arg("--serve")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let listener = Listener::default();
        let heard = listener.0.clone();
        Agent { process, socket, link: AgentLink::new(Box::new(listener)), heard }
    }

    /// Carries bytes both ways until `done`.
    fn run_until(&mut self, mut done: impl FnMut(&Heard) -> bool) {
        let mut buffer = [0; 8192];
        loop {
            self.link.service();
            loop {
                let length = self.link.send_into(&mut buffer);
                if length == 0 {
                    break;
                }
                self.socket.write_all(&buffer[..length]).unwrap();
            }
            if done(&self.heard.lock().unwrap()) {
                return;
            }
            let length = self.socket.read(&mut buffer).expect("the agent is silent");
            assert!(length > 0, "the agent is gone");
            self.link.receive(&buffer[..length]);
            assert_ne!(self.link.state(), LinkState::Lost);
        }
    }

    fn exec(&mut self, request: ExecRequest) -> ExecId {
        self.link.exec(request).unwrap()
    }

    fn exit_of(&mut self, id: ExecId) -> ExitStatus {
        let find =
            |heard: &Heard| heard.exits.iter().find(|(exited, _)| *exited == id).map(|(_, status)| *status);
        self.run_until(|heard| find(heard).is_some());
        find(&self.heard.lock().unwrap()).unwrap()
    }

    fn run(&mut self, request: ExecRequest) -> ExitStatus {
        let id = self.exec(request);
        self.exit_of(id)
    }

    fn stdout(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.heard.lock().unwrap().stdout)).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shell(script: &str) -> ExecRequest {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { argv, ..ExecRequest::default() }
}

#[test]
fn output_and_status_come_back() {
    let mut agent = Agent::start();
    assert_eq!(agent.run(shell("echo out; echo err >&2; exit 3")), ExitStatus::Code(3));
    assert_eq!(agent.stdout(), "out\n");
    assert_eq!(agent.heard.lock().unwrap().stderr, b"err\n");
    assert_eq!(agent.run(shell("kill -9 $$")), ExitStatus::Signal(9));
}

#[test]
fn environment_and_folder_are_the_requests() {
    let mut agent = Agent::start();
    let env = vec![("GREETING".to_owned(), "hello = world".to_owned())];
    let request = ExecRequest { env, cwd: Some("/usr".into()), ..shell("echo $GREETING; pwd; cat") };
    assert_eq!(agent.run(request), ExitStatus::Code(0));
    assert_eq!(agent.stdout(), "hello = world\n/usr\n");
}

#[test]
fn what_cannot_start_says_why() {
    let mut agent = Agent::start();
    for request in [
        ExecRequest { argv: vec!["/no/such/program".into()], ..ExecRequest::default() },
        ExecRequest { cwd: Some("/no/such/folder".into()), ..shell("true") },
    ] {
        agent.exec(request);
    }
    agent.exec(ExecRequest { argv: vec!["/etc/passwd".into()], ..ExecRequest::default() });
    agent.run_until(|heard| heard.failures.len() == 3);
    assert_eq!(agent.heard.lock().unwrap().failures, [2, 2, 13]);
}

#[test]
fn much_input_goes_through_a_window() {
    let mut agent = Agent::start();
    let id = agent.exec(ExecRequest { stdin: true, ..shell("sha256sum") });
    let text: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0;
    while sent < text.len() {
        agent.heard.lock().unwrap().stdin_room = 0;
        sent += agent.link.stdin(id, &text[sent..]).unwrap();
        if sent < text.len() {
            agent.run_until(|heard| heard.stdin_room > 0);
        }
    }
    agent.link.close_stdin(id).unwrap();
    assert_eq!(agent.exit_of(id), ExitStatus::Code(0));

    // The sum of the same bytes, made without the agent.
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(&text).unwrap();
    let expected = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(agent.stdout(), expected);
}

#[test]
fn input_that_nobody_reads_is_taken_all_the_same() {
    let mut agent = Agent::start();
    let id = agent.exec(ExecRequest { stdin: true, ..shell("exec sleep 100 <&- ") });
    let mut sent = 0;
    while sent < 300_000 {
        agent.heard.lock().unwrap().stdin_room = 0;
        sent += agent.link.stdin(id, &[0; 100_000]).unwrap();
        agent.run_until(|heard| heard.stdin_room > 0);
    }
    agent.link.signal(id, 15).unwrap();
    assert_eq!(agent.exit_of(id), ExitStatus::Signal(15));
}

#[test]
fn a_host_that_keeps_output_stops_the_command() {
    let mut agent = Agent::start();
    agent.heard.lock().unwrap().keeps = true;
    let id = agent.exec(shell("head -c 1000000 /dev/zero; echo end >&2"));
    let window = agent_protocol::WINDOW as usize;
    agent.run_until(|heard| heard.kept == window);
    // Nothing more is under way: the answer to a sync comes first.
    agent.link.sync(7).unwrap();
    agent.run_until(|heard| heard.lines == ["synced 7"]);
    assert_eq!(agent.heard.lock().unwrap().stdout.len(), window);

    agent.heard.lock().unwrap().keeps = false;
    agent.link.grant(id, Stream::Stdout, window).unwrap();
    assert_eq!(agent.exit_of(id), ExitStatus::Code(0));
    let heard = agent.heard.lock().unwrap();
    assert_eq!((heard.stdout.len(), heard.stderr.as_slice()), (1_000_000, b"end\n".as_slice()));
}

#[test]
fn signals_reach_the_whole_group() {
    let mut agent = Agent::start();
    let id = agent.exec(shell("sleep 1000 & echo up; wait"));
    agent.run_until(|heard| heard.stdout == b"up\n");
    agent.link.signal(id, 99).unwrap();
    agent.run_until(|heard| heard.lines.iter().any(|line| line.starts_with("signal 99")));
    agent.link.signal(id, 9).unwrap();
    assert_eq!(agent.exit_of(id), ExitStatus::Signal(9));
}

#[test]
fn a_background_child_does_not_keep_a_command() {
    let mut agent = Agent::start();
    let id = agent.exec(shell("sleep 1000 & echo $!"));
    assert_eq!(agent.exit_of(id), ExitStatus::Code(0));
    let child = agent.stdout();
    assert_eq!(agent.run(shell(&format!("kill {child}"))), ExitStatus::Code(0));
}

#[test]
fn a_background_child_that_never_stops_writing_does_not_keep_a_command() {
    let mut agent = Agent::start();
    let id = agent.exec(ExecRequest { stdin: true, ..shell("yes & read line; exit 3") });
    agent.run_until(|heard| !heard.stdout.is_empty());
    assert_eq!(agent.link.stdin(id, b"\n"), Ok(1));
    assert_eq!(agent.exit_of(id), ExitStatus::Code(3));
    assert_eq!(agent.run(shell("true")), ExitStatus::Code(0));
}

#[test]
fn a_terminal_is_one() {
    let mut agent = Agent::start();
    let tty = Some(WindowSize { rows: 33, cols: 99 });
    let id = agent.exec(ExecRequest { tty, ..shell("stty size; read line; stty size; echo got $line; cat") });
    agent.run_until(|heard| heard.stdout == b"33 99\r\n");
    agent.link.resize(id, WindowSize { rows: 20, cols: 40 }).unwrap();
    assert_eq!(agent.link.stdin(id, b"abc\n"), Ok(4));
    agent.run_until(|heard| heard.stdout.ends_with(b"20 40\r\ngot abc\r\n"));
    agent.link.close_stdin(id).unwrap();
    assert_eq!(agent.exit_of(id), ExitStatus::Code(0));

    // Control-C is the terminal's business: it reaches the foreground group as a signal.
    let id = agent.exec(ExecRequest { tty, ..shell("echo up; exec sleep 1000") });
    agent.run_until(|heard| heard.stdout.ends_with(b"up\r\n"));
    assert_eq!(agent.link.stdin(id, b"\x03"), Ok(1));
    assert_eq!(agent.exit_of(id), ExitStatus::Signal(2));
}

#[test]
fn the_agent_ends_when_told_or_when_the_host_talks_nonsense() {
    let mut agent = Agent::start();
    agent.link.sync(1).unwrap();
    agent.run_until(|heard| !heard.lines.is_empty());
    agent.link.power_off().unwrap();
    agent.run_until(|_| true);
    assert_eq!(agent.process.wait().unwrap().code(), Some(0));

    let mut agent = Agent::start();
    agent.socket.write_all(&[0xff; 9]).unwrap();
    agent.run_until(|heard| heard.lines.iter().any(|line| line.contains("nonsense")));
    assert_eq!(agent.process.wait().unwrap().code(), Some(1));
}
